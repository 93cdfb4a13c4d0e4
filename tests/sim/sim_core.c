/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The core under a seeded scheduler: 2 to 64 partitions, their clients, the fabric and the clock in one process.
 *
 * One step is one message delivered (perhaps twice), one answer of the directory or of memory_create(), one small step
 * of a client, some time passing, a partition learning about another one, or a fault: a daemon killed and started again
 * (what it had queued beyond the ring is lost), a partition paused, dead, back with a new incarnation. After each step
 * core_check() looks at the core that moved, and the model at what it did:
 *
 *   - memory that somebody alive has attached goes only with its partition;
 *   - a segment that nobody asked to remove goes only with its partition;
 *   - whoever attaches gets the segment's one memory;
 *   - each request gets exactly one answer.
 *
 * At the end faults stop, and after a bounded time: nothing is pending, shm_nattch is the true count everywhere, what is
 * marked and not attached is gone. Then everything is removed, and all counters are back at nothing.
 *
 *     sim_core [--seeds N] [--seed S] [--parts N] [--steps N] [--verbose]
 *
 * Seeds 1..N, or only S with its event log when it fails (--verbose: in any case).
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <unistd.h>

#include "src/core/record.h"
#include "tests/sim/sim_core.h"

#define LOG_LINES 120u
#define LOG_WIDTH 200u

static char log_line[LOG_LINES][LOG_WIDTH];
static uint64_t log_count;

uint32_t sim_random(struct sim *sim, uint32_t n)
{
    uint64_t x = sim->random += 0x9e3779b97f4a7c15ULL;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
    x ^= x >> 31;
    return (uint32_t)((x >> 32) * n >> 32);
}

bool sim_chance(struct sim *sim, uint32_t per_10000)
{
    return sim_random(sim, 10000) < per_10000;
}

void sim_log(struct sim *sim, const char *format, ...)
{
    char *line = log_line[log_count % LOG_LINES];
    va_list args;
    int n;

    if (!sim->logging)
        return;
    n = snprintf(line, LOG_WIDTH, "%6lu ", (unsigned long)sim->step);
    va_start(args, format);
    vsnprintf(line + n, LOG_WIDTH - (size_t)n, format, args);
    va_end(args);
    log_count++;
    if (sim->verbose)
        puts(line);
}

void sim_fail(struct sim *sim, const char *format, ...)
{
    va_list args;

    if (sim->logging && !sim->verbose)
        for (uint64_t i = log_count > LOG_LINES ? log_count - LOG_LINES : 0; i < log_count; i++)
            puts(log_line[i % LOG_LINES]);
    printf("seed %lu, %u partitions, step %lu: ", (unsigned long)sim->seed, sim->parts, (unsigned long)sim->step);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
    longjmp(sim->failed, 1);
}

/* ------------------------------------------------------------------ the model */

struct sim_memory *sim_memory(struct sim *sim, uint64_t serial)
{
    if (serial >= sim->memory_size) {
        uint64_t size = 2 * serial + 64;

        sim->memory = realloc(sim->memory, size * sizeof(*sim->memory));
        if (!sim->memory)
            abort();
        memset(sim->memory + sim->memory_size, 0, (size - sim->memory_size) * sizeof(*sim->memory));
        sim->memory_size = size;
    }
    return &sim->memory[serial];
}

static int32_t *removed_at(struct sim *sim, int32_t shmid)
{
    uint32_t at = (uint32_t)shmid * 2654435761u % SIM_REMOVED;

    while (sim->removed[at] && sim->removed[at] != shmid)
        at = (at + 1) % SIM_REMOVED;
    return &sim->removed[at];
}

void sim_removed_add(struct sim *sim, int32_t shmid)
{
    *removed_at(sim, shmid) = shmid;
}

/* What @part has as its own. */
static void look_at_memory(struct sim *sim, uint32_t part)
{
    struct world_part *p = &sim->w->part[part];

    for (uint32_t slot = 0; slot < sim->slots; slot++) {
        struct sim_memory *m;
        uint32_t state;

        if (!p->own[slot].serial)
            continue;
        m = sim_memory(sim, p->own[slot].serial);
        m->shmid = p->own[slot].shmid;
        m->home = part;
        m->incarnation = p->incarnation;
        state = record_state(&p->record[slot]);
        if (state == FABRIC_REC_LIVE || state == FABRIC_REC_DEST)
            m->was_live = true;
    }
}

void sim_check(struct sim *sim, uint32_t part)
{
    struct world_part *p = &sim->w->part[part];
    const char *wrong = p->core ? core_check(p->core) : NULL;

    if (wrong)
        sim_fail(sim, "partition %u: %s", part, wrong);
    look_at_memory(sim, part);
    for (uint32_t i = 0; i < p->imports; i++) {
        struct sim_memory *m = sim_memory(sim, p->import[i].serial);
        uint32_t slot = fabric_shmid_slot(sim->w->config.slot_bits, m->shmid);

        if (m->at[part] && !m->gone && !(sim->w->part[m->home].record[slot].importers >> part & 1))
            sim_fail(sim, "%u has %d attached, which its home does not know", part, m->shmid);
    }
}

static void memory_gone(void *ctx, uint32_t part, int32_t shmid, uint64_t serial, char how)
{
    struct sim *sim = ctx;
    struct sim_memory *m = sim_memory(sim, serial);

    sim_log(sim, "%u: memory %lu of %d: %s", part, (unsigned long)serial, shmid,
            how == 'd'   ? "destroyed"
            : how == 'r' ? "dropped"
                         : "revoked");
    if (how != 'd') {
        if (m->at[part] && !m->gone)
            sim_fail(sim, "%u: import of %d ends (%c) while attached by %u", part, shmid, how, m->at[part]);
        return;
    }
    if (m->attached)
        sim_fail(sim, "%d destroyed while attached by %u", shmid, m->attached);
    if (m->was_live && !*removed_at(sim, shmid))
        sim_fail(sim, "%d destroyed, and nobody had asked for it", shmid);
    m->gone = true;
}

static void sent(void *ctx, uint32_t from, uint32_t to, const struct fabric_msg *msg)
{
    static const char *const name[] = {"none",    "PING", "PONG",     "IMPORT", "IMPORTED", "COUNT",  "COUNTED",
                                       "RELEASE", "BUSY", "RELEASED", "CREATE", "RESERVE",  "REMOVE", "AUTOREMOVE",
                                       "SET",     "STAT", "LOCK",     "DONE",   "WAIT",     "WAKE"};
    struct sim *sim = ctx;

    sim_log(sim, "  %u -> %u %s seq %u %d status %d%s", from, to, name[msg->op], msg->seq, msg->shmid, msg->status,
            sim->dead[to] ? " (dead)" : "");
}

static bool later(void *ctx, uint32_t part)
{
    (void)part;
    return sim_chance(ctx, 4000);
}

static int memory_error(void *ctx, uint32_t part, const struct driver_create *req)
{
    (void)part;
    (void)req;
    return sim_chance(ctx, 300) ? ENOMEM : 0;
}

/* ------------------------------------------------------------------ what partitions know of each other */

bool sim_same_uids(const struct sim *sim, uint32_t a, uint32_t b)
{
    return !sim->strange || a % 2 == b % 2;
}

void sim_tell(struct sim *sim, uint32_t observer, uint32_t subject, enum core_member_state state)
{
    struct world_part *p = &sim->w->part[observer];
    struct sim_view *view = &sim->view[observer][subject];
    uint32_t incarnation = sim->w->part[subject].incarnation;

    if (observer == subject || !p->core || p->paused)
        return;
    if (view->state == state && view->incarnation == incarnation)
        return;
    sim_log(sim, "%u sees %u: state %d incarnation %u", observer, subject, state, incarnation);
    *view = (struct sim_view){.state = state, .incarnation = incarnation};
    core_member(p->core, subject, state, incarnation, sim_same_uids(sim, observer, subject));
    sim_check(sim, observer);
}

static void tell_truth(struct sim *sim, uint32_t observer, uint32_t subject)
{
    bool slow = sim->w->part[subject].paused || !sim->w->part[subject].core;

    if (sim->dead[subject])
        sim_tell(sim, observer, subject, CORE_MEMBER_DEAD);
    else
        sim_tell(sim, observer, subject, slow && sim_chance(sim, 5000) ? CORE_MEMBER_STALLED : CORE_MEMBER_ALIVE);
}

/* ------------------------------------------------------------------ faults */

void sim_start(struct sim *sim, uint32_t part, bool fresh)
{
    sim_log(sim, "%u starts%s", part, fresh ? " anew" : "");
    if (fresh)
        sim->dead[part] = false;
    if (world_start(sim->w, part, fresh, SIM_UID) != 0)
        sim_fail(sim, "%u does not start", part);
    for (uint32_t other = 0; other < sim->parts; other++) {
        sim->view[part][other] = (struct sim_view){.incarnation = UINT32_MAX};
        tell_truth(sim, part, other);
    }
    sim_check(sim, part);
}

static void stop(struct sim *sim, uint32_t part)
{
    sim_log(sim, "%u's daemon dies", part);
    world_stop(sim->w, part);
    for (uint32_t to = 0; to < sim->parts; to++)
        world_cut(sim->w, part, to, 1 + sim_random(sim, 6));
    clients_disconnected(sim, part);
    sim->restarts++;
}

static void die(struct sim *sim, uint32_t part)
{
    sim_log(sim, "%u dies", part);
    for (uint32_t n = 0; n < SIM_CLIENTS; n++)
        if (sim->client[part][n].used)
            client_die(sim, part, n);
    memset(sim->client[part], 0, sizeof(sim->client[part]));
    look_at_memory(sim, part);
    for (uint32_t slot = 0; slot < sim->slots; slot++) {
        uint64_t serial = sim->w->part[part].own[slot].serial;

        if (serial)
            sim_memory(sim, serial)->gone = sim_memory(sim, serial)->died = true;
    }
    world_die(sim->w, part);
    sim->dead[part] = true;
    sim->deaths++;
}

static void fault(struct sim *sim)
{
    uint32_t part = sim_random(sim, sim->parts), what = sim_random(sim, 100);
    struct world_part *p = &sim->w->part[part];

    if (sim->dead[part]) {
        if (what < 60)
            sim_start(sim, part, true);
    } else if (p->paused) {
        if (what < 60) {
            sim_log(sim, "%u goes on", part);
            p->paused = false;
        } else if (what < 70) {
            die(sim, part); /* was given up; it finds out when it looks */
        }
    } else if (!p->core) {
        if (what < 80)
            sim_start(sim, part, false);
    } else if (what < 40) {
        stop(sim, part);
    } else if (what < 55) {
        sim_log(sim, "%u pauses", part);
        p->paused = true;
        sim->pauses++;
    } else if (what < 62) {
        die(sim, part);
    } else if (what < 80) {
        uint32_t n = sim_random(sim, SIM_CLIENTS);

        if (sim->client[part][n].used && !sim->client[part][n].dead) {
            core_client_disconnected(p->core, n);
            if (!sim->client[part][n].answered)
                sim->client[part][n].issued = false;
        }
    }
    sim_check(sim, part);
}

/* ------------------------------------------------------------------ steps */

static void deliver(struct sim *sim)
{
    uint32_t n = sim->w->n_busy, which, from, to;

    if (!n)
        return;
    which = sim->w->busy[sim_random(sim, n)];
    from = which / sim->parts;
    to = which % sim->parts;
    if (!sim->w->part[to].core || sim->w->part[to].paused)
        return;
    sim_log(sim, "%u <- %u op %u seq %u", to, from, sim->w->queue[which].message[sim->w->queue[which].head].msg.op,
            sim->w->queue[which].message[sim->w->queue[which].head].msg.seq);
    world_deliver(sim->w, from, to, !sim->calm && sim_chance(sim, 300));
    sim_check(sim, to);
}

static void directory(struct sim *sim)
{
    uint32_t n = sim->w->n_waiting, which, part;

    if (!n)
        return;
    which = sim_random(sim, n);
    part = sim->w->waiting[which].part;
    if (sim->w->part[part].paused)
        return;
    world_answer(sim->w, which);
    sim_check(sim, part);
}

void sim_pass_time(struct sim *sim, uint32_t ms)
{
    world_time(sim->w, ms);
    for (uint32_t part = 0; part < sim->parts; part++)
        sim_check(sim, part);
}

static void step(struct sim *sim)
{
    uint32_t what = sim_random(sim, 1000);
    uint32_t part = sim_random(sim, sim->parts);

    if (what < 400) {
        deliver(sim);
    } else if (what < 500) {
        directory(sim);
    } else if (what < 960) {
        client_step(sim, part, sim_random(sim, SIM_CLIENTS));
        sim_check(sim, part);
    } else if (what < 970) {
        sim_pass_time(sim, 1 + sim_random(sim, sim_chance(sim, 1000) ? 1500 : 100));
    } else {
        tell_truth(sim, part, sim_random(sim, sim->parts));
    }
    if (sim_chance(sim, sim->faults))
        fault(sim);
}

/* ------------------------------------------------------------------ a run */

static void setup(struct sim *sim, uint32_t parts, uint64_t steps)
{
    struct world_config config = {.slots = 16, .part_bits = 6, .slot_bits = 4};

    sim->random = sim->seed * 0xd1342543de82ef95ULL;
    sim->parts = parts ? parts : sim_chance(sim, 300) ? 64 : 2 + sim_random(sim, 5);
    sim->steps = steps ? steps : 3000 + 500 * sim->parts;
    sim->slots = config.slots;
    sim->strange = sim_chance(sim, 2000);
    sim->faults = sim_chance(sim, 2000) ? 0 : 10 + sim_random(sim, 200);
    config.parts = sim->parts;
    config.limits = (struct core_limits){.op_timeout_ms = SIM_TIMEOUT,
                                         .max_grants_uid = 40,
                                         .max_clients_uid = 6,
                                         .max_keys_uid = 6,
                                         .max_segments_uid = 10,
                                         .max_ops_client = 4};
    sim->w = world_new(&config);
    sim->w->ctx = sim;
    sim->w->later = later;
    sim->w->memory_error = memory_error;
    sim->w->replied = client_replied;
    sim->w->memory_gone = memory_gone;
    sim->w->sent = sim->logging ? sent : NULL;
    memset(sim->id, 0xff, sizeof(sim->id));
    for (uint32_t i = 0; i < SIM_KEYS; i++)
        sim->key[i] = (int32_t)(0x1000 + i);
    for (uint32_t part = 0; part < sim->parts; part++)
        sim_start(sim, part, true);
    for (uint32_t part = 0; part < sim->parts; part++)
        for (uint32_t other = 0; other < sim->parts; other++)
            tell_truth(sim, part, other);
}

static uint64_t crash_seed;

static void crashed(int signal_number)
{
    char text[] = "crashed with seed                     \n";
    size_t at = sizeof(text) - 2;

    for (uint64_t seed = crash_seed; seed && at > 18; seed /= 10)
        text[--at] = (char)('0' + seed % 10);
    (void)!write(STDOUT_FILENO, text, sizeof(text) - 1);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static bool run(uint64_t seed, uint32_t parts, uint64_t steps, bool logging, bool verbose, struct sim *sum)
{
    static struct sim sim;
    volatile bool good = false;

    memset(&sim, 0, sizeof(sim));
    sim.seed = crash_seed = seed;
    sim.logging = logging || verbose;
    sim.verbose = verbose;
    log_count = 0;
    if (setjmp(sim.failed) == 0) {
        setup(&sim, parts, steps);
        for (sim.step = 0; sim.step < sim.steps; sim.step++)
            step(&sim);
        sim_end(&sim);
        good = true;
    }
    world_free(sim.w);
    free(sim.memory);
    sum->steps += sim.step;
    sum->replies += sim.replies;
    sum->attachments += sim.attachments;
    sum->cached += sim.cached;
    sum->removals += sim.removals;
    sum->restarts += sim.restarts;
    sum->deaths += sim.deaths;
    sum->pauses += sim.pauses;
    return good;
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t n = strtoull(text, &end, 0);

    if (!*text || *end) {
        fprintf(stderr, "sim_core: %s: a number was expected\n", text);
        exit(2);
    }
    return n;
}

int main(int argc, char **argv)
{
    uint64_t seeds = 1000, only = 0, parts = 0, steps = 0, failed = 0;
    struct sim sum = {0}, rest = {0};
    bool verbose = false;

    signal(SIGABRT, crashed);
    signal(SIGSEGV, crashed);
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";

        if (!strcmp(option, "--verbose")) {
            verbose = true;
            continue;
        }
        if (!strcmp(option, "--seeds"))
            seeds = number(value);
        else if (!strcmp(option, "--seed"))
            only = number(value);
        else if (!strcmp(option, "--parts"))
            parts = number(value);
        else if (!strcmp(option, "--steps"))
            steps = number(value);
        else {
            fprintf(stderr, "usage: sim_core [--seeds N] [--seed S] [--parts N] [--steps N] [--verbose]\n");
            return 2;
        }
        i++;
    }
    if (parts > SIM_PARTS || parts == 1) {
        fprintf(stderr, "sim_core: 2 to %u partitions\n", SIM_PARTS);
        return 2;
    }
    for (uint64_t seed = only ? only : 1; seed <= (only ? only : seeds) && failed < 5; seed++) {
        if (run(seed, (uint32_t)parts, steps, only != 0, verbose, &sum))
            continue;
        if (!only && !failed)
            run(seed, (uint32_t)parts, steps, true, false, &rest); /* once more, with its log */
        failed++;
    }
    printf(
        "%s: %lu steps, %lu answers, %lu attachments (%lu without a message), %lu removals, %lu restarts, %lu deaths, "
        "%lu pauses\n",
        failed ? "FAILED" : "good", (unsigned long)sum.steps, (unsigned long)sum.replies,
        (unsigned long)sum.attachments, (unsigned long)sum.cached, (unsigned long)sum.removals,
        (unsigned long)sum.restarts, (unsigned long)sum.deaths, (unsigned long)sum.pauses);
    return failed != 0;
}
