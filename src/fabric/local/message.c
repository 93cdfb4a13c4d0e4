/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages to and from the daemons of other partitions.
 *
 * Out: a queue for each peer, in order. flush() moves what fits into the peer's ring and wakes the peer if it sleeps
 * (FABRIC_BELL()); memory goes through the door before its message goes into the ring. What does not fit is tried again when the peer knocks (it
 * does so after it made room in a ring that was filling up) or by a timer. A queue is for one incarnation, and goes
 * with it.
 *
 * In: at most so many messages of each peer a turn. One is copied, checked, its memory imported, handed up, and only
 * then is the head moved. Messages of an earlier incarnation are skipped. A peer that sends what makes no sense is
 * not listened to any more until it comes back with a new incarnation.
 */
#include "src/fabric/local/local.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>

#include "src/util/log.h"

#define MESSAGES_AT_ONCE 32u
#define MESSAGES_KNOCK   16u /* taken in one turn: the sender may have been waiting for room */
#define RETRY_MIN_MS     1u
#define RETRY_MAX_MS     64u
#define MEMORY_SEQS      0x100000u /* of one epoch */

/* ------------------------------------------------------------------ out */

static void set_timer(struct local *l, uint32_t ms)
{
    struct itimerspec when = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}};

    (void)timerfd_settime(l->timer_fd, 0, &when, NULL);
}

/* Its memory through the door, then the message into the ring. 0: sent; EAGAIN; else it cannot be sent, ever. */
static int send_one(struct local *l, uint32_t to, struct local_queued *q)
{
    struct local_peer *peer = &l->peer[to];
    int error;

    if ((q->msg.flags & FABRIC_MSG_MEMORY) && !q->announced) {
        uint32_t seq = l->epoch * MEMORY_SEQS + peer->memory_seq;

        error = local_door_send(l, to, q->msg.shmid, seq);
        if (error)
            return error;
        peer->memory_seq++;
        q->msg.memory_seq = seq;
        q->announced = true;
    }
    return area_ring_send(&l->area, l->self, to, &q->msg);
}

static void queue_pop(struct local_peer *peer)
{
    struct local_queued *q = peer->head;

    peer->head = q->next;
    if (!peer->head)
        peer->tail = NULL;
    peer->queued--;
    free(q);
}

/* @return whether anything was sent */
static bool flush_peer(struct local *l, uint32_t to)
{
    static struct log_limit limit = LOG_LIMIT_DEFAULT;
    struct local_peer *peer = &l->peer[to];
    bool sent = false;

    while (peer->head) {
        int error = EHOSTDOWN;

        if (area_incarnation(&l->area, to) == peer->queue_incarnation)
            error = send_one(l, to, peer->head);
        if (error == EAGAIN)
            break;
        if (error && error != EHOSTDOWN)
            log_limited(&limit, LOG_LEVEL_WARNING, "%s: a message to partition %u is lost: %s", l->path, to,
                        strerror(error));
        sent |= !error;
        queue_pop(peer);
    }
    if (sent)
        local_door_ring(l, to);
    return sent;
}

void local_flush(struct local *l)
{
    bool waiting = false, sent = false;

    for (uint32_t p = 0; p < l->area.sb.parts; p++) {
        if (!l->peer[p].head)
            continue;
        sent |= flush_peer(l, p);
        waiting |= l->peer[p].head != NULL;
    }
    if (!waiting) {
        l->retry_ms = 0;
        return;
    }
    if (sent || l->retry_ms == 0)
        l->retry_ms = RETRY_MIN_MS;
    else if (l->retry_ms < RETRY_MAX_MS)
        l->retry_ms *= 2;
    set_timer(l, l->retry_ms);
}

void local_send(struct fabric *f, uint32_t to, const struct fabric_msg *msg)
{
    static struct log_limit limit = LOG_LIMIT_DEFAULT;
    struct local *l = to_local(f);
    struct local_queued *q;
    struct local_peer *peer;
    uint32_t incarnation;

    if (!l->joined || to >= l->area.sb.parts || to == l->self || !(incarnation = area_incarnation(&l->area, to)))
        return;
    peer = &l->peer[to];
    while (peer->head && peer->queue_incarnation != incarnation)
        queue_pop(peer);
    q = peer->queued < LOCAL_QUEUED_MAX ? calloc(1, sizeof(*q)) : NULL;
    if (!q) {
        log_limited(&limit, LOG_LEVEL_ERROR, "%s: a message to partition %u is lost: %u are waiting", l->path, to,
                    peer->queued);
        return;
    }
    q->msg = *msg;
    q->msg.incarnation = l->incarnation;
    q->msg.epoch = l->epoch;
    peer->queue_incarnation = incarnation;
    if (peer->tail)
        peer->tail->next = q;
    else
        peer->head = q;
    peer->tail = q;
    peer->queued++;
    if (peer->head == q) /* else it waits its turn */
        local_flush(l);
}

/* ------------------------------------------------------------------ in */

static void close_ring(struct local *l, uint32_t from, uint32_t incarnation)
{
    log_error("%s: partition %u sent what makes no sense; it is not listened to until it comes back", l->path, from);
    l->peer[from].closed = incarnation;
}

/* Its memory, if it has any, then up. */
static void take_message(struct local *l, uint32_t from, const struct fabric_msg *msg)
{
    bool has_memory = false;

    if (msg->flags & FABRIC_MSG_MEMORY) {
        struct local_held *held = local_door_take(l, from, msg->memory_seq);

        /* The note came before the message, but maybe after we looked at the door. */
        while (!held && local_door_drain(l))
            held = local_door_take(l, from, msg->memory_seq);
        has_memory = held && held->shmid == msg->shmid && local_driver_import(l, from, held);
        local_held_free(held);
    }
    l->events->message(l->ctx, from, msg, has_memory);
}

/* @return how many were taken */
static uint32_t receive_from(struct local *l, uint32_t from)
{
    const struct fabric_superblock *sb = &l->area.sb;
    uint32_t taken;

    for (taken = 0; taken < MESSAGES_AT_ONCE; taken++) {
        uint32_t incarnation = area_incarnation(&l->area, from);
        struct fabric_msg msg;
        int error;

        if (!incarnation || incarnation != l->peer[from].told || l->peer[from].closed == incarnation)
            break;
        error = area_ring_receive(&l->area, l->self, from, &msg);
        if (error == EAGAIN || error == ENOSPC)
            break;
        if (error || (msg.incarnation == incarnation &&
                      !fabric_msg_check(&msg, from, sb->parts, sb->part_bits, sb->slot_bits))) {
            close_ring(l, from, incarnation);
            l->peer[from].broken = error != 0;
            break;
        }
        if (msg.incarnation == incarnation)
            take_message(l, from, &msg);
        area_ring_advance(&l->area, l->self, from);
    }
    if (taken >= MESSAGES_KNOCK)
        local_door_knock(l, from);
    return taken;
}

uint32_t local_receive(struct local *l, bool *more)
{
    uint32_t taken = 0;

    for (uint32_t p = 0; p < l->area.sb.parts; p++) {
        uint32_t n = p != l->self && l->peer[p].told ? receive_from(l, p) : 0;

        taken += n;
        *more |= n == MESSAGES_AT_ONCE;
    }
    return taken;
}

/* Of struct fabric_ops. What is left of a large batch makes it come back at once, since it returns true. */
bool local_receive_unrung(struct fabric *f, bool sleep)
{
    struct local *l = to_local(f);
    bool more = false;

    if (!l->joined)
        return false;
    if (sleep)
        area_slot_set_bell(&l->area, l->self, FABRIC_BELL_ASLEEP);
    else if (FABRIC_BELL_STATE(area_slot_bell(&l->area, l->self)) != FABRIC_BELL_AWAKE)
        area_slot_set_bell(&l->area, l->self, FABRIC_BELL_AWAKE);
    if (!local_receive(l, &more))
        return false;
    local_flush(l);
    return true;
}
