/* Writes its argument as a Roman numeral. */
#include <stdio.h>
#include <stdlib.h>

#include "roman.h"

int main(int argc, char **argv)
{
    char text[ROMAN_ROOM];
    int number = argc == 2 ? atoi(argv[1]) : 0;
    if (number < ROMAN_LEAST || number > ROMAN_MOST) {
        fprintf(stderr, "usage: roman NUMBER, between %d and %d\n", ROMAN_LEAST, ROMAN_MOST);
        return 2;
    }
    roman(number, text);
    puts(text);
    return 0;
}
