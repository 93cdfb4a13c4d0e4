/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clients: processes. A client holds grants and has requests under way; both end with it.
 *
 * A client that fork made gets its grants before the process is there and before its page shows the counts that its
 * parent copies into it. Until a count has been seen, or the child has connected, such a grant is `unborn`: it does not
 * end because it counts nothing. When the daemon is restarted just then, the child is `late`: its page is read again
 * before anything ends for want of attachments.
 */
#include "core_internal.h"

struct client *core_find_client(const struct core *core, uint32_t id)
{
    struct client *client;

    HASH_FIND(hh, core->clients, &id, sizeof(id), client);
    return client;
}

int core_client_new(struct core *core, uint32_t id, uint32_t uid, int32_t pid)
{
    struct client *client;
    int error;

    if (core_find_client(core, id))
        return EEXIST;
    client = calloc(1, sizeof(*client));
    error = client ? user_charge_client(core, uid, !core->restored, &client->user) : ENOMEM;
    if (error) {
        free(client);
        return error;
    }
    client->id = id;
    client->pid = pid;
    HASH_ADD(hh, core->clients, id, sizeof(client->id), client);
    if (!client->hh.tbl) {
        user_give_back_client(core, client->user);
        free(client);
        return ENOMEM;
    }
    return 0;
}

static void late_end(struct core *core, struct client *client)
{
    core->n_late -= client->late;
    client->late = false;
}

static void grants_end(struct core *core, struct client *client, bool died)
{
    late_end(core, client);
    for (uint32_t i = 0; i < client->n_grant; i++) {
        struct grant *grant = client->grant[i];
        struct target *target;
        bool attached;

        if (!grant)
            continue;
        target = grant->target;
        attached = grant->seen.count > 0;
        if (grant_refresh(core, grant))
            attached = grant->seen.count > 0;
        if (died && attached) {
            target->fig.dtime = core->now_s;
            target->fig.lpid = client->pid;
        }
        grant_end(core, grant);
        target_changed(core, target);
        target_continue(core, target);
    }
}

static void client_free(struct core *core, struct client *client)
{
    user_give_back_client(core, client->user);
    HASH_DEL(core->clients, client);
    free(client->grant);
    free(client);
}

int core_client_fork(struct core *core, uint32_t parent_id, uint32_t child_id)
{
    struct client *parent = core_find_client(core, parent_id), *child;
    int error = parent ? core_client_new(core, child_id, parent->user->uid, 0) : EINVAL;

    if (error)
        return error;
    child = core_find_client(core, child_id);
    child->parent_pid = parent->pid;
    for (uint32_t i = 0; i < parent->n_grant; i++) {
        struct grant *from = parent->grant[i], *grant;

        if (!from)
            continue;
        grant = grant_new(core, child, i, from->target, from->prot, false, &error);
        if (!grant) {
            grants_end(core, child, false);
            client_free(core, child);
            return error;
        }
        grant_refresh(core, from);
        grant->unborn = from->seen.count > 0;
    }
    return 0;
}

/* Count what a client's page says and no grant does: after a restart, grants are made from the pages. */
int core_adopt_client(struct core *core, struct client *client)
{
    struct clshmd_entry entry;
    int error = 0;

    for (uint32_t i = 0; i < CLSHMD_ENTRIES_MAX && core->ops->entry(core->ctx, client->id, i, &entry); i++) {
        struct segment *seg = NULL;
        struct import *imp;
        struct target *target = NULL;

        if ((!entry.count && !entry.attaches) || (i < client->n_grant && client->grant[i]))
            continue;
        imp = import_find(core, entry.shmid);
        if (imp && core->ops->memory_has(core->ctx, entry.shmid))
            target = &imp->t; /* else it is asked for only now, by an OPEN */
        else if (segment_find(core, entry.shmid, &seg) == 0 &&
                 (seg->state == FABRIC_REC_LIVE || seg->state == FABRIC_REC_DEST))
            target = &seg->t;
        if (!target || (!entry.count && seg && segment_marked(seg)))
            continue;
        if (!grant_new(core, client, i, target, DRIVER_PROT_READ | DRIVER_PROT_WRITE, true, &error))
            return error;
        grant_refresh(core, client->grant[i]);
        if (!target->fig.attaches)
            target->fig.attaches = 1;
        target_changed(core, target);
    }
    return 0;
}

void clients_late(struct core *core)
{
    if (core->n_late)
        for (struct client *client = core->clients; client; client = client->hh.next)
            if (client->late)
                (void)core_adopt_client(core, client);
}

void core_client_pid(struct core *core, uint32_t id, int32_t pid)
{
    struct client *client = core_find_client(core, id);
    bool late = client && client->late;

    if (!client)
        return;
    client->pid = pid;
    late_end(core, client);
    for (uint32_t i = 0; i < client->n_grant; i++)
        if (client->grant[i])
            client->grant[i]->unborn = false;
    /* A page that its parent filled after a restarted daemon had read it. Short of memory: at its next OPEN. */
    if (late)
        (void)core_adopt_client(core, client);
}

void core_client_disconnected(struct core *core, uint32_t id)
{
    struct client *client = core_find_client(core, id);

    while (client && client->ops)
        op_abandon(core, client->ops);
}

void core_client_gone(struct core *core, uint32_t id)
{
    struct client *client = core_find_client(core, id);

    if (!client)
        return;
    core_client_disconnected(core, id);
    grants_end(core, client, true);
    client_free(core, client);
}

bool core_client_use(const struct core *core, uint32_t id, struct clshmd_user *out)
{
    struct client *client = core_find_client(core, id);

    if (!client)
        return false;
    *out = (struct clshmd_user){.pid = client->pid, .uid = client->user->uid, .part = core->params.self};
    for (uint32_t i = 0; i < client->n_grant; i++) {
        if (!client->grant[i])
            continue;
        grant_refresh((struct core *)core, client->grant[i]);
        out->attachments += client->grant[i]->seen.count;
        out->segments += client->grant[i]->seen.count > 0;
    }
    return true;
}
