/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The in-process driver: its memory by shmid.
 *
 * Chains in an array that doubles with its contents. There may be tens of thousands of segments, so what each costs
 * counts: one pointer here, where uthash would take seven words. Where the array cannot grow the chains become longer.
 */
#include "src/fabric/local/memory.h"

#include <stdlib.h>

#define CHAINS_FIRST 64u

static uint32_t chain_of(const struct local_table *table, int32_t shmid)
{
    return (uint32_t)shmid * 0x9e3779b9u >> (32 - (uint32_t)__builtin_ctz(table->chains));
}

static void put(struct local_table *table, struct local_memory *m)
{
    struct local_memory **chain = &table->chain[chain_of(table, m->shmid)];

    m->next = *chain;
    *chain = m;
}

/* @return false: there is no array at all */
static bool grow(struct local_table *table)
{
    struct local_table bigger = {.chains = table->chains ? table->chains * 2 : CHAINS_FIRST, .count = table->count};

    bigger.chain = calloc(bigger.chains, sizeof(*bigger.chain));
    if (!bigger.chain)
        return table->chain != NULL;
    for (uint32_t i = 0; i < table->chains; i++)
        for (struct local_memory *m = table->chain[i], *next; m; m = next) {
            next = m->next;
            put(&bigger, m);
        }
    free(table->chain);
    *table = bigger;
    return true;
}

struct local_memory *local_memory_find(struct local *l, int32_t shmid)
{
    const struct local_table *table = &l->driver.table;
    struct local_memory *m = table->chains ? table->chain[chain_of(table, shmid)] : NULL;

    while (m && m->shmid != shmid)
        m = m->next;
    return m;
}

struct local_memory *local_memory_new(struct local *l, int32_t shmid, bool import, int rw, int ro, uint64_t size)
{
    struct local_table *table = &l->driver.table;
    struct local_memory *m = calloc(1, sizeof(*m));

    if (!m || (table->count >= table->chains && !grow(table))) {
        free(m);
        return NULL;
    }
    *m = (struct local_memory){.shmid = shmid,
                               .import = import,
                               .huge_shift = (uint8_t)local_huge_shift(rw >= 0 ? rw : ro),
                               .rw = rw,
                               .ro = ro,
                               .size = size};
    put(table, m);
    table->count++;
    return m;
}

void local_table_remove(struct local_table *table, struct local_memory *m)
{
    struct local_memory **at = &table->chain[chain_of(table, m->shmid)];

    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    table->count--;
}

struct local_memory *local_table_next(const struct local_table *table, const struct local_memory *m)
{
    uint32_t i = m ? chain_of(table, m->shmid) + 1 : 0;

    if (m && m->next)
        return m->next;
    while (i < table->chains && !table->chain[i])
        i++;
    return i < table->chains ? table->chain[i] : NULL;
}

void local_table_deinit(struct local_table *table)
{
    free(table->chain);
    *table = (struct local_table){0};
}
