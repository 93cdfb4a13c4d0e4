/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Operations: requests under way.
 *
 * Every request of a client is an op from its first check to its answer; so is a request of another partition that
 * may have to wait. An op waits for one thing at a time (op.wait) and stands in the list of what it waits for. op_done()
 * answers and frees it. Those that make a segment live on without anybody to answer when their client goes (a repeated
 * request finds the segment by its token); the others are dropped.
 */
#include "core_internal.h"

struct op *op_find(struct core *core, uint32_t id)
{
    struct op *op;

    HASH_FIND(hh, core->ops_by_id, &id, sizeof(id), op);
    return op;
}

struct op *op_new(struct core *core, enum op_kind kind, const struct core_cred *cred)
{
    size_t groups = cred ? cred->n_groups * sizeof(uint32_t) : 0;
    struct op *op = calloc(1, sizeof(*op) + groups);

    if (!op)
        return NULL;
    op->kind = kind;
    op->began = core->now_ms;
    if (cred) {
        op->cred = *cred;
        if (groups)
            memcpy(op->groups, cred->groups, groups);
        op->cred.groups = op->groups;
    }
    do
        core->next_id++;
    while (!core->next_id || op_find(core, core->next_id));
    op->id = core->next_id;
    HASH_ADD(hh, core->ops_by_id, id, sizeof(op->id), op);
    if (!op->hh.tbl) {
        free(op);
        return NULL;
    }
    return op;
}

struct op *op_request(struct core *core, uint32_t client_id, uint64_t tag, enum op_kind kind,
                      const struct core_cred *cred)
{
    struct client *client = core_find_client(core, client_id);
    uint32_t max = core->params.limits.max_ops_client;
    struct op *op = NULL;
    int error = ENOMEM;

    if (!client)
        error = EPROTO;
    else if (max && client->n_ops >= max)
        error = EAGAIN;
    else
        op = op_new(core, kind, cred);
    if (!op) {
        core->ops->reply(core->ctx, client_id, tag, error, NULL, 0, 0, 0);
        return NULL;
    }
    op->client = client;
    op->tag = tag;
    DL_APPEND2(client->ops, op, client_prev, client_next);
    client->n_ops++;
    return op;
}

/* Take it out of the list of what it waits for. */
static void op_unwait(struct core *core, struct op *op)
{
    if (op->wait == WAIT_MADE)
        DL_DELETE2(op->seg->waiters, op, wait_prev, wait_next);
    else if (op->wait == WAIT_COUNT)
        DL_DELETE2(op->seg->stats, op, wait_prev, wait_next);
    else if (op->wait == WAIT_IMPORT)
        DL_DELETE2(op->imp->waiters, op, wait_prev, wait_next);
    if (op->wait == WAIT_MADE || op->wait == WAIT_COUNT)
        op->seg = NULL;
    op->imp = NULL;
    op->wait = WAIT_NOTHING;
    timer_stop(core, TIMER_OP, &op->timer);
}

/* Nobody is to be answered any more. */
static void op_mute(struct core *core, struct op *op)
{
    if (op->client) {
        DL_DELETE2(op->client->ops, op, client_prev, client_next);
        op->client->n_ops--;
        op->client = NULL;
    }
    if (op->remote) {
        core->member[op->from].n_ops--;
        op->remote = false;
    }
}

void op_drop(struct core *core, struct op *op)
{
    op_unwait(core, op);
    op_mute(core, op);
    if (op->seg && op->seg->maker == op)
        op->seg->maker = NULL;
    HASH_DEL(core->ops_by_id, op);
    free(op);
}

void op_abandon(struct core *core, struct op *op)
{
    if (op->wait == WAIT_MEMORY || op->wait == WAIT_CLAIM) {
        op_mute(core, op);
    } else {
        struct import *imp = op->imp;

        op_drop(core, op);
        if (imp)
            import_continue(core, imp);
    }
}

static void op_answer(struct core *core, struct op *op, int error, const void *payload, size_t size)
{
    if (op->client)
        core->ops->reply(core->ctx, op->client->id, op->tag, error, error ? NULL : payload, error ? 0 : size, 0, 0);
    else if (op->remote)
        home_answer(core, op->from, &op->msg, FABRIC_OP_DONE, error, op->msg.shmid, NULL, 0);
}

void op_done(struct core *core, struct op *op, int error, const void *payload, size_t size)
{
    op_unwait(core, op);
    op_answer(core, op, error, payload, size);
    op_drop(core, op);
}

void op_done_grant(struct core *core, struct op *op, const struct clshmd_open_reply *reply, int32_t shmid,
                   uint32_t prot)
{
    op_unwait(core, op);
    if (op->client)
        core->ops->reply(core->ctx, op->client->id, op->tag, 0, reply, sizeof(*reply), shmid, prot);
    op_drop(core, op);
}

/* The answer that says what segment it is: GET, FTOK and the STAT family, to a client or to another partition. */
void op_done_stat(struct core *core, struct op *op, int error, int32_t shmid, const struct fabric_stat *stat)
{
    const struct core_params *p = &core->params;
    uint32_t part = fabric_shmid_part(p->part_bits, p->slot_bits, shmid);
    struct clshmd_get_reply get = {
        .shmid = shmid,
        .flags = stat->flags,
        .size = stat->size,
        .word = stat->word,
        .incarnation = part == p->self   ? p->incarnation
                       : part < p->parts ? core->member[part].incarnation
                                         : 0,
    };
    struct clshmd_ftok_reply ftok = {.key = stat->key, .part = part};
    struct clshmd_stat full = {.shmid = shmid, .part = part, .stat = *stat};

    op_unwait(core, op);
    if (op->remote)
        home_answer(core, op->from, &op->msg, FABRIC_OP_DONE, error, shmid, stat, op->made ? FABRIC_MSG_MADE : 0);
    else if (op->kind == OP_GET)
        op_answer(core, op, error, &get, sizeof(get));
    else if (op->kind == OP_FTOK)
        op_answer(core, op, error, &ftok, sizeof(ftok));
    else
        op_answer(core, op, error, &full, sizeof(full));
    op_drop(core, op);
}

/* ------------------------------------------------------------------ waiting for another partition */

void op_deadline(struct core *core, struct op *op, uint64_t ms)
{
    uint64_t resend = interval_resend(core);

    op->deadline = core->now_ms + ms;
    timer_arm(core, TIMER_OP, &op->timer, core->now_ms + (ms < resend ? ms : resend));
}

/* What the home may take for reserving memory: a second for each GiB, ten minutes at most. */
static uint64_t making_ms(const struct op *op)
{
    uint64_t ms = op->kind == OP_GET ? op->req.get.size >> 20 : 0;

    return ms < 600000 ? ms : 600000;
}

void op_wait_peer(struct core *core, struct op *op, uint32_t part)
{
    op->part = part;
    op->wait = WAIT_PEER;
    op_deadline(core, op, interval_op(core) + making_ms(op));
    core_send(core, part, op->msg.op, op->id, op->msg.shmid, &op->msg);
}

static void op_expire(struct core *core, struct op *op)
{
    struct import *imp = op->imp;

    if (op->wait == WAIT_COUNT) {
        stat_finish(core, op);
        return;
    }
    op_done(core, op, EHOSTDOWN, NULL, 0);
    if (imp)
        import_continue(core, imp);
}

void op_timer(struct core *core, struct op *op)
{
    uint64_t left, resend = interval_resend(core);

    if (core->now_ms >= op->deadline) {
        op_expire(core, op);
        return;
    }
    if (op->wait == WAIT_PEER && op->again && member_reachable(core, op->part))
        core_send(core, op->part, op->msg.op, op->id, op->msg.shmid, &op->msg);
    for (uint32_t part = 0; op->wait == WAIT_COUNT && part < core->params.parts; part++)
        if (op->awaiting >> part & 1)
            core_send(core, part, FABRIC_OP_COUNT, op->id, op->seg->t.shmid, NULL);
    left = op->deadline - core->now_ms;
    timer_arm(core, TIMER_OP, &op->timer, core->now_ms + (left < resend ? left : resend));
}

bool op_stranger(const struct core *core, const struct op *op)
{
    return op->remote && !core->member[op->from].same_uids;
}
