// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A grant is what OPEN answered: a descriptor, and the two words that say how long it may be used. Each belongs to an
 * entry and a kind of access; the entry knows its place here. The cache is bounded, by a quarter of RLIMIT_NOFILE too,
 * so that a program that counts its descriptors closely keeps most of them; the one unused for longest makes room.
 *
 * Programs close descriptors that are not theirs. So each use and each close looks first (fstat: device and inode)
 * whether the number still means our file. Between the look and the use another thread may still do harm: that is the
 * same harm that it would do to any library.
 */
#include "src/lib/grants.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include "src/util/cleanup.h"

static uint32_t kind_of(uint32_t access)
{
    return (access & (CLSHMD_WRITE | CLSHMD_EXEC)) >> 1;
}

static bool ours(const struct grant *x)
{
    struct stat st;
    return fstat(x->fd, &st) == 0 && st.st_dev == x->dev && st.st_ino == x->ino && (uint64_t)st.st_size == x->length;
}

static void drop(struct grant *x, struct entries *t)
{
    struct stat st;
    if (fstat(x->fd, &st) == 0 && st.st_dev == x->dev && st.st_ino == x->ino)
        close_fd(x->fd);
    x->fd = -1;
    t->entry[x->entry].grant[x->kind] = 0;
}

const struct grant *grants_find(struct grants *g, struct entries *t, uint32_t e, uint32_t access)
{
    uint16_t place = t->entry[e].grant[kind_of(access)];
    if (!place)
        return NULL;
    struct grant *x = &g->grant[place - 1];
    if (!ours(x)) {
        drop(x, t);
        return NULL;
    }
    x->used = ++g->clock;
    return x;
}

/* The kernel has just given this number to a new descriptor: whoever else has it here lost his unawares. */
static void forget_number(struct grants *g, struct entries *t, int fd)
{
    for (uint32_t i = 0; i < g->top; i++) {
        struct grant *x = &g->grant[i];
        if (x->fd != fd)
            continue;
        x->fd = -1;
        t->entry[x->entry].grant[x->kind] = 0;
    }
}

/* A place that is free, made so if need be. Linear: the caller has just waited for a message. */
static struct grant *make_room(struct grants *g, struct entries *t)
{
    if (g->limit == 0) {
        struct rlimit limit;
        bool known = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur / 4 < GRANTS_MAX;
        g->limit = known ? (uint32_t)(limit.rlim_cur / 4) : GRANTS_MAX;
        if (g->limit == 0)
            g->limit = 1;
    }
    if (g->top < g->limit)
        return &g->grant[g->top++];
    struct grant *oldest = &g->grant[0];
    for (uint32_t i = 0; i < g->top; i++) {
        if (g->grant[i].fd < 0)
            return &g->grant[i];
        if (g->grant[i].used < oldest->used)
            oldest = &g->grant[i];
    }
    drop(oldest, t);
    return oldest;
}

void grants_put(struct grants *g, struct entries *t, uint32_t e, uint32_t access, const struct grant *new)
{
    uint32_t kind = kind_of(access);
    uint16_t *place = &t->entry[e].grant[kind];
    forget_number(g, t, new->fd);
    if (*place)
        drop(&g->grant[*place - 1], t);
    struct grant *x = make_room(g, t);
    *x = *new;
    x->entry = e;
    x->kind = (uint8_t)kind;
    x->used = ++g->clock;
    *place = (uint16_t)(x - g->grant + 1);
}

void grants_drop(struct grants *g, struct entries *t, uint32_t e)
{
    for (uint32_t kind = 0; kind < ENTRY_KINDS; kind++) {
        uint16_t place = t->entry[e].grant[kind];
        if (place)
            drop(&g->grant[place - 1], t);
    }
}

void grants_drop_all(struct grants *g, struct entries *t)
{
    for (uint32_t i = 0; i < g->top; i++) {
        if (g->grant[i].fd >= 0)
            drop(&g->grant[i], t);
    }
    g->top = 0;
}
