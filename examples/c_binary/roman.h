/* Roman numerals, as they are taught. */
enum { ROMAN_LEAST = 1, ROMAN_MOST = 3999, ROMAN_ROOM = 16 };

/* Write a number between ROMAN_LEAST and ROMAN_MOST to `out`, which has ROMAN_ROOM bytes. */
void roman(int number, char *out);
