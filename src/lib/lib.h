/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The library's state and what its files call of one another. */
#ifndef CLSHM_LIB_LIB_H
#define CLSHM_LIB_LIB_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/clshmd.h"
#include "src/lib/conn.h"
#include "src/lib/entries.h"
#include "src/lib/grants.h"
#include "src/lib/keys.h"
#include "src/lib/path.h"
#include "src/lib/pieces.h"

#define LIB_GROUPS_MAX 65536 /* NGROUPS_MAX */

/* A file of the daemon's that is mapped here. */
struct mapping {
    void *base; /* NULL: not mapped */
    size_t size;
    dev_t dev;
    ino_t ino;
};

/* What lib_leave() puts back. */
struct lib_scope {
    int error, cancel;
};

struct lib {
    pthread_mutex_t lock;
    uint32_t *alive; /* LIB_ALIVE; a fork or clone wipes it */
    bool wipes;      /* or does it not? */
    struct conn conn;
    char socket[PATH_SOCKET_MAX]; /* where the daemon was found; empty: not yet */
    bool joined;                  /* geometry, gens and life are there */
    bool missing;                 /* the last attempt to connect failed: the next one does not wait */
    bool stale;                   /* the daemon does not know our page any more: the next HELLO begins anew */
    bool in_debt;                 /* some entry is owed a message (pay_debts()) */
    uint32_t hellos;              /* answered so far */
    struct clshmd_hello_reply geo;
    struct mapping page; /* entries.page is NULL while it is an ancestor's */
    struct mapping gens, life;
    uint64_t token; /* of the page */
    bool fixed;     /* nobody else can become of this process */
    uid_t uid;
    gid_t gid;
    int n_groups;
    bool heeded; /* credentials were looked at in this call */
    gid_t groups[LIB_GROUPS_MAX];
    struct entries entries;
    struct grants grants;
    struct pieces pieces;
    struct keys keys;
    /* between the fork handlers */
    struct mapping child_page;
    struct clshmd_fork_reply child;
    struct lib_scope fork_scope;
};
extern struct lib lib;

/* ------------------------------------------------------------------ session.c */

/* Begin and end a call: the lock, errno, cancellation. lib_leave() returns 0, or -1 with errno @error. */
void lib_enter(struct lib_scope *scope);
int lib_leave(const struct lib_scope *scope, int error);

/* Be joined, with the present credentials and a page of our own; connected only if that needs it. @return 0 or an errno. */
int lib_ready(void);
/* A request and its answer, as conn_call(), within @limit_ms; connects if need be and repeats what broke. *@repeated
 * becomes true if an earlier try may have reached the daemon (NULL: does not matter). @return 0 or a positive errno. */
int lib_call(enum clshmd_op op, const void *request, size_t size, void *reply, size_t reply_size, int *fds,
             unsigned *n_fds, uint32_t limit_ms, bool *repeated);
/* A number that no other request has. */
uint64_t lib_token(void);
/* The page is an ancestor's: begin anew at the next call. */
void lib_orphaned(void);
/* The generation word of @shmid, MARKED if it has none. The incarnation of its home, 0 if that is not up. */
uint32_t lib_word(int32_t shmid);
uint32_t lib_incarnation(int32_t shmid);

int mapping_map(struct mapping *m, int fd, size_t size, bool writable);
void mapping_unmap(struct mapping *m);

/* ------------------------------------------------------------------ fork.c */

#define LIB_ALIVE 2u

void fork_init(void);
/* Has this process come out of a clone that ran no handlers? Then begin anew. Before the lock is taken. */
void fork_check(void);

/* ------------------------------------------------------------------ user.c: memory that the caller of a call names */

int user_read(void *to, const void *from, size_t size); /* 0 or EFAULT */
int user_write(void *to, const void *from, size_t size);

/* ------------------------------------------------------------------ debug.c */

void lib_debug(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
