// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Each entry of the client page has a private side here, which rules: the page may be another process's (a raw clone
 * inherits its parent's), this memory never is.
 *
 *     free --take--> idle (count 0) <--attach/detach--> attached (count > 0)
 *       ^---release---'
 *
 * An entry keeps its shmid while it is idle, since the daemon still has a grant for (client, shmid, entry): attaching
 * again needs no message. Only after DETACHED was answered may it serve another segment. Entries are found by shmid
 * through a hash; free and idle ones hang on lists.
 *
 * Order in the page: shmid, times and attaches before count + 1; dtime before count - 1. So the daemon, which may read
 * at any moment, counts too much rather than too little.
 */
#include "src/lib/entries.h"

#include <assert.h>
#include <string.h>

static uint16_t *hash_slot(struct entries *t, int32_t shmid)
{
    uint32_t h = (uint32_t)shmid * 2654435761u;
    return &t->hash[h >> 22];
}

uint32_t entries_find(const struct entries *t, int32_t shmid)
{
    uint16_t i = *hash_slot((struct entries *)t, shmid);
    while (i && t->entry[i - 1].shmid != shmid)
        i = t->entry[i - 1].hash;
    return i ? i - 1u : ENTRY_NONE;
}

static void idle_push(struct entries *t, uint32_t e)
{
    struct entry *x = &t->entry[e];
    x->prev = t->idle_tail;
    x->next = 0;
    if (t->idle_tail)
        t->entry[t->idle_tail - 1].next = (uint16_t)(e + 1);
    else
        t->idle_head = (uint16_t)(e + 1);
    t->idle_tail = (uint16_t)(e + 1);
}

static void idle_remove(struct entries *t, uint32_t e)
{
    struct entry *x = &t->entry[e];
    if (x->prev)
        t->entry[x->prev - 1].next = x->next;
    else
        t->idle_head = x->next;
    if (x->next)
        t->entry[x->next - 1].prev = x->prev;
    else
        t->idle_tail = x->prev;
    x->prev = x->next = 0;
}

uint32_t entries_idle(const struct entries *t)
{
    return t->idle_head ? t->idle_head - 1u : ENTRY_NONE;
}

uint32_t entries_take(struct entries *t, int32_t shmid)
{
    uint32_t e;
    if (t->free_head && t->free_head <= t->usable) {
        e = t->free_head - 1u;
        t->free_head = t->entry[e].next;
    } else if (t->fresh < t->usable) {
        e = t->fresh++;
    } else {
        return ENTRY_NONE;
    }
    uint16_t *slot = hash_slot(t, shmid);
    t->entry[e] = (struct entry){.shmid = shmid, .hash = *slot};
    *slot = (uint16_t)(e + 1);
    idle_push(t, e);
    return e;
}

void entries_release(struct entries *t, uint32_t e)
{
    struct entry *x = &t->entry[e];
    assert(x->count == 0);
    idle_remove(t, e);
    uint16_t *link = hash_slot(t, x->shmid);
    while (*link != e + 1)
        link = &t->entry[*link - 1].hash;
    *link = x->hash;
    *x = (struct entry){.shmid = -1, .next = t->free_head};
    t->free_head = (uint16_t)(e + 1);
    if (t->page) {
        struct clshmd_entry *p = &t->page[e];
        __atomic_store_n(&p->attaches, 0, __ATOMIC_SEQ_CST);
        __atomic_store_n(&p->shmid, 0, __ATOMIC_SEQ_CST);
    }
}

void entries_attach(struct entries *t, uint32_t e, int64_t now)
{
    struct entry *x = &t->entry[e];
    if (x->count++ == 0)
        idle_remove(t, e);
    t->attachments++;
    struct clshmd_entry *p = &t->page[e];
    __atomic_store_n(&p->shmid, x->shmid, __ATOMIC_SEQ_CST);
    __atomic_store_n(&p->atime, now, __ATOMIC_RELAXED);
    __atomic_store_n(&p->by_parent, 0, __ATOMIC_RELAXED);
    __atomic_fetch_add(&p->attaches, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_add(&p->count, 1, __ATOMIC_SEQ_CST);
}

static void count_down(struct entries *t, uint32_t e)
{
    struct entry *x = &t->entry[e];
    assert(x->count > 0);
    if (--x->count == 0) {
        idle_push(t, e);
        x->access = 0;
    }
    t->attachments--;
    if (t->page)
        __atomic_fetch_sub(&t->page[e].count, 1, __ATOMIC_SEQ_CST);
}

void entries_undo(struct entries *t, uint32_t e)
{
    count_down(t, e);
    if (t->page)
        __atomic_fetch_sub(&t->page[e].attaches, 1, __ATOMIC_SEQ_CST);
}

void entries_detach(struct entries *t, uint32_t e, int64_t now)
{
    if (t->page) {
        __atomic_store_n(&t->page[e].dtime, now, __ATOMIC_RELAXED);
        __atomic_store_n(&t->page[e].by_parent, 0, __ATOMIC_RELAXED);
    }
    count_down(t, e);
}

uint32_t entries_end(const struct entries *t)
{
    uint32_t end = t->fresh;
    while (end > 0 && t->entry[end - 1].count == 0)
        end--;
    return end;
}

void entries_copy(const struct entries *t, struct clshmd_entry *page, int64_t now, bool by_parent)
{
    for (uint32_t e = 0; e < t->fresh; e++) {
        const struct entry *x = &t->entry[e];
        if (x->count == 0)
            continue;
        struct clshmd_entry *p = &page[e];
        __atomic_store_n(&p->shmid, x->shmid, __ATOMIC_SEQ_CST);
        __atomic_store_n(&p->atime, now || !t->page ? now : t->page[e].atime, __ATOMIC_RELAXED);
        __atomic_store_n(&p->dtime, now || !t->page ? 0 : t->page[e].dtime, __ATOMIC_RELAXED);
        __atomic_store_n(&p->by_parent, by_parent, __ATOMIC_RELAXED);
        __atomic_store_n(&p->attaches, x->count, __ATOMIC_SEQ_CST);
        __atomic_store_n(&p->count, x->count, __ATOMIC_SEQ_CST);
    }
}
