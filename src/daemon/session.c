/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections. A packet is read only while nothing waits to be sent: a peer that does not read its answers is not
 * listened to, so that what it can make this daemon hold is its requests under way and no more. A turn takes one packet,
 * for few have another one waiting, and sd-event takes turns between connections that are ready.
 *
 * A connection that ends is marked dead at once and loses its descriptor and its event source. It may end in the midst
 * of a call of the core, which must not be called back: session_reap() tells the core, and frees it, between two dispatches.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "src/daemon/daemon.h"

static struct log_limit quota_log = LOG_LIMIT_DEFAULT;
static struct log_limit accept_log = LOG_LIMIT_DEFAULT;

/* ------------------------------------------------------------------ users */

static struct user *user_get(struct daemon *d, uint32_t uid)
{
    struct user *user;

    HASH_FIND(hh, d->users, &uid, sizeof(uid), user);
    if (user)
        return user;
    user = calloc(1, sizeof(*user));
    if (!user)
        return NULL;
    user->uid = uid;
    HASH_ADD(hh, d->users, uid, sizeof(uid), user);
    if (user->hh.tbl)
        return user;
    free(user);
    return NULL;
}

static void user_put(struct daemon *d, struct user *user)
{
    if (user->conns > 0)
        return;
    HASH_DEL(d->users, user);
    free(user);
}

/* ------------------------------------------------------------------ out */

static struct packet *packet_free(struct packet *p)
{
    for (unsigned i = 0; i < p->n_fds; i++)
        close_fd(p->fds[i]);
    free(p);
    return NULL;
}

static int send_packet(int fd, const void *data, size_t size, const int *fds, unsigned n_fds)
{
    char control[CMSG_SPACE(SESSION_FDS_MAX * sizeof(int))] __attribute__((aligned(__alignof__(struct cmsghdr)))) = {0};
    struct iovec iov = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};

    if (n_fds) {
        struct cmsghdr *cmsg;

        hdr.msg_control = control;
        hdr.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        cmsg = CMSG_FIRSTHDR(&hdr);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(cmsg), fds, n_fds * sizeof(int));
    }
    return sendmsg(fd, &hdr, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
}

static void session_events(struct session *c)
{
    if (c->io)
        sd_event_source_set_io_events(c->io, c->out ? EPOLLOUT : EPOLLIN);
}

static void session_queue(struct session *c, const void *data, size_t size, const int *fds, unsigned n_fds)
{
    struct packet *p = NULL;

    if (c->n_out < SESSION_QUEUE_MAX)
        p = malloc(sizeof(*p) + size);
    if (!p) {
        for (unsigned i = 0; i < n_fds; i++)
            close_fd(fds[i]);
        session_close(c);
        return;
    }
    p->next = NULL;
    p->size = size;
    p->n_fds = n_fds;
    if (n_fds)
        memcpy(p->fds, fds, n_fds * sizeof(int));
    memcpy(p->data, data, size);
    if (c->out)
        c->out_last->next = p;
    else
        c->out = p;
    c->out_last = p;
    c->n_out++;
    session_events(c);
}

/* Too many descriptors are in flight (peers that do not read): the answer goes without, as an error. */
static int send_without(struct session *c, const void *data)
{
    struct clshmd_header header;

    memcpy(&header, data, sizeof(header));
    header.length = sizeof(header);
    header.error = ENOMEM;
    return send_packet(c->fd, &header, sizeof(header), NULL, 0);
}

static bool too_many_fds(int error)
{
    return error == ETOOMANYREFS || error == EMFILE || error == ENFILE;
}

static void session_flush(struct session *c)
{
    while (c->out && !c->dead) {
        struct packet *p = c->out;
        int error = send_packet(c->fd, p->data, p->size, p->fds, p->n_fds);

        if (too_many_fds(error))
            error = send_without(c, p->data);
        if (error == EAGAIN || error == ENOBUFS || error == ENOMEM)
            return;
        if (error == EINTR)
            continue;
        if (error) {
            session_close(c);
            return;
        }
        c->out = p->next;
        c->n_out--;
        packet_free(p);
    }
    if (!c->dead)
        session_events(c);
}

void session_reply(struct session *c, uint16_t op, uint32_t seq, int error, const void *payload, size_t size, int *fds,
                   unsigned n_fds)
{
    unsigned char data[CLSHMD_PACKET_MAX];
    struct clshmd_header header = {.op = op, .seq = seq, .error = error};
    int failed = EAGAIN;

    if (error || sizeof(header) + size > sizeof(data))
        size = 0;
    header.length = (uint32_t)(sizeof(header) + size);
    memcpy(data, &header, sizeof(header));
    if (size)
        memcpy(data + sizeof(header), payload, size);
    if (!c->dead && !c->out)
        failed = send_packet(c->fd, data, header.length, fds, n_fds);
    if (too_many_fds(failed))
        failed = send_without(c, data);
    if (!c->dead && (failed == EAGAIN || failed == EINTR || failed == ENOBUFS || failed == ENOMEM)) {
        session_queue(c, data, header.length, fds, n_fds);
        return;
    }
    for (unsigned i = 0; i < n_fds; i++)
        fds[i] = close_fd(fds[i]);
    if (failed && !c->dead)
        session_close(c);
}

void session_fail(struct session *c, uint16_t op, uint32_t seq, int error)
{
    session_reply(c, op, seq, error, NULL, 0, NULL, 0);
    session_close(c);
}

/* ------------------------------------------------------------------ in */

/* @return its size, 0: the end, -1: nothing there now. Descriptors that came along are closed. */
static ssize_t receive_packet(struct session *c, void *buffer, size_t size)
{
    char control[CMSG_SPACE(64 * sizeof(int))] __attribute__((aligned(__alignof__(struct cmsghdr))));
    struct iovec iov = {.iov_base = buffer, .iov_len = size};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(c->fd, &hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? -1 : 0;
    for (struct cmsghdr *m = CMSG_FIRSTHDR(&hdr); m; m = CMSG_NXTHDR(&hdr, m)) {
        size_t bytes = m->cmsg_len - CMSG_LEN(0);

        if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
            int fd;
            memcpy(&fd, CMSG_DATA(m) + at, sizeof(fd));
            close_fd(fd);
        }
    }
    return hdr.msg_flags & MSG_TRUNC ? (ssize_t)size : n;
}

static int session_io(sd_event_source *source, int fd, uint32_t revents, void *ctx)
{
    unsigned char buffer[CLSHMD_PACKET_MAX + 8] __attribute__((aligned(8)));
    struct session *c = ctx;
    ssize_t n;

    (void)source;
    (void)fd;
    if (revents & EPOLLOUT)
        session_flush(c);
    if (!(revents & EPOLLIN)) {
        if (!c->dead && revents & (EPOLLHUP | EPOLLERR))
            session_close(c);
        return 0;
    }
    /* One byte more than any packet may have: a cut one is too long, and refused. */
    n = c->dead || c->out ? -1 : receive_packet(c, buffer, CLSHMD_PACKET_MAX + 1);
    if (n == 0)
        session_close(c);
    else if (n > 0)
        request_handle(c, buffer, (size_t)n);
    c->d->served |= n > 0;
    return 0;
}

/* ------------------------------------------------------------------ begin and end */

static int peer_groups(struct session *c)
{
    socklen_t size = 0;

    if (getsockopt(c->fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &size) == 0 || errno != ERANGE)
        return 0; /* none, or a kernel that does not tell */
    c->groups = malloc(size);
    if (!c->groups)
        return ENOMEM;
    if (getsockopt(c->fd, SOL_SOCKET, SO_PEERGROUPS, c->groups, &size) < 0)
        return errno;
    c->n_groups = (uint32_t)(size / sizeof(gid_t));
    return 0;
}

static int session_init(struct session *c)
{
    struct ucred cred;
    socklen_t size = sizeof(cred);
    int sndbuf = SESSION_SNDBUF, error;

    if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
        return errno;
    c->uid = cred.uid;
    c->gid = cred.gid;
    c->pid = cred.pid;
    error = peer_groups(c);
    if (error)
        return error;
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
    error = sd_event_add_io(c->d->event, &c->io, c->fd, EPOLLIN, session_io, c);
    return error < 0 ? -error : 0;
}

static void session_free(struct session *c)
{
    sd_event_source_disable_unref(c->io);
    close_fd(c->fd);
    while (c->out) {
        struct packet *next = c->out->next;
        packet_free(c->out);
        c->out = next;
    }
    free(c->groups);
    free(c->dump);
    free(c);
}

/* @return whether @c is within its user's limit or told EAGAIN at HELLO; false: closed at once. */
static bool session_charge(struct session *c)
{
    struct daemon *d = c->d;
    uint64_t limit = d->config.limits.max_clients_uid;

    c->user = user_get(d, c->uid);
    if (!c->user)
        return false;
    if (limit && c->user->conns >= limit + SESSION_SPARE) {
        log_limited(&quota_log, LOG_LEVEL_WARNING, "uid %u: it has %u connections already: refused", c->uid,
                    c->user->conns);
        c->refused = true;
        if (c->user->conns >= limit + 2 * SESSION_SPARE) {
            user_put(d, c->user);
            return false;
        }
    }
    c->user->conns++;
    d->n_conns++;
    DL_APPEND(d->conns, c);
    return true;
}

/* Takes @fd. */
static void session_new(struct daemon *d, int fd)
{
    struct session *c = calloc(1, sizeof(*c));

    if (!c) {
        close_fd(fd);
        return;
    }
    c->d = d;
    c->fd = fd;
    c->tool_client = NO_CLIENT;
    c->since_ms = d->now_ms;
    if (session_init(c) || !session_charge(c))
        session_free(c);
}

void session_close(struct session *c)
{
    struct daemon *d = c->d;

    if (c->dead)
        return;
    c->dead = true;
    c->io = sd_event_source_disable_unref(c->io);
    c->fd = close_fd(c->fd);
    DL_DELETE(d->conns, c);
    d->n_conns--;
    c->user->conns--;
    user_put(d, c->user);
    c->user = NULL;
    DL_APPEND(d->dead, c);
    request_forget(c);
}

void session_reap(struct daemon *d)
{
    while (d->dead) {
        struct session *c = d->dead;
        DL_DELETE(d->dead, c);
        if (c->tool_client != NO_CLIENT) {
            core_client_gone(d->core, c->tool_client);
            client_number_give(d, c->tool_client);
        }
        if (c->client)
            client_detach(c->client);
        session_free(c);
    }
}

void session_beat(struct daemon *d)
{
    struct session *c, *tmp;

    /* In the order they came: the first that is young ends the search, but for those that said HELLO. */
    DL_FOREACH_SAFE (d->conns, c, tmp) {
        if (d->now_ms - c->since_ms < SESSION_HELLO_MS)
            break;
        if (!c->hello)
            session_close(c);
    }
    daemon_accept_enable(d, true);
}

struct core_cred session_cred(const struct session *c)
{
    return (struct core_cred){.uid = c->uid,
                              .gid = c->gid,
                              .groups = c->groups,
                              .n_groups = c->n_groups,
                              .privileged = c->uid == 0,
                              .pid = c->pid};
}

bool session_admin(const struct session *c)
{
    return c->uid == 0 || c->uid == geteuid();
}

/* ------------------------------------------------------------------ accept */

static int on_accept(sd_event_source *source, int fd, uint32_t revents, void *ctx)
{
    struct daemon *d = ctx;

    (void)source;
    (void)revents;
    for (int i = 0; i < SESSION_BATCH; i++) {
        int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (conn >= 0) {
            session_new(d, conn);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            log_limited(&accept_log, LOG_LEVEL_ERROR, "accept: %s (%s)", strerror(errno), strerrorname_np(errno));
            daemon_accept_enable(d, false); /* until the next beat; it would only fail again at once */
        }
        if (errno != ECONNABORTED && errno != EINTR)
            break;
    }
    return 0;
}

int daemon_accept_enable(struct daemon *d, bool on)
{
    int error = 0;

    if (d->listen < 0 || d->stopping)
        return 0;
    if (!d->listen_io) {
        fcntl(d->listen, F_SETFL, fcntl(d->listen, F_GETFL) | O_NONBLOCK);
        error = sd_event_add_io(d->event, &d->listen_io, d->listen, EPOLLIN, on_accept, d);
    }
    if (error >= 0)
        error = sd_event_source_set_enabled(d->listen_io, on ? SD_EVENT_ON : SD_EVENT_OFF);
    return error < 0 ? -error : 0;
}
