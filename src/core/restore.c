/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * After a restart of the daemon: everything again, from the records, the kept memory and the clients' pages.
 *
 * What the predecessor was in the middle of is finished or undone: a record that was NEW never was; a removal goes on;
 * memory that belongs to no living segment goes. Quotas are charged whatever the limits say by now.
 */
#include "core_internal.h"

static bool makes_sense(const struct core *core, const struct fabric_record *r)
{
    uint32_t state = FABRIC_REC_STATE(r->head);
    uint64_t others = core->params.parts < 64 ? (1ULL << core->params.parts) - 1 : UINT64_MAX;

    others &= ~(1ULL << core->params.self);
    if (r->flags & ~FABRIC_SEG_KNOWN || r->mode & ~(0777u | SHM_LOCKED) || r->importers & ~others)
        return false;
    if (state == FABRIC_REC_RESERVED)
        return r->flags & FABRIC_SEG_FTOK && !r->size;
    return r->size && r->size <= (uint64_t)INT64_MAX - core->params.granule;
}

/* Nobody has this slot (any more); the state tells later askers why. */
static void retire(struct core *core, uint32_t slot, struct fabric_record *shared, uint32_t state)
{
    const struct core_params *p = &core->params;
    int32_t shmid = fabric_shmid(p->part_bits, p->slot_bits, record_gen(shared), p->self, slot);

    if (record_state(shared) != state || FABRIC_REC_VERSION(record_head(shared)) & 1)
        record_ready(shared, state);
    core->ops->unclaim(core->ctx, slot);
    if (core->ops->memory_has(core->ctx, shmid))
        core->ops->memory_destroy(core->ctx, shmid);
}

static int adopt(struct core *core, uint32_t slot, const struct fabric_record *r)
{
    struct segment *seg;
    int error = segment_adopt(core, slot, r, &seg);

    for (uint32_t part = 0; !error && part < core->params.parts; part++)
        if (r->importers >> part & 1)
            error = segment_add_importer(core, seg, part, false);
    if (error)
        return error;
    if (seg->state == FABRIC_REC_RESERVED && core->ops->memory_has(core->ctx, seg->t.shmid))
        core->ops->memory_destroy(core->ctx, seg->t.shmid); /* it was being made */
    if (seg->state == FABRIC_REC_DEST) {
        core->ops->unclaim(core->ctx, slot);
        seg->r.key = 0;
    }
    if (r->mode & SHM_LOCKED)
        (void)core->ops->memory_lock(core->ctx, seg->t.shmid, true); /* a limit may be lower by now: no harm */
    segment_publish(core, seg, seg->state);
    return 0;
}

static int restore_slot(struct core *core, uint32_t slot, bool fresh)
{
    const struct core_params *p = &core->params;
    struct fabric_record *shared = core->ops->record(core->ctx, slot, false);
    struct fabric_record r;
    uint32_t state;
    int32_t shmid;

    if (!shared)
        return 0;
    memcpy(&r, shared, sizeof(r));
    state = FABRIC_REC_STATE(r.head);
    shmid = fabric_shmid(p->part_bits, p->slot_bits, FABRIC_REC_GEN(r.head), p->self, slot);
    if (state == FABRIC_REC_FREE || state == FABRIC_REC_NEW) {
        retire(core, slot, shared, FABRIC_REC_FREE);
        return 0;
    }
    if (fresh || r.incarnation != p->incarnation || state > FABRIC_REC_DEST || !makes_sense(core, &r) ||
        (state != FABRIC_REC_RESERVED && !core->ops->memory_has(core->ctx, shmid))) {
        retire(core, slot, shared, FABRIC_REC_LOST);
        return 0;
    }
    return adopt(core, slot, &r);
}

/* The removals go on. */
static void restore_removals(struct core *core)
{
    for (uint32_t slot = 0; slot < core->params.slots; slot++) {
        struct segment *seg = core->segment[slot];

        if (!seg)
            continue;
        if (segment_marked(seg) != (bool)(seg->word & FABRIC_GEN_MARKED))
            segment_bump(core, seg, segment_marked(seg));
        if (!segment_marked(seg))
            continue;
        target_end_unused(core, &seg->t);
        if (seg->importers)
            timer_arm(core, TIMER_RELEASE, &seg->release, core->now_ms);
        segment_continue(core, seg);
    }
}

static void restore_imports(struct core *core, bool fresh)
{
    struct import *imp, *next;

    HASH_ITER (hh, core->imports, imp, next) {
        int32_t shmid = imp->t.shmid;

        if (fresh) {
            import_forget(core, imp);
            if (core->ops->memory_has(core->ctx, shmid))
                core->ops->memory_drop(core->ctx, shmid);
        } else if (!imp->t.grants) {
            import_release(core, imp, 0, 0);
        } else {
            import_ask(core, imp);
        }
    }
}

int core_restore_import(struct core *core, int32_t shmid)
{
    const struct core_params *p = &core->params;

    if (shmid < 0 || fabric_shmid_part(p->part_bits, p->slot_bits, shmid) == p->self ||
        fabric_shmid_part(p->part_bits, p->slot_bits, shmid) >= p->parts)
        return EINVAL;
    if (import_find(core, shmid))
        return 0;
    return import_new(core, shmid) ? 0 : ENOMEM;
}

int core_restore(struct core *core, bool fresh)
{
    struct client *client, *next;
    int error = 0;

    for (uint32_t slot = 0; slot < core->params.slots && !error; slot++)
        error = restore_slot(core, slot, fresh);
    slots_restore(core);
    HASH_ITER (hh, core->clients, client, next) {
        client->late = client->pid == 0;
        core->n_late += client->late;
        if (!error)
            error = core_adopt_client(core, client);
    }
    if (error)
        return error;
    core->restored = true;
    restore_removals(core);
    restore_imports(core, fresh);
    return 0;
}
