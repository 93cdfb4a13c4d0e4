/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The key table. A key hashes to one bucket of 64 cells and to a tag of 14 bits; a cell names a record, and the record
 * decides: it must be of the generation that the cell names, in a state that holds a key, of an incarnation that is
 * alive, and have the key. A cell whose record says otherwise is a corpse: it means nothing, for ever, since a slot that
 * is used again gets another generation (src/core/record.h). Anybody may swap a corpse away.
 *
 * Claim, for an own record that is NEW and complete:
 *
 *     1  scan the bucket: LIVE with this key: somebody else has it, done
 *     2  record.cell = index + 1; swap a free cell or a corpse for TENTATIVE; failed: start over
 *     3  scan again: LIVE with this key: withdraw, somebody else has it
 *                    TENTATIVE with this key: swap it away, or yield
 *     4  swap the own cell from TENTATIVE to LIVE; failed: somebody swapped it away, start over
 *
 * A LIVE cell counts from that swap on, whatever of NEW, RESERVED and LIVE its record is: the swap is the decision, the
 * record's state follows when its home is done. Whoever finds it meanwhile has found a segment that will be there in a
 * moment, or one that was removed at once.
 *
 * Why never two. Let X and Y claim one key, and both succeed, X's step 4 first. Y did not see X's cell LIVE, so Y's last
 * look at it was before X's step 4. Had X's cell been TENTATIVE then, Y would have swapped it away, and X's step 4 would
 * have failed; so Y looked before X's step 2. Then X's scan (3) came after Y's step 2, found Y's TENTATIVE cell, and X
 * went on only because it had swapped it away; so Y's step 4 failed. This needs that each one's step 2 is visible before
 * its step 3 loads (all are seq_cst), and that a valid cell is never taken for a corpse: the life word is loaded after
 * the record, and the record's word is loaded again after its body. A claimer that cannot tell withdraws.
 *
 * Late swaps. A claimer that was paused for however long can only swap what it saw: a free cell (then its TENTATIVE
 * stands there, and is a corpse if it was declared dead meanwhile), a corpse (which cannot have come to life again: the
 * value holds partition, slot and generation), a TENTATIVE cell (whose owner then starts over), or its own. The
 * generation has 24 bits: for a corpse to be mistaken, its slot would have to be used 16 million times during one pause.
 *
 * Death. A claimer that dies leaves a corpse (its incarnation is not alive), or, if only its daemon died, a TENTATIVE or
 * LIVE cell whose NEW record the next daemon undoes: record.cell was stored before the cell, so area_unclaim() finds it.
 * Until then rivals lose patience with the TENTATIVE cell, and those who meet the LIVE one are told its id.
 *
 * Progress. Rivals would swap each other away for ever if all were equal: so the one with the lower partition number is
 * stronger. The weaker one yields: it withdraws and looks again, and only after `patience` rounds swaps the stronger
 * one's cell away, since that one may be asleep. When this did not make it win, its patience doubles. So the stronger
 * one needs to be undisturbed for one scan, about a microsecond, while others wait ever longer.
 */
#include <errno.h>

#include "src/fabric/area/area_mem.h"

#define ROUNDS_MAX      256u
#define CELL_LOOKS      8u
#define IDENTITY_LOOKS  8u
#define PATIENCE_BEGIN  4u
#define PATIENCE_MAX    32u
#define RELAX_SPINS_MAX 16u

/* Where a key belongs. */
struct place {
    int32_t key;
    uint64_t bucket;
    uint32_t tag;
    uint64_t *cells;
};

enum verdict {
    CORPSE,
    STRANGER, /* valid, another key */
    TAKEN,    /* LIVE, this key */
    RIVAL,    /* TENTATIVE, this key */
    UNKNOWN,  /* cannot tell: with an errno */
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;
    return x ^ x >> 31;
}

static struct place place_of(const struct area *area, int32_t key)
{
    uint64_t hash = mix(mix((uint32_t)key + 0x9e3779b97f4a7c15ULL) ^ area->sb.key_salt);
    struct place place = {
        .key = key,
        .bucket = hash & (area->sb.key_buckets - 1),
        .tag = (uint32_t)(hash >> 50),
    };

    place.cells = (uint64_t *)(void *)(area->base + area->sb.keys_offset) + place.bucket * FABRIC_BUCKET_CELLS;
    return place;
}

static int place_touch(struct area *area, const struct place *place)
{
    return area_touch(area, area->sb.keys_offset + place->bucket * sizeof(struct fabric_bucket),
                      sizeof(struct fabric_bucket));
}

/* ------------------------------------------------------------------ what a cell is worth */

struct identity {
    uint32_t state, incarnation;
    int32_t key;
};

/* What of a record decides, if it is of generation @gen. Key and incarnation stand while the head's generation and state
 * do, whatever the version says: a home that died while it changed the mode still has its key.
 * ENOENT: another generation, or none; EAGAIN; what area_record_find() says. */
static int identity_read(struct area *area, uint32_t part, uint32_t slot, uint32_t gen, struct identity *out)
{
    struct fabric_record *rec;
    int error = area_record_find(area, part, slot, &rec);

    if (error)
        return error;
    for (uint32_t i = 0; i < IDENTITY_LOOKS; i++) {
        uint64_t head = load64(&rec->head), again;

        if (FABRIC_REC_GEN(head) != gen)
            return ENOENT;
        out->state = FABRIC_REC_STATE(head);
        out->key = (int32_t)load32((const uint32_t *)&rec->key);
        out->incarnation = load32(&rec->incarnation);
        again = load64(&rec->head);
        if (FABRIC_REC_GEN(again) == gen && FABRIC_REC_STATE(again) == out->state)
            return 0;
    }
    return EAGAIN;
}

/* The same for TENTATIVE and LIVE cells: between the loads of a TENTATIVE cell and of its record, the claim may have been
 * decided and the record made LIVE. To take that for a corpse would make two winners; taken for a rival, the swap fails
 * and the cell is looked at again. */
static bool state_holds_key(uint32_t state)
{
    return state == FABRIC_REC_NEW || state == FABRIC_REC_RESERVED || state == FABRIC_REC_LIVE;
}

/* @cell was found in @place's bucket and is not free. */
static enum verdict judge(struct area *area, const struct place *place, uint64_t cell, int *error)
{
    uint32_t part = FABRIC_CELL_PART(cell), state = FABRIC_CELL_STATE(cell);
    struct place home;
    struct identity id;

    if (state != FABRIC_CELL_TENTATIVE && state != FABRIC_CELL_LIVE)
        return CORPSE;
    *error = identity_read(area, part, FABRIC_CELL_SLOT(cell), FABRIC_CELL_GEN(cell), &id);
    if (*error)
        return *error == ENOENT ? CORPSE : UNKNOWN;
    if (!state_holds_key(id.state))
        return CORPSE;
    /* Loaded after the record: a partition that joins anew makes its life word first, its records then. */
    if (id.incarnation == 0 || area_incarnation(area, part) != id.incarnation)
        return CORPSE;
    home = place_of(area, id.key);
    if (home.bucket != place->bucket || home.tag != FABRIC_CELL_TAG(cell))
        return CORPSE;
    if (id.key != place->key)
        return STRANGER;
    return state == FABRIC_CELL_LIVE ? TAKEN : RIVAL;
}

static bool cell_is_free(uint64_t cell)
{
    return FABRIC_CELL_STATE(cell) == FABRIC_CELL_FREE;
}

/* May @cell be of interest to @place's key at all? */
static bool cell_fits(const struct place *place, uint64_t cell)
{
    return !cell_is_free(cell) && FABRIC_CELL_TAG(cell) == place->tag;
}

static void found_failed(struct core_found *out, int error)
{
    *out = (struct core_found){
        .state = CORE_FOUND_FAILED,
        .error = error == ENOSPC || error == EINVAL ? error : EHOSTDOWN,
    };
}

/* The segment that a TAKEN cell names. @return false: it is gone meanwhile, look again. */
static bool found_other(struct area *area, const struct place *place, uint64_t cell, struct core_found *out)
{
    uint32_t part = FABRIC_CELL_PART(cell), slot = FABRIC_CELL_SLOT(cell), gen = FABRIC_CELL_GEN(cell);
    uint32_t word = area_gen(area, part, slot), state;
    struct fabric_record rec;
    int error = area_record_read(area, part, slot, &rec);

    if (error == ENOENT)
        return false;
    if (error) {
        found_failed(out, error);
        return true;
    }
    state = FABRIC_REC_STATE(rec.head);
    if (FABRIC_REC_GEN(rec.head) != gen || rec.key != place->key || !state_holds_key(state))
        return false;
    *out = (struct core_found){
        .state = CORE_FOUND_OTHER,
        .shmid = area_shmid(area, part, slot, gen),
        .home = part,
        .reserved = state == FABRIC_REC_RESERVED,
    };
    area_record_stat(&rec, word, &out->stat);
    return true;
}

/* ------------------------------------------------------------------ lookup */

/* @return false: something went away while it was looked at. */
static bool lookup_once(struct area *area, const struct place *place, struct core_found *out)
{
    int error;

    for (uint32_t i = 0; i < AREA_BUCKET_CELLS; i++) {
        uint64_t cell = load64(&place->cells[i]);

        if (!cell_fits(place, cell) || FABRIC_CELL_STATE(cell) != FABRIC_CELL_LIVE)
            continue;
        switch (judge(area, place, cell, &error)) {
        case TAKEN:
            return found_other(area, place, cell, out);
        case UNKNOWN:
            found_failed(out, error);
            return true;
        default:
            break;
        }
    }
    *out = (struct core_found){.state = CORE_FOUND_NONE};
    return true;
}

void area_lookup(struct area *area, int32_t key, struct core_found *out)
{
    struct place place = place_of(area, key);
    int error = place_touch(area, &place);

    if (error) {
        found_failed(out, error);
        return;
    }
    for (uint32_t round = 0; round < ROUNDS_MAX; round++)
        if (lookup_once(area, &place, out))
            return;
    found_failed(out, EAGAIN);
}

/* ------------------------------------------------------------------ claim */

struct claim {
    struct area *area;
    struct place place;
    uint32_t self;
    struct fabric_record *rec; /* own */
    uint64_t tentative, live;  /* values of the own cell */
    uint32_t index;            /* of the own cell within the bucket */
    uint32_t yielded, patience;
    bool impatient; /* swapped a stronger rival away in this round */
};

enum outcome {
    AGAIN, /* start over */
    DONE,  /* *out is filled */
};

/* Give the own cell back, if it still is ours. */
static void withdraw(struct claim *c)
{
    swap64(&c->place.cells[c->index], c->tentative, 0);
    store64(&c->rec->cell, 0);
}

static bool must_yield(const struct claim *c, uint64_t rival)
{
    return FABRIC_CELL_PART(rival) < c->self && c->yielded < c->patience;
}

/* Step 1. @room: the cell to swap; @old: what stands there. */
static enum outcome look_for_room(struct claim *c, struct core_found *out, uint32_t *room, uint64_t *old)
{
    uint64_t seen[AREA_BUCKET_CELLS];
    bool found = false;
    int error;

    for (uint32_t i = 0; i < AREA_BUCKET_CELLS; i++) {
        enum verdict verdict = CORPSE;

        seen[i] = load64(&c->place.cells[i]);
        if (!cell_is_free(seen[i])) {
            if (!cell_fits(&c->place, seen[i]))
                continue;
            verdict = judge(c->area, &c->place, seen[i], &error);
        }
        if (verdict == TAKEN)
            return found_other(c->area, &c->place, seen[i], out) ? DONE : AGAIN;
        if (verdict == UNKNOWN) {
            found_failed(out, error);
            return DONE;
        }
        if (verdict == CORPSE && !found) {
            found = true;
            *room = i;
        }
    }
    /* No free cell: look among the cells of other keys for corpses. */
    for (uint32_t i = 0; i < AREA_BUCKET_CELLS && !found; i++) {
        if (!cell_fits(&c->place, seen[i]) && judge(c->area, &c->place, seen[i], &error) == CORPSE) {
            found = true;
            *room = i;
        }
    }
    if (!found) {
        *out = (struct core_found){.state = CORE_FOUND_FULL};
        return DONE;
    }
    *old = seen[*room];
    return AGAIN;
}

enum look {
    CLEAR,
    YIELD,
    BEATEN,  /* with the winner's cell */
    CONFUSED /* with an errno */
};

/* Step 3 for one cell: when this says CLEAR, no valid cell with this key stood there at some time since step 2. */
static enum look look_at_rival(struct claim *c, uint64_t *word, uint64_t *winner, int *error)
{
    for (uint32_t look = 0; look < CELL_LOOKS; look++) {
        uint64_t cell = load64(word);

        if (!cell_fits(&c->place, cell))
            return CLEAR;
        switch (judge(c->area, &c->place, cell, error)) {
        case TAKEN:
            *winner = cell;
            return BEATEN;
        case RIVAL:
            if (must_yield(c, cell))
                return YIELD;
            if (FABRIC_CELL_PART(cell) < c->self)
                c->impatient = true;
            if (swap64(word, cell, 0))
                return CLEAR;
            break;
        case UNKNOWN:
            return CONFUSED;
        default:
            return CLEAR;
        }
    }
    return YIELD;
}

/* Step 3 */
static enum look look_at_rivals(struct claim *c, uint64_t *winner, int *error)
{
    for (uint32_t i = 0; i < AREA_BUCKET_CELLS; i++) {
        enum look look;

        if (i == c->index)
            continue;
        look = look_at_rival(c, &c->place.cells[i], winner, error);
        if (look != CLEAR)
            return look;
    }
    return CLEAR;
}

/* The own cell stands and nobody else's does. */
static enum outcome decide(struct claim *c, struct core_found *out)
{
    if (swap64(&c->place.cells[c->index], c->tentative, c->live)) {
        *out = (struct core_found){
            .state = CORE_FOUND_NONE,
            .shmid = area_shmid(c->area, c->self, FABRIC_CELL_SLOT(c->live), FABRIC_CELL_GEN(c->live)),
            .home = c->self,
        };
        return DONE;
    }
    store64(&c->rec->cell, 0);
    if (c->impatient) {
        c->patience = c->patience < PATIENCE_MAX ? 2 * c->patience : PATIENCE_MAX;
        c->yielded = 0;
    }
    return AGAIN;
}

static enum outcome claim_round(struct claim *c, struct core_found *out)
{
    uint64_t old = 0, winner = 0;
    enum outcome outcome;
    int error = 0;

    c->impatient = false;
    c->index = AREA_BUCKET_CELLS;
    outcome = look_for_room(c, out, &c->index, &old);
    if (outcome == DONE || c->index == AREA_BUCKET_CELLS)
        return outcome;

    store64(&c->rec->cell, c->place.bucket * FABRIC_BUCKET_CELLS + c->index + 1);
    if (!swap64(&c->place.cells[c->index], old, c->tentative)) {
        store64(&c->rec->cell, 0);
        return AGAIN;
    }
    switch (look_at_rivals(c, &winner, &error)) {
    case CLEAR:
        return decide(c, out);
    case BEATEN:
        withdraw(c);
        return found_other(c->area, &c->place, winner, out) ? DONE : AGAIN;
    case CONFUSED:
        withdraw(c);
        found_failed(out, error);
        return DONE;
    case YIELD:
        break;
    }
    withdraw(c);
    c->yielded++;
    return AGAIN;
}

void area_claim(struct area *area, uint32_t self, uint32_t slot, int32_t key, struct core_found *out)
{
    struct claim c = {.area = area, .self = self, .place = place_of(area, key), .patience = PATIENCE_BEGIN};
    uint64_t head;
    int error = place_touch(area, &c.place);

    if (error) {
        found_failed(out, error);
        return;
    }
    c.rec = area_record(area, self, slot, false);
    head = c.rec ? record_head(c.rec) : 0;
    if (FABRIC_REC_STATE(head) != FABRIC_REC_NEW || c.rec->key != key) {
        found_failed(out, EINVAL);
        return;
    }
    area_unclaim(area, self, slot);
    c.tentative = FABRIC_CELL(FABRIC_CELL_TENTATIVE, self, slot, FABRIC_REC_GEN(head), c.place.tag);
    c.live = FABRIC_CELL(FABRIC_CELL_LIVE, self, slot, FABRIC_REC_GEN(head), c.place.tag);
    for (uint32_t round = 0; round < ROUNDS_MAX; round++) {
        if (claim_round(&c, out) == DONE)
            return;
        area_relax(round < RELAX_SPINS_MAX ? round : RELAX_SPINS_MAX);
    }
    found_failed(out, EAGAIN);
}

void area_unclaim(struct area *area, uint32_t self, uint32_t slot)
{
    struct fabric_record *rec = area_record(area, self, slot, false);
    uint64_t index, cell, *word;

    if (!rec)
        return;
    index = load64(&rec->cell);
    if (index == 0)
        return;
    index--;
    if (index < area->sb.key_buckets * FABRIC_BUCKET_CELLS &&
        area_touch(area, area->sb.keys_offset + index * sizeof(uint64_t), sizeof(uint64_t)) == 0) {
        word = (uint64_t *)(void *)(area->base + area->sb.keys_offset) + index;
        cell = load64(word);
        /* Only we make cells that name this slot; if it is swapped away meanwhile, it was as a corpse or a rival. */
        if (!cell_is_free(cell) && FABRIC_CELL_PART(cell) == self && FABRIC_CELL_SLOT(cell) == slot)
            swap64(word, cell, 0);
    }
    store64(&rec->cell, 0);
}
