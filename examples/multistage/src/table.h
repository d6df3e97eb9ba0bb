/* A hash table from words to counts. */
#ifndef TABLE_H
#define TABLE_H
#include <stddef.h>

struct entry {
	char *word;
	unsigned long count;
};

struct table {
	struct entry *slots;
	size_t size, used;
};

/* Add one to the count of a word of `length` bytes; exits when memory is out. */
void table_add(struct table *table, const char *word, size_t length);

/* Sort the entries by falling count, then by word; the table can only be read after it. */
size_t table_sort(struct table *table);

void table_free(struct table *table);
#endif
