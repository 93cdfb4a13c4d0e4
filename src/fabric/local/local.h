/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The local fabric: partitions that share one kernel. What its files share.
 *
 *   format.c   mkfabric                              join.c     becoming a member and leaving; life file
 *   local.c    open, close, dispatch, the table      members.c  heartbeat and watch threads, eviction
 *   door.c     the datagram socket, descriptors      message.c  queues, rings
 *   driver.c   memory: the table of memfds           create.c   making a segment
 *   ring.c     the event ring                        worker.c   what takes long: reserve, free, lock
 *   room.c     how much memory may still be reserved  table.c    memory by shmid
 *   huge.c     huge pages
 *
 * One struct local is one member; any number of them live in one process. Threads: the daemon's loop calls all of
 * struct fabric_ops; heartbeat, watch and workers touch only what is said to be theirs below, and never call up.
 */
#ifndef CLSHM_FABRIC_LOCAL_H
#define CLSHM_FABRIC_LOCAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "proto/driver.h"
#include "proto/fabric.h"
#include "src/fabric/area/area.h"
#include "src/fabric/ops.h"

#define LOCAL_HEARTBEAT_MS 200u
#define LOCAL_STALLED      3u /* H missed: stalled */
#define LOCAL_DEAD         5u /* H missed: declared dead, if its life file's lock is free */
#define LOCAL_SLICE        (16u << 20)

/* ------------------------------------------------------------------ ring.c: the event ring */

/* Driver's threads push, the daemon's loop pops. The lock orders the pushers, and guards the ring against resizing. */
struct local_ring {
    pthread_mutex_t lock;
    pthread_cond_t room; /* signalled by pop; pushers that wait are counted */
    uint32_t waiters;
    bool stop; /* nobody waits any more */
    struct driver_ring *ring;
    uint32_t pages;
    int event_fd; /* readable when there may be something to do */
};

int local_ring_init(struct local_ring *ring, uint32_t pages);
void local_ring_deinit(struct local_ring *ring);
/* Full: with @wait block until there is room or the ring stops, else @return false. */
bool local_ring_push(struct local_ring *ring, const struct driver_event *event, bool wait);
bool local_ring_pop(struct local_ring *ring, struct driver_event *event);
int local_ring_resize(struct local_ring *ring, uint32_t pages);
void local_ring_stop(struct local_ring *ring);
void local_ring_poke(struct local_ring *ring);
uint32_t local_ring_pending(struct local_ring *ring);

/* ------------------------------------------------------------------ room.c */

/* Bytes that can be reserved before the machine, or a cgroup that this process is in, runs short. */
uint64_t local_room(void);

/* ------------------------------------------------------------------ worker.c */

enum local_job_kind {
    LOCAL_JOB_RESERVE, /* event CREATED at its end, unless cancelled */
    LOCAL_JOB_UNDO,    /* what RESERVE becomes when it fails or is cancelled */
    LOCAL_JOB_FREE,    /* event DESTROYED at its end */
    LOCAL_JOB_REVOKE,  /* make all of it unreachable at once; no event */
    LOCAL_JOB_LOCK,    /* bring in the pages of a locked mapping; the mapping goes when it was cancelled */
};

struct local_job {
    struct local_job *next;
    enum local_job_kind kind;
    int32_t shmid;
    int fd; /* its own descriptor */
    void *addr;
    uint64_t size, done;
    uint64_t slice;
    uint64_t serial;
    int status;
    bool cancelled;
    bool huge;   /* pages of the pool */
    bool advise; /* transparent ones are to be asked for */
};

#define LOCAL_WORKERS 2u

/* The queue is worked off a slice at a time, in turn, so that a large job does not keep a small one waiting. */
struct local_workers {
    pthread_mutex_t lock;
    pthread_cond_t more, ended;
    struct local_job *head, *tail;
    struct local_job *active[LOCAL_WORKERS];
    pthread_t thread[LOCAL_WORKERS];
    uint32_t started;
    bool stop;
    uint64_t serial;
    uint64_t reserving; /* bytes that RESERVE jobs have yet to reserve */
    struct local_ring *ring;
};

int local_workers_init(struct local_workers *workers, struct local_ring *ring);
void local_workers_deinit(struct local_workers *workers);
/* Takes @job over, from malloc. @return its serial number; 0: no thread could be started, and the job is the caller's. */
uint64_t local_workers_add(struct local_workers *workers, struct local_job *job);
/* @return false: it has ended already. */
bool local_workers_cancel(struct local_workers *workers, uint64_t serial);
/* Wait until it has ended, @limit_ms at the most. */
void local_workers_wait(struct local_workers *workers, uint64_t serial, uint32_t limit_ms);
uint64_t local_workers_reserving(struct local_workers *workers);
uint32_t local_workers_jobs(struct local_workers *workers);

/* Reserve [offset, offset + len) of a memfd. 0, ENOMEM. */
int local_reserve(int fd, uint64_t offset, uint64_t len);

/* ------------------------------------------------------------------ driver.c */

struct local_memory; /* one segment: own, or an import */

/* table.c: by shmid */
struct local_table {
    struct local_memory **chain;
    uint32_t chains, count; /* chains: 0 or a power of two */
};

struct local_driver {
    struct local_table table; /* the daemon's loop only */
    uint64_t granule;
    enum fabric_huge huge;
    uint64_t huge_min;
    uint64_t room, room_ms; /* what local_room() said, less what was made since; and when it did */
    struct local_ring ring;
    struct local_workers workers;
};

/* ------------------------------------------------------------------ members.c */

/* What the watch thread holds of a partition; `state` and `missed` are read by the daemon's loop too. */
struct local_view {
    uint32_t incarnation; /* observed ALIVE; 0: none */
    uint32_t known;       /* the daemon was told that it CAME; read by the loop */
    uint32_t missed;
    bool stalled;
    uint64_t heartbeat;
};

struct local_members {
    pthread_t heart, watch;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop, kicked;
    bool evicted;
    bool told_evicted;
    uint64_t last_ms; /* the watch thread's last tick */
    struct local_view view[FABRIC_PARTS_MAX];
};

/* ------------------------------------------------------------------ message.c, door.c */

struct local_queued {
    struct local_queued *next;
    struct fabric_msg msg;
    bool announced; /* its memory is through the door already */
};

/* Descriptors that came through the door and wait for their message. */
struct local_held {
    struct local_held *next;
    uint32_t incarnation, memory_seq;
    int32_t shmid;
    int rw, ro;
};

#define LOCAL_HELD_MAX   256u /* of one peer; a ring holds fewer messages */
#define LOCAL_QUEUED_MAX 65536u

struct local_peer {
    uint32_t told;              /* the incarnation that the daemon was told of; 0: none */
    uint32_t queue_incarnation; /* for which the queue is meant */
    struct local_queued *head, *tail;
    uint32_t queued;
    uint32_t memory_seq;
    int fd;        /* connected to its door; -1 */
    uint32_t rung; /* its bell word when it was last woken through fd */
    uint32_t fd_incarnation;
    uint32_t closed; /* the incarnation whose ring is closed since it sent nonsense; 0: none */
    bool broken;     /* the ring itself makes no sense: mended when that incarnation is over */
    struct local_held *held, *held_tail;
    uint32_t n_held;
};

/* ------------------------------------------------------------------ the member */

struct local {
    const struct fabric_ops *ops;
    const struct fabric_events *events;
    void *ctx;
    char *path;
    char name[FABRIC_NAME_MAX];
    int want_part;
    bool squash;

    int dir_fd, control_fd, gens_rw_fd, gens_fd;
    mode_t file_mode; /* of the files that we make */
    void *base, *gens;
    struct area area;
    bool area_ready;

    bool joined, fresh;
    uint32_t self, incarnation, epoch;
    uint64_t userns;
    int life_fd, door_fd;

    int epoll_fd, timer_fd;
    uint32_t retry_ms; /* of the timer; 0: not armed */

    struct local_driver driver;
    struct local_members members;
    struct local_peer peer[FABRIC_PARTS_MAX];
};

static inline struct local *to_local(struct fabric *f)
{
    return (struct local *)f;
}

/* Shared words that one thread writes and others read. */
#define shared_load(p)     __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define shared_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

uint64_t local_now_ms(void);

int local_format(const struct fabric_format *format);

/* local.c */
enum local_source {
    LOCAL_EVENTS = 1,
    LOCAL_TIMER = 2,
    LOCAL_DOOR = 4,
};
int local_watch_fd(struct local *l, int fd, enum local_source source);
bool local_name_ok(const char *name);
int local_reserve_control(void *ctx, uint64_t offset, uint64_t len);

/* join.c */
enum local_proof {
    LOCAL_HELD,    /* somebody of it lives */
    LOCAL_GONE,    /* nobody does */
    LOCAL_UNKNOWN, /* no life file, or no permission */
};
enum local_proof local_probe(int dir_fd, uint32_t part);
int local_join(struct fabric *f, bool *fresh);
void local_ready(struct fabric *f);
void local_leave(struct fabric *f);
int local_life_fd(struct fabric *f);
int local_adopt(struct fabric *f, enum keep_kind kind, uint64_t id, int fd);

/* members.c */
int local_members_init(struct local *l);
int local_members_start(struct local *l); /* after one look around */
void local_members_stop(struct local *l);
void local_members_deinit(struct local *l);
void local_members_kick(struct local *l);
/* Has a life word changed since the watch thread looked? */
bool local_members_changed(struct local *l);
bool local_part(struct fabric *f, uint32_t part, struct clshmd_part *out);
bool local_hostname(struct fabric *f, uint32_t part, char out[80]);
bool local_same_users(struct fabric *f, uint32_t part);
int local_evict(struct fabric *f, uint32_t part, uint32_t flags);

/* door.c */
int local_door_open(struct local *l);
/* An empty datagram: look at your rings. */
void local_door_knock(struct local *l, uint32_t part);
/* The same after a message, unless @part is awake or has been woken already. */
void local_door_ring(struct local *l, uint32_t part);
void local_door_knock_all(struct local *l);
/* Hand both kinds of descriptor of @shmid to @part. 0, EAGAIN: later; EINVAL: there is no such memory; else: the peer
 * cannot be reached. */
int local_door_send(struct local *l, uint32_t part, int32_t shmid, uint32_t memory_seq);
/* Take in what came, to the next knock. @return whether anything did. */
bool local_door_drain(struct local *l);
/* The descriptors of (@from, @memory_seq), older ones are dropped. @return NULL: not there; else the caller's. */
struct local_held *local_door_take(struct local *l, uint32_t from, uint32_t memory_seq);
struct local_held *local_held_free(struct local_held *held);
/* Its connection, and what is queued for and held of @incarnation; 0: of any. */
void local_peer_forget(struct local *l, uint32_t part, uint32_t incarnation);

/* message.c */
void local_send(struct fabric *f, uint32_t to, const struct fabric_msg *msg);
/* @return how many messages were taken; *@more: something was left for the next time. */
uint32_t local_receive(struct local *l, bool *more);
bool local_receive_unrung(struct fabric *f, bool sleep);
void local_flush(struct local *l);

/* huge.c: may transparent huge pages be asked for? As local_reserve(), with them. */
bool local_huge_advise(const struct local *l, uint64_t size);
int local_huge_populate(int fd, uint64_t offset, uint64_t len);
/* Would the configuration like pages of the pool for this one? Reserve them. */
bool local_huge_wanted(const struct local *l, const struct driver_create *req);
bool local_huge_reserve(int fd, uint64_t size);
uint32_t local_huge_shift(int fd); /* log2 of its pages if they are of the pool, else 0 */
uint32_t local_huge(struct fabric *f, int32_t shmid, bool *pool);

/* driver.c */
int local_driver_init(struct local *l, uint32_t ring_pages);
void local_driver_deinit(struct local *l);
/* The loop's half of an event of the workers. @return false: it is of no interest any more. */
bool local_driver_event(struct local *l, struct driver_event *event);
int local_driver_adopt(struct local *l, enum keep_kind kind, int32_t shmid, int fd);
void local_driver_sweep(struct local *l);    /* half adopted imports go */
void local_driver_drop_all(struct local *l); /* at once, however long it takes */
/* Take the descriptors of @held as import @shmid of @from, if they are what they should be. */
bool local_driver_import(struct local *l, uint32_t from, struct local_held *held);
/* Borrow the writable descriptor and open one read-only, which the caller closes. */
int local_driver_share(struct local *l, int32_t shmid, int *rw, int *ro, uint64_t *size);
void local_driver_dump(struct local *l, FILE *out);
void local_info(struct fabric *f, struct driver_info *out);
int local_create(struct fabric *f, const struct driver_create *req);
int local_grant(struct fabric *f, struct driver_grant *req);
void local_destroy(struct fabric *f, int32_t shmid);
void local_drop(struct fabric *f, int32_t shmid);
void local_revoke(struct fabric *f, int32_t shmid);
bool local_has(struct fabric *f, int32_t shmid);
int local_lock(struct fabric *f, int32_t shmid, bool lock);
int local_node(struct fabric *f, int32_t shmid);

#endif
