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

/* Run the keeper: fork daemon_main(@sock) again and again until it quits. @return the exit status for main(). */
int keeper_run(int (*daemon_main)(int sock, void *ctx), void *ctx);

#endif
