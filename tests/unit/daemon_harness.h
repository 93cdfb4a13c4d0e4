/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A whole clshmd (keeper and daemon) with a core and a fabric that are stubs; the test is its client. What the stubs saw
 * is in a page that all of them share.
 */
#ifndef CLSHM_TESTS_UNIT_DAEMON_HARNESS_H
#define CLSHM_TESTS_UNIT_DAEMON_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <poll.h>

#include "src/daemon/daemon.h"

#define LIMIT_MS   10000
#define KEY_NEVER  666 /* a GET that the core never answers */
#define CLIENTS    6u  /* limit of the uid */
#define SHMID_REAL 5   /* OPEN gives a descriptor */

struct seen {
    pid_t daemon;
    int news, gones, forks, disconnects, pids, left, destroyed, entries;
    uint32_t entry_count; /* of the entry that was read last; who uses something, as the core tells it */
};

struct answer {
    struct clshmd_header header;
    unsigned char payload[CLSHMD_PACKET_MAX];
};

struct client_page {
    int sock, fd;
    uint64_t token;
    uint32_t entries;
};

extern struct seen *seen;
extern struct daemon_options options;
extern pid_t keeper;
extern int fds_of_call[3]; /* that came with the last call()'s answer */
extern unsigned n_fds_of_call;

uint64_t now_ms(void);
int connect_daemon(void);
/* @return the answer's size, 0: the end. */
ssize_t receive(int fd, struct answer *a, int fds[3], unsigned *n_fds);
void send_request(int fd, uint16_t op, uint32_t seq, const void *payload, size_t size);
/* @return the answer's error. */
int call(int fd, uint16_t op, const void *payload, size_t size, struct answer *a);
void close_call_fds(void);
bool at_end(int fd);
struct client_page hello(void);
int hello_tool(void);
/* Of the daemon. */
int open_descriptors(void);
/* Wait for the keeper's end. */
int keeper_status(void);

int setup(void **state);
int teardown(void **state);
int setup_group(void **state);
int teardown_group(void **state);

/* Wait until @what holds. */
#define EVENTUALLY(what)                                                                                               \
    do {                                                                                                               \
        uint64_t end_ = now_ms() + LIMIT_MS;                                                                           \
        while (!(what)) {                                                                                              \
            if (now_ms() > end_)                                                                                       \
                fail_msg("never: %s", #what);                                                                          \
            poll(NULL, 0, 2);                                                                                          \
        }                                                                                                              \
    } while (0)

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
