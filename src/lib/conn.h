/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A conversation with the daemon: connect, HELLO, then requests that each wait for their answer (proto/clshmd.h).
 * For library and tools. Not safe for threads: callers hold a lock.
 *
 * Functions return 0; a positive errno: the daemon's answer to this request, the conversation goes on; or a negative
 * errno: the conversation is over and the connection closed. conn.why then says what happened, for a person:
 *     -EIO      not reached, broke, answered garbage, or no answer in time
 *     -EPROTO   other major version
 *     -EACCES   (conn_open) the socket belongs to somebody else
 *     -EMFILE, -ENFILE, -ENOMEM   this process is short of it
 *
 *     struct conn c = CONN_INIT;
 *     struct clshmd_hello_reply hello;
 *     error = conn_open(&c, socket, 0);
 *     error = error ? error : conn_hello(&c, CLSHMD_HELLO_TOOL, 0, &hello, NULL, NULL, CONN_TIMEOUT_MS);
 *     error = error ? error : conn_call(&c, CLSHMD_STATUS, NULL, 0, &status, sizeof(status), NULL, NULL, CONN_TIMEOUT_MS);
 *     conn_close(&c);
 */
#ifndef CLSHM_LIB_CONN_H
#define CLSHM_LIB_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/clshmd.h"
#include "src/util/spin.h"

#define CONN_TIMEOUT_MS 10000u
#define CONN_WAIT_MS    3000u /* how long a daemon that restarts is waited for */
#define CONN_FDS_MAX    4u

struct conn {
    int fd; /* -1: not connected */
    dev_t dev;
    ino_t ino; /* programs close descriptors that are not theirs: is fd still this socket? */
    uint32_t seq;
    struct spin spin;
    char why[160];
};
#define CONN_INIT                                                                                                      \
    {                                                                                                                  \
        .fd = -1                                                                                                       \
    }

/* Connect to @socket. While nobody listens there, or there is no such socket, keep trying for @wait_ms. */
int conn_open(struct conn *conn, const char *socket, uint32_t wait_ms);

/* Is fd still the socket that was opened? */
bool conn_ours(const struct conn *conn);

/* Close, if it is still ours; else forget it. May be repeated. */
void conn_close(struct conn *conn);

/* Exchange versions. The caller closes the descriptors in @fds; positive errors: ESTALE (@token is not known), and what
 * the daemon may answer besides (EAGAIN: too many clients). */
int conn_hello(struct conn *conn, uint32_t flags, uint64_t token, struct clshmd_hello_reply *reply, int *fds,
               unsigned *n_fds, uint32_t timeout_ms);

/*
 * Send @request, wait for its answer, which must be of exactly @reply_size bytes. *@n_fds: in, how many descriptors must
 * come with an answer that is not an error (at most CONN_FDS_MAX; NULL: none); out, how many did, for the caller to
 * close. Fewer because this process has no room for them: EMFILE, and none are left open.
 */
int conn_call(struct conn *conn, enum clshmd_op op, const void *request, size_t size, void *reply, size_t reply_size,
              int *fds, unsigned *n_fds, uint32_t timeout_ms);
/* The same for who has just looked at conn_ours(). */
int conn_exchange(struct conn *conn, enum clshmd_op op, const void *request, size_t size, void *reply,
                  size_t reply_size, int *fds, unsigned *n_fds, uint32_t timeout_ms);

/* CLOCK_MONOTONIC, in milliseconds. */
uint64_t conn_now_ms(void);

#endif
