/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * meet.h: two processes keep step through a small file that both map. The file is not clshm's, so that what is tested
 * does not also keep the time. Waiting yields the processor, spins never long, and ends with the program after a limit.
 */
#ifndef CLSHM_TESTS_MEET_H
#define CLSHM_TESTS_MEET_H

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MEET_LIMIT_S 60
#define MEET_SPIN    200

struct meet {
    uint32_t arrived[2]; /* rounds, by side */
    int64_t value[2];    /* what each side wants the other to know of this round */
};

static inline void die(const char *what)
{
    printf("failed: %s: %s\n", what, strerrorname_np(errno));
    fflush(stdout);
    _exit(1);
}

static inline struct meet *meet_open(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    struct meet *m;

    if (fd < 0 || ftruncate(fd, sizeof(*m)) != 0)
        die(path);
    m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m == MAP_FAILED)
        die("mmap");
    close(fd);
    return m;
}

/* Wait until the other side has come as far. */
static inline void meet(struct meet *m, unsigned side)
{
    uint32_t round = __atomic_add_fetch(&m->arrived[side], 1, __ATOMIC_SEQ_CST);
    uint32_t *other = &m->arrived[!side];
    struct timespec limit = {.tv_sec = MEET_LIMIT_S};
    unsigned spin = 0;

    syscall(SYS_futex, &m->arrived[side], FUTEX_WAKE, 1, NULL, NULL, 0);
    for (;;) {
        uint32_t seen = __atomic_load_n(other, __ATOMIC_SEQ_CST);

        if ((int32_t)(seen - round) >= 0)
            return;
        if (spin++ < MEET_SPIN)
            continue;
        if (syscall(SYS_futex, other, FUTEX_WAIT, seen, &limit, NULL, 0) != 0 && errno == ETIMEDOUT)
            die("the other side did not come");
    }
}

/* Tell @mine, learn the other's, in one round. */
static inline int64_t meet_swap(struct meet *m, unsigned side, int64_t mine)
{
    int64_t theirs;

    __atomic_store_n(&m->value[side], mine, __ATOMIC_SEQ_CST);
    meet(m, side);
    theirs = __atomic_load_n(&m->value[!side], __ATOMIC_SEQ_CST);
    meet(m, side);
    return theirs;
}

#endif
