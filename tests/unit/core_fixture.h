/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests to the cores of a small world (tests/fake), each settled before it returns. */
#ifndef TESTS_UNIT_CORE_FIXTURE_H
#define TESTS_UNIT_CORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#include "src/core/record.h"
#include "tests/fake/core_world.h"

#define UID                  100u
#define WORD(w, home, shmid) ((w)->part[home].gen[fabric_shmid_slot((w)->config.slot_bits, shmid)])

static struct core_cred cred = {.uid = UID, .gid = UID, .pid = 4711};

static inline struct world *fixture_new(uint32_t parts, uint32_t slots)
{
    struct world_config config = {.parts = parts, .slots = slots, .part_bits = 3, .limits = {.op_timeout_ms = 1000}};
    struct world *w;

    while (1u << config.slot_bits < slots)
        config.slot_bits++;
    w = world_new(&config);
    for (uint32_t part = 0; part < parts; part++)
        assert_int_equal(world_start(w, part, true, UID), 0);
    world_introduce(w, true);
    return w;
}

static inline void fixture_check(struct world *w)
{
    for (uint32_t part = 0; part < w->config.parts; part++)
        if (w->part[part].core) {
            const char *wrong = core_check(w->part[part].core);

            if (wrong)
                fail_msg("partition %u: %s", part, wrong);
        }
}

static inline int fixture_free(struct world *w)
{
    fixture_check(w);
    world_free(w);
    return 0;
}

static inline void client(struct world *w, uint32_t part, uint32_t number)
{
    w->part[part].page[number] = true;
    memset(w->part[part].entry[number], 0, sizeof(w->part[part].entry[number]));
    assert_int_equal(core_client_new(w->part[part].core, number, UID, (int32_t)(1000 + number)), 0);
}

static inline void client_dies(struct world *w, uint32_t part, uint32_t number)
{
    core_client_gone(w->part[part].core, number);
    w->part[part].page[number] = false;
    world_settle(w);
}

/* The error of the one reply that must have come. */
static inline int answer(struct world *w, uint32_t part)
{
    world_settle(w);
    fixture_check(w);
    assert_true(w->part[part].reply.here);
    w->part[part].reply.here = false;
    return w->part[part].reply.error;
}

static inline int get_token(struct world *w, uint32_t part, int32_t key, uint64_t size, uint32_t flags, uint64_t token,
                            int32_t *shmid)
{
    struct clshmd_get req = {.key = key, .size = size, .flags = flags, .token = token};
    int error;

    core_get(w->part[part].core, 0, 1, &cred, &req);
    error = answer(w, part);
    if (!error && shmid)
        *shmid = w->part[part].reply.u.get.shmid;
    return error;
}

static inline int get(struct world *w, uint32_t part, int32_t key, uint64_t size, uint32_t flags, int32_t *shmid)
{
    static uint64_t tokens = 1000;

    return get_token(w, part, key, size, flags, ++tokens, shmid);
}

static inline int attach_as(struct world *w, uint32_t part, uint32_t number, uint32_t entry, int32_t shmid,
                            uint32_t access)
{
    struct clshmd_entry *e = &w->part[part].entry[number][entry];
    struct clshmd_open req = {.shmid = shmid, .access = access, .entry = entry};
    int error;

    if (e->shmid != shmid)
        *e = (struct clshmd_entry){.shmid = shmid};
    e->count++;
    e->attaches++;
    e->atime = w->now_s;
    core_open(w->part[part].core, number, 2, &cred, &req);
    error = answer(w, part);
    if (error)
        e->count--;
    else
        assert_int_equal(w->part[part].reply.grant_shmid, shmid);
    return error;
}

static inline int attach(struct world *w, uint32_t part, int32_t shmid)
{
    return attach_as(w, part, 0, 0, shmid, CLSHMD_READ | CLSHMD_WRITE);
}

static inline void detach_as(struct world *w, uint32_t part, uint32_t number, uint32_t entry)
{
    struct clshmd_entry *e = &w->part[part].entry[number][entry];
    struct clshmd_detached req = {.shmid = e->shmid, .entry = entry};

    e->count--;
    e->dtime = w->now_s;
    core_detached(w->part[part].core, number, 3, &req);
    assert_int_equal(answer(w, part), 0);
}

static inline void detach(struct world *w, uint32_t part)
{
    detach_as(w, part, 0, 0);
}

static inline int ctl_with(struct world *w, uint32_t part, const struct clshmd_ctl *req)
{
    core_ctl(w->part[part].core, 0, 4, &cred, req);
    return answer(w, part);
}

static inline int ctl(struct world *w, uint32_t part, int32_t shmid, uint32_t cmd)
{
    return ctl_with(w, part, &(struct clshmd_ctl){.shmid = shmid, .cmd = cmd});
}

static inline struct fabric_stat stat_of(struct world *w, uint32_t part, int32_t shmid)
{
    assert_int_equal(ctl(w, part, shmid, CLSHMD_CTL_STAT), 0);
    assert_int_equal(w->part[part].reply.u.stat.shmid, shmid);
    return w->part[part].reply.u.stat.stat;
}

static inline int fresh_key(struct world *w, uint32_t part, uint32_t home, uint64_t token, int32_t *key)
{
    int error;

    core_ftok(w->part[part].core, 0, 5, &cred, home, token);
    error = answer(w, part);
    if (!error)
        *key = w->part[part].reply.u.ftok.key;
    return error;
}

static inline struct core_stats stats(struct world *w, uint32_t part)
{
    struct core_stats out;

    core_get_stats(w->part[part].core, &out);
    return out;
}

#endif
