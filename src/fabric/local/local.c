/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A member of a local fabric: open, close, the loop's turn, and the table of struct fabric_ops.
 *
 * open() maps both areas and claims nothing. What opens is believed only after its owner, its superblock and its sizes
 * were looked at. One epoll descriptor stands for all there is to wait for: the event ring, the door, and a timer for
 * what could not be sent.
 */
#include "src/fabric/local/local.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "src/util/cleanup.h"
#include "src/util/log.h"

uint64_t local_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* A name is shown and compared: printable, no space, no slash. */
bool local_name_ok(const char *name)
{
    if (!name || !*name || strlen(name) >= FABRIC_NAME_MAX)
        return false;
    for (const char *c = name; *c; c++)
        if (*c <= ' ' || *c > '~' || *c == '/')
            return false;
    return true;
}

int local_reserve_control(void *ctx, uint64_t offset, uint64_t len)
{
    struct local *l = ctx;
    int r;

    do
        r = fallocate(l->control_fd, 0, (off_t)offset, (off_t)len);
    while (r < 0 && errno == EINTR);
    return r == 0 ? 0 : errno;
}

/* ------------------------------------------------------------------ open */

static bool in_groups(gid_t gid)
{
    gid_t groups[256];
    int n = getgroups(256, groups);

    if (gid == getegid())
        return true;
    for (int i = 0; i < n; i++)
        if (groups[i] == gid)
            return true;
    return false;
}

/*
 * Who could have put this directory there? Ours and root's are trusted; another user's only where it is shared with a
 * group that we are in and its parent is ours or root's, so that nobody can plant one at a path that is expected.
 */
static int check_owner(const struct local *l, const struct stat *dir)
{
    struct stat parent;

    if (dir->st_uid == 0 || dir->st_uid == geteuid())
        return 0;
    if ((dir->st_mode & 070) == 070 && in_groups(dir->st_gid) && fstatat(l->dir_fd, "..", &parent, 0) == 0 &&
        (parent.st_uid == 0 || parent.st_uid == geteuid()))
        return 0;
    log_error("%s: belongs to uid %u, who is neither root nor this user", l->path, dir->st_uid);
    return EACCES;
}

static int open_file(const struct local *l, const char *name, int flags, const struct stat *dir, int *fd,
                     uint64_t *size)
{
    struct stat st;

    *fd = openat(l->dir_fd, name, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (*fd < 0) {
        int error = errno;

        log_error("%s/%s: %m%s", l->path, name, error == ENOENT ? " (not a fabric?)" : "");
        return error == ENOENT || error == ELOOP ? EINVAL : error;
    }
    if (fstat(*fd, &st) < 0)
        return errno;
    if (!S_ISREG(st.st_mode) || st.st_uid != dir->st_uid) {
        log_error("%s/%s: not a file of the fabric's owner", l->path, name);
        return EINVAL;
    }
    *size = (uint64_t)st.st_size;
    return 0;
}

static int check_superblock(struct local *l, uint64_t control_size, struct fabric_superblock *sb)
{
    const char *wrong;
    ssize_t n = pread(l->control_fd, sb, sizeof(*sb), 0);

    if (n != (ssize_t)sizeof(*sb) || sb->magic != FABRIC_MAGIC) {
        log_error("%s/control: not a fabric's control area", l->path);
        return EINVAL;
    }
    if (sb->major != CLSHM_FABRIC_MAJOR) {
        log_error("%s: a fabric of version %u.%u; this daemon knows version %u", l->path, sb->major, sb->minor,
                  CLSHM_FABRIC_MAJOR);
        return EPROTO;
    }
    wrong = fabric_superblock_check(sb, control_size, (uint32_t)sysconf(_SC_PAGESIZE));
    if (!wrong && sb->kind != FABRIC_LOCAL)
        wrong = "it is not a local one";
    if (!wrong && sb->area_size != control_size)
        wrong = "the control area was truncated or has grown";
    if (wrong) {
        log_error("%s: not a fabric to join: %s", l->path, wrong);
        return EINVAL;
    }
    return 0;
}

static int map_area(const struct local *l, int fd, uint64_t size, const char *name, void **out)
{
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (base == MAP_FAILED) {
        int error = errno;

        log_error("%s/%s: cannot be mapped: %m", l->path, name);
        return error;
    }
    *out = base;
    return 0;
}

static int open_areas(struct local *l)
{
    struct fabric_superblock sb;
    struct stat dir;
    uint64_t control_size, gens_size;
    int error;

    l->dir_fd = open(l->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (l->dir_fd < 0 || fstat(l->dir_fd, &dir) < 0) {
        error = errno;
        log_error("%s: %m", l->path);
        return error == ENOTDIR || error == ELOOP ? EINVAL : error;
    }
    l->file_mode = 0600 | (dir.st_mode & 020 ? 060 : 0) | (dir.st_mode & 02 ? 06 : 0);
    if ((error = check_owner(l, &dir)) ||
        (error = open_file(l, "control", O_RDWR, &dir, &l->control_fd, &control_size)) ||
        (error = open_file(l, "gens", O_RDWR, &dir, &l->gens_rw_fd, &gens_size)) ||
        (error = open_file(l, "gens", O_RDONLY, &dir, &l->gens_fd, &gens_size)) ||
        (error = check_superblock(l, control_size, &sb)))
        return error;
    if (gens_size != area_gens_size(&sb)) {
        log_error("%s/gens: has %lu bytes and should have %lu", l->path, gens_size, area_gens_size(&sb));
        return EINVAL;
    }
    if ((error = map_area(l, l->control_fd, control_size, "control", &l->base)) ||
        (error = map_area(l, l->gens_rw_fd, gens_size, "gens", &l->gens)))
        return error;
    l->area.sb = sb; /* so that close() knows the sizes whatever fails from here on */
    error = area_init(&l->area, &sb, l->base, l->gens, local_reserve_control, l);
    if (error)
        log_error("%s: %s", l->path, strerror(error));
    else
        l->area_ready = true;
    return error;
}

int local_watch_fd(struct local *l, int fd, enum local_source source)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = source};

    return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? errno : 0;
}

static int open_loop(struct local *l, uint32_t ring_pages)
{
    struct stat userns;
    int error;

    l->userns = stat("/proc/self/ns/user", &userns) == 0 ? userns.st_ino : 0;
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (l->epoll_fd < 0 || l->timer_fd < 0)
        return errno;
    if ((error = local_driver_init(l, ring_pages)) || (error = local_members_init(l)) ||
        (error = local_watch_fd(l, l->timer_fd, LOCAL_TIMER)))
        return error;
    return local_watch_fd(l, l->driver.ring.event_fd, LOCAL_EVENTS);
}

static struct fabric *local_close(struct fabric *f)
{
    struct local *l = to_local(f);

    if (!l)
        return NULL;
    local_members_stop(l);
    local_members_deinit(l);
    local_driver_deinit(l);
    for (uint32_t p = 0; p < FABRIC_PARTS_MAX; p++)
        local_peer_forget(l, p, 0);
    if (l->area_ready)
        area_deinit(&l->area);
    if (l->base)
        munmap(l->base, l->area.sb.area_size);
    if (l->gens)
        munmap(l->gens, area_gens_size(&l->area.sb));
    close_fd(l->door_fd);
    close_fd(l->life_fd);
    close_fd(l->epoll_fd);
    close_fd(l->timer_fd);
    close_fd(l->control_fd);
    close_fd(l->gens_rw_fd);
    close_fd(l->gens_fd);
    close_fd(l->dir_fd);
    free(l->path);
    free(l);
    return NULL;
}

static struct local *local_new(const struct fabric_config *config)
{
    struct local *l = calloc(1, sizeof(*l));

    if (!l)
        return NULL;
    l->ops = &fabric_local_ops;
    l->events = config->events;
    l->ctx = config->ctx;
    l->want_part = config->part;
    l->squash = config->squash;
    l->driver.huge = config->huge;
    l->driver.huge_min = config->huge_min;
    l->dir_fd = l->control_fd = l->gens_rw_fd = l->gens_fd = -1;
    l->life_fd = l->door_fd = l->epoll_fd = l->timer_fd = -1;
    for (uint32_t p = 0; p < FABRIC_PARTS_MAX; p++)
        l->peer[p].fd = -1;
    strcpy(l->name, config->partition);
    l->path = strdup(config->path);
    if (!l->path) {
        free(l);
        return NULL;
    }
    return l;
}

static int local_open(const struct fabric_config *config, struct fabric **out)
{
    struct local *l;
    int error;

    *out = NULL;
    if (!local_name_ok(config->partition)) {
        log_error("'%s' cannot be a partition's name: 1 to %u printable characters, no space, no '/'",
                  config->partition ? config->partition : "", FABRIC_NAME_MAX - 1);
        return EINVAL;
    }
    l = local_new(config);
    if (!l)
        return ENOMEM;
    error = open_areas(l);
    if (!error)
        error = open_loop(l, config->ring_pages);
    if (error) {
        local_close((struct fabric *)l);
        return error;
    }
    *out = (struct fabric *)l;
    return 0;
}

/* ------------------------------------------------------------------ the loop's turn */

#define EVENTS_AT_A_TIME 256

static void drain_counter(int fd)
{
    uint64_t n;

    if (read(fd, &n, sizeof(n)) < 0)
        return; /* EAGAIN: it was not the one that woke us */
}

static void member_event(struct local *l, const struct driver_event *event)
{
    switch (event->type) {
    case DRIVER_EVENT_CAME:
        l->peer[event->part].told = event->incarnation;
        break;
    case DRIVER_EVENT_DEAD:
    case DRIVER_EVENT_LEFT:
        l->peer[event->part].told = 0;
        if (l->peer[event->part].broken)
            (void)area_ring_skip(&l->area, l->self, event->part);
        l->peer[event->part].broken = false;
        local_peer_forget(l, event->part, event->incarnation);
        break;
    default:
        break;
    }
}

/* @return whether something was left. */
static bool take_events(struct local *l)
{
    struct driver_event event;

    for (int i = 0; i < EVENTS_AT_A_TIME; i++) {
        if (!local_ring_pop(&l->driver.ring, &event))
            return false;
        if (!local_driver_event(l, &event))
            continue;
        member_event(l, &event);
        l->events->event(l->ctx, &event);
    }
    return true;
}

/* One call tells which are readable, and spares one for each that is not. */
static uint32_t ready_sources(struct local *l)
{
    struct epoll_event events[4];
    uint32_t ready = 0;
    int n = epoll_wait(l->epoll_fd, events, 4, 0);

    for (int i = 0; i < n; i++)
        ready |= events[i].data.u32;
    return n < 0 ? LOCAL_EVENTS | LOCAL_TIMER | LOCAL_DOOR : ready;
}

static void local_dispatch(struct fabric *f)
{
    struct local *l = to_local(f);
    uint32_t ready = ready_sources(l);
    bool more;

    if (ready & LOCAL_EVENTS)
        drain_counter(l->driver.ring.event_fd);
    if (ready & LOCAL_TIMER)
        drain_counter(l->timer_fd);
    more = take_events(l);
    if (l->joined) {
        if ((ready & LOCAL_DOOR) && local_door_drain(l) && local_members_changed(l))
            local_members_kick(l);
        (void)local_receive(l, &more);
        local_flush(l);
    }
    if (more)
        local_ring_poke(&l->driver.ring);
}

static int local_poll_fd(struct fabric *f)
{
    return to_local(f)->epoll_fd;
}

/* ------------------------------------------------------------------ what the area answers */

static const struct fabric_superblock *local_superblock(struct fabric *f)
{
    return &to_local(f)->area.sb;
}

static uint32_t local_self(struct fabric *f)
{
    return to_local(f)->self;
}

static uint32_t local_incarnation(struct fabric *f, uint32_t part)
{
    return area_incarnation(&to_local(f)->area, part);
}

static uint32_t local_epoch(struct fabric *f)
{
    return to_local(f)->epoch;
}

static int local_lookup(struct fabric *f, int32_t key, uint64_t ticket, struct core_found *out)
{
    (void)ticket;
    area_lookup(&to_local(f)->area, key, out);
    return 0;
}

static int local_claim(struct fabric *f, int32_t key, uint32_t slot, uint64_t ticket, struct core_found *out)
{
    struct local *l = to_local(f);

    (void)ticket;
    area_claim(&l->area, l->self, slot, key, out);
    return 0;
}

static void local_unclaim(struct fabric *f, uint32_t slot)
{
    area_unclaim(&to_local(f)->area, to_local(f)->self, slot);
}

static struct fabric_record *local_record(struct fabric *f, uint32_t slot, bool allocate)
{
    return area_record(&to_local(f)->area, to_local(f)->self, slot, allocate);
}

static bool local_peer_record(struct fabric *f, uint32_t part, uint32_t slot, struct fabric_record *out)
{
    return area_record_read(&to_local(f)->area, part, slot, out) == 0;
}

static void local_gen_store(struct fabric *f, uint32_t slot, uint32_t word)
{
    area_gen_store(&to_local(f)->area, to_local(f)->self, slot, word);
}

static uint32_t local_gen_load(struct fabric *f, uint32_t slot)
{
    return area_gen(&to_local(f)->area, to_local(f)->self, slot);
}

static uint32_t local_peer_gen(struct fabric *f, uint32_t part, uint32_t slot)
{
    return area_gen(&to_local(f)->area, part, slot);
}

static int local_gens_fd(struct fabric *f)
{
    return to_local(f)->gens_fd;
}

static int local_resize_ring(struct fabric *f, uint32_t pages)
{
    return local_ring_resize(&to_local(f)->driver.ring, pages);
}

static char *local_dump(struct fabric *f)
{
    struct local *l = to_local(f);
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (!out)
        return NULL;
    fprintf(out, "local fabric %s, partition %u '%s', incarnation %u, epoch %u%s\n", l->path, l->self, l->name,
            l->incarnation, l->epoch, l->joined ? "" : ", not joined");
    for (uint32_t p = 0; p < l->area.sb.parts; p++) {
        struct clshmd_part part;

        if (!local_part((struct fabric *)l, p, &part))
            continue;
        fprintf(out, "partition %u '%s': state %u, incarnation %u, epoch %u, missed %u, %u queued%s\n", p, part.name,
                part.state, part.incarnation, part.epoch, part.missed, l->peer[p].queued,
                l->peer[p].closed ? ", ring closed" : "");
    }
    local_driver_dump(l, out);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

const struct fabric_ops fabric_local_ops = {
    .name = "local",
    .format = local_format,
    .open = local_open,
    .close = local_close,
    .adopt = local_adopt,
    .join = local_join,
    .ready = local_ready,
    .leave = local_leave,
    .poll_fd = local_poll_fd,
    .dispatch = local_dispatch,
    .superblock = local_superblock,
    .self = local_self,
    .incarnation = local_incarnation,
    .epoch = local_epoch,
    .part = local_part,
    .hostname = local_hostname,
    .same_users = local_same_users,
    .evict = local_evict,
    .lookup = local_lookup,
    .claim = local_claim,
    .unclaim = local_unclaim,
    .record = local_record,
    .peer_record = local_peer_record,
    .gen_store = local_gen_store,
    .gen_load = local_gen_load,
    .peer_gen = local_peer_gen,
    .gens_fd = local_gens_fd,
    .life_fd = local_life_fd,
    .send = local_send,
    .receive = local_receive_unrung,
    .info = local_info,
    .create = local_create,
    .grant = local_grant,
    .destroy = local_destroy,
    .drop = local_drop,
    .revoke = local_revoke,
    .has = local_has,
    .lock = local_lock,
    .huge = local_huge,
    .node = local_node,
    .resize_ring = local_resize_ring,
    .dump = local_dump,
};
