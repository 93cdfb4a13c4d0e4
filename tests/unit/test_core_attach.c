/* SPDX-License-Identifier: GPL-2.0-or-later */
/* OPEN and DETACHED here and across partitions, counts, removal in two phases, fork, death. */
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

static void test_rights_of_an_attachment(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);

    assert_int_equal(attach_as(w, 0, 0, 0, id, CLSHMD_READ), 0);
    assert_int_equal(w->part[0].reply.prot, DRIVER_PROT_READ);
    assert_int_equal(w->part[0].reply.u.open.size, 5000);
    assert_int_equal(attach_as(w, 1, 0, 0, id, CLSHMD_READ | CLSHMD_WRITE), 0);
    assert_int_equal(w->part[1].reply.prot, DRIVER_PROT_READ | DRIVER_PROT_WRITE);
    assert_int_equal(w->part[1].reply.u.open.word, WORD(w, 0, id));
    assert_int_equal(attach_as(w, 1, 0, 1, id, CLSHMD_READ | CLSHMD_EXEC), EACCES);
    assert_int_equal(attach_as(w, 1, 0, 1, id, CLSHMD_WRITE), EINVAL);
    cred.uid = 101;
    cred.gid = 101;
    assert_int_equal(attach_as(w, 1, 0, 2, id, CLSHMD_READ), EACCES);
    assert_int_equal(attach_as(w, 0, 0, 2, id, CLSHMD_READ), EACCES);
    cred.gid = cred.uid = UID;
    assert_int_equal(attach_as(w, 1, 0, 3, id + 64 * 8, CLSHMD_READ), EINVAL);
    assert_int_equal(attach_as(w, 1, 0, 3, fabric_shmid(3, 6, 1, 7, 0), CLSHMD_READ), EINVAL);
}

static void test_strangers(void **state)
{
    struct world *w = *state;
    int32_t closed = segment(w, 0, 0600), open = segment(w, 0, 0604), key = 0, id = 0;

    core_member(w->part[0].core, 1, CORE_MEMBER_ALIVE, 1, false);
    core_member(w->part[1].core, 0, CORE_MEMBER_ALIVE, 1, false);
    assert_int_equal(attach(w, 1, closed), EACCES);
    assert_int_equal(stats(w, 0).foreign_importers, 0);
    assert_int_equal(attach_as(w, 1, 0, 0, open, CLSHMD_READ), 0);
    assert_int_equal(attach_as(w, 1, 0, 1, open, CLSHMD_READ | CLSHMD_WRITE), EACCES);
    cred.privileged = true;
    assert_int_equal(ctl(w, 1, open, CLSHMD_CTL_RMID), EPERM);
    cred.privileged = false;
    assert_int_equal(ctl(w, 1, open, CLSHMD_CTL_RMID), EPERM);
    assert_int_equal(fresh_key(w, 1, 0, 1, &key), 0);
    assert_int_equal(get(w, 1, key, 1, 0600, &id), 0);
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), EPERM); /* nobody's, although its maker has our uid */
}

static void test_counts_are_of_all_partitions(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);
    struct fabric_stat st;

    for (uint32_t part = 0; part < 3; part++)
        assert_int_equal(attach(w, part, id), 0);
    assert_int_equal(attach_as(w, 2, 0, 1, id, CLSHMD_READ), 0);
    w->part[2].entry[0][0].count++; /* without a word */
    for (uint32_t part = 0; part < 3; part++)
        assert_int_equal(stat_of(w, part, id).nattch, 5);
    world_time(w, 5000);
    w->part[2].entry[0][0].count--;
    w->part[2].entry[0][0].dtime = w->now_s;
    st = stat_of(w, 1, id);
    assert_int_equal(st.nattch, 4);
    assert_int_equal(st.dtime, w->now_s);
    assert_int_equal(st.lpid, 1000);
    assert_int_equal(w->n_busy, 0);
}

static void test_removal_waits_for_the_last(void **state)
{
    struct world *w = *state;
    int32_t id = -1, other = -1;
    uint64_t serial;

    assert_int_equal(get(w, 0, 7, 10, IPC_CREAT | 0600, &id), 0);
    serial = world_memory(w, 0, id);
    assert_int_equal(attach(w, 0, id), 0);
    assert_int_equal(attach(w, 1, id), 0);
    assert_int_equal(ctl(w, 1, id, CLSHMD_CTL_RMID), 0);
    assert_true(WORD(w, 0, id) & FABRIC_GEN_MARKED);
    assert_int_equal(stat_of(w, 2, id).mode, 0600 | SHM_DEST);
    assert_int_equal(stat_of(w, 2, id).key, 0);
    assert_int_equal(ctl(w, 1, id, CLSHMD_CTL_RMID), 0);
    assert_int_equal(get(w, 2, 7, 10, 0, NULL), ENOENT);
    assert_int_equal(get(w, 2, 7, 10, IPC_CREAT | 0600, &other), 0);
    assert_int_equal(attach(w, 2, id), 0); /* by id, after the removal */
    detach(w, 0);
    detach(w, 1);
    assert_true(world_serial_lives(w, serial));
    detach(w, 2);
    assert_false(world_serial_lives(w, serial));
    assert_int_equal(attach(w, 1, id), EINVAL);
    assert_int_equal(ctl(w, 1, id, CLSHMD_CTL_STAT), EINVAL);
    assert_int_equal(stats(w, 1).imports, 0);
    assert_int_equal(stats(w, 0).segments, 0);
}

static void test_cached_grants_do_not_hold_it(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);

    assert_int_equal(attach(w, 0, id), 0);
    assert_int_equal(attach(w, 1, id), 0);
    w->part[0].entry[0][0].count--; /* unmarked: no word */
    w->part[1].entry[0][0].count--;
    assert_int_equal(stats(w, 1).imports, 1);
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0);
    assert_int_equal(stats(w, 0).segments, 0);
    assert_int_equal(stats(w, 1).imports, 0);
    assert_int_equal(stats(w, 0).grants + stats(w, 1).grants, 0);
}

static void test_autormid(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600), key = 0;

    assert_int_equal(ctl(w, 1, id, CLSHMD_CTL_AUTORMID), 0);
    assert_int_equal(stats(w, 0).segments, 1); /* waits for its first attachment */
    assert_int_equal(attach(w, 1, id), 0);
    assert_int_equal(attach(w, 2, id), 0);
    detach(w, 1);
    assert_int_equal(stats(w, 0).segments, 1);
    detach(w, 2);
    assert_int_equal(stats(w, 0).segments, 0);

    id = segment(w, 0, 0600);
    assert_int_equal(attach(w, 1, id), 0);
    w->part[1].entry[0][0].count--;
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_AUTORMID), 0); /* was attached, is no longer: at once */
    assert_int_equal(stats(w, 0).segments, 0);

    assert_int_equal(fresh_key(w, 1, 0, 1, &key), 0);
    id = fabric_shmid(3, 6, record_gen(&w->part[0].record[2]), 0, 2);
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_AUTORMID), 0); /* remembered */
    assert_int_equal(get(w, 1, key, 10, 0600, &id), 0);
    assert_int_equal(attach(w, 2, id), 0);
    detach(w, 2);
    assert_int_equal(stats(w, 0).segments, 0);
}

static void test_denied_attachment_is_none(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);

    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_AUTORMID), 0);
    cred.uid = cred.gid = 101;
    assert_int_equal(attach(w, 1, id), EACCES);
    cred.uid = cred.gid = UID;
    assert_int_equal(stats(w, 1).imports, 0);
    assert_int_equal(stats(w, 0).segments, 1);
}

static void test_concurrent_opens_share_an_import(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);
    uint32_t before = w->part[1].replies;

    for (uint32_t i = 0; i < 4; i++) {
        w->part[1].entry[0][i] = (struct clshmd_entry){.shmid = id, .count = 1, .attaches = 1};
        core_open(w->part[1].core, 0, i, &cred, &(struct clshmd_open){.shmid = id, .access = CLSHMD_READ, .entry = i});
    }
    assert_int_equal(w->queue[1 * 3 + 0].count, 1);
    world_settle(w);
    assert_int_equal(w->part[1].replies - before, 4);
    assert_int_equal(stat_of(w, 2, id).nattch, 4);
}

static void test_set_is_seen_by_importers(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0604);
    struct clshmd_ctl set = {.shmid = id, .cmd = CLSHMD_CTL_SET, .uid = 101, .gid = 101, .mode = 07600};
    uint32_t word;

    cred.uid = cred.gid = 102;
    assert_int_equal(attach_as(w, 1, 0, 0, id, CLSHMD_READ), 0);
    word = w->part[1].reply.u.open.word;
    assert_int_equal(ctl_with(w, 2, &set), EPERM);
    cred.uid = cred.gid = UID;
    set.uid = UINT32_MAX;
    assert_int_equal(ctl_with(w, 2, &set), EINVAL);
    set.uid = 101;
    world_time(w, 3000);
    assert_int_equal(ctl_with(w, 2, &set), 0);
    assert_int_not_equal(WORD(w, 0, id), word);
    assert_int_equal(stat_of(w, 0, id).mode, 0600);
    assert_int_equal(stat_of(w, 0, id).ctime, w->now_s);
    assert_int_equal(stat_of(w, 0, id).cuid, UID);
    cred.uid = cred.gid = 102;
    assert_int_equal(attach_as(w, 1, 0, 1, id, CLSHMD_READ), EACCES);
    cred.uid = cred.gid = 101;
    assert_int_equal(attach_as(w, 1, 0, 1, id, CLSHMD_READ | CLSHMD_WRITE), 0);
    cred.uid = cred.gid = UID;
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0); /* the creator keeps its rights */
}

static void test_client_dies(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);
    struct fabric_stat st;

    client(w, 1, 5);
    assert_int_equal(attach_as(w, 1, 5, 3, id, CLSHMD_READ), 0);
    assert_int_equal(attach(w, 2, id), 0);
    world_time(w, 7000);
    client_dies(w, 1, 5);
    assert_int_equal(stats(w, 1).imports, 0);
    st = stat_of(w, 2, id);
    assert_int_equal(st.nattch, 1);
    assert_int_equal(st.dtime, w->now_s);
    assert_int_equal(st.lpid, 1005);
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0);
    client_dies(w, 2, 0);
    assert_int_equal(stats(w, 0).segments, 0);
}

static void test_fork(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);
    struct world_part *p = &w->part[1];

    assert_int_equal(attach(w, 1, id), 0);
    p->page[9] = true;
    assert_int_equal(core_client_fork(p->core, 0, 9), 0);
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0); /* before the child's page shows a count */
    memcpy(p->entry[9], p->entry[0], sizeof(p->entry[0]));
    world_time(w, 2000);
    p->entry[9][0].atime = w->now_s;
    p->entry[9][0].by_parent = 1;
    assert_int_equal(stat_of(w, 0, id).nattch, 2);
    assert_int_equal(stat_of(w, 0, id).lpid, 1000);
    client_dies(w, 1, 0);
    assert_int_equal(stats(w, 0).segments, 1);
    client_dies(w, 1, 9);
    assert_int_equal(stats(w, 0).segments, 0);
    assert_int_equal(stats(w, 1).grants, 0);
}

static void test_entry_used_for_another_segment(void **state)
{
    struct world *w = *state;
    int32_t a = segment(w, 0, 0600), b = segment(w, 0, 0600);

    assert_int_equal(attach(w, 1, a), 0);
    w->part[1].entry[0][0].count--;
    assert_int_equal(attach(w, 1, b), 0);
    assert_int_equal(stats(w, 1).imports, 1);
    assert_int_equal(stats(w, 1).grants, 1);
    assert_int_equal(stat_of(w, 0, a).nattch, 0);
    assert_int_equal(stat_of(w, 0, b).nattch, 1);
}

static void test_importer_dies(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);

    assert_int_equal(attach(w, 1, id), 0);
    assert_int_equal(attach(w, 2, id), 0);
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0);
    detach(w, 2);
    world_die(w, 1);
    core_member(w->part[0].core, 1, CORE_MEMBER_STALLED, 1, true);
    assert_int_equal(stats(w, 0).segments, 1);
    assert_int_equal(stat_of(w, 0, id).nattch, 1); /* its last figure */
    core_member(w->part[0].core, 1, CORE_MEMBER_DEAD, 1, true);
    assert_int_equal(stats(w, 0).segments, 0);
}

static void test_home_stalls_and_dies(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600), id2 = segment(w, 0, 0600), key = 0;

    assert_int_equal(attach(w, 1, id), 0);
    world_die(w, 0);
    core_member(w->part[1].core, 0, CORE_MEMBER_STALLED, 1, true);
    assert_int_equal(attach_as(w, 1, 0, 1, id, CLSHMD_READ), 0); /* is here already */
    assert_int_equal(attach_as(w, 1, 0, 2, id2, CLSHMD_READ), EHOSTDOWN);
    assert_int_equal(ctl(w, 1, id, CLSHMD_CTL_STAT), EHOSTDOWN);
    core_member(w->part[1].core, 0, CORE_MEMBER_DEAD, 1, true);
    assert_int_equal(stats(w, 1).imports, 0);
    assert_int_equal(attach(w, 1, id), EHOSTDOWN);
    assert_int_equal(world_start(w, 0, true, UID), 0);
    world_introduce(w, true);
    assert_int_equal(attach(w, 1, id), EIDRM);
    assert_int_equal(ctl(w, 1, id, CLSHMD_CTL_STAT), EIDRM);
    assert_int_equal(fresh_key(w, 1, 0, 9, &key), 0);
}

static void test_lost_messages_are_repeated(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);

    w->part[1].entry[0][0] = (struct clshmd_entry){.shmid = id, .count = 1, .attaches = 1};
    core_open(w->part[1].core, 0, 1, &cred, &(struct clshmd_open){.shmid = id, .access = CLSHMD_READ});
    world_cut(w, 1, 0, 0);
    world_time(w, 250);
    assert_int_equal(answer(w, 1), 0);
    assert_int_equal(ctl(w, 0, id, CLSHMD_CTL_RMID), 0);
    w->part[1].entry[0][0].count--;
    core_detached(w->part[1].core, 0, 1, &(struct clshmd_detached){.shmid = id});
    world_cut(w, 1, 0, 0); /* RELEASED got lost */
    for (int i = 0; i < 40; i++) {
        world_time(w, 1000);
        world_settle(w);
    }
    assert_int_equal(stats(w, 0).segments, 0);
    fixture_check(w);
}

static void test_late_answer_is_given_back(void **state)
{
    struct world *w = *state;
    int32_t id = segment(w, 0, 0600);

    w->part[1].entry[0][0] = (struct clshmd_entry){.shmid = id, .count = 1, .attaches = 1};
    core_open(w->part[1].core, 0, 1, &cred, &(struct clshmd_open){.shmid = id, .access = CLSHMD_READ});
    assert_true(world_deliver(w, 1, 0, false));
    world_time(w, 1000);
    assert_int_equal(w->part[1].reply.error, EHOSTDOWN);
    assert_int_equal(stats(w, 0).foreign_importers, 1);
    world_settle(w);
    assert_int_equal(stats(w, 0).foreign_importers, 0);
    assert_int_equal(world_memory(w, 1, id), 0);
    fixture_check(w);
}

static void test_grants_are_limited(void **state)
{
    struct world *w = *state;
    struct core_limits limits = {.op_timeout_ms = 1000, .max_grants_uid = 1, .max_clients_uid = 1};
    int32_t id = segment(w, 0, 0600);

    core_set_limits(w->part[1].core, &limits);
    assert_int_equal(attach(w, 1, id), 0);
    assert_int_equal(attach_as(w, 1, 0, 1, id, CLSHMD_READ), ENOMEM);
    assert_int_equal(core_client_new(w->part[1].core, 1, UID, 1), EAGAIN);
    assert_int_equal(core_client_fork(w->part[1].core, 0, 1), EAGAIN);
    assert_int_equal(core_client_new(w->part[1].core, 1, 101, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rights_of_an_attachment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strangers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_counts_are_of_all_partitions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removal_waits_for_the_last, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cached_grants_do_not_hold_it, setup, teardown),
        cmocka_unit_test_setup_teardown(test_autormid, setup, teardown),
        cmocka_unit_test_setup_teardown(test_denied_attachment_is_none, setup, teardown),
        cmocka_unit_test_setup_teardown(test_concurrent_opens_share_an_import, setup, teardown),
        cmocka_unit_test_setup_teardown(test_set_is_seen_by_importers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_client_dies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fork, setup, teardown),
        cmocka_unit_test_setup_teardown(test_entry_used_for_another_segment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_importer_dies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_home_stalls_and_dies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_messages_are_repeated, setup, teardown),
        cmocka_unit_test_setup_teardown(test_late_answer_is_given_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_grants_are_limited, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
