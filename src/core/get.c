/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * xp_shmget: from a key to a shmid, and the making of segments.
 *
 *     get_begin --lookup--> get_found --+-- somewhere: get_existing (checks, id)
 *                                       +-- reserved here: get_reserved ----> memory -----------> LIVE, under its id
 *                                       +-- reserved elsewhere: CREATE to its home
 *                                       +-- nowhere: get_create: NEW -------> memory --> claim --> LIVE
 *                                                                              lost: undone, then as found
 *
 * The op that makes a segment is its maker; others that come for it meanwhile wait in seg->waiters. A request that is
 * repeated with the same token finds what the first one made, or waits for it.
 */
#include "core_internal.h"

static void get_create(struct core *core, struct op *op);

static void lookup(struct core *core, struct op *op)
{
    struct core_found found = {0};
    int rc;

    if (op->tries++ >= GET_TRIES) {
        op_done(core, op, EAGAIN, NULL, 0);
        return;
    }
    op->wait = WAIT_LOOKUP;
    rc = core->ops->lookup(core->ctx, op->req.get.key, op->id, &found);
    if (rc == CORE_PENDING)
        return;
    op->wait = WAIT_NOTHING;
    if (rc)
        op_done(core, op, rc, NULL, 0);
    else
        get_found(core, op, &found);
}

/* sysv.md's order: EEXIST, then the size, then the mode bits that were asked for. */
static int existing_check(const struct op *op, const struct fabric_stat *stat, bool stranger)
{
    uint32_t flags = op->req.get.flags, want = (flags >> 6 | flags >> 3 | flags) & 7;

    if ((flags & IPC_CREAT) && (flags & IPC_EXCL))
        return EEXIST;
    if (stat->flags & FABRIC_SEG_FTOK ? op->req.get.size != stat->size : op->req.get.size > stat->size)
        return EINVAL;
    /* For another partition's client the asking daemon looks: it knows the groups. */
    if (want && !op->remote && !core_perm_allows(stat, &op->cred, want, stranger))
        return EACCES;
    return 0;
}

/* @seg is there: an own one, in whatever state. */
void get_own(struct core *core, struct op *op, struct segment *seg)
{
    struct fabric_stat stat;
    bool made_by_it = op->req.get.token && op->req.get.token == seg->r.token && op->cred.uid == seg->r.cuid;

    if (seg->state == FABRIC_REC_NEW) {
        wait_made(op, seg);
    } else if (seg->state == FABRIC_REC_RESERVED) {
        get_reserved(core, op, seg);
    } else {
        segment_stat(seg, &stat);
        op->made = made_by_it;
        op_done_stat(core, op, made_by_it ? 0 : existing_check(op, &stat, false), seg->t.shmid, &stat);
    }
}

void get_begin(struct core *core, struct op *op)
{
    struct segment *seg = segment_by_token(core, op->req.get.token, op->cred.uid);

    if (op->req.get.key != IPC_PRIVATE) {
        if (seg && seg->r.key == op->req.get.key && seg->state == FABRIC_REC_NEW)
            wait_made(op, seg);
        else
            lookup(core, op);
    } else if (seg && seg->r.flags & FABRIC_SEG_PRIVATE) {
        get_own(core, op, seg);
    } else {
        get_create(core, op);
    }
}

/* ------------------------------------------------------------------ found */

static void get_elsewhere(struct core *core, struct op *op, const struct core_found *found)
{
    int error = member_error(core, found->home);
    struct fabric_create *create = &op->msg.body.create;

    if (op->remote) { /* it was asked for one that is here */
        op_done(core, op, ENOENT, NULL, 0);
        return;
    }
    if (error || !found->reserved) {
        bool stranger = !error && !core->member[found->home].same_uids;

        error = error == EINVAL ? EHOSTDOWN : error ? error : existing_check(op, &found->stat, stranger);
        op_done_stat(core, op, error, found->shmid, &found->stat);
        return;
    }
    memset(&op->msg, 0, sizeof(op->msg));
    op->msg.op = FABRIC_OP_CREATE;
    op->msg.shmid = found->shmid;
    op->msg.flags = op->cred.privileged ? FABRIC_MSG_CALLER_PRIVILEGED : 0;
    create->size = op->req.get.size;
    create->token = op->req.get.token;
    create->key = op->req.get.key;
    create->flags = op->req.get.flags;
    create->uid = op->cred.uid;
    create->gid = op->cred.gid;
    create->pid = op->cred.pid;
    op->again = true;
    op_wait_peer(core, op, found->home);
}

void get_found(struct core *core, struct op *op, const struct core_found *found)
{
    struct segment *seg = NULL;

    switch (found->state) {
    case CORE_FOUND_NONE:
        if (op->req.get.flags & IPC_CREAT && !op->remote)
            get_create(core, op);
        else
            op_done(core, op, ENOENT, NULL, 0);
        break;
    case CORE_FOUND_OTHER:
        if (found->home != core->params.self)
            get_elsewhere(core, op, found);
        else if (segment_find(core, found->shmid, &seg) == 0 && seg->state != FABRIC_REC_DEST)
            get_own(core, op, seg);
        else
            lookup(core, op); /* an answer of yesterday */
        break;
    case CORE_FOUND_FULL:
        op_done(core, op, ENOSPC, NULL, 0);
        break;
    default:
        op_done(core, op, found->error ? found->error : EIO, NULL, 0);
        break;
    }
}

/* The home gave memory to a reserved key, or had done so before. */
void get_remote_done(struct core *core, struct op *op, const struct fabric_msg *msg)
{
    uint32_t flags = op->req.get.flags, want = (flags >> 6 | flags >> 3 | flags) & 7;
    bool stranger = !core->member[op->part].same_uids;
    int error = msg->status;

    if (error == ENOENT) { /* the key was given up meanwhile */
        lookup(core, op);
        return;
    }
    if (!error && msg->shmid != op->msg.shmid)
        error = EIO;
    if (!error && want && !(msg->flags & FABRIC_MSG_MADE) &&
        !core_perm_allows(&msg->body.stat, &op->cred, want, stranger))
        error = EACCES;
    op_done_stat(core, op, error, op->msg.shmid, &msg->body.stat);
}

/* ------------------------------------------------------------------ nowhere: make it */

/* What a new segment must meet, whoever asks. */
static int new_check(const struct core *core, const struct op *op)
{
    if (op->req.get.flags & SHM_HUGETLB && !op->cred.privileged)
        return EPERM;
    return segment_size_check(core, op->req.get.size);
}

static void get_create(struct core *core, struct op *op)
{
    const struct clshmd_get *get = &op->req.get;
    struct fabric_record r = {
        .key = get->key,
        .size = get->size,
        .uid = op->cred.uid,
        .gid = op->cred.gid,
        .cuid = op->cred.uid,
        .cgid = op->cred.gid,
        .mode = get->flags & 0777,
        .cpid = op->cred.pid,
        .ctime = core->now_s,
        .token = get->token,
    };
    struct segment *seg = NULL;
    int error = new_check(core, op);

    r.flags = (get->key == IPC_PRIVATE ? FABRIC_SEG_PRIVATE : 0) |
              (get->flags & SHM_NORESERVE ? FABRIC_SEG_NORESERVE : 0) |
              (get->flags & SHM_HUGETLB ? FABRIC_SEG_HUGE : 0);
    if (!error)
        error = segment_new(core, &r, &seg);
    if (error)
        op_done(core, op, error, NULL, 0);
    else
        make_begin(core, op, seg);
}

void get_reserved(struct core *core, struct op *op, struct segment *seg)
{
    int error = new_check(core, op);

    if (!error && seg->maker) {
        wait_made(op, seg);
        return;
    }
    if (!error)
        error = segment_charge(core, seg, CHARGE_SEGMENT, op->cred.uid, op->req.get.size, false);
    if (error)
        op_done(core, op, error, NULL, 0);
    else
        make_begin(core, op, seg);
}

void core_get(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
              const struct clshmd_get *req)
{
    struct op *op = op_request(core, client, tag, OP_GET, cred);

    if (!op)
        return;
    op->req.get = *req;
    get_begin(core, op);
}
