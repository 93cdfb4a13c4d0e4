/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/fake/core_world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/core/record.h"

#define GRANULE 4096u

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "core_world: out of memory\n");
        abort();
    }
    return p;
}

/* ------------------------------------------------------------------ the directory */

static bool cell_counts(const struct world_part *p, uint32_t slot, int32_t key)
{
    const struct fabric_record *r = &p->record[slot];
    uint32_t state = record_state(r);

    return p->cell[slot] && r->key == key && record_gen(r) == p->cell_gen[slot] && r->incarnation == p->incarnation &&
           p->incarnation && (state == FABRIC_REC_NEW || state == FABRIC_REC_RESERVED || state == FABRIC_REC_LIVE);
}

static bool has_key(const struct world *w, int32_t key, struct core_found *out)
{
    for (uint32_t part = 0; part < w->config.parts; part++) {
        const struct world_part *p = &w->part[part];

        for (uint32_t slot = 0; slot < w->config.slots; slot++) {
            const struct fabric_record *r = &p->record[slot];

            if (!cell_counts(p, slot, key))
                continue;
            memset(out, 0, sizeof(*out));
            out->state = CORE_FOUND_OTHER;
            out->home = part;
            out->shmid = fabric_shmid(w->config.part_bits, w->config.slot_bits, record_gen(r), part, slot);
            out->reserved = record_state(r) == FABRIC_REC_RESERVED;
            out->stat = (struct fabric_stat){
                .key = r->key,
                .mode = r->mode,
                .size = r->size,
                .uid = r->uid,
                .gid = r->gid,
                .cuid = r->cuid,
                .cgid = r->cgid,
                .flags = r->flags,
                .word = p->gen[slot],
            };
            return true;
        }
    }
    return false;
}

static void ask(struct world *w, uint32_t part, int32_t key, bool claim, uint32_t slot, struct core_found *out)
{
    struct world_part *p = &w->part[part];

    memset(out, 0, sizeof(*out));
    if (has_key(w, key, out) || !claim)
        return;
    p->cell[slot] = true;
    p->cell_gen[slot] = record_gen(&p->record[slot]);
}

static void later(struct world *w, const struct world_later *what)
{
    if (w->n_waiting == w->waiting_size) {
        w->waiting_size = w->waiting_size ? 2 * w->waiting_size : 64;
        w->waiting = must(realloc(w->waiting, w->waiting_size * sizeof(*w->waiting)));
    }
    w->waiting[w->n_waiting++] = *what;
}

static bool is_later(const struct world *w, uint32_t part)
{
    return w->later && w->later(w->ctx, part);
}

static int op_lookup(void *ctx, int32_t key, uint64_t ticket, struct core_found *out)
{
    struct world_part *p = ctx;

    if (is_later(p->world, p->self)) {
        later(p->world, &(struct world_later){.part = p->self, .ticket = ticket, .key = key});
        return CORE_PENDING;
    }
    ask(p->world, p->self, key, false, 0, out);
    return 0;
}

static int op_claim(void *ctx, int32_t key, uint32_t slot, uint64_t ticket, struct core_found *out)
{
    struct world_part *p = ctx;

    if (is_later(p->world, p->self)) {
        later(p->world,
              &(struct world_later){.part = p->self, .ticket = ticket, .key = key, .slot = slot, .claim = true});
        return CORE_PENDING;
    }
    ask(p->world, p->self, key, true, slot, out);
    return 0;
}

static void op_unclaim(void *ctx, uint32_t slot)
{
    struct world_part *p = ctx;

    p->cell[slot] = false;
}

/* ------------------------------------------------------------------ records and words */

static void point(const struct world *w)
{
    if (w->point)
        w->point(w->ctx);
}

static struct fabric_record *op_record(void *ctx, uint32_t slot, bool allocate)
{
    struct world_part *p = ctx;

    (void)allocate;
    return &p->record[slot];
}

static void op_gen_store(void *ctx, uint32_t slot, uint32_t word)
{
    struct world_part *p = ctx;

    point(p->world);
    p->gen[slot] = word;
}

static uint32_t op_gen_load(void *ctx, uint32_t slot)
{
    struct world_part *p = ctx;

    point(p->world);
    return p->gen[slot];
}

static uint32_t op_peer_gen(void *ctx, uint32_t part, uint32_t slot)
{
    struct world_part *p = ctx;

    point(p->world);
    return p->world->part[part].gen[slot];
}

static bool op_peer_record(void *ctx, uint32_t part, uint32_t slot, struct fabric_record *out)
{
    struct world_part *p = ctx;

    *out = p->world->part[part].record[slot];
    return record_state(out) != FABRIC_REC_FREE;
}

/* ------------------------------------------------------------------ memory */

static struct world_memory *find_memory(const struct world *w, uint32_t part, int32_t shmid)
{
    const struct world_part *p = &w->part[part];
    uint32_t slot = fabric_shmid_slot(w->config.slot_bits, shmid);

    if (fabric_shmid_part(w->config.part_bits, w->config.slot_bits, shmid) == part)
        return p->own[slot].serial && p->own[slot].shmid == shmid ? &p->own[slot] : NULL;
    for (uint32_t i = 0; i < p->imports; i++)
        if (p->import[i].shmid == shmid)
            return &p->import[i];
    return NULL;
}

uint64_t world_memory(const struct world *world, uint32_t part, int32_t shmid)
{
    struct world_memory *m = find_memory(world, part, shmid);

    return m ? m->serial : 0;
}

bool world_serial_lives(const struct world *world, uint64_t serial)
{
    for (uint32_t part = 0; part < world->config.parts; part++)
        for (uint32_t slot = 0; slot < world->config.slots; slot++)
            if (world->part[part].own[slot].serial == serial)
                return true;
    return false;
}

static void made(struct world_part *p, int32_t shmid)
{
    p->own[fabric_shmid_slot(p->world->config.slot_bits, shmid)] =
        (struct world_memory){.serial = ++p->world->serials, .shmid = shmid};
}

static int op_create(void *ctx, const struct driver_create *req)
{
    struct world_part *p = ctx;
    struct world *w = p->world;
    int error = w->memory_error ? w->memory_error(w->ctx, p->self, req) : 0;

    if (is_later(w, p->self)) {
        later(w, &(struct world_later){.part = p->self, .memory = true, .shmid = req->shmid, .error = error});
        return CORE_PENDING;
    }
    if (!error)
        made(p, req->shmid);
    return error;
}

static void gone(struct world_part *p, int32_t shmid, char how)
{
    struct world_memory *m = find_memory(p->world, p->self, shmid);
    uint64_t serial;

    if (!m)
        return;
    serial = m->serial;
    if (how == 'd')
        m->serial = 0;
    else
        *m = p->import[--p->imports];
    if (p->world->memory_gone)
        p->world->memory_gone(p->world->ctx, p->self, shmid, serial, how);
}

static void op_destroy(void *ctx, int32_t shmid)
{
    gone(ctx, shmid, 'd');
}

static void op_drop(void *ctx, int32_t shmid)
{
    gone(ctx, shmid, 'r');
}

static void op_revoke(void *ctx, int32_t shmid)
{
    gone(ctx, shmid, 'v');
}

static bool op_has(void *ctx, int32_t shmid)
{
    struct world_part *p = ctx;

    return find_memory(p->world, p->self, shmid) != NULL;
}

static int op_lock(void *ctx, int32_t shmid, bool lock)
{
    struct world_part *p = ctx;
    struct world_memory *m = find_memory(p->world, p->self, shmid);

    if (!m)
        return EINVAL;
    m->locked = lock;
    return 0;
}

/* ------------------------------------------------------------------ clients */

static bool op_entry(void *ctx, uint32_t client, uint32_t entry, struct clshmd_entry *out)
{
    struct world_part *p = ctx;

    if (client >= WORLD_CLIENTS || !p->page[client] || entry >= WORLD_ENTRIES)
        return false;
    for (size_t i = 0; i < sizeof(*out) / 8; i++) { /* as pread(2) may */
        point(p->world);
        memcpy((char *)out + 8 * i, (const char *)&p->entry[client][entry] + 8 * i, 8);
    }
    return true;
}

static void op_reply(void *ctx, uint32_t client, uint64_t tag, int error, const void *payload, size_t size,
                     int32_t grant_shmid, uint32_t grant_prot)
{
    struct world_part *p = ctx;

    memset(&p->reply, 0, sizeof(p->reply));
    p->reply.here = true;
    p->reply.client = client;
    p->reply.tag = tag;
    p->reply.error = error;
    p->reply.grant_shmid = grant_shmid;
    p->reply.prot = grant_prot;
    p->reply.size = size;
    if (size)
        memcpy(p->reply.u.bytes, payload, size < sizeof(p->reply.u) ? size : sizeof(p->reply.u));
    p->replies++;
    if (p->world->replied) {
        struct world_reply copy = p->reply; /* the hook may ask again */

        p->world->replied(p->world->ctx, p->self, &copy);
    }
}

/* ------------------------------------------------------------------ messages */

static struct world_queue *queue_of(struct world *w, uint32_t from, uint32_t to)
{
    return &w->queue[from * w->config.parts + to];
}

static void busy_update(struct world *w, struct world_queue *q)
{
    if (q->count && !q->busy) {
        w->busy[w->n_busy++] = (uint32_t)(q - w->queue);
        q->busy = w->n_busy;
    } else if (!q->count && q->busy) {
        uint32_t last = w->busy[--w->n_busy];

        w->busy[q->busy - 1] = last;
        w->queue[last].busy = q->busy;
        q->busy = 0;
    }
}

static void op_send(void *ctx, uint32_t to, const struct fabric_msg *msg)
{
    struct world_part *p = ctx;
    struct world *w = p->world;
    struct world_queue *q = queue_of(w, p->self, to);
    struct world_message m = {.msg = *msg};

    m.msg.incarnation = p->incarnation;
    m.msg.epoch = p->epoch;
    if (msg->flags & FABRIC_MSG_MEMORY)
        m.serial = world_memory(w, p->self, msg->shmid);
    if (w->sent)
        w->sent(w->ctx, p->self, to, &m.msg);
    if (!w->part[to].incarnation)
        return;
    if (q->head + q->count == q->size) {
        if (q->head) {
            memmove(q->message, q->message + q->head, q->count * sizeof(*q->message));
            q->head = 0;
        } else {
            q->size = q->size ? 2 * q->size : 8;
            q->message = must(realloc(q->message, q->size * sizeof(*q->message)));
        }
    }
    q->message[q->head + q->count++] = m;
    busy_update(w, q);
}

static void import_memory(struct world_part *p, int32_t shmid, uint64_t serial)
{
    struct world_memory *m = find_memory(p->world, p->self, shmid);

    if (!m) {
        if (p->imports == p->imports_size) {
            p->imports_size = p->imports_size ? 2 * p->imports_size : 16;
            p->import = must(realloc(p->import, p->imports_size * sizeof(*p->import)));
        }
        m = &p->import[p->imports++];
    }
    *m = (struct world_memory){.serial = serial, .shmid = shmid};
}

bool world_deliver(struct world *world, uint32_t from, uint32_t to, bool repeat)
{
    struct world_queue *q = queue_of(world, from, to);
    struct world_part *p = &world->part[to];
    struct world_message m;

    if (!q->count || !p->core || p->paused)
        return false;
    m = q->message[q->head];
    if (!repeat) {
        q->head++;
        q->count--;
        if (!q->count)
            q->head = 0;
        busy_update(world, q);
    }
    if (m.serial)
        import_memory(p, m.msg.shmid, m.serial);
    core_message(p->core, from, &m.msg, m.serial != 0);
    return true;
}

void world_cut(struct world *world, uint32_t from, uint32_t to, uint32_t keep)
{
    struct world_queue *q = queue_of(world, from, to);

    if (q->count > keep)
        q->count = keep;
    busy_update(world, q);
}

/* A claim is carried out at one time and answered at another, in two calls. */
void world_answer(struct world *world, uint32_t n)
{
    struct world_later what = world->waiting[n];
    struct world_part *p = &world->part[what.part];

    if (!what.memory && !what.done) {
        ask(world, what.part, what.key, what.claim, what.slot, &world->waiting[n].found);
        world->waiting[n].done = true;
        return;
    }
    world->waiting[n] = world->waiting[--world->n_waiting];
    if (what.memory && !what.error)
        made(p, what.shmid);
    if (what.memory)
        core_memory_done(p->core, what.shmid, what.error);
    else
        core_directory_done(p->core, what.ticket, &what.found);
}

void world_answers_lost(struct world *world, uint32_t part)
{
    for (uint32_t i = 0; i < world->n_waiting;) {
        if (world->waiting[i].part == part)
            world->waiting[i] = world->waiting[--world->n_waiting];
        else
            i++;
    }
}

void world_settle(struct world *world)
{
    bool more = true;

    while (more) {
        more = world->n_waiting > 0;
        while (world->n_waiting)
            world_answer(world, 0);
        for (uint32_t from = 0; from < world->config.parts; from++)
            for (uint32_t to = 0; to < world->config.parts; to++)
                while (world_deliver(world, from, to, false))
                    more = true;
    }
}

/* ------------------------------------------------------------------ life */

static const struct core_ops ops = {
    .lookup = op_lookup,
    .claim = op_claim,
    .unclaim = op_unclaim,
    .record = op_record,
    .gen_store = op_gen_store,
    .gen_load = op_gen_load,
    .peer_gen = op_peer_gen,
    .peer_record = op_peer_record,
    .memory_create = op_create,
    .memory_destroy = op_destroy,
    .memory_drop = op_drop,
    .memory_revoke = op_revoke,
    .memory_has = op_has,
    .memory_lock = op_lock,
    .entry = op_entry,
    .reply = op_reply,
    .send = op_send,
};

struct world *world_new(const struct world_config *config)
{
    struct world *w = must(calloc(1, sizeof(*w)));
    uint32_t n = config->parts;

    w->config = *config;
    w->now_ms = 1000;
    w->now_s = 1000001;
    w->part = must(calloc(n, sizeof(*w->part)));
    w->queue = must(calloc((size_t)n * n, sizeof(*w->queue)));
    w->busy = must(calloc((size_t)n * n, sizeof(*w->busy)));
    for (uint32_t i = 0; i < n; i++) {
        struct world_part *p = &w->part[i];

        p->world = w;
        p->self = i;
        p->limits = config->limits;
        p->record = must(calloc(config->slots, sizeof(*p->record)));
        p->gen = must(calloc(config->slots, sizeof(*p->gen)));
        p->cell = must(calloc(config->slots, sizeof(*p->cell)));
        p->cell_gen = must(calloc(config->slots, sizeof(*p->cell_gen)));
        p->own = must(calloc(config->slots, sizeof(*p->own)));
    }
    return w;
}

struct world *world_free(struct world *world)
{
    uint32_t n = world->config.parts;

    for (uint32_t i = 0; i < n; i++) {
        struct world_part *p = &world->part[i];

        core_free(p->core);
        free(p->record);
        free(p->gen);
        free(p->cell);
        free(p->cell_gen);
        free(p->own);
        free(p->import);
    }
    for (uint32_t i = 0; i < n * n; i++)
        free(world->queue[i].message);
    free(world->part);
    free(world->queue);
    free(world->busy);
    free(world->waiting);
    free(world);
    return NULL;
}

int world_start(struct world *world, uint32_t part, bool fresh, uint32_t uid)
{
    struct world_part *p = &world->part[part];
    struct core_params params = {
        .self = part,
        .parts = world->config.parts,
        .slots = world->config.slots,
        .part_bits = world->config.part_bits,
        .slot_bits = world->config.slot_bits,
        .granule = GRANULE,
        .limits = p->limits,
    };
    int error = 0;

    if (fresh) {
        p->incarnation++;
        p->epoch = 0;
        for (uint32_t other = 0; other < world->config.parts; other++) {
            world_cut(world, part, other, 0);
            world_cut(world, other, part, 0);
        }
    }
    params.incarnation = p->incarnation;
    params.epoch = ++p->epoch;
    p->core = must(core_new(&params, &ops, p));
    core_set_time(p->core, world->now_ms, world->now_s);
    core_set_hostname(p->core, "host.example");
    for (uint32_t i = 0; i < WORLD_CLIENTS && !error; i++)
        if (p->page[i])
            error = core_client_new(p->core, i, uid + p->uid[i], p->unborn[i] ? 0 : (int32_t)(1000 + i));
    for (uint32_t i = 0; i < p->imports && !error; i++)
        error = core_restore_import(p->core, p->import[i].shmid);
    return error ? error : core_restore(p->core, fresh);
}

void world_stop(struct world *world, uint32_t part)
{
    struct world_part *p = &world->part[part];

    p->core = core_free(p->core);
    world_answers_lost(world, part);
}

void world_die(struct world *world, uint32_t part)
{
    struct world_part *p = &world->part[part];

    world_stop(world, part);
    memset(p->own, 0, world->config.slots * sizeof(*p->own));
    p->imports = 0;
    memset(p->page, 0, sizeof(p->page));
    memset(p->unborn, 0, sizeof(p->unborn));
    p->paused = false;
    memset(p->entry, 0, sizeof(p->entry));
    for (uint32_t other = 0; other < world->config.parts; other++) {
        world_cut(world, part, other, 0);
        world_cut(world, other, part, 0);
    }
}

void world_introduce(struct world *world, bool same_uids)
{
    for (uint32_t a = 0; a < world->config.parts; a++)
        for (uint32_t b = 0; b < world->config.parts; b++)
            if (world->part[a].core && world->part[b].core)
                core_member(world->part[a].core, b, CORE_MEMBER_ALIVE, world->part[b].incarnation, same_uids);
}

void world_time(struct world *world, uint64_t ms)
{
    world->now_ms += ms;
    world->now_s = 1000000 + (int64_t)(world->now_ms / 1000);
    for (uint32_t part = 0; part < world->config.parts; part++) {
        if (!world->part[part].core || world->part[part].paused)
            continue;
        core_set_time(world->part[part].core, world->now_ms, world->now_s);
        core_tick(world->part[part].core);
    }
}
