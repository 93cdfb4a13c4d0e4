/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who is up, who stalled, who died.
 *
 * Two threads. The heart counts our heartbeat up every H and does nothing else. The watch looks at all life words and
 * heartbeats every H, counts in its own ticks, and tells the loop what changed, through the event ring:
 *
 *     nothing --READY--> CAME --3 H silent--> STALLED --beats--> RESUMED
 *     CAME or STALLED --life word FREE--> LEFT, --DEAD or another incarnation--> DEAD
 *
 * Silent for 5 H, and nobody holds its life file's lock: the watch declares it dead, after a look at its own life word.
 * A tick of its own that came late discards what was counted. What it tells follows from the difference between what
 * is (life words) and what was told (`known`); when the ring is full it is told at the next look.
 *
 * `known` also stands in the generations' head, for our clients; a daemon that was restarted takes it from there, so
 * that a partition that died meanwhile is reported.
 */
#include "src/fabric/local/local.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "src/util/log.h"

#define HEART_NICE (-10) /* where it is allowed */

int local_members_init(struct local *l)
{
    struct local_members *m = &l->members;
    pthread_condattr_t attr;

    pthread_mutex_init(&m->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->wake, &attr);
    pthread_condattr_destroy(&attr);
    return 0;
}

void local_members_deinit(struct local *l)
{
    pthread_mutex_destroy(&l->members.lock);
    pthread_cond_destroy(&l->members.wake);
}

static struct timespec to_timespec(uint64_t ms)
{
    return (struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
}

/* Sleep until @until_ms; with @kickable also until kicked. @return false: stop */
static bool sleep_until(struct local_members *m, uint64_t until_ms, bool kickable)
{
    struct timespec until = to_timespec(until_ms);
    bool go_on;

    pthread_mutex_lock(&m->lock);
    while (!m->stop && !(kickable && m->kicked))
        if (pthread_cond_timedwait(&m->wake, &m->lock, &until) == ETIMEDOUT)
            break;
    if (kickable)
        m->kicked = false;
    go_on = !m->stop;
    pthread_mutex_unlock(&m->lock);
    return go_on;
}

/* ------------------------------------------------------------------ heart */

static void *heart(void *arg)
{
    struct local *l = arg;
    uint64_t period = l->area.sb.heartbeat_ms;
    uint64_t beats = area_heartbeat(&l->area, l->self);
    uint64_t next = local_now_ms();

    /* A busy machine should not make us look stalled. Without the privilege it goes on as it is. */
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), HEART_NICE);
    do {
        uint64_t now = local_now_ms();

        area_heartbeat_store(&l->area, l->self, ++beats);
        next = next + period > now ? next + period : now + period;
    } while (sleep_until(&l->members, next, false));
    return NULL;
}

/* ------------------------------------------------------------------ watch */

static bool tell(struct local *l, uint32_t type, uint32_t part, uint32_t incarnation)
{
    struct driver_event event = {.type = type, .part = part, .incarnation = incarnation};

    return local_ring_push(&l->driver.ring, &event, false);
}

/* Our own life word. Once we were declared dead nothing else is looked at. */
static bool still_alive(struct local *l)
{
    struct local_members *m = &l->members;
    uint64_t word = area_life(&l->area, l->self);

    if (!m->evicted && FABRIC_LIFE_STATE(word) == FABRIC_LIFE_ALIVE && FABRIC_LIFE_INCARNATION(word) == l->incarnation)
        return true;
    if (!m->evicted)
        log_error("%s: partition %u was declared dead by partition %u", l->path, l->self, FABRIC_LIFE_DECLARER(word));
    shared_store(&m->evicted, true);
    if (!m->told_evicted)
        m->told_evicted = tell(l, DRIVER_EVENT_EVICTED, l->self, l->incarnation);
    return false;
}

/* It was known and is no more. */
static void look_gone(struct local *l, uint32_t part, uint64_t word)
{
    struct local_view *v = &l->members.view[part];
    bool left = FABRIC_LIFE_STATE(word) == FABRIC_LIFE_FREE && FABRIC_LIFE_INCARNATION(word) == v->known;

    area_gens_home_store(&l->area, l->self, part, 0);
    if (tell(l, left ? DRIVER_EVENT_LEFT : DRIVER_EVENT_DEAD, part, v->known))
        shared_store(&v->known, 0);
}

/* An incarnation that we have not told of: as soon as its daemon is ready. */
static void look_new(struct local *l, uint32_t part, uint32_t incarnation)
{
    struct local_view *v = &l->members.view[part];

    if (!(area_slot_flags(&l->area, part) & FABRIC_SLOT_READY))
        return;
    area_gens_home_store(&l->area, l->self, part, incarnation);
    shared_store(&v->stalled, false);
    if (tell(l, DRIVER_EVENT_CAME, part, incarnation))
        shared_store(&v->known, incarnation);
}

static void declare_dead(struct local *l, uint32_t part)
{
    struct local_view *v = &l->members.view[part];

    if (local_probe(l->dir_fd, part) != LOCAL_GONE || !still_alive(l))
        return;
    if (area_declare_dead(&l->area, part, v->incarnation, l->self))
        log_warning("%s: partition %u is dead: silent for %u heartbeats, and none of its processes lives", l->path,
                    part, v->missed);
}

/* Changed before it is told, so that who was told finds it so; back if it cannot be told yet. */
static void set_stalled(struct local *l, uint32_t part, bool stalled)
{
    struct local_view *v = &l->members.view[part];

    if (v->stalled == stalled)
        return;
    shared_store(&v->stalled, stalled);
    if (!tell(l, stalled ? DRIVER_EVENT_STALLED : DRIVER_EVENT_RESUMED, part, v->incarnation))
        shared_store(&v->stalled, !stalled);
}

/* One tick's look at the heartbeat of an ALIVE partition. */
static void look_beats(struct local *l, uint32_t part, bool late)
{
    struct local_view *v = &l->members.view[part];
    uint64_t heartbeat = area_heartbeat(&l->area, part);
    uint32_t away = area_slot_away(&l->area, part);

    if (heartbeat != v->heartbeat) {
        v->heartbeat = heartbeat;
        shared_store(&v->missed, 0);
        set_stalled(l, part, false);
        return;
    }
    shared_store(&v->missed, late ? 0 : v->missed + 1);
    if (v->missed >= LOCAL_STALLED + away && v->known)
        set_stalled(l, part, true);
    if (v->missed >= LOCAL_DEAD + away)
        declare_dead(l, part);
}

static void look_at(struct local *l, uint32_t part, bool tick, bool late)
{
    struct local_view *v = &l->members.view[part];
    uint64_t word = area_life(&l->area, part);
    uint32_t incarnation = FABRIC_LIFE_STATE(word) == FABRIC_LIFE_ALIVE ? FABRIC_LIFE_INCARNATION(word) : 0;

    if (v->incarnation != incarnation) {
        v->incarnation = incarnation;
        v->heartbeat = area_heartbeat(&l->area, part);
        shared_store(&v->missed, 0);
    }
    if (v->known && v->known != incarnation)
        look_gone(l, part, word);
    if (v->known && v->known != incarnation)
        return; /* could not be told yet */
    if (incarnation && !v->known)
        look_new(l, part, incarnation);
    if (incarnation && tick)
        look_beats(l, part, late);
    word = area_life(&l->area, part);
    if (v->known && FABRIC_LIFE_STATE(word) == FABRIC_LIFE_DEAD && FABRIC_LIFE_INCARNATION(word) == v->known)
        look_gone(l, part, word); /* just declared */
}

static void look(struct local *l, bool tick, bool late)
{
    for (uint32_t p = 0; p < l->area.sb.parts && still_alive(l); p++)
        if (p != l->self)
            look_at(l, p, tick, late);
}

static void *watch(void *arg)
{
    struct local *l = arg;
    uint64_t period = l->area.sb.heartbeat_ms;
    uint64_t next = local_now_ms() + period;

    l->members.last_ms = local_now_ms();
    while (sleep_until(&l->members, next, true)) {
        uint64_t now = local_now_ms();
        bool tick = now >= next;

        look(l, tick, tick && now - l->members.last_ms > 2 * period);
        if (!tick)
            continue;
        l->members.last_ms = now;
        next = next + period > now ? next + period : now + period;
    }
    return NULL;
}

/* ------------------------------------------------------------------ for the loop */

/* What our clients were last told is what is known. */
static void recall(struct local *l)
{
    for (uint32_t p = 0; p < l->area.sb.parts; p++) {
        struct local_view *v = &l->members.view[p];
        uint32_t home = p == l->self ? 0 : area_gens_home(&l->area, l->self, p);

        *v = (struct local_view){0};
        /* Those that still live are told of anew: the core that knew them is gone. */
        v->known = home == area_incarnation(&l->area, p) ? 0 : home;
    }
    area_gens_home_store(&l->area, l->self, l->self, l->incarnation);
}

int local_members_start(struct local *l)
{
    struct local_members *m = &l->members;
    sigset_t all, before;
    int error;

    recall(l);
    m->stop = m->kicked = m->evicted = m->told_evicted = false;
    look(l, false, false);
    /* Signals are the loop's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&m->heart, NULL, heart, l);
    if (!error) {
        error = pthread_create(&m->watch, NULL, watch, l);
        m->started = !error;
        if (error) {
            local_members_stop(l);
            pthread_join(m->heart, NULL);
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

void local_members_stop(struct local *l)
{
    struct local_members *m = &l->members;

    pthread_mutex_lock(&m->lock);
    m->stop = true;
    pthread_cond_broadcast(&m->wake);
    pthread_mutex_unlock(&m->lock);
    if (!m->started)
        return;
    pthread_join(m->heart, NULL);
    pthread_join(m->watch, NULL);
    m->started = false;
}

void local_members_kick(struct local *l)
{
    pthread_mutex_lock(&l->members.lock);
    l->members.kicked = true;
    pthread_cond_broadcast(&l->members.wake);
    pthread_mutex_unlock(&l->members.lock);
}

bool local_members_changed(struct local *l)
{
    for (uint32_t p = 0; p < l->area.sb.parts; p++) {
        uint32_t known = shared_load(&l->members.view[p].known);
        uint32_t now = area_incarnation(&l->area, p);

        if (p != l->self && known != now && (known || (area_slot_flags(&l->area, p) & FABRIC_SLOT_READY)))
            return true;
    }
    return FABRIC_LIFE_STATE(area_life(&l->area, l->self)) != FABRIC_LIFE_ALIVE;
}

bool local_part(struct fabric *f, uint32_t part, struct clshmd_part *out)
{
    struct local *l = to_local(f);
    struct fabric_slot_daemon page;
    uint64_t word = area_life(&l->area, part);

    memset(out, 0, sizeof(*out));
    if (part >= l->area.sb.parts || word == 0 || area_slot_read(&l->area, part, &page) != 0)
        return false;
    switch (FABRIC_LIFE_STATE(word)) {
    case FABRIC_LIFE_ALIVE:
        out->state = shared_load(&l->members.view[part].stalled) ? CLSHMD_PART_STALLED : CLSHMD_PART_ALIVE;
        break;
    case FABRIC_LIFE_DEAD:
        out->state = CLSHMD_PART_DEAD;
        break;
    default:
        out->state = CLSHMD_PART_ABSENT;
    }
    out->incarnation = FABRIC_LIFE_INCARNATION(word);
    out->epoch = page.epoch;
    out->major = page.major;
    out->minor = page.minor;
    out->heartbeat = area_heartbeat(&l->area, part);
    out->missed = part == l->self ? 0 : shared_load(&l->members.view[part].missed);
    out->uid = page.uid;
    memcpy(out->name, page.name, sizeof(out->name));
    return true;
}

bool local_hostname(struct fabric *f, uint32_t part, char out[80])
{
    struct local *l = to_local(f);
    struct fabric_slot_daemon page;

    if (part >= l->area.sb.parts || area_slot_read(&l->area, part, &page) != 0)
        return false;
    memcpy(out, page.hostname, 80);
    out[79] = 0;
    return true;
}

bool local_same_users(struct fabric *f, uint32_t part)
{
    struct local *l = to_local(f);
    struct fabric_slot_daemon page;

    if (l->joined && part == l->self)
        return true;
    if (l->squash || l->userns == 0 || part >= l->area.sb.parts || area_slot_read(&l->area, part, &page) != 0)
        return false;
    return page.userns == l->userns && !(page.flags & FABRIC_SLOT_SQUASH);
}

/* Its id is used again only when its life file's lock is free; so FENCED adds nothing here. */
int local_evict(struct fabric *f, uint32_t part, uint32_t flags)
{
    struct local *l = to_local(f);
    uint32_t incarnation;

    if (!l->joined || part >= l->area.sb.parts || part == l->self || (flags & ~CLSHMD_EVICT_KNOWN))
        return EINVAL;
    incarnation = area_incarnation(&l->area, part);
    if (!incarnation || shared_load(&l->members.evicted))
        return EINVAL;
    if (!(flags & CLSHMD_EVICT_FORCE) && shared_load(&l->members.view[part].missed) < LOCAL_STALLED)
        return EBUSY;
    if (!area_declare_dead(&l->area, part, incarnation, l->self))
        return EINVAL;
    log_warning("%s: partition %u was evicted%s", l->path, part, flags & CLSHMD_EVICT_FORCE ? " by force" : "");
    local_door_knock(l, part); /* so that it learns of it soon; the others too */
    local_door_knock_all(l);
    local_members_kick(l);
    return 0;
}
