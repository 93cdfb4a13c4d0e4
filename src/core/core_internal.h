/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of the core share. See core.h for the objects; how they hang together:
 *
 *     client -- grant[entry] --> target  =  the beginning of a segment or of an import
 *       |                          |
 *       ops (pending)              grants (all clients')         segment.importers (one for each bit of r.importers)
 *       |
 *       op.wait says what it waits for; op.part, op.seg or op.imp says whose
 *
 * Who clears what: an op leaves through op_done() or op_drop() only; a grant through grant_end(); a segment through
 * segment_free(); an import through import_drop() or import_revoke(); a user's record with its last charge. Functions
 * whose name ends in _continue may free the object they are given.
 */
#ifndef CLSHM_CORE_INTERNAL_H
#define CLSHM_CORE_INTERNAL_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#include "src/core/core.h"
#include "src/core/record.h"

#define ID_NOBODY UINT32_MAX /* uid and gid of what strangers made: owned by nobody */

enum {
    REMOTE_OPS_MAX = 1024,     /* requests of one partition under way */
    GET_TRIES = 8,             /* a key that is found and gone again */
    FTOK_TRIES = 64,           /* keys tried */
    ENTRY_COUNT_MAX = 1 << 20, /* what a client's entry may say */
    RESEND_PARTS = 4,          /* a request is repeated this often until its deadline */
    RELEASE_BACKOFF = 32,      /* intervals between two RELEASE to an importer that is BUSY */
    WRAP_REST_S = 60,          /* rule 6 */
};

/* ------------------------------------------------------------------ timers: lists in the order they are due */

struct timer {
    struct timer *prev, *next;
    uint64_t due;
    bool armed;
};

enum timer_class { TIMER_OP, TIMER_IMPORT, TIMER_RELEASE, TIMER_CLASSES };

/* ------------------------------------------------------------------ quotas */

struct user {
    uint32_t uid;
    uint64_t segments, bytes, keys, grants, clients;
    uint64_t seen_segments, seen_bytes, seen_keys, seen_grants, seen_clients; /* core_check's */
    UT_hash_handle hh;
};

enum charge { CHARGE_NONE, CHARGE_KEY, CHARGE_SEGMENT };

/* ------------------------------------------------------------------ what is attached */

struct grant;

struct target {
    bool own; /* a struct segment, else a struct import */
    int32_t shmid;
    struct grant *grants;
    struct fabric_count fig; /* own: of all partitions but for nattch; import: of this one */
    uint32_t n_grants;
};

struct grant {
    struct client *client;
    struct target *target;
    uint32_t entry, prot;
    bool unborn;               /* copied by fork with a count that the child's page does not show yet */
    struct clshmd_entry seen;  /* as last read */
    struct grant *prev, *next; /* of the target */
};

/* ------------------------------------------------------------------ segments */

struct importer {
    struct importer *next;
    uint32_t part;
    struct fabric_count fig; /* as last reported */
    uint32_t release_seq;    /* of the RELEASE that is not answered; 0: none */
    uint32_t rest;           /* intervals to wait before the next one */
    bool counting;           /* asked by core_count(), has not answered: taken for attached */
};

struct segment {
    struct target t;
    uint32_t slot, gen, state, word;
    struct fabric_record r; /* our copy: the other partitions could write on the shared one */
    struct fabric_record *shared;
    struct user *payer;
    enum charge charge;
    uint64_t pages;
    struct importer *importers;
    struct op *maker;            /* makes its memory or claims its key */
    struct op *waiters;          /* wait for that */
    struct op *stats;            /* wait for figures of importers */
    bool memory_pending, doomed; /* doomed: removed while memory was being made */
    bool tokened;                /* it is in core.by_token */
    struct segment *next_token;  /* of its chain */
    struct timer release;
};

/* ------------------------------------------------------------------ imports */

struct import {
    struct target t;
    uint32_t part, incarnation; /* of the home; 0: not known (restored) */
    struct fabric_stat stat;
    bool has_stat;
    uint32_t seq;   /* of the IMPORT under way; 0: none */
    uint32_t tries; /* answers that were out of date when they came */
    struct op *waiters;
    UT_hash_handle hh; /* by t.shmid */
    struct timer timer;
};

/* ------------------------------------------------------------------ clients */

struct client {
    uint32_t id;
    int32_t pid, parent_pid;
    struct user *user;
    struct grant **grant; /* by entry */
    uint32_t n_grant;     /* size of that array */
    uint32_t held;        /* grants in it */
    struct op *ops;
    uint32_t n_ops;
    bool late; /* restored before its process had a pid: its parent may yet fill its page */
    UT_hash_handle hh;
};

/* ------------------------------------------------------------------ operations */

enum op_kind { OP_GET, OP_FTOK, OP_OPEN, OP_CTL, OP_SETPMO, OP_PING };
enum op_wait {
    WAIT_NOTHING,
    WAIT_LOOKUP, /* directory */
    WAIT_CLAIM,  /* directory; op.seg is the claimed one */
    WAIT_MEMORY, /* op.seg->maker */
    WAIT_MADE,   /* in op.seg->waiters */
    WAIT_IMPORT, /* in op.imp->waiters */
    WAIT_PEER,   /* DONE or PONG of op.part */
    WAIT_COUNT,  /* COUNTED of all of op.awaiting */
};

struct op {
    uint32_t id; /* ticket and seq */
    enum op_kind kind;
    enum op_wait wait;
    UT_hash_handle hh;

    /* who is to be answered: a client, a partition, or (both NULL and !remote) nobody any more */
    struct client *client;
    uint64_t tag;
    bool remote;
    uint32_t from, from_seq, from_epoch;
    struct op *client_prev, *client_next;

    struct core_cred cred; /* groups follow the op */
    uint32_t part;
    uint64_t awaiting;
    struct segment *seg;
    struct import *imp;
    struct op *wait_prev, *wait_next;
    struct timer timer;
    uint64_t deadline, began;
    uint32_t tries;
    bool made;             /* GET: this very request made it */
    bool again;            /* may be sent again without harm */
    struct fabric_msg msg; /* what was sent */
    union {
        struct clshmd_get get;
        struct clshmd_open open;
        struct clshmd_ctl ctl;
        struct clshmd_setpmo pmo;
        uint64_t token; /* FTOK */
    } req;
    uint32_t groups[];
};

struct member {
    enum core_member_state state;
    uint32_t incarnation;
    bool same_uids, seen;
    uint32_t n_ops; /* its requests under way here */
};

/* ------------------------------------------------------------------ the core */

struct queue {
    uint32_t *slot;
    uint32_t head, count;
};

struct core {
    struct core_params params;
    const struct core_ops *ops;
    void *ctx;
    uint64_t now_ms;
    int64_t now_s;
    char hostname[80];

    struct segment **segment;   /* by slot */
    struct queue free, resting; /* slots; resting: their ids would begin anew too early */
    int64_t rested;             /* when `resting` was last looked through */
    struct segment **by_token;  /* as many chains as there are slots */
    struct import *imports;
    struct client *clients;
    struct user *users;
    struct op *ops_by_id;
    struct member member[FABRIC_PARTS_MAX];

    struct timer *timers[TIMER_CLASSES];
    uint32_t next_id;
    uint32_t n_late;
    bool restored; /* until then clients are those that were there before: no limit applies */
    uint64_t key_counter;
    uint64_t n_segments, n_reserved, bytes, pages, n_grants; /* n_segments: all slots in use */

    struct { /* of the whole fabric, for INFO */
        bool known;
        uint64_t at_ms, used, pages;
        int32_t highest;
    } totals;
};

#define MEMBER(list_of, type, field) ((type *)(void *)((char *)(list_of)-offsetof(type, field)))

/* core.c */
void timer_arm(struct core *core, enum timer_class class, struct timer *timer, uint64_t due);
void timer_stop(struct core *core, enum timer_class class, struct timer *timer);
uint64_t interval_resend(const struct core *core);
uint64_t interval_op(const struct core *core);
bool member_reachable(const struct core *core, uint32_t part); /* ALIVE */
int member_error(const struct core *core, uint32_t part);      /* 0, EINVAL: never seen, EHOSTDOWN */
void core_send(struct core *core, uint32_t to, enum fabric_op op, uint32_t seq, int32_t shmid, struct fabric_msg *msg);

/* op.c */
struct op *op_new(struct core *core, enum op_kind kind, const struct core_cred *cred);
/* For a request of a client; answers EAGAIN or ENOMEM itself when there is none. */
struct op *op_request(struct core *core, uint32_t client, uint64_t tag, enum op_kind kind,
                      const struct core_cred *cred);
struct op *op_find(struct core *core, uint32_t id);
void op_done(struct core *core, struct op *op, int error, const void *payload, size_t size);
void op_done_grant(struct core *core, struct op *op, const struct clshmd_open_reply *reply, int32_t shmid,
                   uint32_t prot);
void op_done_stat(struct core *core, struct op *op, int error, int32_t shmid, const struct fabric_stat *stat);
/* log2 of its huge pages, 0: none; whether they are of the pool. */
uint32_t core_huge(const struct core *core, int32_t shmid, bool *pool);
void op_drop(struct core *core, struct op *op);    /* no answer */
void op_abandon(struct core *core, struct op *op); /* nobody waits for it: drop it, or let it end what it makes */
void op_wait_peer(struct core *core, struct op *op, uint32_t part); /* op->msg is filled: send it */
void op_deadline(struct core *core, struct op *op, uint64_t ms);
void op_timer(struct core *core, struct op *op);
bool op_stranger(const struct core *core, const struct op *op);

/* quota.c */
int user_charge_segment(struct core *core, uint32_t uid, uint64_t bytes, bool force, struct user **out);
int user_charge_key(struct core *core, uint32_t uid, bool force, struct user **out);
int user_charge_grant(struct core *core, struct user *user, bool force);
int user_charge_client(struct core *core, uint32_t uid, bool force, struct user **out);
void user_give_back(struct core *core, struct user *user, enum charge charge, uint64_t bytes);
void user_give_back_grant(struct core *core, struct user *user);
void user_give_back_client(struct core *core, struct user *user);

/* slots.c */
int slots_init(struct core *core);
void slots_deinit(struct core *core);
int slot_take(struct core *core, uint32_t *slot); /* ENOSPC */
void slot_give_back(struct core *core, uint32_t slot);
bool slot_begins_anew(const struct core *core, uint32_t gen);
void slots_restore(struct core *core);

/* segment.c */
int segment_find(const struct core *core, int32_t shmid, struct segment **out); /* EINVAL, EIDRM */
struct segment *segment_by_token(const struct core *core, uint64_t token, uint32_t uid);
/* A slot, charged, its record NEW with the body of @from. EINVAL: the size; ENOSPC, ENOMEM. */
int segment_new(struct core *core, const struct fabric_record *from, struct segment **out);
/* The struct for an existing record; charged. */
int segment_adopt(struct core *core, uint32_t slot, const struct fabric_record *from, struct segment **out);
int segment_charge(struct core *core, struct segment *seg, enum charge charge, uint32_t uid, uint64_t size, bool force);
void segment_publish(struct core *core, struct segment *seg, uint32_t state);
/* Its end: record FREE, key given up, memory destroyed. Who waits for it is the caller's. */
struct segment *segment_destroy(struct core *core, struct segment *seg);
struct segment *segment_free(struct core *core, struct segment *seg); /* the struct only */
int segment_size_check(const struct core *core, uint64_t size);
void segment_bump(struct core *core, struct segment *seg, bool mark);
bool segment_marked(const struct segment *seg);
void segment_stat(const struct segment *seg, struct fabric_stat *out);

/* removal.c */
struct importer *segment_importer(const struct segment *seg, uint32_t part);
int segment_add_importer(struct core *core, struct segment *seg, uint32_t part, bool publish);
void segment_drop_importer(struct core *core, struct segment *seg, uint32_t part); /* then segment_continue() */
void segment_remove(struct core *core, struct segment *seg);                       /* IPC_RMID; may free it */
void segment_autoremove(struct core *core, struct segment *seg);                   /* may free it */
void segment_continue(struct core *core, struct segment *seg);                     /* may free it */
void segment_release_timer(struct core *core, struct segment *seg);

/* get.c */
void get_begin(struct core *core, struct op *op);
void get_found(struct core *core, struct op *op, const struct core_found *found);
void get_own(struct core *core, struct op *op, struct segment *seg);
void get_remote_done(struct core *core, struct op *op, const struct fabric_msg *msg);
void get_reserved(struct core *core, struct op *op, struct segment *seg);

/* make.c */
void wait_made(struct op *op, struct segment *seg);
void make_begin(struct core *core, struct op *op, struct segment *seg);
void made_continue(struct core *core, struct segment *seg, const struct core_found *claimed);

/* key.c */
void ftok_begin(struct core *core, struct op *op);
void ftok_lost(struct core *core, struct op *op, const struct core_found *found);
void ftok_remote_done(struct core *core, struct op *op, const struct fabric_msg *msg);
void setpmo_found(struct core *core, struct op *op, const struct core_found *found);

/* attach.c */
bool grant_refresh(struct core *core, struct grant *grant);
struct grant *grant_new(struct core *core, struct client *client, uint32_t entry, struct target *target, uint32_t prot,
                        bool force, int *error);
void grant_end(struct core *core, struct grant *grant);           /* the target is not continued */
void target_recount(struct core *core, struct target *target);    /* fig.nattch, all grants read anew */
void target_end_unused(struct core *core, struct target *target); /* grants that count nothing */
void target_changed(struct core *core, struct target *target);
void target_continue(struct core *core, struct target *target);
void figures_merge(struct fabric_count *into, const struct fabric_count *from, const struct fabric_count *before);
void open_decide(struct core *core, struct op *op, struct target *target, const struct fabric_stat *stat, bool stranger,
                 uint32_t incarnation);

/* import.c */
struct import *import_find(const struct core *core, int32_t shmid);
struct import *import_new(struct core *core, int32_t shmid);
void import_open(struct core *core, struct op *op);
void import_ask(struct core *core, struct import *imp);
bool import_current(const struct core *core, const struct import *imp);
void import_continue(struct core *core, struct import *imp); /* may drop it */
void import_release(struct core *core, struct import *imp, uint32_t seq, uint32_t epoch);
void import_forget(struct core *core, struct import *imp); /* without a word */
void import_revoke(struct core *core, struct import *imp);
void import_timer(struct core *core, struct import *imp);
void importer_message(struct core *core, uint32_t from, const struct fabric_msg *msg, bool has_memory);

/* home.c */
void home_message(struct core *core, uint32_t from, const struct fabric_msg *msg);
void home_answer(struct core *core, uint32_t to, const struct fabric_msg *request, enum fabric_op op, int status,
                 int32_t shmid, const struct fabric_stat *stat, uint16_t flags);

/* ctl.c, stat.c */
int ctl_apply(struct core *core, struct segment *seg, const struct clshmd_ctl *req, const struct core_cred *cred,
              bool stranger); /* all but STAT and INFO; may free it */
void ctl_remote_done(struct core *core, struct op *op, const struct fabric_msg *msg);
void stat_begin(struct core *core, struct op *op, struct segment *seg);
void stat_answered(struct core *core, struct op *op, uint32_t part);
void stat_finish(struct core *core, struct op *op);
void info_done(struct core *core, struct op *op);

/* client.c */
struct client *core_find_client(const struct core *core, uint32_t id);
int core_adopt_client(struct core *core, struct client *client);
void clients_late(struct core *core); /* before something ends because nobody is counted: look at the late ones */

/* member.c */
void ping_done(struct core *core, struct op *op, const struct fabric_msg *msg);

#endif
