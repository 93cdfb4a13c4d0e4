/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/daemon_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct seen *seen;
struct daemon_options options;
pid_t keeper;
static char dir[] = "/tmp/clshm-test-daemon-XXXXXX";

/* ------------------------------------------------------------------ the client */

uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

int connect_daemon(void)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    uint64_t limit = now_ms() + LIMIT_MS;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct timeval tv = {.tv_sec = LIMIT_MS / 1000};

    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    strcpy(addr.sun_path, options.socket);
    while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        assert_true(now_ms() < limit);
        poll(NULL, 0, 2);
    }
    return fd;
}

/* @return the answer's size, 0: the end. */
ssize_t receive(int fd, struct answer *a, int fds[3], unsigned *n_fds)
{
    char control[CMSG_SPACE(3 * sizeof(int))] __attribute__((aligned(__alignof__(struct cmsghdr))));
    struct iovec iov = {.iov_base = a, .iov_len = sizeof(*a)};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(fd, &hdr, MSG_CMSG_CLOEXEC);

    *n_fds = 0;
    if (n < 0 && errno == ECONNRESET)
        return 0;
    assert_true(n >= 0);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&hdr); c; c = CMSG_NXTHDR(&hdr, c)) {
        *n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        assert_in_range(*n_fds, 1, 3);
        memcpy(fds, CMSG_DATA(c), *n_fds * sizeof(int));
    }
    return n;
}

void send_request(int fd, uint16_t op, uint32_t seq, const void *payload, size_t size)
{
    struct answer packet = {.header = {.op = op, .length = (uint32_t)(sizeof(packet.header) + size), .seq = seq}};

    if (size)
        memcpy(packet.payload, payload, size);
    assert_int_equal(send(fd, &packet, packet.header.length, MSG_NOSIGNAL), packet.header.length);
}

int fds_of_call[3];
unsigned n_fds_of_call;

int call(int fd, uint16_t op, const void *payload, size_t size, struct answer *a)
{
    static uint32_t seq = 100;

    send_request(fd, op, ++seq, payload, size);
    assert_true(receive(fd, a, fds_of_call, &n_fds_of_call) >= (ssize_t)sizeof(a->header));
    assert_int_equal(a->header.op, op);
    assert_int_equal(a->header.seq, seq);
    return a->header.error;
}

bool at_end(int fd)
{
    struct answer a;
    int fds[3];
    unsigned n;

    return receive(fd, &a, fds, &n) == 0;
}

void close_call_fds(void)
{
    for (unsigned i = 0; i < n_fds_of_call; i++)
        close(fds_of_call[i]);
    n_fds_of_call = 0;
}

struct client_page hello(void)
{
    struct clshmd_hello req = {.major = CLSHM_LIB_MAJOR, .minor = CLSHM_LIB_MINOR};
    struct clshmd_hello_reply reply;
    struct client_page page = {.sock = connect_daemon()};
    struct answer a;

    assert_int_equal(call(page.sock, CLSHMD_HELLO, &req, sizeof(req), &a), 0);
    assert_int_equal(n_fds_of_call, 3);
    memcpy(&reply, a.payload, sizeof(reply));
    close(fds_of_call[0]);
    close(fds_of_call[1]);
    page.fd = fds_of_call[2];
    page.token = reply.token;
    page.entries = reply.entries;
    return page;
}

int hello_tool(void)
{
    struct clshmd_hello req = {.major = CLSHM_LIB_MAJOR, .minor = CLSHM_LIB_MINOR, .flags = CLSHMD_HELLO_TOOL};
    struct answer a;
    int fd = connect_daemon();

    assert_int_equal(call(fd, CLSHMD_HELLO, &req, sizeof(req), &a), 0);
    assert_int_equal(n_fds_of_call, 0);
    return fd;
}

int open_descriptors(void)
{
    char path[64];
    int n = 0;

    for (int fd = 0; fd < 256; fd++) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)seen->daemon, fd);
        n += faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    }
    return n;
}

/* ------------------------------------------------------------------ start and end */

int setup(void **state)
{
    (void)state;
    memset(seen, 0, sizeof(*seen));
    config_init(&options.config);
    options.config.log_level = LOG_LEVEL_ERROR;
    options.config.limits.max_clients_uid = CLIENTS;
    strcpy(options.partition, "one");
    strcpy(options.fabric, "stub");
    snprintf(options.socket, sizeof(options.socket), "%s/clshm/one/sock", dir);
    keeper = fork();
    if (keeper == 0)
        _exit(keeper_run(daemon_main, &options));
    return keeper < 0;
}

int keeper_status(void)
{
    int status;

    if (waitpid(keeper, &status, 0) != keeper)
        return -1;
    keeper = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int teardown(void **state)
{
    (void)state;
    if (keeper > 0) {
        kill(keeper, SIGTERM);
        if (keeper_status() != 0 || seen->left != 1 || seen->destroyed < 1)
            return -1;
    }
    return access(options.socket, F_OK) == 0; /* gone */
}

int setup_group(void **state)
{
    (void)state;
    log_open("test", LOG_LEVEL_ERROR);
    seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return seen == MAP_FAILED || !mkdtemp(dir);
}

int teardown_group(void **state)
{
    char path[128];

    (void)state;
    snprintf(path, sizeof(path), "%s/clshm/one", dir);
    rmdir(path);
    snprintf(path, sizeof(path), "%s/clshm", dir);
    rmdir(path);
    return rmdir(dir);
}
