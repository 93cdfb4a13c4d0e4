/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The door: a Unix datagram socket door.NN for each partition. Two kinds of datagram come in:
 *
 *     empty                        look at your rings and at the life words; not sent for a message to who is awake
 *     struct door_note + 2 fds     the memory of a message that follows in the ring
 *
 * A note goes before its message, and comes in order; so notes older than the one asked for have lost theirs and are
 * dropped. What is not one of the two is ignored and its descriptors closed. Our end sends through one connected socket
 * for each peer, made anew for each of its incarnations.
 */
#include "src/fabric/local/local.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/util/cleanup.h"
#include "src/util/log.h"

#define DOOR_MAGIC   0x314f4f44u
#define DOOR_AT_ONCE 128

struct door_note {
    uint32_t magic;
    uint32_t from;
    uint32_t incarnation;
    uint32_t memory_seq;
    int32_t shmid;
    uint32_t reserved;
    uint64_t size;
};
static_assert(sizeof(struct door_note) == 32, "door note");

/* Through the directory's descriptor: a socket address has no room for a long path. */
static struct sockaddr_un door_address(const struct local *l, uint32_t part)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/door.%02u", l->dir_fd, part);
    return address;
}

static int door_make(struct local *l)
{
    struct sockaddr_un address = door_address(l, l->self);
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    char name[16];

    if (fd < 0)
        return errno;
    snprintf(name, sizeof(name), "door.%02u", l->self);
    (void)unlinkat(l->dir_fd, name, 0); /* the id is ours: so is what lies there */
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return errno;
    if (fchmodat(l->dir_fd, name, l->file_mode, 0) < 0)
        return errno;
    l->door_fd = steal_fd(&fd);
    return l->events->keep(l->ctx, KEEP_DOOR, l->self, l->door_fd);
}

static bool door_there(const struct local *l)
{
    struct stat st;
    char name[16];

    snprintf(name, sizeof(name), "door.%02u", l->self);
    return fstatat(l->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(st.st_mode);
}

int local_door_open(struct local *l)
{
    int error = 0;

    if (l->door_fd >= 0 && !door_there(l))
        l->door_fd = close_fd(l->door_fd);
    if (l->door_fd < 0)
        error = door_make(l);
    if (!error)
        error = local_watch_fd(l, l->door_fd, LOCAL_DOOR);
    if (error)
        log_error("%s: door.%02u: %s", l->path, l->self, strerror(error));
    return error;
}

/* ------------------------------------------------------------------ out */

/* @return the socket, -1 with errno */
static int peer_socket(struct local *l, uint32_t part)
{
    struct local_peer *peer = &l->peer[part];
    struct sockaddr_un address = door_address(l, part);
    uint32_t incarnation = area_incarnation(&l->area, part);

    if (peer->fd >= 0 && peer->fd_incarnation == incarnation)
        return peer->fd;
    peer->fd = close_fd(peer->fd);
    peer->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (peer->fd < 0)
        return -1;
    if (connect(peer->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        peer->fd = close_fd(peer->fd);
        return -1;
    }
    peer->fd_incarnation = incarnation;
    peer->rung = FABRIC_BELL(0, FABRIC_BELL_ALWAYS);
    return peer->fd;
}

static int peer_send(struct local *l, uint32_t part, const struct msghdr *msg)
{
    int fd = peer_socket(l, part);

    if (fd < 0)
        return errno;
    if (sendmsg(fd, msg, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return 0;
    if (errno != EAGAIN && errno != ETOOMANYREFS && errno != ENOBUFS) {
        int error = errno;

        l->peer[part].fd = close_fd(l->peer[part].fd);
        return error;
    }
    return EAGAIN;
}

void local_door_knock(struct local *l, uint32_t part)
{
    struct msghdr msg = {0};

    /* A full queue is as good: it is going to look. One that cannot be reached looks by itself every now and then. */
    (void)peer_send(l, part, &msg);
}

void local_door_ring(struct local *l, uint32_t part)
{
    struct local_peer *peer = &l->peer[part];
    uint32_t word = area_slot_bell(&l->area, part);
    struct msghdr msg = {0};
    int error;

    if (FABRIC_BELL_STATE(word) == FABRIC_BELL_AWAKE)
        return;
    if (FABRIC_BELL_STATE(word) == FABRIC_BELL_ASLEEP && word == peer->rung && peer->fd >= 0 &&
        peer->fd_incarnation == area_incarnation(&l->area, part))
        return;
    error = peer_send(l, part, &msg);
    if (!error || error == EAGAIN)
        peer->rung = word;
}

void local_door_knock_all(struct local *l)
{
    for (uint32_t p = 0; p < l->area.sb.parts; p++)
        if (p != l->self && area_incarnation(&l->area, p))
            local_door_knock(l, p);
}

int local_door_send(struct local *l, uint32_t part, int32_t shmid, uint32_t memory_seq)
{
    struct door_note note = {
        .magic = DOOR_MAGIC, .from = l->self, .incarnation = l->incarnation, .memory_seq = memory_seq, .shmid = shmid};
    struct iovec iov = {.iov_base = &note, .iov_len = sizeof(note)};
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    CLEANUP_CLOSE int ro = -1;
    int fds[2];
    int error = local_driver_share(l, shmid, &fds[0], &ro, &note.size);

    if (error)
        return error;
    fds[1] = ro;
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof(fds));
    memcpy(CMSG_DATA(cmsg), fds, sizeof(fds));
    return peer_send(l, part, &msg);
}

/* ------------------------------------------------------------------ in */

struct local_held *local_held_free(struct local_held *held)
{
    if (held) {
        close_fd(held->rw);
        close_fd(held->ro);
        free(held);
    }
    return NULL;
}

static struct local_held *held_pop(struct local_peer *peer)
{
    struct local_held *held = peer->held;

    peer->held = held->next;
    if (!peer->held)
        peer->held_tail = NULL;
    peer->n_held--;
    held->next = NULL;
    return held;
}

static void held_put(struct local_peer *peer, struct local_held *held)
{
    if (peer->n_held == LOCAL_HELD_MAX)
        local_held_free(held_pop(peer));
    if (peer->held_tail)
        peer->held_tail->next = held;
    else
        peer->held = held;
    peer->held_tail = held;
    peer->n_held++;
}

/* Whatever descriptors came, at most two. @return how many */
static int received_fds(struct msghdr *msg, int fds[2])
{
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg);
    size_t n;

    if (!cmsg || cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
        return 0;
    n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    n = n < 2 ? n : 2;
    memcpy(fds, CMSG_DATA(cmsg), n * sizeof(int));
    return (int)n;
}

/* @return whether the descriptors were taken over */
static bool take_note(struct local *l, const struct door_note *note, const int fds[2])
{
    struct local_held *held;

    if (note->magic != DOOR_MAGIC || note->from >= l->area.sb.parts || note->from == l->self || note->reserved ||
        note->incarnation != area_incarnation(&l->area, note->from))
        return false;
    held = calloc(1, sizeof(*held));
    if (!held)
        return false;
    *held = (struct local_held){.incarnation = note->incarnation,
                                .memory_seq = note->memory_seq,
                                .shmid = note->shmid,
                                .rw = fds[0],
                                .ro = fds[1]};
    held_put(&l->peer[note->from], held);
    return true;
}

enum came { CAME_NOTHING, CAME_KNOCK, CAME_OTHER };

/* One datagram. */
static enum came receive_one(struct local *l)
{
    static struct log_limit limit = LOG_LIMIT_DEFAULT;
    struct {
        struct door_note note;
        char beyond; /* so that one that is too long is seen to be */
    } packet;
    struct iovec iov = {.iov_base = &packet, .iov_len = sizeof(packet.note) + 1};
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))]; /* the kernel closes what does not fit */
        struct cmsghdr align;
    } control;
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    int fds[2] = {-1, -1};
    ssize_t n = recvmsg(l->door_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int n_fds;

    if (n < 0)
        return CAME_NOTHING;
    n_fds = received_fds(&msg, fds);
    if (n == 0 && n_fds == 0 && !(msg.msg_flags & MSG_CTRUNC))
        return CAME_KNOCK;
    if (n == (ssize_t)sizeof(packet.note) && n_fds == 2 && !(msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) &&
        take_note(l, &packet.note, fds))
        return CAME_OTHER;
    log_limited(&limit, LOG_LEVEL_WARNING, "%s: a datagram at the door that makes no sense was dropped", l->path);
    close_fd(fds[0]);
    close_fd(fds[1]);
    return CAME_OTHER;
}

/* A knock seldom has anything behind it; if it does, the door stays readable. */
bool local_door_drain(struct local *l)
{
    enum came came = CAME_OTHER;
    int n = 0;

    while (n < DOOR_AT_ONCE && came == CAME_OTHER) {
        came = receive_one(l);
        n += came != CAME_NOTHING;
    }
    return n > 0;
}

struct local_held *local_door_take(struct local *l, uint32_t from, uint32_t memory_seq)
{
    struct local_peer *peer = &l->peer[from];
    uint32_t incarnation = area_incarnation(&l->area, from);

    while (peer->held) {
        struct local_held *held = peer->held;

        if (held->incarnation == incarnation && held->memory_seq == memory_seq)
            return held_pop(peer);
        if (held->incarnation == incarnation && (int32_t)(held->memory_seq - memory_seq) > 0)
            return NULL; /* of a later message */
        local_held_free(held_pop(peer));
    }
    return NULL;
}

static void forget_held(struct local_peer *peer, uint32_t incarnation)
{
    uint32_t n = peer->n_held;

    while (n--) {
        struct local_held *held = held_pop(peer);

        if (incarnation && held->incarnation != incarnation)
            held_put(peer, held); /* its successor's */
        else
            local_held_free(held);
    }
}

void local_peer_forget(struct local *l, uint32_t part, uint32_t incarnation)
{
    struct local_peer *peer = &l->peer[part];
    struct local_queued *q;

    while ((q = peer->head) && (!incarnation || peer->queue_incarnation == incarnation)) {
        peer->head = q->next;
        peer->queued--;
        free(q);
    }
    if (!peer->head)
        peer->tail = NULL;
    forget_held(peer, incarnation);
    peer->fd = close_fd(peer->fd);
}
