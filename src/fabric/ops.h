/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A fabric, as the daemon sees it: everything that differs between kinds of partition. Four duties:
 *
 *   members     who is up, who stalled, who died
 *   directory   claim(key, record) -> winner
 *   messages    to a peer's daemon
 *   memory      create, import, hand out, revoke, destroy a segment (the driver, proto/driver.h)
 *
 * A fabric lives on the daemon's event loop: it has one descriptor to poll; when that is readable (or every `timeout`
 * ms) the daemon calls dispatch(), which makes the upcalls of struct fabric_events. Threads of the fabric (heartbeat,
 * watch, workers) never call up; they put events into the driver's ring and wake the descriptor.
 *
 * Functions return 0 or an errno, unless said otherwise.
 */
#ifndef CLSHM_FABRIC_OPS_H
#define CLSHM_FABRIC_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/core/core.h"

struct fabric; /* each kind embeds its own: struct fabric_ops *ops comes first */

/* What must outlive the daemon. The keeper holds a copy of each and hands all of them to the next daemon. */
enum keep_kind {
    KEEP_LISTEN = 1, /* the clients' socket */
    KEEP_LIFE = 2,   /* the locked life file */
    KEEP_DOOR = 3,   /* where peers knock */
    KEEP_MEMORY = 4, /* id: shmid; the writable memfd of an own segment */
    KEEP_IMPORT = 5, /* id: shmid; the writable descriptor of an import */
    KEEP_IMPORT_RO = 6,
    KEEP_CLIENT = 7,   /* id: uid << 32 | client number; its page */
    KEEP_SETTINGS = 8, /* what clshmctl changed since the start; the daemon's own */
};

struct fabric_events {
    /* A message, checked by fabric_msg_check(). Its memory, if any, is imported already (@has_memory). */
    void (*message)(void *ctx, uint32_t from, const struct fabric_msg *msg, bool has_memory);
    /* CREATED, DESTROYED, and the changes of membership. */
    void (*event)(void *ctx, const struct driver_event *event);
    /* Keep (@fd stays the caller's; a copy is sent) or forget a descriptor. */
    int (*keep)(void *ctx, enum keep_kind kind, uint64_t id, int fd);
    void (*unkeep)(void *ctx, enum keep_kind kind, uint64_t id);
};

enum fabric_huge {
    FABRIC_HUGE_AUTO = 0, /* transparent ones where the kernel allows them */
    FABRIC_HUGE_NEVER = 1,
    FABRIC_HUGE_ALWAYS = 2, /* as AUTO; and those of the pool where the size is a multiple of them */
};

struct fabric_config {
    const char *path;      /* the fabric's directory, device or backing file */
    const char *partition; /* name of this partition */
    int part;              /* its id; -1: the one that this name had before, else a free one */
    uint32_t ring_pages;   /* maxdpgs */
    bool squash;
    enum fabric_huge huge;
    uint64_t huge_min; /* bytes; smaller segments are not given huge pages that nobody asked for */
    const struct fabric_events *events;
    void *ctx;
};

struct fabric_format {
    const char *path;
    const char *name;
    uint32_t parts, slots; /* 0: defaults */
    uint32_t granule;      /* bytes; 0: the page size */
    uint32_t heartbeat_ms; /* 0: the kind's default */
    int64_t group;         /* gid, -1: none */
    uint32_t mode;         /* of the directory, 0: 0700 */
};

struct fabric_ops {
    const char *name;

    /* Make a fabric. EEXIST; anything else with a line in the log. */
    int (*format)(const struct fabric_format *format);

    /* Open and map it; nothing is claimed yet. EINVAL: not a fabric, or damaged; EPROTO: another major; the log says
     * what. @out is NULL on failure. */
    int (*open)(const struct fabric_config *config, struct fabric **out);
    struct fabric *(*close)(struct fabric *f); /* no word to the others: as if killed */

    /* Descriptors that an earlier daemon of this incarnation left; before join(). @fd becomes the fabric's. */
    int (*adopt)(struct fabric *f, enum keep_kind kind, uint64_t id, int fd);
    /* Become (or go on as) a member: life word, life file, door, heartbeat. EADDRINUSE: the id or name is taken, and
     * the log says by whom; ENOSPC: the fabric is full. @fresh: a new incarnation has begun. */
    int (*join)(struct fabric *f, bool *fresh);
    /* Segments are restored: peers may talk to us. */
    void (*ready)(struct fabric *f);
    /* Leave in good order: life word FREE, door and life file gone. */
    void (*leave)(struct fabric *f);

    int (*poll_fd)(struct fabric *f);
    void (*dispatch)(struct fabric *f);

    /* members */
    const struct fabric_superblock *(*superblock)(struct fabric *f);
    uint32_t (*self)(struct fabric *f);
    uint32_t (*incarnation)(struct fabric *f, uint32_t part); /* 0: not alive */
    uint32_t (*epoch)(struct fabric *f);
    bool (*part)(struct fabric *f, uint32_t part, struct clshmd_part *out); /* false: no such partition, ever */
    bool (*hostname)(struct fabric *f, uint32_t part, char out[80]);
    bool (*same_users)(struct fabric *f, uint32_t part); /* same user namespace, and it does not squash */
    /* Declare a partition dead. EBUSY: it beats, and no CLSHMD_EVICT_FORCE; EINVAL: none there, or this one. */
    int (*evict)(struct fabric *f, uint32_t part, uint32_t flags);

    /* directory, records, generations: as in struct core_ops */
    int (*lookup)(struct fabric *f, int32_t key, uint64_t ticket, struct core_found *out);
    int (*claim)(struct fabric *f, int32_t key, uint32_t slot, uint64_t ticket, struct core_found *out);
    void (*unclaim)(struct fabric *f, uint32_t slot);
    struct fabric_record *(*record)(struct fabric *f, uint32_t slot, bool allocate);
    bool (*peer_record)(struct fabric *f, uint32_t part, uint32_t slot, struct fabric_record *out);
    void (*gen_store)(struct fabric *f, uint32_t slot, uint32_t word);
    uint32_t (*gen_load)(struct fabric *f, uint32_t slot);
    uint32_t (*peer_gen)(struct fabric *f, uint32_t part, uint32_t slot);
    int (*gens_fd)(struct fabric *f); /* read-only, of the whole generations area; stays the fabric's */
    int (*life_fd)(struct fabric *f); /* a new description of the life file, locked; the caller closes it */

    /* messages: queued, sent as the peer makes room; dropped when it dies */
    void (*send)(struct fabric *f, uint32_t to, const struct fabric_msg *msg);
    /* Take what came without making poll_fd() readable, which peers do not while they know that the loop is awake. With
     * @sleep it is about to wait: from now on they do. @return whether anything came; then do not wait. NULL: they
     * always do. */
    bool (*receive)(struct fabric *f, bool sleep);

    /* memory */
    void (*info)(struct fabric *f, struct driver_info *out);
    int (*create)(struct fabric *f, const struct driver_create *req); /* CORE_PENDING: event CREATED follows */
    int (*grant)(struct fabric *f, struct driver_grant *req);
    void (*destroy)(struct fabric *f, int32_t shmid); /* own */
    void (*drop)(struct fabric *f, int32_t shmid);    /* import */
    void (*revoke)(struct fabric *f, int32_t shmid);  /* import */
    bool (*has)(struct fabric *f, int32_t shmid);
    int (*lock)(struct fabric *f, int32_t shmid, bool lock);
    /* log2 of the huge pages that this memory has (@pool) or may be given by the kernel; 0: none */
    uint32_t (*huge)(struct fabric *f, int32_t shmid, bool *pool);
    int (*node)(struct fabric *f, int32_t shmid); /* NUMA node of all its pages, -1: several or none */
    int (*resize_ring)(struct fabric *f, uint32_t pages);
    char *(*dump)(struct fabric *f); /* text for dump_drv_state; the caller frees it */
};

extern const struct fabric_ops fabric_local_ops;

#endif
