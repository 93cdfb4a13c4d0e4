/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A daemon is killed and started again: nothing is lost, what was half done is finished or undone. */
#include "core_fixture.h"

static int setup(void **state)
{
    struct world *w = fixture_new(3, 64);

    for (uint32_t part = 0; part < 3; part++)
        client(w, part, 0);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    return fixture_free(*state);
}

static void restart(struct world *w, uint32_t part)
{
    world_stop(w, part);
    for (uint32_t to = 0; to < w->config.parts; to++)
        world_cut(w, part, to, 0);
    assert_int_equal(world_start(w, part, false, UID), 0);
    for (uint32_t other = 0; other < w->config.parts; other++)
        core_member(w->part[part].core, other, CORE_MEMBER_ALIVE, w->part[other].incarnation, true);
    fixture_check(w);
}

static void test_nothing_is_lost(void **state)
{
    struct world *w = *state;
    struct core_stats before[3], after;
    int32_t id = 0, again = 0, key = 0, private = 0;

    assert_int_equal(get_token(w, 0, 7, 5000, IPC_CREAT | IPC_EXCL | 0600, 99, &id), 0);
    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &private), 0);
    assert_int_equal(fresh_key(w, 1, 0, 5, &key), 0);
    for (uint32_t part = 0; part < 3; part++)
        assert_int_equal(attach(w, part, id), 0);
    for (uint32_t part = 0; part < 3; part++)
        before[part] = stats(w, part);
    for (uint32_t part = 0; part < 3; part++)
        restart(w, part);
    world_settle(w);
    for (uint32_t part = 0; part < 3; part++) {
        after = stats(w, part);
        assert_memory_equal(&before[part], &after, sizeof(after));
        assert_int_equal(stat_of(w, part, id).nattch, 3);
    }
    assert_int_equal(get_token(w, 0, 7, 5000, IPC_CREAT | IPC_EXCL | 0600, 99, &again), 0); /* repeated after EIO */
    assert_int_equal(again, id);
    assert_int_equal(get(w, 1, key, 10, 0600, &again), 0);
    assert_int_equal(ctl(w, 2, private, CLSHMD_CTL_RMID), 0);
}

static void test_unmarked_cached_attachment_is_counted(void **state)
{
    struct world *w = *state;
    int32_t id = 0;

    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), 0);
    assert_int_equal(attach(w, 1, id), 0);
    w->part[1].entry[0][0].count--;
    restart(w, 1);
    world_settle(w);
    w->part[1].entry[0][0].count++; /* its grant stands: without a word */
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0);
    assert_int_equal(stats(w, 0).segments, 1);
    detach(w, 1);
    assert_int_equal(stats(w, 0).segments, 0);
}

static bool always(void *ctx, uint32_t part)
{
    (void)ctx;
    (void)part;
    return true;
}

/* Killed before memory, before the claim is carried out, before its answer, after all. */
static void test_creation_is_undone_or_complete(void **state)
{
    struct world *w = *state;
    struct clshmd_get req = {.key = 9, .size = 10, .flags = IPC_CREAT | IPC_EXCL | 0600, .token = 3};

    w->later = always;
    for (uint32_t answers = 0; answers < 7; answers++) {
        int32_t id = 0;

        core_get(w->part[0].core, 0, 1, &cred, &req);
        for (uint32_t i = 0; i < answers && w->n_waiting; i++)
            world_answer(w, 0);
        restart(w, 0);
        assert_int_equal(stats(w, 0).segments, answers == 6 ? 1 : answers < 5 ? 0 : stats(w, 0).segments);
        assert_int_equal(get_token(w, 0, 9, 10, IPC_CREAT | IPC_EXCL | 0600, 3, &id), 0);
        assert_int_equal(stats(w, 0).segments, 1);
        assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0);
        assert_int_equal(stats(w, 0).bytes, 0);
    }
}

static void test_removal_goes_on(void **state)
{
    struct world *w = *state;
    int32_t id = 0;

    assert_int_equal(get(w, 0, 7, 1, IPC_CREAT | 0600, &id), 0);
    assert_int_equal(attach(w, 0, id), 0);
    assert_int_equal(attach(w, 1, id), 0);
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0);
    world_stop(w, 0);
    w->part[0].entry[0][0].count--; /* while there is no daemon */
    assert_int_equal(world_start(w, 0, false, UID), 0);
    world_introduce(w, true);
    assert_int_equal(stats(w, 0).segments, 1);
    assert_int_equal(stat_of(w, 0, id).key, 0);
    detach(w, 1);
    assert_int_equal(stats(w, 0).segments, 0);
}

static void test_half_a_removal_is_finished(void **state)
{
    struct world *w = *state;
    int32_t id = 0;

    assert_int_equal(get(w, 0, 7, 1, IPC_CREAT | 0600, &id), 0);
    assert_int_equal(attach(w, 1, id), 0);
    record_set_state(&w->part[0].record[0], FABRIC_REC_DEST); /* died right after this store */
    restart(w, 0);
    assert_true(WORD(w, 0, id) & FABRIC_GEN_MARKED);
    assert_int_equal(get(w, 0, 7, 1, 0, NULL), ENOENT);
    detach(w, 1);
    assert_int_equal(stats(w, 0).segments, 0);
}

static void test_odd_version_is_mended(void **state)
{
    struct world *w = *state;
    int32_t id = 0;

    assert_int_equal(get(w, 0, 7, 1, IPC_CREAT | 0600, &id), 0);
    record_begin(&w->part[0].record[0]);
    restart(w, 0);
    assert_int_equal(FABRIC_REC_VERSION(record_head(&w->part[0].record[0])) & 1, 0);
    assert_int_equal(stat_of(w, 1, id).size, 1);
}

static void test_without_its_memory_it_is_lost(void **state)
{
    struct world *w = *state;
    int32_t id = 0;

    assert_int_equal(get(w, 0, 7, 1, IPC_CREAT | 0600, &id), 0);
    w->part[0].own[0].serial = 0;
    restart(w, 0);
    assert_int_equal(attach(w, 0, id), EIDRM);
    assert_int_equal(ctl(w, 1, id, CLSHMD_CTL_STAT), EIDRM);
    assert_int_equal(get(w, 0, 7, 1, 0, NULL), ENOENT);
    assert_int_equal(stats(w, 0).bytes, 0);
}

static void test_records_that_make_no_sense(void **state)
{
    struct world *w = *state;
    int32_t id[4] = {0};

    for (int i = 0; i < 4; i++)
        assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id[i]), 0);
    w->part[0].record[0].flags = 0xff00;
    w->part[0].record[1].size = UINT64_MAX;
    w->part[0].record[2].importers = UINT64_MAX;
    w->part[0].record[3].head |= 0xff000000;
    restart(w, 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(ctl(w, 0, id[i], CLSHMD_CTL_STAT), EIDRM);
    assert_int_equal(stats(w, 0).segments, 0);
}

/* The home died and came back while this partition had no daemon. */
static void test_import_of_a_home_that_is_another(void **state)
{
    struct world *w = *state;
    int32_t id = 0;

    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), 0);
    assert_int_equal(attach(w, 1, id), 0);
    world_stop(w, 1);
    world_die(w, 0);
    assert_int_equal(world_start(w, 0, true, UID), 0);
    assert_int_equal(world_start(w, 1, false, UID), 0);
    world_introduce(w, true);
    world_time(w, 250);
    world_settle(w);
    assert_int_equal(stats(w, 1).imports, 0);
    assert_int_equal(world_memory(w, 1, id), 0);
    fixture_check(w);
}

static void test_unused_import_is_given_back(void **state)
{
    struct world *w = *state;
    int32_t id = 0;

    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), 0);
    assert_int_equal(attach(w, 1, id), 0);
    world_stop(w, 1);
    w->part[1].page[0] = false; /* its process ended meanwhile */
    assert_int_equal(world_start(w, 1, false, UID), 0);
    world_introduce(w, true);
    world_settle(w);
    assert_int_equal(stats(w, 0).foreign_importers, 0);
}

static void test_lower_limits_drop_nobody(void **state)
{
    struct world *w = *state;
    int32_t id = 0;

    assert_int_equal(get(w, 0, IPC_PRIVATE, 5000, 0600, &id), 0);
    client(w, 0, 1);
    assert_int_equal(attach_as(w, 0, 1, 0, id, CLSHMD_READ), 0);
    assert_int_equal(attach(w, 0, id), 0);
    w->part[0].limits.max_clients_uid = w->part[0].limits.max_grants_uid = 1;
    w->part[0].limits.max_pages = w->part[0].limits.max_segments_uid = 1;
    restart(w, 0);
    assert_int_equal(stat_of(w, 0, id).nattch, 2);
    assert_int_equal(core_client_new(w->part[0].core, 2, UID, 1), EAGAIN);
    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), ENOSPC);
}

static void test_child_whose_page_fills_late(void **state)
{
    struct world *w = *state;
    struct world_part *p = &w->part[0];
    int32_t id = 0;

    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), 0);
    assert_int_equal(attach(w, 0, id), 0);
    p->page[9] = p->unborn[9] = true;
    assert_int_equal(core_client_fork(p->core, 0, 9), 0);
    restart(w, 0);
    memcpy(p->entry[9], p->entry[0], sizeof(p->entry[0]));
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0);
    client_dies(w, 0, 0);
    assert_int_equal(stats(w, 0).segments, 1);
    client_dies(w, 0, 9);
    assert_int_equal(stats(w, 0).segments, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nothing_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unmarked_cached_attachment_is_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_creation_is_undone_or_complete, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removal_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_a_removal_is_finished, setup, teardown),
        cmocka_unit_test_setup_teardown(test_odd_version_is_mended, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_its_memory_it_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_records_that_make_no_sense, setup, teardown),
        cmocka_unit_test_setup_teardown(test_import_of_a_home_that_is_another, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unused_import_is_given_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lower_limits_drop_nobody, setup, teardown),
        cmocka_unit_test_setup_teardown(test_child_whose_page_fills_late, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
