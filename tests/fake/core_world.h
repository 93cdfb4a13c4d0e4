/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A fabric of cores in one process: what stands behind struct core_ops for the core's unit tests and its simulator.
 *
 * Nothing happens by itself. Messages wait in one queue for each pair of partitions, answers of the directory and of
 * memory_create() in one list, until the test delivers them. Records and generation words live in plain memory and
 * outlast cores, as the control area does. A segment's memory is an object with a serial number; a client attaches
 * serials, so that a test sees when one goes away under it.
 */
#ifndef TESTS_FAKE_CORE_WORLD_H
#define TESTS_FAKE_CORE_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/core/core.h"

#define WORLD_CLIENTS 32u /* of one partition, numbers 0..; enough for tests */
#define WORLD_ENTRIES 8u

struct world;

struct world_reply {
    bool here;
    uint32_t client;
    uint64_t tag;
    int error;
    int32_t grant_shmid;
    uint32_t prot;
    size_t size;
    union {
        struct clshmd_get_reply get;
        struct clshmd_open_reply open;
        struct clshmd_stat stat;
        struct clshmd_ftok_reply ftok;
        struct clshmd_info info;
        struct clshmd_ping_reply ping;
        uint8_t bytes[512];
    } u;
};

struct world_memory {
    uint64_t serial; /* 0: none */
    int32_t shmid;
    bool locked;
};

struct world_message {
    struct fabric_msg msg;
    uint64_t serial; /* of the memory that travels with it */
};

struct world_queue {
    struct world_message *message;
    uint32_t head, count, size;
    uint32_t busy; /* place in world.busy, plus 1 */
};

struct world_part {
    struct world *world;
    uint32_t self;
    struct core *core; /* NULL: no daemon */
    uint32_t incarnation, epoch;
    struct core_limits limits;
    struct fabric_record *record;
    uint32_t *gen;
    bool *cell; /* own record's key is in the table */
    uint32_t *cell_gen;
    struct world_memory *own; /* by slot */
    struct world_memory *import;
    uint32_t imports, imports_size;
    struct clshmd_entry entry[WORLD_CLIENTS][WORLD_ENTRIES];
    bool page[WORLD_CLIENTS];
    bool unborn[WORLD_CLIENTS];  /* made by fork, not connected yet: a restarted daemon does not know its pid */
    uint32_t uid[WORLD_CLIENTS]; /* added to what world_start() is given */
    bool paused;                 /* nothing is delivered, no time passes */
    struct world_reply reply;    /* the last one */
    uint32_t replies;
};

/* An answer that comes later. */
struct world_later {
    uint32_t part;
    bool memory, claim;
    uint64_t ticket;
    int32_t key, shmid;
    uint32_t slot;
    int error;
    bool done; /* the claim was carried out; `found` is its result */
    struct core_found found;
};

struct world_config {
    uint32_t parts, slots, part_bits, slot_bits;
    struct core_limits limits;
};

struct world {
    struct world_config config;
    void *ctx; /* of the hooks */
    /* All may be NULL. @later: should this answer come later? */
    bool (*later)(void *ctx, uint32_t part);
    int (*memory_error)(void *ctx, uint32_t part, const struct driver_create *req);
    void (*replied)(void *ctx, uint32_t part, const struct world_reply *reply);
    /* @serial of own memory (@how 'd'estroyed), or of an import (d'r'opped, re'v'oked). */
    void (*memory_gone)(void *ctx, uint32_t part, int32_t shmid, uint64_t serial, char how);
    void (*sent)(void *ctx, uint32_t from, uint32_t to, const struct fabric_msg *msg);
    void (*point)(void *ctx); /* before each access to a word that another process shares */

    uint64_t now_ms;
    int64_t now_s;
    uint64_t serials;
    struct world_part *part;
    struct world_queue *queue; /* [from * parts + to] */
    uint32_t *busy, n_busy;    /* queues that are not empty */
    struct world_later *waiting;
    uint32_t n_waiting, waiting_size;
};

struct world *world_new(const struct world_config *config);
struct world *world_free(struct world *world);

/* Start the daemon of a partition. @fresh: a new incarnation begins. Clients whose page is there are told to the core as
 * `uid`, pid 1000 + number. Members are the caller's to tell. */
int world_start(struct world *world, uint32_t part, bool fresh, uint32_t uid);
void world_stop(struct world *world, uint32_t part); /* as kill -9 */
/* The partition's processes, memory and messages are gone. */
void world_die(struct world *world, uint32_t part);
void world_introduce(struct world *world, bool same_uids); /* all that run see each other ALIVE */
void world_time(struct world *world, uint64_t ms);

/* Deliver the oldest message from @from to @to; @repeat: and leave it there. @return false: there is none. */
bool world_deliver(struct world *world, uint32_t from, uint32_t to, bool repeat);
void world_cut(struct world *world, uint32_t from, uint32_t to, uint32_t keep); /* all but the first @keep are lost */
/* Carry out one thing that waits (by its place in world.waiting). */
void world_answer(struct world *world, uint32_t n);
void world_answers_lost(struct world *world, uint32_t part);
void world_settle(struct world *world); /* deliver and answer everything */

uint64_t world_memory(const struct world *world, uint32_t part, int32_t shmid); /* serial, 0: not there */
/* Does any partition have memory with this serial as its own? */
bool world_serial_lives(const struct world *world, uint64_t serial);

#endif
