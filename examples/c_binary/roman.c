#include "roman.h"

#include <string.h>

static const struct {
    int value;
    const char *letters;
} STEPS[] = {
    {1000, "M"}, {900, "CM"}, {500, "D"}, {400, "CD"}, {100, "C"}, {90, "XC"}, {50, "L"},
    {40, "XL"},  {10, "X"},   {9, "IX"},  {5, "V"},    {4, "IV"},  {1, "I"},
};

void roman(int number, char *out)
{
    out[0] = '\0';
    for (size_t i = 0; i < sizeof STEPS / sizeof *STEPS; i++)
        for (; number >= STEPS[i].value; number -= STEPS[i].value)
            strcat(out, STEPS[i].letters);
}
