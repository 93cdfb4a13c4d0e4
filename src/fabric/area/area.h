/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control area and the generations area of a fabric (proto/fabric.h), as plain memory. Shared by the fabrics whose
 * partitions see the same memory (local; device: later).
 *
 * A page is touched, be it to read it, only after reserve() has said that it is there: on a tmpfs even reading a hole
 * takes memory, and a full one answers with SIGBUS. What is known to be there is remembered in a bitmap, so that this
 * costs one bit test afterwards. The superblock and all partitions' slots are reserved by area_init(); the functions
 * for them cannot fail.
 *
 * Threads: the functions on life words and heartbeats may be called from any thread, the rest from the daemon's loop.
 * Nothing here is asserted of what another partition may write: it is copied, checked, and refused with an error.
 *
 * Functions return 0 or an errno, unless said otherwise.
 */
#ifndef CLSHM_FABRIC_AREA_H
#define CLSHM_FABRIC_AREA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/fabric.h"
#include "src/core/core.h"   /* struct core_found */
#include "src/core/record.h" /* how records are written */

/* ------------------------------------------------------------------ geometry */

#define AREA_PARTS_DEFAULT 16u
#define AREA_SLOTS_DEFAULT 4096u
#define AREA_RING_SIZE     8192u

struct area_geometry {
    uint32_t kind;         /* enum fabric_kind */
    uint32_t parts, slots; /* 0: the defaults */
    uint32_t granule;      /* bytes */
    uint32_t heartbeat_ms;
    const char *name; /* of the fabric: printable, shorter than FABRIC_NAME_MAX */
    uint8_t uuid[16];
    uint64_t key_salt; /* random */
};

/* Compute the superblock, checksum included. EINVAL: a value is out of range; *@why (may be NULL) says which, as text. */
int area_layout(const struct area_geometry *geometry, struct fabric_superblock *out, const char **why);

/* Bytes of the generations area. */
static inline uint64_t area_gens_size(const struct fabric_superblock *sb)
{
    return sb->parts * sb->gens_block;
}

/* Where a partition's parts lie: offset in the control area (block: rings and records) and in the generations area. */
static inline uint64_t area_slot_offset(const struct fabric_superblock *sb, uint32_t part)
{
    return sb->slots_offset + part * (uint64_t)sizeof(struct fabric_slot);
}

static inline uint64_t area_block_offset(const struct fabric_superblock *sb, uint32_t part)
{
    return sb->blocks_offset + part * sb->block_size;
}

static inline uint64_t area_gens_offset(const struct fabric_superblock *sb, uint32_t part)
{
    return part * sb->gens_block;
}

/* ------------------------------------------------------------------ a mapped area */

struct area {
    uint8_t *base;
    uint64_t size;
    uint8_t *gens; /* may be NULL: no generations here */
    uint64_t gens_size;
    struct fabric_superblock sb; /* private copy, checked */
    /* Allocate [offset, offset + len) of the control area, page-aligned; an errno (ENOSPC) if there is no room. */
    int (*reserve)(void *ctx, uint64_t offset, uint64_t len);
    void *ctx;
    uint64_t *reserved; /* bitmap of pages that are known to be there */
};

/* Take over mappings of the whole control area (read and write) and of the generations area (own block writable), which
 * stay the caller's to unmap. The superblock must have passed fabric_superblock_check(); @sb is the copy that did.
 * @reserve may be NULL: all is there. ENOMEM, or what reserve() says. */
int area_init(struct area *area, const struct fabric_superblock *sb, void *base, void *gens,
              int (*reserve)(void *ctx, uint64_t offset, uint64_t len), void *ctx);
void area_deinit(struct area *area);

/* Make sure that a range of the control area may be touched. */
int area_touch(struct area *area, uint64_t offset, uint64_t len);

/* ------------------------------------------------------------------ life words (any thread) */

/* FABRIC_LIFE(); 0 (FREE) for a partition that cannot be. */
uint64_t area_life(const struct area *area, uint32_t part);
/* The incarnation if @part is ALIVE, else 0. */
uint32_t area_incarnation(const struct area *area, uint32_t part);
/* FREE(i) or DEAD(i) to ALIVE(i+1). The caller has proven that the previous holder is gone. EBUSY: somebody else has it. */
int area_life_claim(struct area *area, uint32_t part, uint32_t *incarnation);
/* ALIVE(incarnation) to DEAD. The caller looked at its own life word first. @return false: it is not ALIVE(incarnation) */
bool area_declare_dead(struct area *area, uint32_t part, uint32_t incarnation, uint32_t declarer);
/* ALIVE(incarnation) to FREE. @return false: it was declared dead meanwhile */
bool area_life_leave(struct area *area, uint32_t part, uint32_t incarnation);

uint64_t area_heartbeat(const struct area *area, uint32_t part);
void area_heartbeat_store(struct area *area, uint32_t self, uint64_t beats);

/* ------------------------------------------------------------------ the daemon's page of a slot */

/* Publish all fields before ring_head of own page from @page (the rest of @page is not looked at). Heads and extents are
 * kept: records and their generations outlast incarnations. */
void area_slot_publish(struct area *area, uint32_t self, const struct fabric_slot_daemon *page);
void area_slot_set_flags(struct area *area, uint32_t self, uint32_t flags);
void area_slot_set_away(struct area *area, uint32_t self, uint32_t beats);
/* Copy a page, checked: versions there, names terminated and printable, known flags, away_beats and extents in range.
 * ENOENT: no daemon has run there yet; EBADMSG: it does not make sense. */
int area_slot_read(const struct area *area, uint32_t part, struct fabric_slot_daemon *out);
/* One word of it, for those who look often. */
uint32_t area_slot_epoch(const struct area *area, uint32_t part);
uint32_t area_slot_flags(const struct area *area, uint32_t part);
uint32_t area_slot_away(const struct area *area, uint32_t part); /* cut to FABRIC_AWAY_MAX */
uint32_t area_slot_bell(const struct area *area, uint32_t part); /* FABRIC_BELL(); ALWAYS if there is none */
/* The own one: the next state. ASLEEP and ALWAYS get a new count. */
void area_slot_set_bell(struct area *area, uint32_t self, enum fabric_bell state);

/* ------------------------------------------------------------------ records */

/* Own record @slot, in place. With @allocate its extent is reserved and published if need be. NULL: not allocated yet
 * (without @allocate), or there is no room (errno ENOSPC). Write it as src/core/record.h says. */
struct fabric_record *area_record(struct area *area, uint32_t self, uint32_t slot, bool allocate);

/* Copy any partition's record under its version, checked (state, flags, mode, size, key cell in range). FREE ones are
 * not there. ENOENT; EAGAIN: its home keeps changing it, or died doing so; EBADMSG; ENOSPC from reserve(). */
int area_record_read(struct area *area, uint32_t part, uint32_t slot, struct fabric_record *out);

/* As a record copy reads for shmctl(2); @word is the generation word. */
void area_record_stat(const struct fabric_record *rec, uint32_t word, struct fabric_stat *out);
int32_t area_shmid(const struct area *area, uint32_t part, uint32_t slot, uint32_t gen);

/* ------------------------------------------------------------------ the key table */

/* Who has @key? NONE, OTHER, or FAILED with an errno (EHOSTDOWN: its home died while it changed the record). */
void area_lookup(struct area *area, int32_t key, struct core_found *out);

/* Claim @key for own record @slot, which is NEW, complete (key, incarnation) and allocated. NONE: it is ours, its cell
 * is LIVE, everybody finds it from now on, also while the record is still NEW: the caller makes it LIVE or RESERVED, or
 * gives up (record FREE, then area_unclaim()). OTHER: somebody else has it. FULL; FAILED: ENOSPC, EAGAIN, EHOSTDOWN. */
void area_claim(struct area *area, uint32_t self, uint32_t slot, int32_t key, struct core_found *out);

/* Free the cell that own record @slot has, if any; after the record has changed. Also what undoes half a claim. */
void area_unclaim(struct area *area, uint32_t self, uint32_t slot);

/* ------------------------------------------------------------------ rings */

/* Append to the ring from @from (own) to @to. EAGAIN: full; EBADMSG: the receiver's head makes no sense; ENOSPC. */
int area_ring_send(struct area *area, uint32_t from, uint32_t to, const struct fabric_msg *msg);
/* Copy the oldest message from @from to @self (own), which stays until area_ring_advance(). Not checked yet but for the
 * ring: fabric_msg_check(@out) is the caller's. EAGAIN: none; EBADMSG: the sender's tail makes no sense: close this
 * ring, quarantine the peer; ENOSPC. */
int area_ring_receive(struct area *area, uint32_t self, uint32_t from, struct fabric_msg *out);
/* Its effect is durable: the sender may use the room. */
void area_ring_advance(struct area *area, uint32_t self, uint32_t from);
/* Forget all that @from has sent (a new incarnation owes nothing to its predecessor's peers), or mend after EBADMSG. */
int area_ring_skip(struct area *area, uint32_t self, uint32_t from);

/* ------------------------------------------------------------------ generations */

/* The word of a slot; own ones may be stored. Both seq_cst. 0 where there is none. */
uint32_t area_gen(const struct area *area, uint32_t part, uint32_t slot);
void area_gen_store(struct area *area, uint32_t self, uint32_t slot, uint32_t word);
/* What the head of own block tells clients of @home: its incarnation, 0: dead or absent. */
void area_gens_home_store(struct area *area, uint32_t self, uint32_t home, uint32_t incarnation);
uint32_t area_gens_home(const struct area *area, uint32_t self, uint32_t home);

#endif
