/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a run ends: faults stop, and after a bounded time nothing is pending, the figures are true, and rights are those
 * that the segments have. Then everything is removed and everything must have been given back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#include "tests/sim/sim_core.h"

static bool busy(struct sim *sim)
{
    for (uint32_t part = 0; part < sim->parts; part++)
        for (uint32_t n = 0; n < SIM_CLIENTS; n++)
            if (client_busy(&sim->client[part][n]))
                return true;
    return false;
}

static void calm_down(struct sim *sim, uint32_t rounds)
{
    for (uint32_t round = 0; round < rounds || busy(sim); round++) {
        if (round > rounds + 200)
            sim_fail(sim, "somebody waits for ever");
        for (uint32_t part = 0; part < sim->parts; part++)
            for (uint32_t n = 0; n < SIM_CLIENTS; n++)
                client_step(sim, part, n);
        world_settle(sim->w);
        sim_pass_time(sim, SIM_TIMEOUT / 4);
        world_settle(sim->w);
    }
}

static int probe(struct sim *sim, uint32_t part, const struct clshmd_ctl *req)
{
    static const struct core_cred god = {.uid = 0, .privileged = true, .pid = 1};
    struct world_part *p = &sim->w->part[part];

    p->reply.here = false;
    core_ctl(p->core, SIM_PROBE, 1, &god, req);
    world_settle(sim->w);
    if (!p->reply.here)
        sim_fail(sim, "%u: no answer about %d", part, req->shmid);
    return p->reply.error;
}

static void check_count(struct sim *sim, struct sim_memory *m)
{
    uint32_t part = sim_random(sim, sim->parts);
    struct clshmd_ctl req = {.shmid = m->shmid, .cmd = CLSHMD_CTL_STAT};
    int error;

    while (sim->dead[part])
        part = (part + 1) % sim->parts;
    if (!sim_same_uids(sim, part, m->home))
        part = m->home;
    error = probe(sim, part, &req);
    if (error)
        sim_fail(sim, "%d of %u, asked by %u: error %d", m->shmid, m->home, part, error);
    if (sim->w->part[part].reply.u.stat.stat.mode & SHM_DEST && !m->attached)
        sim_fail(sim, "%d of %u is removed and not attached, yet it is there", m->shmid, m->home);
    if (sim->w->part[part].reply.u.stat.stat.nattch != m->attached)
        sim_fail(sim, "%d of %u, asked by %u: nattch %u, true is %u\n%s", m->shmid, m->home, part,
                 sim->w->part[part].reply.u.stat.stat.nattch, m->attached, core_dump(sim->w->part[m->home].core));
}

/* Is an attachment by somebody decided by the rights that the segment has now? */
static void check_rights(struct sim *sim, struct sim_memory *m)
{
    uint32_t part = sim_random(sim, sim->parts), slot = fabric_shmid_slot(sim->w->config.slot_bits, m->shmid);
    const struct fabric_record *r = &sim->w->part[m->home].record[slot];
    struct fabric_stat stat = {.mode = r->mode, .uid = r->uid, .gid = r->gid, .cuid = r->cuid, .cgid = r->cgid};
    struct core_cred cred = {.uid = SIM_UID + 1, .gid = SIM_UID + 1, .pid = 1};
    struct clshmd_open req = {.shmid = m->shmid, .access = CLSHMD_READ};
    struct world_part *p = &sim->w->part[part];
    struct clshmd_entry *e = &p->entry[SIM_PROBE][0];
    int expected =
        core_perm_allows(&stat, &cred, 4, part != m->home && !sim_same_uids(sim, part, m->home)) ? 0 : EACCES;

    if (sim->dead[part])
        return;
    *e = (struct clshmd_entry){.shmid = m->shmid, .count = 1, .attaches = 1};
    p->reply.here = false;
    core_open(p->core, SIM_PROBE, 1, &cred, &req);
    world_settle(sim->w);
    if (!p->reply.here || p->reply.error != expected)
        sim_fail(sim, "%u opens %d: error %d, expected %d", part, m->shmid, p->reply.error, expected);
    e->count = 0;
    core_detached(p->core, SIM_PROBE, 1, &(struct clshmd_detached){.shmid = m->shmid});
    world_settle(sim->w);
}

static void settle_faults(struct sim *sim)
{
    sim->calm = true;
    for (uint32_t part = 0; part < sim->parts; part++) {
        sim->w->part[part].paused = false;
        if (sim->dead[part] && (part == 0 || sim_chance(sim, 5000)))
            sim_start(sim, part, true);
        else if (!sim->dead[part] && !sim->w->part[part].core)
            sim_start(sim, part, false);
    }
    for (uint32_t a = 0; a < sim->parts; a++)
        for (uint32_t b = 0; b < sim->parts; b++)
            sim_tell(sim, a, b, sim->dead[b] ? CORE_MEMBER_DEAD : CORE_MEMBER_ALIVE);
}

static void check_peace(struct sim *sim)
{
    struct core_stats stats;

    for (uint32_t part = 0; part < sim->parts; part++) {
        if (sim->dead[part])
            continue;
        core_get_stats(sim->w->part[part].core, &stats);
        if (stats.ops)
            sim_fail(sim, "%u: an op is pending\n%s", part, core_dump(sim->w->part[part].core));
        sim->w->part[part].page[SIM_PROBE] = true;
        memset(sim->w->part[part].entry[SIM_PROBE], 0, sizeof(sim->w->part[part].entry[SIM_PROBE]));
        if (core_client_new(sim->w->part[part].core, SIM_PROBE, 0, 1) != 0)
            sim_fail(sim, "%u: no probe", part);
    }
    for (uint64_t serial = 1; serial <= sim->w->serials; serial++) {
        struct sim_memory *m = sim_memory(sim, serial);

        if (m->was_live && !m->gone) {
            if (world_memory(sim->w, m->home, m->shmid) != serial)
                sim_fail(sim, "%d has got lost", m->shmid);
            check_count(sim, m);
            check_rights(sim, m);
        }
    }
}

static void remove_everything(struct sim *sim)
{
    struct clshmd_stat st;

    for (uint32_t part = 0; part < sim->parts; part++)
        for (uint32_t n = 0; n < SIM_CLIENTS; n++)
            if (sim->client[part][n].used)
                client_die(sim, part, n);
    calm_down(sim, 4);
    for (uint32_t part = 0; part < sim->parts; part++)
        for (uint32_t at = 0; !sim->dead[part] && (at = core_next_segment(sim->w->part[part].core, at, &st));) {
            struct clshmd_ctl req = {.shmid = st.shmid, .cmd = CLSHMD_CTL_RMID};

            sim_removed_add(sim, st.shmid);
            if (probe(sim, part, &req) != 0)
                sim_fail(sim, "%d cannot be removed", st.shmid);
        }
    calm_down(sim, 4 * 36); /* RELEASE is repeated seldom */
    for (uint32_t part = 0; part < sim->parts; part++) {
        struct core_stats s;

        if (sim->dead[part])
            continue;
        core_client_gone(sim->w->part[part].core, SIM_PROBE);
        core_get_stats(sim->w->part[part].core, &s);
        if (s.segments || s.reserved_keys || s.bytes || s.pages || s.imports || s.clients || s.grants ||
            s.attachments || s.ops || s.foreign_importers || sim->w->part[part].imports)
            sim_fail(sim, "%u: not everything was given back\n%s", part, core_dump(sim->w->part[part].core));
        for (uint32_t slot = 0; slot < sim->slots; slot++)
            if (sim->w->part[part].own[slot].serial)
                sim_fail(sim, "%u: memory of %d leaks", part, sim->w->part[part].own[slot].shmid);
        sim_check(sim, part);
    }
}

void sim_end(struct sim *sim)
{
    settle_faults(sim);
    calm_down(sim, 4 * 36); /* RELEASE is repeated seldom */
    check_peace(sim);
    remove_everything(sim);
}
