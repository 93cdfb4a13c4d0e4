/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * hotrace: calls that send no message (attaching from the cache, looking up a known key) against those that make what is
 * cached wrong, done at the same moment by another process.
 *
 *     hotrace MODE FILE SIDE ROUNDS KEY      SIDE 0 or 1; FILE keeps them in step
 *
 *     rmid, autormid   side 0 creates, side 1 attaches and detaches; then one removes while the other attaches once more.
 *                      Whoever attached finds the segment's own memory; afterwards it is gone.
 *     set              side 0 forbids and allows (mode 0 and 0600; neither side is privileged) while side 1 attaches
 *                      without pause: never by rights that were gone when it began
 *     keys             one creates KEY, both look it up twice, the other one removes it, both look it up
 *     keyset           side 0 takes and gives rights, side 1 asks for the key each time
 *     hammer           side 1 attaches what FILE names, until it names 0, whatever happens to its home (test_hot.py)
 *
 * Prints "ok ROUNDS attached N refused N sigbus N", or "failed: ..." and status 1.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <xp_shm.h>

#include "meet.h"

#define GONE_LIMIT_NS 10e9

static struct meet *m;
static unsigned side;
static long rounds, attached, refused, sigbus;
static key_t key;
static sigjmp_buf taken_away;

static void failed(long round, const char *what)
{
    printf("failed: side %u, round %ld: %s (%s)\n", side, round, what, strerrorname_np(errno));
    fflush(stdout);
    _exit(1);
}

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static bool is_gone(int error)
{
    return error == EINVAL || error == EIDRM;
}

/* Attach @id, whose first word is @id, and detach. @return false: refused, errno says why. */
static bool visit(long round, int id, bool store)
{
    int *p = xp_shmat(id, NULL, 0);

    if (p == (void *)-1) {
        refused++;
        return false;
    }
    attached++;
    if (__atomic_load_n(&p[0], __ATOMIC_SEQ_CST) != id)
        failed(round, "another's memory");
    if (store)
        __atomic_store_n(&p[1], (int)round, __ATOMIC_SEQ_CST);
    if (store && __atomic_load_n(&p[1], __ATOMIC_SEQ_CST) != (int)round)
        failed(round, "memory that was taken away");
    if (xp_shmdt(p) != 0)
        failed(round, "xp_shmdt");
    return true;
}

static int create(long round, key_t of, int flags)
{
    int id = xp_shmget(of, 4096, IPC_CREAT | flags);
    int *p = id < 0 ? (void *)-1 : xp_shmat(id, NULL, 0);

    if (p == (void *)-1)
        failed(round, "creation");
    p[0] = id;
    if (xp_shmdt(p) != 0)
        failed(round, "xp_shmdt");
    return id;
}

/* ------------------------------------------------------------------ removal */

/* Importers give back what they have in their own time. */
static void wait_gone(long round, int id)
{
    double end = now_ns() + GONE_LIMIT_NS;
    struct shmid_ds ds;

    while (xp_shmctl(id, IPC_STAT, &ds) == 0)
        if (now_ns() > end)
            failed(round, "the segment is there although nobody attaches it");
    if (!is_gone(errno))
        failed(round, "IPC_STAT");
}

static void removal(int cmd)
{
    for (long r = 0; r < rounds; r++) {
        int id = side == 0 ? create(r, IPC_PRIVATE, 0600) : -1;

        id = side == 0 ? (int)(meet_swap(m, side, id), id) : (int)meet_swap(m, side, 0);
        if (side == 1 && !visit(r, id, true))
            failed(r, "the first attachment");
        meet(m, side);
        if (side == 0) {
            for (volatile long spin = r % 64 * 16; spin > 0; spin--)
                continue;
            if (xp_shmctl(id, cmd) != 0)
                failed(r, "removal");
        } else if (!visit(r, id, true) && !is_gone(errno)) {
            failed(r, "attaching what is removed");
        }
        meet(m, side);
        if (side == 0)
            wait_gone(r, id);
        meet(m, side);
        if (side == 1 && (visit(r, id, false) || !is_gone(errno)))
            failed(r, "attached after it was gone");
    }
}

/* ------------------------------------------------------------------ rights */

static void set_mode(long round, int id, unsigned mode)
{
    struct shmid_ds ds = {.shm_perm = {.uid = geteuid(), .gid = getegid(), .mode = (unsigned short)mode}};

    if (xp_shmctl(id, IPC_SET, &ds) != 0)
        failed(round, "IPC_SET");
}

/* value[0] is the round in which it is forbidden, 0 while it may be allowed, -1 at the end. */
static void rights(void)
{
    int id = side == 0 ? create(0, IPC_PRIVATE, 0600) : -1;

    id = side == 0 ? (int)(meet_swap(m, side, id), id) : (int)meet_swap(m, side, 0);
    if (side == 0)
        __atomic_store_n(&m->value[0], 0, __ATOMIC_SEQ_CST);
    meet(m, side);
    for (long r = 1; side == 0 && r <= rounds; r++) {
        set_mode(r, id, 0);
        __atomic_store_n(&m->value[0], r, __ATOMIC_SEQ_CST);
        for (volatile long spin = r % 64 * 64; spin > 0; spin--)
            continue;
        __atomic_store_n(&m->value[0], 0, __ATOMIC_SEQ_CST);
        set_mode(r, id, 0600);
    }
    if (side == 0)
        __atomic_store_n(&m->value[0], -1, __ATOMIC_SEQ_CST);
    for (int64_t before; side == 1 && (before = __atomic_load_n(&m->value[0], __ATOMIC_SEQ_CST)) >= 0;) {
        bool in = visit(before, id, true);

        if (!in && errno != EACCES)
            failed(before, "attaching what is forbidden");
        if (in && before && __atomic_load_n(&m->value[0], __ATOMIC_SEQ_CST) == before)
            failed(before, "attached by rights that were gone");
    }
    meet(m, side);
    if (side == 0 && xp_shmctl(id, IPC_RMID) != 0)
        failed(rounds, "IPC_RMID");
}

/* ------------------------------------------------------------------ keys */

static void keys(void)
{
    for (long r = 0; r < rounds; r++) {
        bool creator = (r & 1) == side;
        int mine = creator ? create(r, key, IPC_EXCL | 0600) : -1;
        int theirs = (int)meet_swap(m, side, mine), id = creator ? mine : theirs;

        for (int twice = 0; twice < 2; twice++)
            if (xp_shmget(key, 0, 0600) != id)
                failed(r, "another id for the key");
        if (!visit(r, id, false))
            failed(r, "attaching");
        meet(m, side);
        if (!creator && xp_shmctl(id, IPC_RMID) != 0)
            failed(r, "IPC_RMID");
        meet(m, side);
        if (xp_shmget(key, 0, 0600) >= 0 || errno != ENOENT)
            failed(r, "a key that was removed");
        meet(m, side);
    }
}

static void key_rights(void)
{
    int id = side == 0 ? create(0, key, IPC_EXCL | 0600) : -1;

    for (long r = 0; r < rounds; r++) {
        if (side == 0)
            set_mode(r, id, r & 1 ? 0600 : 0);
        meet(m, side);
        for (int twice = 0; side == 1 && twice < 2; twice++) {
            int got = xp_shmget(key, 0, 0600);

            if (r & 1 ? got < 0 : got >= 0 || errno != EACCES)
                failed(r, "looking up the key");
        }
        meet(m, side);
    }
    if (side == 0 && xp_shmctl(id, IPC_RMID) != 0)
        failed(rounds, "IPC_RMID");
}

/* ------------------------------------------------------------------ the home's death */

static void on_sigbus(int sig)
{
    (void)sig;
    siglongjmp(taken_away, 1);
}

static void hammer(void)
{
    struct sigaction action = {.sa_handler = on_sigbus};
    int64_t id;

    sigaction(SIGBUS, &action, NULL);
    printf("ready\n");
    fflush(stdout);
    while ((id = __atomic_load_n(&m->value[0], __ATOMIC_SEQ_CST)) != 0) {
        int *volatile p = id < 0 ? (void *)-1 : xp_shmat((int)id, NULL, 0);

        if (p == (void *)-1) {
            refused += id > 0;
            if (id > 0 && !is_gone(errno) && errno != EHOSTDOWN)
                failed(attached, "attaching");
            usleep(200); /* its home is not there */
            continue;
        }
        attached++;
        if (sigsetjmp(taken_away, 1))
            sigbus++;
        else if (__atomic_load_n(&p[0], __ATOMIC_SEQ_CST) != (int)id)
            failed(attached, "another's memory");
        if (xp_shmdt(p) != 0)
            failed(attached, "xp_shmdt");
        __atomic_store_n(&m->value[1], attached, __ATOMIC_SEQ_CST);
    }
}

int main(int argc, char **argv)
{
    const char *mode = argc > 5 ? argv[1] : "";

    if (argc > 5) {
        m = meet_open(argv[2]);
        side = argv[3][0] == '1';
        rounds = strtol(argv[4], NULL, 0);
        key = (key_t)strtol(argv[5], NULL, 0);
        if (part_getid() < 0) /* connect before the first round */
            die("part_getid");
    }
    if (strcmp(mode, "rmid") == 0)
        removal(IPC_RMID);
    else if (strcmp(mode, "autormid") == 0)
        removal(IPC_AUTORMID);
    else if (strcmp(mode, "set") == 0)
        rights();
    else if (strcmp(mode, "keys") == 0)
        keys();
    else if (strcmp(mode, "keyset") == 0)
        key_rights();
    else if (strcmp(mode, "hammer") == 0)
        hammer();
    else
        return fprintf(stderr, "usage: hotrace MODE FILE SIDE ROUNDS KEY\n"), 2;
    printf("ok %ld attached %ld refused %ld sigbus %ld\n", rounds, attached, refused, sigbus);
    return 0;
}
