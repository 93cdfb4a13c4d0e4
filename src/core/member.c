/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Other partitions coming and going, and their messages.
 *
 * A partition that stalls keeps everything: only what waits for it ends. One that died (or left, or came back with
 * another incarnation) ends: its bits in our records, its segments here, its requests.
 */
#include "core_internal.h"

static void importer_died(struct core *core, uint32_t part)
{
    for (uint32_t slot = 0; slot < core->params.slots; slot++) {
        struct segment *seg = core->segment[slot];

        if (!seg || !segment_importer(seg, part))
            continue;
        /* What it had attached is not known to the last; that it imported says that it attached. */
        if (!seg->t.fig.attaches)
            seg->t.fig.attaches = 1;
        segment_drop_importer(core, seg, part);
        segment_continue(core, seg);
    }
}

static void home_died(struct core *core, uint32_t part)
{
    struct import *imp, *next;

    HASH_ITER (hh, core->imports, imp, next)
        if (imp->part == part)
            import_revoke(core, imp);
}

/* What waits for @part ends; what it had asked for too if it is @dead. */
static void ops_end(struct core *core, uint32_t part, bool dead)
{
    struct op *op, *next;

    HASH_ITER (hh, core->ops_by_id, op, next) {
        struct import *imp = op->imp;

        if (op->remote && op->from == part && dead) {
            op_abandon(core, op);
        } else if (op->wait == WAIT_COUNT && op->awaiting >> part & 1) {
            stat_answered(core, op, part);
        } else if ((op->wait == WAIT_PEER || op->wait == WAIT_IMPORT) && op->part == part) {
            op_done(core, op, EHOSTDOWN, NULL, 0);
            if (imp)
                import_continue(core, imp);
        }
    }
}

static void part_died(struct core *core, uint32_t part)
{
    ops_end(core, part, true);
    importer_died(core, part);
    home_died(core, part);
}

/* Those that could not be asked for while their home was away. */
static void home_is_back(struct core *core, uint32_t part)
{
    for (struct import *imp = core->imports; imp; imp = imp->hh.next)
        if (imp->part == part)
            import_timer(core, imp);
}

void core_member(struct core *core, uint32_t part, enum core_member_state state, uint32_t incarnation, bool same_uids)
{
    struct member *member;
    bool anew, back;

    if (part >= core->params.parts)
        return;
    member = &core->member[part];
    anew = member->incarnation && incarnation && member->incarnation != incarnation;
    if (state != CORE_MEMBER_ABSENT || incarnation)
        member->seen = true;
    if (part == core->params.self)
        return;
    if (anew || state == CORE_MEMBER_DEAD || state == CORE_MEMBER_ABSENT) {
        member->state = CORE_MEMBER_DEAD; /* nothing is sent there meanwhile */
        part_died(core, part);
    }
    back = state == CORE_MEMBER_ALIVE && member->state != CORE_MEMBER_ALIVE;
    member->state = state;
    member->same_uids = same_uids;
    if (incarnation)
        member->incarnation = incarnation;
    if (state == CORE_MEMBER_STALLED || state == CORE_MEMBER_FOREIGN)
        ops_end(core, part, false);
    if (back)
        home_is_back(core, part);
}

/* ------------------------------------------------------------------ messages */

void core_message(struct core *core, uint32_t from, const struct fabric_msg *msg, bool has_memory)
{
    struct member *member = from < core->params.parts && from != core->params.self ? &core->member[from] : NULL;
    struct fabric_msg pong = {0};

    if (!member || (member->state != CORE_MEMBER_ALIVE && member->state != CORE_MEMBER_STALLED) ||
        msg->incarnation != member->incarnation) {
        if (has_memory && !import_find(core, msg->shmid))
            core->ops->memory_drop(core->ctx, msg->shmid);
        return;
    }
    switch (msg->op) {
    case FABRIC_OP_PING:
        pong.reply_epoch = msg->epoch;
        memcpy(pong.body.pong.hostname, core->hostname, sizeof(pong.body.pong.hostname));
        core_send(core, from, FABRIC_OP_PONG, msg->seq, 0, &pong);
        break;
    case FABRIC_OP_PONG:
    case FABRIC_OP_IMPORTED:
    case FABRIC_OP_COUNT:
    case FABRIC_OP_RELEASE:
    case FABRIC_OP_DONE:
        importer_message(core, from, msg, has_memory);
        break;
    case FABRIC_OP_WAIT:
    case FABRIC_OP_WAKE:
        home_answer(core, from, msg, FABRIC_OP_DONE, ENOSYS, msg->shmid, NULL, 0);
        break;
    default:
        home_message(core, from, msg);
        break;
    }
}

/* ------------------------------------------------------------------ PING */

void core_ping(struct core *core, uint32_t client, uint64_t tag, uint32_t part)
{
    struct op *op = op_request(core, client, tag, OP_PING, NULL);
    struct clshmd_ping_reply reply = {0};
    int error;

    if (!op)
        return;
    if (part == core->params.self) {
        memcpy(reply.hostname, core->hostname, sizeof(reply.hostname));
        op_done(core, op, 0, &reply, sizeof(reply));
        return;
    }
    error = member_error(core, part);
    if (error) {
        op_done(core, op, error, NULL, 0);
        return;
    }
    op->msg.op = FABRIC_OP_PING;
    op->again = true;
    op_wait_peer(core, op, part);
}

void ping_done(struct core *core, struct op *op, const struct fabric_msg *msg)
{
    struct clshmd_ping_reply reply = {.rtt_ns = (core->now_ms - op->began) * 1000000};

    memcpy(reply.hostname, msg->body.pong.hostname, sizeof(reply.hostname));
    reply.hostname[sizeof(reply.hostname) - 1] = 0;
    op_done(core, op, msg->status, &reply, sizeof(reply));
}

bool core_part_use(const struct core *core, uint32_t part, struct clshmd_user *out)
{
    *out = (struct clshmd_user){.part = part};
    for (uint32_t slot = 0; slot < core->params.slots; slot++) {
        const struct segment *seg = core->segment[slot];
        const struct importer *importer = seg ? segment_importer(seg, part) : NULL;

        if (!importer)
            continue;
        out->segments++;
        out->attachments += importer->counting && !importer->fig.nattch ? 1 : importer->fig.nattch;
    }
    return out->segments > 0;
}
