/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The Nth allocation of the core fails, once and from then on, for every N of a workload: a clean error, the invariants
 * hold, and in the end everything is given back.
 */
#include "core_fixture.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

static uint64_t countdown; /* 0: nothing fails */
static bool for_ever;
static uint64_t failures;

static bool fails(void)
{
    if (!countdown)
        return false;
    if (countdown > 1) {
        countdown--;
        return false;
    }
    if (!for_ever)
        countdown = 0;
    failures++;
    return true;
}

/* calloc and malloc (uthash's) are the core's; the world grows by realloc, which is let be. */
void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
    return __real_realloc(p, size);
}

static void settle(struct world *w)
{
    world_settle(w);
    fixture_check(w);
}

static void open_it(struct world *w, uint32_t part, uint32_t number, uint32_t entry, int32_t shmid)
{
    struct clshmd_open req = {.shmid = shmid, .access = CLSHMD_READ, .entry = entry};
    struct clshmd_entry *e = &w->part[part].entry[number][entry];

    *e = (struct clshmd_entry){.shmid = shmid, .count = 1, .attaches = 1};
    w->part[part].reply.error = -1;
    core_open(w->part[part].core, number, 1, &cred, &req);
    settle(w);
    if (w->part[part].reply.error) {
        e->count = 0;
        core_detached(w->part[part].core, number, 1, &(struct clshmd_detached){.shmid = shmid, .entry = entry});
        settle(w);
    }
}

static void workload(struct world *w)
{
    struct core *a = w->part[0].core, *b = w->part[1].core;
    struct clshmd_get get_it = {.key = 5, .size = 10, .flags = IPC_CREAT | 0600, .token = 9};
    int32_t id = fabric_shmid(3, 6, 1, 0, 0);

    for (uint32_t part = 0; part < 2; part++)
        for (uint32_t n = 1; n < 4; n++)
            w->part[part].page[n] = core_client_new(w->part[part].core, n, UID + n, 1) == 0;
    core_get(a, 1, 1, &cred, &get_it);
    settle(w);
    core_get(b, 1, 1, &cred, &get_it);
    core_ftok(b, 1, 2, &cred, 0, 77);
    core_ftok(b, 1, 2, &cred, 1, 78);
    settle(w);
    for (uint32_t n = 1; n < 4; n++) {
        open_it(w, 0, n, 0, id);
        open_it(w, 1, n, 1, id);
    }
    w->part[1].page[9] = core_client_fork(b, 1, 9) == 0;
    core_ctl(b, 1, 3, &cred, &(struct clshmd_ctl){.shmid = id, .cmd = CLSHMD_CTL_STAT});
    core_ctl(b, 1, 3, &cred, &(struct clshmd_ctl){.shmid = id, .cmd = CLSHMD_CTL_RMID});
    core_ping(b, 1, 3, 0);
    settle(w);
    free(core_dump(a));
}

static void one_run(uint64_t n, bool ever)
{
    struct world *w = fixture_new(2, 64);
    struct core_stats s;

    for_ever = ever;
    countdown = n;
    workload(w);
    countdown = 0;
    for (uint32_t part = 0; part < 2; part++)
        for (uint32_t i = 0; i < WORLD_CLIENTS; i++) {
            core_client_gone(w->part[part].core, i);
            w->part[part].page[i] = false;
        }
    for (int i = 0; i < 8; i++) {
        world_time(w, 250);
        settle(w);
    }
    for (uint32_t part = 0; part < 2; part++) {
        struct clshmd_stat st;

        client(w, part, 0);
        cred.privileged = true;
        while (core_next_segment(w->part[part].core, 0, &st))
            assert_int_equal(ctl(w, part, st.shmid, CLSHMD_CTL_RMID), 0);
        cred.privileged = false;
        core_client_gone(w->part[part].core, 0);
        core_get_stats(w->part[part].core, &s);
        assert_int_equal(s.segments + s.reserved_keys + s.bytes + s.imports + s.clients + s.grants + s.ops, 0);
    }
    fixture_free(w);
}

static void sweep(bool ever)
{
    uint64_t n = 0;

    do {
        failures = 0;
        one_run(++n, ever);
    } while (failures);
    assert_true(n > 30);
}

static void test_once(void **state)
{
    (void)state;
    sweep(false);
}

static void test_from_then_on(void **state)
{
    (void)state;
    sweep(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_once),
        cmocka_unit_test(test_from_then_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
