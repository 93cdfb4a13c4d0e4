/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of sim_attach share. sim_attach.c explains. */
#ifndef CLSHM_TESTS_SIM_ATTACH_H
#define CLSHM_TESTS_SIM_ATTACH_H

#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

#define SIM_ATTACH_ITSELF
#include "tests/fake/core_world.h"
#include "tests/sim/sim_attach_lib.h"
#undef lib

#define PARTS      3u
#define CLIENTS    6u /* alive at one time, in all partitions; the first two are those who create, change and remove */
#define SEGS       48u
#define MAPPINGS   8u
#define STACK_SIZE (64u * 1024)

struct seg {
    int32_t shmid;
    uint32_t home;
    uint64_t serial;
    bool touched;     /* somebody has begun to change or remove it */
    bool forbidden;   /* IPC_SET has returned: nobody but the owner may attach */
    uint32_t allowed; /* times that an IPC_SET began that allows it again */
    bool removing;    /* RMID has begun */
    bool automatic;   /* AUTORMID has returned */
    bool attached;    /* was ever attached */
};

struct mapping_made {
    void *addr; /* NULL: free */
    int32_t shmid;
    uint64_t serial;
    bool revoked;
};

struct coroutine {
    ucontext_t context;
    uint8_t *stack;
    bool running;
};

struct sim_client {
    struct coroutine co;
    struct lib *lib;
    uint32_t part, id; /* number in its partition */
    bool alive, known; /* its daemon knows it */
    uint32_t ops;
    uint64_t began; /* step at which the present call did */
    struct mapping_made mapping[MAPPINGS];
    /* the request under way */
    bool pending, taken, answered;
    enum clshmd_op op;
    uint64_t tag;
    union {
        struct clshmd_open open;
        struct clshmd_detached detached;
        struct clshmd_ctl ctl;
        struct clshmd_get get;
    } request;
    struct world_reply reply;
    int fd;
};

struct sim_daemon {
    struct coroutine co;
    bool busy; /* in the middle of something */
    bool fresh;
    uint32_t notice[PARTS]; /* what it has yet to be told of others: 0 nothing, 1 dead, 2 alive */
    uint32_t home[PARTS];   /* gens_head.home: incarnations, 0: not up */
    uint64_t lost[PARTS];   /* step at which home[] last became 0 */
    uint32_t gone[WORLD_CLIENTS], n_gone;
};

struct sim {
    struct world *world;
    struct sim_daemon daemon[PARTS];
    struct sim_client client[CLIENTS];
    bool down[PARTS]; /* dead, not come back */
    uint32_t next_id[PARTS];
    struct seg seg[SEGS];
    uint32_t segs, parts, clients, switches, faults;
    struct {
        bool open;
        int32_t shmid;
        uint64_t serial;
    } fd[256];
    uintptr_t next_addr;
    uint64_t seed, random, step, tags;
    struct coroutine *current;
    struct sim_client *who; /* NULL: a daemon */
    ucontext_t scheduler;
    bool faulted, failed;
};
extern struct sim sim;

struct sim_total {
    uint64_t steps, attached, cached, refused, removed, sets, deaths, kills, restarts;
};
extern struct sim_total total;

uint32_t chance(uint32_t below);
void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* With --verbose: what happens, a line each. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Another may go on. */
void sim_yield(void);
struct seg *seg_of(int32_t shmid);

/* sim_attach_client.c */
void client_run(void);
void daemon_run(void);
bool daemon_has_work(uint32_t part);
void client_replied(void *ctx, uint32_t part, const struct world_reply *reply);
void memory_is_gone(void *ctx, uint32_t part, int32_t shmid, uint64_t serial, char how);
void check_counts(void);

#endif
