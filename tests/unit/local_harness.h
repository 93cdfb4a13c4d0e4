/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For tests of the local fabric: members that live in this process or in a forked one, with a keeper of their own.
 *
 * struct member is a member and what it was told; its `kept` table stands for the keeper and outlives close(), so that
 * a test can play a daemon that was killed and started again. Nothing waits by sleeping: member_until() polls the
 * fabrics' descriptors until a condition holds, or fails the test at its limit.
 */
#ifndef CLSHM_TESTS_LOCAL_HARNESS_H
#define CLSHM_TESTS_LOCAL_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "src/fabric/ops.h"

#define HARNESS_H        20u   /* ms, heartbeat of the fabrics made here */
#define HARNESS_LIMIT_MS 20000 /* for what must happen */
#define HARNESS_KEPT     64u
#define HARNESS_LOG      512u

struct kept {
    enum keep_kind kind;
    uint64_t id;
    int fd; /* -1: free */
};

struct received {
    uint32_t from;
    bool has_memory;
    struct fabric_msg msg;
};

struct member {
    struct fabric *f;
    uint32_t id;
    bool squash; /* as to be opened */
    bool fresh;
    struct kept kept[HARNESS_KEPT];
    struct driver_event event[HARNESS_LOG];
    uint32_t events;
    struct received msg[HARNESS_LOG];
    uint32_t msgs;
};

/* A directory of its own for each test; setup and teardown for cmocka. Teardown fails when anything but the fabric's
 * own files is left, and removes them. */
extern char harness_dir[64];  /* /dev/shm/clshm-test-XXXXXX */
extern char harness_path[96]; /* a fabric in it */
int harness_setup(void **state);
int harness_teardown(void **state);
/* Make the fabric at harness_path. */
void harness_format(uint32_t parts);

void member_init(struct member *m);
int member_open(struct member *m, const char *name, int part); /* open and adopt what is kept */
int member_join(struct member *m);
/* open, join, ready; all of which succeed */
void member_start(struct member *m, const char *name, int part);
void member_close(struct member *m);  /* as if killed; what is kept stays */
void member_forget(struct member *m); /* the keeper dies too */
void member_leave(struct member *m);  /* leave, close, forget */

bool member_told(const struct member *m, uint32_t type, uint32_t part);
bool member_told_of(const struct member *m, uint32_t type, int32_t shmid);
const struct kept *member_kept(const struct member *m, enum keep_kind kind, uint64_t id);

/* Turn the loops of @n members until @done. @return false: not within the limit */
bool member_until(struct member *const *members, unsigned n, bool (*done)(void *arg), void *arg);
/* Until @m was told @type of @part (or, for memory, of @shmid). */
void member_wait(struct member *m, uint32_t type, uint32_t part);
void member_wait_memory(struct member *m, uint32_t type, int32_t shmid);
/* Until both know each other. */
void member_meet(struct member *a, struct member *b);

int32_t member_shmid(const struct member *m, uint32_t slot);

#endif
