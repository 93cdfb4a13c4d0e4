/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The key table under a seeded scheduler that may switch between partitions before every single load, store and
 * compare-and-swap on shared memory. The code under test is src/fabric/area itself, built with AREA_SIM: buckets of four
 * cells, all keys in one bucket.
 *
 * A partition is a coroutine that claims, looks up, changes and removes a few keys in a few slots, as a core would. The
 * scheduler picks who goes on; now and then it lets one sleep for long, kills a daemon in the middle of anything (and
 * starts it again later: restore), or declares a partition dead while it still runs on (and buries it later: rejoin).
 *
 * Checked before every access:
 *   - no key has two valid LIVE cells;
 *   - who was told that it has a key has a valid LIVE cell until it removes it or dies.
 * Checked of every answer:
 *   - OTHER names a segment that had the key at some moment since the question;
 *   - NONE (lookup): there was a moment since the question when nobody had it;
 *   - FAILED comes only where a record with that key was being written.
 * At the end, when all are well again: no cell is left but those of segments that are there.
 *
 *     sim_keytable --seeds N    seeds 1..N (default 4000)
 *     sim_keytable --seed N     one
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "src/fabric/area/area_mem.h"

#define PARTS       5u
#define SLOTS       3u
#define KEYS        3u
#define GENS        64u /* more than a slot goes through in one run */
#define STACK_SIZE  (64u * 1024)
#define FIRST_KEY   100
#define STEPS_LIMIT 20000000ULL

struct seg {
    bool won;
    int32_t key;
};

struct partition {
    ucontext_t context;
    uint8_t *stack;
    bool running; /* has a coroutine that is not done */
    bool down;    /* its daemon was killed */
    bool zombie;  /* declared dead; runs on if `running` */
    bool fresh;   /* next start is a new incarnation */
    uint32_t incarnation, ops;
    uint64_t asleep; /* until this step */
    struct seg seg[SLOTS];
};

static struct {
    struct area area;
    void *memory;
    struct partition part[PARTS];
    struct partition *current;
    ucontext_t scheduler;
    uint32_t parts, slots, keys, switches, faults;
    uint64_t seed, random, step;
    /* step at which it was last seen so */
    uint64_t valid[PARTS][SLOTS][GENS];
    uint64_t absent[KEYS], written[KEYS];
    bool failed;
} sim;

static struct {
    uint64_t steps, won, other, none, full, failed, kills, deaths, rounds;
} total;

/* ------------------------------------------------------------------ chance */

static uint32_t chance(uint32_t below)
{
    sim.random ^= sim.random << 13;
    sim.random ^= sim.random >> 7;
    sim.random ^= sim.random << 17;
    return (uint32_t)((sim.random * 0x2545f4914f6cdd1dULL) >> 33) % below;
}

static struct fabric_record *record_at(uint32_t part, uint32_t slot);
static const uint64_t *cells(void);

static void print_cell(uint32_t index)
{
    uint64_t cell = cells()[index];
    const struct fabric_record *rec = record_at(FABRIC_CELL_PART(cell), FABRIC_CELL_SLOT(cell));

    printf(
        "cell %u: state %u, partition %u slot %u generation %u; record: generation %u, state %u, incarnation %u, key "
        "%d, cell %llu\n",
        index, FABRIC_CELL_STATE(cell), FABRIC_CELL_PART(cell), FABRIC_CELL_SLOT(cell), FABRIC_CELL_GEN(cell),
        FABRIC_REC_GEN(rec->head), FABRIC_REC_STATE(rec->head), rec->incarnation, rec->key,
        (unsigned long long)rec->cell);
}

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void fail(const char *format, ...)
{
    va_list args;

    if (sim.failed)
        return;
    sim.failed = true;
    printf("seed %llu, step %llu: ", (unsigned long long)sim.seed, (unsigned long long)sim.step);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\nagain: sim_keytable --seed %llu\n", (unsigned long long)sim.seed);
    for (uint32_t i = 0; i < AREA_BUCKET_CELLS; i++)
        print_cell(i);
}

/* ------------------------------------------------------------------ invariants: read directly, nothing of the area's */

static struct fabric_record *record_at(uint32_t part, uint32_t slot)
{
    const struct fabric_superblock *sb = &sim.area.sb;

    return (struct fabric_record *)(void *)(sim.area.base + sb->blocks_offset + part * sb->block_size +
                                            sb->records_offset) +
           slot;
}

static const uint64_t *cells(void)
{
    return (const uint64_t *)(void *)(sim.area.base + sim.area.sb.keys_offset);
}

/* @return the number of the key that @cell rightly stands for, -1: none. */
static int cell_key(uint64_t cell)
{
    uint32_t part = FABRIC_CELL_PART(cell), slot = FABRIC_CELL_SLOT(cell), state;
    const struct fabric_slot_life *life;
    const struct fabric_record *rec;

    if (FABRIC_CELL_STATE(cell) != FABRIC_CELL_LIVE)
        return -1;
    rec = record_at(part, slot);
    life = (const struct fabric_slot_life *)(const void *)(sim.area.base + sim.area.sb.slots_offset +
                                                           part * sizeof(struct fabric_slot));
    state = FABRIC_REC_STATE(rec->head);
    if (FABRIC_REC_GEN(rec->head) != FABRIC_CELL_GEN(cell) || state < FABRIC_REC_NEW || state > FABRIC_REC_LIVE)
        return -1;
    if (life->life != FABRIC_LIFE(rec->incarnation, FABRIC_LIFE_ALIVE, 0))
        return -1;
    return rec->key - FIRST_KEY;
}

static void check_winners(void)
{
    for (uint32_t p = 0; p < sim.parts; p++) {
        for (uint32_t s = 0; s < sim.slots; s++) {
            const struct seg *seg = &sim.part[p].seg[s];
            const struct fabric_record *rec = record_at(p, s);
            uint64_t cell;

            if (FABRIC_REC_VERSION(rec->head) & 1 && rec->key >= FIRST_KEY)
                sim.written[rec->key - FIRST_KEY] = sim.step;
            if (!seg->won)
                continue;
            cell = rec->cell ? cells()[rec->cell - 1] : 0;
            if (cell_key(cell) != seg->key - FIRST_KEY || FABRIC_CELL_PART(cell) != p || FABRIC_CELL_SLOT(cell) != s)
                fail("partition %u won key %d for slot %u, and its cell is gone", p, seg->key, s);
        }
    }
}

static void check_step(void)
{
    uint32_t count[KEYS] = {0};

    sim.step++;
    for (uint32_t i = 0; i < AREA_BUCKET_CELLS; i++) {
        uint64_t cell = cells()[i];
        int key = cell_key(cell);

        if (key < 0)
            continue;
        count[key]++;
        sim.valid[FABRIC_CELL_PART(cell)][FABRIC_CELL_SLOT(cell)][FABRIC_CELL_GEN(cell) % GENS] = sim.step;
    }
    for (uint32_t k = 0; k < sim.keys; k++) {
        if (count[k] == 0)
            sim.absent[k] = sim.step;
        if (count[k] > 1)
            fail("key %u has %u valid cells", FIRST_KEY + k, count[k]);
    }
    check_winners();
}

/* Called before every access to shared memory. */
void area_point(void)
{
    struct partition *p = sim.current;

    if (!p)
        return;
    check_step();
    if (sim.failed || chance(sim.switches) == 0)
        swapcontext(&p->context, &sim.scheduler);
}

/* ------------------------------------------------------------------ what a partition does */

static void check_other(const struct core_found *found, int32_t key, uint64_t since)
{
    const struct fabric_superblock *sb = &sim.area.sb;
    uint32_t part = fabric_shmid_part(sb->part_bits, sb->slot_bits, found->shmid);
    uint32_t slot = fabric_shmid_slot(sb->slot_bits, found->shmid);
    uint32_t gen = fabric_shmid_gen(sb->part_bits, sb->slot_bits, found->shmid);

    total.other++;
    if (part >= sim.parts || slot >= sim.slots || part != found->home || found->stat.key != key)
        fail("an answer that makes no sense: shmid %d, key %d for %d", found->shmid, found->stat.key, key);
    else if (sim.valid[part][slot][gen % GENS] < since)
        fail("told that partition %u slot %u generation %u has key %d, which it had not since", part, slot, gen, key);
}

static void check_failed(const struct core_found *found, int32_t key, uint64_t since)
{
    total.failed++;
    if (sim.written[key - FIRST_KEY] < since)
        fail("key %d: failed with %d, and no record of it was being written", key, found->error);
}

static void op_lookup(int32_t key)
{
    uint64_t since = sim.step;
    struct core_found found;

    area_lookup(&sim.area, key, &found);
    check_step();
    if (found.state == CORE_FOUND_OTHER)
        check_other(&found, key, since);
    else if (found.state == CORE_FOUND_FAILED)
        check_failed(&found, key, since);
    else if (sim.absent[key - FIRST_KEY] < since)
        fail("lookup of key %d found nothing, and somebody had it all the time", key);
    if (found.state == CORE_FOUND_NONE)
        total.none++;
}

static void fill_record(struct fabric_record *rec, int32_t key, uint32_t incarnation)
{
    area_point();
    record_new(rec);
    area_point();
    rec->key = key;
    rec->incarnation = incarnation;
    rec->mode = 0600;
    area_point();
    record_ready(rec, FABRIC_REC_NEW);
}

static void give_up(struct partition *me, uint32_t self, uint32_t slot, struct fabric_record *rec)
{
    me->seg[slot].won = false;
    record_set_state(rec, FABRIC_REC_FREE);
    area_unclaim(&sim.area, self, slot);
}

static void op_claim(struct partition *me, uint32_t self, uint32_t slot, int32_t key)
{
    struct fabric_record *rec = area_record(&sim.area, self, slot, true);
    uint64_t since;
    struct core_found found;

    fill_record(rec, key, me->incarnation);
    since = sim.step;
    area_claim(&sim.area, self, slot, key, &found);
    if (found.state == CORE_FOUND_NONE && !me->zombie)
        me->seg[slot] = (struct seg){.won = true, .key = key};
    check_step();
    if (found.state == CORE_FOUND_NONE && chance(5)) {
        total.won++;
        area_point();
        record_set_state(rec, chance(3) ? FABRIC_REC_LIVE : FABRIC_REC_RESERVED);
        return;
    }
    if (found.state == CORE_FOUND_OTHER)
        check_other(&found, key, since);
    else if (found.state == CORE_FOUND_FAILED)
        check_failed(&found, key, since);
    else if (found.state == CORE_FOUND_FULL)
        total.full++;
    give_up(me, self, slot, rec);
}

static void op_change(uint32_t self, uint32_t slot)
{
    struct fabric_record *rec = area_record(&sim.area, self, slot, false);

    if (record_state(rec) == FABRIC_REC_RESERVED && chance(2)) {
        record_set_state(rec, FABRIC_REC_LIVE);
        return;
    }
    record_begin(rec);
    area_point();
    rec->mode = 0600 | chance(0100);
    area_point();
    record_end(rec);
}

static void op_remove(struct partition *me, uint32_t self, uint32_t slot)
{
    struct fabric_record *rec = area_record(&sim.area, self, slot, false);

    me->seg[slot].won = false;
    record_set_state(rec, FABRIC_REC_DEST);
    area_point();
    area_unclaim(&sim.area, self, slot);
    area_point();
    record_set_state(rec, FABRIC_REC_FREE);
}

/* As core_restore(). Whether a record is of this incarnation is asked of the record: a first daemon may have died here. */
static void restore(struct partition *me, uint32_t self)
{
    for (uint32_t s = 0; s < sim.slots; s++) {
        struct fabric_record *rec = area_record(&sim.area, self, s, false);
        uint32_t state;

        if (!rec)
            continue;
        if (FABRIC_REC_VERSION(record_head(rec)) & 1)
            record_end(rec);
        area_point();
        state = record_state(rec);
        if (rec->incarnation == me->incarnation && (state == FABRIC_REC_LIVE || state == FABRIC_REC_RESERVED))
            continue;
        me->seg[s].won = false;
        record_set_state(rec,
                         state == FABRIC_REC_LIVE || state == FABRIC_REC_RESERVED ? FABRIC_REC_LOST : FABRIC_REC_FREE);
        area_unclaim(&sim.area, self, s);
    }
}

static void run_partition(void)
{
    struct partition *me = sim.current;
    uint32_t self = (uint32_t)(me - sim.part);

    if (me->fresh && area_life_claim(&sim.area, self, &me->incarnation))
        fail("partition %u cannot join", self);
    me->fresh = false;
    restore(me, self);
    for (; me->ops > 0; me->ops--) {
        uint32_t slot = chance(sim.slots);
        int32_t key = FIRST_KEY + (int32_t)chance(sim.keys);
        uint32_t what = chance(10);

        if (what < 3)
            op_lookup(key);
        else if (!me->zombie && me->seg[slot].won)
            what < 6 ? op_change(self, slot) : op_remove(me, self, slot);
        else if (!me->zombie || what < 6)
            op_claim(me, self, slot, key);
    }
    me->running = false;
    setcontext(&sim.scheduler);
}

/* ------------------------------------------------------------------ the scheduler */

static void start(struct partition *p)
{
    p->down = false;
    p->running = true;
    getcontext(&p->context);
    p->context.uc_stack.ss_sp = p->stack;
    p->context.uc_stack.ss_size = STACK_SIZE;
    p->context.uc_link = NULL;
    makecontext(&p->context, run_partition, 0);
}

static void fault(struct partition *p)
{
    uint32_t self = (uint32_t)(p - sim.part);

    switch (chance(4)) {
    case 0:
        p->asleep = sim.step + (chance(8) ? chance(3000) : chance(100000));
        break;
    case 1: /* kill -9 of the daemon */
        if (p->running && !p->zombie && !p->fresh) {
            total.kills++;
            p->running = false;
            p->down = true;
        }
        break;
    case 2:
        if (!p->zombie && !p->fresh && area_declare_dead(&sim.area, self, p->incarnation, self ^ 1)) {
            total.deaths++;
            p->zombie = true;
            for (uint32_t s = 0; s < SLOTS; s++)
                p->seg[s].won = false;
        }
        break;
    default:
        if (p->zombie) { /* proven gone; comes back */
            p->zombie = false;
            p->fresh = true;
            start(p);
        } else if (p->down) {
            start(p);
        }
    }
}

static bool resume(struct partition *p)
{
    if (!p->running)
        return false;
    sim.current = p;
    swapcontext(&sim.scheduler, &p->context);
    sim.current = NULL;
    return true;
}

static bool work_left(void)
{
    for (uint32_t i = 0; i < sim.parts; i++)
        if (sim.part[i].running)
            return true;
    return false;
}

static void run_all(bool faults)
{
    while (work_left() && !sim.failed) {
        struct partition *p = &sim.part[chance(sim.parts)];

        sim.step++; /* time passes for those who sleep */
        if (faults && sim.faults && chance(sim.faults) == 0)
            fault(p);
        else if (p->asleep <= sim.step)
            resume(p);
        if (sim.step > STEPS_LIMIT)
            fail("no end in sight");
    }
}

/* Everybody is well, has come back and has done another few operations: the table holds what is there, nothing else. */
static void check_end(void)
{
    for (uint32_t i = 0; i < sim.parts; i++) {
        struct partition *p = &sim.part[i];

        p->asleep = 0;
        p->ops = 2;
        p->fresh = p->zombie;
        p->zombie = false;
        start(p);
    }
    run_all(false);
    check_step();
    for (uint32_t i = 0; i < AREA_BUCKET_CELLS && !sim.failed; i++) {
        uint64_t cell = cells()[i];

        if (FABRIC_CELL_STATE(cell) != FABRIC_CELL_FREE && cell_key(cell) < 0)
            fail("cell %u is left over: partition %u slot %u", i, FABRIC_CELL_PART(cell), FABRIC_CELL_SLOT(cell));
    }
}

static void set_up(uint64_t seed)
{
    struct area_geometry geometry = {.kind = FABRIC_LOCAL,
                                     .parts = PARTS,
                                     .slots = FABRIC_SLOTS_MIN,
                                     .granule = 4096,
                                     .heartbeat_ms = 200,
                                     .name = "sim"};
    struct fabric_superblock sb;

    memset(&sim, 0, sizeof(sim));
    sim.seed = seed;
    sim.random = seed * 0x9e3779b97f4a7c15ULL + 1;
    for (int i = 0; i < 8; i++)
        chance(2);
    sim.parts = 2 + chance(PARTS - 1);
    sim.slots = 1 + chance(SLOTS);
    sim.keys = 1 + chance(KEYS);
    sim.switches = 1 + chance(2) * chance(12);
    sim.faults = chance(4) ? 30 + chance(300) : 0;
    sim.step = 1;
    geometry.key_salt = seed;
    if (area_layout(&geometry, &sb, NULL))
        abort();
    sb.key_buckets = 1;
    sim.memory = mmap(NULL, sb.area_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sim.memory == MAP_FAILED || area_init(&sim.area, &sb, sim.memory, NULL, NULL, NULL))
        abort();
}

static bool run_seed(uint64_t seed, uint8_t *stacks)
{
    set_up(seed);
    for (uint32_t i = 0; i < sim.parts; i++) {
        struct partition *p = &sim.part[i];

        p->stack = stacks + i * (size_t)STACK_SIZE;
        p->ops = 12;
        p->fresh = true;
        start(p);
    }
    run_all(true);
    if (!sim.failed)
        check_end();
    total.steps += sim.step;
    munmap(sim.memory, sim.area.size);
    area_deinit(&sim.area);
    return !sim.failed;
}

int main(int argc, char **argv)
{
    uint64_t first = 1, last = 4000;
    static uint8_t stacks[PARTS * STACK_SIZE] __attribute__((aligned(64)));

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--seed") == 0)
            first = last = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seeds") == 0)
            last = strtoull(argv[i + 1], NULL, 10);
        else
            return 2;
    }
    for (uint64_t seed = first; seed <= last; seed++)
        if (!run_seed(seed, stacks))
            return 1;
    printf(
        "%llu seeds, %llu steps; claims won %llu; found %llu, not there %llu, full %llu, failed %llu; daemons killed "
        "%llu, partitions dead %llu\n",
        (unsigned long long)(last - first + 1), (unsigned long long)total.steps, (unsigned long long)total.won,
        (unsigned long long)total.other, (unsigned long long)total.none, (unsigned long long)total.full,
        (unsigned long long)total.failed, (unsigned long long)total.kills, (unsigned long long)total.deaths);
    return 0;
}
