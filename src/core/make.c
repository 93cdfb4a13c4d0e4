/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a segment. Giving memory: to a new one, whose key is then claimed, and to a reservation of xp_ftok, which has its
 * key and id already. Until it is LIVE the segment belongs to its maker; whoever else asks for it stands in
 * seg->waiters, and is served when it is made, or begins anew when it could not be made.
 */
#include "core_internal.h"

void wait_made(struct op *op, struct segment *seg)
{
    op->wait = WAIT_MADE;
    op->seg = seg;
    DL_APPEND2(seg->waiters, op, wait_prev, wait_next);
}

static void waiters_continue(struct core *core, struct op *list, struct segment *seg)
{
    struct op *op, *next;

    /* Off the list first: whoever begins anew may queue again, behind another maker. */
    DL_FOREACH_SAFE2(list, op, next, wait_next)
    {
        op->wait = WAIT_NOTHING;
        op->seg = NULL;
    }
    DL_FOREACH_SAFE2(list, op, next, wait_next)
    {
        if (op->kind == OP_FTOK)
            ftok_begin(core, op);
        else if (seg)
            get_own(core, op, seg);
        else
            get_begin(core, op);
    }
}

static struct op *waiters_take(struct segment *seg)
{
    struct op *list = seg->waiters;

    seg->waiters = NULL;
    return list;
}

static struct op *maker_leave(struct segment *seg)
{
    struct op *op = seg->maker;

    seg->maker = NULL;
    op->seg = NULL;
    op->wait = WAIT_NOTHING;
    return op;
}

/* ------------------------------------------------------------------ success */

static void made(struct core *core, struct segment *seg)
{
    struct op *op = maker_leave(seg), *waiters = waiters_take(seg);
    struct fabric_stat stat;
    bool doomed = seg->doomed;

    segment_publish(core, seg, op->kind == OP_FTOK ? FABRIC_REC_RESERVED : FABRIC_REC_LIVE);
    segment_stat(seg, &stat);
    op->made = true;
    op_done_stat(core, op, 0, seg->t.shmid, &stat);
    waiters_continue(core, waiters, seg);
    if (doomed)
        segment_remove(core, seg);
}

/* ------------------------------------------------------------------ failure */

/* A new one: it never was. @return its maker */
static struct op *undo_new(struct core *core, struct segment *seg)
{
    struct op *op = maker_leave(seg), *waiters = waiters_take(seg);

    segment_destroy(core, seg);
    waiters_continue(core, waiters, NULL);
    return op;
}

/* A reservation goes on, for whoever comes next. */
static struct op *undo_reserved(struct core *core, struct segment *seg)
{
    struct op *op = maker_leave(seg), *waiters = waiters_take(seg);

    segment_charge(core, seg, CHARGE_KEY, seg->r.cuid, 0, true);
    if (seg->doomed)
        segment_destroy(core, seg);
    waiters_continue(core, waiters, NULL);
    return op;
}

/* ------------------------------------------------------------------ steps */

void made_continue(struct core *core, struct segment *seg, const struct core_found *claimed)
{
    struct op *op;

    if (claimed->state == CORE_FOUND_NONE) {
        made(core, seg);
        return;
    }
    op = undo_new(core, seg);
    if (!op->client && !op->remote)
        op_drop(core, op);
    else if (op->kind == OP_FTOK)
        ftok_lost(core, op, claimed);
    else
        get_found(core, op, claimed);
}

static void reserved_fill(struct segment *seg, const struct op *op)
{
    seg->r.size = op->req.get.size;
    seg->r.uid = seg->r.cuid = op->cred.uid;
    seg->r.gid = seg->r.cgid = op->cred.gid;
    seg->r.mode = op->req.get.flags & 0777;
    seg->r.cpid = op->cred.pid;
    seg->r.flags |= (op->req.get.flags & SHM_NORESERVE ? FABRIC_SEG_NORESERVE : 0) |
                    (op->req.get.flags & SHM_HUGETLB ? FABRIC_SEG_HUGE : 0);
}

static void memory_made(struct core *core, struct segment *seg, int error)
{
    struct core_found found = {0};
    struct op *op = seg->maker;
    bool pool;

    seg->memory_pending = false;
    if (error) {
        op = seg->state == FABRIC_REC_NEW ? undo_new(core, seg) : undo_reserved(core, seg);
        op_done(core, op, error, NULL, 0);
        return;
    }
    if (seg->state == FABRIC_REC_RESERVED)
        reserved_fill(seg, op);
    (void)core_huge(core, seg->t.shmid, &pool);
    seg->r.flags |= pool ? FABRIC_SEG_HUGE : 0;
    seg->r.ctime = core->now_s;
    if (seg->state == FABRIC_REC_RESERVED || seg->r.flags & FABRIC_SEG_PRIVATE) {
        made(core, seg);
        return;
    }
    segment_publish(core, seg, FABRIC_REC_NEW);
    op->wait = WAIT_CLAIM;
    error = core->ops->claim(core->ctx, seg->r.key, seg->slot, op->id, &found);
    if (error == CORE_PENDING)
        return;
    if (error)
        found = (struct core_found){.state = CORE_FOUND_FAILED, .error = error};
    made_continue(core, seg, &found);
}

void core_memory_done(struct core *core, int32_t shmid, int error)
{
    struct segment *seg;

    if (segment_find(core, shmid, &seg) == 0 && seg->memory_pending)
        memory_made(core, seg, error);
    else if (!error && segment_find(core, shmid, &seg) != 0)
        core->ops->memory_destroy(core->ctx, shmid); /* nobody's */
}

void make_begin(struct core *core, struct op *op, struct segment *seg)
{
    uint32_t flags = op->req.get.flags;
    struct driver_create req = {
        .shmid = seg->t.shmid,
        .size = op->req.get.size,
        .policy = seg->r.policy,
        .nodes = seg->r.nodes,
    };
    int rc;

    if (flags & SHM_NORESERVE)
        req.flags |= DRIVER_CREATE_NORESERVE;
    if (flags & SHM_HUGETLB)
        req.flags |= DRIVER_CREATE_HUGE | (flags & 0x3fu << DRIVER_CREATE_HUGE_SHIFT);
    seg->maker = op;
    op->seg = seg;
    op->wait = WAIT_MEMORY;
    seg->memory_pending = true;
    rc = core->ops->memory_create(core->ctx, &req);
    if (rc != CORE_PENDING)
        memory_made(core, seg, rc);
}
