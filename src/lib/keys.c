// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A known key is an answer of GET, kept with the two words that say how long it holds (proto/clshmd.h). It answers only
 * what the daemon would answer with the same id and without an error; all else, and whatever would create, is asked.
 *
 * The rights are those of the question that was answered. They are forgotten when a change of credentials is noticed,
 * which a call without a message does not look for: an id gives no access, xp_shmat() checks.
 */
#include "src/lib/keys.h"

#include <string.h>
#include <sys/ipc.h>

static uint32_t set_of(int32_t key)
{
    return (uint32_t)key * 2654435761u >> 24;
}

static uint16_t bits_asked(uint32_t flags)
{
    return (flags >> 6 | flags >> 3 | flags) & 7;
}

void keys_put(struct keys *k, const struct clshmd_get *request, const struct clshmd_get_reply *reply)
{
    uint32_t set = set_of(request->key);
    struct known_key *known = NULL;
    if (request->key == IPC_PRIVATE || reply->incarnation == 0 || (reply->word & FABRIC_GEN_MARKED))
        return;
    for (uint32_t way = 0; way < KEYS_WAYS && !known; way++) {
        if (k->set[set][way].incarnation && k->set[set][way].key == request->key)
            known = &k->set[set][way];
    }
    if (!known)
        known = &k->set[set][k->next[set]++ % KEYS_WAYS];
    uint16_t before = known->key == request->key && known->shmid == reply->shmid && known->word == reply->word &&
                              known->incarnation == reply->incarnation
                          ? known->asked
                          : 0;
    *known = (struct known_key){.key = request->key,
                                .shmid = reply->shmid,
                                .size = reply->size,
                                .word = reply->word,
                                .incarnation = reply->incarnation,
                                .asked = (uint16_t)(before | bits_asked(request->flags)),
                                .exact = reply->flags & FABRIC_SEG_FTOK};
}

const struct known_key *keys_find(const struct keys *k, int32_t key, uint64_t size, uint32_t flags)
{
    if (key == IPC_PRIVATE || ((flags & IPC_CREAT) && (flags & IPC_EXCL)))
        return NULL;
    const struct known_key *set = k->set[set_of(key)];
    for (uint32_t way = 0; way < KEYS_WAYS; way++) {
        const struct known_key *known = &set[way];
        if (known->incarnation == 0 || known->key != key)
            continue;
        bool fits = known->exact ? size == known->size : size <= known->size;
        return fits && (bits_asked(flags) & ~known->asked) == 0 ? known : NULL;
    }
    return NULL;
}

void keys_drop_all(struct keys *k)
{
    memset(k, 0, sizeof(*k));
}
