/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The importer's side: segments of other partitions whose memory is here.
 *
 * Messages from one partition to another keep their order, and what the home believes of us is what we said last: IMPORT
 * sets our bit in its record, RELEASED clears it. So: RELEASED is only sent when the import is gone and no IMPORT is
 * under way (else BUSY); an IMPORTED that nobody waits for any more is answered with RELEASED if there is no import.
 *
 * imp->stat holds the rights as of the generation word in it. When the home's word has moved on they are asked for
 * again; the memory stays. An import kept over a restart of this daemon has no rights yet and asks at once: the answer
 * also tells whether its home is still the same.
 */
#include "core_internal.h"

struct import *import_find(const struct core *core, int32_t shmid)
{
    struct import *imp;

    HASH_FIND(hh, core->imports, &shmid, sizeof(shmid), imp);
    return imp;
}

struct import *import_new(struct core *core, int32_t shmid)
{
    struct import *imp = calloc(1, sizeof(*imp));

    if (!imp)
        return NULL;
    imp->t.shmid = shmid;
    imp->part = fabric_shmid_part(core->params.part_bits, core->params.slot_bits, shmid);
    HASH_ADD(hh, core->imports, t.shmid, sizeof(shmid), imp);
    if (!imp->hh.tbl) {
        free(imp);
        return NULL;
    }
    return imp;
}

void import_ask(struct core *core, struct import *imp)
{
    do
        core->next_id++;
    while (!core->next_id);
    imp->seq = core->next_id;
    if (member_reachable(core, imp->part))
        core_send(core, imp->part, FABRIC_OP_IMPORT, imp->seq, imp->t.shmid, NULL);
    timer_arm(core, TIMER_IMPORT, &imp->timer, core->now_ms + interval_resend(core));
}

void import_timer(struct core *core, struct import *imp)
{
    if (!imp->seq)
        return;
    if (member_reachable(core, imp->part))
        core_send(core, imp->part, FABRIC_OP_IMPORT, imp->seq, imp->t.shmid, NULL);
    timer_arm(core, TIMER_IMPORT, &imp->timer, core->now_ms + interval_resend(core));
}

bool import_current(const struct core *core, const struct import *imp)
{
    uint32_t slot = fabric_shmid_slot(core->params.slot_bits, imp->t.shmid);

    return imp->has_stat && core->ops->peer_gen(core->ctx, imp->part, slot) == imp->stat.word;
}

/* ------------------------------------------------------------------ its end */

void import_forget(struct core *core, struct import *imp)
{
    while (imp->t.grants)
        grant_end(core, imp->t.grants);
    timer_stop(core, TIMER_IMPORT, &imp->timer);
    HASH_DEL(core->imports, imp);
    free(imp);
}

static void send_count(struct core *core, uint32_t to, enum fabric_op op, uint32_t seq, uint32_t reply_epoch,
                       int32_t shmid, const struct fabric_count *fig)
{
    struct fabric_msg msg = {0};

    if (fig)
        msg.body.count = *fig;
    msg.reply_epoch = reply_epoch;
    core_send(core, to, op, seq, shmid, &msg);
}

/* Give it back; @seq and @epoch of the RELEASE or COUNT that this answers, if any. */
void import_release(struct core *core, struct import *imp, uint32_t seq, uint32_t epoch)
{
    struct fabric_count fig = imp->t.fig;
    int32_t shmid = imp->t.shmid;
    uint32_t part = imp->part;

    fig.nattch = 0;
    import_forget(core, imp);
    if (core->ops->memory_has(core->ctx, shmid))
        core->ops->memory_drop(core->ctx, shmid);
    send_count(core, part, FABRIC_OP_RELEASED, seq, epoch, shmid, &fig);
}

void import_continue(struct core *core, struct import *imp)
{
    if (imp->seq || imp->waiters || imp->t.grants)
        return;
    clients_late(core);
    if (!imp->t.grants)
        import_release(core, imp, 0, 0);
}

static struct op *waiters_take(struct import *imp)
{
    struct op *list = imp->waiters, *op;

    imp->waiters = NULL;
    DL_FOREACH2(list, op, wait_next)
    {
        op->wait = WAIT_NOTHING;
        op->imp = NULL;
    }
    return list;
}

static void waiters_fail(struct core *core, struct op *list, int error)
{
    struct op *op, *next;

    DL_FOREACH_SAFE2(list, op, next, wait_next)
    op_done(core, op, error, NULL, 0);
}

/* Its home is gone, or says that there is no such segment: nobody here may reach the pages any longer. */
static void import_fail(struct core *core, struct import *imp, int error)
{
    struct op *list = waiters_take(imp);
    int32_t shmid = imp->t.shmid;

    import_forget(core, imp);
    if (core->ops->memory_has(core->ctx, shmid))
        core->ops->memory_revoke(core->ctx, shmid);
    waiters_fail(core, list, error);
}

void import_revoke(struct core *core, struct import *imp)
{
    import_fail(core, imp, EHOSTDOWN);
}

/* ------------------------------------------------------------------ OPEN */

void import_open(struct core *core, struct op *op)
{
    int32_t shmid = op->req.open.shmid;
    uint32_t part = fabric_shmid_part(core->params.part_bits, core->params.slot_bits, shmid);
    struct import *imp = import_find(core, shmid);
    int error = member_error(core, part);

    if (imp && !imp->seq && import_current(core, imp)) { /* also while the home is stalled */
        open_decide(core, op, &imp->t, &imp->stat, !core->member[part].same_uids, imp->incarnation);
        import_continue(core, imp);
        return;
    }
    if (!error && !imp) {
        imp = import_new(core, shmid);
        error = imp ? 0 : ENOMEM;
    }
    if (error) {
        op_done(core, op, error, NULL, 0);
        return;
    }
    op->wait = WAIT_IMPORT;
    op->imp = imp;
    op->part = part;
    DL_APPEND2(imp->waiters, op, wait_prev, wait_next);
    op_deadline(core, op, interval_op(core));
    if (!imp->seq)
        import_ask(core, imp);
}

static void import_serve(struct core *core, struct import *imp)
{
    struct op *list = waiters_take(imp), *op, *next;

    DL_FOREACH_SAFE2(list, op, next, wait_next)
    open_decide(core, op, &imp->t, &imp->stat, !core->member[imp->part].same_uids, imp->incarnation);
    import_continue(core, imp);
}

static void imported(struct core *core, uint32_t from, const struct fabric_msg *msg, bool has_memory)
{
    struct import *imp = import_find(core, msg->shmid);

    if (!imp && msg->status == 0) { /* too late: nobody wants it any more */
        if (has_memory)
            core->ops->memory_drop(core->ctx, msg->shmid);
        send_count(core, from, FABRIC_OP_RELEASED, 0, 0, msg->shmid, NULL);
    }
    if (!imp || !imp->seq || imp->seq != msg->seq || msg->reply_epoch != core->params.epoch)
        return;
    imp->seq = 0;
    timer_stop(core, TIMER_IMPORT, &imp->timer);
    if (msg->status && msg->status != EINVAL && msg->status != EIDRM) {
        /* No more attachments now (EACCES: rights have changed; ENOMEM); those that are there stay. */
        waiters_fail(core, waiters_take(imp), msg->status);
        import_continue(core, imp);
    } else if (msg->status || !core->ops->memory_has(core->ctx, imp->t.shmid)) {
        import_fail(core, imp, msg->status ? msg->status : ENOMEM);
    } else {
        imp->stat = msg->body.stat;
        imp->has_stat = true;
        imp->incarnation = core->member[from].incarnation;
        if (imp->waiters && !import_current(core, imp) && imp->tries++ < GET_TRIES) {
            import_ask(core, imp);
            return;
        }
        imp->tries = 0;
        if (imp->stat.word & FABRIC_GEN_MARKED) /* a restart has made grants of idle entries, as for any segment */
            target_end_unused(core, &imp->t);
        import_serve(core, imp);
    }
}

/* ------------------------------------------------------------------ what the home asks */

static void count_asked(struct core *core, uint32_t from, const struct fabric_msg *msg)
{
    struct import *imp = import_find(core, msg->shmid);

    if (!imp) {
        send_count(core, from, FABRIC_OP_RELEASED, msg->seq, msg->epoch, msg->shmid, NULL);
        return;
    }
    target_recount(core, &imp->t);
    send_count(core, from, FABRIC_OP_COUNTED, msg->seq, msg->epoch, msg->shmid, &imp->t.fig);
}

static void release_asked(struct core *core, uint32_t from, const struct fabric_msg *msg)
{
    struct import *imp = import_find(core, msg->shmid);

    if (!imp) {
        send_count(core, from, FABRIC_OP_RELEASED, msg->seq, msg->epoch, msg->shmid, NULL);
        return;
    }
    target_end_unused(core, &imp->t);
    if (imp->t.grants || imp->seq || imp->waiters)
        send_count(core, from, FABRIC_OP_BUSY, msg->seq, msg->epoch, msg->shmid, &imp->t.fig);
    else
        import_release(core, imp, msg->seq, msg->epoch);
}

static void done(struct core *core, uint32_t from, const struct fabric_msg *msg)
{
    struct op *op = op_find(core, msg->seq);

    if (!op || op->wait != WAIT_PEER || op->part != from || msg->reply_epoch != core->params.epoch)
        return;
    if ((op->kind == OP_PING) != (msg->op == FABRIC_OP_PONG))
        return;
    if (op->kind == OP_GET)
        get_remote_done(core, op, msg);
    else if (op->kind == OP_FTOK)
        ftok_remote_done(core, op, msg);
    else if (op->kind == OP_CTL)
        ctl_remote_done(core, op, msg);
    else
        ping_done(core, op, msg);
}

void importer_message(struct core *core, uint32_t from, const struct fabric_msg *msg, bool has_memory)
{
    bool theirs =
        msg->shmid >= 0 && fabric_shmid_part(core->params.part_bits, core->params.slot_bits, msg->shmid) == from;

    if (msg->op == FABRIC_OP_DONE || msg->op == FABRIC_OP_PONG)
        done(core, from, msg);
    else if (!theirs)
        return;
    else if (msg->op == FABRIC_OP_IMPORTED)
        imported(core, from, msg, has_memory);
    else if (msg->op == FABRIC_OP_COUNT)
        count_asked(core, from, msg);
    else if (msg->op == FABRIC_OP_RELEASE)
        release_asked(core, from, msg);
}
