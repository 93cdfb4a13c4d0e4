/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Attachments: grants, and what their clients' pages say.
 *
 * A grant says that a client may attach a segment (or an import) and which entry of its page counts that. The count is
 * the client's to change, at any time and without a word; it is read when it matters. A grant that counts nothing
 * stays, since its client may attach again without asking, until the client says DETACHED, uses the entry for another
 * segment, or ends, or until the segment is marked: from then on clients ask each time.
 *
 * What happened (atime, dtime, lpid, attaches ever) is gathered in target.fig whenever an entry is read.
 */
#include "core_internal.h"

static int64_t newest(const struct fabric_count *fig)
{
    return fig->atime > fig->dtime ? fig->atime : fig->dtime;
}

/* @from is what somebody reports now, @before what he reported the last time. */
void figures_merge(struct fabric_count *into, const struct fabric_count *from, const struct fabric_count *before)
{
    bool changed = from->atime != before->atime || from->dtime != before->dtime || from->attaches != before->attaches ||
                   from->nattch != before->nattch;

    if (changed && newest(from) && newest(from) >= newest(into))
        into->lpid = from->lpid;
    if (from->attaches > before->attaches &&
        __builtin_add_overflow(into->attaches, from->attaches - before->attaches, &into->attaches))
        into->attaches = UINT64_MAX;
    if (from->atime > into->atime)
        into->atime = from->atime;
    if (from->dtime > into->dtime)
        into->dtime = from->dtime;
}

static int64_t sane_time(const struct core *core, int64_t t)
{
    return t < 0 ? 0 : t > core->now_s ? core->now_s : t;
}

static bool entry_read(const struct core *core, const struct grant *grant, struct clshmd_entry *out)
{
    if (!core->ops->entry(core->ctx, grant->client->id, grant->entry, out) || out->shmid != grant->target->shmid)
        return false;
    if (out->count > ENTRY_COUNT_MAX)
        out->count = ENTRY_COUNT_MAX;
    out->atime = sane_time(core, out->atime);
    out->dtime = sane_time(core, out->dtime);
    return true;
}

/* @return false: the page does not say anything of it any more. */
bool grant_refresh(struct core *core, struct grant *grant)
{
    struct clshmd_entry now;
    struct fabric_count from, before = {
                                  .attaches = grant->seen.attaches,
                                  .atime = grant->seen.atime,
                                  .dtime = grant->seen.dtime,
                                  .nattch = grant->seen.count,
                              };

    if (!entry_read(core, grant, &now)) {
        grant->seen.count = 0; /* the entry is another segment's by now */
        return false;
    }
    from = (struct fabric_count){
        .attaches = now.attaches,
        .atime = now.atime,
        .dtime = now.dtime,
        .nattch = now.count,
        .lpid = now.by_parent ? grant->client->parent_pid : grant->client->pid,
    };
    figures_merge(&grant->target->fig, &from, &before);
    grant->seen = now;
    if (now.count)
        grant->unborn = false;
    return true;
}

static int grant_room(struct client *client, uint32_t entry)
{
    uint32_t size = client->n_grant ? client->n_grant : 8;
    struct grant **grown;

    if (entry >= CLSHMD_ENTRIES_MAX)
        return EINVAL;
    while (size <= entry)
        size *= 2;
    if (size == client->n_grant)
        return 0;
    grown = realloc(client->grant, size * sizeof(*grown));
    if (!grown)
        return ENOMEM;
    memset(grown + client->n_grant, 0, (size - client->n_grant) * sizeof(*grown));
    client->grant = grown;
    client->n_grant = size;
    return 0;
}

struct grant *grant_new(struct core *core, struct client *client, uint32_t entry, struct target *target, uint32_t prot,
                        bool force, int *error)
{
    struct grant *grant = calloc(1, sizeof(*grant));

    *error = grant ? grant_room(client, entry) : ENOMEM;
    if (!*error)
        *error = user_charge_grant(core, client->user, force);
    if (*error) {
        free(grant);
        return NULL;
    }
    grant->client = client;
    grant->target = target;
    grant->entry = entry;
    grant->prot = prot;
    client->grant[entry] = grant;
    client->held++;
    DL_APPEND(target->grants, grant);
    target->n_grants++;
    core->n_grants++;
    return grant;
}

void grant_end(struct core *core, struct grant *grant)
{
    DL_DELETE(grant->target->grants, grant);
    grant->target->n_grants--;
    grant->client->grant[grant->entry] = NULL;
    grant->client->held--;
    core->n_grants--;
    user_give_back_grant(core, grant->client->user);
    free(grant);
}

/* ------------------------------------------------------------------ all of a target */

void target_recount(struct core *core, struct target *target)
{
    uint64_t sum = 0;
    struct grant *grant;

    clients_late(core);
    DL_FOREACH (target->grants, grant) {
        grant_refresh(core, grant);
        sum += grant->seen.count;
    }
    target->fig.nattch = sum > UINT32_MAX ? UINT32_MAX : (uint32_t)sum;
}

void target_end_unused(struct core *core, struct target *target)
{
    struct grant *grant, *next;

    target_recount(core, target);
    DL_FOREACH_SAFE (target->grants, grant, next)
        if (!grant->seen.count && !grant->unborn)
            grant_end(core, grant);
    target_changed(core, target);
}

static struct segment *segment_of(struct target *target)
{
    return MEMBER(target, struct segment, t);
}

void target_changed(struct core *core, struct target *target)
{
    if (target->own)
        segment_publish(core, segment_of(target), segment_of(target)->state);
}

void target_continue(struct core *core, struct target *target)
{
    if (target->own)
        segment_continue(core, segment_of(target));
    else
        import_continue(core, MEMBER(target, struct import, t));
}

/* ------------------------------------------------------------------ OPEN */

static int open_grant(struct core *core, struct op *op, struct target *target, uint32_t prot)
{
    struct client *client = op->client;
    uint32_t entry = op->req.open.entry;
    struct grant *grant = entry < client->n_grant ? client->grant[entry] : NULL;
    int error;

    if (grant && grant->target != target) {
        struct target *old = grant->target;

        grant_end(core, grant);
        grant = NULL;
        target_continue(core, old);
    }
    if (!grant) {
        grant = grant_new(core, client, entry, target, prot, false, &error);
        if (!grant)
            return error;
    }
    grant->prot = prot;
    grant_refresh(core, grant);
    if (!target->fig.attaches)
        target->fig.attaches = 1;
    target_changed(core, target);
    return 0;
}

void open_decide(struct core *core, struct op *op, struct target *target, const struct fabric_stat *stat, bool stranger,
                 uint32_t incarnation)
{
    uint32_t access = op->req.open.access;
    uint32_t want =
        (access & CLSHMD_READ ? 4u : 0) | (access & CLSHMD_WRITE ? 2u : 0) | (access & CLSHMD_EXEC ? 1u : 0);
    uint32_t prot = DRIVER_PROT_READ | (access & CLSHMD_WRITE ? DRIVER_PROT_WRITE : 0);
    struct clshmd_open_reply reply = {
        .size = stat->size,
        .word = stat->word,
        .incarnation = incarnation,
        .key = stat->key,
    };
    int error = core_perm_allows(stat, &op->cred, want, stranger) ? 0 : EACCES;
    bool pool;

    reply.huge = core_huge(core, target->shmid, &pool) | (pool ? CLSHMD_HUGE_POOL : 0);
    if (!error)
        error = open_grant(core, op, target, prot);
    if (error)
        op_done(core, op, error, NULL, 0);
    else
        op_done_grant(core, op, &reply, target->shmid, prot);
}

static void open_own(struct core *core, struct op *op, int32_t shmid)
{
    struct segment *seg = NULL;
    struct fabric_stat stat;
    int error = segment_find(core, shmid, &seg);

    if (!error && seg->state != FABRIC_REC_LIVE && seg->state != FABRIC_REC_DEST)
        error = EINVAL;
    if (error) {
        op_done(core, op, error, NULL, 0);
        return;
    }
    segment_stat(seg, &stat);
    open_decide(core, op, &seg->t, &stat, false, core->params.incarnation);
}

/* import.c decides with the rights that it has, or asks the home. */
void core_open(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
               const struct clshmd_open *req)
{
    const struct core_params *p = &core->params;
    struct op *op = op_request(core, client, tag, OP_OPEN, cred);
    struct clshmd_entry entry;

    if (!op)
        return;
    op->req.open = *req;
    if (req->shmid < 0 || !(req->access & CLSHMD_READ) || req->access & ~7u || req->entry >= CLSHMD_ENTRIES_MAX ||
        !core->ops->entry(core->ctx, client, req->entry, &entry) || entry.shmid != req->shmid)
        op_done(core, op, EINVAL, NULL, 0);
    else if (fabric_shmid_part(p->part_bits, p->slot_bits, req->shmid) == p->self)
        open_own(core, op, req->shmid);
    else
        import_open(core, op);
}

/* ------------------------------------------------------------------ DETACHED */

void core_detached(struct core *core, uint32_t client_id, uint64_t tag, const struct clshmd_detached *req)
{
    struct client *client = core_find_client(core, client_id);
    struct grant *grant = client && req->entry < client->n_grant ? client->grant[req->entry] : NULL;

    if (grant && grant->target->shmid == req->shmid) {
        struct target *target = grant->target;

        grant_refresh(core, grant);
        if (!grant->seen.count && !grant->unborn) {
            grant_end(core, grant);
            target_changed(core, target);
            target_continue(core, target);
        }
    }
    core->ops->reply(core->ctx, client_id, tag, client ? 0 : EPROTO, NULL, 0, 0, 0);
}
