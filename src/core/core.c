/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The core as a whole: making and freeing it, time, and what waits for a time.
 *
 * Whatever may have to be repeated or given up is a timer in one of three lists. Within a list all timers are armed for
 * the same interval ahead, so that arming one is adding it at the end, and the first one is the next that is due.
 */
#include "core_internal.h"

struct core *core_new(const struct core_params *params, const struct core_ops *ops, void *ctx)
{
    struct core *core = calloc(1, sizeof(*core));

    if (!core)
        return NULL;
    core->params = *params;
    core->ops = ops;
    core->ctx = ctx;
    if (slots_init(core) != 0)
        return core_free(core);
    return core;
}

static void free_segments(struct core *core)
{
    for (uint32_t i = 0; core->segment && i < core->params.slots; i++)
        if (core->segment[i])
            segment_free(core, core->segment[i]);
}

struct core *core_free(struct core *core)
{
    struct client *client, *next_client;
    struct import *imp, *next_imp;
    struct op *op, *next_op;

    if (!core)
        return NULL;
    HASH_ITER (hh, core->ops_by_id, op, next_op)
        op_drop(core, op);
    HASH_ITER (hh, core->clients, client, next_client) {
        for (uint32_t i = 0; i < client->n_grant; i++)
            if (client->grant[i])
                grant_end(core, client->grant[i]);
        user_give_back_client(core, client->user);
        HASH_DEL(core->clients, client);
        free(client->grant);
        free(client);
    }
    HASH_ITER (hh, core->imports, imp, next_imp) {
        HASH_DEL(core->imports, imp);
        free(imp);
    }
    free_segments(core);
    slots_deinit(core);
    free(core);
    return NULL;
}

/* ------------------------------------------------------------------ time */

void timer_arm(struct core *core, enum timer_class class, struct timer *timer, uint64_t due)
{
    struct timer *after;

    timer_stop(core, class, timer);
    timer->due = due;
    timer->armed = true;
    after = core->timers[class] ? core->timers[class]->prev : NULL;
    while (after && after->due > due)
        after = after == core->timers[class] ? NULL : after->prev;
    if (after)
        DL_APPEND_ELEM(core->timers[class], after, timer);
    else
        DL_PREPEND(core->timers[class], timer);
}

void timer_stop(struct core *core, enum timer_class class, struct timer *timer)
{
    if (!timer->armed)
        return;
    DL_DELETE(core->timers[class], timer);
    timer->armed = false;
}

uint64_t interval_op(const struct core *core)
{
    return core->params.limits.op_timeout_ms ? core->params.limits.op_timeout_ms : 1000;
}

uint64_t interval_resend(const struct core *core)
{
    uint64_t ms = interval_op(core) / RESEND_PARTS;

    return ms ? ms : 1;
}

void core_set_time(struct core *core, uint64_t mono_ms, int64_t real_s)
{
    core->now_ms = mono_ms;
    core->now_s = real_s;
}

static void timer_fire(struct core *core, enum timer_class class, struct timer *timer)
{
    timer_stop(core, class, timer);
    switch (class) {
    case TIMER_OP:
        op_timer(core, MEMBER(timer, struct op, timer));
        break;
    case TIMER_IMPORT:
        import_timer(core, MEMBER(timer, struct import, timer));
        break;
    default:
        segment_release_timer(core, MEMBER(timer, struct segment, release));
        break;
    }
}

uint64_t core_tick(struct core *core)
{
    uint64_t next = UINT64_MAX;

    for (enum timer_class class = 0; class < TIMER_CLASSES; class ++) {
        while (core->timers[class] && core->timers[class]->due <= core->now_ms)
            timer_fire(core, class, core->timers[class]);
        if (core->timers[class] && core->timers[class]->due - core->now_ms < next)
            next = core->timers[class]->due - core->now_ms;
    }
    return next;
}

/* ------------------------------------------------------------------ small things */

void core_set_hostname(struct core *core, const char *hostname)
{
    memset(core->hostname, 0, sizeof(core->hostname));
    memcpy(core->hostname, hostname, strnlen(hostname, FABRIC_HOSTNAME_MAX - 1));
}

uint32_t core_huge(const struct core *core, int32_t shmid, bool *pool)
{
    *pool = false;
    return core->ops->memory_huge ? core->ops->memory_huge(core->ctx, shmid, pool) : 0;
}

void core_set_limits(struct core *core, const struct core_limits *limits)
{
    core->params.limits = *limits;
}

void core_send(struct core *core, uint32_t to, enum fabric_op op, uint32_t seq, int32_t shmid, struct fabric_msg *msg)
{
    struct fabric_msg empty;

    if (!msg) {
        memset(&empty, 0, sizeof(empty));
        msg = &empty;
    }
    msg->op = (uint16_t)op;
    msg->seq = seq;
    msg->shmid = shmid;
    core->ops->send(core->ctx, to, msg);
}

bool member_reachable(const struct core *core, uint32_t part)
{
    return core->member[part].state == CORE_MEMBER_ALIVE;
}

int member_error(const struct core *core, uint32_t part)
{
    if (part >= core->params.parts || !core->member[part].seen)
        return EINVAL;
    if (core->member[part].state == CORE_MEMBER_FOREIGN)
        return EPROTO;
    return member_reachable(core, part) ? 0 : EHOSTDOWN;
}

void core_get_stats(const struct core *core, struct core_stats *out)
{
    uint64_t importers = 0;

    memset(out, 0, sizeof(*out));
    for (uint32_t i = 0; i < core->params.slots; i++)
        if (core->segment[i])
            importers |= core->segment[i]->r.importers;
    out->segments = core->n_segments - core->n_reserved;
    out->reserved_keys = core->n_reserved;
    out->bytes = core->bytes;
    out->pages = core->pages;
    out->imports = HASH_COUNT(core->imports);
    out->clients = HASH_COUNT(core->clients);
    out->grants = core->n_grants;
    out->ops = HASH_COUNT(core->ops_by_id);
    for (struct client *client = core->clients; client; client = client->hh.next)
        for (uint32_t i = 0; i < client->n_grant; i++)
            if (client->grant[i]) {
                grant_refresh((struct core *)core, client->grant[i]);
                out->attachments += client->grant[i]->seen.count;
            }
    out->foreign_importers = (uint64_t)__builtin_popcountll(importers);
}
