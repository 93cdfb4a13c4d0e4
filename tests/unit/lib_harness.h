/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libclshm against a daemon that does as it is told (fake_daemon.h). The library has one state for a process, so each
 * test runs in a process of its own; what it finds wrong it prints, and exits 1.
 */
#ifndef TESTS_UNIT_LIB_HARNESS_H
#define TESTS_UNIT_LIB_HARNESS_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "include/xp_shm.h"
#include "tests/unit/fake_daemon.h"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define TSAN 1 /* maps at address 0 what is asked for out of range, and makes vfork a fork */
#else
#define TSAN 0
#endif

#define SEG(n) fabric_shmid(2, FAKE_SLOT_BITS, 7, FAKE_PART, (uint32_t)(n))

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            int error_ = errno;                                                                                        \
            fprintf(stderr, "%s:%d: %s; errno %s\n", __FILE__, __LINE__, #condition, strerrorname_np(error_));         \
            fake_stop(fake);                                                                                           \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* The call fails with this errno. */
#define FAILS(call, error) CHECK((errno = 0, (intptr_t)(call) == -1) && errno == (error))

static struct fake *fake;

/* Run @body in a process of its own, with a fake daemon that runs as @uid. */
static void run(void (*body)(void), uid_t uid)
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        fake = fake_start(uid);
        body();
        fake_stop(fake);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define TEST(name)                                                                                                     \
    static void name(void);                                                                                            \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        run(name, geteuid());                                                                                          \
    }                                                                                                                  \
    static void name(void)

/* What page @n counts of SEG(@seg), in whichever entry. */
static inline struct clshmd_entry counted(int n, int seg)
{
    const struct clshmd_entry *e = fake_entries(fake, n);
    for (unsigned i = 0; i < CLSHMD_ENTRIES_MAX; i++) {
        if (e[i].shmid == SEG(seg) && (e[i].count || e[i].attaches))
            return e[i];
    }
    return (struct clshmd_entry){0};
}

static inline int wait_child(pid_t pid)
{
    int status;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

#endif
