/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * xp_shmctl, all but the STAT family and INFO: decided by the home, for whoever asks. The generation word moves before
 * the record does: a client that kept rights must then ask, and is answered when the change is complete.
 */
#include "core_internal.h"

static int apply_set(struct core *core, struct segment *seg, const struct clshmd_ctl *req)
{
    if (req->uid == ID_NOBODY || req->gid == ID_NOBODY)
        return EINVAL;
    segment_bump(core, seg, segment_marked(seg));
    seg->r.uid = req->uid;
    seg->r.gid = req->gid;
    seg->r.mode = (seg->r.mode & ~0777u) | (req->mode & 0777);
    seg->r.ctime = core->now_s;
    segment_publish(core, seg, seg->state);
    return 0;
}

static int apply_lock(struct core *core, struct segment *seg, bool lock)
{
    int error = core->ops->memory_lock(core->ctx, seg->t.shmid, lock);

    if (error)
        return error;
    seg->r.mode = (seg->r.mode & ~(uint32_t)SHM_LOCKED) | (lock ? SHM_LOCKED : 0u);
    segment_publish(core, seg, seg->state);
    return 0;
}

int ctl_apply(struct core *core, struct segment *seg, const struct clshmd_ctl *req, const struct core_cred *cred,
              bool stranger)
{
    bool reserved = seg->state == FABRIC_REC_RESERVED;
    bool removal = req->cmd == CLSHMD_CTL_RMID || req->cmd == CLSHMD_CTL_AUTORMID;
    struct fabric_stat stat;

    if (seg->state == FABRIC_REC_NEW || (reserved && !removal))
        return EINVAL;
    segment_stat(seg, &stat);
    if (!core_perm_owns(&stat, cred, stranger))
        return EPERM;
    switch (req->cmd) {
    case CLSHMD_CTL_RMID:
        segment_remove(core, seg);
        return 0;
    case CLSHMD_CTL_AUTORMID:
        segment_autoremove(core, seg);
        return 0;
    case CLSHMD_CTL_SET:
        return apply_set(core, seg, req);
    case CLSHMD_CTL_LOCK:
    case CLSHMD_CTL_UNLOCK:
        return apply_lock(core, seg, req->cmd == CLSHMD_CTL_LOCK);
    default:
        return EINVAL;
    }
}

/* ------------------------------------------------------------------ asked by a client */

static const struct {
    uint16_t op, flags;
    bool again; /* SET and LOCK are not repeated: somebody else's may have come between */
} remote[] = {
    [CLSHMD_CTL_RMID] = {FABRIC_OP_REMOVE, 0, true},
    [CLSHMD_CTL_AUTORMID] = {FABRIC_OP_AUTOREMOVE, 0, true},
    [CLSHMD_CTL_SET] = {FABRIC_OP_SET, 0, false},
    [CLSHMD_CTL_STAT] = {FABRIC_OP_STAT, 0, true},
    [CLSHMD_CTL_STAT_INDEX] = {FABRIC_OP_STAT, FABRIC_MSG_INDEX, true},
    [CLSHMD_CTL_STAT_ANY] = {FABRIC_OP_STAT, FABRIC_MSG_INDEX, true},
    [CLSHMD_CTL_LOCK] = {FABRIC_OP_LOCK, 0, false},
    [CLSHMD_CTL_UNLOCK] = {FABRIC_OP_LOCK, FABRIC_MSG_OFF, false},
};

static bool is_stat(uint32_t cmd)
{
    return cmd == CLSHMD_CTL_STAT || cmd == CLSHMD_CTL_STAT_INDEX || cmd == CLSHMD_CTL_STAT_ANY;
}

static void ctl_elsewhere(struct core *core, struct op *op, uint32_t part)
{
    const struct clshmd_ctl *req = &op->req.ctl;
    struct fabric_rights *rights = &op->msg.body.rights;
    int error = member_error(core, part);

    /* Who lists all indices should not stumble over those of a partition that is not there. */
    if (error && core->member[part].state != CORE_MEMBER_STALLED && req->cmd != CLSHMD_CTL_STAT && is_stat(req->cmd))
        error = EINVAL;
    if (!error && req->cmd == CLSHMD_CTL_SET && (req->uid == ID_NOBODY || req->gid == ID_NOBODY))
        error = EINVAL;
    if (error) {
        op_done(core, op, error, NULL, 0);
        return;
    }
    op->msg.op = remote[req->cmd].op;
    op->msg.flags = remote[req->cmd].flags;
    op->msg.shmid = req->shmid;
    op->again = remote[req->cmd].again;
    if (!is_stat(req->cmd)) {
        op->msg.flags |= op->cred.privileged ? FABRIC_MSG_CALLER_PRIVILEGED : 0;
        rights->uid = op->cred.uid;
        rights->gid = op->cred.gid;
        rights->pid = op->cred.pid;
        rights->new_uid = req->uid;
        rights->new_gid = req->gid;
        rights->new_mode = req->cmd == CLSHMD_CTL_SET ? req->mode & 0777 : 0;
    }
    op_wait_peer(core, op, part);
}

void ctl_remote_done(struct core *core, struct op *op, const struct fabric_msg *msg)
{
    const struct core_params *p = &core->params;
    int32_t index_mask = (int32_t)((1u << (p->part_bits + p->slot_bits)) - 1);
    bool stranger = !core->member[op->part].same_uids;
    uint32_t cmd = op->req.ctl.cmd;
    int error = msg->status;

    if (!is_stat(cmd)) {
        op_done(core, op, error, NULL, 0);
        return;
    }
    if (!error && (msg->shmid < 0 || (msg->shmid ^ op->msg.shmid) & index_mask))
        error = EIO;
    if (!error && cmd != CLSHMD_CTL_STAT_ANY && !core_perm_allows(&msg->body.stat, &op->cred, 4, stranger))
        error = EACCES;
    op_done_stat(core, op, error, msg->shmid, &msg->body.stat);
}

static void ctl_own(struct core *core, struct op *op)
{
    const struct clshmd_ctl *req = &op->req.ctl;
    uint32_t slot = fabric_shmid_slot(core->params.slot_bits, req->shmid);
    bool by_index = req->cmd == CLSHMD_CTL_STAT_INDEX || req->cmd == CLSHMD_CTL_STAT_ANY;
    struct segment *seg = NULL;
    struct fabric_stat stat;
    int error = 0;

    if (by_index)
        seg = slot < core->params.slots ? core->segment[slot] : NULL;
    else
        error = segment_find(core, req->shmid, &seg);
    if (!error && !seg)
        error = EINVAL;
    if (error || !is_stat(req->cmd)) {
        op_done(core, op, error ? error : ctl_apply(core, seg, req, &op->cred, false), NULL, 0);
        return;
    }
    segment_stat(seg, &stat);
    if (seg->state != FABRIC_REC_LIVE && seg->state != FABRIC_REC_DEST)
        error = EINVAL;
    else if (req->cmd != CLSHMD_CTL_STAT_ANY && !core_perm_allows(&stat, &op->cred, 4, false))
        error = EACCES;
    if (error)
        op_done(core, op, error, NULL, 0);
    else
        stat_begin(core, op, seg);
}

void core_ctl(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
              const struct clshmd_ctl *req)
{
    const struct core_params *p = &core->params;
    struct op *op = op_request(core, client, tag, OP_CTL, cred);
    uint32_t part;

    if (!op)
        return;
    op->req.ctl = *req;
    part = fabric_shmid_part(p->part_bits, p->slot_bits, req->shmid);
    if (req->cmd == CLSHMD_CTL_INFO)
        info_done(core, op);
    else if (req->shmid < 0 || req->cmd < CLSHMD_CTL_RMID || req->cmd > CLSHMD_CTL_UNLOCK || part >= p->parts)
        op_done(core, op, EINVAL, NULL, 0);
    else if (part == p->self)
        ctl_own(core, op);
    else
        ctl_elsewhere(core, op, part);
}
