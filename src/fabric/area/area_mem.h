/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How the area's shared words are read and written: always through one of these, each one access. Built with AREA_SIM,
 * the simulator's scheduler is called before each access, so that another partition may run in between.
 *
 * Loads and stores that decide something are seq_cst: the claim protocol needs store-then-load order, and on x86 only
 * the stores cost anything.
 */
#ifndef CLSHM_FABRIC_AREA_MEM_H
#define CLSHM_FABRIC_AREA_MEM_H

#include "src/fabric/area/area.h"

#ifdef AREA_SIM
void area_point(void); /* the simulator's */
#define AREA_POINT() area_point()
#else
#define AREA_POINT() ((void)0)
#endif

static inline uint64_t load64(const uint64_t *word)
{
    AREA_POINT();
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline uint32_t load32(const uint32_t *word)
{
    AREA_POINT();
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline void store64(uint64_t *word, uint64_t value)
{
    AREA_POINT();
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static inline void store32(uint32_t *word, uint32_t value)
{
    AREA_POINT();
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

static inline bool swap64(uint64_t *word, uint64_t expected, uint64_t desired)
{
    AREA_POINT();
    return __atomic_compare_exchange_n(word, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

typedef uint64_t __attribute__((may_alias)) any_word;

/* Copy what another partition may be writing: word by word, each word read once. @size is a multiple of 8. */
static inline void copy_in(void *to, const void *from, size_t size)
{
    for (size_t i = 0; i < size / 8; i++) {
        AREA_POINT();
        ((any_word *)to)[i] = __atomic_load_n((const any_word *)from + i, __ATOMIC_ACQUIRE);
    }
}

static inline void copy_out(void *to, const void *from, size_t size)
{
    for (size_t i = 0; i < size / 8; i++) {
        AREA_POINT();
        __atomic_store_n((any_word *)to + i, ((const any_word *)from)[i], __ATOMIC_RELAXED);
    }
}

/* Wait a moment for another partition that is at work; @round counts up. */
void area_relax(uint32_t round);

/* The simulator makes buckets small, so that partitions meet in them. */
#ifdef AREA_SIM
#define AREA_BUCKET_CELLS 4u
#else
#define AREA_BUCKET_CELLS FABRIC_BUCKET_CELLS
#endif

static inline struct fabric_slot *area_slot(const struct area *area, uint32_t part)
{
    return (struct fabric_slot *)(void *)(area->base + area_slot_offset(&area->sb, part));
}

static inline uint64_t area_extent_size(void)
{
    return FABRIC_EXTENT_RECORDS * (uint64_t)sizeof(struct fabric_record);
}

/* May @offset be where one of @part's record extents lies? */
bool area_extent_valid(const struct fabric_superblock *sb, uint32_t part, uint64_t offset);

/* Any partition's record, to be touched. ENOENT: it has none; EBADMSG; ENOSPC. */
int area_record_find(struct area *area, uint32_t part, uint32_t slot, struct fabric_record **out);

#endif
