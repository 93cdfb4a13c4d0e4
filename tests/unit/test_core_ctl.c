/* SPDX-License-Identifier: GPL-2.0-or-later */
/* shmctl, the rule of permissions, figures when partitions do not answer, totals, PING, listings. */
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

static int32_t segment(struct world *w, uint32_t part, uint32_t mode)
{
    int32_t id = -1;

    assert_int_equal(get(w, part, IPC_PRIVATE, 5000, mode, &id), 0);
    return id;
}

static void test_permission_classes(void **state)
{
    const uint32_t groups[] = {7, 8};
    struct fabric_stat st = {.uid = 1, .gid = 7, .cuid = 2, .cgid = 9, .mode = 0046};
    struct core_cred owner = {.uid = 1, .gid = 1}, creator = {.uid = 2, .gid = 1};
    struct core_cred member = {.uid = 5, .gid = 5, .groups = groups, .n_groups = 2}, other = {.uid = 5, .gid = 5};
    struct core_cred god = {.uid = 5, .gid = 5, .privileged = true};

    (void)state;
    assert_false(core_perm_allows(&st, &owner, 4, false)); /* the class is exclusive */
    assert_false(core_perm_allows(&st, &creator, 4, false));
    assert_true(core_perm_allows(&st, &member, 4, false));
    assert_false(core_perm_allows(&st, &member, 6, false));
    assert_true(core_perm_allows(&st, &other, 6, false));
    assert_false(core_perm_allows(&st, &other, 7, false));
    assert_true(core_perm_allows(&st, &god, 7, false));
    assert_true(core_perm_allows(&st, &owner, 6, true)); /* a stranger is of the others, whatever its numbers */
    assert_false(core_perm_allows(&st, &god, 1, true));
    assert_true(core_perm_owns(&st, &owner, false));
    assert_true(core_perm_owns(&st, &creator, false));
    assert_false(core_perm_owns(&st, &other, false));
    assert_false(core_perm_owns(&st, &god, true));
    st.uid = UINT32_MAX;
    owner.uid = UINT32_MAX;
    assert_false(core_perm_owns(&st, &owner, false)); /* nobody is nobody's owner */
}

static void test_stat_needs_reading(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0), stale = id + (1 << 9); /* next generation */

    for (uint32_t part = 0; part < 2; part++) {
        assert_int_equal(ctl(w, part, id, CLSHMD_CTL_STAT), EACCES);
        assert_int_equal(ctl(w, part, id, CLSHMD_CTL_STAT_INDEX), EACCES);
        assert_int_equal(ctl(w, part, id, CLSHMD_CTL_STAT_ANY), 0);
        assert_int_equal(ctl(w, part, stale, CLSHMD_CTL_STAT_ANY), 0); /* by its index */
        assert_int_equal(w->part[part].reply.u.stat.shmid, id);
        assert_int_equal(ctl(w, part, stale, CLSHMD_CTL_STAT), EINVAL);
        assert_int_equal(ctl(w, part, id + 1, CLSHMD_CTL_STAT_ANY), EINVAL);
        assert_int_equal(ctl(w, part, -1, CLSHMD_CTL_STAT), EINVAL);
        assert_int_equal(ctl(w, part, id, 77), EINVAL);
    }
}

static void test_lock(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);

    assert_int_equal(ctl(w, 1, id, CLSHMD_CTL_LOCK), 0);
    assert_true(w->part[0].own[0].locked);
    assert_int_equal(stat_of(w, 1, id).mode, 0600 | SHM_LOCKED);
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_UNLOCK), 0);
    assert_false(w->part[0].own[0].locked);
    assert_int_equal(stat_of(w, 1, id).mode, 0600);
    cred.uid = cred.gid = 101;
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_LOCK), EPERM);
    assert_int_equal(ctl(w, 1, id, CLSHMD_CTL_LOCK), EPERM);
    assert_int_equal(ctl(w, 1, id, CLSHMD_CTL_RMID), EPERM);
    assert_int_equal(ctl(w, 1, id, CLSHMD_CTL_AUTORMID), EPERM);
    cred.uid = cred.gid = UID;
}

/* The last figure of who does not answer stands, and the answer comes in time. */
static void test_stat_with_a_silent_importer(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);

    assert_int_equal(attach(w, 1, id), 0);
    assert_int_equal(attach(w, 2, id), 0);
    assert_int_equal(stat_of(w, 0, id).nattch, 2);
    world_stop(w, 2);
    core_ctl(w->part[1].core, 0, 9, &cred, &(struct clshmd_ctl){.shmid = id, .cmd = CLSHMD_CTL_STAT});
    world_settle(w);
    assert_false(w->part[1].reply.here);
    world_time(w, 500);
    assert_int_equal(answer(w, 1), 0);
    assert_int_equal(w->part[1].reply.u.stat.stat.nattch, 2);

    core_ctl(w->part[0].core, 0, 9, &cred, &(struct clshmd_ctl){.shmid = id, .cmd = CLSHMD_CTL_STAT});
    assert_false(w->part[0].reply.here);
    core_member(w->part[0].core, 2, CORE_MEMBER_STALLED, 1, true);
    assert_int_equal(answer(w, 0), 0);
    assert_int_equal(w->part[0].reply.u.stat.stat.nattch, 2);
    core_member(w->part[0].core, 2, CORE_MEMBER_DEAD, 1, true);
    assert_int_equal(stat_of(w, 0, id).nattch, 1);
}

static void test_removed_while_counting(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);

    assert_int_equal(attach(w, 1, id), 0);
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0);
    w->part[1].entry[0][0].count--;
    core_ctl(w->part[0].core, 0, 9, &cred, &(struct clshmd_ctl){.shmid = id, .cmd = CLSHMD_CTL_STAT});
    core_detached(w->part[1].core, 0, 3, &(struct clshmd_detached){.shmid = id});
    w->part[0].reply.here = false;
    assert_int_equal(answer(w, 0), 0);
    assert_int_equal(w->part[0].reply.u.stat.stat.nattch, 0);
    assert_int_equal(stats(w, 0).segments, 0);
}

static void test_info(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 2, 0600);
    struct clshmd_info *info = &w->part[0].reply.u.info;

    segment(w, 0, 0600);
    assert_int_equal(ctl(w, 0, 0, CLSHMD_CTL_INFO), 0);
    assert_int_equal(info->used_ids, 2);
    assert_int_equal(info->shm_tot, 4);
    assert_int_equal(info->highest, id & 0x1ff);
    assert_int_equal(info->shmmin, 1);
    assert_int_equal(info->shmmax, UINT64_MAX - (1u << 24));
    assert_int_equal(ctl(w, 2, id, CLSHMD_CTL_RMID), 0);
    world_time(w, 1000);
    assert_int_equal(ctl(w, 0, 0, CLSHMD_CTL_INFO), 0);
    assert_int_equal(info->used_ids, 1);
}

static void test_ping(void **state)
{
    struct world *w = *state;

    for (uint32_t part = 0; part < 2; part++) {
        core_ping(w->part[0].core, 0, 1, part);
        assert_int_equal(answer(w, 0), 0);
        assert_string_equal(w->part[0].reply.u.ping.hostname, "host.example");
    }
    core_ping(w->part[0].core, 0, 1, 3);
    assert_int_equal(answer(w, 0), EINVAL);
    core_ping(w->part[0].core, 0, 1, 2);
    core_member(w->part[0].core, 2, CORE_MEMBER_DEAD, 1, true);
    assert_int_equal(w->part[0].reply.error, EHOSTDOWN);
}

static void test_requests_are_limited(void **state)
{
    struct world *w = *state;
    struct core_limits limits = {.op_timeout_ms = 1000, .max_ops_client = 2};

    core_set_limits(w->part[0].core, &limits);
    for (int i = 0; i < 2; i++)
        core_ping(w->part[0].core, 0, 1, 1);
    assert_int_equal(w->part[0].replies, 0);
    core_ping(w->part[0].core, 0, 1, 1);
    assert_int_equal(w->part[0].reply.error, EAGAIN);
    core_client_disconnected(w->part[0].core, 0);
    assert_int_equal(stats(w, 0).ops, 0);
    world_settle(w);
    assert_int_equal(w->part[0].replies, 1); /* no answer to who is not there */
}

/* Reports count only from who imports, and about himself. */
static void test_lies(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);
    struct fabric_msg msg = {.op = FABRIC_OP_COUNTED, .incarnation = 1, .epoch = 1, .reply_epoch = 1, .shmid = id};

    assert_int_equal(attach(w, 1, id), 0);
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0);
    msg.op = FABRIC_OP_RELEASED;
    core_message(w->part[0].core, 2, &msg, false);
    assert_int_equal(stats(w, 0).segments, 1);
    msg.incarnation = 2; /* of another life */
    core_message(w->part[0].core, 1, &msg, false);
    assert_int_equal(stats(w, 0).segments, 1);
    msg.incarnation = 1;
    msg.op = FABRIC_OP_RELEASE; /* who is not the home cannot ask for it */
    core_message(w->part[1].core, 2, &msg, false);
    assert_int_equal(stats(w, 1).imports, 1);
    msg.op = FABRIC_OP_IMPORTED;
    msg.shmid = fabric_shmid(3, 6, 1, 2, 3);
    core_message(w->part[1].core, 2, &msg, true); /* nobody asked */
    assert_int_equal(stats(w, 1).imports, 1);
    for (uint16_t op = 0; op < 40; op++)
        for (uint32_t part = 0; part < 3; part++) {
            msg.op = op;
            msg.shmid = fabric_shmid(3, 6, 1, part, 60);
            core_message(w->part[1].core, 2, &msg, false);
        }
    world_settle(w);
    fixture_check(w);
    msg.op = FABRIC_OP_RELEASED;
    msg.shmid = id;
    core_message(w->part[0].core, 1, &msg, false);
    assert_int_equal(stats(w, 0).segments, 0);
}

static void test_listings(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);
    struct clshmd_user user;
    struct clshmd_stat st;
    char *text;

    assert_int_equal(attach(w, 0, id), 0);
    assert_int_equal(attach(w, 1, id), 0);
    stat_of(w, 0, id);
    assert_true(core_client_use(w->part[0].core, 0, &user));
    assert_int_equal(user.attachments, 1);
    assert_int_equal(user.pid, 1000);
    assert_true(core_part_use(w->part[0].core, 1, &user));
    assert_int_equal(user.attachments, 1);
    assert_int_equal(user.pid, 0);
    assert_false(core_part_use(w->part[0].core, 2, &user));
    assert_int_equal(core_next_segment(w->part[0].core, 0, &st), 1);
    assert_int_equal(st.shmid, id);
    assert_int_equal(core_next_segment(w->part[0].core, 1, &st), 0);
    assert_int_equal(core_may_read(w->part[1].core, &cred, id), 0);
    assert_int_equal(core_may_read(w->part[2].core, &cred, id), EINVAL);
    text = core_dump(w->part[0].core);
    assert_non_null(strstr(text, "check: good"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_permission_classes),
        cmocka_unit_test_setup_teardown(test_stat_needs_reading, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stat_with_a_silent_importer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removed_while_counting, setup, teardown),
        cmocka_unit_test_setup_teardown(test_info, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ping, setup, teardown),
        cmocka_unit_test_setup_teardown(test_requests_are_limited, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_listings, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
