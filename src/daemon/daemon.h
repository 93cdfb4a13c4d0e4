/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's own state, and what its files offer one another. Lowest first:
 *
 *   kept.c     descriptors from and to the keeper
 *   session.c     connections: packets in, a bounded queue out, rights of the peer
 *   client.c   client pages: made, adopted, probed; tokens
 *   request.c  the table of requests; what the library asks
 *   admin.c    what the tools ask
 *   glue.c     struct core_ops on the fabric, struct fabric_events on the core
 *   stop.c     shutdown and eviction
 *   loop.c     start, the event loop, timers
 *
 * What always holds
 *   - a client number is in use in the core exactly while client_at() gives it (or a tool's connection owns it);
 *   - a request that the core has not answered has a struct pending; its connection is NULL once that has closed;
 *   - connections are freed between two dispatches only (daemon.dead), so that nobody holds a freed one.
 */
#ifndef CLSHM_DAEMON_DAEMON_H
#define CLSHM_DAEMON_DAEMON_H

#include <sys/types.h>
#include <systemd/sd-event.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#include "src/core/core.h"
#include "src/daemon/config.h"
#include "src/daemon/keeper.h"
#include "src/fabric/ops.h"
#include "src/util/cleanup.h"
#include "src/util/log.h"
#include "src/util/spin.h"

#define NO_CLIENT UINT32_MAX

/* How many requests one connection is served before the others have their turn. */
#define SESSION_BATCH 16
/* Packets that wait for a peer that does not read; one more disconnects it. */
#define SESSION_QUEUE_MAX 64u
/* Of each connection, so that a peer that does not read holds little of the kernel's memory and few descriptors in flight. */
#define SESSION_SNDBUF 32768
/* Connections of a uid beyond its clients, for tools; as many again are told EAGAIN, the rest is closed at once. */
#define SESSION_SPARE    16u
#define SESSION_HELLO_MS 10000u
#define SESSION_FDS_MAX  3

struct daemon_options {
    struct config config;
    char fabric[CONFIG_PATH_MAX];
    char partition[FABRIC_NAME_MAX];
    char socket[108]; /* sun_path */
};

struct user {
    uint32_t uid;
    uint32_t conns;
    UT_hash_handle hh;
};

struct packet {
    struct packet *next;
    size_t size;
    unsigned n_fds;
    int fds[SESSION_FDS_MAX];
    unsigned char data[];
};

struct session {
    struct daemon *d;
    int fd;
    sd_event_source *io;
    struct user *user;
    uint32_t uid, gid;
    int32_t pid;
    uint32_t *groups, n_groups;
    struct client *client; /* NULL: none (yet), or a tool */
    uint32_t tool_client;  /* a tool's number in the core, NO_CLIENT: it needed none so far */
    bool tool, hello, refused, dead;
    uint64_t since_ms;
    struct packet *out, *out_last;
    unsigned n_out;
    unsigned n_waiting; /* requests that the core has not answered */
    char *dump;         /* what DUMP hands out in parts */
    struct session *prev, *next;
};

/* A client page. */
struct client {
    struct daemon *d;
    uint32_t number;
    uint64_t token;
    uint64_t parent; /* token of the client that forked it, until it connects; 0: none */
    uint32_t uid;
    int32_t pid;              /* 0: not known */
    int pidfd;                /* of the newest connection's peer; -1: none */
    sd_event_source *exit_io; /* waits for it to end, when the last connection ended before the page was let go of */
    int fd;                   /* the page, by the description that holds no lock */
    uint32_t pages;
    uint32_t conns;
    UT_hash_handle hh;          /* by token */
    struct client *prev, *next; /* all */
};

struct pending {
    uint32_t generation;
    uint32_t next_free;
    struct session *conn; /* NULL: free, or nobody waits for the answer any more */
    bool used;
    uint16_t op;
    uint32_t seq;
    uint64_t begin_ns;
};

struct daemon {
    const struct daemon_options *options;
    struct config config;
    sd_event *event;
    int keeper;
    uint32_t restarts;
    const struct fabric_ops *ops;
    struct fabric *fabric;
    struct core *core;
    const struct fabric_superblock *sb;
    uint64_t now_ms;
    int64_t now_s;

    int listen;
    bool listen_own;
    sd_event_source *listen_io, *fabric_io, *keeper_io, *tick_timer, *beat_timer, *poll_timer, *stop_timer,
        *stop_ask_timer;

    struct spin spin;
    bool served; /* a request or message came since the loop last waited: another may follow soon */

    struct session *conns, *dead;
    uint32_t n_conns;
    struct user *users;
    struct pending *pending;
    uint32_t n_pending, free_pending;

    struct client *by_token, *clients;
    struct client **numbers; /* by client number; tools' numbers have no client but `taken` */
    bool *taken;
    uint32_t n_numbers, number_hint, beats;
    struct client *probe_next;

    int settings; /* memfd kept by the keeper, -1 */
    bool stopping;
    bool stop_users, stop_killed; /* processes that use segments are ended; SIGKILL was sent */
    uint64_t stop_began_ms;
    uint64_t stop_tag; /* of the shutdown that waits for the importers' counts; valid while stop_ask_timer is set */
    uint64_t stop_asked_ms;
    int exit_status; /* -1: go on */
};

/* ------------------------------------------------------------------ loop.c */

int daemon_main(int keeper, void *options);
void daemon_exit(struct daemon *d, int status);
/* A request or message may have set a deadline. */
void daemon_rearm(struct daemon *d);
void daemon_poll_timer(struct daemon *d);

/* ------------------------------------------------------------------ kept.c */

struct kept_fd {
    uint32_t kind;
    uint64_t id;
    int fd;
};

/* Everything the keeper has, to the START message. @return 0, or an errno; *@out is the caller's to free. */
int kept_receive(int keeper, struct kept_fd **out, size_t *n, uint32_t *restarts);
int daemon_keep(struct daemon *d, enum keep_kind kind, uint64_t id, int fd);
void daemon_unkeep(struct daemon *d, enum keep_kind kind, uint64_t id);
void settings_adopt(struct daemon *d, int fd);
void settings_store(struct daemon *d);

/* ------------------------------------------------------------------ listen.c, session.c */

int daemon_listen(struct daemon *d);
int daemon_accept_enable(struct daemon *d, bool on);
void daemon_unlisten(struct daemon *d, bool remove);

void session_close(struct session *c);
void session_reap(struct daemon *d);
/* Close what never said HELLO; accept again. Once per heartbeat. */
void session_beat(struct daemon *d);
/* Answer; takes the descriptors. */
void session_reply(struct session *c, uint16_t op, uint32_t seq, int error, const void *payload, size_t size, int *fds,
                   unsigned n_fds);
/* The same, and the conversation is over. */
void session_fail(struct session *c, uint16_t op, uint32_t seq, int error);
struct core_cred session_cred(const struct session *c);
bool session_admin(const struct session *c);

/* ------------------------------------------------------------------ client.c */

/* A new page for @uid. @parent: NULL, or whose grants it inherits. *@page: a locked descriptor to pass on. */
int client_new(struct daemon *d, uint32_t uid, int32_t pid, struct client *parent, struct client **out, int *page);
/* A page that an earlier daemon made; takes @fd. */
void client_adopt(struct daemon *d, uint64_t id, int fd);
struct client *client_find(struct daemon *d, uint64_t token);
struct client *client_at(struct daemon *d, uint32_t number);
void client_attach(struct client *client, struct session *c);
void client_detach(struct client *client);
void client_probe(struct client *client);
void client_beat(struct daemon *d);
int client_grow(struct client *client);
uint32_t client_entries(const struct client *client);
bool client_entry(struct daemon *d, uint32_t number, uint32_t entry, struct clshmd_entry *out);
/* A number in the core for a connection without a page. */
int client_number_take(struct daemon *d, uint32_t *out);
void client_number_give(struct daemon *d, uint32_t number);
void client_free_all(struct daemon *d);

/* ------------------------------------------------------------------ request.c, admin.c */

/* One packet of @c: checked, looked up, handled. */
void request_handle(struct session *c, const void *packet, size_t size);
/* Answers of the core. */
void request_reply(struct daemon *d, uint64_t tag, int error, const void *payload, size_t size, int32_t grant_shmid,
                   uint32_t grant_prot);
void request_forget(struct session *c);

/* A request in hand: who asked, and how it is answered. */
struct request {
    struct session *conn;
    struct daemon *d;
    uint16_t op;
    uint32_t seq;
    const void *payload;
};
void request_done(const struct request *r, int error, const void *payload, size_t size);
/* Hand it to the core: a tag and a client number, or it is answered here. @return false: answered. */
bool request_pend(const struct request *r, uint32_t *client, uint64_t *tag);

void admin_status(const struct request *r);
void admin_config(const struct request *r);
void admin_segments(const struct request *r);
void admin_users(const struct request *r);
void admin_ping(const struct request *r);
void admin_evict(const struct request *r);
void admin_shutdown(const struct request *r);
void admin_dump(const struct request *r);

/* ------------------------------------------------------------------ glue.c */

extern const struct core_ops glue_core_ops;
extern const struct fabric_events glue_fabric_events;

/* ------------------------------------------------------------------ stop.c */

/* Processes and partitions that use something of this partition. */
bool stop_in_use(struct daemon *d);
/* Nobody here does, perhaps others: ask them, then begin to stop and answer request @tag with 0, or with EBUSY. */
void stop_ask(struct daemon *d, uint64_t tag);
/* Begin to stop; @kill_users: processes are ended first. */
void stop_begin(struct daemon *d, bool kill_users);
void stop_evicted(struct daemon *d);

#endif
