/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A mapped area: which pages are there, life words, generation words.
 *
 * The bitmap only grows; a bit is set after reserve() has succeeded, and pages are never given back. Life words are
 * swapped: FREE(i) or DEAD(i) to ALIVE(i+1) by who joins, ALIVE(i) to DEAD(i) by whoever declares, ALIVE(i) to FREE(i)
 * by who leaves. The incarnation only counts up, and 0 is never one, since 0 says "not alive" elsewhere.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/fabric/area/area_mem.h"
#include "src/util/math.h"

int area_init(struct area *area, const struct fabric_superblock *sb, void *base, void *gens,
              int (*reserve)(void *ctx, uint64_t offset, uint64_t len), void *ctx)
{
    uint64_t pages = sb->area_size / FABRIC_PAGE;
    int error;

    *area = (struct area){
        .base = base,
        .size = sb->area_size,
        .gens = gens,
        .gens_size = gens ? area_gens_size(sb) : 0,
        .sb = *sb,
        .reserve = reserve,
        .ctx = ctx,
    };
    area->reserved = calloc(pages / 64 + 1, sizeof(uint64_t));
    if (!area->reserved)
        return ENOMEM;
    error = area_touch(area, 0, area_slot_offset(sb, sb->parts));
    if (error)
        area_deinit(area);
    return error;
}

void area_deinit(struct area *area)
{
    free(area->reserved);
    *area = (struct area){0};
}

static bool page_known(const struct area *area, uint64_t page)
{
    return __atomic_load_n(&area->reserved[page / 64], __ATOMIC_RELAXED) >> (page % 64) & 1;
}

int area_touch(struct area *area, uint64_t offset, uint64_t len)
{
    uint64_t first = offset / FABRIC_PAGE, last, page;
    int error;

    if (len == 0)
        return 0;
    if (!is_within(offset, len, 0, area->size))
        return EINVAL;
    last = (offset + len - 1) / FABRIC_PAGE;
    for (page = first; page <= last && page_known(area, page); page++)
        ;
    if (page > last)
        return 0;
    if (area->reserve) {
        error = area->reserve(area->ctx, page * FABRIC_PAGE, (last - page + 1) * FABRIC_PAGE);
        if (error)
            return error;
    }
    for (; page <= last; page++)
        __atomic_fetch_or(&area->reserved[page / 64], 1ULL << (page % 64), __ATOMIC_RELAXED);
    return 0;
}

void area_relax(uint32_t round)
{
#ifdef AREA_SIM
    for (uint32_t i = 0; i < round % 8 + 1; i++)
        AREA_POINT();
#else
    if (round > 24)
        usleep(200);
    else
        for (uint32_t i = 0; i < 8u << (round < 8 ? round : 8); i++)
            __asm__ volatile("" ::: "memory");
#endif
}

/* ------------------------------------------------------------------ life words */

uint64_t area_life(const struct area *area, uint32_t part)
{
    return part < area->sb.parts ? load64(&area_slot(area, part)->life.life) : FABRIC_LIFE(0, FABRIC_LIFE_FREE, 0);
}

uint32_t area_incarnation(const struct area *area, uint32_t part)
{
    uint64_t life = area_life(area, part);

    return FABRIC_LIFE_STATE(life) == FABRIC_LIFE_ALIVE ? FABRIC_LIFE_INCARNATION(life) : 0;
}

int area_life_claim(struct area *area, uint32_t part, uint32_t *incarnation)
{
    uint64_t life = area_life(area, part);
    uint32_t next = FABRIC_LIFE_INCARNATION(life) + 1;

    if (part >= area->sb.parts)
        return EINVAL;
    if (FABRIC_LIFE_STATE(life) != FABRIC_LIFE_FREE && FABRIC_LIFE_STATE(life) != FABRIC_LIFE_DEAD)
        return EBUSY;
    next = next ? next : 1;
    if (!swap64(&area_slot(area, part)->life.life, life, FABRIC_LIFE(next, FABRIC_LIFE_ALIVE, 0)))
        return EBUSY;
    *incarnation = next;
    return 0;
}

bool area_declare_dead(struct area *area, uint32_t part, uint32_t incarnation, uint32_t declarer)
{
    return part < area->sb.parts &&
           swap64(&area_slot(area, part)->life.life, FABRIC_LIFE(incarnation, FABRIC_LIFE_ALIVE, 0),
                  FABRIC_LIFE(incarnation, FABRIC_LIFE_DEAD, declarer & 0xff));
}

bool area_life_leave(struct area *area, uint32_t part, uint32_t incarnation)
{
    return part < area->sb.parts &&
           swap64(&area_slot(area, part)->life.life, FABRIC_LIFE(incarnation, FABRIC_LIFE_ALIVE, 0),
                  FABRIC_LIFE(incarnation, FABRIC_LIFE_FREE, 0));
}

uint64_t area_heartbeat(const struct area *area, uint32_t part)
{
    return part < area->sb.parts ? load64(&area_slot(area, part)->life.heartbeat) : 0;
}

void area_heartbeat_store(struct area *area, uint32_t self, uint64_t beats)
{
    if (self < area->sb.parts)
        store64(&area_slot(area, self)->life.heartbeat, beats);
}

/* ------------------------------------------------------------------ generations */

static uint32_t *gen_word(const struct area *area, uint32_t part, uint32_t slot)
{
    if (!area->gens || part >= area->sb.parts || slot >= area->sb.slots)
        return NULL;
    return (uint32_t *)(void *)(area->gens + area_gens_offset(&area->sb, part) + sizeof(struct fabric_gens_head)) +
           slot;
}

uint32_t area_gen(const struct area *area, uint32_t part, uint32_t slot)
{
    const uint32_t *word = gen_word(area, part, slot);

    return word ? load32(word) : 0;
}

void area_gen_store(struct area *area, uint32_t self, uint32_t slot, uint32_t value)
{
    uint32_t *word = gen_word(area, self, slot);

    if (word)
        store32(word, value);
}

static uint32_t *home_word(const struct area *area, uint32_t self, uint32_t home)
{
    if (!area->gens || self >= area->sb.parts || home >= FABRIC_PARTS_MAX)
        return NULL;
    return &((struct fabric_gens_head *)(void *)(area->gens + area_gens_offset(&area->sb, self)))->home[home];
}

void area_gens_home_store(struct area *area, uint32_t self, uint32_t home, uint32_t incarnation)
{
    uint32_t *word = home_word(area, self, home);

    if (word)
        store32(word, incarnation);
}

uint32_t area_gens_home(const struct area *area, uint32_t self, uint32_t home)
{
    const uint32_t *word = home_word(area, self, home);

    return word ? load32(word) : 0;
}
