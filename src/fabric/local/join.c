/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Becoming a member, going on as one, and leaving.
 *
 * An id's holder is known by two things: the life word says which incarnation, the lock (LOCK_SH) on the life file
 * life.NN says that somebody of it still runs: keeper, daemon, or a client. The lock comes before the word ALIVE, so
 * whoever finds it free (LOCK_EX succeeds) knows that an ALIVE incarnation is gone.
 *
 *     adopted life file, word ALIVE(i)        the same incarnation goes on: epoch + 1
 *     adopted life file, word DEAD(i)         we were given up: all that was kept is dropped, a new incarnation
 *     nothing adopted                         the id of our name if it is free, else a free one: a new incarnation
 *
 * A new incarnation takes LOCK_EX (everybody of the last one is gone), turns it into LOCK_SH, reserves what it will
 * touch, and swaps the life word. Only after an eviction the old life file may still be locked, by our own clients: it
 * is replaced by a new one, since nothing of them reaches the control area and their memory was dropped.
 *
 * Joining is one at a time: a lock on the directory, which the kernel gives back when its holder dies.
 */
#include "src/fabric/local/local.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "src/util/cleanup.h"
#include "src/util/log.h"

#define JOIN_WAIT_MS 5000u /* for another one that joins */
#define LIFE_WAIT_MS 200u  /* for somebody who only probes the lock */
#define NOBODY       UINT32_MAX

static void life_name(char name[16], uint32_t part)
{
    snprintf(name, 16, "life.%02u", part);
}

static void short_sleep(void)
{
    struct timespec pause = {.tv_nsec = 5000000};

    nanosleep(&pause, NULL);
}

/* ------------------------------------------------------------------ the life file */

enum local_proof local_probe(int dir_fd, uint32_t part)
{
    CLEANUP_CLOSE int fd = -1;
    char name[16];

    life_name(name, part);
    fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return LOCAL_UNKNOWN;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return LOCAL_HELD;
    /* Not left to close(): a child forked meanwhile shares the lock. */
    flock(fd, LOCK_UN);
    return LOCAL_GONE;
}

/* Is @fd the file that now has this name? */
static bool is_current(const struct local *l, const char *name, int fd)
{
    struct stat there, ours;

    return fstatat(l->dir_fd, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &ours) == 0 &&
           there.st_dev == ours.st_dev && there.st_ino == ours.st_ino;
}

/* One attempt. 0; EAGAIN: try again; EBUSY: held; else an error. */
static int life_try(struct local *l, const char *name, int *out)
{
    CLEANUP_CLOSE int fd = openat(l->dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
    struct stat st;

    if (fd < 0)
        return errno;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? EBUSY : errno;
    if (!is_current(l, name, fd) || fstat(fd, &st) < 0)
        return EAGAIN;
    if (!S_ISREG(st.st_mode) || st.st_uid != geteuid())
        return unlinkat(l->dir_fd, name, 0) < 0 ? errno : EAGAIN; /* another user's, who is gone */
    if (fchmod(fd, l->file_mode) < 0 || ftruncate(fd, FABRIC_PAGE) < 0)
        return errno;
    /* Somebody may get in between the two locks; then it is not ours yet. */
    if (flock(fd, LOCK_SH | LOCK_NB) < 0)
        return EAGAIN;
    *out = steal_fd(&fd);
    return 0;
}

/* Lock the life file of @part, made if need be. EBUSY: somebody of its last incarnation lives. */
static int life_take(struct local *l, uint32_t part, int *out)
{
    uint64_t until = local_now_ms() + LIFE_WAIT_MS;
    char name[16];
    int error;

    life_name(name, part);
    while ((error = life_try(l, name, out)) == EAGAIN || error == EBUSY) {
        if (local_now_ms() >= until)
            return EBUSY;
        short_sleep();
    }
    if (error)
        log_error("%s/%s: %s", l->path, name, strerror(error));
    return error;
}

int local_life_fd(struct fabric *f)
{
    struct local *l = to_local(f);
    char path[40];
    int fd;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", l->life_fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0)
        fd = close_fd(fd);
    return fd;
}

/* ------------------------------------------------------------------ which id */

static void say_taken(const struct local *l, uint32_t part, const struct fabric_slot_daemon *page)
{
    if (page)
        log_error("%s: partition %u '%s' is taken: it runs on host '%s', daemon of uid %u", l->path, part, page->name,
                  page->hostname, page->uid);
    else
        log_error("%s: partition %u is taken", l->path, part);
}

/* Is @part, which is ALIVE, proven gone? Then it is declared dead. */
static bool bury(struct local *l, uint32_t part)
{
    uint32_t incarnation = area_incarnation(&l->area, part);
    uint64_t until = local_now_ms() + LIFE_WAIT_MS;
    enum local_proof proof;

    if (!incarnation)
        return true;
    while ((proof = local_probe(l->dir_fd, part)) == LOCAL_HELD && local_now_ms() < until)
        short_sleep(); /* another one's probe holds the lock for a moment */
    if (proof != LOCAL_GONE)
        return false;
    if (area_declare_dead(&l->area, part, incarnation, part))
        log_info("%s: partition %u, incarnation %u, is gone without a word", l->path, part, incarnation);
    return true;
}

/* The slot that has our name; NOBODY if none. EADDRINUSE: it is alive. */
static int find_name(struct local *l, uint32_t *out)
{
    struct fabric_slot_daemon page;

    *out = NOBODY;
    for (uint32_t p = 0; p < l->area.sb.parts; p++) {
        uint64_t word = area_life(&l->area, p);

        if (word == 0 || area_slot_read(&l->area, p, &page) != 0 || strcmp(page.name, l->name) != 0)
            continue;
        if (FABRIC_LIFE_STATE(word) == FABRIC_LIFE_ALIVE && !bury(l, p)) {
            say_taken(l, p, &page);
            return EADDRINUSE;
        }
        if (*out == NOBODY)
            *out = p;
    }
    return 0;
}

/* Everything that this member will touch is there from now on. */
static int reserve_own(struct local *l, uint32_t part)
{
    const struct fabric_superblock *sb = &l->area.sb;
    int error = area_touch(&l->area, area_block_offset(sb, part), (uint64_t)sb->parts * sb->ring_size);

    if (!error && fallocate(l->gens_rw_fd, 0, (off_t)area_gens_offset(sb, part), (off_t)sb->gens_block) < 0)
        error = errno;
    if (error)
        log_error("%s: no room for partition %u: %s", l->path, part, strerror(error));
    return error;
}

/* Nothing that was meant for an earlier incarnation is ours to read. */
static void skip_rings(struct local *l)
{
    for (uint32_t p = 0; p < l->area.sb.parts; p++)
        if (p != l->self && area_life(&l->area, p) != 0)
            (void)area_ring_skip(&l->area, l->self, p);
}

/* Take @part. 0; EBUSY: somebody of its last incarnation lives. */
static int claim(struct local *l, uint32_t part)
{
    CLEANUP_CLOSE int life = -1;
    uint32_t incarnation;
    int error;

    if (!bury(l, part))
        return EBUSY;
    if ((error = life_take(l, part, &life)) || (error = reserve_own(l, part)) ||
        (error = l->events->keep(l->ctx, KEEP_LIFE, part, life)))
        return error;
    error = area_life_claim(&l->area, part, &incarnation);
    if (error) {
        l->events->unkeep(l->ctx, KEEP_LIFE, part);
        return error;
    }
    l->life_fd = steal_fd(&life);
    l->self = part;
    l->incarnation = incarnation;
    l->epoch = 1;
    return 0;
}

/* In turn: ids that nobody had, ids that were given back, ids of the dead. */
static int claim_any(struct local *l)
{
    for (int round = 0; round < 3; round++) {
        for (uint32_t p = 0; p < l->area.sb.parts; p++) {
            uint64_t word = area_life(&l->area, p);
            uint32_t state = FABRIC_LIFE_STATE(word);
            bool fits = round == 0 ? word == 0 : state == (round == 1 ? FABRIC_LIFE_FREE : FABRIC_LIFE_DEAD);
            int error = fits ? claim(l, p) : EBUSY;

            if (error != EBUSY)
                return error;
        }
    }
    log_error("%s: full: all %u partitions are taken", l->path, l->area.sb.parts);
    return ENOSPC;
}

static int claim_fresh(struct local *l, uint32_t before)
{
    struct fabric_slot_daemon page;
    uint32_t named;
    int error = find_name(l, &named);

    if (error)
        return error;
    if (l->want_part >= 0) {
        if ((uint32_t)l->want_part >= l->area.sb.parts) {
            log_error("%s: no partition %d: there are 0 to %u", l->path, l->want_part, l->area.sb.parts - 1);
            return EINVAL;
        }
        named = before = (uint32_t)l->want_part;
    }
    for (int i = 0; i < 2; i++) {
        uint32_t part = i == 0 ? before : named;

        error = part == NOBODY ? EBUSY : claim(l, part);
        if (error != EBUSY)
            return error;
    }
    if (l->want_part < 0)
        return claim_any(l);
    say_taken(l, named, area_slot_read(&l->area, named, &page) == 0 ? &page : NULL);
    return EADDRINUSE;
}

/* ------------------------------------------------------------------ join */

/* @return the descriptor that holds the lock, -1 with errno */
static int lock_directory(const struct local *l)
{
    CLEANUP_CLOSE int fd = openat(l->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    uint64_t until = local_now_ms() + JOIN_WAIT_MS;

    while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK)
            return -1;
        if (local_now_ms() >= until) {
            log_error("%s: another partition has been joining for %u s", l->path, JOIN_WAIT_MS / 1000);
            errno = ETIMEDOUT;
            return -1;
        }
        short_sleep();
    }
    return steal_fd(&fd);
}

/* With an adopted life file: does its incarnation go on? */
static bool resume(struct local *l)
{
    uint32_t incarnation = area_incarnation(&l->area, l->self);
    char name[16];

    life_name(name, l->self);
    if (!incarnation || !is_current(l, name, l->life_fd))
        return false;
    l->incarnation = incarnation;
    l->epoch = area_slot_epoch(&l->area, l->self) + 1;
    return true;
}

/* What was adopted belongs to an incarnation that is over. @return its id */
static uint32_t drop_adopted(struct local *l)
{
    uint32_t before = NOBODY;
    char name[16];

    local_driver_drop_all(l);
    l->door_fd = close_fd(l->door_fd);
    if (l->life_fd < 0)
        return before;
    life_name(name, l->self);
    log_warning("%s: partition %u was given up while its daemon was away; joining anew", l->path, l->self);
    if (is_current(l, name, l->life_fd)) {
        before = l->self;
        (void)unlinkat(l->dir_fd, name, 0);
    }
    l->events->unkeep(l->ctx, KEEP_LIFE, l->self);
    l->events->unkeep(l->ctx, KEEP_DOOR, l->self);
    l->life_fd = close_fd(l->life_fd);
    return before;
}

static void publish(struct local *l)
{
    struct fabric_slot_daemon page = {.epoch = l->epoch,
                                      .major = CLSHM_DAEMON_MAJOR,
                                      .minor = CLSHM_DAEMON_MINOR,
                                      .userns = l->userns,
                                      .uid = geteuid(),
                                      .flags = l->squash ? FABRIC_SLOT_SQUASH : 0};

    strcpy(page.name, l->name);
    if (gethostname(page.hostname, FABRIC_HOSTNAME_MAX - 1) < 0)
        strcpy(page.hostname, "localhost");
    area_slot_set_bell(&l->area, l->self, FABRIC_BELL_ALWAYS);
    area_slot_publish(&l->area, l->self, &page);
}

int local_join(struct fabric *f, bool *fresh)
{
    struct local *l = to_local(f);
    CLEANUP_CLOSE int lock = -1;
    int error = 0;

    if (l->joined)
        return EINVAL;
    lock = lock_directory(l);
    if (lock < 0)
        return errno;
    l->fresh = l->life_fd < 0 || !resume(l);
    if (l->fresh)
        error = claim_fresh(l, drop_adopted(l));
    else
        error = reserve_own(l, l->self);
    if (error)
        return error;
    local_driver_sweep(l);
    if (l->fresh)
        skip_rings(l);
    error = local_door_open(l);
    if (error)
        return error;
    publish(l);
    error = local_members_start(l);
    if (error)
        return error;
    l->joined = true;
    *fresh = l->fresh;
    local_ring_poke(&l->driver.ring); /* messages may be waiting */
    log_info("%s: partition %u '%s', incarnation %u, epoch %u", l->path, l->self, l->name, l->incarnation, l->epoch);
    return 0;
}

void local_ready(struct fabric *f)
{
    struct local *l = to_local(f);

    if (!l->joined)
        return;
    if (l->fresh)
        skip_rings(l); /* what came late from those who knew our predecessor */
    area_slot_set_flags(&l->area, l->self, FABRIC_SLOT_READY | (l->squash ? FABRIC_SLOT_SQUASH : 0));
    local_door_knock_all(l);
}

void local_leave(struct fabric *f)
{
    struct local *l = to_local(f);
    char name[16];

    if (!l->joined)
        return;
    l->joined = false;
    local_members_stop(l);
    area_slot_set_flags(&l->area, l->self, l->squash ? FABRIC_SLOT_SQUASH : 0);
    local_driver_drop_all(l);
    if (!area_life_leave(&l->area, l->self, l->incarnation))
        log_warning("%s: partition %u was declared dead before it left", l->path, l->self);
    life_name(name, l->self);
    if (is_current(l, name, l->life_fd)) {
        (void)unlinkat(l->dir_fd, name, 0);
        snprintf(name, sizeof(name), "door.%02u", l->self);
        (void)unlinkat(l->dir_fd, name, 0);
    }
    l->events->unkeep(l->ctx, KEEP_DOOR, l->self);
    l->events->unkeep(l->ctx, KEEP_LIFE, l->self);
    local_door_knock_all(l);
}

/* Also on failure @fd is not the caller's any more. */
int local_adopt(struct fabric *f, enum keep_kind kind, uint64_t id, int fd)
{
    struct local *l = to_local(f);

    switch (kind) {
    case KEEP_LIFE:
        if (l->joined || l->life_fd >= 0 || id >= l->area.sb.parts)
            break;
        l->life_fd = fd;
        l->self = (uint32_t)id;
        return 0;
    case KEEP_DOOR:
        if (l->joined || l->door_fd >= 0)
            break;
        l->door_fd = fd;
        return 0;
    case KEEP_MEMORY:
    case KEEP_IMPORT:
    case KEEP_IMPORT_RO:
        if (l->joined || id > INT32_MAX)
            break;
        return local_driver_adopt(l, kind, (int32_t)id, fd);
    default:
        break;
    }
    close_fd(fd);
    return EINVAL;
}
