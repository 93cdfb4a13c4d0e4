/* SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause */
/*
 * Contract 3: daemon to driver. Requests go down, events come up through a ring in memory that both share.
 *
 * Two drivers stand behind it. The in-process one (src/fabric/local/driver.c) serves partitions that share one kernel:
 * a request is a function call with one of the structures below, the memory is a sealed memfd, the ring lies in the
 * daemon's own memory and an eventfd tells that it is no longer empty. clshm.ko will serve separate kernels: the same
 * structures by ioctl on /dev/clshm/ctl, the same ring by mmap.
 *
 *     daemon                                  driver
 *       | ---- CREATE id, size, flags --------> |  pages reserved and zeroed in slices, never in the daemon's loop
 *       | <--- event CREATED id, status ------- |
 *       | ---- GRANT id, protection ----------> |  a descriptor that maps this segment with this protection
 *       | ---- REVOKE id ---------------------> |  nobody reaches the pages any more: SIGBUS. In-process: up to 16 MiB
 *       |                                       |  when it has returned, more within the time it takes to free them
 *       | ---- DESTROY id --------------------> |  revoke, then give the pages back
 *       | <--- event DESTROYED id ------------- |
 *       | <--- event CAME / STALLED / DEAD ---- |  partitions come and go
 *
 * Unknown flags are refused with EINVAL, as is every size that is not the structure's.
 */
#ifndef CLSHM_PROTO_DRIVER_H
#define CLSHM_PROTO_DRIVER_H

#include "proto/version.h"

#define DRIVER_RING_PAGES_DEFAULT 4u
#define DRIVER_RING_PAGES_MAX     1024u

/* Capability bits, in struct driver_info. */
#define DRV_COUNTS_MAPPINGS 1ULL /* the driver's own count of mappings is nattch */
#define DRV_HUGE_PAGES      2ULL
#define DRV_DOORBELL        4ULL /* peers can be woken; without it the daemon looks every `timeout` ms */

struct driver_info {
    uint16_t major, minor; /* CLSHM_DRIVER_* */
    uint32_t reserved;
    uint64_t capabilities;
    uint64_t granule; /* bytes */
};

#define DRIVER_CREATE_NORESERVE  1u /* pages come at first touch; SIGBUS if there are none then */
#define DRIVER_CREATE_HUGE       2u /* from the pool of huge pages; 2 MiB unless DRIVER_CREATE_HUGE_SHIFT says else */
#define DRIVER_CREATE_HUGE_SHIFT 26
#define DRIVER_CREATE_KNOWN      (3u | 0x3fu << DRIVER_CREATE_HUGE_SHIFT)

struct driver_create {
    int32_t shmid;
    uint32_t flags; /* DRIVER_CREATE_* */
    uint64_t size;  /* bytes, rounded up to the granule by the driver */
    uint64_t nodes; /* node mask, with policy (MPOL_*) not 0 */
    uint32_t policy;
    uint32_t reserved;
};

#define DRIVER_PROT_READ  1u
#define DRIVER_PROT_WRITE 2u

struct driver_grant {
    int32_t shmid;
    uint32_t prot; /* DRIVER_PROT_* */
    int32_t fd;    /* out: the caller closes it */
    uint32_t reserved;
};

enum driver_event_type {
    DRIVER_EVENT_NONE = 0,
    DRIVER_EVENT_CREATED = 1,   /* shmid, status */
    DRIVER_EVENT_DESTROYED = 2, /* shmid */
    DRIVER_EVENT_CAME = 3,      /* part, incarnation */
    DRIVER_EVENT_STALLED = 4,
    DRIVER_EVENT_RESUMED = 5, /* beats again before it was declared dead */
    DRIVER_EVENT_DEAD = 6,
    DRIVER_EVENT_LEFT = 7,    /* in good order */
    DRIVER_EVENT_EVICTED = 8, /* this partition itself was declared dead: drop everything and join anew */
};

struct driver_event {
    uint32_t type;
    int32_t status; /* 0 or an errno */
    int32_t shmid;
    uint32_t part;
    uint32_t incarnation;
    uint32_t reserved;
    uint64_t value;
};

/* The ring: head is the daemon's, tail the driver's; both count events, mod 2^32. A full ring makes the driver wait. */
struct driver_ring {
    uint32_t tail;
    uint32_t reserved0[15];
    uint32_t head;
    uint32_t reserved1[15];
    struct driver_event slot[];
};

/* A power of two, so that the counts may wrap: the largest one that fits. */
#define DRIVER_RING_SLOTS(pages)                                                                                       \
    ((uint32_t)1 << (31 - __builtin_clz((uint32_t)(((pages)*4096u - sizeof(struct driver_ring)) /                      \
                                                   sizeof(struct driver_event)))))

#ifndef __cplusplus
#ifdef __KERNEL__
#include <linux/build_bug.h>
#else
#include <assert.h>
#include <stddef.h>
#endif
static_assert(sizeof(struct driver_info) == 24, "info");
static_assert(sizeof(struct driver_create) == 32, "create");
static_assert(sizeof(struct driver_grant) == 16, "grant");
static_assert(sizeof(struct driver_event) == 32, "event");
static_assert(offsetof(struct driver_ring, head) == 64, "ring.head");
static_assert(sizeof(struct driver_ring) == 128, "ring");
#endif

#endif
