/* SPDX-License-Identifier: GPL-2.0-or-later */
/* sim_attach: the processes and their daemons, and what stands in for the kernel below src/lib. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>

#include "tests/sim/sim_attach.h"

#include "include/xp_shm.h"

#define OWNER 1u
#define OTHER 2u

struct lib *sim_lib;

static bool owner_of_segments(const struct sim_client *c)
{
    return c - sim.client < 2;
}

/* ------------------------------------------------------------------ the kernel */

void sim_point(void)
{
    sim_yield();
}

static bool has_memory(uint32_t part, int32_t shmid, uint64_t serial)
{
    return world_memory(sim.world, part, shmid) == serial;
}

/* The words alone must keep a client from what is no longer there: fstat(2) does not tell here, and pages that are
 * gone can be mapped. */
void *sim_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
    struct sim_client *c = sim.who;
    uint32_t home, i;

    (void)addr, (void)offset;
    if (flags & MAP_ANONYMOUS) /* the library's own */
        return mmap(NULL, length, prot, flags, -1, 0);
    sim_yield();
    home = seg_of(sim.fd[fd].shmid)->home;
    if (!sim.fd[fd].open)
        fail("mmap of descriptor %d, which is closed", fd);
    if (!has_memory(c->part, sim.fd[fd].shmid, sim.fd[fd].serial) && c->began > sim.daemon[c->part].lost[home])
        fail("client %u of partition %u maps segment %#x, which is gone", c->id, c->part, sim.fd[fd].shmid);
    for (i = 0; i < MAPPINGS && c->mapping[i].addr; i++)
        continue;
    if (i == MAPPINGS) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    sim.next_addr += length + 4096;
    c->mapping[i] = (struct mapping_made){
        .addr = (void *)sim.next_addr, /* NOLINT */
        .shmid = sim.fd[fd].shmid,
        .serial = sim.fd[fd].serial,
        .revoked = !has_memory(c->part, sim.fd[fd].shmid, sim.fd[fd].serial),
    };
    return c->mapping[i].addr;
}

int sim_munmap(void *addr, size_t length)
{
    (void)length;
    sim_yield();
    for (uint32_t i = 0; i < MAPPINGS; i++) {
        if (sim.who->mapping[i].addr == addr) {
            sim.who->mapping[i].addr = NULL;
            return 0;
        }
    }
    fail("munmap of what is not mapped");
    return -1;
}

int sim_fstat(int fd, struct stat *st)
{
    memset(st, 0, sizeof(*st));
    if (fd < 0 || !sim.fd[fd].open) {
        errno = EBADF;
        return -1;
    }
    st->st_dev = 1;
    st->st_ino = sim.fd[fd].serial;
    st->st_size = 4096;
    return 0;
}

int sim_close(int fd)
{
    sim.fd[fd].open = false;
    return 0;
}

int sim_getrlimit(int resource, struct rlimit *limit)
{
    (void)resource;
    limit->rlim_cur = limit->rlim_max = 12; /* three are kept */
    return 0;
}

int sim_clock_gettime(clockid_t clock, struct timespec *t)
{
    (void)clock;
    *t = (struct timespec){.tv_sec = sim.world->now_s};
    return 0;
}

static int new_fd(uint32_t part, int32_t shmid)
{
    for (int fd = 3; fd < 256; fd++) {
        if (sim.fd[fd].open)
            continue;
        sim.fd[fd].open = true;
        sim.fd[fd].shmid = shmid;
        sim.fd[fd].serial = world_memory(sim.world, part, shmid);
        return fd;
    }
    fail("descriptors are lost");
    return 3;
}

/* ------------------------------------------------------------------ the session: src/lib/session.c's part */

uint32_t lib_word(int32_t shmid)
{
    const struct world_config *w = &sim.world->config;

    sim_yield();
    return sim.world->part[fabric_shmid_part(w->part_bits, w->slot_bits, shmid)]
        .gen[fabric_shmid_slot(w->slot_bits, shmid)];
}

uint32_t lib_incarnation(int32_t shmid)
{
    uint32_t part = fabric_shmid_part(sim.world->config.part_bits, sim.world->config.slot_bits, shmid);

    sim_yield();
    return sim.daemon[sim.who->part].home[part];
}

void lib_enter(struct lib_scope *scope)
{
    (void)scope;
    sim.who->began = ++sim.step;
}

int lib_leave(const struct lib_scope *scope, int error)
{
    (void)scope;
    errno = error;
    return error ? -1 : 0;
}

int lib_ready(void)
{
    return 0;
}

void lib_debug(int level, const char *format, ...)
{
    (void)level, (void)format;
}

int lib_call(enum clshmd_op op, const void *request, size_t size, void *reply, size_t reply_size, int *fds,
             unsigned *n_fds, uint32_t limit_ms, bool *repeated)
{
    struct sim_client *c = sim.who;

    (void)limit_ms, (void)repeated;
    if (op == CLSHMD_GROW)
        return ENOSPC;
    memcpy(&c->request, request, size);
    c->op = op;
    c->tag = ++sim.tags;
    c->taken = c->answered = false;
    c->fd = -1;
    c->pending = true;
    say("client %u of partition %u asks %d about %#x, %u", c->id, c->part, op, c->request.ctl.shmid,
        c->request.ctl.cmd);
    while (!c->answered)
        sim_yield();
    c->pending = false;
    if (!c->reply.error && reply_size)
        memcpy(reply, c->reply.u.bytes, reply_size);
    if (!c->reply.error && fds) {
        *fds = c->fd;
        *n_fds = 1;
    }
    return c->reply.error;
}

void client_replied(void *ctx, uint32_t part, const struct world_reply *reply)
{
    (void)ctx;
    for (uint32_t i = 0; i < sim.clients; i++) {
        struct sim_client *c = &sim.client[i];

        if (!c->alive || c->part != part || c->id != reply->client || !c->pending || c->tag != reply->tag)
            continue;
        c->reply = *reply;
        say("client %u of partition %u is answered %d", c->id, part, reply->error);
        if (reply->prot)
            c->fd = new_fd(part, reply->grant_shmid);
        c->answered = true;
    }
}

/* ------------------------------------------------------------------ what must hold */

void memory_is_gone(void *ctx, uint32_t part, int32_t shmid, uint64_t serial, char how)
{
    (void)ctx;
    for (uint32_t i = 0; i < sim.clients; i++) {
        struct sim_client *c = &sim.client[i];

        for (uint32_t m = 0; c->alive && m < MAPPINGS; m++) {
            struct mapping_made *mapping = &c->mapping[m];

            if (!mapping->addr || mapping->serial != serial || mapping->revoked || (how != 'd' && c->part != part))
                continue;
            if (how == 'v')
                mapping->revoked = true;
            else if (c->part == part || !sim.daemon[c->part].notice[part])
                fail("segment %#x is %s while client %u of partition %u maps it", shmid,
                     how == 'd' ? "destroyed" : "given back", c->id, c->part);
        }
    }
    say("memory of %#x in partition %u: %c", shmid, part, how);
    total.removed += how == 'd';
}

/* Whatever is mapped is counted. */
void check_counts(void)
{
    for (uint32_t i = 0; i < sim.clients; i++) {
        const struct sim_client *c = &sim.client[i];

        for (uint32_t m = 0; c->alive && m < MAPPINGS; m++) {
            int32_t shmid = c->mapping[m].shmid;
            uint32_t mapped = 0, counted = 0;

            if (!c->mapping[m].addr)
                continue;
            for (uint32_t k = 0; k < MAPPINGS; k++)
                mapped += c->mapping[k].addr && c->mapping[k].shmid == shmid;
            for (uint32_t e = 0; e < WORLD_ENTRIES; e++) {
                const struct clshmd_entry *entry = &sim.world->part[c->part].entry[c->id][e];

                counted += entry->shmid == shmid && entry->attaches ? entry->count : 0;
            }
            if (counted < mapped)
                fail("client %u of partition %u maps segment %#x %u times and counts %u", c->id, c->part, shmid, mapped,
                     counted);
        }
    }
}

static void check_attached(const struct sim_client *c, struct seg *seg, bool forbidden, uint32_t allowed)
{
    total.attached++;
    total.cached += c->tag == 0;
    seg->attached = true;
    if (forbidden && seg->allowed == allowed)
        fail("client %u of partition %u attached segment %#x after IPC_SET had returned", c->id, c->part, seg->shmid);
}

/* ------------------------------------------------------------------ a process that attaches and detaches */

/* One of the latest, seldom one that is being removed. */
static struct seg *some_segment(void)
{
    struct seg *seg = NULL;

    for (int tries = 0; tries < 6; tries++) {
        seg = &sim.seg[sim.segs - 1 - chance(sim.segs < 3 ? sim.segs : 3)];
        if (!seg->removing)
            break;
    }
    return seg;
}

static void attach_one(struct sim_client *me)
{
    struct seg *seg = some_segment();
    bool forbidden = seg->forbidden;
    uint32_t allowed = seg->allowed;
    void *p;

    me->tag = 0;
    p = xp_shmat(seg->shmid, NULL, chance(4) ? 0 : SHM_RDONLY);
    if (p != MAP_FAILED) {
        check_attached(me, seg, forbidden, allowed);
        return;
    }
    total.refused++;
    if (!seg->touched && !sim.faulted && errno != ENOMEM)
        fail("client %u of partition %u cannot attach segment %#x: %s", me->id, me->part, seg->shmid, strerror(errno));
}

static bool detach_one(struct sim_client *me)
{
    uint32_t from = chance(MAPPINGS);

    for (uint32_t i = 0; i < MAPPINGS; i++) {
        struct mapping_made *mapping = &me->mapping[(from + i) % MAPPINGS];

        if (!mapping->addr)
            continue;
        if (xp_shmdt(mapping->addr) != 0)
            fail("xp_shmdt: %s", strerror(errno));
        return true;
    }
    return false;
}

/* ------------------------------------------------------------------ those who create, change and remove */

static int ask_ctl(const struct seg *seg, uint32_t cmd, uint32_t mode)
{
    struct clshmd_ctl request = {.shmid = seg->shmid, .cmd = cmd, .uid = OWNER, .gid = OWNER, .mode = mode};

    return lib_call(CLSHMD_CTL, &request, sizeof(request), NULL, 0, NULL, NULL, 0, NULL);
}

static void create(const struct sim_client *me)
{
    struct clshmd_get request = {.key = IPC_PRIVATE, .flags = IPC_CREAT | 0666, .size = 4096, .token = ++sim.tags};
    struct clshmd_get_reply reply;

    if (sim.segs == SEGS ||
        lib_call(CLSHMD_GET, &request, sizeof(request), &reply, sizeof(reply), NULL, NULL, 0, NULL) != 0)
        return;
    sim.seg[sim.segs++] = (struct seg){
        .shmid = reply.shmid,
        .home = me->part,
        .serial = world_memory(sim.world, me->part, reply.shmid),
    };
}

/* Only the second changes rights, so that it is known what they are. */
static void change(const struct sim_client *me, struct seg *seg)
{
    bool allow = seg->forbidden || chance(2);

    if (me - sim.client != 1)
        return;
    total.sets++;
    seg->touched = true;
    if (allow) {
        seg->forbidden = false;
        seg->allowed++;
    }
    if (ask_ctl(seg, CLSHMD_CTL_SET, allow ? 0666 : 0600) == 0 && !allow)
        seg->forbidden = true;
}

static void own_one(struct sim_client *me)
{
    struct seg *seg = &sim.seg[sim.segs ? sim.segs - 1 - chance(sim.segs < 3 ? sim.segs : 3) : 0];
    uint32_t what = chance(16);

    if (!sim.segs || what < 2) {
        create(me);
    } else if (what < 5) {
        change(me, seg);
    } else if (what < 7) {
        seg->touched = seg->removing = true;
        (void)ask_ctl(seg, CLSHMD_CTL_RMID, 0);
    } else if (what < 8) {
        seg->touched = true;
        if (ask_ctl(seg, CLSHMD_CTL_AUTORMID, 0) == 0)
            seg->automatic = true;
    } else {
        for (uint32_t n = chance(60); n > 0; n--)
            sim_yield();
    }
}

void client_run(void)
{
    struct sim_client *me = sim.who;

    while (me->ops > 0 && !sim.failed) {
        me->ops--;
        if (owner_of_segments(me))
            own_one(me);
        else if (!sim.segs)
            sim_yield();
        else if (chance(2) || !detach_one(me))
            attach_one(me);
    }
    while (!owner_of_segments(me) && detach_one(me))
        continue;
    me->co.running = false;
    setcontext(&sim.scheduler);
}

/* ------------------------------------------------------------------ a daemon */

static void serve(struct core *core, struct sim_client *c)
{
    struct core_cred cred = {.uid = owner_of_segments(c) ? OWNER : OTHER, .gid = OTHER, .pid = 1};

    if (!c->known && core_client_new(core, c->id, cred.uid, 1) != 0)
        fail("no more clients");
    c->known = c->taken = true;
    if (c->op == CLSHMD_OPEN)
        core_open(core, c->id, c->tag, &cred, &c->request.open);
    else if (c->op == CLSHMD_DETACHED)
        core_detached(core, c->id, c->tag, &c->request.detached);
    else if (c->op == CLSHMD_CTL)
        core_ctl(core, c->id, c->tag, &cred, &c->request.ctl);
    else
        core_get(core, c->id, c->tag, &cred, &c->request.get);
}

/* The word in gens is told first, then the core, as src/daemon does. */
static bool hear_notice(struct sim_daemon *d, struct core *core)
{
    uint32_t self = (uint32_t)(d - sim.daemon);

    for (uint32_t part = 0; part < sim.parts; part++) {
        uint32_t notice = d->notice[part], incarnation = sim.world->part[part].incarnation;

        if (!notice)
            continue;
        sim_yield();
        d->home[part] = notice == 2 ? incarnation : 0;
        if (notice == 1)
            d->lost[part] = ++sim.step;
        sim_yield();
        core_member(core, part, notice == 2 ? CORE_MEMBER_ALIVE : CORE_MEMBER_DEAD, incarnation, true);
        say("partition %u has heard that %u is %s", self, part, notice == 1 ? "dead" : "alive");
        if (d->notice[part] == notice)
            d->notice[part] = 0;
        return true;
    }
    return false;
}

static bool serve_one(struct sim_daemon *d, struct core *core)
{
    uint32_t self = (uint32_t)(d - sim.daemon), from = chance(CLIENTS);

    for (uint32_t i = 0; i < sim.clients; i++) {
        struct sim_client *c = &sim.client[(from + i) % sim.clients];

        if (c->alive && c->part == self && c->pending && !c->taken && !c->answered) {
            serve(core, c);
            return true;
        }
    }
    return false;
}

static bool deliver_one(uint32_t self)
{
    uint32_t from = chance(sim.parts);

    for (uint32_t i = 0; i < sim.parts; i++)
        if (world_deliver(sim.world, (from + i) % sim.parts, self, false))
            return true;
    return false;
}

static void work(struct sim_daemon *d, struct core *core)
{
    uint32_t self = (uint32_t)(d - sim.daemon);

    if (hear_notice(d, core))
        return;
    if (d->n_gone && chance(2)) {
        uint32_t n = d->n_gone - 1, id = d->gone[n];

        core_client_gone(core, id);
        sim.world->part[self].page[id] = false;
        d->gone[n] = d->gone[--d->n_gone]; /* not before: the lock stays free for a daemon that starts again */
    } else if (chance(2)) {
        (void)(serve_one(d, core) || deliver_one(self));
    } else {
        (void)(deliver_one(self) || serve_one(d, core));
    }
}

bool daemon_has_work(uint32_t part)
{
    const struct sim_daemon *d = &sim.daemon[part];

    if (d->busy || d->n_gone)
        return true;
    for (uint32_t i = 0; i < sim.parts; i++)
        if (d->notice[i] || sim.world->queue[i * sim.parts + part].count)
            return true;
    for (uint32_t i = 0; i < sim.clients; i++) {
        const struct sim_client *c = &sim.client[i];

        if (c->alive && c->part == part && c->pending && !c->taken && !c->answered)
            return true;
    }
    return false;
}

void daemon_run(void)
{
    struct sim_daemon *d = (struct sim_daemon *)(void *)sim.current; /* co comes first */
    uint32_t self = (uint32_t)(d - sim.daemon);

    if (world_start(sim.world, self, d->fresh, OTHER))
        fail("partition %u cannot start", self);
    d->fresh = false;
    d->home[self] = sim.world->part[self].incarnation;
    for (uint32_t part = 0; part < sim.parts; part++)
        core_member(sim.world->part[self].core, part,
                    part == self || d->home[part] ? CORE_MEMBER_ALIVE : CORE_MEMBER_DEAD,
                    sim.world->part[part].incarnation, true);
    for (uint32_t i = 0; i < sim.clients; i++) {
        if (sim.client[i].part != self)
            continue;
        sim.client[i].known = sim.client[i].alive && sim.client[i].co.running;
        sim.client[i].taken = false; /* what had no answer is asked again */
        if (sim.client[i].lib)
            sim.client[i].lib->hellos++;
    }
    for (;;) {
        d->busy = false;
        sim_yield();
        d->busy = true;
        if (daemon_has_work(self))
            work(d, sim.world->part[self].core);
    }
}
