// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * An attachment is one piece of address space until another is put over a part of it (SHM_REMAP, or after the program
 * itself unmapped that part): what is left are pieces with the same id and base. An attachment ends, and is counted no
 * longer, when xp_shmdt() is called with its base or when no piece of it is left.
 *
 * The pieces are an array sorted by address, in memory of its own: a raw clone may find malloc locked for ever.
 */
#include "src/lib/pieces.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* The index of the first piece that ends after @addr. */
static size_t lower(const struct pieces *t, uintptr_t addr)
{
    size_t low = 0, high = t->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (t->piece[mid].end <= addr)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

int pieces_reserve(struct pieces *t)
{
    if (t->count + 2 <= t->room) /* a new one, and one more when it splits another */
        return 0;
    size_t old = t->room * sizeof(struct piece);
    size_t size = old ? old * 2 : 4096;
    void *p = old ? mremap(t->piece, old, size, MREMAP_MAYMOVE)
                  : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return ENOMEM;
    t->piece = p;
    t->room = size / sizeof(struct piece);
    return 0;
}

static void insert(struct pieces *t, size_t at, struct piece piece)
{
    assert(t->count < t->room);
    memmove(&t->piece[at + 1], &t->piece[at], (t->count - at) * sizeof(struct piece));
    t->piece[at] = piece;
    t->count++;
}

static void erase(struct pieces *t, size_t at)
{
    t->count--;
    memmove(&t->piece[at], &t->piece[at + 1], (t->count - at) * sizeof(struct piece));
}

void pieces_add(struct pieces *t, uintptr_t addr, uintptr_t end, uint32_t entry)
{
    struct piece piece = {.addr = addr, .end = end, .base = addr, .id = ++t->last_id, .entry = entry};
    insert(t, lower(t, addr), piece);
    if (end - addr > t->longest)
        t->longest = end - addr;
}

/* The index of the first piece that begins at @base or after it, where those of an attachment made there lie. */
static size_t first_from(const struct pieces *t, uintptr_t base)
{
    size_t i = lower(t, base);
    return i < t->count && t->piece[i].addr < base ? i + 1 : i;
}

/* The index of the first piece of attachment @id at @base, or count. */
static size_t first_of(const struct pieces *t, uint64_t id, uintptr_t base)
{
    for (size_t i = first_from(t, base); i < t->count && t->piece[i].addr - base < t->longest; i++) {
        if (t->piece[i].id == id)
            return i;
    }
    return t->count;
}

bool pieces_cut(struct pieces *t, uintptr_t addr, uintptr_t end, uint32_t *entry)
{
    size_t i;
    while ((i = lower(t, addr)) < t->count && t->piece[i].addr < end) {
        struct piece *p = &t->piece[i], old = *p;
        if (old.addr < addr && old.end > end) {
            p->end = addr;
            struct piece tail = old;
            tail.addr = end;
            insert(t, i + 1, tail);
            return false;
        }
        if (old.addr < addr) {
            p->end = addr;
            continue;
        }
        if (old.end > end) {
            p->addr = end;
            return false;
        }
        erase(t, i);
        if (first_of(t, old.id, old.base) == t->count) {
            *entry = old.entry;
            return true;
        }
    }
    return false;
}

struct piece *pieces_find(const struct pieces *t, uintptr_t base)
{
    for (size_t i = first_from(t, base); i < t->count && t->piece[i].addr - base < t->longest; i++) {
        if (t->piece[i].base == base)
            return &t->piece[i];
    }
    return NULL;
}

bool pieces_take(struct pieces *t, uint64_t id, uintptr_t base, struct piece *out)
{
    size_t i = first_of(t, id, base);
    if (i == t->count)
        return false;
    *out = t->piece[i];
    erase(t, i);
    return true;
}
