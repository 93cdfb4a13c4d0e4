/* SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause */
/*
 * Contract 2: partition to partition. The layout of the control area and the messages between daemons.
 *
 *     +------------+ 0
 *     | superblock | written once, by mkfabric
 *     +------------+ superblock.slots_offset: one struct fabric_slot (two pages) for each partition
 *     | slot 0     |   page 0: life word and heartbeat (driver)    page 1: the rest (daemon)
 *     | ...        |
 *     +------------+ superblock.keys_offset
 *     | key table  | buckets of 64 cells, compare-and-swapped by every daemon
 *     +------------+ superblock.blocks_offset: one block of block_size bytes for each partition
 *     | block 0    |   outbound rings, one for each receiver (ring_size bytes), then the segment records
 *     | ...        |   in extents of FABRIC_EXTENT_RECORDS, allocated when first needed
 *     +------------+
 *
 * A second area, the generations, is mapped read-only by every client: one block for each partition, a head page
 * (struct fabric_gens_head) and one 32-bit word for each slot. On the local fabric each area is a file.
 *
 * Rules. Fixed-width little-endian words, offsets from the area's start, never pointers. Every word has one partition
 * that may write it, but for two which are compared and swapped: a key cell and a life word. What another partition
 * may write is copied once, the copy is checked, then used. Unknown flags are refused.
 *
 * The conversation between the daemons of an importer and of a segment's home:
 *
 *     importer                                   home
 *       | ---- IMPORT id -------------------------> |  is the segment there, may this partition have it?
 *       | <--- IMPORTED id, size, rights, memory -- |  the importer's bit in record.importers is set before
 *       |   ... clients attach and detach, no messages ...
 *       | <--- COUNT id --------------------------- |  somebody asks for nattch
 *       | ---- COUNTED id, n, times --------------> |
 *       | <--- RELEASE id ------------------------- |  marked for removal (RMID or AUTORMID)
 *       | ---- BUSY id, n, times -----------------> |  still attached: the import stays, and later:
 *       | ---- RELEASED id, times ----------------> |  the import is gone; the home clears the bit
 *
 * The importer drops an import (and says RELEASED) of its own accord when its last client lets go of it. CREATE,
 * RESERVE, REMOVE, AUTOREMOVE, SET, STAT, LOCK ask the home to do what a client of the importer asked for; the answer
 * is DONE (with the status or a stat). PING is answered with PONG by every daemon that runs.
 *
 * Every request is tagged (incarnation, epoch, seq) and its answer repeats seq; a daemon that was restarted (a new
 * epoch) ignores answers to its predecessor. A receiver moves its head only after the effect of a message is durable,
 * so that a message may be seen twice, never lost; every request may be repeated without harm.
 */
#ifndef CLSHM_PROTO_FABRIC_H
#define CLSHM_PROTO_FABRIC_H

#include "proto/version.h"

#define FABRIC_MAGIC        0x314d485343ULL /* "CSHM1" */
#define FABRIC_PARTS_MAX    64u
#define FABRIC_SLOTS_MAX    32768u
#define FABRIC_SLOTS_MIN    64u
#define FABRIC_NAME_MAX     32u /* a partition's or fabric's name, with its NUL */
#define FABRIC_HOSTNAME_MAX 65u /* HOST_NAME_MAX + 1 */
#define FABRIC_PAGE         4096u
#define FABRIC_NODES_MAX    64u

/* ------------------------------------------------------------------ superblock */

struct fabric_superblock {
    uint64_t magic;
    uint16_t major; /* CLSHM_FABRIC_MAJOR */
    uint16_t minor;
    uint32_t head_size; /* sizeof(struct fabric_superblock) */
    uint8_t uuid[16];
    char name[FABRIC_NAME_MAX];
    uint32_t kind;      /* enum fabric_kind */
    uint32_t granule;   /* bytes; segments are mapped in multiples of it; a power of two, >= every member's page size */
    uint32_t parts;     /* how many partitions there may be, 1..FABRIC_PARTS_MAX */
    uint32_t slots;     /* segments on each partition, a power of two */
    uint32_t part_bits; /* of the shmid */
    uint32_t slot_bits; /* of the shmid; what remains of 31 bits is the generation */
    uint64_t capabilities; /* FABRIC_CAP_*; a member that does not know one refuses the fabric */
    uint32_t heartbeat_ms; /* H */
    uint32_t ring_size;    /* bytes of one ring, a multiple of FABRIC_PAGE */
    uint64_t key_salt;     /* of the hash */
    uint64_t key_buckets;  /* a power of two */
    uint64_t slots_offset;
    uint64_t keys_offset;
    uint64_t blocks_offset;
    uint64_t block_size;
    uint64_t records_offset; /* of the first record, within a block */
    uint64_t area_size;      /* of the control area */
    uint64_t gens_block;     /* bytes of one partition's block in the generations area */
    uint64_t sync_offset;    /* room for a synchronisation page per segment; 0: this fabric has none */
    uint64_t checksum;       /* FNV-1a of all that stands before */
};

enum fabric_kind {
    FABRIC_LOCAL = 1,
    FABRIC_DEVICE = 2,
    FABRIC_CLUSTER = 3,
};

#define FABRIC_CAP_KNOWN 0ULL

/* ------------------------------------------------------------------ partitions */

/* The life word: incarnation 32 | state 8 | declarer 8 | zero 16. DEAD is final for its incarnation. */
enum fabric_life {
    FABRIC_LIFE_FREE = 0,  /* never used, or left in good order */
    FABRIC_LIFE_ALIVE = 1, /* claimed by compare-and-swap when joining */
    FABRIC_LIFE_DEAD = 2,  /* declared so by `declarer`; reclaimed when the id is used again */
};

#define FABRIC_LIFE(incarnation, state, declarer)                                                                      \
    ((uint64_t)(uint32_t)(incarnation) | (uint64_t)(state) << 32 | (uint64_t)(declarer) << 40)
#define FABRIC_LIFE_INCARNATION(word) ((uint32_t)(word))
#define FABRIC_LIFE_STATE(word)       ((uint8_t)((word) >> 32))
#define FABRIC_LIFE_DECLARER(word)    ((uint8_t)((word) >> 40))

#define FABRIC_EXTENT_RECORDS 256u
#define FABRIC_EXTENTS_MAX    (FABRIC_SLOTS_MAX / FABRIC_EXTENT_RECORDS)

/* Page 0 of a slot: the driver's. */
struct fabric_slot_life {
    uint64_t life;      /* FABRIC_LIFE(); the one word here that others swap */
    uint64_t heartbeat; /* counts up every H */
    uint8_t reserved[FABRIC_PAGE - 16];
};

/* Page 1 of a slot: the daemon's. */
struct fabric_slot_daemon {
    uint32_t epoch; /* counts daemons of this incarnation; 0: none has run yet */
    uint16_t major; /* CLSHM_DAEMON_* */
    uint16_t minor;
    uint64_t userns;     /* inode number of the daemon's user namespace: uids compare only where it is the same */
    uint32_t uid;        /* the daemon's */
    uint32_t flags;      /* FABRIC_SLOT_* */
    uint32_t away_beats; /* planned absence: beats that may be missed beyond the usual, bounded by FABRIC_AWAY_MAX */
    uint32_t reserved0;
    char name[FABRIC_NAME_MAX];
    char hostname[80];                    /* FABRIC_HOSTNAME_MAX used */
    uint32_t ring_head[FABRIC_PARTS_MAX]; /* how far this partition has read the ring from each other one */
    uint64_t extent[FABRIC_EXTENTS_MAX];  /* offset of each record extent from the area's start; 0: not allocated */
    uint8_t reserved1[48];
    uint32_t bell; /* FABRIC_BELL() */
    uint8_t reserved[FABRIC_PAGE - 84 - FABRIC_NAME_MAX - 80 - 4 * FABRIC_PARTS_MAX - 8 * FABRIC_EXTENTS_MAX];
};

/*
 * Must the daemon be woken for a message? count 30 | state 2. The receiver: ASLEEP with a count never used before, look
 * at the rings once more, sleep; AWAKE again; each store seq_cst. The sender: the message, the tail (seq_cst), then load
 * the word. AWAKE: it will look by itself. ASLEEP: wake it, once for each count. ALWAYS: it does not say, wake it.
 */
enum fabric_bell {
    FABRIC_BELL_ALWAYS = 0,
    FABRIC_BELL_ASLEEP = 1,
    FABRIC_BELL_AWAKE = 2,
};
#define FABRIC_BELL(count, state) ((uint32_t)(count) << 2 | (uint32_t)(state))
#define FABRIC_BELL_STATE(word)   ((word)&3)
#define FABRIC_BELL_COUNT(word)   ((word) >> 2)

#define FABRIC_SLOT_READY  1u /* the daemon has opened its door and restored its segments */
#define FABRIC_SLOT_SQUASH 2u /* trusts no other partition's uids */
#define FABRIC_AWAY_MAX    300u

struct fabric_slot {
    struct fabric_slot_life life;
    struct fabric_slot_daemon daemon;
};

/* ------------------------------------------------------------------ key table */

/*
 * A cell: state 2 | partition 8 | slot 16 | generation 24 | tag 14. It is a hint. It counts only if the record that it
 * names has the same key and generation, is NEW, RESERVED or LIVE, and its incarnation is alive; the rest are corpses,
 * which anybody may swap away. A LIVE cell with a NEW record: the key is taken, its home makes the record LIVE next.
 */
enum fabric_cell_state {
    FABRIC_CELL_FREE = 0,
    FABRIC_CELL_TENTATIVE = 1,
    FABRIC_CELL_LIVE = 2,
};

#define FABRIC_BUCKET_CELLS 64u
#define FABRIC_CELL(state, part, slot, gen, tag)                                                                       \
    ((uint64_t)(state) | (uint64_t)((part)&0xff) << 2 | (uint64_t)((slot)&0xffff) << 10 |                              \
     (uint64_t)((gen)&0xffffff) << 26 | (uint64_t)((tag)&0x3fff) << 50)
#define FABRIC_CELL_STATE(c) ((uint32_t)((c)&3))
#define FABRIC_CELL_PART(c)  ((uint32_t)((c) >> 2 & 0xff))
#define FABRIC_CELL_SLOT(c)  ((uint32_t)((c) >> 10 & 0xffff))
#define FABRIC_CELL_GEN(c)   ((uint32_t)((c) >> 26 & 0xffffff))
#define FABRIC_CELL_TAG(c)   ((uint32_t)((c) >> 50 & 0x3fff))

struct fabric_bucket {
    uint64_t cell[FABRIC_BUCKET_CELLS];
};

/* ------------------------------------------------------------------ segment records */

/* The first word of a record: generation 24 | state 8 | version 32. The version is odd while the body changes. */
enum fabric_record_state {
    FABRIC_REC_FREE = 0,
    FABRIC_REC_NEW = 1,      /* being made: memory or key not there yet; undone by a restart */
    FABRIC_REC_RESERVED = 2, /* xp_ftok: key and id are taken, memory comes with the first xp_shmget */
    FABRIC_REC_LIVE = 3,
    FABRIC_REC_DEST = 4, /* IPC_RMID came: no key any more, still attached somewhere */
    FABRIC_REC_LOST = 5, /* its memory went with an earlier incarnation: EIDRM until the slot is used again */
};

#define FABRIC_REC(gen, state, version)                                                                                \
    ((uint64_t)((gen)&0xffffff) | (uint64_t)(state) << 24 | (uint64_t)(uint32_t)(version) << 32)
#define FABRIC_REC_GEN(w)     ((uint32_t)((w)&0xffffff))
#define FABRIC_REC_STATE(w)   ((uint32_t)((w) >> 24 & 0xff))
#define FABRIC_REC_VERSION(w) ((uint32_t)((w) >> 32))

struct fabric_record {
    uint64_t head;        /* FABRIC_REC() */
    uint32_t incarnation; /* of the home, when it was made */
    int32_t key;
    uint64_t size; /* bytes as asked for */
    uint32_t uid, gid, cuid, cgid;
    uint32_t mode;  /* 0777, and SHM_LOCKED (02000) */
    uint32_t flags; /* FABRIC_SEG_* */
    int32_t cpid, lpid;
    int64_t atime, dtime, ctime; /* seconds, CLOCK_REALTIME */
    uint64_t importers;          /* a bit for each partition that may hold the memory */
    uint64_t token;              /* of the request that made it: a request repeated after a restart finds its segment */
    uint64_t attaches;           /* ever, as far as reported; AUTORMID asks whether it is 0 */
    uint32_t nattch;             /* last figure known to the home, for listings */
    uint32_t policy;             /* MPOL_* for its pages */
    uint64_t nodes;              /* node mask of the policy */
    uint64_t memory;             /* device fabrics: offset of its pages */
    uint64_t cell;               /* index of its key cell plus 1; 0: it has none */
    uint64_t wrap;               /* when (seconds) the slot's shmids last began anew */
    uint8_t reserved[48];
};

#define FABRIC_SEG_AUTORMID  1u /* remove after the last detach */
#define FABRIC_SEG_NORESERVE 2u
#define FABRIC_SEG_HUGE      4u
#define FABRIC_SEG_PRIVATE   8u  /* made with IPC_PRIVATE: never had a key */
#define FABRIC_SEG_FTOK      16u /* its key came from xp_ftok */
#define FABRIC_SEG_KNOWN     31u

/* ------------------------------------------------------------------ generations (read-only for clients) */

/*
 * The word of a slot: counts up at every change that a client's cached rights do not survive (removal, IPC_SET, a new
 * segment); bit 31 says that the segment is marked for removal, so that attaching and detaching go through the daemon.
 */
#define FABRIC_GEN_MARKED 0x80000000u

struct fabric_gens_head {
    uint32_t home[FABRIC_PARTS_MAX]; /* the incarnation of each home that this partition reaches; 0: dead or absent */
    uint8_t reserved[FABRIC_PAGE - 4 * FABRIC_PARTS_MAX];
};

/* ------------------------------------------------------------------ messages */

enum fabric_op {
    FABRIC_OP_NONE = 0,
    FABRIC_OP_PING = 1,        /* request, no body                        -> PONG */
    FABRIC_OP_PONG = 2,        /* body.pong */
    FABRIC_OP_IMPORT = 3,      /* request, shmid                          -> IMPORTED */
    FABRIC_OP_IMPORTED = 4,    /* status, body.stat; carries the memory when status is 0 */
    FABRIC_OP_COUNT = 5,       /* request, shmid                          -> COUNTED */
    FABRIC_OP_COUNTED = 6,     /* body.count */
    FABRIC_OP_RELEASE = 7,     /* request, shmid                          -> BUSY or RELEASED */
    FABRIC_OP_BUSY = 8,        /* body.count */
    FABRIC_OP_RELEASED = 9,    /* body.count; also without being asked */
    FABRIC_OP_CREATE = 10,     /* request, body.create: give memory to a reserved key -> DONE with body.stat */
    FABRIC_OP_RESERVE = 11,    /* request, body.create: a fresh key            -> DONE with body.stat */
    FABRIC_OP_REMOVE = 12,     /* request, shmid, body.rights             -> DONE */
    FABRIC_OP_AUTOREMOVE = 13, /* as REMOVE */
    FABRIC_OP_SET = 14,        /* as REMOVE, with the new owner and mode  -> DONE */
    FABRIC_OP_STAT = 15,       /* request, shmid or index                 -> DONE with body.stat */
    FABRIC_OP_LOCK = 16,       /* as REMOVE; FABRIC_MSG_OFF unlocks       -> DONE */
    FABRIC_OP_DONE = 17,       /* status; body.stat where asked for */
    FABRIC_OP_WAIT = 18,       /* reserved for waiting across partitions: refused (ENOSYS) so far */
    FABRIC_OP_WAKE = 19,
    FABRIC_OP_COUNT_,
};

#define FABRIC_MSG_MEMORY            1u /* the segment's memory travels with this message (local: descriptors through the door) */
#define FABRIC_MSG_INDEX             2u /* STAT: shmid is an index, its generation does not matter */
#define FABRIC_MSG_OFF               4u /* LOCK: unlock */
#define FABRIC_MSG_CALLER_PRIVILEGED 8u /* the caller has CAP_IPC_OWNER/CAP_SYS_ADMIN in its partition */
#define FABRIC_MSG_MADE              16u /* DONE after CREATE: this very request made it (its rights need not be asked) */
#define FABRIC_MSG_KNOWN             31u

struct fabric_stat {
    int32_t key;
    uint32_t mode; /* with SHM_DEST (01000) and SHM_LOCKED (02000) */
    uint64_t size;
    uint32_t uid, gid, cuid, cgid;
    int32_t cpid, lpid;
    int64_t atime, dtime, ctime;
    uint32_t nattch;
    uint32_t flags; /* FABRIC_SEG_* */
    uint32_t word;  /* the generation word that this answer holds for */
    uint32_t reserved;
};

struct fabric_count {
    uint64_t attaches; /* ever */
    int64_t atime, dtime;
    uint32_t nattch;
    int32_t lpid;
};

struct fabric_create {
    uint64_t size;
    uint64_t token;
    int32_t key;
    uint32_t flags; /* as in shmget(2): mode bits, SHM_HUGETLB, SHM_NORESERVE */
    uint32_t uid, gid;
    int32_t pid;
    uint32_t reserved;
};

struct fabric_rights {
    uint32_t uid, gid; /* the caller's */
    uint32_t new_uid, new_gid, new_mode;
    int32_t pid;
};

struct fabric_pong {
    char hostname[80];
};

struct fabric_msg {
    uint16_t op;
    uint16_t flags;
    int32_t status;              /* 0 or an errno, in answers */
    uint32_t incarnation, epoch; /* of the sender */
    uint32_t seq;                /* of the request; repeated in its answer */
    uint32_t reply_epoch;        /* in answers: the epoch that asked */
    int32_t shmid;
    uint32_t memory_seq; /* names the descriptors that travel with it */
    union {
        struct fabric_stat stat;
        struct fabric_count count;
        struct fabric_create create;
        struct fabric_rights rights;
        struct fabric_pong pong;
        uint8_t bytes[96];
    } body;
};

/* A ring: this head, then slots. `tail` is the sender's; the head is in the receiver's slot. Both count messages, mod 2^32. */
struct fabric_ring {
    uint32_t tail;
    uint8_t reserved[sizeof(struct fabric_msg) - 4];
    struct fabric_msg slot[];
};

/* A power of two, so that the counts may wrap: the largest one that fits. */
#define FABRIC_RING_SLOTS(ring_size)                                                                                   \
    ((uint32_t)1 << (31 - __builtin_clz((uint32_t)((ring_size) / sizeof(struct fabric_msg)) - 1)))

/* ------------------------------------------------------------------ shmids */

/* shmid = generation | partition | slot, never negative. */
static inline int32_t fabric_shmid(uint32_t part_bits, uint32_t slot_bits, uint32_t gen, uint32_t part, uint32_t slot)
{
    return (int32_t)(((gen << part_bits | part) << slot_bits | slot) & 0x7fffffffu);
}

static inline uint32_t fabric_shmid_slot(uint32_t slot_bits, int32_t shmid)
{
    return (uint32_t)shmid & ((1u << slot_bits) - 1);
}

static inline uint32_t fabric_shmid_part(uint32_t part_bits, uint32_t slot_bits, int32_t shmid)
{
    return (uint32_t)shmid >> slot_bits & ((1u << part_bits) - 1);
}

/* The generation bits of @shmid; equal to the low bits of its record's generation. */
static inline uint32_t fabric_shmid_gen(uint32_t part_bits, uint32_t slot_bits, int32_t shmid)
{
    return (uint32_t)shmid >> (slot_bits + part_bits);
}

/* ------------------------------------------------------------------ the layout does not move */

#ifndef __cplusplus
#ifdef __KERNEL__
#include <linux/build_bug.h>
#else
#include <assert.h>
#include <stddef.h>
#endif
static_assert(sizeof(struct fabric_superblock) == 192, "superblock");
static_assert(offsetof(struct fabric_superblock, checksum) == 184, "superblock.checksum");
static_assert(sizeof(struct fabric_slot_life) == FABRIC_PAGE, "life page");
static_assert(sizeof(struct fabric_slot_daemon) == FABRIC_PAGE, "daemon page");
static_assert(offsetof(struct fabric_slot_daemon, ring_head) == 144, "daemon page: ring_head");
static_assert(offsetof(struct fabric_slot_daemon, extent) == 400, "daemon page: extent");
static_assert(offsetof(struct fabric_slot_daemon, bell) == 1472, "daemon page: bell, in a cache line of its own");
static_assert(sizeof(struct fabric_bucket) == 512, "bucket");
static_assert(sizeof(struct fabric_record) == 192, "record");
static_assert(offsetof(struct fabric_record, importers) == 80, "record.importers");
static_assert(sizeof(struct fabric_gens_head) == FABRIC_PAGE, "generations head");
static_assert(sizeof(struct fabric_stat) == 80, "stat");
static_assert(sizeof(struct fabric_count) == 32, "count");
static_assert(sizeof(struct fabric_create) == 40, "create");
static_assert(sizeof(struct fabric_msg) == 128, "message");
static_assert(offsetof(struct fabric_msg, body) == 32, "message body");
static_assert(sizeof(struct fabric_ring) == 128, "ring");
#endif

#endif
