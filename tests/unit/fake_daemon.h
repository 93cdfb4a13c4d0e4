/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A daemon for tests of the library: a process that speaks proto/clshmd.h, accepts every segment, and misbehaves as told.
 * What test and daemon both see is in memory that they share.
 */
#ifndef TESTS_UNIT_FAKE_DAEMON_H
#define TESTS_UNIT_FAKE_DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/clshmd.h"

#define FAKE_PARTS      4u
#define FAKE_SLOT_BITS  10u
#define FAKE_PART       1u
#define FAKE_GENS_BLOCK (FABRIC_PAGE + 4096u)
#define FAKE_SIZE       8192u /* of every segment */
#define FAKE_PAGES      64u

enum fake_trick {
    FAKE_HONEST = 0,
    FAKE_OTHER_MAJOR,  /* HELLO is answered by version 2 */
    FAKE_REFUSE,       /* ... with EPROTO */
    FAKE_WRONG_SEQ,    /* answers to another request */
    FAKE_WRONG_SIZE,   /* answers that are a byte too short */
    FAKE_LONG,         /* ... too long */
    FAKE_LIE_LENGTH,   /* a length that is not the packet's */
    FAKE_BAD_ERROR,    /* a negative error */
    FAKE_EXTRA_FD,     /* a descriptor that nobody asked for */
    FAKE_SILENT,       /* no answer */
    FAKE_BAD_GEOMETRY, /* a HELLO with 1000 partitions */
};

struct fake {
    _Atomic int trick;
    _Atomic int trick_op;   /* only for this opcode; 0: all but HELLO */
    _Atomic int drop_op;    /* do the next request of this opcode, then hang up instead of answering; once */
    _Atomic int fail_op;    /* answer requests of this opcode ... */
    _Atomic int fail_error; /* ... with this */
    _Atomic int hang_up;    /* close every connection; set back when done */
    _Atomic int forget;     /* forget all tokens; set back when done */
    _Atomic uint32_t grow_max;
    _Atomic int count[CLSHMD_OP_MAX];
    _Atomic uint64_t last_hello_token;
    _Atomic int made; /* segments made by GET, one for each token */
    _Atomic int removed;
    _Atomic int last_shmid, last_entry;
    _Atomic int ready;
    _Atomic int n_pages; /* client pages handed out so far */
    /* files that both map */
    int gens_fd, life_fd, memory_fd, page_fd[FAKE_PAGES];
    uint64_t token[FAKE_PAGES];
    pid_t pid;
    char dir[64], socket[96];
};

/* Start one in a new directory below /tmp, as user @uid. CLSHM_SOCKET names it from here on. */
struct fake *fake_start(uid_t uid);
/* End the daemon's process; its socket stays, and nobody listens. Start it again, with all that it knew;
 * with a delay it comes when it comes. */
void fake_kill(struct fake *f);
void fake_restart(struct fake *f, int delay_ms);
/* End it for good, remove its files. @return NULL. */
struct fake *fake_stop(struct fake *f);

/* Have it do @flag (hang_up or forget), and wait until it has. */
void fake_do(_Atomic int *flag);

/* The generation word of @shmid; the incarnation that partition @part has. */
uint32_t *fake_word(struct fake *f, int32_t shmid);
uint32_t *fake_incarnation(struct fake *f, uint32_t part);
/* The entries of the page that was handed out as number @n. */
const struct clshmd_entry *fake_entries(struct fake *f, int n);

#endif
