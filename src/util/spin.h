/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waiting awake before going to sleep. To be woken costs more than most answers take; so whoever expects something soon
 * looks for it again and again, SPIN_NS at the most, before it sleeps.
 *
 * That only pays when the other side runs at the same time. It is found out by trying: after a miss the next
 * SPIN_SKIP_MIN waits sleep at once, twice as many after each further miss, up to SPIN_SKIP_MAX; a hit halves it. So where spinning is no
 * good (all on one CPU, a busy machine, answers that take long) it costs SPIN_NS once in SPIN_SKIP_MAX waits, and
 * nobody spins who has not been given something to do since the last time.
 */
#ifndef CLSHM_UTIL_SPIN_H
#define CLSHM_UTIL_SPIN_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#define SPIN_NS       100000u /* about what two wakeups cost */
#define SPIN_SKIP_MIN 4u
#define SPIN_SKIP_MAX 64u

struct spin {
    bool on;          /* all zero: never spin */
    uint32_t skip;    /* waits that are yet to sleep at once */
    uint32_t penalty; /* how many after the next miss */
};

/* May this process and process @peer (0: anybody) run at the same time? */
static inline bool spin_possible(pid_t peer)
{
    cpu_set_t own, other;

    if (sched_getaffinity(0, sizeof(own), &own) < 0 || CPU_COUNT(&own) > 1)
        return true; /* it fails where there are more CPUs than the set has room for */
    return peer > 0 && sched_getaffinity(peer, sizeof(other), &other) == 0 && !CPU_EQUAL(&own, &other);
}

static inline void spin_init(struct spin *spin, pid_t peer)
{
    *spin = (struct spin){.on = spin_possible(peer), .penalty = SPIN_SKIP_MIN};
}

/* Before a wait: spin this time? */
static inline bool spin_wanted(struct spin *spin)
{
    if (!spin->on || spin->skip == 0)
        return spin->on;
    spin->skip--;
    return false;
}

/* After having looked @looks times: did what was waited for come? What was there already proves nothing. */
static inline void spin_learn(struct spin *spin, bool hit, uint32_t looks)
{
    if (hit && looks > 1 && spin->penalty > SPIN_SKIP_MIN)
        spin->penalty /= 2;
    if (hit)
        return;
    spin->skip = spin->penalty;
    if (spin->penalty < SPIN_SKIP_MAX)
        spin->penalty *= 2;
}

static inline uint64_t spin_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif
