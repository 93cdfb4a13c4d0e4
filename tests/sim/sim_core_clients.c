/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The simulated processes: what libclshm does, in the same small steps, each of which something else may come between.
 *
 *     attach   count + 1 | compare the word with the cached one: map; else OPEN: map, or count - 1 and as below
 *     detach   unmap | count - 1 | MARKED or another word: DETACHED
 *     fork     FORK | copy the counts into the child's page, and the child is there
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#include "tests/sim/sim_core.h"

static struct clshmd_entry *page(struct sim *sim, uint32_t part, uint32_t number, uint32_t entry)
{
    return &sim->w->part[part].entry[number][entry];
}

static uint32_t home_of(const struct sim *sim, int32_t shmid)
{
    return fabric_shmid_part(sim->w->config.part_bits, sim->w->config.slot_bits, shmid);
}

static uint32_t word_of(const struct sim *sim, int32_t shmid)
{
    uint32_t home = home_of(sim, shmid);

    return home < sim->parts ? sim->w->part[home].gen[fabric_shmid_slot(sim->w->config.slot_bits, shmid)] : 0;
}

bool client_busy(const struct sim_client *client)
{
    return client->used && (client->dead || client->phase != PHASE_IDLE);
}

/* ------------------------------------------------------------------ mapping */

static void map(struct sim *sim, uint32_t part, uint32_t number, uint32_t entry, uint64_t serial, const char *how)
{
    struct sim_client *client = &sim->client[part][number];
    struct sim_memory *m = sim_memory(sim, serial);
    /* Until it has noticed, a partition serves what it has of a dead home. */
    bool unnoticed = m->died && part != m->home && sim->view[part][m->home].incarnation == m->incarnation &&
                     sim->view[part][m->home].state != CORE_MEMBER_DEAD;

    if (m->gone && !unnoticed)
        sim_fail(sim, "%u.%u attaches %d (%s), memory %lu, which is gone", part, number, m->shmid, how,
                 (unsigned long)serial);
    if (client->e[entry].attached && client->e[entry].serial != serial &&
        !sim_memory(sim, client->e[entry].serial)->gone)
        sim_fail(sim, "%u.%u: %d is two memories at a time", part, number, m->shmid);
    if (client->e[entry].attached && client->e[entry].serial != serial)
        client->e[entry].attached = 0; /* what is left of a dead home's */
    client->e[entry].serial = serial;
    client->e[entry].attached++;
    m->attached++;
    m->at[part]++;
    sim->attachments++;
}

static void unmap(struct sim *sim, uint32_t part, struct sim_entry *e)
{
    struct sim_memory *m = sim_memory(sim, e->serial);

    e->attached--;
    if (m->attached)
        m->attached--;
    if (m->at[part])
        m->at[part]--;
}

/* ------------------------------------------------------------------ asking */

static void ask(struct sim *sim, uint32_t part, uint32_t number, enum sim_request what)
{
    struct sim_client *client = &sim->client[part][number];

    client->ask = what;
    client->phase = PHASE_WAIT;
    client->issued = client->answered = false;
    client_issue(sim, part, number);
}

void client_issue(struct sim *sim, uint32_t part, uint32_t number)
{
    struct world_part *p = &sim->w->part[part];
    struct sim_client *client = &sim->client[part][number];
    struct core_cred cred = {
        .uid = SIM_UID + client->uid,
        .gid = SIM_UID + client->uid,
        .pid = (int32_t)(1000 + number),
        .privileged = client->uid == 0,
    };

    if (client->phase != PHASE_WAIT || client->issued || client->dead || !p->core || p->paused)
        return;
    if (p->unborn[number]) { /* the child connects */
        core_client_pid(p->core, number, (int32_t)(1000 + number));
        p->unborn[number] = false;
    }
    client->issued = true;
    client->tag = ++sim->tags;
    switch (client->ask) {
    case ASK_GET:
        core_get(p->core, number, client->tag, &cred, &client->req.get);
        break;
    case ASK_OPEN:
        core_open(p->core, number, client->tag, &cred, &client->req.open);
        break;
    case ASK_DETACHED:
        core_detached(p->core, number, client->tag, &client->req.detached);
        break;
    case ASK_CTL:
        core_ctl(p->core, number, client->tag, &cred, &client->req.ctl);
        break;
    case ASK_FTOK:
        core_ftok(p->core, number, client->tag, &cred, client->home, client->token);
        break;
    default:
        core_ping(p->core, number, client->tag, client->home);
        break;
    }
}

/* The connections are gone: whoever waits asks again. */
void clients_disconnected(struct sim *sim, uint32_t part)
{
    for (uint32_t n = 0; n < SIM_CLIENTS; n++)
        if (!sim->client[part][n].answered)
            sim->client[part][n].issued = false;
}

/* Called from within the core: take note only. A descriptor that came is as good as mapped. */
void client_replied(void *ctx, uint32_t part, const struct world_reply *reply)
{
    struct sim *sim = ctx;
    struct sim_client *client;

    if (reply->client >= SIM_CLIENTS)
        return;
    client = &sim->client[part][reply->client];
    if (!client->used || client->phase != PHASE_WAIT || !client->issued || client->answered ||
        client->tag != reply->tag)
        sim_fail(sim, "%u.%u: an answer that nobody waits for", part, reply->client);
    client->answered = true;
    client->reply = *reply;
    sim->replies++;
    if (client->ask == ASK_OPEN && !reply->error) {
        uint64_t serial = world_memory(sim->w, part, client->req.open.shmid);
        struct sim_entry *e = &client->e[client->entry];

        if (!serial)
            sim_fail(sim, "%u.%u: %d granted without memory", part, reply->client, client->req.open.shmid);
        map(sim, part, reply->client, client->entry, serial, "granted");
        e->cached = true;
        e->word = reply->u.open.word;
        e->incarnation = reply->u.open.incarnation;
        e->cached_serial = serial;
    }
}

static void remember_id(struct sim *sim, int32_t shmid)
{
    sim->id[sim->n_id++ % SIM_IDS] = shmid;
}

static void answer(struct sim *sim, uint32_t part, uint32_t number)
{
    struct sim_client *client = &sim->client[part][number];
    const struct world_reply *r = &client->reply;

    sim_log(sim, "%u.%u answered: request %d, error %d", part, number, client->ask, r->error);
    client->phase = PHASE_IDLE;
    if (client->ask == ASK_OPEN && r->error)
        client->phase = PHASE_DETACH_COUNT;
    else if (client->ask == ASK_GET && !r->error)
        remember_id(sim, r->u.get.shmid);
    else if (client->ask == ASK_FTOK && !r->error)
        sim->key[sim_random(sim, SIM_KEYS / 2)] = r->u.ftok.key;
    if (r->error == EPROTO)
        sim_fail(sim, "%u.%u: EPROTO", part, number);
}

/* ------------------------------------------------------------------ beginning something */

static void begin_attach(struct sim *sim, uint32_t part, uint32_t number)
{
    struct sim_client *client = &sim->client[part][number];
    uint32_t entry = sim_random(sim, WORLD_ENTRIES);
    int32_t shmid = sim->id[sim_random(sim, SIM_IDS)];
    struct clshmd_entry *e;

    if (client->e[entry].cached && sim_chance(sim, 7000)) /* once more */
        shmid = page(sim, part, number, entry)->shmid;
    entry = WORLD_ENTRIES;
    for (uint32_t i = 0; i < WORLD_ENTRIES; i++)
        if (page(sim, part, number, i)->attaches && page(sim, part, number, i)->shmid == shmid)
            entry = i;
    for (uint32_t i = 0; i < WORLD_ENTRIES && entry == WORLD_ENTRIES; i++)
        if (!page(sim, part, number, i)->count && !client->e[i].attached)
            entry = i;
    if (entry == WORLD_ENTRIES || shmid <= 0)
        return;
    e = page(sim, part, number, entry);
    if (e->shmid != shmid) {
        *e = (struct clshmd_entry){.shmid = shmid};
        client->e[entry] = (struct sim_entry){0};
    }
    e->count++;
    e->attaches++;
    e->atime = sim->w->now_s;
    e->by_parent = 0;
    client->entry = entry;
    client->phase = PHASE_ATTACH_CHECK;
    sim_log(sim, "%u.%u counts %d in entry %u: %u", part, number, shmid, entry, e->count);
}

static void attach_check(struct sim *sim, uint32_t part, uint32_t number)
{
    struct sim_client *client = &sim->client[part][number];
    struct sim_entry *e = &client->e[client->entry];
    int32_t shmid = page(sim, part, number, client->entry)->shmid;
    uint32_t home = home_of(sim, shmid);
    uint32_t lives = home >= sim->parts                                ? 0
                     : home == part                                    ? sim->w->part[part].incarnation
                     : sim->view[part][home].state >= CORE_MEMBER_DEAD ? 0
                                                                       : sim->view[part][home].incarnation;

    if (e->cached && e->word == word_of(sim, shmid) && lives == e->incarnation && !(e->word & FABRIC_GEN_MARKED)) {
        sim_log(sim, "%u.%u attaches %d without a word", part, number, shmid);
        map(sim, part, number, client->entry, e->cached_serial, "cached");
        client->phase = PHASE_IDLE;
        sim->cached++;
        return;
    }
    client->req.open = (struct clshmd_open){
        .shmid = shmid,
        .access = CLSHMD_READ | (sim_chance(sim, 5000) ? CLSHMD_WRITE : 0),
        .entry = client->entry,
    };
    sim_log(sim, "%u.%u OPEN %d entry %u", part, number, shmid, client->entry);
    ask(sim, part, number, ASK_OPEN);
}

static void begin_detach(struct sim *sim, uint32_t part, uint32_t number)
{
    struct sim_client *client = &sim->client[part][number];
    uint32_t first = sim_random(sim, WORLD_ENTRIES);

    for (uint32_t i = 0; i < WORLD_ENTRIES; i++) {
        uint32_t entry = (first + i) % WORLD_ENTRIES;

        if (!client->e[entry].attached)
            continue;
        sim_log(sim, "%u.%u unmaps %d", part, number, page(sim, part, number, entry)->shmid);
        unmap(sim, part, &client->e[entry]);
        client->entry = entry;
        client->phase = PHASE_DETACH_COUNT;
        return;
    }
}

static void detach_check(struct sim *sim, uint32_t part, uint32_t number)
{
    struct sim_client *client = &sim->client[part][number];
    struct sim_entry *e = &client->e[client->entry];
    int32_t shmid = page(sim, part, number, client->entry)->shmid;
    uint32_t word = word_of(sim, shmid);

    client->phase = PHASE_IDLE;
    if (e->cached && e->word == word && !(word & FABRIC_GEN_MARKED))
        return;
    client->req.detached = (struct clshmd_detached){.shmid = shmid, .entry = client->entry};
    sim_log(sim, "%u.%u DETACHED %d", part, number, shmid);
    ask(sim, part, number, ASK_DETACHED);
}

static void begin_fork(struct sim *sim, uint32_t part, uint32_t number)
{
    struct world_part *p = &sim->w->part[part];
    uint32_t child = 0;

    while (child < SIM_CLIENTS && sim->client[part][child].used)
        child++;
    if (child == SIM_CLIENTS || !p->core)
        return;
    memset(p->entry[child], 0, sizeof(p->entry[child]));
    p->page[child] = p->unborn[child] = true;
    p->uid[child] = p->uid[number];
    if (core_client_fork(p->core, number, child) != 0) {
        p->page[child] = p->unborn[child] = false;
        return;
    }
    sim_log(sim, "%u.%u FORK %u", part, number, child);
    sim->client[part][child] =
        (struct sim_client){.used = true, .phase = PHASE_FORKING, .uid = p->uid[number], .child = child};
    sim->client[part][number].phase = PHASE_FORKING;
    sim->client[part][number].child = child;
}

static void forking(struct sim *sim, uint32_t part, uint32_t number)
{
    struct world_part *p = &sim->w->part[part];
    struct sim_client *client = &sim->client[part][number], *child = &sim->client[part][client->child];

    if (child == client || (!sim->calm && sim_chance(sim, 6000)))
        return; /* the parent does it, in its time */
    sim_log(sim, "%u.%u's child %u is there", part, number, client->child);
    memcpy(p->entry[client->child], p->entry[number], sizeof(p->entry[number]));
    for (uint32_t i = 0; i < WORLD_ENTRIES; i++) {
        struct clshmd_entry *e = &p->entry[client->child][i];
        struct sim_memory *m;

        child->e[i] = client->e[i];
        e->count = client->e[i].attached;
        e->by_parent = e->count > 0;
        if (!e->count)
            continue;
        e->atime = sim->w->now_s;
        m = sim_memory(sim, child->e[i].serial);
        m->attached += child->e[i].attached;
        m->at[part] += child->e[i].attached;
    }
    child->phase = client->phase = PHASE_IDLE;
}

void client_die(struct sim *sim, uint32_t part, uint32_t number)
{
    struct sim_client *client = &sim->client[part][number];

    sim_log(sim, "%u.%u dies", part, number);
    if (client->phase == PHASE_FORKING && client->child != number)
        sim->client[part][client->child].dead = true; /* was never born */
    for (uint32_t i = 0; i < WORLD_ENTRIES; i++)
        while (client->e[i].attached)
            unmap(sim, part, &client->e[i]);
    client->dead = true;
}

static void begin_ctl(struct sim *sim, uint32_t part, uint32_t number)
{
    static const uint32_t mode[] = {0600, 0660, 0666, 0644, 0};
    struct sim_client *client = &sim->client[part][number];
    struct clshmd_ctl *req = &client->req.ctl;
    uint32_t what = sim_random(sim, 10);

    *req = (struct clshmd_ctl){.shmid = sim->id[sim_random(sim, SIM_IDS)]};
    req->cmd = what < 3   ? CLSHMD_CTL_RMID
               : what < 5 ? CLSHMD_CTL_AUTORMID
               : what < 6 ? CLSHMD_CTL_SET
                          : CLSHMD_CTL_STAT;
    if (what == 9)
        req->cmd = 1 + sim_random(sim, CLSHMD_CTL_INFO);
    if (req->cmd == CLSHMD_CTL_SET) {
        req->uid = req->gid = SIM_UID + sim_random(sim, 3);
        req->mode = mode[sim_random(sim, 5)];
    }
    if (req->shmid < 0 || home_of(sim, req->shmid) >= sim->parts)
        return;
    if (req->cmd == CLSHMD_CTL_RMID || req->cmd == CLSHMD_CTL_AUTORMID) {
        sim_removed_add(sim, req->shmid);
        sim->removals++;
    }
    sim_log(sim, "%u.%u CTL %u of %d", part, number, req->cmd, req->shmid);
    ask(sim, part, number, ASK_CTL);
}

static void begin_get(struct sim *sim, uint32_t part, uint32_t number)
{
    static const uint32_t flags[] = {IPC_CREAT | 0600, IPC_CREAT | 0666, IPC_CREAT | IPC_EXCL | 0660, 0, 0400};
    struct sim_client *client = &sim->client[part][number];
    int32_t key = sim_chance(sim, 2000) ? IPC_PRIVATE : sim->key[sim_random(sim, SIM_KEYS)];

    client->req.get = (struct clshmd_get){
        .key = key,
        .flags = flags[sim_random(sim, 5)],
        .size = key == IPC_PRIVATE || sim_chance(sim, 9000) ? 5000 : 1 + sim_random(sim, 9000),
        .token = ++sim->tags << 8,
    };
    sim_log(sim, "%u.%u GET 0x%x flags %o size %lu", part, number, (unsigned)key, client->req.get.flags,
            (unsigned long)client->req.get.size);
    ask(sim, part, number, ASK_GET);
}

static void begin(struct sim *sim, uint32_t part, uint32_t number)
{
    struct sim_client *client = &sim->client[part][number];
    uint32_t what = sim_random(sim, 100);

    if (what < 12) {
        begin_get(sim, part, number);
    } else if (what < 50) {
        begin_attach(sim, part, number);
    } else if (what < 77) {
        begin_detach(sim, part, number);
    } else if (what < 86) {
        begin_ctl(sim, part, number);
    } else if (what < 88) {
        client->home = sim_random(sim, sim->parts);
        client->token = ++sim->tags << 8;
        sim_log(sim, "%u.%u FTOK at %u", part, number, client->home);
        ask(sim, part, number, ASK_FTOK);
    } else if (what < 89) {
        client->home = sim_random(sim, sim->parts);
        ask(sim, part, number, ASK_PING);
    } else if (what < 96) {
        begin_fork(sim, part, number);
    } else if (what < 98) {
        client_die(sim, part, number);
    }
}

void client_step(struct sim *sim, uint32_t part, uint32_t number)
{
    struct world_part *p = &sim->w->part[part];
    struct sim_client *client = &sim->client[part][number];

    if (p->paused)
        return;
    if (!client->used) {
        if (sim->calm || !p->core)
            return;
        p->uid[number] = sim_random(sim, 3);
        if (core_client_new(p->core, number, SIM_UID + p->uid[number], (int32_t)(1000 + number)) != 0)
            return;
        memset(p->entry[number], 0, sizeof(p->entry[number]));
        p->page[number] = true;
        *client = (struct sim_client){.used = true, .uid = p->uid[number]};
        sim_log(sim, "%u.%u comes", part, number);
    } else if (client->dead) {
        if (!p->core)
            return;
        sim_log(sim, "%u.%u is found dead", part, number);
        core_client_gone(p->core, number);
        p->page[number] = p->unborn[number] = false;
        memset(client, 0, sizeof(*client));
    } else if (client->phase == PHASE_IDLE) {
        if (!sim->calm)
            begin(sim, part, number);
    } else if (client->phase == PHASE_WAIT) {
        if (client->answered)
            answer(sim, part, number);
        else
            client_issue(sim, part, number);
    } else if (client->phase == PHASE_ATTACH_CHECK) {
        attach_check(sim, part, number);
    } else if (client->phase == PHASE_DETACH_COUNT) {
        page(sim, part, number, client->entry)->count--;
        page(sim, part, number, client->entry)->dtime = sim->w->now_s;
        client->phase = PHASE_DETACH_CHECK;
    } else if (client->phase == PHASE_DETACH_CHECK) {
        detach_check(sim, part, number);
    } else {
        forking(sim, part, number);
    }
}
