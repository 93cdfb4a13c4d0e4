/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libclshm in processes that fork and in threads. */
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

#include "tests/unit/lib_harness.h"

/* ------------------------------------------------------------------ fork */

TEST(forked)
{
    char *p = xp_shmat(SEG(1), NULL, 0);
    CHECK(xp_shmat(SEG(1), NULL, 0) != (void *)-1);
    pid_t pid = fork();
    if (pid == 0) {
        struct clshmd_entry e = counted(1, 1);
        CHECK(e.count == 2 && e.attaches == 2 && e.by_parent == 1 && e.atime > 0);
        CHECK(fake->count[CLSHMD_HELLO] == 1); /* silent so far */
        CHECK(xp_shmdt(p) == 0 && counted(1, 1).count == 1 && counted(0, 1).count == 2);
        CHECK(counted(1, 1).by_parent == 0 && fake->count[CLSHMD_HELLO] == 1);
        CHECK(xp_shmat(SEG(1), NULL, 0) != (void *)-1 && fake->count[CLSHMD_OPEN] == 1); /* its parent's descriptor */
        CHECK(part_getcount() == 3 && fake->last_hello_token == 1001);
        if ((pid = fork()) == 0)
            _exit(counted(2, 1).count == 2 && xp_shmdt(p) == 0 && counted(1, 1).count == 2 ? 42 : 1);
        CHECK(wait_child(pid) == 42);
        _exit(42);
    }
    CHECK(wait_child(pid) == 42 && fake->count[CLSHMD_FORK] == 2);
    CHECK(counted(0, 1).count == 2 && xp_shmdt(p) == 0 && counted(0, 1).count == 1);
    CHECK(part_getcount() == 3 && fake->count[CLSHMD_HELLO] == 2); /* its connection is its own still */
}

/* What the parent has attached no longer is not in the child's page: it asks anew. */
TEST(fork_with_idle_entry)
{
    char *p = xp_shmat(SEG(1), NULL, 0);
    CHECK(xp_shmat(SEG(2), NULL, 0) != (void *)-1 && xp_shmdt(p) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(xp_shmat(SEG(1), NULL, 0) != (void *)-1 && fake->count[CLSHMD_OPEN] == 3);
        CHECK(counted(1, 1).count == 1 && counted(0, 1).count == 0 && counted(0, 1).attaches == 1);
        _exit(42);
    }
    CHECK(wait_child(pid) == 42);
    CHECK(xp_shmat(SEG(1), NULL, 0) != (void *)-1 && fake->count[CLSHMD_OPEN] == 3);
}

TEST(fork_without_attachments)
{
    CHECK(part_getid() == FAKE_PART);
    pid_t pid = fork();
    if (pid == 0)
        _exit(fake->count[CLSHMD_FORK] == 0 && part_getcount() == 3 && fake->last_hello_token == 0 ? 42 : 1);
    CHECK(wait_child(pid) == 42);
}

/* The parent could not get a page: the child gets its own at its next call. */
TEST(fork_without_page)
{
    char *p = xp_shmat(SEG(1), NULL, 0), *q = xp_shmat(SEG(1), NULL, SHM_RDONLY);
    fake->fail_op = CLSHMD_FORK;
    fake->fail_error = ENOMEM;
    pid_t pid = fork();
    if (pid == 0) {
        CHECK(fake->n_pages == 1 && counted(0, 1).count == 2);
        CHECK(part_getcount() == 3 && fake->n_pages == 2 && fake->last_hello_token == 0);
        CHECK(counted(1, 1).count == 2 && counted(0, 1).count == 2 && fake->count[CLSHMD_OPEN] == 3);
        CHECK(xp_shmdt(p) == 0 && counted(1, 1).count == 1 && counted(0, 1).count == 2);
        _exit(42);
    }
    CHECK(wait_child(pid) == 42);
    CHECK(xp_shmdt(q) == 0 && counted(0, 1).count == 1);
}

TEST(daemon_away_at_fork)
{
    char *p = xp_shmat(SEG(1), NULL, 0);
    fake_kill(fake);
    pid_t pid = fork();
    if (pid == 0) {
        FAILS(xp_shmat(SEG(1), NULL, 0), EIO);
        CHECK(counted(0, 1).count == 1); /* the parent's page is its own */
        CHECK(xp_shmdt(p) == 0 && counted(0, 1).count == 1);
        fake->pid = 0;
        _exit(42);
    }
    CHECK(wait_child(pid) == 42);
    CHECK(xp_shmdt(p) == 0 && counted(0, 1).count == 0);
}

TEST(raw_clone)
{
    char *p = xp_shmat(SEG(1), NULL, 0), *q = xp_shmat(SEG(2), NULL, 0);
    CHECK(xp_shmdt(q) == 0);
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) {
        CHECK(xp_shmdt(p) == 0); /* first of all it becomes a client */
        CHECK(fake->n_pages == 2 && counted(1, 1).count == 0 && counted(1, 1).attaches == 1);
        CHECK(counted(0, 1).count == 1 && fake->count[CLSHMD_OPEN] == 3);
        CHECK((q = xp_shmat(SEG(2), NULL, 0)) != (void *)-1 && counted(1, 2).count == 1 && counted(0, 2).count == 0);
        if ((pid = fork()) == 0) /* handlers run again */
            _exit(counted(2, 2).count == 1 && xp_shmdt(q) == 0 && counted(1, 2).count == 1 ? 42 : 1);
        CHECK(wait_child(pid) == 42);
        _exit(42);
    }
    CHECK(wait_child(pid) == 42 && counted(0, 1).count == 1);
    CHECK(part_getcount() == 3 && xp_shmdt(p) == 0 && counted(0, 1).count == 0);
}

TEST(vforked)
{
    if (TSAN)
        return;
    char *p = xp_shmat(SEG(1), NULL, 0);
    pid_t pid = vfork();
    if (pid == 0)
        _exit(42);
    CHECK(wait_child(pid) == 42 && fake->count[CLSHMD_FORK] == 0 && fake->n_pages == 1);
    CHECK(xp_shmdt(p) == 0 && counted(0, 1).count == 0 && fake->count[CLSHMD_HELLO] == 1);
}

/* ------------------------------------------------------------------ threads */

static void *attach_often(void *arg)
{
    int n = (int)(intptr_t)arg;
    for (int i = 0; i < 100; i++) {
        char *p = xp_shmat(SEG(n % 3), NULL, i & 1 ? SHM_RDONLY : 0);
        struct shmid_ds ds;
        if (p == (void *)-1 || xp_shmctl(SEG(1), IPC_STAT, &ds) != 0 || xp_shmdt(p) != 0)
            return (void *)1;
    }
    return NULL;
}

TEST(threads)
{
    pthread_t thread[4];
    void *result;
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&thread[i], NULL, attach_often, (void *)(intptr_t)i) == 0);
    for (int i = 0; i < 4; i++)
        CHECK(pthread_join(thread[i], &result) == 0 && result == NULL);
    for (int i = 0; i < 3; i++)
        CHECK(counted(0, i).count == 0 && counted(0, i).attaches >= 100);
    CHECK(fake->count[CLSHMD_HELLO] == 1);
}

static void *get_forever(void *arg)
{
    for (;;) {
        part_getcount();
        pthread_testcancel();
    }
    return arg;
}

/* A call is no cancellation point: the thread ends between two calls, and leaves no lock held. */
TEST(cancelled)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, get_forever, NULL) == 0);
    for (int i = 0; i < 10000 && fake->count[CLSHMD_PARTS] < 20; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    CHECK(fake->count[CLSHMD_PARTS] >= 20 && pthread_cancel(thread) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(part_getcount() == 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forked),
        cmocka_unit_test(test_fork_with_idle_entry),
        cmocka_unit_test(test_fork_without_attachments),
        cmocka_unit_test(test_fork_without_page),
        cmocka_unit_test(test_daemon_away_at_fork),
        cmocka_unit_test(test_raw_clone),
        cmocka_unit_test(test_vforked),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
