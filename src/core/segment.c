/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Own segments: their records, and how they begin and end.
 *
 *     FREE --segment_new--> NEW --+-- memory (--> key won) ------> LIVE --RMID--> DEST --> FREE
 *                                 +-- key won --> RESERVED -- memory --^  \--AUTORMID, last detach--^
 *
 * seg->r is what this partition knows; the shared record is only ever written from it (segment_publish) and read at a
 * restart. The record changes first, then the key cell goes, then the memory: a crash in between leaves what
 * core_restore() finishes.
 */
#include "core_internal.h"

int segment_find(const struct core *core, int32_t shmid, struct segment **out)
{
    const struct core_params *p = &core->params;
    uint32_t slot = fabric_shmid_slot(p->slot_bits, shmid);
    uint32_t mask = 0x7fffffffu >> (p->slot_bits + p->part_bits);
    struct fabric_record *shared;

    if (shmid < 0 || fabric_shmid_part(p->part_bits, p->slot_bits, shmid) != p->self || slot >= p->slots)
        return EINVAL;
    *out = core->segment[slot];
    if (*out)
        return (*out)->t.shmid == shmid ? 0 : EINVAL;
    shared = core->ops->record(core->ctx, slot, false);
    if (shared && record_state(shared) == FABRIC_REC_LOST &&
        (record_gen(shared) & mask) == fabric_shmid_gen(p->part_bits, p->slot_bits, shmid))
        return EIDRM;
    return EINVAL;
}

static struct segment **token_chain(const struct core *core, uint64_t token)
{
    return &core->by_token[(token * 0x9e3779b97f4a7c15ULL >> 32) % core->params.slots];
}

/* @return the place that points to the segment, or the chain's end. */
static struct segment **token_place(const struct core *core, uint64_t token)
{
    struct segment **at = token_chain(core, token);

    while (*at && (*at)->r.token != token)
        at = &(*at)->next_token;
    return at;
}

struct segment *segment_by_token(const struct core *core, uint64_t token, uint32_t uid)
{
    struct segment *seg = token ? *token_place(core, token) : NULL;

    return seg && seg->r.cuid == uid && seg->state != FABRIC_REC_DEST ? seg : NULL;
}

static void token_add(struct core *core, struct segment *seg)
{
    struct segment **end = token_place(core, seg->r.token);

    if (!seg->r.token || *end)
        return; /* whoever uses a token twice finds the first */
    *end = seg;
    seg->tokened = true;
}

static void token_del(struct core *core, struct segment *seg)
{
    if (seg->tokened)
        *token_place(core, seg->r.token) = seg->next_token;
    seg->tokened = false;
}

/* ------------------------------------------------------------------ what it costs */

/* @return UINT64_MAX: more than can be */
static uint64_t pages_of(const struct core *core, uint64_t size)
{
    uint64_t granule = core->params.granule;

    return size / granule + (size % granule != 0);
}

int segment_size_check(const struct core *core, uint64_t size)
{
    const struct core_limits *limits = &core->params.limits;

    if (!size || size > (uint64_t)INT64_MAX - core->params.granule || (limits->max_size && size > limits->max_size))
        return EINVAL;
    return 0;
}

/* Charge @seg as @charge to @uid instead of what it is charged as now. */
int segment_charge(struct core *core, struct segment *seg, enum charge charge, uint32_t uid, uint64_t size, bool force)
{
    const struct core_limits *limits = &core->params.limits;
    uint64_t pages = charge == CHARGE_SEGMENT ? pages_of(core, size) : 0;
    struct user *payer = NULL;
    int error = 0;

    if (!force && limits->max_pages && pages &&
        (core->pages >= limits->max_pages || pages > limits->max_pages - core->pages))
        return ENOSPC;
    if (charge == CHARGE_SEGMENT)
        error = user_charge_segment(core, uid, pages * core->params.granule, force, &payer);
    else if (charge == CHARGE_KEY)
        error = user_charge_key(core, uid, force, &payer);
    if (error)
        return error;
    core->pages += pages - seg->pages;
    core->bytes += pages * core->params.granule - seg->pages * core->params.granule;
    core->n_reserved += (charge == CHARGE_KEY);
    core->n_reserved -= (seg->charge == CHARGE_KEY);
    if (seg->payer)
        user_give_back(core, seg->payer, seg->charge, seg->pages * core->params.granule);
    seg->payer = payer;
    seg->charge = charge;
    seg->pages = pages;
    return 0;
}

/* ------------------------------------------------------------------ the record */

/* All but the head, which decides, and the cell, which the directory writes. */
static void body_store(struct segment *seg)
{
    size_t begin = sizeof(seg->r.head), cell = offsetof(struct fabric_record, cell);
    size_t after = cell + sizeof(seg->r.cell);

    memcpy((char *)seg->shared + begin, (char *)&seg->r + begin, cell - begin);
    memcpy((char *)seg->shared + after, (char *)&seg->r + after, sizeof(seg->r) - after);
}

void segment_publish(struct core *core, struct segment *seg, uint32_t state)
{
    uint64_t nattch = seg->t.fig.nattch;

    (void)core;
    for (const struct importer *importer = seg->importers; importer; importer = importer->next)
        nattch += importer->fig.nattch;
    seg->r.nattch = nattch > UINT32_MAX ? UINT32_MAX : (uint32_t)nattch;
    seg->r.attaches = seg->t.fig.attaches;
    seg->r.atime = seg->t.fig.atime;
    seg->r.dtime = seg->t.fig.dtime;
    seg->r.lpid = seg->t.fig.lpid;
    seg->state = state;
    record_begin(seg->shared);
    body_store(seg);
    record_ready(seg->shared, state);
}

void segment_stat(const struct segment *seg, struct fabric_stat *out)
{
    const struct fabric_record *r = &seg->r;
    uint64_t nattch = seg->t.fig.nattch;

    for (const struct importer *importer = seg->importers; importer; importer = importer->next)
        nattch += importer->fig.nattch;
    memset(out, 0, sizeof(*out));
    out->key = seg->state == FABRIC_REC_DEST ? 0 : r->key;
    out->mode = r->mode | (seg->state == FABRIC_REC_DEST ? SHM_DEST : 0u);
    out->size = r->size;
    out->uid = r->uid;
    out->gid = r->gid;
    out->cuid = r->cuid;
    out->cgid = r->cgid;
    out->cpid = r->cpid;
    out->lpid = seg->t.fig.lpid;
    out->atime = seg->t.fig.atime;
    out->dtime = seg->t.fig.dtime;
    out->ctime = r->ctime;
    out->nattch = nattch > UINT32_MAX ? UINT32_MAX : (uint32_t)nattch;
    out->flags = r->flags;
    out->word = seg->word;
}

void segment_bump(struct core *core, struct segment *seg, bool mark)
{
    uint32_t count = (core->ops->gen_load(core->ctx, seg->slot) + 1) & ~FABRIC_GEN_MARKED;

    seg->word = count | (mark ? FABRIC_GEN_MARKED : 0);
    core->ops->gen_store(core->ctx, seg->slot, seg->word);
}

bool segment_marked(const struct segment *seg)
{
    return seg->state == FABRIC_REC_DEST || (seg->r.flags & FABRIC_SEG_AUTORMID);
}

/* ------------------------------------------------------------------ life */

static struct segment *segment_alloc(struct core *core, uint32_t slot, const struct fabric_record *from,
                                     struct fabric_record *shared)
{
    struct segment *seg = calloc(1, sizeof(*seg));

    (void)core;
    if (!seg)
        return NULL;
    seg->slot = slot;
    seg->r = *from;
    seg->shared = shared;
    seg->t.own = true;
    seg->t.fig.attaches = from->attaches;
    seg->t.fig.atime = from->atime;
    seg->t.fig.dtime = from->dtime;
    seg->t.fig.lpid = from->lpid;
    return seg;
}

static void segment_insert(struct core *core, struct segment *seg)
{
    const struct core_params *p = &core->params;

    seg->t.shmid = fabric_shmid(p->part_bits, p->slot_bits, seg->gen, p->self, seg->slot);
    core->segment[seg->slot] = seg;
    core->n_segments++;
    token_add(core, seg);
}

int segment_new(struct core *core, const struct fabric_record *from, struct segment **out)
{
    uint64_t max = core->params.limits.max_segments;
    enum charge charge = from->flags & FABRIC_SEG_FTOK ? CHARGE_KEY : CHARGE_SEGMENT;
    struct segment *seg;
    uint32_t slot;
    int error;

    if (max && core->n_segments >= max)
        return ENOSPC;
    seg = segment_alloc(core, 0, from, NULL);
    if (!seg)
        return ENOMEM;
    error = segment_charge(core, seg, charge, from->cuid, from->size, false);
    if (!error && (error = slot_take(core, &slot)) != 0)
        segment_charge(core, seg, CHARGE_NONE, 0, 0, true);
    if (error) {
        free(seg);
        return error;
    }
    seg->slot = slot;
    seg->shared = core->ops->record(core->ctx, slot, false);
    seg->r.incarnation = core->params.incarnation;
    seg->r.wrap = seg->shared->wrap;
    seg->gen = record_new(seg->shared);
    if (slot_begins_anew(core, seg->gen))
        seg->r.wrap = (uint64_t)core->now_s;
    seg->shared->cell = 0;
    segment_insert(core, seg);
    segment_bump(core, seg, false);
    segment_publish(core, seg, FABRIC_REC_NEW);
    *out = seg;
    return 0;
}

int segment_adopt(struct core *core, uint32_t slot, const struct fabric_record *from, struct segment **out)
{
    uint32_t state = FABRIC_REC_STATE(from->head);
    enum charge charge = state == FABRIC_REC_RESERVED ? CHARGE_KEY : CHARGE_SEGMENT;
    struct segment *seg = segment_alloc(core, slot, from, core->ops->record(core->ctx, slot, false));

    if (!seg)
        return ENOMEM;
    if (segment_charge(core, seg, charge, from->cuid, from->size, true) != 0) {
        free(seg);
        return ENOMEM;
    }
    seg->gen = FABRIC_REC_GEN(from->head);
    seg->state = state;
    seg->word = core->ops->gen_load(core->ctx, slot);
    segment_insert(core, seg);
    *out = seg;
    return 0;
}

struct segment *segment_free(struct core *core, struct segment *seg)
{
    struct importer *importer;

    while ((importer = seg->importers)) {
        seg->importers = importer->next;
        free(importer);
    }
    while (seg->t.grants)
        grant_end(core, seg->t.grants);
    timer_stop(core, TIMER_RELEASE, &seg->release);
    token_del(core, seg);
    segment_charge(core, seg, CHARGE_NONE, 0, 0, true);
    core->segment[seg->slot] = NULL;
    core->n_segments--;
    free(seg);
    return NULL;
}

struct segment *segment_destroy(struct core *core, struct segment *seg)
{
    int32_t shmid = seg->t.shmid;
    uint32_t slot = seg->slot;
    struct op *op, *next;

    DL_FOREACH_SAFE2(seg->stats, op, next, wait_next)
    op_done(core, op, EIDRM, NULL, 0);
    record_set_state(seg->shared, FABRIC_REC_FREE);
    core->ops->unclaim(core->ctx, slot);
    if (core->ops->memory_has(core->ctx, shmid))
        core->ops->memory_destroy(core->ctx, shmid);
    segment_free(core, seg);
    slot_give_back(core, slot);
    return NULL;
}
