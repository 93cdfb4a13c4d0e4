/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * IPC_STAT and its like: the home asks all importers how many are attached there and answers when all have said so. Who
 * is stalled, dies or does not answer in time is not waited for: his last figure stands. The home waits half as long as
 * the partition that asks it, so that the answer arrives in time.
 *
 * IPC_INFO: totals of the whole fabric, from everybody's records, gathered once a second at most.
 */
#include "core_internal.h"

void stat_begin(struct core *core, struct op *op, struct segment *seg)
{
    op->awaiting = 0;
    for (struct importer *importer = seg->importers; importer; importer = importer->next)
        if (member_reachable(core, importer->part))
            op->awaiting |= 1ULL << importer->part;
    op->wait = WAIT_COUNT;
    op->seg = seg;
    DL_APPEND2(seg->stats, op, wait_prev, wait_next);
    if (!op->awaiting) {
        stat_finish(core, op);
        return;
    }
    op_deadline(core, op, interval_op(core) / 2);
    for (uint32_t part = 0; part < core->params.parts; part++)
        if (op->awaiting >> part & 1)
            core_send(core, part, FABRIC_OP_COUNT, op->id, seg->t.shmid, NULL);
}

void core_count(struct core *core)
{
    for (uint32_t slot = 0; slot < core->params.slots; slot++) {
        struct segment *seg = core->segment[slot];

        for (struct importer *i = seg ? seg->importers : NULL; i; i = i->next) {
            i->counting = true;
            if (member_reachable(core, i->part))
                core_send(core, i->part, FABRIC_OP_COUNT, 0, seg->t.shmid, NULL);
        }
    }
}

bool core_counting(const struct core *core)
{
    for (uint32_t slot = 0; slot < core->params.slots; slot++)
        for (struct importer *i = core->segment[slot] ? core->segment[slot]->importers : NULL; i; i = i->next)
            if (i->counting)
                return true;
    return false;
}

void stat_answered(struct core *core, struct op *op, uint32_t part)
{
    op->awaiting &= ~(1ULL << part);
    if (!op->awaiting)
        stat_finish(core, op);
}

void stat_finish(struct core *core, struct op *op)
{
    struct segment *seg = op->seg;
    struct fabric_stat stat;

    target_recount(core, &seg->t);
    segment_publish(core, seg, seg->state);
    segment_stat(seg, &stat);
    op_done_stat(core, op, 0, seg->t.shmid, &stat);
}

/* ------------------------------------------------------------------ totals */

static void totals_add(struct core *core, uint32_t part, uint32_t slot, uint64_t size)
{
    core->totals.used++;
    core->totals.pages += size / core->params.granule + (size % core->params.granule != 0);
    core->totals.highest = (int32_t)(part << core->params.slot_bits | slot);
}

static bool in_use(uint32_t state)
{
    return state == FABRIC_REC_LIVE || state == FABRIC_REC_DEST;
}

static void totals_gather(struct core *core)
{
    const struct core_params *p = &core->params;
    struct fabric_record r;

    if (core->totals.known && core->now_ms - core->totals.at_ms < 1000)
        return;
    memset(&core->totals, 0, sizeof(core->totals));
    core->totals.known = true;
    core->totals.at_ms = core->now_ms;
    for (uint32_t part = 0; part < p->parts; part++)
        for (uint32_t slot = 0; slot < p->slots; slot++) {
            const struct segment *seg = part == p->self ? core->segment[slot] : NULL;
            enum core_member_state state = core->member[part].state;

            if (seg && in_use(seg->state))
                totals_add(core, part, slot, seg->r.size);
            else if (part != p->self && (state == CORE_MEMBER_ALIVE || state == CORE_MEMBER_STALLED) &&
                     core->ops->peer_record(core->ctx, part, slot, &r) && in_use(FABRIC_REC_STATE(r.head)))
                totals_add(core, part, slot, r.size);
        }
}

void info_done(struct core *core, struct op *op)
{
    const struct core_params *p = &core->params;
    struct clshmd_info info;

    totals_gather(core);
    info = (struct clshmd_info){
        .shmmax = p->limits.max_size ? p->limits.max_size : UINT64_MAX - (1u << 24),
        .shmmin = 1,
        .shmmni = (uint64_t)p->parts * (p->limits.max_segments ? p->limits.max_segments : p->slots),
        .shmseg = CLSHMD_ENTRIES_MAX,
        .shmall = p->limits.max_pages ? p->limits.max_pages : UINT64_MAX - (1u << 24),
        .used_ids = core->totals.used,
        .shm_tot = core->totals.pages,
        .shm_rss = core->totals.pages,
        .highest = core->totals.highest,
    };
    op_done(core, op, 0, &info, sizeof(info));
}

/* ------------------------------------------------------------------ for the tools */

uint32_t core_next_segment(const struct core *core, uint32_t slot, struct clshmd_stat *out)
{
    for (; slot < core->params.slots; slot++) {
        struct segment *seg = core->segment[slot];

        if (!seg || seg->state == FABRIC_REC_NEW)
            continue;
        target_recount((struct core *)core, &seg->t);
        out->shmid = seg->t.shmid;
        out->part = core->params.self;
        segment_stat(seg, &out->stat);
        return slot + 1;
    }
    return 0;
}

int core_may_read(const struct core *core, const struct core_cred *cred, int32_t shmid)
{
    struct segment *seg = NULL;
    struct import *imp = import_find(core, shmid);
    struct fabric_stat stat;
    int error;

    if (imp)
        return imp->has_stat && core_perm_allows(&imp->stat, cred, 4, !core->member[imp->part].same_uids) ? 0 : EACCES;
    error = segment_find(core, shmid, &seg);
    if (!error && seg->state != FABRIC_REC_LIVE && seg->state != FABRIC_REC_DEST)
        error = EINVAL;
    if (error)
        return error;
    segment_stat(seg, &stat);
    return core_perm_allows(&stat, cred, 4, false) ? 0 : EACCES;
}
