/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * victim: uses a segment of another partition with all its might while that partition dies.
 *
 *     victim ID VALUE
 *
 * Threads read every page of it, which all hold VALUE; one forks children that read and exit; one detaches and attaches
 * a second mapping. Prints "running", then goes on until a page is revoked (SIGBUS). From then on no page may be
 * readable any more in a later look, neither here nor in a child, and none ever showed anything but VALUE. Prints
 * "ok READS forks N", or "failed: ..." and status 1.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xp_shm.h>

#define READERS 2
#define PAGE    4096u

static volatile uint64_t *memory;
static size_t pages;
static uint64_t value;
static int id;
static bool revoked; /* by __atomic */
static uint64_t reads, forks;
static __thread sigjmp_buf env;
static __thread volatile sig_atomic_t armed;

static _Noreturn void failed(const char *what)
{
    printf("failed: %s: %s\n", what, strerrorname_np(errno));
    fflush(stdout);
    _exit(1);
}

static void on_sigbus(int sig)
{
    if (armed)
        siglongjmp(env, 1);
    signal(sig, SIG_DFL);
    raise(sig);
}

/* One word of page @i. @return false: SIGBUS. */
static bool look(volatile uint64_t *base, size_t i, uint64_t *out)
{
    bool ok = false;

    if (sigsetjmp(env, 1) == 0) {
        armed = 1;
        *out = base[i * PAGE / 8];
        ok = true;
    }
    armed = 0;
    return ok;
}

static void *reader(void *arg)
{
    (void)arg;
    for (size_t i = 0;; i = (i + 1) % pages) {
        uint64_t got = 0;

        if (!look(memory, i, &got)) {
            __atomic_store_n(&revoked, true, __ATOMIC_SEQ_CST);
            return NULL;
        }
        if (got != value)
            failed("a page shows something else");
        __atomic_add_fetch(&reads, 1, __ATOMIC_RELAXED);
    }
}

/* Children that look at every page: 0 all there, 1 a SIGBUS, 2 something else. */
static void *forker(void *arg)
{
    (void)arg;
    while (!__atomic_load_n(&revoked, __ATOMIC_SEQ_CST)) {
        pid_t pid = fork();
        int status;

        if (pid < 0)
            failed("fork");
        if (pid == 0) {
            for (size_t i = 0; i < pages; i++) {
                uint64_t got = 0;

                if (!look(memory, i, &got))
                    _exit(1);
                if (got != value)
                    _exit(2);
            }
            _exit(0);
        }
        if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) > 1)
            failed("a child saw something else");
        forks++;
    }
    return NULL;
}

static void *attacher(void *arg)
{
    (void)arg;
    while (!__atomic_load_n(&revoked, __ATOMIC_SEQ_CST)) {
        uint64_t got = 0;
        void *p = xp_shmat(id, NULL, SHM_RDONLY);

        if (p == (void *)-1) {
            if (errno != EHOSTDOWN && errno != EINVAL && errno != EIDRM)
                failed("xp_shmat");
            continue;
        }
        if (look(p, 0, &got) && got != value)
            failed("a new mapping shows something else");
        if (xp_shmdt(p) != 0)
            failed("xp_shmdt");
    }
    return NULL;
}

/* Revocation takes no page after page: once one is gone, soon all are, and they stay away. */
static void nothing_left(void)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    size_t left = pages;

    for (int tries = 0; left > 0 && tries < 5000; tries++) {
        left = 0;
        for (size_t i = 0; i < pages; i++) {
            uint64_t got;

            left += look(memory, i, &got);
        }
        if (left > 0)
            nanosleep(&pause, NULL);
    }
    errno = 0;
    if (left > 0)
        failed("pages stay readable");
}

int main(int argc, char **argv)
{
    pthread_t thread[READERS + 2];
    struct shmid_ds s;

    if (argc != 3) {
        fprintf(stderr, "usage: victim ID VALUE\n");
        return 2;
    }
    id = (int)strtol(argv[1], NULL, 0);
    value = strtoull(argv[2], NULL, 0);
    signal(SIGBUS, on_sigbus);
    memory = xp_shmat(id, NULL, 0);
    if (memory == (void *)-1 || xp_shmctl(id, IPC_STAT, &s) != 0)
        failed("xp_shmat");
    pages = s.shm_segsz / PAGE;
    for (int i = 0; i < READERS + 2; i++)
        if (pthread_create(&thread[i], NULL, i < READERS ? reader : i == READERS ? forker : attacher, NULL) != 0)
            failed("pthread_create");
    printf("running\n");
    fflush(stdout);
    for (int i = 0; i < READERS + 2; i++)
        pthread_join(thread[i], NULL);
    nothing_left();
    printf("ok %llu forks %llu\n", (unsigned long long)reads, (unsigned long long)forks);
    return 0;
}
