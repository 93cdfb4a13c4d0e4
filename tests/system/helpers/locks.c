/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * locks: which synchronisation works in a segment that two partitions share? One process in each:
 *
 *     locks WHAT ID SIDE ROUNDS        SIDE 0 prepares what the test needs, then both run ROUNDS rounds
 *
 *     atomic    each adds 1 to a C11 atomic counter; the sum is exact
 *     publish   store-release of a sequence number after plain stores; the reader's acquire sees them all
 *     futex     the sides take turns by FUTEX_WAIT and FUTEX_WAKE
 *     mutex, rwlock, spin     a plain counter behind a PTHREAD_PROCESS_SHARED lock; the sum is exact
 *     cond      turns by a process-shared condition variable
 *     sem       turns by two process-shared sem_t
 *     barrier   rounds of a process-shared barrier
 *     robust    side 0 locks a robust mutex and dies; side 1 gets EOWNERDEAD
 *     tid       side 0 locks a robust mutex and stays; prints its thread id and the mutex's owner word; side 1 tells
 *               whether it takes itself for the owner (the ids of two PID namespaces collide)
 *     pi        what the kernel says to who waits for a priority-inheriting lock that side 0 holds
 *
 * Prints "ok ...", or "failed: ..." and status 1.
 */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <xp_shm.h>

#define LIMIT_S 30

struct shared {
    _Atomic uint32_t prepared, finished;
    _Atomic uint64_t counter;
    _Atomic uint32_t turn;
    _Atomic uint64_t sequence, seen;
    uint64_t payload[64];
    uint64_t plain;
    uint32_t plain_turn;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    pthread_rwlock_t rwlock;
    pthread_spinlock_t spin;
    pthread_barrier_t barrier;
    sem_t sem[2];
};

static struct shared *s;
static unsigned side;
static long rounds;

static _Noreturn void failed(const char *what, int error)
{
    printf("failed: side %u: %s: %s\n", side, what, error ? strerrorname_np(error) : "-");
    fflush(stdout);
    _exit(1);
}

static void must(const char *what, int error)
{
    if (error)
        failed(what, error);
}

static struct timespec limit(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += LIMIT_S;
    return t;
}

static void wait_word(_Atomic uint32_t *word, uint32_t unwanted)
{
    struct timespec t = {.tv_sec = LIMIT_S};

    while (atomic_load(word) == unwanted)
        if (syscall(SYS_futex, word, FUTEX_WAIT, unwanted, &t, NULL, 0) != 0 && errno == ETIMEDOUT)
            failed("futex wait", ETIMEDOUT);
}

static void set_word(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store(word, value);
    syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* ------------------------------------------------------------------ side 0 prepares */

static void prepare_mutex(bool robust)
{
    pthread_mutexattr_t a;

    must("mutexattr", pthread_mutexattr_init(&a));
    must("pshared", pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED));
    if (robust) {
        must("robust", pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST));
        must("errorcheck", pthread_mutexattr_settype(&a, PTHREAD_MUTEX_ERRORCHECK));
    }
    must("mutex_init", pthread_mutex_init(&s->mutex, &a));
}

static void prepare(bool robust)
{
    pthread_condattr_t c;
    pthread_rwlockattr_t r;
    pthread_barrierattr_t b;

    prepare_mutex(robust);
    must("condattr", pthread_condattr_init(&c));
    must("pshared", pthread_condattr_setpshared(&c, PTHREAD_PROCESS_SHARED));
    must("cond_init", pthread_cond_init(&s->cond, &c));
    must("rwlockattr", pthread_rwlockattr_init(&r));
    must("pshared", pthread_rwlockattr_setpshared(&r, PTHREAD_PROCESS_SHARED));
    must("rwlock_init", pthread_rwlock_init(&s->rwlock, &r));
    must("spin_init", pthread_spin_init(&s->spin, PTHREAD_PROCESS_SHARED));
    must("barrierattr", pthread_barrierattr_init(&b));
    must("pshared", pthread_barrierattr_setpshared(&b, PTHREAD_PROCESS_SHARED));
    must("barrier_init", pthread_barrier_init(&s->barrier, &b, 2));
    must("sem_init", sem_init(&s->sem[0], 1, 1) ? errno : 0);
    must("sem_init", sem_init(&s->sem[1], 1, 0) ? errno : 0);
}

/* ------------------------------------------------------------------ what both do */

static void run_atomic(void)
{
    for (long i = 0; i < rounds; i++)
        atomic_fetch_add(&s->counter, 1);
}

static void run_publish(void)
{
    for (uint64_t i = 1; i <= (uint64_t)rounds; i++) {
        if (side == 0) {
            while (atomic_load_explicit(&s->seen, memory_order_acquire) != i - 1)
                sched_yield();
            for (size_t k = 0; k < 64; k++)
                s->payload[k] = i * 1000 + k;
            atomic_store_explicit(&s->sequence, i, memory_order_release);
        } else {
            while (atomic_load_explicit(&s->sequence, memory_order_acquire) != i)
                sched_yield();
            for (size_t k = 0; k < 64; k++)
                if (s->payload[k] != i * 1000 + k)
                    failed("a published word is old", 0);
            atomic_store_explicit(&s->seen, i, memory_order_release);
        }
    }
}

static void run_futex(void)
{
    for (long i = 0; i < rounds; i++) {
        wait_word(&s->turn, !side);
        s->plain++;
        set_word(&s->turn, !side);
    }
}

static void run_mutex(void)
{
    struct timespec t = limit();

    for (long i = 0; i < rounds; i++) {
        must("mutex_lock", pthread_mutex_timedlock(&s->mutex, &t));
        s->plain++;
        must("mutex_unlock", pthread_mutex_unlock(&s->mutex));
    }
}

static void run_rwlock(void)
{
    struct timespec t = limit();

    for (long i = 0; i < rounds; i++) {
        must("rdlock", pthread_rwlock_timedrdlock(&s->rwlock, &t));
        must("unlock", pthread_rwlock_unlock(&s->rwlock));
        must("wrlock", pthread_rwlock_timedwrlock(&s->rwlock, &t));
        s->plain++;
        must("unlock", pthread_rwlock_unlock(&s->rwlock));
    }
}

static void run_spin(void)
{
    for (long i = 0; i < rounds; i++) {
        must("spin_lock", pthread_spin_lock(&s->spin));
        s->plain++;
        must("spin_unlock", pthread_spin_unlock(&s->spin));
    }
}

static void run_cond(void)
{
    struct timespec t = limit();

    for (long i = 0; i < rounds; i++) {
        must("mutex_lock", pthread_mutex_timedlock(&s->mutex, &t));
        while (s->plain_turn != side)
            must("cond_wait", pthread_cond_timedwait(&s->cond, &s->mutex, &t));
        s->plain++;
        s->plain_turn = !side;
        must("cond_signal", pthread_cond_signal(&s->cond));
        must("mutex_unlock", pthread_mutex_unlock(&s->mutex));
    }
}

static void run_sem(void)
{
    struct timespec t = limit();

    for (long i = 0; i < rounds; i++) {
        must("sem_wait", sem_timedwait(&s->sem[side], &t) ? errno : 0);
        s->plain++;
        must("sem_post", sem_post(&s->sem[!side]) ? errno : 0);
    }
}

static void run_barrier(void)
{
    for (long i = 0; i < rounds; i++) {
        int r;

        if (side == (unsigned)(i & 1))
            s->plain++;
        r = pthread_barrier_wait(&s->barrier);
        must("barrier_wait", r == PTHREAD_BARRIER_SERIAL_THREAD ? 0 : r);
    }
}

/* ------------------------------------------------------------------ robust mutexes */

static void run_robust(void)
{
    struct timespec t = limit();
    int r;

    if (side == 0) {
        must("mutex_lock", pthread_mutex_lock(&s->mutex));
        set_word(&s->turn, 1);
        printf("ok died holding it\n");
        fflush(stdout);
        _exit(0);
    }
    wait_word(&s->turn, 0);
    r = pthread_mutex_timedlock(&s->mutex, &t);
    if (r != EOWNERDEAD)
        failed("not EOWNERDEAD", r);
    must("consistent", pthread_mutex_consistent(&s->mutex));
    must("mutex_unlock", pthread_mutex_unlock(&s->mutex));
    printf("ok EOWNERDEAD\n");
    exit(0);
}

static void run_tid(void)
{
    int tid = (int)syscall(SYS_gettid), r;

    if (side == 0) {
        must("mutex_lock", pthread_mutex_lock(&s->mutex));
        set_word(&s->turn, 1);
        wait_word(&s->turn, 1);
        must("mutex_unlock", pthread_mutex_unlock(&s->mutex));
        printf("ok tid %d\n", tid);
        exit(0);
    }
    wait_word(&s->turn, 0);
    r = pthread_mutex_trylock(&s->mutex); /* EBUSY: somebody has it, as is true */
    if (r == EBUSY) {                     /* an error-checking mutex knows its owner when locked for good */
        struct timespec past = {0};

        r = pthread_mutex_timedlock(&s->mutex, &past);
    }
    printf("ok tid %d owner %d says %s\n", tid, s->mutex.__data.__lock & 0x3fffffff, strerrorname_np(r));
    set_word(&s->turn, 2);
    exit(0);
}

/* Side 0 holds a lock word as PTHREAD_PRIO_INHERIT does; side 1 prints what the kernel answers when it wants it. */
static void run_pi(void)
{
    struct timespec until;
    long r;

    if (side == 0) {
        atomic_store(&s->turn, (uint32_t)syscall(SYS_gettid));
        set_word(&s->finished, 1);
        wait_word(&s->finished, 1);
        printf("ok held\n");
        exit(0);
    }
    wait_word(&s->finished, 0);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    r = syscall(SYS_futex, &s->turn, FUTEX_LOCK_PI, 0, &until, NULL, 0);
    printf("ok %s\n", r == 0 ? "got it" : strerrorname_np(errno));
    set_word(&s->finished, 2);
    exit(0);
}

static const struct {
    const char *name;
    void (*run)(void);
    bool plain, robust; /* counts in s->plain; uses a robust mutex */
} tests[] = {
    {"atomic", run_atomic, false, false},   {"publish", run_publish, false, false},
    {"futex", run_futex, true, false},      {"mutex", run_mutex, true, false},
    {"rwlock", run_rwlock, true, false},    {"spin", run_spin, true, false},
    {"cond", run_cond, true, false},        {"sem", run_sem, true, false},
    {"barrier", run_barrier, false, false}, {"robust", run_robust, false, true},
    {"tid", run_tid, false, true},          {"pi", run_pi, false, false},
};

static void finish(bool plain, bool atomic)
{
    uint64_t want = 2 * (uint64_t)rounds;

    atomic_fetch_add(&s->finished, 1);
    syscall(SYS_futex, &s->finished, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
    wait_word(&s->finished, 1);
    if (plain && s->plain != want)
        failed("updates are lost", 0);
    if (atomic && atomic_load(&s->counter) != want)
        failed("atomic updates are lost", 0);
    printf("ok %ld\n", rounds);
}

int main(int argc, char **argv)
{
    size_t n = sizeof(tests) / sizeof(tests[0]), i = 0;

    while (argc == 5 && i < n && strcmp(tests[i].name, argv[1]) != 0)
        i++;
    if (argc != 5 || i == n) {
        fprintf(stderr, "usage: locks WHAT ID SIDE ROUNDS\n");
        return 2;
    }
    side = argv[3][0] == '1';
    rounds = strtol(argv[4], NULL, 0);
    s = xp_shmat((int)strtol(argv[2], NULL, 0), NULL, 0);
    if (s == (void *)-1)
        failed("xp_shmat", errno);
    if (side == 0) {
        prepare(tests[i].robust);
        set_word(&s->prepared, 1);
    }
    wait_word(&s->prepared, 0);
    tests[i].run();
    finish(tests[i].plain, tests[i].run == run_atomic);
    return 0;
}
