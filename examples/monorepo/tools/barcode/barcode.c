/* Draw the EAN-13 barcode of twelve digits; the check digit is added. */
#include <stdio.h>
#include <string.h>

static const char *const LEFT[2][10] = {
    {"0001101", "0011001", "0010011", "0111101", "0100011",
     "0110001", "0101111", "0111011", "0110111", "0001011"},
    {"0100111", "0110011", "0011011", "0100001", "0011101",
     "0111001", "0000101", "0010001", "0001001", "0010111"}};
static const char *const PARITY[10] = {"000000", "001011", "001101", "001110", "010011",
                                       "011001", "011100", "010101", "010110", "011010"};

static void bars(const char *modules, int invert) {
    for (; *modules; modules++)
        fputs((*modules == '1') != invert ? "\342\226\210" : " ", stdout);
}

int main(int argc, char **argv) {
    if (argc != 2 || strlen(argv[1]) != 12 || strspn(argv[1], "0123456789") != 12) {
        fputs("usage: barcode DIGITS (twelve of them)\n", stderr);
        return 2;
    }
    int digits[13], sum = 0;
    for (int i = 0; i < 12; i++) {
        digits[i] = argv[1][i] - '0';
        sum += digits[i] * (i % 2 ? 3 : 1);
    }
    digits[12] = (10 - sum % 10) % 10;
    for (int line = 0; line < 2; line++) {
        bars("101", 0);
        for (int i = 1; i <= 6; i++)
            bars(LEFT[PARITY[digits[0]][i - 1] - '0'][digits[i]], 0);
        bars("01010", 0);
        for (int i = 7; i <= 12; i++)
            bars(LEFT[0][digits[i]], 1);
        bars("101", 0);
        putchar('\n');
    }
    printf("%s%d\n", argv[1], digits[12]);
    return 0;
}
