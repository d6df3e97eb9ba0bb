#include "table.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t hash(const char *word, size_t length)
{
	uint64_t value = 1469598103934665603u; /* FNV-1a */

	for (size_t i = 0; i < length; i++)
		value = (value ^ (unsigned char)word[i]) * 1099511628211u;
	return value;
}

static void *need(void *memory)
{
	if (!memory) {
		perror("wordfreq");
		exit(1);
	}
	return memory;
}

static struct entry *find(struct table *table, const char *word, size_t length)
{
	size_t at = hash(word, length) & (table->size - 1);

	while (table->slots[at].word &&
	       (strncmp(table->slots[at].word, word, length) ||
		table->slots[at].word[length]))
		at = (at + 1) & (table->size - 1);
	return &table->slots[at];
}

static void grow(struct table *table)
{
	struct table bigger = { .size = table->size ? table->size * 2 : 1024 };

	bigger.slots = need(calloc(bigger.size, sizeof *bigger.slots));
	for (size_t i = 0; i < table->size; i++)
		if (table->slots[i].word) {
			const char *word = table->slots[i].word;
			*find(&bigger, word, strlen(word)) = table->slots[i];
			bigger.used++;
		}
	free(table->slots);
	*table = bigger;
}

void table_add(struct table *table, const char *word, size_t length)
{
	if (table->used * 2 >= table->size)
		grow(table);
	struct entry *entry = find(table, word, length);
	if (!entry->word) {
		entry->word = need(strndup(word, length));
		table->used++;
	}
	entry->count++;
}

static int by_count(const void *left, const void *right)
{
	const struct entry *a = left, *b = right;

	if (!a->word || !b->word)
		return !a->word - !b->word;
	if (a->count != b->count)
		return a->count < b->count ? 1 : -1;
	return strcmp(a->word, b->word);
}

size_t table_sort(struct table *table)
{
	if (table->size)
		qsort(table->slots, table->size, sizeof *table->slots, by_count);
	return table->used;
}

void table_free(struct table *table)
{
	for (size_t i = 0; i < table->size; i++)
		free(table->slots[i].word);
	free(table->slots);
}
