/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keys from xp_ftok: RESERVED segments.
 *
 * The home makes the key (a reservation is one of its records), so that the key carries its partition. A key that
 * somebody has already is thrown away with its record and another one is tried.
 */
#include "core_internal.h"

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
    return x ^ x >> 31;
}

static int32_t fresh_key(struct core *core, uint64_t token)
{
    uint64_t who = (uint64_t)core->params.incarnation << 32 | core->params.epoch << 8 | core->params.self;
    int32_t key;

    do
        key = (int32_t)(uint32_t)mix(mix(mix(token) ^ who) + ++core->key_counter);
    while (key == IPC_PRIVATE);
    return key;
}

static void reserve(struct core *core, struct op *op)
{
    struct core_found found = {0};
    struct segment *seg;
    struct fabric_record r = {
        .uid = op->cred.uid,
        .gid = op->cred.gid,
        .cuid = op->cred.uid,
        .cgid = op->cred.gid,
        .flags = FABRIC_SEG_FTOK,
        .ctime = core->now_s,
        .token = op->req.token,
    };
    int error = op->tries++ < FTOK_TRIES ? 0 : ENOSPC;

    r.key = fresh_key(core, op->req.token);
    if (!error)
        error = segment_new(core, &r, &seg);
    if (error) {
        op_done(core, op, error, NULL, 0);
        return;
    }
    seg->maker = op;
    op->seg = seg;
    op->wait = WAIT_CLAIM;
    error = core->ops->claim(core->ctx, r.key, seg->slot, op->id, &found);
    if (error == CORE_PENDING)
        return;
    if (error)
        found = (struct core_found){.state = CORE_FOUND_FAILED, .error = error};
    made_continue(core, seg, &found);
}

void ftok_begin(struct core *core, struct op *op)
{
    struct segment *seg = segment_by_token(core, op->req.token, op->cred.uid);
    struct fabric_stat stat;

    if (!seg || !(seg->r.flags & FABRIC_SEG_FTOK)) {
        reserve(core, op);
    } else if (seg->state == FABRIC_REC_NEW) {
        wait_made(op, seg);
    } else {
        segment_stat(seg, &stat);
        op_done_stat(core, op, 0, seg->t.shmid, &stat);
    }
}

/* The claim of a reservation was lost. */
void ftok_lost(struct core *core, struct op *op, const struct core_found *found)
{
    if (found->state == CORE_FOUND_FAILED)
        op_done(core, op, found->error ? found->error : EIO, NULL, 0);
    else
        reserve(core, op);
}

void ftok_remote_done(struct core *core, struct op *op, const struct fabric_msg *msg)
{
    int error = msg->status;

    if (!error && msg->body.stat.key == IPC_PRIVATE)
        error = EIO;
    op_done_stat(core, op, error, msg->shmid, &msg->body.stat);
}

void core_ftok(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred, uint32_t home,
               uint64_t token)
{
    struct op *op = op_request(core, client, tag, OP_FTOK, cred);
    struct fabric_create *create;
    int error;

    if (!op)
        return;
    op->req.token = token;
    if (home == core->params.self) {
        ftok_begin(core, op);
        return;
    }
    error = member_error(core, home);
    if (error) {
        op_done(core, op, error == EINVAL ? ENOENT : error, NULL, 0);
        return;
    }
    op->msg.op = FABRIC_OP_RESERVE;
    op->msg.flags = cred->privileged ? FABRIC_MSG_CALLER_PRIVILEGED : 0;
    create = &op->msg.body.create;
    create->token = token;
    create->uid = cred->uid;
    create->gid = cred->gid;
    create->pid = cred->pid;
    op->again = true;
    op_wait_peer(core, op, home);
}

/* ------------------------------------------------------------------ placement */

static int setpmo(struct core *core, struct op *op, const struct core_found *found)
{
    struct segment *seg;

    if (found->state == CORE_FOUND_FAILED)
        return found->error ? found->error : EIO;
    if (found->state != CORE_FOUND_OTHER || found->home != core->params.self ||
        segment_find(core, found->shmid, &seg) != 0 || seg->state != FABRIC_REC_RESERVED || seg->maker)
        return EINVAL;
    if (!op->cred.privileged && op->cred.uid != seg->r.cuid)
        return EACCES;
    seg->r.policy = op->req.pmo.policy;
    seg->r.nodes = op->req.pmo.nodes;
    segment_publish(core, seg, seg->state);
    return 0;
}

void setpmo_found(struct core *core, struct op *op, const struct core_found *found)
{
    op_done(core, op, setpmo(core, op, found), NULL, 0);
}

void core_setpmo(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
                 const struct clshmd_setpmo *req)
{
    struct op *op = op_request(core, client, tag, OP_SETPMO, cred);
    struct core_found found = {0};
    int rc;

    if (!op)
        return;
    op->req.pmo = *req;
    if (req->key == IPC_PRIVATE || req->policy > 5 /* MPOL_PREFERRED_MANY */) {
        op_done(core, op, EINVAL, NULL, 0);
        return;
    }
    op->wait = WAIT_LOOKUP;
    rc = core->ops->lookup(core->ctx, req->key, op->id, &found);
    if (rc == CORE_PENDING)
        return;
    if (rc)
        found = (struct core_found){.state = CORE_FOUND_FAILED, .error = rc};
    setpmo_found(core, op, &found);
}

/* ------------------------------------------------------------------ the directory's later answers */

void core_directory_done(struct core *core, uint64_t ticket, const struct core_found *found)
{
    struct op *op = ticket <= UINT32_MAX ? op_find(core, (uint32_t)ticket) : NULL;

    if (!op)
        return; /* given up, or an answer to this daemon's predecessor */
    if (op->wait == WAIT_CLAIM) {
        made_continue(core, op->seg, found);
    } else if (op->wait == WAIT_LOOKUP) {
        op->wait = WAIT_NOTHING;
        if (op->kind == OP_SETPMO)
            setpmo_found(core, op, found);
        else
            get_found(core, op, found);
    }
}
