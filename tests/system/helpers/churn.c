/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * churn: a load that keeps its own books. Until standard input ends it creates, attaches, checks, detaches and removes
 * segments at random, while somebody kills daemons.
 *
 *     churn SEED KEY
 *
 * It knows what it may expect: a call succeeds, or fails with EIO or EHOSTDOWN, which is what a call in flight may do
 * while its daemon restarts. Whatever succeeded stays true: an id stays valid, data stay, the count is exact. At the end
 * it asks about each segment that it holds, removes them, and prints "ok CALLS failed N", or "failed: ..." and status 1.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xp_shm.h>

#define SLOTS 16u
#define WORDS 512u
#define RETRY 2000 /* times 5 ms: a daemon is back long before */

static struct slot {
    int id; /* -1: none */
    uint64_t seed;
    uint64_t *at; /* NULL: not attached */
} slots[SLOTS];

static uint64_t random_state;
static long calls, interrupted;
static int next_key;

static uint64_t random_word(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static _Noreturn void failed(const char *what, int error)
{
    printf("failed: call %ld: %s: %s\n", calls, what, error ? strerrorname_np(error) : "-");
    fflush(stdout);
    _exit(1);
}

/* What a killed daemon excuses. */
static bool excused(void)
{
    if (errno != EIO && errno != EHOSTDOWN)
        return false;
    interrupted++;
    return true;
}

static void create(struct slot *s)
{
    bool private = random_word() & 1;
    int id = xp_shmget(private ? IPC_PRIVATE : next_key++, WORDS * 8, IPC_CREAT | IPC_EXCL | 0600);

    if (id < 0) {
        if (!excused())
            failed("xp_shmget", errno);
        return;
    }
    s->id = id;
    s->seed = 0;
}

static void attach(struct slot *s)
{
    uint64_t *p = xp_shmat(s->id, NULL, 0);

    if (p == (void *)-1) {
        if (!excused())
            failed("xp_shmat", errno);
        return;
    }
    for (uint64_t i = 0; i < WORDS; i++)
        if (p[i] != (s->seed ? s->seed + i : 0))
            failed("its data changed", 0);
    s->at = p;
}

static void detach(struct slot *s)
{
    if (xp_shmdt(s->at) == 0)
        s->at = NULL;
    else if (!excused())
        failed("xp_shmdt", errno);
    else
        s->at = NULL; /* unmapped all the same */
}

static void use(struct slot *s)
{
    struct shmid_ds ds;

    s->seed = random_word() | 1;
    for (uint64_t i = 0; i < WORDS; i++)
        s->at[i] = s->seed + i;
    if (xp_shmctl(s->id, IPC_STAT, &ds) != 0) {
        if (!excused())
            failed("IPC_STAT", errno);
    } else if (ds.shm_nattch != 1) {
        failed("nattch is not 1", 0);
    }
}

/* @return false: it did not happen, this time. */
static bool remove_id(struct slot *s, bool again)
{
    if (xp_shmctl(s->id, IPC_RMID) == 0 || (again && (errno == EINVAL || errno == EIDRM))) {
        s->id = -1;
        return true;
    }
    if (!excused())
        failed("IPC_RMID", errno);
    return false;
}

static void pause_briefly(void)
{
    const struct timespec t = {.tv_nsec = 5000000};

    nanosleep(&t, NULL);
}

static void step(void)
{
    struct slot *s = &slots[random_word() % SLOTS];

    calls++;
    if (s->id < 0)
        create(s);
    else if (!s->at && random_word() % 4)
        attach(s);
    else if (!s->at)
        for (int i = 0; !remove_id(s, i > 0) && i < RETRY; i++)
            pause_briefly();
    else if (random_word() % 3)
        use(s);
    else
        detach(s);
}

static bool told_to_end(void)
{
    struct pollfd p = {.fd = 0, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}

/* The daemon is back for good: now everything must be there. */
static void settle(void)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        struct slot *s = &slots[i];
        struct shmid_ds ds;
        int tries = 0;

        if (s->id < 0)
            continue;
        while (xp_shmctl(s->id, IPC_STAT, &ds) != 0) {
            if (!excused() || ++tries > RETRY)
                failed("a segment is lost", errno);
            pause_briefly();
        }
        if (ds.shm_nattch != (s->at ? 1 : 0))
            failed("a count is wrong", 0);
        if (!s->at)
            attach(s);
        if (s->at)
            detach(s);
        while (!remove_id(s, tries > 0) && ++tries <= RETRY)
            pause_briefly();
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: churn SEED KEY\n");
        return 2;
    }
    random_state = strtoull(argv[1], NULL, 0) * 0x9e3779b97f4a7c15u | 1;
    next_key = (int)strtol(argv[2], NULL, 0);
    for (unsigned i = 0; i < SLOTS; i++)
        slots[i].id = -1;
    while (!told_to_end())
        step();
    settle();
    printf("ok %ld failed %ld\n", calls, interrupted);
    return 0;
}
