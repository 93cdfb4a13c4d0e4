/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The daemon's edge: what the tools ask, and how a partition ends. */
#include "tests/unit/daemon_harness.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_tools(void **state)
{
    struct clshmd_config config = {.set = CLSHMD_SET_MAXPGS | CLSHMD_SET_TIMEOUT, .maxpgs = 1234, .timeout_ms = 50};
    struct clshmd_segments segments = {.from = 0};
    struct clshmd_ping ping = {.part = 0};
    struct clshmd_evict evict = {.part = 0};
    struct clshmd_node node = {.shmid = SHMID_REAL};
    struct answer a;
    int fd = hello_tool();

    (void)state;
    assert_int_equal(call(fd, CLSHMD_STATUS, NULL, 0, &a), 0);
    assert_string_equal(((struct clshmd_status_reply *)a.payload)->part[1].name, "two");
    assert_int_equal(((struct clshmd_status_reply *)a.payload)->daemon_pid, seen->daemon);
    assert_int_equal(((struct clshmd_status_reply *)a.payload)->keeper_pid, keeper);
    assert_int_equal(call(fd, CLSHMD_CONFIG, &config, sizeof(config), &a), 0);
    assert_int_equal(((struct clshmd_config_reply *)a.payload)->maxpgs, 1234);
    config.timeout_ms = 1;
    assert_int_equal(call(fd, CLSHMD_CONFIG, &config, sizeof(config), &a), EINVAL);
    assert_int_equal(call(fd, CLSHMD_SEGMENTS, &segments, sizeof(segments), &a), 0);
    assert_int_equal(((struct clshmd_segments_reply *)a.payload)->count, 1);
    assert_int_equal(((struct clshmd_segments_reply *)a.payload)->next, 0);
    assert_int_equal(call(fd, CLSHMD_PING, &ping, sizeof(ping), &a), 0);
    assert_string_equal(((struct clshmd_ping_reply *)a.payload)->hostname, "host0");
    ping.part = 1;
    assert_int_equal(call(fd, CLSHMD_PING, &ping, sizeof(ping), &a), 0);
    assert_string_equal(((struct clshmd_ping_reply *)a.payload)->hostname, "other");
    assert_true(((struct clshmd_ping_reply *)a.payload)->rtt_ns > 0);
    ping.part = 2;
    assert_int_equal(call(fd, CLSHMD_PING, &ping, sizeof(ping), &a), EHOSTDOWN);
    ping.part = 63;
    assert_int_equal(call(fd, CLSHMD_PING, &ping, sizeof(ping), &a), EINVAL);
    assert_int_equal(call(fd, CLSHMD_EVICT, &evict, sizeof(evict), &a), EINVAL);
    evict.part = 1;
    assert_int_equal(call(fd, CLSHMD_EVICT, &evict, sizeof(evict), &a), EBUSY);
    assert_int_equal(call(fd, CLSHMD_NODE, &node, sizeof(node), &a), 0);
    assert_int_equal(((struct clshmd_node_reply *)a.payload)->node, 3);
    close(fd);

    kill(seen->daemon, SIGKILL); /* what was set outlives it */
    fd = hello_tool();
    config.set = 0;
    assert_int_equal(call(fd, CLSHMD_CONFIG, &config, sizeof(config), &a), 0);
    assert_int_equal(((struct clshmd_config_reply *)a.payload)->maxpgs, 1234);
    assert_int_equal(((struct clshmd_config_reply *)a.payload)->timeout_ms, 50);
    close(fd);
}

static void test_dump(void **state)
{
    struct clshmd_dump req = {.what = 1};
    struct clshmd_dump_reply reply;
    struct answer a;
    int fd = hello_tool();

    (void)state;
    do {
        assert_int_equal(call(fd, CLSHMD_DUMP, &req, sizeof(req), &a), 0);
        memcpy(&reply, a.payload, sizeof(reply));
        req.offset += reply.length;
    } while (reply.length);
    assert_int_equal(req.offset, reply.total);
    assert_true(reply.total > 9999);
    req.what = 2;
    req.offset = 0;
    assert_int_equal(call(fd, CLSHMD_DUMP, &req, sizeof(req), &a), 0);
    assert_int_equal(((struct clshmd_dump_reply *)a.payload)->length, strlen("driver"));
    req.what = 3;                                                   /* no such thing */
    assert_int_equal(call(fd, CLSHMD_EVENTS, NULL, 0, &a), ENOSYS); /* room for what comes */
    assert_int_equal(call(fd, CLSHMD_DUMP, &req, sizeof(req), &a), EPROTO);
    close(fd);
}

static void test_shutdown(void **state)
{
    struct client_page page = hello();
    struct clshmd_shutdown req = {0};
    struct answer a;
    int fd = hello_tool();

    (void)state;
    seen->entry_count = 1;
    assert_int_equal(call(fd, CLSHMD_SHUTDOWN, &req, sizeof(req), &a), EBUSY);
    seen->entry_count = 0;
    assert_int_equal(call(fd, CLSHMD_SHUTDOWN, &req, sizeof(req), &a), 0);
    assert_true(at_end(fd));
    assert_int_equal(keeper_status(), 0);
    assert_int_equal(seen->left, 1);
    assert_int_equal(seen->destroyed, 1);
    close(fd);
    close(page.fd);
    close(page.sock);
}

static void test_shutdown_forced(void **state)
{
    struct clshmd_shutdown req = {.flags = CLSHMD_SHUTDOWN_FORCE};
    struct answer a;
    int fd = hello_tool(), status, ready[2];
    pid_t child;
    char c;

    (void)state;
    assert_int_equal(pipe(ready), 0);
    child = fork();
    if (child == 0) {
        signal(SIGTERM, SIG_IGN); /* so that it takes SIGKILL */
        hello();
        seen->entry_count = 1;
        if (write(ready[1], "r", 1) != 1)
            _exit(1);
        poll(NULL, 0, LIMIT_MS);
        _exit(2);
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
    assert_int_equal(call(fd, CLSHMD_SHUTDOWN, &req, sizeof(req), &a), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_true(at_end(fd));
    assert_int_equal(keeper_status(), 0);
    close(fd);
    close(ready[0]);
    close(ready[1]);
}

static void test_evicted(void **state)
{
    struct client_page page = hello();
    struct clshmd_hello req = {.major = CLSHM_LIB_MAJOR, .token = page.token};
    struct clshmd_evict evict = {.part = 1, .flags = CLSHMD_EVICT_FORCE};
    pid_t before = seen->daemon;
    struct answer a;
    int fd = hello_tool();

    (void)state;
    send_request(fd, CLSHMD_EVICT, 1, &evict, sizeof(evict));
    EVENTUALLY(seen->daemon != before);
    close(fd);
    close(page.sock);
    fd = connect_daemon();
    assert_int_equal(call(fd, CLSHMD_HELLO, &req, sizeof(req), &a), ESTALE);
    close(fd);
    close(page.fd);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_tools), TEST(test_dump), TEST(test_shutdown), TEST(test_shutdown_forced), TEST(test_evicted),
    };

    return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
