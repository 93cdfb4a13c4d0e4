/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests of the tools. Whoever may connect may look; to change something takes root or the daemon's own user. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/daemon/daemon.h"

#define SEGMENTS_STEPS 8192u       /* records looked at for one answer */
#define USERS_PARTS    0x80000000u /* clshmd_users.from: from here on it counts partitions */

/* ------------------------------------------------------------------ status, configuration */

static void fill_parts(struct daemon *d, struct clshmd_status_reply *s)
{
    for (uint32_t p = 0; p < d->sb->parts && p < FABRIC_PARTS_MAX; p++)
        if (!d->ops->part(d->fabric, p, &s->part[p]))
            memset(&s->part[p], 0, sizeof(s->part[p]));
}

void admin_status(const struct request *r)
{
    struct daemon *d = r->d;
    struct clshmd_status_reply s = {
        .lib_major = CLSHM_LIB_MAJOR,
        .lib_minor = CLSHM_LIB_MINOR,
        .daemon_major = CLSHM_DAEMON_MAJOR,
        .daemon_minor = CLSHM_DAEMON_MINOR,
        .fabric_major = d->sb->major,
        .fabric_minor = d->sb->minor,
        .self = d->ops->self(d->fabric),
        .parts = d->sb->parts,
        .slots = d->sb->slots,
        .granule = d->sb->granule,
        .heartbeat_ms = d->sb->heartbeat_ms,
        .kind = d->sb->kind,
        .connections = d->n_conns,
        .maxpgs = d->config.limits.max_pages,
        .maxsegs = d->config.limits.max_segments,
        .daemon_pid = (uint64_t)getpid(),
        .keeper_pid = (uint64_t)getppid(),
        .restarts = d->restarts,
    };
    struct driver_info info = {0};
    struct core_stats stats = {0};

    memcpy(s.fabric, d->sb->name, sizeof(s.fabric));
    s.fabric[sizeof(s.fabric) - 1] = '\0';
    memcpy(s.uuid, d->sb->uuid, sizeof(s.uuid));
    d->ops->info(d->fabric, &info);
    s.driver_major = info.major;
    s.driver_minor = info.minor;
    s.capabilities = info.capabilities;
    core_get_stats(d->core, &stats);
    s.segments = stats.segments;
    s.reserved_keys = stats.reserved_keys;
    s.bytes = stats.bytes;
    s.imports = stats.imports;
    s.clients = stats.clients;
    s.attachments = stats.attachments;
    fill_parts(d, &s);
    request_done(r, 0, &s, sizeof(s));
}

static int config_set(struct daemon *d, const struct clshmd_config *req)
{
    if (req->set & CLSHMD_SET_MAXDPGS && (req->maxdpgs < 1 || req->maxdpgs > DRIVER_RING_PAGES_MAX))
        return EINVAL;
    if (req->set & CLSHMD_SET_TIMEOUT &&
        (req->timeout_ms > CONFIG_TIMEOUT_MAX || (req->timeout_ms && req->timeout_ms < CONFIG_TIMEOUT_MIN)))
        return EINVAL;
    if (req->set & CLSHMD_SET_MAXPGS && req->maxpgs > UINT64_MAX / d->sb->granule)
        return EINVAL;
    if (req->set & CLSHMD_SET_MAXDPGS && req->maxdpgs != d->config.maxdpgs) {
        int error = d->ops->resize_ring(d->fabric, req->maxdpgs);

        if (error)
            return error;
        d->config.maxdpgs = req->maxdpgs;
    }
    if (req->set & CLSHMD_SET_MAXPGS) {
        d->config.limits.max_pages = req->maxpgs;
        core_set_limits(d->core, &d->config.limits);
    }
    if (req->set & CLSHMD_SET_TIMEOUT) {
        d->config.timeout_ms = req->timeout_ms;
        daemon_poll_timer(d);
    }
    settings_store(d);
    return 0;
}

void admin_config(const struct request *r)
{
    const struct clshmd_config *req = r->payload;
    struct daemon *d = r->d;
    const struct core_limits *limits = &d->config.limits;
    struct clshmd_config_reply reply = {0};
    int error = 0;

    if (req->set & ~CLSHMD_SET_KNOWN)
        error = EINVAL;
    else if (req->set && !session_admin(r->conn))
        error = EPERM;
    else if (req->set)
        error = config_set(d, req);
    reply.maxpgs = limits->max_pages;
    reply.maxdpgs = d->config.maxdpgs;
    reply.timeout_ms = d->config.timeout_ms;
    reply.granule = d->sb->granule;
    reply.uids = d->config.squash;
    reply.max_segments = limits->max_segments;
    reply.max_segments_uid = limits->max_segments_uid;
    reply.max_bytes_uid = limits->max_bytes_uid;
    reply.max_attachments_uid = limits->max_grants_uid;
    reply.max_clients_uid = limits->max_clients_uid;
    reply.max_keys_uid = limits->max_keys_uid;
    snprintf(reply.file, sizeof(reply.file), "%.*s", (int)sizeof(reply.file) - 1, d->config.file);
    request_done(r, error, &reply, sizeof(reply));
}

/* ------------------------------------------------------------------ listings */

/* A copy of another partition's record, as a listing shows it. @return false: it shows nothing. */
static bool stat_of_record(const struct daemon *d, uint32_t part, uint32_t slot, const struct fabric_record *rec,
                           struct clshmd_stat *out)
{
    uint32_t state = FABRIC_REC_STATE(rec->head);

    if (state != FABRIC_REC_RESERVED && state != FABRIC_REC_LIVE && state != FABRIC_REC_DEST)
        return false;
    *out = (struct clshmd_stat){
        .shmid = fabric_shmid(d->sb->part_bits, d->sb->slot_bits, FABRIC_REC_GEN(rec->head), part, slot),
        .part = part,
        .stat = {.key = state == FABRIC_REC_DEST ? 0 : rec->key,
                 .mode = rec->mode | (state == FABRIC_REC_DEST ? 01000u : 0),
                 .size = rec->size,
                 .uid = rec->uid,
                 .gid = rec->gid,
                 .cuid = rec->cuid,
                 .cgid = rec->cgid,
                 .cpid = rec->cpid,
                 .lpid = rec->lpid,
                 .atime = rec->atime,
                 .dtime = rec->dtime,
                 .ctime = rec->ctime,
                 .nattch = rec->nattch,
                 .flags = rec->flags}};
    return true;
}

/* The first segment of partition @part from @slot on. @return the slot after it, 0: none; *@steps is used up by looking. */
static uint32_t next_of_part(struct daemon *d, uint32_t part, uint32_t slot, uint32_t *steps, struct clshmd_stat *out,
                             bool *found)
{
    struct fabric_record rec;

    *found = false;
    if (part == d->ops->self(d->fabric)) {
        slot = core_next_segment(d->core, slot, out);
        *found = slot != 0;
        return slot;
    }
    if (!d->ops->incarnation(d->fabric, part))
        return 0;
    while (slot < d->sb->slots && *steps) {
        --*steps;
        if (d->ops->peer_record(d->fabric, part, slot++, &rec) && stat_of_record(d, part, slot - 1, &rec, out)) {
            *found = true;
            break;
        }
    }
    return slot < d->sb->slots ? slot : 0;
}

void admin_segments(const struct request *r)
{
    const struct clshmd_segments *req = r->payload;
    struct daemon *d = r->d;
    struct clshmd_segments_reply reply = {0};
    uint32_t slot_mask = (1u << d->sb->slot_bits) - 1;
    uint32_t part = req->from >> d->sb->slot_bits, slot = req->from & slot_mask, steps = SEGMENTS_STEPS;

    while (part < d->sb->parts && reply.count < CLSHMD_SEGMENTS_MAX && steps) {
        bool found = false;

        if (slot < d->sb->slots)
            slot = next_of_part(d, part, slot, &steps, &reply.segment[reply.count], &found);
        else
            slot = 0;
        reply.count += found;
        if (slot == 0 || slot >= d->sb->slots) {
            part++;
            slot = 0;
        }
    }
    if (part < d->sb->parts)
        reply.next = part << d->sb->slot_bits | slot;
    request_done(r, 0, &reply, sizeof(reply));
}

static bool client_user(struct daemon *d, uint32_t number, struct clshmd_user *out)
{
    struct client *client = client_at(d, number);

    memset(out, 0, sizeof(*out));
    if (!client || !core_client_use(d->core, number, out) || (!out->attachments && !out->segments))
        return false;
    out->pid = client->pid ? client->pid : -1; /* 0 would say "a partition" */
    out->uid = client->uid;
    out->part = d->ops->self(d->fabric);
    return true;
}

static bool part_user(struct daemon *d, uint32_t part, struct clshmd_user *out)
{
    memset(out, 0, sizeof(*out));
    if (part == d->ops->self(d->fabric) || !core_part_use(d->core, part, out) || !out->segments)
        return false;
    out->pid = 0;
    out->part = part;
    return true;
}

void admin_users(const struct request *r)
{
    const struct clshmd_users *req = r->payload;
    struct daemon *d = r->d;
    struct clshmd_users_reply reply = {0};
    uint32_t at = req->from;

    for (; at < d->n_numbers && reply.count < CLSHMD_USERS_MAX; at++)
        reply.count += client_user(d, at, &reply.user[reply.count]);
    if (at >= d->n_numbers && at < USERS_PARTS)
        at = USERS_PARTS;
    for (; at >= USERS_PARTS && at - USERS_PARTS < d->sb->parts && reply.count < CLSHMD_USERS_MAX; at++)
        reply.count += part_user(d, at - USERS_PARTS, &reply.user[reply.count]);
    if (at < USERS_PARTS || at - USERS_PARTS < d->sb->parts)
        reply.next = at;
    request_done(r, 0, &reply, sizeof(reply));
}

/* ------------------------------------------------------------------ ping, evict, shutdown, dump */

void admin_ping(const struct request *r)
{
    const struct clshmd_ping *req = r->payload;
    struct daemon *d = r->d;
    struct clshmd_ping_reply reply = {0};
    struct clshmd_part part;
    uint32_t client;
    uint64_t tag;

    if (req->part >= d->sb->parts || !d->ops->part(d->fabric, req->part, &part) || part.state == CLSHMD_PART_ABSENT) {
        request_done(r, EINVAL, NULL, 0);
        return;
    }
    if (req->part != d->ops->self(d->fabric)) {
        if (part.state != CLSHMD_PART_ALIVE)
            request_done(r, EHOSTDOWN, NULL, 0);
        else if (request_pend(r, &client, &tag))
            core_ping(d->core, client, tag, req->part);
        return;
    }
    d->ops->hostname(d->fabric, req->part, reply.hostname);
    request_done(r, 0, &reply, sizeof(reply));
}

void admin_evict(const struct request *r)
{
    const struct clshmd_evict *req = r->payload;
    struct daemon *d = r->d;
    int error;

    if (!session_admin(r->conn))
        error = EPERM;
    else if (req->flags & ~CLSHMD_EVICT_KNOWN || req->part >= d->sb->parts || req->part == d->ops->self(d->fabric))
        error = EINVAL;
    else
        error = d->ops->evict(d->fabric, req->part, req->flags);
    if (!error)
        log_warning("partition %u was declared dead: uid %u (pid %d) asked for it", req->part, r->conn->uid,
                    r->conn->pid);
    request_done(r, error, NULL, 0);
}

void admin_shutdown(const struct request *r)
{
    const struct clshmd_shutdown *req = r->payload;
    bool force = req->flags & CLSHMD_SHUTDOWN_FORCE;
    uint32_t client;
    uint64_t tag;
    int error = 0;

    if (req->flags & ~CLSHMD_SHUTDOWN_KNOWN)
        error = EINVAL;
    else if (!session_admin(r->conn))
        error = EPERM;
    if (error || force) {
        request_done(r, error, NULL, 0);
        if (!error)
            stop_begin(r->d, true);
    } else if (request_pend(r, &client, &tag)) {
        stop_ask(r->d, tag);
    }
}

static char *dump_text(struct daemon *d, uint32_t what)
{
    CLEANUP_FREE char *text = what == 1 ? core_dump(d->core) : d->ops->dump(d->fabric);
    char *out = NULL;

    if (!text)
        return NULL;
    if (what == 2)
        return steal_ptr(text);
    if (asprintf(&out, "daemon %d of partition %u: %u connections, %u restarts\n%s", (int)getpid(),
                 d->ops->self(d->fabric), d->n_conns, d->restarts, text) < 0)
        return NULL;
    return out;
}

void admin_dump(const struct request *r)
{
    const struct clshmd_dump *req = r->payload;
    struct session *c = r->conn;
    struct clshmd_dump_reply reply = {0};
    size_t total;

    if (req->what != 1 && req->what != 2) {
        request_done(r, EINVAL, NULL, 0);
        return;
    }
    if (req->offset == 0) { /* the parts that follow come from the same text */
        free(c->dump);
        c->dump = dump_text(r->d, req->what);
    }
    if (!c->dump) {
        request_done(r, req->offset ? EINVAL : ENOMEM, NULL, 0);
        return;
    }
    total = strlen(c->dump);
    if (req->offset < total) {
        size_t left = total - req->offset;

        reply.length = (uint32_t)(left < sizeof(reply.text) ? left : sizeof(reply.text));
        memcpy(reply.text, c->dump + req->offset, reply.length);
    } else {
        free(c->dump);
        c->dump = NULL;
    }
    reply.total = (uint32_t)total;
    request_done(r, 0, &reply, sizeof(reply));
}
