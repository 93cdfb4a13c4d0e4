/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The daemon's edge: sessions, client pages, the request table, restart. */
#include "tests/unit/daemon_harness.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_hello_first(void **state)
{
    struct clshmd_get req = {.key = 1};
    struct answer a;
    int fd = connect_daemon();

    (void)state;
    assert_int_equal(call(fd, CLSHMD_GET, &req, sizeof(req), &a), EPROTO);
    assert_true(at_end(fd));
    close(fd);
}

static void test_hello_versions(void **state)
{
    struct clshmd_hello req = {.major = CLSHM_LIB_MAJOR + 1};
    struct answer a;
    int fd = connect_daemon();

    (void)state;
    assert_int_equal(call(fd, CLSHMD_HELLO, &req, sizeof(req), &a), EPROTO);
    assert_true(at_end(fd));
    close(fd);
    fd = connect_daemon();
    req = (struct clshmd_hello){.major = CLSHM_LIB_MAJOR, .minor = 77};
    assert_int_equal(call(fd, CLSHMD_HELLO, &req, sizeof(req), &a), 0);
    close_call_fds();
    assert_int_equal(call(fd, CLSHMD_HELLO, &req, sizeof(req), &a), EPROTO); /* twice */
    assert_true(at_end(fd));
    close(fd);
}

static void test_garbage(void **state)
{
    static const struct {
        uint16_t op, flags;
        int32_t length, size, error;
    } bad[] = {
        {0, 0, 16, 16, 0},
        {CLSHMD_OP_MAX, 0, 16, 16, 0},
        {20, 0, 16, 16, 0},
        {CLSHMD_PARTS, 1, 16, 16, 0},
        {CLSHMD_PARTS, 0, 17, 17, 0},
        {CLSHMD_PARTS, 0, 16, 20, 0},
        {CLSHMD_GET, 0, 40, 39, 0},
        {CLSHMD_PARTS, 0, 16, 16, 1},
        {CLSHMD_PARTS, 0, 16, 3, 0},
        {CLSHMD_PARTS, 0, CLSHMD_PACKET_MAX + 100, CLSHMD_PACKET_MAX + 100, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        unsigned char packet[CLSHMD_PACKET_MAX + 200] = {0};
        struct clshmd_header header = {
            .op = bad[i].op, .flags = bad[i].flags, .length = (uint32_t)bad[i].length, .error = bad[i].error};
        int fd = hello_tool(), fds[3];
        struct answer a;
        unsigned n;

        memcpy(packet, &header, sizeof(header));
        assert_int_equal(send(fd, packet, (size_t)bad[i].size, 0), bad[i].size);
        assert_true(receive(fd, &a, fds, &n) >= (ssize_t)sizeof(a.header));
        assert_int_equal(a.header.error, EPROTO);
        assert_true(at_end(fd));
        close(fd);
    }
}

/* They are closed, and the request counts all the same. */
static void test_descriptors_from_clients(void **state)
{
    char control[CMSG_SPACE(100 * sizeof(int))] __attribute__((aligned(__alignof__(struct cmsghdr)))) = {0};
    struct clshmd_header header = {.op = CLSHMD_PARTS, .length = sizeof(header), .seq = 9};
    struct iovec iov = {.iov_base = &header, .iov_len = sizeof(header)};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&hdr);
    int fd = hello_tool(), fds[3], before = open_descriptors();
    struct answer a;
    unsigned n;

    (void)state;
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(100 * sizeof(int));
    memset(CMSG_DATA(c), 0, 100 * sizeof(int)); /* a hundred times stdin: more than the daemon has room for */
    assert_int_equal(sendmsg(fd, &hdr, 0), sizeof(header));
    assert_int_equal(receive(fd, &a, fds, &n), sizeof(a.header) + sizeof(struct clshmd_parts_reply));
    assert_int_equal(open_descriptors(), before);
    close(fd);
}

static void test_requests(void **state)
{
    struct client_page page = hello();
    struct clshmd_get get = {.key = 41};
    struct clshmd_open open = {.shmid = SHMID_REAL, .access = CLSHMD_READ, .entry = 3};
    struct clshmd_entry entry = {.shmid = SHMID_REAL, .count = 2, .attaches = 9};
    struct answer a;

    (void)state;
    assert_int_equal(page.entries, CLSHMD_PAGE_ENTRIES(1));
    assert_int_equal(call(page.sock, CLSHMD_GET, &get, sizeof(get), &a), 0);
    assert_int_equal(((struct clshmd_get_reply *)a.payload)->shmid, 42);

    assert_int_equal(pwrite(page.fd, &entry, sizeof(entry), 64 + 3 * 32), sizeof(entry));
    assert_int_equal(call(page.sock, CLSHMD_OPEN, &open, sizeof(open), &a), 0);
    assert_int_equal(n_fds_of_call, 1);
    close_call_fds();
    assert_int_equal(seen->entry_count, 2);
    open.entry = page.entries; /* none */
    assert_int_equal(call(page.sock, CLSHMD_OPEN, &open, sizeof(open), &a), EINVAL);
    assert_int_equal(call(page.sock, CLSHMD_GROW, NULL, 0, &a), 0);
    assert_int_equal(((struct clshmd_grow_reply *)a.payload)->entries, CLSHMD_PAGE_ENTRIES(2));
    assert_int_equal(call(page.sock, CLSHMD_OPEN, &open, sizeof(open), &a), 0);
    close_call_fds();
    open.shmid = SHMID_REAL + 1; /* no descriptor to be had: documented as ENOMEM */
    assert_int_equal(call(page.sock, CLSHMD_OPEN, &open, sizeof(open), &a), ENOMEM);
    assert_int_equal(n_fds_of_call, 0);
    seen->entry_count = 0;
    close(page.sock);
    close(page.fd);
}

static void test_grow_ends(void **state)
{
    struct client_page page = hello();
    struct answer a;

    (void)state;
    for (uint32_t n = 2; n <= CLSHMD_PAGES_MAX; n++) {
        assert_int_equal(call(page.sock, CLSHMD_GROW, NULL, 0, &a), 0);
        assert_int_equal(((struct clshmd_grow_reply *)a.payload)->entries, CLSHMD_PAGE_ENTRIES(n));
    }
    assert_int_equal(call(page.sock, CLSHMD_GROW, NULL, 0, &a), ENOSPC);
    assert_int_not_equal(ftruncate(page.fd, 0), 0); /* sealed */
    assert_int_not_equal(ftruncate(page.fd, 2 * CLSHMD_PAGE_SIZE), 0);
    close(page.sock);
    close(page.fd);
}

static void test_ftok_paths(void **state)
{
    static const struct {
        const char *path;
        int error;
        uint32_t part;
    } paths[] = {
        {"", 0, 0},
        {"two", 0, 1},
        {"three", EHOSTDOWN, 0},
        {"four", ENOENT, 0},
        {"/hw/clshm/partition/01", 0, 1},
        {"/hw/clshm/partition/1", EINVAL, 0},
        {"/hw/clshm/partition/001", EINVAL, 0},
        {"/hw/clshm/partition/0g", EINVAL, 0},
        {"/hw/clshm/partition/03", ENOENT, 0},
        {"/hw/clshm/partition/FF", ENOENT, 0},
        {"/else", EINVAL, 0},
    };
    int fd = hello_tool();
    struct answer a;

    (void)state;
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        struct clshmd_ftok req = {.token = 5};

        strcpy(req.path, paths[i].path);
        assert_int_equal(call(fd, CLSHMD_FTOK, &req, sizeof(req), &a), paths[i].error);
        if (!paths[i].error)
            assert_int_equal(((struct clshmd_ftok_reply *)a.payload)->part, paths[i].part);
    }
    close(fd);
}

/* The kernel tells when a client is gone: not when its connection ends, but when its page is let go of. */
static void test_client_gone(void **state)
{
    struct client_page page = hello();
    void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, page.fd, 0);

    (void)state;
    assert_true(map != MAP_FAILED);
    close(page.fd);
    close(page.sock);
    EVENTUALLY(seen->disconnects == 1);
    poll(NULL, 0, 100); /* five heartbeats: it must not happen */
    assert_int_equal(seen->gones, 0);
    munmap(map, 4096);
    EVENTUALLY(seen->gones == 1);
}

static void test_tokens(void **state)
{
    struct client_page page = hello();
    struct clshmd_hello req = {.major = CLSHM_LIB_MAJOR, .token = page.token};
    struct answer a;
    int fd = connect_daemon();

    (void)state;
    assert_int_equal(call(fd, CLSHMD_HELLO, &req, sizeof(req), &a), 0);
    assert_int_equal(n_fds_of_call, 2);
    close_call_fds();
    assert_int_equal(seen->news, 1);
    close(page.sock); /* the other one goes on */
    assert_int_equal(call(fd, CLSHMD_PARTS, NULL, 0, &a), 0);
    assert_int_equal(seen->disconnects, 0);
    close(fd);
    close(page.fd);
    EVENTUALLY(seen->gones == 1);

    fd = connect_daemon();
    assert_int_equal(call(fd, CLSHMD_HELLO, &req, sizeof(req), &a), ESTALE);
    req.token = 0;
    assert_int_equal(call(fd, CLSHMD_HELLO, &req, sizeof(req), &a), 0);
    close_call_fds();
    close(fd);
}

static void test_fork(void **state)
{
    struct client_page page = hello();
    struct clshmd_hello req = {.major = CLSHM_LIB_MAJOR};
    struct answer a;
    pid_t child;
    int fd, child_page, status;

    (void)state;
    assert_int_equal(call(page.sock, CLSHMD_FORK, NULL, 0, &a), 0);
    assert_int_equal(n_fds_of_call, 2);
    assert_int_equal(seen->forks, 1);
    child_page = fds_of_call[0];
    close(fds_of_call[1]);
    req.token = ((struct clshmd_fork_reply *)a.payload)->token;
    child = fork();
    if (child == 0) {
        close(page.sock);
        close(page.fd);
        fd = connect_daemon();
        _exit(call(fd, CLSHMD_HELLO, &req, sizeof(req), &a) != 0 || n_fds_of_call != 2);
    }
    close(child_page);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    EVENTUALLY(seen->gones == 1);
    assert_int_equal(seen->pids, 1);
    close(page.sock);
    close(page.fd);
    EVENTUALLY(seen->gones == 2);
}

static void test_daemon_killed(void **state)
{
    struct client_page page = hello();
    struct clshmd_hello req = {.major = CLSHM_LIB_MAJOR, .token = page.token};
    struct client_page other = hello();
    pid_t before = seen->daemon;
    struct answer a;
    int fd;

    (void)state;
    assert_int_equal(call(page.sock, CLSHMD_GROW, NULL, 0, &a), 0);
    close(other.fd); /* gone while no daemon runs */
    kill(before, SIGKILL);
    assert_true(at_end(page.sock));
    close(other.sock);
    close(page.sock);
    fd = connect_daemon();
    assert_int_equal(call(fd, CLSHMD_HELLO, &req, sizeof(req), &a), 0);
    assert_int_equal(((struct clshmd_hello_reply *)a.payload)->entries, CLSHMD_PAGE_ENTRIES(2));
    close_call_fds();
    assert_int_not_equal(seen->daemon, before);
    assert_int_equal(seen->news, 3); /* two, and the one that was adopted */
    close(fd);
    close(page.fd);
}

static void test_answers_in_flight(void **state)
{
    struct client_page page = hello();
    struct clshmd_get get = {.key = KEY_NEVER};
    struct answer a;

    (void)state;
    send_request(page.sock, CLSHMD_GET, 1, &get, sizeof(get));
    get.key = 1;
    assert_int_equal(call(page.sock, CLSHMD_GET, &get, sizeof(get), &a), 0); /* answered before the other */
    close(page.sock);
    EVENTUALLY(seen->disconnects == 1);
    close(page.fd);
    EVENTUALLY(seen->gones == 1);
}

/* A client that does not read is not listened to; nobody else notices, and nothing is lost. */
static void test_backpressure(void **state)
{
    int fd = hello_tool(), other, fds[3];
    uint32_t sent = 0;
    struct answer a;
    unsigned n;

    (void)state;
    for (; sent < 100000; sent++) {
        struct clshmd_header header = {.op = CLSHMD_STATUS, .length = sizeof(header), .seq = sent};
        struct pollfd p = {.fd = fd, .events = POLLOUT};

        if (poll(&p, 1, 200) == 0 || send(fd, &header, sizeof(header), MSG_DONTWAIT) < 0)
            break;
    }
    assert_in_range(sent, 16, 99999);
    other = hello_tool();
    assert_int_equal(call(other, CLSHMD_PARTS, NULL, 0, &a), 0);
    close(other);
    for (uint32_t i = 0; i < sent; i++) {
        assert_int_equal(receive(fd, &a, fds, &n), sizeof(a.header) + sizeof(struct clshmd_status_reply));
        assert_int_equal(a.header.seq, i);
    }
    close(fd);
}

static void test_connection_quota(void **state)
{
    struct clshmd_hello req = {.major = CLSHM_LIB_MAJOR, .flags = CLSHMD_HELLO_TOOL};
    int fds[CLIENTS + 3 * SESSION_SPARE], n = 0, before;
    unsigned refused = 0, closed = 0;
    struct answer a;

    (void)state;
    fds[0] = hello_tool();
    close(fds[0]);
    before = open_descriptors();
    for (unsigned i = 0; i < CLIENTS + 3 * SESSION_SPARE; i++)
        fds[n++] = connect_daemon();
    for (int i = 0; i < n; i++) {
        int got[3];
        unsigned n_fds;

        struct answer hi = {.header = {.op = CLSHMD_HELLO, .length = sizeof(hi.header) + sizeof(req), .seq = 1}};
        memcpy(hi.payload, &req, sizeof(req));
        if (send(fds[i], &hi, hi.header.length, MSG_NOSIGNAL) < 0 || receive(fds[i], &a, got, &n_fds) == 0)
            closed++;
        else if (a.header.error == EAGAIN)
            refused++;
        else
            assert_int_equal(a.header.error, 0);
    }
    assert_int_equal(refused, SESSION_SPARE);
    assert_int_equal(closed, SESSION_SPARE);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    EVENTUALLY(open_descriptors() <= before);
}

/* After everything that happened in between, the daemon has the descriptors that it had. */
static void test_no_leaks(void **state)
{
    int fd = hello_tool(), before;
    struct answer a;

    (void)state;
    before = open_descriptors();
    for (int i = 0; i < 50; i++) {
        struct client_page page = hello();
        struct clshmd_open open = {.shmid = SHMID_REAL, .access = CLSHMD_READ};
        struct clshmd_get get = {.key = KEY_NEVER};

        assert_int_equal(call(page.sock, CLSHMD_OPEN, &open, sizeof(open), &a), 0);
        close_call_fds();
        assert_int_equal(call(page.sock, CLSHMD_FORK, NULL, 0, &a), 0);
        close_call_fds();
        send_request(page.sock, CLSHMD_GET, 1, &get, sizeof(get));
        close(page.sock);
        close(page.fd);
    }
    EVENTUALLY(seen->gones == 100);
    EVENTUALLY(open_descriptors() == before);
    close(fd);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_hello_first),   TEST(test_hello_versions),
        TEST(test_garbage),       TEST(test_descriptors_from_clients),
        TEST(test_requests),      TEST(test_grow_ends),
        TEST(test_ftok_paths),    TEST(test_client_gone),
        TEST(test_tokens),        TEST(test_fork),
        TEST(test_daemon_killed), TEST(test_answers_in_flight),
        TEST(test_backpressure),  TEST(test_connection_quota),
        TEST(test_no_leaks),
    };

    return cmocka_run_group_tests(tests, setup_group, teardown_group);
}
