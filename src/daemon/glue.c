/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Core and fabric, joined: struct core_ops on the fabric's calls, struct fabric_events on the core's. Nothing is decided
 * here.
 */
#include <errno.h>
#include <string.h>

#include "src/daemon/daemon.h"

/* ------------------------------------------------------------------ the core's wishes */

static int glue_lookup(void *ctx, int32_t key, uint64_t ticket, struct core_found *out)
{
    struct daemon *d = ctx;
    return d->ops->lookup(d->fabric, key, ticket, out);
}

static int glue_claim(void *ctx, int32_t key, uint32_t slot, uint64_t ticket, struct core_found *out)
{
    struct daemon *d = ctx;
    return d->ops->claim(d->fabric, key, slot, ticket, out);
}

static void glue_unclaim(void *ctx, uint32_t slot)
{
    struct daemon *d = ctx;
    d->ops->unclaim(d->fabric, slot);
}

static struct fabric_record *glue_record(void *ctx, uint32_t slot, bool allocate)
{
    struct daemon *d = ctx;
    return d->ops->record(d->fabric, slot, allocate);
}

static void glue_gen_store(void *ctx, uint32_t slot, uint32_t word)
{
    struct daemon *d = ctx;
    d->ops->gen_store(d->fabric, slot, word);
}

static uint32_t glue_gen_load(void *ctx, uint32_t slot)
{
    struct daemon *d = ctx;
    return d->ops->gen_load(d->fabric, slot);
}

static uint32_t glue_peer_gen(void *ctx, uint32_t part, uint32_t slot)
{
    struct daemon *d = ctx;
    return d->ops->peer_gen(d->fabric, part, slot);
}

static bool glue_peer_record(void *ctx, uint32_t part, uint32_t slot, struct fabric_record *out)
{
    struct daemon *d = ctx;
    return d->ops->peer_record(d->fabric, part, slot, out);
}

static int glue_memory_create(void *ctx, const struct driver_create *req)
{
    struct daemon *d = ctx;
    return d->ops->create(d->fabric, req);
}

static void glue_memory_destroy(void *ctx, int32_t shmid)
{
    struct daemon *d = ctx;
    d->ops->destroy(d->fabric, shmid);
}

static void glue_memory_drop(void *ctx, int32_t shmid)
{
    struct daemon *d = ctx;
    d->ops->drop(d->fabric, shmid);
}

static void glue_memory_revoke(void *ctx, int32_t shmid)
{
    struct daemon *d = ctx;
    d->ops->revoke(d->fabric, shmid);
}

static bool glue_memory_has(void *ctx, int32_t shmid)
{
    struct daemon *d = ctx;
    return d->ops->has(d->fabric, shmid);
}

static int glue_memory_lock(void *ctx, int32_t shmid, bool lock)
{
    struct daemon *d = ctx;
    return d->ops->lock(d->fabric, shmid, lock);
}

static uint32_t glue_memory_huge(void *ctx, int32_t shmid, bool *pool)
{
    struct daemon *d = ctx;
    return d->ops->huge ? d->ops->huge(d->fabric, shmid, pool) : 0;
}

static bool glue_entry(void *ctx, uint32_t client, uint32_t entry, struct clshmd_entry *out)
{
    return client_entry(ctx, client, entry, out);
}

static void glue_reply(void *ctx, uint32_t client, uint64_t tag, int error, const void *payload, size_t size,
                       int32_t grant_shmid, uint32_t grant_prot)
{
    (void)client;
    request_reply(ctx, tag, error, payload, size, grant_shmid, grant_prot);
}

static void glue_send(void *ctx, uint32_t to, const struct fabric_msg *msg)
{
    struct daemon *d = ctx;
    d->ops->send(d->fabric, to, msg);
}

const struct core_ops glue_core_ops = {
    .lookup = glue_lookup,
    .claim = glue_claim,
    .unclaim = glue_unclaim,
    .record = glue_record,
    .gen_store = glue_gen_store,
    .gen_load = glue_gen_load,
    .peer_gen = glue_peer_gen,
    .peer_record = glue_peer_record,
    .memory_create = glue_memory_create,
    .memory_destroy = glue_memory_destroy,
    .memory_drop = glue_memory_drop,
    .memory_revoke = glue_memory_revoke,
    .memory_has = glue_memory_has,
    .memory_lock = glue_memory_lock,
    .memory_huge = glue_memory_huge,
    .entry = glue_entry,
    .reply = glue_reply,
    .send = glue_send,
};

/* ------------------------------------------------------------------ the fabric's news */

static void on_message(void *ctx, uint32_t from, const struct fabric_msg *msg, bool has_memory)
{
    struct daemon *d = ctx;

    if (d->core)
        core_message(d->core, from, msg, has_memory);
}

static const char *event_text(uint32_t type)
{
    switch (type) {
    case DRIVER_EVENT_CAME:
        return "has joined";
    case DRIVER_EVENT_STALLED:
        return "does not beat: requests to it fail with EHOSTDOWN";
    case DRIVER_EVENT_RESUMED:
        return "beats again";
    case DRIVER_EVENT_DEAD:
        return "is dead: its memory is out of reach now";
    case DRIVER_EVENT_LEFT:
        return "has left";
    default:
        return "?";
    }
}

/* Daemons compare their versions as libraries and daemons do. */
static bool foreign(struct daemon *d, const struct driver_event *e)
{
    struct clshm_version own = {CLSHM_DAEMON_MAJOR, CLSHM_DAEMON_MINOR}, theirs;
    struct clshmd_part part;

    if (!d->ops->part(d->fabric, e->part, &part))
        return false;
    theirs = (struct clshm_version){part.major, part.minor};
    if (clshm_version_compatible(own, theirs))
        return false;
    log_warning("partition %u (%s): its daemon has version %u.%u, this one %u.%u: they do not talk (EPROTO)", e->part,
                part.name, theirs.major, theirs.minor, own.major, own.minor);
    return true;
}

static void member(struct daemon *d, const struct driver_event *e, enum core_member_state state)
{
    log_write(state == CORE_MEMBER_ALIVE || state == CORE_MEMBER_ABSENT ? LOG_LEVEL_INFO : LOG_LEVEL_WARNING,
              "partition %u (incarnation %u) %s", e->part, e->incarnation, event_text(e->type));
    if ((state == CORE_MEMBER_ALIVE || state == CORE_MEMBER_STALLED) && foreign(d, e))
        state = CORE_MEMBER_FOREIGN;
    core_member(d->core, e->part, state, e->incarnation, d->ops->same_users(d->fabric, e->part));
}

static void on_event(void *ctx, const struct driver_event *e)
{
    struct daemon *d = ctx;

    if (e->type == DRIVER_EVENT_EVICTED) {
        stop_evicted(d);
        return;
    }
    if (!d->core)
        return;
    switch (e->type) {
    case DRIVER_EVENT_CREATED:
        core_memory_done(d->core, e->shmid, e->status);
        break;
    case DRIVER_EVENT_CAME:
    case DRIVER_EVENT_RESUMED:
        member(d, e, CORE_MEMBER_ALIVE);
        break;
    case DRIVER_EVENT_STALLED:
        member(d, e, CORE_MEMBER_STALLED);
        break;
    case DRIVER_EVENT_DEAD:
        member(d, e, CORE_MEMBER_DEAD);
        break;
    case DRIVER_EVENT_LEFT:
        member(d, e, CORE_MEMBER_ABSENT);
        break;
    default:
        break;
    }
}

static int on_keep(void *ctx, enum keep_kind kind, uint64_t id, int fd)
{
    return daemon_keep(ctx, kind, id, fd);
}

static void on_unkeep(void *ctx, enum keep_kind kind, uint64_t id)
{
    daemon_unkeep(ctx, kind, id);
}

const struct fabric_events glue_fabric_events = {
    .message = on_message,
    .event = on_event,
    .keep = on_keep,
    .unkeep = on_unkeep,
};
