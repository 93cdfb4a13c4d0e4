/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the core looks like from within: core_check() compares everything that is kept twice, core_dump() prints it.
 */
#include <inttypes.h>
#include <stdio.h>

#include "core_internal.h"

#define HOLDS(condition, text)                                                                                         \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            return text;                                                                                               \
    } while (0)

static const char *check_target(const struct core *core, const struct target *target)
{
    const struct grant *grant;
    uint32_t n = 0;

    DL_FOREACH (target->grants, grant) {
        n++;
        HOLDS(grant->target == target, "a grant stands in another target's list");
        HOLDS(grant->entry < grant->client->n_grant && grant->client->grant[grant->entry] == grant,
              "a target's grant is not its client's");
    }
    HOLDS(n == target->n_grants, "target.n_grants");
    (void)core;
    return NULL;
}

static const char *check_state(const struct core *core, const struct segment *seg)
{
    bool memory = seg->state == FABRIC_REC_LIVE || seg->state == FABRIC_REC_DEST;
    bool maker = seg->maker != NULL;

    HOLDS(!memory || core->ops->memory_has(core->ctx, seg->t.shmid), "a live segment has no memory");
    HOLDS(seg->charge == (seg->state == FABRIC_REC_RESERVED && !maker                      ? CHARGE_KEY
                          : seg->state == FABRIC_REC_NEW && seg->r.flags & FABRIC_SEG_FTOK ? CHARGE_KEY
                                                                                           : CHARGE_SEGMENT),
          "a segment is charged as what it is not");
    HOLDS(seg->state != FABRIC_REC_NEW || maker, "nobody makes a new segment");
    HOLDS(!maker || seg->maker->seg == seg, "a segment's maker makes another");
    HOLDS(maker || !seg->waiters, "somebody waits for a segment that nobody makes");
    HOLDS(seg->state != FABRIC_REC_DEST || seg->importers || seg->t.grants, "a removed segment that nobody holds");
    HOLDS(seg->state != FABRIC_REC_LIVE || !(seg->r.flags & FABRIC_SEG_AUTORMID) || !seg->t.fig.attaches ||
              seg->importers || seg->t.grants,
          "an AUTORMID segment that nobody holds any more");
    HOLDS(memory || (!seg->importers && !seg->t.grants), "attached without memory");
    HOLDS(!segment_marked(seg) || seg->state == FABRIC_REC_NEW || seg->word & FABRIC_GEN_MARKED, "the mark is missing");
    HOLDS(!segment_marked(seg) || !seg->importers || seg->release.armed, "RELEASE is not repeated");
    return NULL;
}

static const char *check_segment(const struct core *core, const struct segment *seg)
{
    const struct core_params *p = &core->params;
    uint64_t bits = 0;
    uint32_t cell = offsetof(struct fabric_record, cell), head = sizeof(seg->r.head);

    HOLDS(core->segment[seg->slot] == seg, "a segment in another's slot");
    HOLDS(seg->t.shmid == fabric_shmid(p->part_bits, p->slot_bits, seg->gen, p->self, seg->slot), "segment.shmid");
    HOLDS(record_state(seg->shared) == seg->state && record_gen(seg->shared) == seg->gen, "record.head");
    HOLDS(!(FABRIC_REC_VERSION(record_head(seg->shared)) & 1), "a record's version is odd");
    HOLDS(!memcmp((char *)seg->shared + head, (const char *)&seg->r + head, cell - head), "a record was not published");
    for (const struct importer *importer = seg->importers; importer; importer = importer->next)
        bits |= 1ULL << importer->part;
    HOLDS(bits == seg->r.importers, "record.importers");
    HOLDS(core->ops->gen_load(core->ctx, seg->slot) == seg->word, "segment.word");
    return check_state(core, seg);
}

static const char *check_segments(const struct core *core)
{
    uint64_t n = 0, reserved = 0, pages = 0;

    for (struct user *user = core->users; user; user = user->hh.next)
        user->seen_segments = user->seen_bytes = user->seen_keys = user->seen_grants = user->seen_clients = 0;
    for (uint32_t slot = 0; slot < core->params.slots; slot++) {
        const struct segment *seg = core->segment[slot];
        const char *wrong;

        if (!seg)
            continue;
        n++;
        pages += seg->pages;
        reserved += seg->charge == CHARGE_KEY;
        if (seg->charge == CHARGE_KEY)
            seg->payer->seen_keys++;
        else if (seg->charge == CHARGE_SEGMENT)
            seg->payer->seen_segments++;
        seg->payer->seen_bytes += seg->pages * core->params.granule;
        wrong = check_segment(core, seg);
        wrong = wrong ? wrong : check_target(core, &seg->t);
        if (wrong)
            return wrong;
    }
    HOLDS(n == core->n_segments, "core.n_segments");
    HOLDS(reserved == core->n_reserved, "core.n_reserved");
    HOLDS(pages == core->pages && pages * core->params.granule == core->bytes, "core.pages");
    HOLDS(n + core->free.count + core->resting.count == core->params.slots, "slots got lost");
    return NULL;
}

static const char *check_clients(const struct core *core)
{
    uint64_t grants = 0;

    for (const struct client *client = core->clients; client; client = client->hh.next) {
        const struct op *op;
        uint32_t held = 0, ops = 0;

        client->user->seen_clients++;
        for (uint32_t i = 0; i < client->n_grant; i++) {
            if (!client->grant[i])
                continue;
            HOLDS(client->grant[i]->client == client && client->grant[i]->entry == i, "a grant of another client");
            held++;
        }
        client->user->seen_grants += held;
        grants += held;
        DL_FOREACH2(client->ops, op, client_next)
        {
            HOLDS(op->client == client, "an op of another client");
            ops++;
        }
        HOLDS(held == client->held && ops == client->n_ops, "client.held, client.n_ops");
    }
    HOLDS(grants == core->n_grants, "core.n_grants");
    for (const struct user *user = core->users; user; user = user->hh.next)
        HOLDS(user->segments == user->seen_segments && user->bytes == user->seen_bytes &&
                  user->keys == user->seen_keys && user->grants == user->seen_grants &&
                  user->clients == user->seen_clients &&
                  (user->segments || user->keys || user->grants || user->clients),
              "a quota");
    return NULL;
}

static const char *check_imports(const struct core *core)
{
    for (const struct import *imp = core->imports; imp; imp = imp->hh.next) {
        const char *wrong = check_target(core, &imp->t);

        if (wrong)
            return wrong;
        HOLDS(imp->t.grants || imp->seq || imp->waiters, "an import that nobody holds");
        HOLDS(!imp->waiters || imp->seq, "OPEN waits for an import that nobody asked for");
        HOLDS(!imp->t.grants || core->ops->memory_has(core->ctx, imp->t.shmid), "an import without memory");
        HOLDS(!imp->seq || imp->timer.armed, "an IMPORT is not repeated");
        HOLDS(core->member[imp->part].state != CORE_MEMBER_DEAD, "an import from a dead partition");
    }
    return NULL;
}

static const char *check_ops(const struct core *core)
{
    uint32_t remote[FABRIC_PARTS_MAX] = {0};

    for (const struct op *op = core->ops_by_id; op; op = op->hh.next) {
        bool timed = op->wait == WAIT_PEER || op->wait == WAIT_IMPORT || op->wait == WAIT_COUNT;

        HOLDS(op->wait != WAIT_NOTHING, "an op waits for nothing");
        HOLDS(timed == op->timer.armed, "an op's deadline");
        HOLDS(op->wait != WAIT_PEER || core->member[op->part].state == CORE_MEMBER_ALIVE,
              "an op waits for one who is gone");
        HOLDS(op->wait != WAIT_COUNT || op->awaiting, "an op waits for nobody's count");
        HOLDS((op->wait != WAIT_MEMORY && op->wait != WAIT_CLAIM) || op->seg->maker == op, "an op makes nothing");
        HOLDS(op->wait != WAIT_COUNT || !(op->awaiting & ~op->seg->r.importers), "an op counts who does not import");
        if (op->remote)
            remote[op->from]++;
    }
    for (uint32_t part = 0; part < core->params.parts; part++)
        HOLDS(remote[part] == core->member[part].n_ops, "member.n_ops");
    return NULL;
}

const char *core_check(const struct core *core)
{
    const char *wrong = check_segments(core);

    wrong = wrong ? wrong : check_clients(core);
    wrong = wrong ? wrong : check_imports(core);
    wrong = wrong ? wrong : check_ops(core);
    for (enum timer_class class = 0; !wrong && class < TIMER_CLASSES; class ++)
        for (const struct timer *timer = core->timers[class]; timer; timer = timer->next)
            HOLDS(timer->armed && (!timer->next || timer->due <= timer->next->due), "timers are out of order");
    return wrong;
}

/* ------------------------------------------------------------------ text */

static const char *const state_name[] = {"free", "new", "reserved", "live", "dest", "lost"};
static const char *const wait_name[] = {"nothing", "lookup", "claim", "memory", "made", "import", "peer", "count"};
static const char *const kind_name[] = {"get", "ftok", "open", "ctl", "setpmo", "ping"};
static const char *const member_name[] = {"absent", "alive", "stalled", "dead"};

static void dump_segments(const struct core *core, FILE *out)
{
    for (uint32_t slot = 0; slot < core->params.slots; slot++) {
        const struct segment *seg = core->segment[slot];

        if (!seg)
            continue;
        fprintf(out,
                "segment %d %s key 0x%08x size %" PRIu64 " mode %o uid %u flags %x word %08x here %u in %u grants "
                "importers %016" PRIx64 " attaches %" PRIu64 "%s\n",
                seg->t.shmid, state_name[seg->state], (unsigned)seg->r.key, seg->r.size, seg->r.mode, seg->r.uid,
                seg->r.flags, seg->word, seg->t.fig.nattch, seg->t.n_grants, seg->r.importers, seg->t.fig.attaches,
                seg->maker ? " being made" : "");
        for (const struct importer *i = seg->importers; i; i = i->next)
            fprintf(out, "  importer %u: %u attached%s\n", i->part, i->fig.nattch,
                    i->release_seq ? ", asked to release" : "");
    }
}

static void dump_rest(const struct core *core, FILE *out)
{
    for (const struct import *imp = core->imports; imp; imp = imp->hh.next)
        fprintf(out, "import %d from %u word %08x here %u in %u grants%s%s\n", imp->t.shmid, imp->part, imp->stat.word,
                imp->t.fig.nattch, imp->t.n_grants, imp->seq ? " asked for" : "",
                imp->has_stat ? "" : " rights unknown");
    for (const struct client *client = core->clients; client; client = client->hh.next)
        fprintf(out, "client %u pid %d uid %u grants %u ops %u\n", client->id, client->pid, client->user->uid,
                client->held, client->n_ops);
    for (const struct op *op = core->ops_by_id; op; op = op->hh.next)
        fprintf(out, "op %u %s waits for %s%s part %u since %" PRIu64 " ms\n", op->id, kind_name[op->kind],
                wait_name[op->wait],
                op->remote   ? " (asked by a partition)"
                : op->client ? ""
                             : " (nobody asks any more)",
                op->remote ? op->from : op->part, core->now_ms - op->began);
    for (const struct user *user = core->users; user; user = user->hh.next)
        fprintf(out,
                "uid %u segments %" PRIu64 " bytes %" PRIu64 " keys %" PRIu64 " grants %" PRIu64 " clients %" PRIu64
                "\n",
                user->uid, user->segments, user->bytes, user->keys, user->grants, user->clients);
    for (uint32_t part = 0; part < core->params.parts; part++)
        if (core->member[part].seen)
            fprintf(out, "partition %u %s incarnation %u%s\n", part, member_name[core->member[part].state],
                    core->member[part].incarnation, core->member[part].same_uids ? "" : " (strangers)");
}

char *core_dump(const struct core *core)
{
    const char *wrong = core_check(core);
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return NULL;
    fprintf(out, "core of partition %u incarnation %u epoch %u: %" PRIu64 " segments, %" PRIu64 " pages, check: %s\n",
            core->params.self, core->params.incarnation, core->params.epoch, core->n_segments, core->pages,
            wrong ? wrong : "good");
    dump_segments(core, out);
    dump_rest(core, out);
    fclose(out);
    return text;
}
