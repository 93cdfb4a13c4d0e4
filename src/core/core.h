/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The core: all that one partition knows and decides about keys, segments, attachments, rights and quotas.
 *
 * Pure logic: no socket, no file, no clock, no thread. It is given events (a request of a client, a message of another
 * partition, a change of membership, a tick) and answers through struct core_ops. Calls through core_ops never call
 * back into the core. One core serves one partition; any number of them live in one process (tests/sim).
 *
 * What is durable is not here: a segment's truth is its record (proto/fabric.h), in memory that the fabric provides;
 * attachments are counted by the clients in their pages. Everything in struct core is derived and is built again by
 * core_restore() after the daemon was restarted.
 *
 * Objects
 *   segment   one for each own record that is not FREE: importers' last figures, grants, what waits for it
 *   import    a segment of another partition whose memory is here: its rights as the home told them, grants
 *   client    a process: its uid, and one grant for each entry of its page in use
 *   grant     (client, segment or import): which entry counts it, which access was allowed
 *   op        a request under way that waits for the directory, memory or another partition; has a deadline
 *
 * What always holds
 *   - a record is LIVE only with memory and, unless private, a key that was won;
 *   - whoever is counted anywhere has a grant here or is within a partition whose bit is in record.importers;
 *   - a segment's memory is destroyed only when it has no importers and no local attachment is counted;
 *   - every grant, client, segment, byte and reserved key is charged to a uid and given back exactly once.
 *
 * Functions return 0 or an errno (positive): EPERM and the like are answers for the caller of the caller.
 */
#ifndef CLSHM_CORE_CORE_H
#define CLSHM_CORE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/clshmd.h"
#include "proto/driver.h"
#include "proto/fabric.h"

#define CORE_PENDING (-1) /* an operation of core_ops will complete later, by core_..._done() */

struct core;

/* Who asks. */
struct core_cred {
    uint32_t uid, gid;
    const uint32_t *groups;
    uint32_t n_groups;
    /* uid 0 of the daemon's user namespace, or its own uid 0: System V's CAP_IPC_OWNER and CAP_SYS_ADMIN */
    bool privileged;
    int32_t pid; /* 0: not visible in the daemon's pid namespace */
};

/* What the directory says of a key. */
enum core_found_state {
    CORE_FOUND_NONE = 0,  /* lookup: nobody has it. claim: it is ours now */
    CORE_FOUND_OTHER = 1, /* stat, shmid and home of the segment or reservation that has it */
    CORE_FOUND_FULL = 2,  /* claim: the key's bucket has no room: ENOSPC */
    CORE_FOUND_FAILED = 3 /* `error` */
};
struct core_found {
    enum core_found_state state;
    int error;
    int32_t shmid;
    uint32_t home;
    bool reserved; /* a reservation of xp_ftok: no memory yet */
    struct fabric_stat stat;
};

/* Limits; 0 means that there is none, but for the system's. */
struct core_limits {
    uint64_t max_pages;        /* granules hosted here: ENOSPC beyond (clshmctl maxpgs) */
    uint64_t max_segments;     /* hosted here, reservations included: ENOSPC */
    uint64_t max_size;         /* of one segment, bytes: EINVAL */
    uint64_t max_segments_uid; /* ENOSPC */
    uint64_t max_bytes_uid;    /* ENOSPC */
    uint64_t max_keys_uid;     /* reserved by xp_ftok and without memory: ENOSPC */
    uint64_t max_grants_uid;   /* segments attached by all processes of a uid: ENOMEM, as shmat(2) says */
    uint64_t max_clients_uid;  /* EAGAIN from core_client_new */
    uint32_t max_ops_client;   /* requests of a client under way: EAGAIN */
    uint32_t op_timeout_ms;    /* after which a request that waits for another partition fails with EHOSTDOWN */
};

struct core_params {
    uint32_t self; /* partition */
    uint32_t incarnation;
    uint32_t epoch; /* of this daemon */
    uint32_t parts, slots, part_bits, slot_bits, granule;
    struct core_limits limits;
};

struct core_ops {
    /* Directory. Return 0 with *@out filled, or CORE_PENDING and later core_directory_done(@ticket). claim() publishes
     * the key of own record @slot, which is NEW and complete. unclaim() frees the cell that record @slot has, if any. */
    int (*lookup)(void *ctx, int32_t key, uint64_t ticket, struct core_found *out);
    int (*claim)(void *ctx, int32_t key, uint32_t slot, uint64_t ticket, struct core_found *out);
    void (*unclaim)(void *ctx, uint32_t slot);

    /* The record of an own slot. With @allocate its extent is allocated if need be; NULL: ENOSPC, or not allocated. */
    struct fabric_record *(*record)(void *ctx, uint32_t slot, bool allocate);
    /* Store @word (seq_cst) as the generation word of an own slot; load it. */
    void (*gen_store)(void *ctx, uint32_t slot, uint32_t word);
    uint32_t (*gen_load)(void *ctx, uint32_t slot);
    /* The generation word of a slot of partition @part: are the rights that it told with IMPORTED still its latest? */
    uint32_t (*peer_gen)(void *ctx, uint32_t part, uint32_t slot);
    /* Copy record @slot of partition @part, checked; false: there is none. For listings and reclaim only. */
    bool (*peer_record)(void *ctx, uint32_t part, uint32_t slot, struct fabric_record *out);

    /* Memory, by shmid: own segments and imports alike. create() returns 0, an errno, or CORE_PENDING and later
     * core_memory_done(). destroy() revokes, then frees an own segment; drop() forgets an import; revoke() makes an
     * import's pages unreachable (its home is dead), then forgets it. */
    int (*memory_create)(void *ctx, const struct driver_create *req);
    void (*memory_destroy)(void *ctx, int32_t shmid);
    void (*memory_drop)(void *ctx, int32_t shmid);
    void (*memory_revoke)(void *ctx, int32_t shmid);
    bool (*memory_has)(void *ctx, int32_t shmid);
    int (*memory_lock)(void *ctx, int32_t shmid, bool lock);
    /* log2 of the huge pages that it has (@pool) or may have, 0: none. NULL: there are no huge pages. */
    uint32_t (*memory_huge)(void *ctx, int32_t shmid, bool *pool);

    /* Copy of a client's entry; false when the page has no such entry. */
    bool (*entry)(void *ctx, uint32_t client, uint32_t entry, struct clshmd_entry *out);

    /* Answer request @tag of @client. @grant_prot (DRIVER_PROT_*) not 0: with a descriptor of @grant_shmid. */
    void (*reply)(void *ctx, uint32_t client, uint64_t tag, int error, const void *payload, size_t size,
                  int32_t grant_shmid, uint32_t grant_prot);
    /* Queue @msg for partition @to. The fabric fills incarnation and epoch. FABRIC_MSG_MEMORY: with msg->shmid's memory. */
    void (*send)(void *ctx, uint32_t to, const struct fabric_msg *msg);
};

/* @return NULL only when memory is short. @ops and @ctx outlive the core. */
struct core *core_new(const struct core_params *params, const struct core_ops *ops, void *ctx);
struct core *core_free(struct core *core);

/* Build everything again from the records, after core_client_new() for every client that is still there and
 * core_restore_import() for every import whose memory was kept. Records left NEW are undone, segments whose memory is
 * gone become LOST. With @fresh (a new incarnation) every record of an earlier incarnation becomes LOST. */
int core_restore_import(struct core *core, int32_t shmid);
/* Afterwards call core_member() for every partition, the absent and dead ones too: their imports end with that. */
int core_restore(struct core *core, bool fresh);

/* The time that the following calls see: monotonic milliseconds, and seconds since 1970 for atime and the like. */
void core_set_time(struct core *core, uint64_t mono_ms, int64_t real_s);
/* Give up what is past its deadline. @return milliseconds until it is needed again, UINT64_MAX: never. */
uint64_t core_tick(struct core *core);

/* ------------------------------------------------------------------ clients: small numbers that the caller chooses */

int core_client_new(struct core *core, uint32_t client, uint32_t uid, int32_t pid); /* EAGAIN quota, ENOMEM */
/* As core_client_new(), with copies of all grants of @parent, by the same entries. */
int core_client_fork(struct core *core, uint32_t parent, uint32_t child);
/* Its pid became known or changed (a forked child has connected). */
void core_client_pid(struct core *core, uint32_t client, int32_t pid);
/* Its process is proven gone. Its grants end: dtime is now, lpid is its pid. Requests under way are forgotten. */
void core_client_gone(struct core *core, uint32_t client);
/* Its connection is gone, the process perhaps not: requests under way get no answer. */
void core_client_disconnected(struct core *core, uint32_t client);

/* Requests. Exactly one core_ops.reply() follows for each, at once or later, with the payload clshmd.h names. */
void core_get(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
              const struct clshmd_get *req);
void core_open(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
               const struct clshmd_open *req);
void core_detached(struct core *core, uint32_t client, uint64_t tag, const struct clshmd_detached *req);
void core_ctl(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
              const struct clshmd_ctl *req);
/* @home: the partition that the path names, already resolved. @token as in clshmd_ftok. */
void core_ftok(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred, uint32_t home,
               uint64_t token);
void core_setpmo(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
                 const struct clshmd_setpmo *req);
void core_ping(struct core *core, uint32_t client, uint64_t tag, uint32_t part);

/* ------------------------------------------------------------------ other partitions */

enum core_member_state {
    CORE_MEMBER_ABSENT,
    CORE_MEMBER_ALIVE,
    CORE_MEMBER_STALLED,
    CORE_MEMBER_DEAD,
    CORE_MEMBER_FOREIGN, /* alive, but its daemon has another major version: nothing is asked or answered (EPROTO) */
};
/* @same_uids: its uids mean the same as ours; otherwise its callers are strangers (the class of others, no owner). */
void core_member(struct core *core, uint32_t part, enum core_member_state state, uint32_t incarnation, bool same_uids);
/* A message that passed fabric_msg_check(). @has_memory: the memory of msg->shmid was imported along with it. */
void core_message(struct core *core, uint32_t from, const struct fabric_msg *msg, bool has_memory);
/* The host name sent in PONG. */
void core_set_hostname(struct core *core, const char *hostname);

void core_directory_done(struct core *core, uint64_t ticket, const struct core_found *found);
void core_memory_done(struct core *core, int32_t shmid, int error);

/* ------------------------------------------------------------------ for the tools */

struct core_stats {
    uint64_t segments, reserved_keys, bytes, pages, imports, clients, grants, attachments, ops;
    uint64_t foreign_importers; /* partitions that import something from here */
};
void core_get_stats(const struct core *core, struct core_stats *out);
void core_set_limits(struct core *core, const struct core_limits *limits);
/* Own segments and reservations, in the order of their slots from @slot on. @return the slot after it; 0: no more. */
uint32_t core_next_segment(const struct core *core, uint32_t slot, struct clshmd_stat *out);
/* Attachments and segments of a client; of an importing partition. @return false: none. */
bool core_client_use(const struct core *core, uint32_t client, struct clshmd_user *out);
bool core_part_use(const struct core *core, uint32_t part, struct clshmd_user *out);
/* Ask all importers of own segments how many are attached there. Until one has answered, core_counting() is true, and
 * core_part_use() takes it for attached; from then on that figure is its last. */
void core_count(struct core *core);
bool core_counting(const struct core *core);
/* Where @shmid's memory lives and whether @cred may read it; for NODE. */
int core_may_read(const struct core *core, const struct core_cred *cred, int32_t shmid);

/* The first invariant that does not hold, as text; NULL: all hold. For tests and dump_daem_state. */
const char *core_check(const struct core *core);
/* Text for dump_daem_state; caller frees. */
char *core_dump(const struct core *core);

/* ------------------------------------------------------------------ the edge (src/core/check.c): pure validators */

/* A packet of a client, a whole one. @return its payload, or NULL (EPROTO): size, opcode, flag or reserved field wrong. */
const void *clshmd_request_check(const void *packet, size_t size, struct clshmd_header *header);
/* A message of another partition: opcode, flags, status, body fields in range. @msg is the caller's private copy. */
bool fabric_msg_check(const struct fabric_msg *msg, uint32_t from, uint32_t parts, uint32_t part_bits,
                      uint32_t slot_bits);
/* A copy of a superblock, of an area of @size bytes. @return NULL, or what is wrong with it as text. */
const char *fabric_superblock_check(const struct fabric_superblock *sb, uint64_t size, uint32_t page_size);
uint64_t fabric_superblock_checksum(const struct fabric_superblock *sb);

/* System V's rule (src/core/perm.c): @want is a set of rwx bits 4, 2, 1. @strangers: uids mean nothing. */
bool core_perm_allows(const struct fabric_stat *stat, const struct core_cred *cred, uint32_t want, bool stranger);
/* May @cred remove or change it? */
bool core_perm_owns(const struct fabric_stat *stat, const struct core_cred *cred, bool stranger);

#endif
