/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The control area on plain memory: layout, reservation, life words, slots, records, key table, rings, generations. */
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

static int reserve(void *ctx, uint64_t offset, uint64_t len)
{
    struct fixture *f = ctx;

    assert_int_equal(offset % FABRIC_PAGE, 0);
    assert_int_equal(len % FABRIC_PAGE, 0);
    if (++f->calls >= f->full_from)
        return ENOSPC;
    f->reserved_bytes += len;
    return 0;
}

static struct area_geometry geometry(uint32_t parts, uint32_t slots)
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

static void *map(uint64_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

static int setup(void **state)
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

static int teardown(void **state)
{
    struct fixture *f = *state;

    munmap(f->base, f->sb.area_size);
    munmap(f->gens, area_gens_size(&f->sb));
    area_deinit(&f->area);
    area_deinit(&f->area);
    free(f);
    return 0;
}

/* ------------------------------------------------------------------ layout */

static void test_layout(void **state)
{
    static const uint32_t shapes[][2] = {{1, 64}, {2, 64}, {3, 128}, {16, 4096}, {64, 32768}, {63, 64}};
    struct fabric_superblock sb;

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        struct area_geometry g = geometry(shapes[i][0], shapes[i][1]);

        assert_int_equal(area_layout(&g, &sb, NULL), 0);
        assert_null(fabric_superblock_check(&sb, sb.area_size, 4096));
        assert_true(sb.key_buckets * FABRIC_BUCKET_CELLS >= 4ull * sb.parts * sb.slots);
        assert_true(1u << sb.part_bits >= sb.parts && sb.part_bits + sb.slot_bits <= 21);
        assert_true(area_extent_valid(&sb, sb.parts - 1, area_block_offset(&sb, sb.parts - 1) + sb.records_offset));
    }
    assert_int_equal(sb.parts, 63);
    assert_int_equal(sb.part_bits, 6);
}

static void test_layout_defaults(void **state)
{
    struct area_geometry g = geometry(0, 0);
    struct fabric_superblock sb;

    (void)state;
    assert_int_equal(area_layout(&g, &sb, NULL), 0);
    assert_int_equal(sb.parts, AREA_PARTS_DEFAULT);
    assert_int_equal(sb.slots, AREA_SLOTS_DEFAULT);
    assert_int_equal(sb.part_bits, 4);
    assert_int_equal(sb.slot_bits, 12);
}

static void test_layout_refused(void **state)
{
    struct area_geometry good = geometry(4, 512), g;
    struct fabric_superblock sb;
    const char *why = NULL;

    (void)state;
#define REFUSED(field, value)                                                                                          \
    do {                                                                                                               \
        g = good;                                                                                                      \
        g.field = value;                                                                                               \
        why = NULL;                                                                                                    \
        assert_int_equal(area_layout(&g, &sb, &why), EINVAL);                                                          \
        assert_non_null(why);                                                                                          \
    } while (0)
    REFUSED(kind, 0);
    REFUSED(kind, 4);
    REFUSED(parts, 65);
    REFUSED(slots, 63);
    REFUSED(slots, 96);
    REFUSED(slots, 65536);
    REFUSED(granule, 2048);
    REFUSED(granule, 6000);
    REFUSED(heartbeat_ms, 0);
    REFUSED(name, NULL);
    REFUSED(name, "");
    REFUSED(name, "a name of more than thirty-one bytes");
    REFUSED(name, "new\nline");
#undef REFUSED
    g.name = "x";
    assert_int_equal(area_layout(&(struct area_geometry){0}, &sb, NULL), EINVAL);
}

/* ------------------------------------------------------------------ reservation */

static void test_touch(void **state)
{
    struct fixture *f = *state;
    unsigned calls = f->calls;
    uint64_t bytes = f->reserved_bytes;

    /* init has reserved everything before the key table */
    assert_int_equal(bytes, f->sb.keys_offset);
    assert_int_equal(area_touch(&f->area, 0, f->sb.keys_offset), 0);
    assert_int_equal(f->calls, calls);

    assert_int_equal(area_touch(&f->area, f->sb.keys_offset + 4095, 2), 0);
    assert_int_equal(f->calls, calls + 1);
    assert_int_equal(f->reserved_bytes, bytes + 8192);
    assert_int_equal(area_touch(&f->area, f->sb.keys_offset, 8192), 0);
    assert_int_equal(f->calls, calls + 1);

    assert_int_equal(area_touch(&f->area, f->sb.area_size, 0), 0);
    assert_int_equal(area_touch(&f->area, f->sb.area_size - 1, 2), EINVAL);
    assert_int_equal(area_touch(&f->area, UINT64_MAX, 2), EINVAL);

    f->full_from = f->calls + 1;
    assert_int_equal(area_touch(&f->area, f->sb.blocks_offset, 1), ENOSPC);
    f->full_from = UINT32_MAX;
    assert_int_equal(area_touch(&f->area, f->sb.blocks_offset, 1), 0);
}

static void test_init_full(void **state)
{
    struct fixture *f = *state;
    struct area area;

    f->full_from = 0;
    assert_int_equal(area_init(&area, &f->sb, f->base, f->gens, reserve, f), ENOSPC);
    assert_null(area.reserved);
}

/* ------------------------------------------------------------------ life */

static uint32_t join(struct fixture *f, uint32_t part)
{
    uint32_t incarnation = 0;

    assert_int_equal(area_life_claim(&f->area, part, &incarnation), 0);
    return incarnation;
}

static void test_life(void **state)
{
    struct fixture *f = *state;
    struct area *a = &f->area;
    uint32_t incarnation;

    assert_int_equal(area_incarnation(a, 1), 0);
    assert_int_equal(join(f, 1), 1);
    assert_int_equal(area_incarnation(a, 1), 1);
    assert_int_equal(area_life_claim(a, 1, &incarnation), EBUSY);

    assert_false(area_declare_dead(a, 1, 2, 0));
    assert_true(area_declare_dead(a, 1, 1, 3));
    assert_false(area_declare_dead(a, 1, 1, 2));
    assert_int_equal(area_life(a, 1), FABRIC_LIFE(1, FABRIC_LIFE_DEAD, 3));
    assert_int_equal(area_incarnation(a, 1), 0);
    assert_false(area_life_leave(a, 1, 1));

    assert_int_equal(join(f, 1), 2);
    assert_true(area_life_leave(a, 1, 2));
    assert_int_equal(area_life(a, 1), FABRIC_LIFE(2, FABRIC_LIFE_FREE, 0));
    assert_int_equal(join(f, 1), 3);

    /* 0 is never an incarnation */
    area_slot(a, 2)->life.life = FABRIC_LIFE(UINT32_MAX, FABRIC_LIFE_DEAD, 0);
    assert_int_equal(join(f, 2), 1);
    /* a word that nobody writes */
    area_slot(a, 3)->life.life = FABRIC_LIFE(7, 9, 0);
    assert_int_equal(area_life_claim(a, 3, &incarnation), EBUSY);

    assert_int_equal(area_life_claim(a, PARTS, &incarnation), EINVAL);
    assert_int_equal(area_life(a, PARTS), 0);
    assert_false(area_declare_dead(a, 64, 1, 0));
    assert_false(area_life_leave(a, 64, 1));

    area_heartbeat_store(a, 2, 99);
    assert_int_equal(area_heartbeat(a, 2), 99);
    area_heartbeat_store(a, 64, 99);
    assert_int_equal(area_heartbeat(a, 64), 0);
}

/* ------------------------------------------------------------------ slots */

static struct fabric_slot_daemon slot_page(void)
{
    return (struct fabric_slot_daemon){
        .epoch = 5,
        .major = 1,
        .userns = 4026531837,
        .uid = 1000,
        .flags = FABRIC_SLOT_READY | FABRIC_SLOT_SQUASH,
        .away_beats = 3,
        .name = "web",
        .hostname = "host.example",
    };
}

static void test_slot(void **state)
{
    struct fixture *f = *state;
    struct fabric_slot_daemon page = slot_page(), copy;

    assert_int_equal(area_slot_read(&f->area, 1, &copy), ENOENT);
    assert_int_equal(area_slot_read(&f->area, PARTS, &copy), ENOENT);
    assert_non_null(area_record(&f->area, 1, 0, true));
    area_slot(&f->area, 1)->daemon.ring_head[2] = 77;

    page.ring_head[2] = 1; /* not looked at */
    area_slot_publish(&f->area, 1, &page);
    assert_int_equal(area_slot_read(&f->area, 1, &copy), 0);
    assert_memory_equal(&copy, &page, offsetof(struct fabric_slot_daemon, ring_head));
    assert_int_equal(copy.ring_head[2], 77);
    assert_int_not_equal(copy.extent[0], 0);

    assert_int_equal(area_slot_epoch(&f->area, 1), 5);
    assert_int_equal(area_slot_flags(&f->area, 1), FABRIC_SLOT_READY | FABRIC_SLOT_SQUASH);
    area_slot_set_flags(&f->area, 1, 0);
    assert_int_equal(area_slot_flags(&f->area, 1), 0);
    area_slot_set_away(&f->area, 1, 100000);
    assert_int_equal(area_slot_away(&f->area, 1), FABRIC_AWAY_MAX);
    assert_int_equal(area_slot_epoch(&f->area, 64) + area_slot_flags(&f->area, 64) + area_slot_away(&f->area, 64), 0);
}

static void test_slot_lies(void **state)
{
    struct fixture *f = *state;
    struct fabric_slot_daemon *own = &area_slot(&f->area, 1)->daemon, copy, good;
    struct fabric_slot_daemon page = slot_page();

    area_slot_publish(&f->area, 1, &page);
    good = *own;
#define LIES(change)                                                                                                   \
    do {                                                                                                               \
        *own = good;                                                                                                   \
        change;                                                                                                        \
        assert_int_equal(area_slot_read(&f->area, 1, &copy), EBADMSG);                                                 \
    } while (0)
    LIES(own->major = 0);
    LIES(own->flags |= 4);
    LIES(own->reserved0 = 1);
    LIES(own->away_beats = FABRIC_AWAY_MAX + 1);
    LIES(own->name[0] = 0);
    LIES(memset(own->name, 'x', sizeof(own->name)));
    LIES(own->name[1] = '\n');
    LIES(own->hostname[0] = '\x1b');
    LIES(memset(own->hostname, 'x', FABRIC_HOSTNAME_MAX));
    LIES(own->extent[127] = 1);
    LIES(own->extent[0] = area_block_offset(&f->sb, 1));
    LIES(own->extent[0] = area_block_offset(&f->sb, 2) + f->sb.records_offset);
    LIES(own->extent[0] = area_block_offset(&f->sb, 2) - FABRIC_PAGE);
    LIES(own->extent[0] = ~0xfffull);
#undef LIES
}

/* ------------------------------------------------------------------ records */

static struct fabric_record *make_record(struct fixture *f, uint32_t part, uint32_t slot, int32_t key)
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

static void test_record(void **state)
{
    struct fixture *f = *state;
    struct fabric_record *rec, copy;
    struct fabric_stat stat;

    assert_null(area_record(&f->area, 1, 300, false));
    assert_int_equal(area_record_read(&f->area, 1, 300, &copy), ENOENT);
    assert_null(area_record(&f->area, 1, SLOTS, true));
    assert_null(area_record(&f->area, PARTS, 0, true));
    f->full_from = f->calls + 1;
    errno = 0;
    assert_null(area_record(&f->area, 1, 300, true));
    assert_int_equal(errno, ENOSPC);
    assert_null(area_record(&f->area, 1, 300, false));
    f->full_from = UINT32_MAX;

    rec = area_record(&f->area, 1, 300, true);
    assert_non_null(rec);
    assert_int_equal(area_record_read(&f->area, 1, 300, &copy), ENOENT); /* FREE */
    assert_ptr_equal(make_record(f, 1, 300, 9), rec);
    assert_int_equal(record_gen(rec), 1);
    assert_int_equal(area_record_read(&f->area, 1, 300, &copy), 0);
    assert_memory_equal(&copy, rec, sizeof(copy));

    record_set_state(rec, FABRIC_REC_DEST);
    rec->mode |= 02000;
    assert_int_equal(area_record_read(&f->area, 1, 300, &copy), 0);
    area_record_stat(&copy, 12, &stat);
    assert_int_equal(stat.mode, 03640);
    assert_int_equal(stat.word, 12);
    assert_int_equal(stat.size, 5000);
    assert_int_equal(stat.uid, 7);

    record_begin(rec); /* and its home dies */
    assert_int_equal(area_record_read(&f->area, 1, 300, &copy), EAGAIN);
    record_begin(rec); /* its next daemon */
    record_end(rec);
    assert_int_equal(area_record_read(&f->area, 1, 300, &copy), 0);
    assert_int_equal(record_state(rec), FABRIC_REC_DEST);
}

static void test_record_lies(void **state)
{
    struct fixture *f = *state;
    struct fabric_record *rec = make_record(f, 1, 0, 9), copy, good = *rec;
    uint64_t *extent = &area_slot(&f->area, 1)->daemon.extent[0];

#define LIES(change)                                                                                                   \
    do {                                                                                                               \
        *rec = good;                                                                                                   \
        change;                                                                                                        \
        assert_int_equal(area_record_read(&f->area, 1, 0, &copy), EBADMSG);                                            \
    } while (0)
    LIES(record_set_state(rec, 6));
    LIES(rec->flags = 32);
    LIES(rec->mode = 04000);
    LIES(rec->size = 1ULL << 63);
    LIES(rec->importers = 1ULL << PARTS);
    LIES(rec->cell = f->sb.key_buckets * FABRIC_BUCKET_CELLS + 1);
#undef LIES
    *extent = 4096;
    assert_int_equal(area_record_read(&f->area, 1, 0, &copy), EBADMSG);
    assert_null(area_record(&f->area, 1, 0, true));
}

static void test_generations(void **state)
{
    struct fixture *f = *state;
    struct fabric_record *rec = make_record(f, 0, 0, 1);

    rec->head = FABRIC_REC(0xffffff, FABRIC_REC_FREE, 0xfffffffe);
    assert_int_equal(record_new(rec), 0);
    assert_int_equal(FABRIC_REC_VERSION(rec->head), 0xffffffff);
    record_ready(rec, FABRIC_REC_NEW);
    assert_int_equal(rec->head, FABRIC_REC(0, FABRIC_REC_NEW, 0));

    area_gen_store(&f->area, 2, SLOTS - 1, 0x80000005);
    assert_int_equal(area_gen(&f->area, 2, SLOTS - 1), 0x80000005);
    assert_int_equal(area_gen(&f->area, 3, 0), 0);
    area_gen_store(&f->area, 2, SLOTS, 1);
    assert_int_equal(area_gen(&f->area, 2, SLOTS), 0);
    assert_int_equal(area_gen(&f->area, PARTS, 0), 0);

    area_gens_home_store(&f->area, 1, 3, 8);
    assert_int_equal(area_gens_home(&f->area, 1, 3), 8);
    assert_int_equal(area_gens_home(&f->area, 3, 1), 0);
    area_gens_home_store(&f->area, PARTS, 3, 8);
    area_gens_home_store(&f->area, 1, 64, 8);
    assert_int_equal(area_gens_home(&f->area, 1, 64), 0);
}

/* ------------------------------------------------------------------ keys */

static struct core_found lookup(struct fixture *f, int32_t key)
{
    struct core_found found;

    memset(&found, 0xff, sizeof(found));
    area_lookup(&f->area, key, &found);
    return found;
}

static struct core_found claim(struct fixture *f, uint32_t part, uint32_t slot, int32_t key)
{
    struct core_found found;

    memset(&found, 0xff, sizeof(found));
    area_claim(&f->area, part, slot, key, &found);
    return found;
}

static uint64_t *cell_of(struct fixture *f, const struct fabric_record *rec)
{
    assert_int_not_equal(rec->cell, 0);
    return (uint64_t *)(void *)(f->area.base + f->sb.keys_offset) + rec->cell - 1;
}

static void test_claim(void **state)
{
    struct fixture *f = *state;
    struct fabric_record *rec, *other;
    struct core_found found;

    join(f, 1);
    join(f, 2);
    assert_int_equal(lookup(f, 1234).state, CORE_FOUND_NONE);
    rec = make_record(f, 1, 3, 1234);
    area_gen_store(&f->area, 1, 3, 17);
    assert_int_equal(lookup(f, 1234).state, CORE_FOUND_NONE);
    assert_int_equal(claim(f, 1, 3, 1234).state, CORE_FOUND_NONE);

    /* decided, though the record is NEW */
    found = lookup(f, 1234);
    assert_int_equal(found.state, CORE_FOUND_OTHER);
    assert_int_equal(found.home, 1);
    assert_int_equal(found.shmid, area_shmid(&f->area, 1, 3, 1));
    assert_int_equal(found.stat.size, 5000);
    assert_int_equal(found.stat.word, 17);
    assert_false(found.reserved);

    record_set_state(rec, FABRIC_REC_RESERVED);
    assert_true(lookup(f, 1234).reserved);
    record_set_state(rec, FABRIC_REC_LIVE);
    assert_false(lookup(f, 1234).reserved);

    other = make_record(f, 2, 0, 1234);
    found = claim(f, 2, 0, 1234);
    assert_int_equal(found.state, CORE_FOUND_OTHER);
    assert_int_equal(found.shmid, area_shmid(&f->area, 1, 3, 1));
    assert_int_equal(other->cell, 0);
    other = make_record(f, 1, 4, 1234); /* within one partition, too */
    assert_int_equal(claim(f, 1, 4, 1234).state, CORE_FOUND_OTHER);
    assert_int_equal(other->cell, 0);

    /* removed: gone at once, then the cell is freed */
    record_set_state(rec, FABRIC_REC_DEST);
    assert_int_equal(lookup(f, 1234).state, CORE_FOUND_NONE);
    area_unclaim(&f->area, 1, 3);
    assert_int_equal(rec->cell, 0);
    area_unclaim(&f->area, 1, 3);
    area_unclaim(&f->area, 1, 500);
    make_record(f, 2, 0, 1234);
    assert_int_equal(claim(f, 2, 0, 1234).state, CORE_FOUND_NONE);
    assert_int_equal(lookup(f, 1234).home, 2);
}

static void test_claim_needs_a_new_record(void **state)
{
    struct fixture *f = *state;
    struct fabric_record *rec;

    join(f, 1);
    assert_int_equal(claim(f, 1, 3, 5).error, EINVAL);
    rec = make_record(f, 1, 3, 5);
    assert_int_equal(claim(f, 1, 3, 6).error, EINVAL);
    record_set_state(rec, FABRIC_REC_LIVE);
    assert_int_equal(claim(f, 1, 3, 5).error, EINVAL);
}

/* A dead partition's keys can be had at once; what it says later does not count. */
static void test_dead_claimer(void **state)
{
    struct fixture *f = *state;
    struct fabric_record *rec;

    join(f, 1);
    join(f, 2);
    rec = make_record(f, 1, 3, 5);
    assert_int_equal(claim(f, 1, 3, 5).state, CORE_FOUND_NONE);
    record_set_state(rec, FABRIC_REC_LIVE);
    assert_true(area_declare_dead(&f->area, 1, 1, 2));
    assert_int_equal(lookup(f, 5).state, CORE_FOUND_NONE);
    make_record(f, 2, 0, 5);
    assert_int_equal(claim(f, 2, 0, 5).state, CORE_FOUND_NONE);
    assert_int_equal(lookup(f, 5).home, 2);
    join(f, 1);
    assert_int_equal(lookup(f, 5).home, 2);
    area_unclaim(&f->area, 1, 3); /* its cell was taken over as a corpse, or not: the key stays */
    assert_int_equal(lookup(f, 5).home, 2);
}

/* A stronger claimer that sleeps between its steps does not stop the others for ever. */
static void test_sleeping_rival(void **state)
{
    struct fixture *f = *state;
    struct fabric_record *rec, *mine;
    uint64_t *cell;

    join(f, 1);
    join(f, 2);
    rec = make_record(f, 1, 3, 5);
    assert_int_equal(claim(f, 1, 3, 5).state, CORE_FOUND_NONE);
    cell = cell_of(f, rec);
    *cell = (*cell & ~3ull) | FABRIC_CELL_TENTATIVE;

    assert_int_equal(lookup(f, 5).state, CORE_FOUND_NONE);
    mine = make_record(f, 2, 0, 5);
    assert_int_equal(claim(f, 2, 0, 5).state, CORE_FOUND_NONE);
    assert_int_equal(*cell, 0);
    assert_ptr_not_equal(cell_of(f, mine), cell);
    assert_int_equal(lookup(f, 5).home, 2);
    area_unclaim(&f->area, 1, 3);
    assert_int_equal(rec->cell, 0);
}

/* The home's daemon died while it changed the record: the key is still its own. */
static void test_half_written(void **state)
{
    struct fixture *f = *state;
    struct fabric_record *rec;

    join(f, 1);
    join(f, 2);
    rec = make_record(f, 1, 3, 5);
    assert_int_equal(claim(f, 1, 3, 5).state, CORE_FOUND_NONE);
    record_set_state(rec, FABRIC_REC_LIVE);
    record_begin(rec);
    assert_int_equal(lookup(f, 5).error, EHOSTDOWN);
    make_record(f, 2, 0, 5);
    assert_int_equal(claim(f, 2, 0, 5).error, EHOSTDOWN);
    record_end(rec);
    assert_int_equal(claim(f, 2, 0, 5).state, CORE_FOUND_OTHER);
}

/* All keys of a bucket: the 65th finds no room, until one of them is a corpse. */
static void test_full_bucket(void **state)
{
    struct fixture *f = *state;
    struct fabric_record *rec = NULL, *first = NULL;
    uint64_t bucket = UINT64_MAX;
    uint32_t n = 0;
    int32_t key = 0;

    join(f, 1);
    while (n < FABRIC_BUCKET_CELLS + 1) {
        struct core_found found;

        rec = make_record(f, 1, n, ++key);
        found = claim(f, 1, n, key);
        if (found.state == CORE_FOUND_FULL)
            break;
        assert_int_equal(found.state, CORE_FOUND_NONE);
        if (bucket == UINT64_MAX) {
            bucket = (rec->cell - 1) / FABRIC_BUCKET_CELLS;
            first = rec;
        }
        if ((rec->cell - 1) / FABRIC_BUCKET_CELLS == bucket) {
            record_set_state(rec, FABRIC_REC_LIVE);
            n++;
        } else {
            record_set_state(rec, FABRIC_REC_FREE);
            area_unclaim(&f->area, 1, n);
        }
    }
    assert_int_equal(n, FABRIC_BUCKET_CELLS);
    assert_int_equal(rec->cell, 0);
    record_set_state(first, FABRIC_REC_DEST);
    assert_int_equal(claim(f, 1, n, key).state, CORE_FOUND_NONE);
    assert_int_equal(rec->cell, first->cell);
    area_unclaim(&f->area, 1, 0); /* the cell is another record's now */
    assert_int_equal(lookup(f, key).state, CORE_FOUND_OTHER);
}

static void test_garbage_cells(void **state)
{
    struct fixture *f = *state;
    uint64_t *cells = (uint64_t *)(void *)(f->area.base + f->sb.keys_offset);
    uint64_t count = f->sb.key_buckets * FABRIC_BUCKET_CELLS, random = 88172645463325252ULL;

    join(f, 1);
    make_record(f, 0, 0, 3);
    make_record(f, 2, 300, 3);
    for (uint64_t i = 0; i < count; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        cells[i] = i % 2 ? random : random & ~0x3f0ull; /* partitions that are there, too */
    }
    for (int32_t key = -500; key < 500; key++)
        assert_int_equal(lookup(f, key).state, CORE_FOUND_NONE);
    for (uint32_t i = 0; i < 200; i++) {
        make_record(f, 1, i, (int32_t)i * 7);
        assert_int_equal(claim(f, 1, i, (int32_t)i * 7).state, CORE_FOUND_NONE);
    }
    for (uint32_t i = 0; i < 200; i++)
        assert_int_equal(lookup(f, (int32_t)i * 7).shmid, area_shmid(&f->area, 1, i, 1));
}

static void test_keys_without_room(void **state)
{
    struct fixture *f = *state;

    join(f, 1);
    make_record(f, 1, 0, 5);
    f->full_from = 0;
    assert_int_equal(lookup(f, 5).error, ENOSPC);
    assert_int_equal(claim(f, 1, 0, 5).error, ENOSPC);
}

/* ------------------------------------------------------------------ rings */

static void test_ring(void **state)
{
    struct fixture *f = *state;
    const uint32_t slots = FABRIC_RING_SLOTS(f->sb.ring_size);
    struct fabric_ring *ring =
        (struct fabric_ring *)(void *)(f->area.base + area_block_offset(&f->sb, 1) + 2 * (uint64_t)f->sb.ring_size);
    struct fabric_msg msg = {.op = FABRIC_OP_PING}, copy;
    uint32_t seen = 0;

    assert_int_equal(slots & (slots - 1), 0);
    assert_true((slots + 1) * sizeof(struct fabric_msg) <= f->sb.ring_size);
    assert_int_equal(area_ring_receive(&f->area, 2, 1, &copy), EAGAIN);
    /* just before the counts wrap */
    ring->tail = area_slot(&f->area, 2)->daemon.ring_head[1] = UINT32_MAX - slots / 2;

    for (msg.seq = 0; msg.seq < slots; msg.seq++)
        assert_int_equal(area_ring_send(&f->area, 1, 2, &msg), 0);
    assert_int_equal(area_ring_send(&f->area, 1, 2, &msg), EAGAIN);
    assert_int_equal(area_ring_receive(&f->area, 1, 2, &copy), EAGAIN);
    assert_int_equal(area_ring_receive(&f->area, 2, 1, &copy), 0);
    assert_int_equal(area_ring_receive(&f->area, 2, 1, &copy), 0); /* until its effect is durable */
    assert_int_equal(copy.seq, 0);
    for (; area_ring_receive(&f->area, 2, 1, &copy) == 0; seen++) {
        assert_int_equal(copy.seq, seen);
        area_ring_advance(&f->area, 2, 1);
    }
    assert_int_equal(seen, slots);

    assert_int_equal(area_ring_send(&f->area, 1, 2, &msg), 0);
    assert_int_equal(area_ring_skip(&f->area, 2, 1), 0);
    assert_int_equal(area_ring_receive(&f->area, 2, 1, &copy), EAGAIN);

    assert_int_equal(area_ring_send(&f->area, 1, PARTS, &msg), EINVAL);
    assert_int_equal(area_ring_send(&f->area, PARTS, 1, &msg), EINVAL);
    area_ring_advance(&f->area, PARTS, 1);
}

static void test_ring_lies(void **state)
{
    struct fixture *f = *state;
    const uint32_t slots = FABRIC_RING_SLOTS(f->sb.ring_size);
    struct fabric_ring *ring =
        (struct fabric_ring *)(void *)(f->area.base + area_block_offset(&f->sb, 1) + 2 * (uint64_t)f->sb.ring_size);
    struct fabric_msg msg = {.op = FABRIC_OP_PING};

    ring->tail = slots + 1;
    assert_int_equal(area_ring_receive(&f->area, 2, 1, &msg), EBADMSG);
    assert_int_equal(area_ring_send(&f->area, 1, 2, &msg), EBADMSG);
    assert_int_equal(area_ring_skip(&f->area, 2, 1), 0);
    assert_int_equal(area_ring_receive(&f->area, 2, 1, &msg), EAGAIN);
    ring->tail--; /* backwards */
    assert_int_equal(area_ring_receive(&f->area, 2, 1, &msg), EBADMSG);
}

static void test_ring_without_room(void **state)
{
    struct fixture *f = *state;
    struct fabric_msg msg = {.op = FABRIC_OP_PING};

    f->full_from = f->calls + 1;
    assert_int_equal(area_ring_send(&f->area, 1, 2, &msg), ENOSPC);
    assert_int_equal(area_ring_receive(&f->area, 2, 1, &msg), ENOSPC);
    /* The second page only when messages get there. */
    f->full_from = f->calls + 2;
    for (uint32_t i = 0; i < 4096 / sizeof(msg) - 1; i++)
        assert_int_equal(area_ring_send(&f->area, 1, 2, &msg), 0);
    assert_int_equal(area_ring_send(&f->area, 1, 2, &msg), ENOSPC);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_layout_defaults),
        cmocka_unit_test(test_layout_refused),
        TEST(test_touch),
        TEST(test_init_full),
        TEST(test_life),
        TEST(test_slot),
        TEST(test_slot_lies),
        TEST(test_record),
        TEST(test_record_lies),
        TEST(test_generations),
        TEST(test_claim),
        TEST(test_claim_needs_a_new_record),
        TEST(test_dead_claimer),
        TEST(test_sleeping_rival),
        TEST(test_half_written),
        TEST(test_full_bucket),
        TEST(test_garbage_cells),
        TEST(test_keys_without_room),
        TEST(test_ring),
        TEST(test_ring_lies),
        TEST(test_ring_without_room),
    };

    return cmocka_run_group_tests_name("area", tests, NULL, NULL);
}
