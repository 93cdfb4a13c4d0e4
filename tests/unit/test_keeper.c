/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The keeper, with daemons that are functions of this file. Each scenario runs in a process of its own; what its daemons
 * saw is written to a page that all of them share.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "src/daemon/daemon.h"

#define LIMIT_MS 10000

struct scene {
    int runs;
    int bad;
    uint64_t began[16];
    size_t n_fds;
    int pipe[2];
};

static struct scene *scene;

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

static int setup(void **state)
{
    (void)state;
    scene = mmap(NULL, sizeof(*scene), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (scene == MAP_FAILED)
        return -1;
    memset(scene, 0, sizeof(*scene));
    return pipe2(scene->pipe, O_CLOEXEC);
}

static int teardown(void **state)
{
    (void)state;
    close(scene->pipe[0]);
    close(scene->pipe[1]);
    return munmap(scene, sizeof(*scene));
}

static pid_t begin(int (*daemon)(int, void *))
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        close(scene->pipe[0]);
        _exit(keeper_run(daemon, NULL));
    }
    return pid;
}

/* @return the keeper's exit status; -1: it was killed. */
static int end(pid_t pid)
{
    int status;

    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int run(int (*daemon)(int, void *))
{
    return end(begin(daemon));
}

/* In a daemon. */
static void check(bool right)
{
    if (!right)
        scene->bad++;
}

static void say(int sock, uint32_t op)
{
    check(keeper_send(sock, op, 0, 0, -1) == 0);
}

static int named_memfd(uint64_t number)
{
    int fd = memfd_create("kept", MFD_CLOEXEC);

    check(fd >= 0 && pwrite(fd, &number, sizeof(number), 0) == (ssize_t)sizeof(number));
    return fd;
}

static uint64_t name_of(int fd)
{
    uint64_t number = 0;

    check(pread(fd, &number, sizeof(number), 0) == (ssize_t)sizeof(number));
    return number;
}

static void keep(int sock, uint32_t kind, uint64_t id, uint64_t number)
{
    int fd = named_memfd(number);

    check(keeper_send(sock, KEEPER_KEEP, kind, id, fd) == 0);
    close(fd);
}

static int start(int sock, struct kept_fd **kept, size_t *n)
{
    uint32_t restarts = 99;
    int run_number = scene->runs++;

    check(kept_receive(sock, kept, n, &restarts) == 0);
    check(restarts == (uint32_t)run_number);
    if (run_number < 16)
        scene->began[run_number] = now_ms();
    return run_number;
}

static void die(void)
{
    kill(getpid(), SIGKILL);
}

/* ------------------------------------------------------------------ */

static int daemon_fds_come_back(int sock, void *ctx)
{
    CLEANUP_FREE struct kept_fd *kept = NULL;
    size_t n;

    (void)ctx;
    if (start(sock, &kept, &n) == 0) {
        check(n == 0);
        keep(sock, KEEP_MEMORY, 77, 1);
        keep(sock, KEEP_MEMORY, 78, 2);
        keep(sock, KEEP_IMPORT, 77, 3);
        keep(sock, KEEP_MEMORY, 77, 4); /* replaces */
        check(keeper_send(sock, KEEPER_FORGET, KEEP_MEMORY, 78, -1) == 0);
        check(keeper_send(sock, KEEPER_FORGET, KEEP_MEMORY, 1234, -1) == 0); /* never was */
        say(sock, KEEPER_READY);
        die();
    }
    scene->n_fds = n;
    for (size_t i = 0; i < n; i++) {
        check(kept[i].id == 77);
        check(name_of(kept[i].fd) == (kept[i].kind == KEEP_MEMORY ? 4 : 3));
    }
    say(sock, KEEPER_QUIT);
    return 0;
}

static void test_fds_come_back(void **state)
{
    (void)state;
    assert_int_equal(run(daemon_fds_come_back), 0);
    assert_int_equal(scene->runs, 2);
    assert_int_equal(scene->n_fds, 2);
    assert_int_equal(scene->bad, 0);
}

#define MANY 2000

static int daemon_many(int sock, void *ctx)
{
    struct rlimit lim = {0};
    CLEANUP_FREE struct kept_fd *kept = NULL;
    size_t n;
    int number = start(sock, &kept, &n);

    (void)ctx;
    getrlimit(RLIMIT_NOFILE, &lim);
    check(lim.rlim_cur == lim.rlim_max);
    for (uint64_t i = 0; number == 0 && i < MANY; i++)
        keep(sock, KEEP_CLIENT, i << 32, i);
    if (number == 0)
        die(); /* right after sending, without READY: everything was heard */
    scene->n_fds = n;
    for (size_t i = 0; i < n; i++)
        check(name_of(kept[i].fd) == kept[i].id >> 32);
    say(sock, KEEPER_QUIT);
    return 0;
}

static void test_many(void **state)
{
    struct rlimit lim;

    (void)state;
    getrlimit(RLIMIT_NOFILE, &lim);
    if (lim.rlim_max < 2 * MANY)
        skip();
    assert_int_equal(run(daemon_many), 0);
    assert_int_equal(scene->n_fds, MANY);
    assert_int_equal(scene->bad, 0);
}

static int daemon_fails(int sock, void *ctx)
{
    CLEANUP_FREE struct kept_fd *kept = NULL;
    size_t n;

    (void)ctx;
    start(sock, &kept, &n);
    return KEEPER_EXIT_USAGE;
}

static void test_first_start_fails(void **state)
{
    (void)state;
    assert_int_equal(run(daemon_fails), KEEPER_EXIT_USAGE);
    assert_int_equal(scene->runs, 1);
}

static int daemon_backoff(int sock, void *ctx)
{
    CLEANUP_FREE struct kept_fd *kept = NULL;
    size_t n;
    int number = start(sock, &kept, &n);

    (void)ctx;
    if (number == 0)
        say(sock, KEEPER_READY);
    if (number < 5)
        return KEEPER_EXIT_FAILED; /* is no reason to give up any more */
    say(sock, KEEPER_QUIT);
    return 0;
}

static void test_backoff(void **state)
{
    uint64_t waited[5];

    (void)state;
    assert_int_equal(run(daemon_backoff), 0);
    assert_int_equal(scene->runs, 6);
    for (int i = 0; i < 5; i++)
        waited[i] = scene->began[i + 1] - scene->began[i];
    assert_in_range(waited[2], 50, 2000);
    assert_in_range(waited[3], 100, 2000);
    assert_in_range(waited[4], 200, 4000);
}

static int daemon_anew(int sock, void *ctx)
{
    CLEANUP_FREE struct kept_fd *kept = NULL;
    size_t n;

    (void)ctx;
    if (start(sock, &kept, &n) == 0) {
        keep(sock, KEEP_LIFE, 0, 1);
        keep(sock, KEEP_LISTEN, 0, 2);
        keep(sock, KEEP_CLIENT, 5, 3);
        say(sock, KEEPER_READY);
        return KEEPER_EXIT_ANEW;
    }
    scene->n_fds = n;
    check(n == 2 && kept[0].kind == KEEP_LIFE && kept[1].kind == KEEP_LISTEN);
    say(sock, KEEPER_QUIT);
    return 0;
}

static void test_anew(void **state)
{
    (void)state;
    assert_int_equal(run(daemon_anew), 0);
    assert_int_equal(scene->n_fds, 2);
    assert_int_equal(scene->bad, 0);
}

static int daemon_waits(int sock, void *ctx)
{
    CLEANUP_FREE struct kept_fd *kept = NULL;
    sigset_t set;
    size_t n;
    int sig = 0;

    (void)ctx;
    start(sock, &kept, &n);
    say(sock, KEEPER_READY);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    check(write(scene->pipe[1], "r", 1) == 1);
    sigwait(&set, &sig);
    check(sig == SIGTERM);
    say(sock, KEEPER_QUIT);
    return 0;
}

/* Wait until the daemon has written to the pipe; or, with @closed, until nobody has its writing end any more. */
static void wait_pipe(bool closed)
{
    struct pollfd p = {.fd = scene->pipe[0], .events = POLLIN};
    char c;

    assert_int_equal(poll(&p, 1, LIMIT_MS), 1);
    assert_int_equal(read(scene->pipe[0], &c, 1), closed ? 0 : 1);
}

static void test_sigterm(void **state)
{
    pid_t keeper = begin(daemon_waits);

    (void)state;
    wait_pipe(false);
    kill(keeper, SIGTERM);
    assert_int_equal(end(keeper), 0);
    assert_int_equal(scene->runs, 1);
    assert_int_equal(scene->bad, 0);
}

static void test_keeper_dies(void **state)
{
    pid_t keeper = begin(daemon_waits);

    (void)state;
    wait_pipe(false);
    scene->pipe[1] = close_fd(scene->pipe[1]);
    kill(keeper, SIGKILL);
    assert_int_equal(end(keeper), -1);
    wait_pipe(true);
}

static int daemon_activated(int sock, void *ctx)
{
    CLEANUP_FREE struct kept_fd *kept = NULL;
    size_t n;

    (void)ctx;
    start(sock, &kept, &n);
    scene->n_fds = n;
    check(n == 1 && kept[0].kind == KEEP_LISTEN && kept[0].id == KEEPER_LISTEN_SYSTEMD);
    check(getenv("LISTEN_FDS") == NULL);
    say(sock, KEEPER_QUIT);
    return 0;
}

static void test_socket_activation(void **state)
{
    pid_t keeper = fork();

    (void)state;
    assert_true(keeper >= 0);
    if (keeper == 0) {
        struct sockaddr_un {
            sa_family_t family;
            char path[32];
        } addr = {.family = AF_UNIX}; /* an address that the kernel chooses */
        int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
        char pid[32];

        if (bind(fd, (struct sockaddr *)&addr, sizeof(sa_family_t)) < 0 || listen(fd, 1) < 0 || dup2(fd, 3) < 0 ||
            dup2(STDIN_FILENO, 4) < 0) /* 4: not a socket; refused */
            _exit(90);
        snprintf(pid, sizeof(pid), "%d", (int)getpid());
        setenv("LISTEN_PID", pid, 1);
        setenv("LISTEN_FDS", "2", 1);
        _exit(keeper_run(daemon_activated, NULL));
    }
    assert_int_equal(end(keeper), 0);
    assert_int_equal(scene->n_fds, 1);
    assert_int_equal(scene->bad, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_fds_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_first_start_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backoff, setup, teardown),
        cmocka_unit_test_setup_teardown(test_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sigterm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keeper_dies, setup, teardown),
        cmocka_unit_test_setup_teardown(test_socket_activation, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
