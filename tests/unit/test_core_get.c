/* SPDX-License-Identifier: GPL-2.0-or-later */
/* shmget as sysv.md has it, tokens, xp_ftok, races for a key, quotas, slots. */
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

static void test_create_and_find(void **state)
{
    struct world *w = *state;
    int32_t id = 0, again = 0;

    assert_int_equal(get(w, 0, 7, 100, 0600, &id), ENOENT);
    assert_int_equal(get(w, 0, 7, 0, IPC_CREAT | 0600, &id), EINVAL);
    assert_int_equal(get(w, 0, 7, 100, IPC_CREAT | 0600, &id), 0);
    assert_int_equal(fabric_shmid_part(3, 6, id), 0);
    assert_int_equal(get(w, 1, 7, 0, 0, &again), 0);
    assert_int_equal(again, id);
    assert_int_equal(get(w, 2, 7, 100, IPC_CREAT | 0600, &again), 0);
    assert_int_equal(again, id);
}

static void test_order_of_checks(void **state)
{
    struct world *w = *state;
    int32_t id = 0;

    assert_int_equal(get(w, 0, 7, 100, IPC_CREAT | 0, &id), 0);
    assert_int_equal(get(w, 1, 7, 101, IPC_CREAT | IPC_EXCL | 0600, NULL), EEXIST);
    assert_int_equal(get(w, 1, 7, 101, IPC_CREAT | 0600, NULL), EINVAL);
    assert_int_equal(get(w, 1, 7, 100, IPC_EXCL, NULL), 0);
    assert_int_equal(get(w, 1, 7, 100, 0600, NULL), EACCES);
    assert_int_equal(get(w, 1, 7, 100, 0, NULL), 0);
    cred.privileged = true;
    assert_int_equal(get(w, 1, 7, 100, 0600, NULL), 0);
    cred.privileged = false;
}

static void test_new_segment_reads(void **state)
{
    struct world *w = *state;
    struct fabric_stat st;
    int32_t id = 0;

    assert_int_equal(get(w, 0, 7, 100, IPC_CREAT | 01640, &id), 0);
    st = stat_of(w, 1, id);
    assert_int_equal(st.mode, 0640);
    assert_int_equal(st.size, 100);
    assert_int_equal(st.key, 7);
    assert_int_equal(st.cpid, 4711);
    assert_int_equal(st.lpid, 0);
    assert_int_equal(st.atime, 0);
    assert_int_equal(st.dtime, 0);
    assert_int_equal(st.nattch, 0);
    assert_int_equal(st.ctime, w->now_s);
    assert_int_equal(st.uid, UID);
}

static void test_private_is_new_each_time(void **state)
{
    struct world *w = *state;
    int32_t a = 0, b = 0, c = 0;

    assert_int_equal(get_token(w, 0, IPC_PRIVATE, 1, 0600, 5, &a), 0);
    assert_int_equal(get_token(w, 0, IPC_PRIVATE, 1, 0600, 6, &b), 0);
    assert_int_not_equal(a, b);
    assert_int_equal(get_token(w, 0, IPC_PRIVATE, 1, 0600, 5, &c), 0); /* the answer was lost */
    assert_int_equal(a, c);
    assert_int_equal(stats(w, 0).segments, 2);
}

static void test_repeated_exclusive_request(void **state)
{
    struct world *w = *state;
    int32_t a = 0, b = 0;

    assert_int_equal(get_token(w, 0, 7, 1, IPC_CREAT | IPC_EXCL | 0600, 5, &a), 0);
    assert_int_equal(get_token(w, 0, 7, 1, IPC_CREAT | IPC_EXCL | 0600, 5, &b), 0);
    assert_int_equal(a, b);
    assert_int_equal(get_token(w, 0, 7, 1, IPC_CREAT | IPC_EXCL | 0600, 6, NULL), EEXIST);
    cred.uid = 101;
    assert_int_equal(get_token(w, 0, 7, 1, IPC_CREAT | IPC_EXCL | 0600, 5, NULL), EEXIST);
    cred.uid = UID;
}

static bool always(void *ctx, uint32_t part)
{
    (void)ctx;
    (void)part;
    return true;
}

static void test_race_for_a_key(void **state)
{
    struct world *w = *state;
    struct clshmd_get req = {.key = 9, .size = 10, .flags = IPC_CREAT | 0600};
    int32_t id;

    w->later = always;
    for (uint32_t part = 0; part < 3; part++) {
        req.token = part + 1;
        core_get(w->part[part].core, 0, 1, &cred, &req);
    }
    world_settle(w);
    id = w->part[0].reply.u.get.shmid;
    for (uint32_t part = 0; part < 3; part++) {
        assert_int_equal(answer(w, part), 0);
        assert_int_equal(w->part[part].reply.u.get.shmid, id);
    }
    assert_int_equal(stats(w, 0).segments + stats(w, 1).segments + stats(w, 2).segments, 1);
    assert_int_equal(stats(w, 0).bytes + stats(w, 1).bytes + stats(w, 2).bytes, 4096);
}

static int refuse_memory(void *ctx, uint32_t part, const struct driver_create *req)
{
    (void)ctx;
    (void)part;
    return req->size == 13 ? ENOMEM : 0;
}

static void test_without_memory_nothing_stays(void **state)
{
    struct world *w = *state;
    int32_t key = 0;

    w->memory_error = refuse_memory;
    assert_int_equal(get(w, 0, 7, 13, IPC_CREAT | 0600, NULL), ENOMEM);
    assert_int_equal(get(w, 0, 7, 1, 0, NULL), ENOENT);
    assert_int_equal(stats(w, 0).segments, 0);
    assert_int_equal(stats(w, 0).bytes, 0);
    assert_int_equal(fresh_key(w, 1, 0, 1, &key), 0);
    assert_int_equal(get(w, 1, key, 13, 0600, NULL), ENOMEM);
    assert_int_equal(stats(w, 0).reserved_keys, 1);
    assert_int_equal(get(w, 1, key, 12, 0600, NULL), 0);
}

static void test_ftok_here_and_there(void **state)
{
    struct world *w = *state;
    int32_t key = 0, key2 = 0, id = 0, again = 0;

    for (uint32_t home = 0; home < 2; home++) {
        assert_int_equal(fresh_key(w, 1, home, 77 + home, &key), 0);
        assert_int_equal(fresh_key(w, 1, home, 77 + home, &key2), 0);
        assert_int_equal(key, key2); /* repeated */
        assert_int_equal(stats(w, home).reserved_keys, 1);
        assert_int_equal(get(w, 2, key, 0, 0600, NULL), EINVAL);
        assert_int_equal(get(w, 2, key, 100, 0600, &id), 0);
        assert_int_equal(fabric_shmid_part(3, 6, id), home);
        assert_int_equal(get(w, 0, key, 100, IPC_CREAT | IPC_EXCL | 0600, NULL), EEXIST);
        assert_int_equal(get(w, 0, key, 99, 0600, NULL), EINVAL);
        assert_int_equal(get(w, 0, key, 100, 0600, &again), 0);
        assert_int_equal(id, again);
        assert_int_equal(stats(w, home).reserved_keys, 0);
        assert_int_equal(stat_of(w, 1, id).flags & FABRIC_SEG_FTOK, FABRIC_SEG_FTOK);
    }
    assert_int_equal(fresh_key(w, 1, 5, 1, &key), ENOENT);
    core_member(w->part[1].core, 0, CORE_MEMBER_STALLED, 1, true);
    assert_int_equal(fresh_key(w, 1, 0, 1, &key), EHOSTDOWN);
}

static void test_first_use_of_a_key_by_two(void **state)
{
    struct world *w = *state;
    struct clshmd_get req = {.size = 10, .flags = 0600};
    int32_t key = 0, id;

    assert_int_equal(fresh_key(w, 0, 0, 1, &key), 0);
    req.key = key;
    w->later = always;
    for (uint32_t part = 0; part < 3; part++) {
        req.token = 10 + part;
        core_get(w->part[part].core, 0, 1, &cred, &req);
    }
    world_settle(w);
    id = w->part[0].reply.u.get.shmid;
    for (uint32_t part = 0; part < 3; part++) {
        assert_int_equal(answer(w, part), 0);
        assert_int_equal(w->part[part].reply.u.get.shmid, id);
    }
}

static void test_removal_of_a_reservation(void **state)
{
    struct world *w = *state;
    struct clshmd_stat st;
    int32_t key = 0, id = 0;

    assert_int_equal(fresh_key(w, 0, 1, 1, &key), 0);
    assert_int_equal(core_next_segment(w->part[1].core, 0, &st), 1);
    assert_int_equal(st.stat.key, key);
    assert_int_equal(ctl(w, 0, st.shmid, CLSHMD_CTL_STAT), EINVAL);
    assert_int_equal(ctl(w, 0, st.shmid, CLSHMD_CTL_RMID), 0);
    assert_int_equal(stats(w, 1).reserved_keys, 0);
    assert_int_equal(get(w, 0, key, 1, 0600, &id), ENOENT);
}

static void test_setpmo(void **state)
{
    struct world *w = *state;
    struct clshmd_setpmo req = {.policy = 2, .nodes = 1};
    int32_t key = 0;

    assert_int_equal(fresh_key(w, 0, 0, 1, &key), 0);
    req.key = key;
    core_setpmo(w->part[1].core, 0, 1, &cred, &req);
    assert_int_equal(answer(w, 1), EINVAL); /* hosted elsewhere */
    core_setpmo(w->part[0].core, 0, 1, &cred, &req);
    assert_int_equal(answer(w, 0), 0);
    assert_int_equal(get(w, 1, key, 1, 0600, NULL), 0);
    core_setpmo(w->part[0].core, 0, 1, &cred, &req);
    assert_int_equal(answer(w, 0), EINVAL); /* too late */
}

static void test_limits(void **state)
{
    struct world *w = *state;
    struct core_limits limits = {
        .op_timeout_ms = 1000, .max_size = 1 << 20, .max_pages = 10, .max_segments_uid = 2, .max_keys_uid = 1};
    int32_t id[3] = {0}, key = 0;

    core_set_limits(w->part[0].core, &limits);
    assert_int_equal(get(w, 0, IPC_PRIVATE, (1 << 20) + 1, 0600, NULL), EINVAL);
    assert_int_equal(get(w, 0, IPC_PRIVATE, 10 * 4096 + 1, 0600, NULL), ENOSPC);
    assert_int_equal(get(w, 0, IPC_PRIVATE, 9 * 4096, 0600, &id[0]), 0);
    assert_int_equal(get(w, 0, IPC_PRIVATE, 4097, 0600, NULL), ENOSPC);
    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id[1]), 0);
    limits.max_pages = 0;
    core_set_limits(w->part[0].core, &limits);
    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, NULL), ENOSPC);
    cred.uid = 101; /* another's quota */
    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id[2]), 0);
    cred.uid = UID;
    assert_int_equal(ctl(w, 0, id[0], CLSHMD_CTL_RMID), 0);
    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id[0]), 0);
    assert_int_equal(fresh_key(w, 0, 0, 1, &key), 0);
    assert_int_equal(fresh_key(w, 0, 0, 2, &key), ENOSPC);
    assert_int_equal(get(w, 0, IPC_PRIVATE, UINT64_MAX, 0600, NULL), EINVAL);
}

static void test_slots_in_turn_and_all_of_them(void **state)
{
    struct world *w = *state;
    int32_t id = 0, first = 0;

    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &first), 0);
    assert_int_equal(ctl(w, 0, first, CLSHMD_CTL_RMID), 0);
    for (uint32_t i = 1; i < 64; i++) {
        assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), 0);
        assert_int_equal(fabric_shmid_slot(6, id), i);
    }
    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), 0);
    assert_int_equal(fabric_shmid_slot(6, id), 0);
    assert_int_not_equal(id, first);
    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), ENOSPC);
    assert_int_equal(ctl(w, 0, first, CLSHMD_CTL_STAT), EINVAL);
}

/* With 31 - 3 - 26 = 2 bits of generation: three ids a slot before they begin anew. */
static void test_ids_do_not_begin_anew_too_early(void **state)
{
    struct world_config config = {.parts = 1, .slots = 1, .part_bits = 3, .slot_bits = 26, .limits.op_timeout_ms = 9};
    struct world *w = world_new(&config);
    int32_t id = 0;

    (void)state;
    assert_int_equal(world_start(w, 0, true, UID), 0);
    client(w, 0, 0);
    for (int i = 0; i < 7; i++) { /* generations 1..7; 4 begins anew, and 8 would */
        assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), 0);
        assert_int_equal(fabric_shmid_gen(3, 26, id), (i + 1) % 4);
        assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0);
    }
    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), ENOSPC);
    world_time(w, 59000);
    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), ENOSPC);
    world_time(w, 1000);
    assert_int_equal(get(w, 0, IPC_PRIVATE, 1, 0600, &id), 0);
    fixture_free(w);
}

static void test_home_that_does_not_answer(void **state)
{
    struct world *w = *state;
    struct clshmd_get req = {.size = 10, .flags = 0600, .token = 3};
    int32_t key = 0;

    assert_int_equal(fresh_key(w, 1, 0, 1, &key), 0);
    world_stop(w, 0);
    req.key = key;
    core_get(w->part[1].core, 0, 1, &cred, &req);
    world_time(w, 999);
    assert_false(w->part[1].reply.here);
    world_time(w, 1);
    assert_int_equal(answer(w, 1), EHOSTDOWN);
    core_get(w->part[1].core, 0, 1, &cred, &req);
    core_member(w->part[1].core, 0, CORE_MEMBER_STALLED, 1, true);
    assert_int_equal(answer(w, 1), EHOSTDOWN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_create_and_find, setup, teardown),
        cmocka_unit_test_setup_teardown(test_order_of_checks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_new_segment_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_private_is_new_each_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_repeated_exclusive_request, setup, teardown),
        cmocka_unit_test_setup_teardown(test_race_for_a_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_without_memory_nothing_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ftok_here_and_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_first_use_of_a_key_by_two, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removal_of_a_reservation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_setpmo, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slots_in_turn_and_all_of_them, setup, teardown),
        cmocka_unit_test(test_ids_do_not_begin_anew_too_early),
        cmocka_unit_test_setup_teardown(test_home_that_does_not_answer, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
