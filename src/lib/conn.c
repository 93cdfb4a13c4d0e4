// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A connection is one socket and a sequence number. At most one request is under way: it is sent, then its answer is
 * waited for, both within a time limit. Whatever is not exactly that answer ends the connection, so that a late answer
 * is never taken for the next one's.
 *
 * The descriptor belongs to a library in somebody else's program, which may close it, or have another file under its
 * number: conn_ours() looks before each use, and a descriptor that is not ours any more is forgotten, not closed.
 *
 * Waiting for an answer: first awake (src/util/spin.h), then in recvmsg() itself, which the kernel ends after SLICE_MS,
 * so that a request costs one call to send and one to receive. poll() is for what is left of a time limit.
 *
 * The daemon is trusted if the socket's listener (SO_PEERCRED) is root, this user, or CLSHM_DAEMON_UID.
 */
#include "src/lib/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "src/lib/path.h"
#include "src/util/cleanup.h"

#define SLICE_MS 1000u

static int fail(struct conn *conn, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* End the conversation. @return -@error. */
static int fail(struct conn *conn, int error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(conn->why, sizeof(conn->why), format, args);
    va_end(args);
    conn_close(conn);
    return -error;
}

uint64_t conn_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

bool conn_ours(const struct conn *conn)
{
    struct stat st;
    return conn->fd >= 0 && fstat(conn->fd, &st) == 0 && st.st_dev == conn->dev && st.st_ino == conn->ino;
}

void conn_close(struct conn *conn)
{
    if (conn_ours(conn))
        close_fd(conn->fd);
    conn->fd = -1;
}

/* ------------------------------------------------------------------ connecting */

static bool uid_trusted(uid_t uid)
{
    if (uid == 0 || uid == geteuid())
        return true;
    const char *text = secure_getenv("CLSHM_DAEMON_UID");
    if (!text || *text < '0' || *text > '9')
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    return errno == 0 && *end == '\0' && value == uid;
}

static int check_owner(struct conn *conn, const char *socket)
{
    struct ucred cred;
    socklen_t size = sizeof(cred);
    if (getsockopt(conn->fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
        return fail(conn, EIO, "%s: %s", socket, strerror(errno));
    if (!uid_trusted(cred.uid))
        return fail(conn, EACCES, "%s belongs to uid %u, which is not root, this user or CLSHM_DAEMON_UID", socket,
                    cred.uid);
    spin_init(&conn->spin, cred.pid);
    return 0;
}

static void pause_ms(uint32_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* One attempt. @return 0 or an errno. */
static int connect_once(int fd, const struct sockaddr_un *address)
{
    int r;
    do {
        r = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    } while (r < 0 && errno == EINTR);
    return r < 0 && errno != EISCONN ? errno : 0;
}

/* A daemon that restarts has no socket yet (ENOENT), does not listen yet, or not accept yet (EAGAIN: its queue is full). */
static bool worth_waiting(int error)
{
    return error == ENOENT || error == ECONNREFUSED || error == EAGAIN;
}

/* From now on recvmsg() waits, a slice at a time. Failing that it is as if the slice were over at once: see receive(). */
static void receive_may_block(const struct conn *conn)
{
    struct timeval slice = {.tv_sec = SLICE_MS / 1000, .tv_usec = SLICE_MS % 1000 * 1000};
    if (setsockopt(conn->fd, SOL_SOCKET, SO_RCVTIMEO, &slice, sizeof(slice)) == 0)
        (void)fcntl(conn->fd, F_SETFL, O_RDWR);
}

int conn_open(struct conn *conn, const char *socket_path, uint32_t wait_ms)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    conn_close(conn);
    if (strlen(socket_path) >= sizeof(address.sun_path))
        return fail(conn, EIO, "%.24s...: %s", socket_path, path_strerror(ENAMETOOLONG));
    strcpy(address.sun_path, socket_path);
    int fd CLEANUP_CLOSE = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || fstat(fd, &st) < 0)
        return fail(conn, errno == EMFILE || errno == ENFILE || errno == ENOMEM ? errno : EIO, "socket: %s",
                    strerror(errno));
    uint64_t end = conn_now_ms() + wait_ms;
    uint32_t delay = 1;
    int error;
    while ((error = connect_once(fd, &address)) != 0) {
        if (!worth_waiting(error) || conn_now_ms() >= end)
            return fail(conn, EIO, "%s: %s", socket_path, strerror(error));
        pause_ms(delay);
        delay = delay < 50 ? delay * 2 : 50;
    }
    conn->fd = steal_fd(&fd);
    conn->dev = st.st_dev;
    conn->ino = st.st_ino;
    receive_may_block(conn);
    return check_owner(conn, socket_path);
}

/* ------------------------------------------------------------------ a request and its answer */

/* Wait for @events until @deadline. @return 0 or a negative errno. */
static int wait_for(struct conn *conn, short events, uint64_t deadline)
{
    for (;;) {
        uint64_t now = conn_now_ms();
        if (now >= deadline)
            return fail(conn, EIO, "no answer in time");
        uint64_t left = deadline - now;
        struct pollfd p = {.fd = conn->fd, .events = events};
        int r = poll(&p, 1, left > 60000 ? 60000 : (int)left);
        if (r > 0)
            return 0;
        if (r < 0 && errno != EINTR && errno != EAGAIN)
            return fail(conn, errno == ENOMEM ? ENOMEM : EIO, "poll: %s", strerror(errno));
    }
}

static int send_request(struct conn *conn, struct clshmd_header *header, const void *payload, size_t size,
                        uint64_t deadline)
{
    struct iovec iov[2] = {{header, sizeof(*header)}, {(void *)(uintptr_t)payload, size}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = size ? 2 : 1};
    for (;;) {
        if (sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
            return 0;
        if (errno == EAGAIN) {
            int r = wait_for(conn, POLLOUT, deadline);
            if (r)
                return r;
        } else if (errno != EINTR) {
            return fail(conn, EIO, "send: %s", strerror(errno));
        }
    }
}

static void close_all(int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        fds[i] = close_fd(fds[i]);
}

/* Take the descriptors out of @msg; those beyond @max are closed. @return how many came. */
static unsigned take_fds(struct msghdr *msg, int *fds, unsigned max)
{
    unsigned n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (n < max)
                fds[n] = fd;
            else
                close_fd(fd);
            n++;
        }
    }
    return n;
}

/* Is what came the answer to @sent? @return 0, its (positive) error, or a negative errno. */
static int judge(struct conn *conn, const struct clshmd_header *sent, const struct clshmd_header *got, size_t length,
                 bool cut, size_t reply_size)
{
    if (length == 0)
        return fail(conn, EIO, "the daemon closed the connection");
    if (cut || length < sizeof(*got) || got->length != length || got->op != sent->op || got->seq != sent->seq ||
        got->flags != 0 || got->error < 0 || got->error > 4095)
        return fail(conn, EIO, "the daemon's answer makes no sense");
    if (length != sizeof(*got) + (got->error ? 0 : reply_size))
        return fail(conn, EIO, "the daemon's answer has a wrong size");
    return got->error;
}

/* Look for it without sleeping. @return as recvmsg(). */
static ssize_t receive_awake(struct conn *conn, struct msghdr *msg)
{
    uint64_t end = spin_now_ns() + SPIN_NS;
    size_t room = msg->msg_controllen;
    uint32_t looks = 0;
    ssize_t length;
    do {
        looks++;
        msg->msg_controllen = room;
        length = recvmsg(conn->fd, msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    } while (length < 0 && errno == EAGAIN && spin_now_ns() < end);
    spin_learn(&conn->spin, length >= 0, looks);
    return length;
}

/* One packet, whatever it is. @return 0 or a negative errno. */
static int receive(struct conn *conn, struct msghdr *msg, ssize_t *length, uint64_t deadline)
{
    size_t room = msg->msg_controllen;
    bool block = true;
    *length = spin_wanted(&conn->spin) ? receive_awake(conn, msg) : -1;
    while (*length < 0) {
        block = block && conn_now_ms() + SLICE_MS < deadline;
        int r = block ? 0 : wait_for(conn, POLLIN, deadline);
        if (r)
            return r;
        msg->msg_controllen = room;
        *length = recvmsg(conn->fd, msg, MSG_CMSG_CLOEXEC | (block ? 0 : MSG_DONTWAIT));
        if (*length < 0 && errno == EAGAIN)
            block = false; /* nothing in all of a slice; or the descriptor was made non-blocking by somebody */
        else if (*length < 0 && errno != EINTR)
            return fail(conn, EIO, "receive: %s", strerror(errno));
    }
    return 0;
}

static int receive_reply(struct conn *conn, const struct clshmd_header *sent, void *reply, size_t reply_size, int *fds,
                         unsigned *n_fds, uint64_t deadline)
{
    union {
        char buffer[CMSG_SPACE(sizeof(int) * CONN_FDS_MAX)];
        struct cmsghdr align;
    } control;
    struct clshmd_header header = {0};
    struct iovec iov[2] = {{&header, sizeof(header)}, {reply, reply_size}};
    struct msghdr msg = {.msg_iov = iov,
                         .msg_iovlen = reply_size ? 2 : 1,
                         .msg_control = control.buffer,
                         .msg_controllen = sizeof(control.buffer)};
    ssize_t length;
    int r = receive(conn, &msg, &length, deadline);
    if (r)
        return r;
    int got[CONN_FDS_MAX];
    unsigned n = take_fds(&msg, got, CONN_FDS_MAX);
    unsigned wanted = n_fds ? *n_fds : 0;
    int error = judge(conn, sent, &header, (size_t)length, msg.msg_flags & MSG_TRUNC, reply_size);
    if (error == 0 && n < wanted && (msg.msg_flags & MSG_CTRUNC))
        error = EMFILE; /* the kernel dropped what found no room in this process's table */
    else if (error == 0 && n != wanted)
        error = fail(conn, EIO, "the daemon's answer came with %u descriptors instead of %u", n, wanted);
    if (error)
        close_all(got, n < CONN_FDS_MAX ? n : CONN_FDS_MAX);
    else if (n > 0)
        memcpy(fds, got, n * sizeof(int));
    return error;
}

int conn_exchange(struct conn *conn, enum clshmd_op op, const void *request, size_t size, void *reply,
                  size_t reply_size, int *fds, unsigned *n_fds, uint32_t timeout_ms)
{
    uint64_t deadline = conn_now_ms() + timeout_ms;
    struct clshmd_header header = {.op = (uint16_t)op, .length = (uint32_t)(sizeof(header) + size), .seq = ++conn->seq};
    int error = send_request(conn, &header, request, size, deadline);
    if (error == 0)
        error = receive_reply(conn, &header, reply, reply_size, fds, n_fds, deadline);
    if (error != 0 && n_fds)
        *n_fds = 0;
    return error;
}

int conn_call(struct conn *conn, enum clshmd_op op, const void *request, size_t size, void *reply, size_t reply_size,
              int *fds, unsigned *n_fds, uint32_t timeout_ms)
{
    if (!conn_ours(conn))
        return fail(conn, EIO, "not connected");
    return conn_exchange(conn, op, request, size, reply, reply_size, fds, n_fds, timeout_ms);
}

int conn_hello(struct conn *conn, uint32_t flags, uint64_t token, struct clshmd_hello_reply *reply, int *fds,
               unsigned *n_fds, uint32_t timeout_ms)
{
    struct clshmd_hello hello = {.major = CLSHM_LIB_MAJOR, .minor = CLSHM_LIB_MINOR, .flags = flags, .token = token};
    int error = conn_call(conn, CLSHMD_HELLO, &hello, sizeof(hello), reply, sizeof(*reply), fds, n_fds, timeout_ms);
    if (error == EPROTO)
        return fail(conn, EPROTO, "library %u.%u and the daemon do not match; its log says more", CLSHM_LIB_MAJOR,
                    CLSHM_LIB_MINOR);
    if (error != 0 || reply->major == CLSHM_LIB_MAJOR)
        return error;
    for (unsigned i = 0; n_fds && i < *n_fds; i++)
        fds[i] = close_fd(fds[i]);
    return fail(conn, EPROTO, "library %u.%u cannot talk to a daemon %u.%u", CLSHM_LIB_MAJOR, CLSHM_LIB_MINOR,
                reply->major, reply->minor);
}
