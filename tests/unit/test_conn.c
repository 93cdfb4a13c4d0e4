/* SPDX-License-Identifier: GPL-2.0-or-later */
/* src/lib/conn.c, as the tools use it. What it makes of garbage is tested in test_lib.c. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/lib/conn.h"
#include "tests/unit/fake_daemon.h"

static struct fake *fake;

static int setup(void **state)
{
    (void)state;
    fake = fake_start(geteuid());
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fake = fake_stop(fake);
    return 0;
}

static void greet(struct conn *c)
{
    struct clshmd_hello_reply hello;
    assert_int_equal(conn_open(c, fake->socket, 0), 0);
    assert_int_equal(conn_hello(c, CLSHMD_HELLO_TOOL, 0, &hello, NULL, NULL, CONN_TIMEOUT_MS), 0);
    assert_int_equal(hello.part, FAKE_PART);
    assert_int_equal(hello.token, 0);
}

static void test_tool(void **state)
{
    (void)state;
    struct conn c = CONN_INIT;
    struct clshmd_parts_reply parts;
    greet(&c);
    assert_int_equal(conn_call(&c, CLSHMD_PARTS, NULL, 0, &parts, sizeof(parts), NULL, NULL, CONN_TIMEOUT_MS), 0);
    assert_int_equal(parts.active, 0xb);
    fake->fail_op = CLSHMD_PARTS;
    fake->fail_error = EPERM;
    assert_int_equal(conn_call(&c, CLSHMD_PARTS, NULL, 0, &parts, sizeof(parts), NULL, NULL, CONN_TIMEOUT_MS), EPERM);
    assert_true(conn_ours(&c)); /* an answer like any other */
    conn_close(&c);
    conn_close(&c);
    assert_int_equal(conn_call(&c, CLSHMD_PARTS, NULL, 0, &parts, sizeof(parts), NULL, NULL, CONN_TIMEOUT_MS), -EIO);
}

static void test_not_there(void **state)
{
    (void)state;
    struct conn c = CONN_INIT;
    char path[200];
    assert_int_equal(conn_open(&c, "/nonexistent/sock", 0), -EIO);
    assert_non_null(strstr(c.why, "/nonexistent/sock"));
    memset(path, 'x', sizeof(path));
    path[sizeof(path) - 1] = '\0';
    assert_int_equal(conn_open(&c, path, 0), -EIO);
    assert_non_null(strstr(c.why, "too long"));
    fake_kill(fake);
    uint64_t begin = conn_now_ms();
    assert_int_equal(conn_open(&c, fake->socket, 200), -EIO);
    assert_in_range(conn_now_ms() - begin, 200, 1000);
    assert_int_equal(c.fd, -1);
}

static void test_versions(void **state)
{
    (void)state;
    struct conn c = CONN_INIT;
    struct clshmd_hello_reply hello;
    fake->trick = FAKE_OTHER_MAJOR;
    assert_int_equal(conn_open(&c, fake->socket, 0), 0);
    assert_int_equal(conn_hello(&c, CLSHMD_HELLO_TOOL, 0, &hello, NULL, NULL, CONN_TIMEOUT_MS), -EPROTO);
    assert_non_null(strstr(c.why, "cannot talk to"));
    assert_int_equal(c.fd, -1);
}

static void test_too_late(void **state)
{
    (void)state;
    struct conn c = CONN_INIT;
    struct clshmd_parts_reply parts;
    greet(&c);
    fake->trick = FAKE_SILENT;
    uint64_t begin = conn_now_ms();
    assert_int_equal(conn_call(&c, CLSHMD_PARTS, NULL, 0, &parts, sizeof(parts), NULL, NULL, 100), -EIO);
    assert_in_range(conn_now_ms() - begin, 100, 1000);
    assert_int_equal(c.fd, -1); /* so that its answer is not taken for the next one's */
}

static int open_fds(void)
{
    int n = 0;
    for (int fd = 0; fd < 500; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Descriptors: as many as were asked for, or none stays open. */
static void test_descriptors(void **state)
{
    (void)state;
    struct conn c = CONN_INIT;
    struct clshmd_hello_reply hello;
    int fds[3], before = open_fds();
    unsigned n = 3;
    assert_int_equal(conn_open(&c, fake->socket, 0), 0);
    assert_int_equal(conn_hello(&c, 0, 0, &hello, fds, &n, CONN_TIMEOUT_MS), 0);
    assert_int_equal(n, 3);
    for (int i = 0; i < 3; i++) {
        assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
        close(fds[i]);
    }
    n = 2; /* one less than come */
    assert_int_equal(conn_hello(&c, 0, 0, &hello, fds, &n, CONN_TIMEOUT_MS), -EIO);
    assert_int_equal(n, 0);
    assert_int_equal(open_fds(), before); /* nor does the connection */
}

/* A program that closes our descriptor, and has its own under that number. */
static void test_not_ours(void **state)
{
    (void)state;
    struct conn c = CONN_INIT;
    int pair[2];
    greet(&c);
    assert_true(conn_ours(&c));
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    int number = c.fd;
    assert_int_equal(dup2(pair[0], number), number);
    assert_false(conn_ours(&c));
    struct clshmd_parts_reply parts;
    assert_int_equal(conn_call(&c, CLSHMD_PARTS, NULL, 0, &parts, sizeof(parts), NULL, NULL, 1000), -EIO);
    assert_true(fcntl(number, F_GETFD) >= 0);
    assert_int_equal(recv(pair[1], &parts, 1, MSG_DONTWAIT), -1);
    assert_int_equal(errno, EAGAIN);
    close(number);
    close(pair[0]);
    close(pair[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tool, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_versions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_late, setup, teardown),
        cmocka_unit_test_setup_teardown(test_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_ours, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
