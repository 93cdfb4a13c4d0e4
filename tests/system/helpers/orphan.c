/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * orphan: the classic hand-over. A process creates a segment, marks it IPC_AUTORMID, forks and is gone before its child
 * has run; the child finds its data, and nobody else's, and is the last to detach.
 *
 *     orphan ROUNDS [KEYPATH]     the segment's key comes from xp_ftok(KEYPATH), IPC_PRIVATE without
 *
 * Each round has three processes: this one, the parent, the child. The child waits until its parent's end of a pipe is
 * closed, which is when the kernel has taken the parent apart. Prints "ok ROUNDS", or "failed: ..." and status 1.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xp_shm.h>

#define WORDS    1024u
#define LIMIT_MS 2000

enum {
    CHILD_OK = 0,
    CHILD_DATA = 10,
    CHILD_COUNT,
    CHILD_DETACH,
    CHILD_STAYS,
    PARENT_CREATE,
    PARENT_ATTACH,
    PARENT_MARK,
    PARENT_FORK
};

static const char *const meaning[] = {"the child's data differ",  "nattch does not come to 1",
                                      "the child cannot detach",  "the segment outlives its last detach",
                                      "the parent cannot create", "the parent cannot attach",
                                      "the parent cannot mark",   "the parent cannot fork"};

static uint64_t word(uint64_t round, uint64_t i)
{
    return (round << 32 | i) * 0x9e3779b97f4a7c15u;
}

/* Until nattch is @want, or the id is invalid (@want -1): the daemon hears of a death a moment after the kernel. */
static int comes_to(int id, long want)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    struct shmid_ds s;

    for (int i = 0; i < LIMIT_MS; i++) {
        int r = xp_shmctl(id, IPC_STAT, &s);

        if (want < 0 ? r == -1 && errno == EINVAL : r == 0 && s.shm_nattch == (unsigned long)want)
            return 1;
        nanosleep(&pause, NULL);
    }
    return 0;
}

static int child(int gone, int id, uint64_t *p, uint64_t round)
{
    char byte;

    if (read(gone, &byte, 1) != 0) /* the end of file: the parent is gone */
        return CHILD_DATA;
    for (uint64_t i = 0; i < WORDS; i++)
        if (p[i] != word(round, i))
            return CHILD_DATA;
    if (!comes_to(id, 1))
        return CHILD_COUNT;
    if (xp_shmdt(p) != 0)
        return CHILD_DETACH;
    return comes_to(id, -1) ? CHILD_OK : CHILD_STAYS;
}

/* @pipe_fd: the child reads [0], the parent holds [1] open until its end. */
static int parent(const int pipe_fd[2], uint64_t round, const char *path)
{
    key_t key = path ? xp_ftok(path, 1) : IPC_PRIVATE;
    int id = key == -1 ? -1 : xp_shmget(key, WORDS * 8, IPC_CREAT | 0600);
    uint64_t *p;
    pid_t pid;

    if (id < 0)
        return PARENT_CREATE;
    p = xp_shmat(id, NULL, 0);
    if (p == (void *)-1)
        return PARENT_ATTACH;
    if (xp_shmctl(id, IPC_AUTORMID) != 0)
        return PARENT_MARK;
    for (uint64_t i = 0; i < WORDS; i++)
        p[i] = word(round, i);
    pid = fork();
    if (pid < 0)
        return PARENT_FORK;
    if (pid > 0)
        _exit(0);
    close(pipe_fd[1]);
    _exit(child(pipe_fd[0], id, p, round));
}

/* Both ends of a round's processes. @return the first status that is not 0. */
static int collect(void)
{
    int status, first = 0;

    while (wait(&status) > 0)
        if (first == 0)
            first = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return first;
}

int main(int argc, char **argv)
{
    long rounds = argc > 1 ? strtol(argv[1], NULL, 0) : 1;

    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (long r = 0; r < rounds; r++) {
        int pipe_fd[2], status;
        pid_t pid;

        if (pipe(pipe_fd) != 0)
            return 1;
        pid = fork();
        if (pid == 0)
            _exit(parent(pipe_fd, (uint64_t)r, argc > 2 ? argv[2] : NULL));
        close(pipe_fd[0]);
        close(pipe_fd[1]);
        status = collect();
        if (status != 0) {
            printf("failed: round %ld: %s (%d)\n", r,
                   status >= CHILD_DATA && status <= PARENT_FORK ? meaning[status - CHILD_DATA] : "it died", status);
            return 1;
        }
    }
    printf("ok %ld\n", rounds);
    return 0;
}
