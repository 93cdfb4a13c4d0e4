/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The keeper: clshmd's small parent process. It holds a copy of every descriptor that must outlive the daemon, starts
 * the daemon again when it dies, and hands all descriptors over. It knows nothing of segments.
 *
 *     daemon                                keeper
 *       | <--- HERE kind, id, fd ------------ |  one for each kept descriptor, at start
 *       | <--- START restarts --------------- |  that was all
 *       | ---- KEEP kind, id, fd -----------> |
 *       | ---- FORGET kind, id -------------> |
 *       | ---- READY -----------------------> |  serving: the backoff begins anew, systemd is told
 *       | ---- QUIT ------------------------> |  shut down in good order: do not start it again
 *
 * SOCK_SEQPACKET, one struct keeper_msg a packet, at most one descriptor with it. Restarts are immediate the first
 * time, then wait 50 ms, doubled up to 2 s, while the daemon dies before it is READY. KEEP is not answered: a daemon
 * that dies right after sending has been heard, since the socket's queue outlives it.
 */
#ifndef CLSHM_DAEMON_KEEPER_H
#define CLSHM_DAEMON_KEEPER_H

#include <stdint.h>

enum keeper_op {
    KEEPER_HERE = 1,
    KEEPER_START = 2,
    KEEPER_KEEP = 3,
    KEEPER_FORGET = 4,
    KEEPER_READY = 5,
    KEEPER_QUIT = 6,
};

struct keeper_msg {
    uint32_t op;   /* enum keeper_op */
    uint32_t kind; /* enum keep_kind */
    uint64_t id;
};

/*
 * How the daemon ends. KEEPER_EXIT_FAILED and KEEPER_EXIT_USAGE before anything was ever READY: the keeper ends with the
 * same status, for trying again would not help. KEEPER_EXIT_ANEW: what was kept belongs to a membership that is no more;
 * it is dropped before the next start, but for the clients' socket, the settings, and the life file, by which the fabric
 * sees that the id was this partition's.
 */
#define KEEPER_EXIT_FAILED 1
#define KEEPER_EXIT_USAGE  2
#define KEEPER_EXIT_ANEW   75

/* KEEP_LISTEN's ids: who made the clients' socket, and so who removes it. */
#define KEEPER_LISTEN_OWN     0u
#define KEEPER_LISTEN_SYSTEMD 1u

/*
 * Run the keeper: fork daemon_main(@sock) again and again until it quits. In the daemon SIGTERM, SIGINT, SIGHUP and
 * SIGCHLD are blocked, and it is killed when the keeper dies. @return the exit status for main().
 */
int keeper_run(int (*daemon_main)(int sock, void *ctx), void *ctx);

/* The daemon's side. keeper_send(): @fd stays the caller's; waits a moment for room, at most a second (EAGAIN).
 * keeper_receive(): *@fd is the caller's, -1 if none came; EAGAIN: nothing there; ENOTCONN: the keeper is gone. */
int keeper_send(int sock, uint32_t op, uint32_t kind, uint64_t id, int fd);
int keeper_receive(int sock, struct keeper_msg *msg, int *fd);

#endif
