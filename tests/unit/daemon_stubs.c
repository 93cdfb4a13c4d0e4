/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A core and a fabric, as far as the daemon sees them, that do next to nothing and count what they were told. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/daemon_harness.h"

#pragma GCC diagnostic ignored "-Wunused-parameter"

/* ------------------------------------------------------------------ the core, as far as the daemon sees it */

struct core {
    const struct core_ops *ops;
    void *ctx;
};

struct core *core_new(const struct core_params *params, const struct core_ops *ops, void *ctx)
{
    struct core *core = calloc(1, sizeof(*core));

    core->ops = ops;
    core->ctx = ctx;
    seen->daemon = getpid();
    return core;
}

struct core *core_free(struct core *core)
{
    free(core);
    return NULL;
}

int core_restore(struct core *core, bool fresh)
{
    return 0;
}

int core_restore_import(struct core *core, int32_t shmid)
{
    return 0;
}

void core_set_time(struct core *core, uint64_t mono_ms, int64_t real_s)
{
}

uint64_t core_tick(struct core *core)
{
    return UINT64_MAX;
}

int core_client_new(struct core *core, uint32_t client, uint32_t uid, int32_t pid)
{
    seen->news++;
    return 0;
}

int core_client_fork(struct core *core, uint32_t parent, uint32_t child)
{
    seen->forks++;
    return parent == child ? EINVAL : 0;
}

void core_client_pid(struct core *core, uint32_t client, int32_t pid)
{
    seen->pids++;
}

void core_client_gone(struct core *core, uint32_t client)
{
    seen->gones++;
}

void core_client_disconnected(struct core *core, uint32_t client)
{
    seen->disconnects++;
}

void core_get(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
              const struct clshmd_get *req)
{
    struct clshmd_get_reply reply = {.shmid = req->key + 1};

    if (req->key != KEY_NEVER)
        core->ops->reply(core->ctx, client, tag, 0, &reply, sizeof(reply), 0, 0);
}

void core_open(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
               const struct clshmd_open *req)
{
    struct clshmd_open_reply reply = {.size = 4096};
    struct clshmd_entry entry;

    if (core->ops->entry(core->ctx, client, req->entry, &entry)) {
        seen->entries++;
        seen->entry_count = entry.count;
    } else {
        core->ops->reply(core->ctx, client, tag, EINVAL, NULL, 0, 0, 0);
        return;
    }
    core->ops->reply(core->ctx, client, tag, 0, &reply, sizeof(reply), req->shmid, DRIVER_PROT_READ);
}

void core_detached(struct core *core, uint32_t client, uint64_t tag, const struct clshmd_detached *req)
{
    core->ops->reply(core->ctx, client, tag, 0, NULL, 0, 0, 0);
}

void core_ctl(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
              const struct clshmd_ctl *req)
{
    core->ops->reply(core->ctx, client, tag, EIDRM, NULL, 0, 0, 0);
}

void core_ftok(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred, uint32_t home,
               uint64_t token)
{
    struct clshmd_ftok_reply reply = {.key = (int32_t)token, .part = home};

    core->ops->reply(core->ctx, client, tag, 0, &reply, sizeof(reply), 0, 0);
}

void core_setpmo(struct core *core, uint32_t client, uint64_t tag, const struct core_cred *cred,
                 const struct clshmd_setpmo *req)
{
    core->ops->reply(core->ctx, client, tag, EINVAL, NULL, 0, 0, 0);
}

void core_ping(struct core *core, uint32_t client, uint64_t tag, uint32_t part)
{
    struct clshmd_ping_reply reply = {.hostname = "other"};

    core->ops->reply(core->ctx, client, tag, 0, &reply, sizeof(reply), 0, 0);
}

void core_member(struct core *core, uint32_t part, enum core_member_state state, uint32_t incarnation, bool same_uids)
{
}

void core_message(struct core *core, uint32_t from, const struct fabric_msg *msg, bool has_memory)
{
}

void core_set_hostname(struct core *core, const char *hostname)
{
}

void core_memory_done(struct core *core, int32_t shmid, int error)
{
}

void core_get_stats(const struct core *core, struct core_stats *out)
{
    memset(out, 0, sizeof(*out));
    out->segments = 1;
}

void core_set_limits(struct core *core, const struct core_limits *limits)
{
}

uint32_t core_next_segment(const struct core *core, uint32_t slot, struct clshmd_stat *out)
{
    memset(out, 0, sizeof(*out));
    out->shmid = SHMID_REAL;
    return slot > SHMID_REAL ? 0 : SHMID_REAL + 1;
}

bool core_client_use(const struct core *core, uint32_t client, struct clshmd_user *out)
{
    memset(out, 0, sizeof(*out));
    out->attachments = seen->entry_count;
    out->segments = seen->entry_count;
    return true;
}

void core_count(struct core *core)
{
    (void)core;
}

bool core_counting(const struct core *core)
{
    (void)core;
    return false;
}

bool core_part_use(const struct core *core, uint32_t part, struct clshmd_user *out)
{
    return false;
}

int core_may_read(const struct core *core, const struct core_cred *cred, int32_t shmid)
{
    return shmid == SHMID_REAL ? 0 : EINVAL;
}

char *core_dump(const struct core *core)
{
    char *text = malloc(10000);

    memset(text, 'x', 9999);
    text[9999] = '\0';
    return text;
}

/* ------------------------------------------------------------------ the fabric */

struct fabric {
    const struct fabric_events *events;
    void *ctx;
    int life, poll;
};

static const struct fabric_superblock superblock = {.name = "stub",
                                                    .granule = 4096,
                                                    .parts = 4,
                                                    .slots = 64,
                                                    .part_bits = 2,
                                                    .slot_bits = 6,
                                                    .heartbeat_ms = 20,
                                                    .gens_block = 8192,
                                                    .kind = FABRIC_LOCAL};

static int stub_open(const struct fabric_config *config, struct fabric **out)
{
    struct fabric *f = calloc(1, sizeof(*f));

    f->events = config->events;
    f->ctx = config->ctx;
    f->life = -1;
    f->poll = memfd_create("gens", MFD_CLOEXEC);
    *out = f;
    return strcmp(config->partition, "absent") == 0 ? ENOENT : 0;
}

static struct fabric *stub_close(struct fabric *f)
{
    close_fd(f->life);
    close_fd(f->poll);
    free(f);
    return NULL;
}

static int stub_adopt(struct fabric *f, enum keep_kind kind, uint64_t id, int fd)
{
    if (kind == KEEP_LIFE)
        f->life = fd;
    return 0;
}

static int stub_join(struct fabric *f, bool *fresh)
{
    *fresh = f->life < 0;
    if (f->life < 0) {
        f->life = memfd_create("life", MFD_CLOEXEC);
        return f->events->keep(f->ctx, KEEP_LIFE, 0, f->life);
    }
    return 0;
}

static void stub_nothing(struct fabric *f)
{
}

static void stub_leave(struct fabric *f)
{
    seen->left++;
}

static int stub_poll_fd(struct fabric *f)
{
    int pair[2];

    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0 ? -1 : pair[0];
}

static const struct fabric_superblock *stub_superblock(struct fabric *f)
{
    return &superblock;
}

static uint32_t stub_self(struct fabric *f)
{
    return 0;
}

static uint32_t stub_incarnation(struct fabric *f, uint32_t part)
{
    return part == 0 ? 7 : 0;
}

static uint32_t stub_epoch(struct fabric *f)
{
    return 1;
}

static bool stub_part(struct fabric *f, uint32_t part, struct clshmd_part *out)
{
    static const char *const names[] = {"one", "two", "three"};
    static const uint32_t states[] = {CLSHMD_PART_ALIVE, CLSHMD_PART_ALIVE, CLSHMD_PART_DEAD};

    memset(out, 0, sizeof(*out));
    if (part > 2)
        return false;
    out->state = states[part];
    strcpy(out->name, names[part]);
    return true;
}

static bool stub_hostname(struct fabric *f, uint32_t part, char out[80])
{
    snprintf(out, 80, "host%u", part);
    return true;
}

static bool stub_same_users(struct fabric *f, uint32_t part)
{
    return true;
}

static int stub_evict(struct fabric *f, uint32_t part, uint32_t flags)
{
    if (flags & CLSHMD_EVICT_FORCE) { /* the test's way to have this partition itself declared dead */
        struct driver_event e = {.type = DRIVER_EVENT_EVICTED};
        f->events->event(f->ctx, &e);
    }
    return EBUSY;
}

static int stub_gens_fd(struct fabric *f)
{
    return f->poll;
}

static int stub_life_fd(struct fabric *f)
{
    return fcntl(f->life, F_DUPFD_CLOEXEC, 0);
}

static void stub_info(struct fabric *f, struct driver_info *out)
{
    *out = (struct driver_info){.major = 1, .capabilities = DRV_DOORBELL, .granule = 4096};
}

static int stub_grant(struct fabric *f, struct driver_grant *req)
{
    if (req->shmid != SHMID_REAL)
        return EMFILE;
    req->fd = memfd_create("segment", MFD_CLOEXEC);
    return req->fd < 0 ? errno : 0;
}

static void stub_destroy(struct fabric *f, int32_t shmid)
{
    seen->destroyed += shmid == SHMID_REAL;
}

static bool stub_has(struct fabric *f, int32_t shmid)
{
    return shmid == SHMID_REAL;
}

static int stub_node(struct fabric *f, int32_t shmid)
{
    return 3;
}

static int stub_resize(struct fabric *f, uint32_t pages)
{
    return 0;
}

static char *stub_dump(struct fabric *f)
{
    return strdup("driver");
}

const struct fabric_ops fabric_local_ops = {
    .name = "stub",
    .open = stub_open,
    .close = stub_close,
    .adopt = stub_adopt,
    .join = stub_join,
    .ready = stub_nothing,
    .leave = stub_leave,
    .poll_fd = stub_poll_fd,
    .dispatch = stub_nothing,
    .superblock = stub_superblock,
    .self = stub_self,
    .incarnation = stub_incarnation,
    .epoch = stub_epoch,
    .part = stub_part,
    .hostname = stub_hostname,
    .same_users = stub_same_users,
    .evict = stub_evict,
    .gens_fd = stub_gens_fd,
    .life_fd = stub_life_fd,
    .info = stub_info,
    .grant = stub_grant,
    .destroy = stub_destroy,
    .has = stub_has,
    .node = stub_node,
    .resize_ring = stub_resize,
    .dump = stub_dump,
};
