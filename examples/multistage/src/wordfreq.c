/* Print the ten most frequent words of a file. */
#include "table.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static void count(struct table *table, FILE *file)
{
	char word[256];
	size_t length = 0;
	int byte;

	do {
		byte = fgetc(file);
		if (byte != EOF && isalpha(byte)) {
			if (length < sizeof word)
				word[length++] = (char)tolower(byte);
		} else if (length) {
			table_add(table, word, length);
			length = 0;
		}
	} while (byte != EOF);
}

static int self_test(void)
{
	struct table table = { 0 };

	for (int i = 0; i < 5000; i++) {
		char word[16];
		int length = snprintf(word, sizeof word, "w%d", i % 1700);
		table_add(&table, word, (size_t)length);
	}
	int ok = table_sort(&table) == 1700 && table.slots[0].count == 3 &&
		 !strcmp(table.slots[0].word, "w0");
	table_free(&table);
	puts(ok ? "self-test passed" : "self-test FAILED");
	return !ok;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--self-test"))
		return self_test();
	if (argc != 2) {
		fprintf(stderr, "usage: wordfreq FILE\n");
		return 2;
	}
	FILE *file = fopen(argv[1], "r");
	if (!file) {
		perror(argv[1]);
		return 1;
	}
	struct table table = { 0 };
	count(&table, file);
	fclose(file);
	size_t words = table_sort(&table);
	for (size_t i = 0; i < words && i < 10; i++)
		printf("%5lu %s\n", table.slots[i].count, table.slots[i].word);
	table_free(&table);
	return 0;
}
