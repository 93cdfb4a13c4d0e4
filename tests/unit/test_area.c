/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The control area on plain memory: layout, reservation, life words, slots, records, generations. */
#include "area_fixture.h"

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
    };

    return cmocka_run_group_tests_name("area", tests, NULL, NULL);
}
