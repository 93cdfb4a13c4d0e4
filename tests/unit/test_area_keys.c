/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The key table, one partition at a time (the interleavings: tests/sim/sim_keytable.c), and the rings. */
#include "area_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
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

    return cmocka_run_group_tests_name("area_keys", tests, NULL, NULL);
}
