/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of the core's simulator share. */
#ifndef TESTS_SIM_CORE_H
#define TESTS_SIM_CORE_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/fake/core_world.h"

#define SIM_PARTS   64u
#define SIM_CLIENTS 5u  /* of a partition */
#define SIM_PROBE   31u /* the client that asks at the end */
#define SIM_IDS     12u
#define SIM_KEYS    10u
#define SIM_UID     100u
#define SIM_REMOVED 8192u
#define SIM_TIMEOUT 1000u

/* One segment's memory, by serial. */
struct sim_memory {
    int32_t shmid;
    uint32_t home, incarnation;
    bool gone; /* destroyed, or its partition died: */
    bool died;
    bool was_live;                    /* its record was LIVE once */
    uint32_t attached, at[SIM_PARTS]; /* by living processes */
};

enum sim_phase {
    PHASE_IDLE,
    PHASE_WAIT,         /* for an answer */
    PHASE_ATTACH_CHECK, /* counted; now compare the word or ask */
    PHASE_DETACH_COUNT, /* unmapped; now count down */
    PHASE_DETACH_CHECK, /* counted down; now look at the mark */
    PHASE_FORKING,      /* the child has a page; now fill it */
};

struct sim_entry {
    uint32_t attached;
    uint64_t serial;
    bool cached; /* a descriptor, good while word and incarnation are the same */
    uint32_t word, incarnation;
    uint64_t cached_serial;
};

enum sim_request { ASK_GET, ASK_OPEN, ASK_DETACHED, ASK_CTL, ASK_FTOK, ASK_PING };

struct sim_client {
    bool used, dead, answered;
    enum sim_phase phase;
    uint32_t entry, child, uid;
    struct sim_entry e[WORLD_ENTRIES];
    enum sim_request ask;
    bool issued;
    uint64_t tag, token;
    uint32_t home; /* FTOK, PING */
    union {
        struct clshmd_get get;
        struct clshmd_open open;
        struct clshmd_detached detached;
        struct clshmd_ctl ctl;
    } req;
    struct world_reply reply;
};

struct sim_view {
    enum core_member_state state;
    uint32_t incarnation;
};

struct sim {
    struct world *w;
    uint32_t parts, slots;
    uint64_t seed, random, steps, step;
    bool verbose, logging, strange, calm;
    uint32_t faults; /* per 10000 steps */
    jmp_buf failed;
    struct sim_client client[SIM_PARTS][SIM_CLIENTS];
    struct sim_view view[SIM_PARTS][SIM_PARTS];
    bool dead[SIM_PARTS];
    struct sim_memory *memory;
    uint64_t memory_size;
    int32_t id[SIM_IDS], key[SIM_KEYS];
    uint32_t n_id;
    int32_t removed[SIM_REMOVED]; /* what was asked to be removed; a hash table, 0: free */
    uint64_t tags;
    uint64_t replies, attachments, cached, removals, restarts, deaths, pauses; /* what a run has seen */
};

uint32_t sim_random(struct sim *sim, uint32_t n);
bool sim_chance(struct sim *sim, uint32_t per_10000);
void sim_log(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_removed_add(struct sim *sim, int32_t shmid);
struct sim_memory *sim_memory(struct sim *sim, uint64_t serial);
void sim_check(struct sim *sim, uint32_t part);

bool sim_same_uids(const struct sim *sim, uint32_t a, uint32_t b);
void sim_tell(struct sim *sim, uint32_t observer, uint32_t subject, enum core_member_state state);
void sim_start(struct sim *sim, uint32_t part, bool fresh);
void sim_pass_time(struct sim *sim, uint32_t ms);

/* sim_core_end.c */
void sim_end(struct sim *sim);

/* sim_core_clients.c */
void client_step(struct sim *sim, uint32_t part, uint32_t number);
void client_issue(struct sim *sim, uint32_t part, uint32_t number);
void clients_disconnected(struct sim *sim, uint32_t part);
void client_die(struct sim *sim, uint32_t part, uint32_t number);
void client_replied(void *ctx, uint32_t part, const struct world_reply *reply);
bool client_busy(const struct sim_client *client);

#endif
