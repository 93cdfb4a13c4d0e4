/* SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause */
/*
 * Contract 1: library (and tools) to daemon, over a SOCK_SEQPACKET Unix socket.
 *
 *     library                                     daemon
 *       | ---- HELLO version, token --------------> |  token 0: a new client
 *       | <--- version, token, geometry, fds ------ |  EPROTO: versions do not match
 *       |                                           |
 *       | ---- GET key, size, flags --------------> |
 *       | <--- shmid ------------------------------ |
 *       |      entry.count + 1                      |
 *       | ---- OPEN shmid, access, entry ---------> |
 *       | <--- size, word, fd --------------------- |  fd maps this segment with this protection
 *       |      mmap ... munmap, entry.count - 1     |
 *       | ---- DETACHED shmid --------------------> |  only when the generation word says MARKED or has changed
 *       | <--- ------------------------------------ |
 *
 * One message is one packet: a header, then exactly the payload that the opcode has. The daemon answers each request
 * with the same opcode and seq; `error` is 0, or an errno and the payload is empty. Requests of one connection are
 * answered in any order. Whoever sends a packet of a wrong size, an unknown opcode or flag, or a reserved field that
 * is not 0, is answered with EPROTO and disconnected. Clients send no descriptors; what arrives is closed.
 *
 * Rights are those of the connection (SO_PEERCRED, SO_PEERGROUPS). A library whose program changed its credentials
 * connects anew, with its token.
 *
 * A client is its client page: a sealed memfd whose open file description the daemon locked (LOCK_SH) before it passed
 * it on. The client maps it, counts its attachments there, and need not be connected. The lock goes when the last
 * mapping goes, however the client ends; then the daemon drops its counts. fork: FORK makes a page for the child
 * beforehand; the child connects with that page's token.
 *
 * Order for an attachment without a message: count + 1 (seq_cst), load the generation word, compare it with the one of
 * the grant, mmap; on mismatch undo and ask. Detach: munmap, count - 1 (seq_cst), load the word; MARKED or changed: say
 * DETACHED. The daemon stores mark and generation (seq_cst), then reads the pages. Counts err only upward.
 */
#ifndef CLSHM_PROTO_CLSHMD_H
#define CLSHM_PROTO_CLSHMD_H

#include "proto/fabric.h"

#define CLSHMD_PACKET_MAX 8192u
#define CLSHMD_MAGIC      0x43484d31u

enum clshmd_op {
    CLSHMD_HELLO = 1,
    CLSHMD_GET = 2,
    CLSHMD_OPEN = 3,
    CLSHMD_DETACHED = 4,
    CLSHMD_CTL = 5,
    CLSHMD_FTOK = 6,
    CLSHMD_PARTS = 7,
    CLSHMD_HOSTNAME = 8,
    CLSHMD_FORK = 9,
    CLSHMD_GROW = 10,
    CLSHMD_SETPMO = 11,
    CLSHMD_NODE = 12,
    CLSHMD_DUMP = 13,
    CLSHMD_EVENTS = 14, /* reserved for a descriptor that tells of waking, removal and partitions: ENOSYS so far */
    /* for the tools */
    CLSHMD_STATUS = 32,
    CLSHMD_CONFIG = 33,
    CLSHMD_SEGMENTS = 34,
    CLSHMD_USERS = 35,
    CLSHMD_PING = 36,
    CLSHMD_EVICT = 37,
    CLSHMD_SHUTDOWN = 38,
    CLSHMD_OP_MAX,
};

struct clshmd_header {
    uint16_t op;
    uint16_t flags;  /* 0 so far */
    uint32_t length; /* of header and payload */
    uint32_t seq;
    int32_t error; /* 0 in requests */
};

/* ------------------------------------------------------------------ the client page */

/* A client page begins with one 4 KiB page of memory; each GROW adds one. This many entries are usable with n of them. */
#define CLSHMD_PAGE_ENTRIES(n) ((n)*128u - 2u)
#define CLSHMD_PAGES_MAX       32u
#define CLSHMD_ENTRIES_MAX     CLSHMD_PAGE_ENTRIES(CLSHMD_PAGES_MAX) /* segments that a process attaches (SHMSEG) */

struct clshmd_page_head {
    uint32_t magic;   /* CLSHMD_MAGIC; written by the daemon, once */
    uint32_t entries; /* usable ones when made; after GROW its answer counts */
    uint64_t token;   /* of the client */
    int32_t pid;      /* of its process as the daemon last saw it, for listings after a restart; 0: not known */
    uint8_t reserved[44];
};

/* Written by the client alone; the daemon copies it, checks the copy, and believes it about this client only. */
struct clshmd_entry {
    int32_t shmid;        /* valid while count or attaches is not 0 */
    uint32_t count;       /* attachments now */
    uint32_t attaches;    /* ever; never 0 while count is not */
    uint32_t by_parent;   /* the last operation was the fork that made this client: lpid is its parent */
    int64_t atime, dtime; /* seconds, CLOCK_REALTIME */
};

#define CLSHMD_PAGE_SIZE (CLSHMD_PAGES_MAX * 4096u) /* of the file, from the start; only what GROW gave is allocated */

/* ------------------------------------------------------------------ requests and answers */

/* HELLO. Descriptors with the answer: gens (read-only), life (map one page of it), and, if token was 0, the client page.
 * An unknown token (its page's lock was found free) gets ESTALE: the client begins anew. A tool (CLSHMD_HELLO_TOOL) gets no descriptors and no page, and token 0. */
#define CLSHMD_HELLO_TOOL  1u
#define CLSHMD_HELLO_KNOWN 1u
struct clshmd_hello {
    uint16_t major, minor; /* CLSHM_LIB_* */
    uint32_t flags;
    uint64_t token; /* 0: a new client; else of the client page that the caller maps */
};
struct clshmd_hello_reply {
    uint16_t major, minor; /* CLSHM_DAEMON_* */
    uint32_t part;
    uint64_t token;
    uint32_t parts, part_bits, slot_bits;
    uint32_t granule;
    uint32_t heartbeat_ms;
    uint32_t entries; /* usable ones of the client page */
    uint64_t gens_block;
    uint32_t incarnation; /* of this partition */
    uint32_t reserved;
};

/* GET. ENOENT, EEXIST, EINVAL, EACCES, ENOSPC, ENOMEM, EPERM, EHOSTDOWN */
struct clshmd_get {
    int32_t key;
    uint32_t flags; /* of shmget(2) */
    uint64_t size;
    uint64_t token; /* differs from request to request; a repeated request after EIO finds what it made */
};
/* The library may answer the same question itself, as long as the segment's generation word is @word, unmarked, and its
 * home's incarnation @incarnation. */
struct clshmd_get_reply {
    int32_t shmid;
    uint32_t flags; /* FABRIC_SEG_* */
    uint64_t size;
    uint32_t word;
    uint32_t incarnation; /* of the home; 0: ask again */
};

/* OPEN. EINVAL, EACCES, EIDRM, EHOSTDOWN, ENOMEM, ENOSPC. With the answer: one descriptor. */
#define CLSHMD_READ  1u
#define CLSHMD_WRITE 2u
#define CLSHMD_EXEC  4u
struct clshmd_open {
    int32_t shmid;
    uint32_t access; /* CLSHMD_READ, with or without the others */
    uint32_t entry;  /* of the client page; its shmid is set and its count already holds this attachment */
    uint32_t reserved;
};
#define CLSHMD_HUGE_SHIFT 0xffu  /* log2 of a page size at a multiple of which mapping pays; 0: none */
#define CLSHMD_HUGE_POOL  0x100u /* the memory has such pages; else madvise(2) may give it some */
struct clshmd_open_reply {
    uint64_t size;
    uint32_t word;        /* generation word, to compare before the descriptor is used again */
    uint32_t incarnation; /* of the home, to compare with gens_head.home */
    int32_t key;
    uint32_t huge; /* CLSHMD_HUGE_* */
};

/* DETACHED: the client's count of a marked segment went down. No payload in the answer. */
struct clshmd_detached {
    int32_t shmid;
    uint32_t entry;
};

/* CTL. The answer is struct clshmd_stat for STAT, STAT_INDEX and STAT_ANY; struct clshmd_info for INFO; else empty. */
enum clshmd_ctl_cmd {
    CLSHMD_CTL_RMID = 1,
    CLSHMD_CTL_AUTORMID = 2,
    CLSHMD_CTL_SET = 3,
    CLSHMD_CTL_STAT = 4,       /* shmid, read permission */
    CLSHMD_CTL_STAT_INDEX = 5, /* index, read permission (SHM_STAT) */
    CLSHMD_CTL_STAT_ANY = 6,   /* index, no permission (SHM_STAT_ANY) */
    CLSHMD_CTL_LOCK = 7,
    CLSHMD_CTL_UNLOCK = 8,
    CLSHMD_CTL_INFO = 9, /* IPC_INFO and SHM_INFO */
};
struct clshmd_ctl {
    int32_t shmid;
    uint32_t cmd;
    uint32_t uid, gid, mode; /* SET */
    uint32_t reserved;
};
struct clshmd_stat {
    int32_t shmid;
    uint32_t part;
    struct fabric_stat stat;
};
struct clshmd_info {
    uint64_t shmmax, shmmin, shmmni, shmseg, shmall;
    uint64_t used_ids; /* segments of the whole fabric */
    uint64_t shm_tot;  /* pages, fabric */
    uint64_t shm_rss;
    int32_t highest; /* highest index in use, 0 if none */
    uint32_t reserved;
};

/* FTOK. ENOENT: no such partition; EHOSTDOWN; ENOSPC: quota. The path is NUL-terminated; empty: the caller's own. */
struct clshmd_ftok {
    uint64_t token;
    char path[64];
};
struct clshmd_ftok_reply {
    int32_t key;
    uint32_t part;
};

/* PARTS: no payload in the request. */
struct clshmd_parts_reply {
    uint64_t active; /* a bit for each */
    uint32_t self;
    uint32_t reserved;
};

/* HOSTNAME. EINVAL: no such partition. */
struct clshmd_hostname {
    uint32_t part;
    uint32_t reserved;
};
struct clshmd_hostname_reply {
    char hostname[80];
    char name[FABRIC_NAME_MAX];
};

/* FORK: a page for a child, whose grants are the caller's as they are now. With the answer: the page, then life. */
struct clshmd_fork_reply {
    uint64_t token;
    uint32_t entries;
    uint32_t reserved;
};

/* GROW: one more page of entries. ENOMEM, ENOSPC. No payload in the request. */
struct clshmd_grow_reply {
    uint32_t entries;
    uint32_t reserved;
};

/* SETPMO: placement of a key from xp_ftok that this partition hosts and that has no memory yet; else EINVAL. */
struct clshmd_setpmo {
    int32_t key;
    uint32_t policy; /* MPOL_* */
    uint64_t nodes;
};

/* NODE: the NUMA node that holds all of a segment's touched pages, or -1. */
struct clshmd_node {
    int32_t shmid;
    uint32_t reserved;
};
struct clshmd_node_reply {
    int32_t node;
    uint32_t reserved;
};

/* DUMP: text for dump_daem_state and dump_drv_state, a part at a time from `offset`; an empty one ends it. */
struct clshmd_dump {
    uint32_t what; /* 1 daemon, 2 driver */
    uint32_t offset;
};
struct clshmd_dump_reply {
    uint32_t length;
    uint32_t total;
    char text[4096];
};

/* ------------------------------------------------------------------ for the tools */

/* STATUS: no payload in the request. */
enum clshmd_part_state {
    CLSHMD_PART_ABSENT = 0,
    CLSHMD_PART_ALIVE = 1,
    CLSHMD_PART_STALLED = 2,
    CLSHMD_PART_DEAD = 3,
};
struct clshmd_part {
    uint32_t state; /* enum clshmd_part_state */
    uint32_t incarnation, epoch;
    uint16_t major, minor;
    uint64_t heartbeat;
    uint32_t missed; /* heartbeats, as this partition counts */
    uint32_t uid;
    char name[FABRIC_NAME_MAX];
};
struct clshmd_status_reply {
    char fabric[FABRIC_NAME_MAX];
    uint8_t uuid[16];
    uint16_t lib_major, lib_minor, daemon_major, daemon_minor, driver_major, driver_minor, fabric_major, fabric_minor;
    uint32_t self, parts, slots, granule, heartbeat_ms, kind;
    uint64_t capabilities; /* the driver's */
    /* of this partition */
    uint64_t segments, reserved_keys, bytes, imports, clients, connections, attachments;
    uint64_t maxpgs, maxsegs;
    uint64_t daemon_pid, keeper_pid;
    uint32_t restarts; /* of the daemon, by its keeper */
    uint32_t reserved;
    struct clshmd_part part[FABRIC_PARTS_MAX];
};

/* CONFIG: gets all; sets those named in `set` first (owner or root; else EPERM; out of range: EINVAL). */
#define CLSHMD_SET_MAXPGS  1u
#define CLSHMD_SET_MAXDPGS 2u
#define CLSHMD_SET_TIMEOUT 4u
#define CLSHMD_SET_KNOWN   7u
struct clshmd_config {
    uint32_t set;
    uint32_t reserved;
    uint64_t maxpgs;  /* granules */
    uint32_t maxdpgs; /* pages */
    uint32_t timeout_ms;
};
struct clshmd_config_reply {
    uint64_t maxpgs;
    uint32_t maxdpgs, timeout_ms;
    uint32_t granule;
    uint32_t uids; /* 0 same, 1 squash */
    uint64_t max_segments, max_segments_uid, max_bytes_uid, max_attachments_uid, max_clients_uid, max_keys_uid;
    char file[256]; /* the configuration file that was read, empty: none */
};

/* SEGMENTS: of all partitions, in the order of their index, from `from` on. */
struct clshmd_segments {
    uint32_t from;
    uint32_t reserved;
};
#define CLSHMD_SEGMENTS_MAX 64u
struct clshmd_segments_reply {
    uint32_t count;
    uint32_t next; /* `from` of the next request; 0: this was all */
    struct clshmd_stat segment[CLSHMD_SEGMENTS_MAX];
};

/* USERS: who attaches, hosts or imports what on this partition. Clients first, then partitions importing from here. */
struct clshmd_user {
    int32_t pid; /* 0: a partition */
    uint32_t uid;
    uint32_t part;
    uint32_t attachments;
    uint32_t segments;
    uint32_t reserved;
};
struct clshmd_users {
    uint32_t from;
    uint32_t reserved;
};
#define CLSHMD_USERS_MAX 128u
struct clshmd_users_reply {
    uint32_t count;
    uint32_t next;
    struct clshmd_user user[CLSHMD_USERS_MAX];
};

/* PING: asks a partition's daemon for its host name, over the fabric. EHOSTDOWN, EINVAL: no such partition. */
struct clshmd_ping {
    uint32_t part;
    uint32_t reserved;
};
struct clshmd_ping_reply {
    char hostname[80];
    uint64_t rtt_ns;
};

/* EVICT: declare a partition dead (owner or root). EBUSY: it still beats and `flags` lacks FORCE. */
#define CLSHMD_EVICT_FORCE  1u
#define CLSHMD_EVICT_FENCED 2u /* the operator vouches that it cannot write any more */
#define CLSHMD_EVICT_KNOWN  3u
struct clshmd_evict {
    uint32_t part;
    uint32_t flags;
};

/* SHUTDOWN: EBUSY while processes here or elsewhere use segments of this partition, unless forced. The answer comes
 * before the daemon ends; the socket's end of file says that it has. */
#define CLSHMD_SHUTDOWN_FORCE 1u
#define CLSHMD_SHUTDOWN_KNOWN 1u
struct clshmd_shutdown {
    uint32_t flags;
    uint32_t reserved;
};

#ifndef __cplusplus
static_assert(sizeof(struct clshmd_header) == 16, "header");
static_assert(sizeof(struct clshmd_page_head) == 64, "page head");
static_assert(sizeof(struct clshmd_entry) == 32, "entry");
static_assert(sizeof(struct clshmd_hello) == 16, "hello");
static_assert(sizeof(struct clshmd_hello_reply) == 56, "hello reply");
static_assert(sizeof(struct clshmd_get) == 24, "get");
static_assert(sizeof(struct clshmd_get_reply) == 24, "get reply");
static_assert(sizeof(struct clshmd_open_reply) == 24, "open reply");
static_assert(sizeof(struct clshmd_ctl) == 24, "ctl");
static_assert(sizeof(struct clshmd_stat) == 88, "stat");
static_assert(sizeof(struct clshmd_info) == 72, "info");
static_assert(sizeof(struct clshmd_ftok) == 72, "ftok");
static_assert(sizeof(struct clshmd_part) == 64, "part");
static_assert(sizeof(struct clshmd_user) == 24, "user");
static_assert(sizeof(struct clshmd_segments_reply) <= CLSHMD_PACKET_MAX - 16, "segments fit a packet");
static_assert(sizeof(struct clshmd_status_reply) <= CLSHMD_PACKET_MAX - 16, "status fits a packet");
#endif

#endif
