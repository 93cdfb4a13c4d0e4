/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Attaching and detaching without a message (rule 9), under a seeded scheduler that may switch between processes before
 * every single load and store of a shared word: client pages, generation words, the homes' incarnations.
 *
 * The code under test is all real: src/lib/{attach,entries,grants,pieces}.c in the clients (sim_attach_lib.h says how
 * that comes), src/core in the daemons, on tests/fake/core_world. A client and a daemon is a coroutine each. Up to four
 * clients in up to three partitions attach and detach; two more create, change rights (IPC_SET), remove (IPC_RMID) and
 * have removed (IPC_AUTORMID), from two partitions. The scheduler kills clients, daemons (which start again) and whole
 * partitions, which others learn of as of an eviction, and which come back.
 *
 * fstat(2) never says that memory is gone, so that nothing but the protocol keeps a client from mapping it.
 *
 * Checked at each point:
 *   - memory is neither destroyed nor given back to its home while a client maps it;
 *   - no client maps what is gone, unless its home died after the call began;
 *   - whatever a client maps its page counts (counts err upward only).
 * Checked of each attachment:
 *   - it does not succeed when IPC_SET, which forbids it, had returned before it began;
 *   - it succeeds if nobody has touched the segment and nobody died.
 * At the end, when all have detached: no segment is left that was marked, and was attached; after all others were
 * removed too, no import and no memory is left anywhere. No time passes for that: a message that a client failed to
 * send is not made good by one that is repeated.
 *
 *     sim_attach --seeds N    seeds 1..N
 *     sim_attach --seed N     one; --verbose as the last argument tells what happens
 */
#include "tests/sim/sim_attach.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define STEPS_LIMIT 5000000ULL

struct sim sim;
struct sim_total total;

static uint8_t stacks[PARTS + CLIENTS][STACK_SIZE] __attribute__((aligned(64)));

uint32_t chance(uint32_t below)
{
    sim.random ^= sim.random << 13;
    sim.random ^= sim.random >> 7;
    sim.random ^= sim.random << 17;
    return (uint32_t)((sim.random * 0x2545f4914f6cdd1dULL) >> 33) % below;
}

void fail(const char *format, ...)
{
    va_list args;

    if (sim.failed)
        return;
    sim.failed = true;
    printf("seed %llu, step %llu: ", (unsigned long long)sim.seed, (unsigned long long)sim.step);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\nagain: sim_attach --seed %llu\n", (unsigned long long)sim.seed);
}

static bool verbose;

void say(const char *format, ...)
{
    va_list args;

    if (!verbose)
        return;
    printf("%6llu ", (unsigned long long)sim.step);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

static void sent(void *ctx, uint32_t from, uint32_t to, const struct fabric_msg *msg)
{
    (void)ctx;
    say("%u to %u: message %u about %#x, status %d", from, to, msg->op, msg->shmid, msg->status);
}

struct seg *seg_of(int32_t shmid)
{
    for (uint32_t i = sim.segs; i > 0; i--)
        if (sim.seg[i - 1].shmid == shmid)
            return &sim.seg[i - 1];
    fail("nobody has created segment %#x", shmid);
    return &sim.seg[0];
}

/* ------------------------------------------------------------------ the scheduler */

/* A request that waits and a daemon without work always let another go on. */
static bool idle(void)
{
    if (sim.who)
        return sim.who->pending && !sim.who->answered;
    return !((struct sim_daemon *)(void *)sim.current)->busy;
}

void sim_yield(void)
{
    struct coroutine *me = sim.current;

    if (!me)
        return;
    sim.step++;
    check_counts();
    if (sim.failed || idle() || chance(sim.switches) == 0)
        swapcontext(&me->context, &sim.scheduler);
}

static void point(void *ctx)
{
    (void)ctx;
    sim_yield();
}

static void start(struct coroutine *co, uint32_t n, void (*run)(void))
{
    co->running = true;
    co->stack = stacks[n];
    getcontext(&co->context);
    co->context.uc_stack.ss_sp = co->stack;
    co->context.uc_stack.ss_size = STACK_SIZE;
    co->context.uc_link = NULL;
    makecontext(&co->context, run, 0);
}

static void resume(struct coroutine *co, struct sim_client *who)
{
    sim.current = co;
    sim.who = who;
    sim_lib = who ? who->lib : NULL;
    swapcontext(&sim.scheduler, &co->context);
    sim.current = NULL;
    sim.who = NULL;
    sim_lib = NULL;
}

static void start_daemon(uint32_t part, bool fresh)
{
    struct sim_daemon *d = &sim.daemon[part];

    d->fresh = fresh;
    d->busy = true;
    start(&d->co, part, daemon_run);
}

/* ------------------------------------------------------------------ life and death */

static void end_client(struct sim_client *c)
{
    if (!c->lib)
        return;
    for (uint32_t i = 0; i < c->lib->grants.top; i++)
        if (c->lib->grants.grant[i].fd >= 0)
            sim.fd[c->lib->grants.grant[i].fd].open = false;
    if (c->lib->pieces.piece)
        munmap(c->lib->pieces.piece, c->lib->pieces.room * sizeof(struct piece));
    munmap(c->lib, sizeof(*c->lib));
    c->lib = NULL;
    c->alive = c->co.running = false;
}

static void start_client(uint32_t i, uint32_t part, uint32_t ops)
{
    struct sim_client *c = &sim.client[i];
    struct world_part *p = &sim.world->part[part];
    uint32_t id = sim.next_id[part]++ % WORLD_CLIENTS;

    if (p->page[id])
        return; /* so many have ended here that their daemon has not yet heard of */
    *c = (struct sim_client){.part = part, .id = id, .alive = true, .ops = ops};
    c->lib = mmap(NULL, sizeof(*c->lib), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (c->lib == MAP_FAILED)
        abort();
    p->page[id] = true;
    memset(p->entry[id], 0, sizeof(p->entry[id]));
    c->lib->joined = true;
    c->lib->geo.granule = 4096;
    c->lib->entries.page = p->entry[id];
    c->lib->entries.usable = WORLD_ENTRIES;
    start(&c->co, PARTS + i, client_run);
}

static void kill_client(uint32_t i)
{
    struct sim_client *c = &sim.client[i];
    struct sim_daemon *d = &sim.daemon[c->part];

    if (!c->alive || !c->known || d->n_gone == WORLD_CLIENTS)
        return;
    say("client %u of partition %u is killed", c->id, c->part);
    total.kills++;
    d->gone[d->n_gone++] = c->id;
    end_client(c);
    start_client(i, c->part, 6);
}

static void kill_daemon(uint32_t part)
{
    if (sim.down[part] || sim.daemon[part].fresh)
        return;
    say("daemon %u is killed", part);
    total.restarts++;
    world_stop(sim.world, part);
    start_daemon(part, false);
}

static void die(uint32_t part)
{
    if (sim.down[part] || sim.daemon[part].fresh)
        return;
    for (uint32_t i = 0; i < sim.parts; i++)
        if (sim.daemon[i].notice[part] || sim.down[i])
            return;
    say("partition %u dies", part);
    total.deaths++;
    sim.down[part] = true;
    for (uint32_t i = 0; i < sim.clients; i++)
        if (sim.client[i].part == part)
            end_client(&sim.client[i]);
    sim.daemon[part] = (struct sim_daemon){.fresh = true};
    world_die(sim.world, part);
    for (uint32_t i = 0; i < sim.parts; i++)
        if (i != part)
            sim.daemon[i].notice[part] = 1;
}

static void come_back(uint32_t part)
{
    if (!sim.down[part])
        return;
    for (uint32_t i = 0; i < sim.parts; i++)
        if (sim.daemon[i].notice[part])
            return;
    say("partition %u comes back", part);
    sim.down[part] = false;
    for (uint32_t i = 0; i < sim.parts; i++)
        sim.daemon[part].home[i] = i == part ? 0 : sim.world->part[i].incarnation;
    start_daemon(part, true);
    while (sim.daemon[part].fresh && !sim.failed) /* before anybody hears of it */
        resume(&sim.daemon[part].co, NULL);
    for (uint32_t i = 0; i < sim.parts; i++)
        if (i != part)
            sim.daemon[i].notice[part] = 2;
    for (uint32_t i = 0; i < sim.clients; i++)
        if (sim.client[i].part == part)
            start_client(i, part, 8);
}

static void fault(void)
{
    uint32_t part = chance(sim.parts);

    sim.faulted = true;
    switch (chance(5)) {
    case 0:
        die(part);
        break;
    case 1:
    case 2:
        come_back(part);
        break;
    case 3:
        kill_daemon(part);
        break;
    default:
        kill_client(chance(sim.clients));
    }
}

static bool can_run(uint32_t n)
{
    if (n < sim.parts)
        return sim.daemon[n].co.running && daemon_has_work(n);
    n -= sim.parts;
    return n < sim.clients && sim.client[n].co.running && (!sim.client[n].pending || sim.client[n].answered);
}

/* One goes on. @return false: nobody can. */
static bool go_on(void)
{
    uint32_t all = sim.parts + sim.clients, from = chance(all);

    for (uint32_t i = 0; i < all; i++) {
        uint32_t n = (from + i) % all;

        if (!can_run(n))
            continue;
        if (n < sim.parts)
            resume(&sim.daemon[n].co, NULL);
        else
            resume(&sim.client[n - sim.parts].co, &sim.client[n - sim.parts]);
        return true;
    }
    return false;
}

static bool clients_left(void)
{
    for (uint32_t i = 0; i < sim.clients; i++)
        if (sim.client[i].co.running)
            return true;
    return false;
}

static void run(bool faults)
{
    uint32_t waited = 0;

    while (!sim.failed) {
        if (faults && sim.faults && chance(sim.faults) == 0)
            fault();
        if (!go_on()) {
            if (!clients_left())
                return;
            world_time(sim.world, 100); /* what the dead had been asked */
            if (waited++ > 1000)
                fail("a request is not answered");
        }
        if (sim.step > STEPS_LIMIT)
            fail("no end in sight");
    }
}

/* ------------------------------------------------------------------ a run */

static void check_marked(void)
{
    for (uint32_t i = 0; i < sim.segs && !sim.failed; i++) {
        const struct seg *seg = &sim.seg[i];

        if (!seg->serial || world_memory(sim.world, seg->home, seg->shmid) != seg->serial)
            continue;
        if (seg->removing && !sim.faulted)
            fail("segment %#x was removed, nobody attaches it, and it is there", seg->shmid);
        if (seg->automatic && seg->attached)
            fail("segment %#x was to go with its last attachment, and it is there", seg->shmid);
    }
}

static void check_nothing_left(void)
{
    for (uint32_t part = 0; part < sim.parts && !sim.failed; part++) {
        struct world_part *p = &sim.world->part[part];
        const char *broken = p->core ? core_check(p->core) : NULL;

        if (broken)
            fail("partition %u: %s", part, broken);
        if (p->imports)
            fail("partition %u still imports segment %#x", part, p->import[0].shmid);
        for (uint32_t slot = 0; slot < sim.world->config.slots; slot++)
            if (p->own[slot].serial)
                fail("segment %#x of partition %u is left", p->own[slot].shmid, part);
    }
}

/* Also what somebody created who was killed before he knew its id. */
static void remove_all(void)
{
    struct core_cred cred = {.uid = 0, .privileged = true};

    for (uint32_t part = 0; part < sim.parts; part++) {
        struct world_part *p = &sim.world->part[part];

        core_client_new(p->core, WORLD_CLIENTS, 0, 1);
        for (uint32_t slot = 0; slot < sim.world->config.slots; slot++) {
            struct clshmd_ctl req = {.shmid = p->own[slot].shmid, .cmd = CLSHMD_CTL_RMID};

            if (p->own[slot].serial)
                core_ctl(p->core, WORLD_CLIENTS, 1, &cred, &req);
        }
    }
}

static void check_end(void)
{
    for (uint32_t i = 0; i < sim.parts; i++)
        come_back(i);
    run(false);
    if (!sim.failed)
        check_marked();
    if (!sim.failed) {
        remove_all();
        run(false);
        check_nothing_left();
    }
}

static void set_up(uint64_t seed)
{
    struct world_config config = {.slots = 3, .part_bits = 2, .slot_bits = 2};

    memset(&sim, 0, sizeof(sim));
    sim.seed = seed;
    sim.random = seed * 0x9e3779b97f4a7c15ULL + 1;
    for (int i = 0; i < 8; i++)
        chance(2);
    config.parts = sim.parts = 1 + chance(PARTS);
    config.limits = (struct core_limits){.op_timeout_ms = 1000};
    sim.clients = 3 + chance(CLIENTS - 2);
    sim.switches = 1 + chance(2) * chance(10);
    sim.faults = chance(3) ? 0 : 20 + chance(200);
    sim.step = 1;
    sim.next_addr = 1u << 20;
    sim.world = world_new(&config);
    sim.world->replied = client_replied;
    sim.world->memory_gone = memory_is_gone;
    sim.world->point = point;
    sim.world->sent = sent;
    for (uint32_t i = 0; i < sim.parts; i++) {
        sim.daemon[i].home[i] = 1;
        start_daemon(i, true);
        while (sim.daemon[i].fresh && !sim.failed)
            resume(&sim.daemon[i].co, NULL);
    }
    for (uint32_t i = 0; i < sim.parts; i++)
        for (uint32_t k = 0; k < sim.parts; k++)
            sim.daemon[i].home[k] = sim.world->part[k].incarnation;
    world_introduce(sim.world, true);
    for (uint32_t i = 0; i < sim.clients; i++)
        start_client(i, chance(sim.parts), i < 2 ? 16 : 24);
}

static bool run_seed(uint64_t seed)
{
    set_up(seed);
    run(true);
    if (!sim.failed)
        check_end();
    total.steps += sim.step;
    for (uint32_t i = 0; i < sim.clients; i++)
        end_client(&sim.client[i]);
    world_free(sim.world);
    return !sim.failed;
}

int main(int argc, char **argv)
{
    uint64_t first = 1, last = 4000;

    if (argc > 1 && strcmp(argv[argc - 1], "--verbose") == 0) {
        verbose = true;
        argc--;
    }
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0)
            first = last = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seeds") == 0)
            last = strtoull(argv[i + 1], NULL, 10);
        else
            return 2;
    }
    for (uint64_t seed = first; seed <= last; seed++)
        if (!run_seed(seed))
            return 1;
    printf("%llu seeds, %llu steps; attached %llu, %llu of them from the cache, refused %llu; IPC_SET %llu, destroyed "
           "%llu; clients killed %llu, daemons %llu, partitions %llu\n",
           (unsigned long long)(last - first + 1), (unsigned long long)total.steps, (unsigned long long)total.attached,
           (unsigned long long)total.cached, (unsigned long long)total.refused, (unsigned long long)total.sets,
           (unsigned long long)total.removed, (unsigned long long)total.kills, (unsigned long long)total.restarts,
           (unsigned long long)total.deaths);
    return 0;
}
