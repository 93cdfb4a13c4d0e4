/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How the home writes a segment record, so that others may read it meanwhile.
 *
 * The head word decides: generation, state, version. The version is odd while the body changes; a reader takes a copy
 * only if the version was even and the head the same before and after. A home that died in between leaves the version
 * odd: its successor's record_begin() takes over, record_end() makes it even again.
 *
 *     a new segment     record_new(rec); fill the body; record_ready(rec, FABRIC_REC_NEW)
 *     several fields    record_begin(rec); change them; record_end(rec)
 *     one field         nothing: an aligned word is stored whole
 *     the state         record_set_state(rec, FABRIC_REC_LIVE): one store
 *
 * What the key table rests on:
 *   - a slot that is used again gets another generation (record_new() sees to it), also after an attempt that failed;
 *   - key and incarnation do not change while the state is NEW, RESERVED or LIVE;
 *   - DEST, LOST and FREE do not become LIVE again under the same generation.
 */
#ifndef CLSHM_CORE_RECORD_H
#define CLSHM_CORE_RECORD_H

#include "proto/fabric.h"

/* Orders the odd version before the body's plain stores. ThreadSanitizer knows no fences; its runs are on x86, where
 * the exchange alone is enough. */
#if defined(__SANITIZE_THREAD__)
#define RECORD_FENCE() ((void)0)
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RECORD_FENCE() ((void)0)
#endif
#endif
#ifndef RECORD_FENCE
#define RECORD_FENCE() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif

static inline uint64_t record_head(const struct fabric_record *rec)
{
    return __atomic_load_n(&rec->head, __ATOMIC_ACQUIRE);
}

static inline uint32_t record_state(const struct fabric_record *rec)
{
    return FABRIC_REC_STATE(record_head(rec));
}

static inline uint32_t record_gen(const struct fabric_record *rec)
{
    return FABRIC_REC_GEN(record_head(rec));
}

/* The body changes from here on. */
static inline void record_begin(struct fabric_record *rec)
{
    uint64_t head = record_head(rec);

    head = FABRIC_REC(FABRIC_REC_GEN(head), FABRIC_REC_STATE(head), FABRIC_REC_VERSION(head) | 1u);
    __atomic_exchange_n(&rec->head, head, __ATOMIC_SEQ_CST);
    RECORD_FENCE();
}

/* The body is whole again; @state from now on. */
static inline void record_ready(struct fabric_record *rec, uint32_t state)
{
    uint64_t head = record_head(rec);

    head = FABRIC_REC(FABRIC_REC_GEN(head), state, (FABRIC_REC_VERSION(head) | 1u) + 1u);
    __atomic_store_n(&rec->head, head, __ATOMIC_SEQ_CST);
}

static inline void record_end(struct fabric_record *rec)
{
    record_ready(rec, record_state(rec));
}

/* The state alone changes; this store is the moment of it. */
static inline void record_set_state(struct fabric_record *rec, uint32_t state)
{
    uint64_t head = record_head(rec);

    head = FABRIC_REC(FABRIC_REC_GEN(head), state, FABRIC_REC_VERSION(head) + 2u);
    __atomic_store_n(&rec->head, head, __ATOMIC_SEQ_CST);
}

/* Begin the next generation of a slot that nobody uses. The state is FREE until record_ready(). @return its generation */
static inline uint32_t record_new(struct fabric_record *rec)
{
    uint64_t head = record_head(rec);
    uint32_t gen = (FABRIC_REC_GEN(head) + 1u) & 0xffffffu;

    __atomic_exchange_n(&rec->head, FABRIC_REC(gen, FABRIC_REC_FREE, FABRIC_REC_VERSION(head) | 1u), __ATOMIC_SEQ_CST);
    RECORD_FENCE();
    return gen;
}

#endif
