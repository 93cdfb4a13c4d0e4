/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The event ring (proto/driver.h) of the in-process driver.
 *
 * `tail` is written by pushers, one at a time under the lock; `head` by the daemon's loop alone. An eventfd makes the
 * loop's poll descriptor readable. Workers wait when the ring is full; the watch thread does not: what it has to say
 * follows from state, and it says it at its next look.
 */
#include "src/fabric/local/local.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "src/util/cleanup.h"

static struct driver_ring *ring_new(uint32_t pages)
{
    return calloc(pages, 4096);
}

int local_ring_init(struct local_ring *ring, uint32_t pages)
{
    if (pages == 0)
        pages = DRIVER_RING_PAGES_DEFAULT;
    if (pages > DRIVER_RING_PAGES_MAX)
        return EINVAL;
    ring->pages = pages;
    ring->ring = ring_new(pages);
    if (!ring->ring)
        return ENOMEM;
    ring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ring->event_fd < 0) {
        int error = errno;

        free(ring->ring);
        ring->ring = NULL;
        return error;
    }
    pthread_mutex_init(&ring->lock, NULL);
    pthread_cond_init(&ring->room, NULL);
    return 0;
}

void local_ring_deinit(struct local_ring *ring)
{
    if (!ring->ring)
        return;
    free(ring->ring);
    ring->ring = NULL;
    ring->event_fd = close_fd(ring->event_fd);
    pthread_mutex_destroy(&ring->lock);
    pthread_cond_destroy(&ring->room);
}

void local_ring_poke(struct local_ring *ring)
{
    uint64_t one = 1;

    /* Fails only when it is readable anyway. */
    if (write(ring->event_fd, &one, sizeof(one)) < 0)
        return;
}

static uint32_t ring_used(const struct driver_ring *ring)
{
    return __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) - __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
}

bool local_ring_push(struct local_ring *ring, const struct driver_event *event, bool wait)
{
    bool pushed = false;

    pthread_mutex_lock(&ring->lock);
    while (wait && !ring->stop && ring_used(ring->ring) >= DRIVER_RING_SLOTS(ring->pages)) {
        ring->waiters++;
        pthread_cond_wait(&ring->room, &ring->lock);
        ring->waiters--;
    }
    if (ring_used(ring->ring) < DRIVER_RING_SLOTS(ring->pages)) {
        uint32_t tail = ring->ring->tail;

        ring->ring->slot[tail % DRIVER_RING_SLOTS(ring->pages)] = *event;
        __atomic_store_n(&ring->ring->tail, tail + 1, __ATOMIC_RELEASE);
        pushed = true;
    }
    pthread_mutex_unlock(&ring->lock);
    if (pushed)
        local_ring_poke(ring);
    return pushed;
}

bool local_ring_pop(struct local_ring *ring, struct driver_event *event)
{
    struct driver_ring *r = ring->ring;
    uint32_t head = r->head;

    if (__atomic_load_n(&r->tail, __ATOMIC_ACQUIRE) == head)
        return false;
    *event = r->slot[head % DRIVER_RING_SLOTS(ring->pages)];
    /* Under the lock, or a pusher that has just found the ring full would miss the signal. */
    pthread_mutex_lock(&ring->lock);
    __atomic_store_n(&r->head, head + 1, __ATOMIC_RELEASE);
    if (ring->waiters)
        pthread_cond_signal(&ring->room);
    pthread_mutex_unlock(&ring->lock);
    return true;
}

/* EINVAL: out of range; EBUSY: what is pending would not fit. */
int local_ring_resize(struct local_ring *ring, uint32_t pages)
{
    struct driver_ring *bigger;
    uint32_t used;

    if (pages == 0 || pages > DRIVER_RING_PAGES_MAX)
        return EINVAL;
    bigger = ring_new(pages);
    if (!bigger)
        return ENOMEM;
    pthread_mutex_lock(&ring->lock);
    used = ring_used(ring->ring);
    if (used > DRIVER_RING_SLOTS(pages)) {
        pthread_mutex_unlock(&ring->lock);
        free(bigger);
        return EBUSY;
    }
    for (uint32_t i = 0; i < used; i++)
        bigger->slot[i] = ring->ring->slot[(ring->ring->head + i) % DRIVER_RING_SLOTS(ring->pages)];
    bigger->tail = used;
    free(ring->ring);
    ring->ring = bigger;
    ring->pages = pages;
    pthread_cond_broadcast(&ring->room);
    pthread_mutex_unlock(&ring->lock);
    return 0;
}

void local_ring_stop(struct local_ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    ring->stop = true;
    pthread_cond_broadcast(&ring->room);
    pthread_mutex_unlock(&ring->lock);
}

uint32_t local_ring_pending(struct local_ring *ring)
{
    return ring_used(ring->ring);
}
