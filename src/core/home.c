/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The home's side: what other partitions ask of own segments and report about them.
 *
 * Nothing is believed that the sender could not know: a report counts only from a partition whose bit stands in the
 * record, and about itself; callers of a partition whose uids mean nothing here are strangers (rule 13).
 */
#include "core_internal.h"

void home_answer(struct core *core, uint32_t to, const struct fabric_msg *request, enum fabric_op op, int status,
                 int32_t shmid, const struct fabric_stat *stat, uint16_t flags)
{
    struct fabric_msg msg = {0};

    msg.status = status;
    msg.reply_epoch = request->epoch;
    if (!status) {
        msg.flags = flags;
        if (stat)
            msg.body.stat = *stat;
    }
    core_send(core, to, op, request->seq, shmid, &msg);
}

static void refuse(struct core *core, uint32_t from, const struct fabric_msg *msg, int error)
{
    home_answer(core, from, msg, msg->op == FABRIC_OP_IMPORT ? FABRIC_OP_IMPORTED : FABRIC_OP_DONE, error, msg->shmid,
                NULL, 0);
}

/* ------------------------------------------------------------------ IMPORT */

static void import_asked(struct core *core, uint32_t from, const struct fabric_msg *msg)
{
    struct segment *seg = NULL;
    struct fabric_stat stat;
    int error = segment_find(core, msg->shmid, &seg);

    if (!error && seg->state != FABRIC_REC_LIVE && seg->state != FABRIC_REC_DEST)
        error = EINVAL;
    if (!error && !core->member[from].same_uids && !(seg->r.mode & 4))
        error = EACCES;
    if (!error)
        error = segment_add_importer(core, seg, from, true); /* in the record before the memory is on its way */
    if (error) {
        refuse(core, from, msg, error);
        return;
    }
    segment_stat(seg, &stat);
    home_answer(core, from, msg, FABRIC_OP_IMPORTED, 0, msg->shmid, &stat, FABRIC_MSG_MEMORY);
}

/* ------------------------------------------------------------------ reports */

static void figures_from(struct core *core, struct segment *seg, struct importer *importer,
                         const struct fabric_msg *msg)
{
    struct fabric_count fig = msg->body.count;

    fig.atime = fig.atime < 0 ? 0 : fig.atime > core->now_s ? core->now_s : fig.atime;
    fig.dtime = fig.dtime < 0 ? 0 : fig.dtime > core->now_s ? core->now_s : fig.dtime;
    figures_merge(&seg->t.fig, &fig, &importer->fig);
    importer->fig = fig;
    importer->counting = false;
}

static void reported(struct core *core, uint32_t from, const struct fabric_msg *msg)
{
    struct segment *seg = NULL;
    struct importer *importer = segment_find(core, msg->shmid, &seg) == 0 ? segment_importer(seg, from) : NULL;
    struct op *op;

    if (!importer)
        return;
    if (msg->op == FABRIC_OP_RELEASED) {
        figures_from(core, seg, importer, msg);
        segment_drop_importer(core, seg, from);
        segment_continue(core, seg);
        return;
    }
    if (msg->reply_epoch != core->params.epoch)
        return;
    if (msg->op == FABRIC_OP_BUSY && importer->release_seq == msg->seq && msg->seq) {
        importer->release_seq = 0;
        importer->rest = RELEASE_BACKOFF;
        figures_from(core, seg, importer, msg);
        segment_publish(core, seg, seg->state);
    } else if (msg->op == FABRIC_OP_COUNTED) {
        op = op_find(core, msg->seq);
        if (!msg->seq) { /* of core_count() */
            figures_from(core, seg, importer, msg);
            return;
        }
        if (!op || op->wait != WAIT_COUNT || op->seg != seg || !(op->awaiting >> from & 1))
            return;
        figures_from(core, seg, importer, msg);
        segment_publish(core, seg, seg->state);
        stat_answered(core, op, from);
    }
}

/* ------------------------------------------------------------------ what a client there asks for */

static struct core_cred caller(const struct core *core, uint32_t from, const struct fabric_msg *msg, uint32_t uid,
                               uint32_t gid, int32_t pid)
{
    bool known = core->member[from].same_uids;

    return (struct core_cred){
        .uid = known ? uid : ID_NOBODY,
        .gid = known ? gid : ID_NOBODY,
        .privileged = known && msg->flags & FABRIC_MSG_CALLER_PRIVILEGED,
        .pid = pid,
    };
}

/* An op to be answered to @from; refuses by itself. */
static struct op *remote_op(struct core *core, uint32_t from, const struct fabric_msg *msg, enum op_kind kind,
                            const struct core_cred *cred)
{
    struct op *op = core->member[from].n_ops < REMOTE_OPS_MAX ? op_new(core, kind, cred) : NULL;

    if (!op) {
        refuse(core, from, msg, core->member[from].n_ops < REMOTE_OPS_MAX ? ENOMEM : EAGAIN);
        return NULL;
    }
    op->remote = true;
    op->from = from;
    op->msg = *msg;
    core->member[from].n_ops++;
    return op;
}

static void create_asked(struct core *core, uint32_t from, const struct fabric_msg *msg)
{
    const struct fabric_create *create = &msg->body.create;
    struct core_cred cred = caller(core, from, msg, create->uid, create->gid, create->pid);
    struct segment *seg = NULL;
    struct op *op;

    if (segment_find(core, msg->shmid, &seg) != 0 || !(seg->r.flags & FABRIC_SEG_FTOK) || seg->r.key != create->key ||
        seg->state == FABRIC_REC_DEST) {
        refuse(core, from, msg, ENOENT);
        return;
    }
    op = remote_op(core, from, msg, OP_GET, &cred);
    if (!op)
        return;
    op->req.get = (struct clshmd_get){
        .key = create->key,
        .flags = create->flags,
        .size = create->size,
        .token = create->token,
    };
    get_own(core, op, seg);
}

static void reserve_asked(struct core *core, uint32_t from, const struct fabric_msg *msg)
{
    const struct fabric_create *create = &msg->body.create;
    struct core_cred cred = caller(core, from, msg, create->uid, create->gid, create->pid);
    struct op *op = remote_op(core, from, msg, OP_FTOK, &cred);

    if (!op)
        return;
    op->req.token = create->token;
    ftok_begin(core, op);
}

static void change_asked(struct core *core, uint32_t from, const struct fabric_msg *msg)
{
    const struct fabric_rights *rights = &msg->body.rights;
    struct core_cred cred = caller(core, from, msg, rights->uid, rights->gid, rights->pid);
    struct clshmd_ctl req = {
        .shmid = msg->shmid,
        .uid = rights->new_uid,
        .gid = rights->new_gid,
        .mode = rights->new_mode,
    };
    struct segment *seg = NULL;
    int error = segment_find(core, msg->shmid, &seg);

    req.cmd = msg->op == FABRIC_OP_REMOVE       ? CLSHMD_CTL_RMID
              : msg->op == FABRIC_OP_AUTOREMOVE ? CLSHMD_CTL_AUTORMID
              : msg->op == FABRIC_OP_SET        ? CLSHMD_CTL_SET
              : msg->flags & FABRIC_MSG_OFF     ? CLSHMD_CTL_UNLOCK
                                                : CLSHMD_CTL_LOCK;
    if (!error)
        error = ctl_apply(core, seg, &req, &cred, !core->member[from].same_uids);
    refuse(core, from, msg, error);
}

static void stat_asked(struct core *core, uint32_t from, const struct fabric_msg *msg)
{
    struct segment *seg = NULL;
    uint32_t slot = fabric_shmid_slot(core->params.slot_bits, msg->shmid);
    int error = 0;
    struct op *op;

    if (msg->flags & FABRIC_MSG_INDEX)
        seg = slot < core->params.slots ? core->segment[slot] : NULL;
    else
        error = segment_find(core, msg->shmid, &seg);
    if (!error && (!seg || (seg->state != FABRIC_REC_LIVE && seg->state != FABRIC_REC_DEST)))
        error = EINVAL;
    if (error) {
        refuse(core, from, msg, error);
        return;
    }
    op = remote_op(core, from, msg, OP_CTL, NULL);
    if (op)
        stat_begin(core, op, seg);
}

void home_message(struct core *core, uint32_t from, const struct fabric_msg *msg)
{
    const struct core_params *p = &core->params;

    if (msg->op == FABRIC_OP_RESERVE) {
        reserve_asked(core, from, msg);
        return;
    }
    if (msg->shmid < 0 || fabric_shmid_part(p->part_bits, p->slot_bits, msg->shmid) != p->self) {
        if (msg->op != FABRIC_OP_COUNTED && msg->op != FABRIC_OP_BUSY && msg->op != FABRIC_OP_RELEASED)
            refuse(core, from, msg, EINVAL);
        return;
    }
    switch (msg->op) {
    case FABRIC_OP_IMPORT:
        import_asked(core, from, msg);
        break;
    case FABRIC_OP_COUNTED:
    case FABRIC_OP_BUSY:
    case FABRIC_OP_RELEASED:
        reported(core, from, msg);
        break;
    case FABRIC_OP_CREATE:
        create_asked(core, from, msg);
        break;
    case FABRIC_OP_STAT:
        stat_asked(core, from, msg);
        break;
    default:
        change_asked(core, from, msg);
        break;
    }
}
