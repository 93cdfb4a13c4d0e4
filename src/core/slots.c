/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Slots: which one the next segment gets. Free slots wait in a queue, so that one is used again as late as can be. A
 * slot whose shmids would begin anew within WRAP_REST_S of the last time rests in a second queue, which is looked
 * through once a second at most, and only when the first one is empty: O(1) on average.
 */
#include "core_internal.h"

static int queue_init(struct queue *queue, uint32_t size)
{
    queue->slot = calloc(size, sizeof(uint32_t));
    return queue->slot ? 0 : ENOMEM;
}

static void queue_push(struct core *core, struct queue *queue, uint32_t slot)
{
    queue->slot[(queue->head + queue->count++) % core->params.slots] = slot;
}

static uint32_t queue_pop(struct core *core, struct queue *queue)
{
    uint32_t slot = queue->slot[queue->head];

    queue->head = (queue->head + 1) % core->params.slots;
    queue->count--;
    return slot;
}

int slots_init(struct core *core)
{
    core->segment = calloc(core->params.slots, sizeof(struct segment *));
    core->by_token = calloc(core->params.slots, sizeof(struct segment *));
    if (!core->segment || !core->by_token || queue_init(&core->free, core->params.slots) != 0 ||
        queue_init(&core->resting, core->params.slots) != 0)
        return ENOMEM;
    for (uint32_t slot = 0; slot < core->params.slots; slot++)
        queue_push(core, &core->free, slot);
    return 0;
}

void slots_deinit(struct core *core)
{
    free(core->segment);
    free(core->by_token);
    free(core->free.slot);
    free(core->resting.slot);
}

/* The generations that a shmid shows, less 1: a mask. */
static uint32_t gen_mask(const struct core *core)
{
    uint32_t bits = 31 - core->params.part_bits - core->params.slot_bits;

    return (1u << (bits < 24 ? bits : 24)) - 1;
}

bool slot_begins_anew(const struct core *core, uint32_t gen)
{
    return (gen & gen_mask(core)) == 0;
}

static bool too_early(const struct core *core, const struct fabric_record *rec)
{
    uint64_t wrap = __atomic_load_n(&rec->wrap, __ATOMIC_RELAXED);
    uint64_t now = (uint64_t)core->now_s;

    return slot_begins_anew(core, record_gen(rec) + 1) && wrap && now >= wrap && now - wrap < WRAP_REST_S;
}

static void look_through_resting(struct core *core)
{
    if (core->rested == core->now_s)
        return;
    core->rested = core->now_s;
    for (uint32_t n = core->resting.count; n > 0; n--) {
        uint32_t slot = queue_pop(core, &core->resting);
        struct fabric_record *rec = core->ops->record(core->ctx, slot, false);

        queue_push(core, rec && too_early(core, rec) ? &core->resting : &core->free, slot);
    }
}

int slot_take(struct core *core, uint32_t *slot)
{
    struct fabric_record *rec;

    if (!core->free.count)
        look_through_resting(core);
    while (core->free.count) {
        *slot = core->free.slot[core->free.head];
        rec = core->ops->record(core->ctx, *slot, true);
        if (!rec)
            return ENOSPC;
        queue_pop(core, &core->free);
        if (!too_early(core, rec))
            return 0;
        queue_push(core, &core->resting, *slot);
    }
    return ENOSPC;
}

void slot_give_back(struct core *core, uint32_t slot)
{
    queue_push(core, &core->free, slot);
}

/* Sort all slots anew after a restart: free ones first, then those whose LOST segments somebody may still ask for. */
void slots_restore(struct core *core)
{
    core->free.head = core->free.count = 0;
    core->resting.head = core->resting.count = 0;
    for (int lost = 0; lost <= 1; lost++)
        for (uint32_t slot = 0; slot < core->params.slots; slot++) {
            struct fabric_record *rec = core->ops->record(core->ctx, slot, false);

            if (!core->segment[slot] && (rec && record_state(rec) == FABRIC_REC_LOST) == lost)
                queue_push(core, &core->free, slot);
        }
}
