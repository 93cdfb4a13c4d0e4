/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who else holds an own segment, and its removal in two phases (rule 10).
 *
 * Phase 1: the mark. The record says DEST (IPC_RMID) or AUTORMID and the generation word says MARKED, which makes all
 * clients tell their daemon when they attach or detach; only then are the counts read. Importers are asked to RELEASE.
 * Phase 2: when no importer's bit stands and nobody here is counted, the segment ends (segment_continue). A bit is
 * cleared by RELEASED or by its partition's death, by nothing else. RELEASE is repeated, seldom while an importer is
 * known to be BUSY, since a message may get lost with the daemon that had queued it.
 */
#include "core_internal.h"

struct importer *segment_importer(const struct segment *seg, uint32_t part)
{
    struct importer *importer = seg->importers;

    while (importer && importer->part != part)
        importer = importer->next;
    return importer;
}

int segment_add_importer(struct core *core, struct segment *seg, uint32_t part, bool publish)
{
    struct importer *importer = segment_importer(seg, part);

    if (importer)
        return 0;
    importer = calloc(1, sizeof(*importer));
    if (!importer)
        return ENOMEM;
    importer->part = part;
    importer->next = seg->importers;
    seg->importers = importer;
    seg->r.importers |= 1ULL << part;
    if (segment_marked(seg) && !seg->release.armed)
        timer_arm(core, TIMER_RELEASE, &seg->release, core->now_ms + interval_op(core));
    if (publish)
        segment_publish(core, seg, seg->state);
    return 0;
}

void segment_drop_importer(struct core *core, struct segment *seg, uint32_t part)
{
    struct importer **at = &seg->importers, *importer;
    struct op *op, *next;

    while (*at && (*at)->part != part)
        at = &(*at)->next;
    importer = *at;
    if (!importer)
        return;
    *at = importer->next;
    free(importer);
    seg->r.importers &= ~(1ULL << part);
    segment_publish(core, seg, seg->state);
    DL_FOREACH_SAFE2(seg->stats, op, next, wait_next)
    stat_answered(core, op, part);
}

static void ask_release(struct core *core, struct segment *seg, struct importer *importer)
{
    if (!member_reachable(core, importer->part))
        return;
    do
        core->next_id++;
    while (!core->next_id);
    importer->release_seq = core->next_id;
    core_send(core, importer->part, FABRIC_OP_RELEASE, importer->release_seq, seg->t.shmid, NULL);
}

void segment_release_timer(struct core *core, struct segment *seg)
{
    for (struct importer *importer = seg->importers; importer; importer = importer->next) {
        if (importer->rest)
            importer->rest--;
        else
            ask_release(core, seg, importer);
    }
    if (seg->importers)
        timer_arm(core, TIMER_RELEASE, &seg->release, core->now_ms + interval_op(core));
}

/* The record says it; now tell everybody. */
static void mark(struct core *core, struct segment *seg)
{
    segment_bump(core, seg, true);
    target_end_unused(core, &seg->t);
    for (struct importer *importer = seg->importers; importer; importer = importer->next)
        ask_release(core, seg, importer);
    if (seg->importers)
        timer_arm(core, TIMER_RELEASE, &seg->release, core->now_ms + interval_op(core));
    segment_continue(core, seg);
}

void segment_remove(struct core *core, struct segment *seg)
{
    if (seg->state == FABRIC_REC_RESERVED && !seg->memory_pending) {
        segment_destroy(core, seg);
    } else if (seg->state == FABRIC_REC_RESERVED) {
        seg->doomed = true;
    } else if (seg->state == FABRIC_REC_LIVE) {
        segment_publish(core, seg, FABRIC_REC_DEST);
        core->ops->unclaim(core->ctx, seg->slot);
        seg->r.key = 0;
        segment_publish(core, seg, FABRIC_REC_DEST);
        mark(core, seg);
    }
}

void segment_autoremove(struct core *core, struct segment *seg)
{
    if (seg->r.flags & FABRIC_SEG_AUTORMID || seg->state == FABRIC_REC_DEST)
        return;
    seg->r.flags |= FABRIC_SEG_AUTORMID;
    segment_publish(core, seg, seg->state);
    mark(core, seg);
}

void segment_continue(struct core *core, struct segment *seg)
{
    bool automatic = seg->state == FABRIC_REC_LIVE && seg->r.flags & FABRIC_SEG_AUTORMID && seg->t.fig.attaches > 0;

    if ((seg->state != FABRIC_REC_DEST && !automatic) || seg->importers || seg->t.grants)
        return;
    clients_late(core);
    if (!seg->t.grants)
        segment_destroy(core, seg);
}
