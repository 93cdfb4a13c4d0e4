/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The keeper process. Its state is the table of kept descriptors, keyed by (kind, id), and the one child.
 *
 * What always holds: a descriptor in the table is open and the keeper's own; the table changes only by what the daemon
 * says, by KEEPER_EXIT_ANEW, and at the end. A child that ended is reaped only after its socket has been read to the
 * end, so that nothing it said is lost.
 */
#include "src/daemon/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "src/fabric/ops.h"
#include "src/util/cleanup.h"
#include "src/util/log.h"

#define NOFILE_MOST    1048576u
#define BACKOFF_FIRST  50u
#define BACKOFF_MOST   2000u
#define FAILURES_MOST  10u    /* deaths before anything was ever ready, after which the keeper gives up */
#define STOP_LIMIT_MS  30000u /* a daemon that was told to stop is killed after this */
#define RETRY_MS       10     /* too many descriptors are in flight: look again */
#define MESSAGES_BATCH 64

struct kept {
    struct {
        uint64_t kind, id;
    } key;
    int fd;
    UT_hash_handle hh;
};

struct keeper {
    struct kept *kept;
    struct kept *next; /* to be handed over; only while `handing` */
    pid_t child;       /* 0: none */
    int sock, signals;
    uint32_t restarts, failures;
    uint64_t stop_at; /* monotonic ms; 0: nobody was told to stop */
    bool handing;     /* HERE messages and START are not all sent */
    bool ready, ever_ready, quit, stopping;
};

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

/* ------------------------------------------------------------------ the table */

static struct kept *kept_find(struct keeper *k, uint64_t kind, uint64_t id)
{
    struct kept key, *found;

    memset(&key, 0, sizeof(key));
    key.key.kind = kind;
    key.key.id = id;
    HASH_FIND(hh, k->kept, &key.key, sizeof(key.key), found);
    return found;
}

static void kept_drop(struct keeper *k, struct kept *kept)
{
    if (k->next == kept)
        k->next = kept->hh.next;
    HASH_DEL(k->kept, kept);
    close_fd(kept->fd);
    free(kept);
}

/* Takes @fd, whatever happens. */
static int kept_put(struct keeper *k, uint64_t kind, uint64_t id, int fd)
{
    struct kept *kept = kept_find(k, kind, id);

    if (kept) {
        close_fd(kept->fd);
        kept->fd = fd;
        return 0;
    }
    kept = calloc(1, sizeof(*kept));
    if (!kept) {
        close_fd(fd);
        return ENOMEM;
    }
    kept->key.kind = kind;
    kept->key.id = id;
    kept->fd = fd;
    HASH_ADD(hh, k->kept, key, sizeof(kept->key), kept);
    if (!kept->hh.tbl) { /* uthash's mark of "no memory" */
        close_fd(fd);
        free(kept);
        return ENOMEM;
    }
    return 0;
}

static void kept_drop_all(struct keeper *k, bool also_lasting)
{
    struct kept *kept, *tmp;

    HASH_ITER (hh, k->kept, kept, tmp) {
        bool lasting = kept->key.kind == KEEP_LISTEN || kept->key.kind == KEEP_SETTINGS || kept->key.kind == KEEP_LIFE;
        if (also_lasting || !lasting)
            kept_drop(k, kept);
    }
}

/* ------------------------------------------------------------------ the socket */

static int send_message(int sock, const struct keeper_msg *msg, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(__alignof__(struct cmsghdr)))) = {0};
    struct iovec iov = {.iov_base = (void *)msg, .iov_len = sizeof(*msg)};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        struct cmsghdr *cmsg;

        hdr.msg_control = control;
        hdr.msg_controllen = sizeof(control);
        cmsg = CMSG_FIRSTHDR(&hdr);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
    }
    return sendmsg(sock, &hdr, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? errno : 0;
}

/* @return EAGAIN: nothing there; ENOTCONN: end. @fd: the caller's, -1 if none came. */
static int receive_message(int sock, struct keeper_msg *msg, int *fd)
{
    char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(__alignof__(struct cmsghdr))));
    struct iovec iov = {.iov_base = msg, .iov_len = sizeof(*msg)};
    struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(sock, &hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    *fd = -1;
    if (n < 0)
        return errno == ECONNRESET ? ENOTCONN : errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&hdr); c; c = CMSG_NXTHDR(&hdr, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
            memcpy(fd, CMSG_DATA(c), sizeof(int));
    if (n == 0)
        return ENOTCONN;
    if (hdr.msg_flags & MSG_CTRUNC)
        log_error("keeper: a descriptor of kind %u was lost: no more can be open (EMFILE)", msg->kind);
    if ((size_t)n != sizeof(*msg))
        msg->op = 0;
    return 0;
}

int keeper_send(int sock, uint32_t op, uint32_t kind, uint64_t id, int fd)
{
    struct keeper_msg msg = {.op = op, .kind = kind, .id = id};

    for (int tries = 0;; tries++) {
        int error = send_message(sock, &msg, fd);
        struct pollfd p = {.fd = sock, .events = POLLOUT};

        if ((error != EAGAIN && error != ETOOMANYREFS) || tries == 100)
            return error;
        /* The keeper does nothing but read this socket: it is a moment, or the keeper is stopped. */
        poll(error == EAGAIN ? &p : NULL, error == EAGAIN ? 1 : 0, RETRY_MS);
    }
}

int keeper_receive(int sock, struct keeper_msg *msg, int *fd)
{
    return receive_message(sock, msg, fd);
}

static void keeper_ready(struct keeper *k)
{
    k->ready = true;
    k->ever_ready = true;
    k->failures = 0;
    sd_notifyf(0, "READY=1\nSTATUS=Serving, %u restarts", k->restarts);
}

static void keeper_hear(struct keeper *k, const struct keeper_msg *msg, int fd)
{
    struct kept *kept;
    int error = 0;

    switch (msg->op) {
    case KEEPER_KEEP:
        if (fd >= 0)
            error = kept_put(k, msg->kind, msg->id, steal_fd(&fd));
        if (error)
            log_error("keeper: a descriptor of kind %u was lost: no memory (ENOMEM)", msg->kind);
        break;
    case KEEPER_FORGET:
        kept = kept_find(k, msg->kind, msg->id);
        if (kept)
            kept_drop(k, kept);
        break;
    case KEEPER_READY:
        keeper_ready(k);
        break;
    case KEEPER_QUIT:
        k->quit = true;
        if (!k->stop_at)
            k->stop_at = now_ms() + STOP_LIMIT_MS;
        sd_notify(0, "STOPPING=1");
        break;
    default:
        log_warning("keeper: the daemon sent an unknown message %u", msg->op);
    }
    close_fd(fd);
}

/* @return false: the daemon has closed its end. */
static bool keeper_read(struct keeper *k, int most)
{
    for (int i = 0; i < most; i++) {
        struct keeper_msg msg;
        int fd, error = receive_message(k->sock, &msg, &fd);

        if (error == EAGAIN)
            return true;
        if (error == EINTR)
            continue;
        if (error)
            return false;
        keeper_hear(k, &msg, fd);
    }
    return true;
}

/* Hand over as much as the socket takes. @return whether to wait for room (0), for descriptors in flight (ms), or -1: done. */
static int keeper_hand_over(struct keeper *k)
{
    while (k->handing) {
        struct keeper_msg msg = {.op = KEEPER_START, .id = k->restarts};
        int error, fd = -1;

        if (k->next) {
            msg.op = KEEPER_HERE;
            msg.kind = (uint32_t)k->next->key.kind;
            msg.id = k->next->key.id;
            fd = k->next->fd;
        }
        error = send_message(k->sock, &msg, fd);
        if (error == EINTR)
            continue;
        if (error == EAGAIN)
            return 0;
        if (error == ETOOMANYREFS || error == ENOBUFS || error == ENOMEM)
            return RETRY_MS;
        if (error || !k->next)
            k->handing = false; /* all sent, or the daemon is gone: SIGCHLD follows */
        else
            k->next = k->next->hh.next;
    }
    return -1;
}

/* ------------------------------------------------------------------ the child */

static void keeper_signals(struct keeper *k)
{
    struct signalfd_siginfo info;

    while (read(k->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        k->stopping = true;
        if (k->child > 0) {
            kill(k->child, SIGTERM);
            if (!k->stop_at)
                k->stop_at = now_ms() + STOP_LIMIT_MS;
        }
    }
}

static int keeper_fork(struct keeper *k, int (*daemon_main)(int sock, void *ctx), void *ctx)
{
    int pair[2];
    pid_t self = getpid();

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return errno;
    fflush(NULL);
    k->child = fork();
    if (k->child < 0) {
        int error = errno;
        k->child = 0;
        close_fd(pair[0]);
        close_fd(pair[1]);
        return error;
    }
    if (k->child == 0) {
        int status = KEEPER_EXIT_FAILED;

        close_fd(pair[0]);
        k->signals = close_fd(k->signals);
        kept_drop_all(k, true);
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == self)
            status = daemon_main(pair[1], ctx);
        exit(status);
    }
    close_fd(pair[1]);
    k->sock = pair[0];
    k->next = k->kept;
    k->handing = true;
    k->ready = false;
    k->stop_at = 0;
    return 0;
}

static int keeper_timeout(const struct keeper *k, int retry)
{
    uint64_t now;

    if (!k->stop_at)
        return retry > 0 ? retry : -1;
    now = now_ms();
    if (now >= k->stop_at)
        return 0;
    return retry > 0 ? retry : (int)(k->stop_at - now);
}

/* Serve the child until it has ended. @return its wait status. */
static int keeper_serve(struct keeper *k)
{
    bool open = true;
    int status = 0;

    while (waitpid(k->child, &status, WNOHANG) == 0) {
        int retry = open ? keeper_hand_over(k) : -1;
        struct pollfd p[2] = {
            {.fd = k->signals, .events = POLLIN},
            {.fd = open ? k->sock : -1, .events = (short)(POLLIN | (retry == 0 ? POLLOUT : 0))},
        };

        if (poll(p, 2, keeper_timeout(k, retry)) < 0 && errno != EINTR)
            log_error("keeper: poll failed: %s", strerror(errno));
        if (k->stop_at && now_ms() >= k->stop_at) {
            log_error("daemon %d: it was told to stop and did not: killed", (int)k->child);
            kill(k->child, SIGKILL);
            k->stop_at = now_ms() + STOP_LIMIT_MS;
        }
        keeper_signals(k);
        if (open && p[1].revents)
            open = keeper_read(k, MESSAGES_BATCH);
    }
    while (open && keeper_read(k, 1)) { /* what it said last */
        struct pollfd p = {.fd = k->sock, .events = POLLIN};
        if (poll(&p, 1, 0) <= 0)
            break;
    }
    k->sock = close_fd(k->sock);
    k->child = 0;
    k->next = NULL;
    k->handing = false;
    return status;
}

/* ------------------------------------------------------------------ what next */

static void log_end(const struct keeper *k, int status)
{
    if (WIFSIGNALED(status))
        log_warning("daemon: it was ended by signal %d (%s)%s", WTERMSIG(status), strsignal(WTERMSIG(status)),
                    k->stopping || k->quit ? "" : "; starting it again");
    else if (!k->quit)
        log_warning("daemon: it ended with status %d%s", WEXITSTATUS(status), k->stopping ? "" : "; starting it again");
}

/* The child ended with @status. @return true: the keeper ends as well, with *@exit_status. */
static bool keeper_decide(struct keeper *k, int status, int *exit_status)
{
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : KEEPER_EXIT_FAILED;
    bool permanent = WIFEXITED(status) && (code == KEEPER_EXIT_FAILED || code == KEEPER_EXIT_USAGE);

    *exit_status = code;
    if (!k->ever_ready && permanent)
        return true;
    log_end(k, status);
    if (k->quit || k->stopping)
        return true;
    if (!k->ready)
        k->failures++;
    if (!k->ever_ready && k->failures >= FAILURES_MOST) {
        log_error("daemon: it never came up in %u attempts: giving up", k->failures);
        *exit_status = KEEPER_EXIT_FAILED;
        return true;
    }
    if (WIFEXITED(status) && code == KEEPER_EXIT_ANEW)
        kept_drop_all(k, false);
    k->restarts++;
    return false;
}

static uint64_t backoff_ms(uint32_t failures)
{
    uint64_t ms = BACKOFF_FIRST;

    if (failures <= 1)
        return 0;
    for (uint32_t i = 2; i < failures && ms < BACKOFF_MOST; i++)
        ms *= 2;
    return ms < BACKOFF_MOST ? ms : BACKOFF_MOST;
}

static void keeper_wait(struct keeper *k)
{
    uint64_t end = now_ms() + backoff_ms(k->failures);

    for (uint64_t now = now_ms(); now < end && !k->stopping; now = now_ms()) {
        struct pollfd p = {.fd = k->signals, .events = POLLIN};

        poll(&p, 1, (int)(end - now));
        keeper_signals(k);
    }
    keeper_signals(k);
}

/* ------------------------------------------------------------------ start */

static uint64_t nr_open(void)
{
    unsigned long long most = NOFILE_MOST;
    FILE *f = fopen("/proc/sys/fs/nr_open", "re");

    if (f) {
        if (fscanf(f, "%llu", &most) != 1)
            most = NOFILE_MOST;
        fclose(f);
    }
    return most < NOFILE_MOST ? most : NOFILE_MOST;
}

/* Every segment and client is a descriptor: take as many as there may be. */
static void raise_nofile(void)
{
    struct rlimit lim, more;

    if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
        return;
    more = lim;
    more.rlim_max = nr_open() > lim.rlim_max ? nr_open() : lim.rlim_max;
    more.rlim_cur = more.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &more) == 0)
        return;
    lim.rlim_cur = lim.rlim_max;
    setrlimit(RLIMIT_NOFILE, &lim);
}

static void take_listen_fds(struct keeper *k)
{
    int n = sd_listen_fds(1);
    bool taken = false;

    for (int fd = SD_LISTEN_FDS_START; n > 0 && fd < SD_LISTEN_FDS_START + n; fd++) {
        if (!taken && sd_is_socket(fd, AF_UNIX, SOCK_SEQPACKET, 1) > 0) {
            taken = kept_put(k, KEEP_LISTEN, KEEPER_LISTEN_SYSTEMD, fd) == 0;
            continue;
        }
        log_warning("LISTEN_FDS: descriptor %d is not the one listening SOCK_SEQPACKET socket that is expected: closed",
                    fd);
        close_fd(fd);
    }
}

static int keeper_init(struct keeper *k)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return errno;
    k->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (k->signals < 0)
        return errno;
    raise_nofile();
    take_listen_fds(k);
    return 0;
}

int keeper_run(int (*daemon_main)(int sock, void *ctx), void *ctx)
{
    struct keeper k = {.sock = -1, .signals = -1};
    int exit_status = KEEPER_EXIT_FAILED, error = keeper_init(&k);

    if (error) {
        log_error("keeper: cannot start: %s", strerror(error));
        return KEEPER_EXIT_FAILED;
    }
    while (!k.stopping) {
        /* A fork that fails counts as a daemon that crashed. */
        int status = SIGKILL;

        error = keeper_fork(&k, daemon_main, ctx);
        if (error)
            log_error("daemon: cannot be started: %s", strerror(error));
        else
            status = keeper_serve(&k);
        if (keeper_decide(&k, status, &exit_status))
            break;
        keeper_wait(&k);
    }
    kept_drop_all(&k, true);
    k.signals = close_fd(k.signals);
    return exit_status;
}
