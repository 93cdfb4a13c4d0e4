/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An area of four partitions on plain memory, with a reservation that can run out of room. */
#ifndef CLSHM_TESTS_AREA_FIXTURE_H
#define CLSHM_TESTS_AREA_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "src/fabric/area/area_mem.h"

#define PARTS 4u
#define SLOTS 512u

struct fixture {
    struct area area;
    struct fabric_superblock sb;
    void *base, *gens;
    /* the reservation: what was asked for, and from which call on there is no room */
    uint64_t reserved_bytes;
    unsigned calls, full_from;
};

static inline int reserve(void *ctx, uint64_t offset, uint64_t len)
{
    struct fixture *f = ctx;

    assert_int_equal(offset % FABRIC_PAGE, 0);
    assert_int_equal(len % FABRIC_PAGE, 0);
    if (++f->calls >= f->full_from)
        return ENOSPC;
    f->reserved_bytes += len;
    return 0;
}

static inline struct area_geometry geometry(uint32_t parts, uint32_t slots)
{
    return (struct area_geometry){
        .kind = FABRIC_LOCAL,
        .parts = parts,
        .slots = slots,
        .granule = 4096,
        .heartbeat_ms = 200,
        .name = "test",
        .key_salt = 42,
    };
}

static inline void *map(uint64_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

static inline int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct area_geometry g = geometry(PARTS, SLOTS);

    assert_int_equal(area_layout(&g, &f->sb, NULL), 0);
    f->base = map(f->sb.area_size);
    f->gens = map(area_gens_size(&f->sb));
    f->full_from = UINT32_MAX;
    memcpy(f->base, &f->sb, sizeof(f->sb));
    assert_int_equal(area_init(&f->area, &f->sb, f->base, f->gens, reserve, f), 0);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;

    munmap(f->base, f->sb.area_size);
    munmap(f->gens, area_gens_size(&f->sb));
    area_deinit(&f->area);
    area_deinit(&f->area);
    free(f);
    return 0;
}

static inline uint32_t join(struct fixture *f, uint32_t part)
{
    uint32_t incarnation = 0;

    assert_int_equal(area_life_claim(&f->area, part, &incarnation), 0);
    return incarnation;
}

static inline struct fabric_record *make_record(struct fixture *f, uint32_t part, uint32_t slot, int32_t key)
{
    struct fabric_record *rec = area_record(&f->area, part, slot, true);

    assert_non_null(rec);
    record_new(rec);
    rec->key = key;
    rec->incarnation = area_incarnation(&f->area, part);
    rec->size = 5000;
    rec->uid = 7;
    rec->mode = 0640;
    record_ready(rec, FABRIC_REC_NEW);
    return rec;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
