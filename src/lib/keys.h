/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Keys whose segments are known, so that xp_shmget() of one sends no message. */
#ifndef CLSHM_LIB_KEYS_H
#define CLSHM_LIB_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/clshmd.h"

#define KEYS_WAYS 4u
#define KEYS_SETS 256u

struct known_key {
    int32_t key;
    int32_t shmid;
    uint64_t size;
    uint32_t word;
    uint32_t incarnation; /* 0: free */
    uint16_t asked;       /* rwx bits that the daemon has allowed */
    bool exact;           /* a key of xp_ftok(): the size must be the same */
};

struct keys {
    struct known_key set[KEYS_SETS][KEYS_WAYS];
    uint8_t next[KEYS_SETS]; /* way to be replaced */
};

/* What the daemon answered to GET. */
void keys_put(struct keys *k, const struct clshmd_get *request, const struct clshmd_get_reply *reply);
/* Which segment the daemon would answer @request with, if the words of it are still those: the caller compares them.
 * NULL: ask the daemon. */
const struct known_key *keys_find(const struct keys *k, int32_t key, uint64_t size, uint32_t flags);
void keys_drop_all(struct keys *k);

#endif
