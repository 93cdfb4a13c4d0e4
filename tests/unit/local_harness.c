/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/unit/local_harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

char harness_dir[64], harness_path[96];

int harness_setup(void **state)
{
    (void)state;
    strcpy(harness_dir, "/dev/shm/clshm-test-XXXXXX");
    if (!mkdtemp(harness_dir))
        return -1;
    snprintf(harness_path, sizeof(harness_path), "%s/fabric", harness_dir);
    return 0;
}

static void remove_all(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    char name[512];

    while (dir && (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
        if (unlink(name) < 0)
            remove_all(name);
    }
    if (dir)
        closedir(dir);
    rmdir(path);
}

int harness_teardown(void **state)
{
    (void)state;
    remove_all(harness_dir);
    return access(harness_dir, F_OK) == 0 ? -1 : 0;
}

void harness_format(uint32_t parts)
{
    const struct fabric_format format = {
        .path = harness_path, .name = "test", .parts = parts, .slots = 256, .heartbeat_ms = HARNESS_H, .group = -1};

    assert_int_equal(fabric_local_ops.format(&format), 0);
}

/* ------------------------------------------------------------------ what a member is told */

static void on_message(void *ctx, uint32_t from, const struct fabric_msg *msg, bool has_memory)
{
    struct member *m = ctx;

    assert_true(m->msgs < HARNESS_LOG);
    m->msg[m->msgs++] = (struct received){.from = from, .has_memory = has_memory, .msg = *msg};
}

static void on_event(void *ctx, const struct driver_event *event)
{
    struct member *m = ctx;

    assert_true(m->events < HARNESS_LOG);
    m->event[m->events++] = *event;
}

static void on_unkeep(void *ctx, enum keep_kind kind, uint64_t id)
{
    struct member *m = ctx;

    for (unsigned i = 0; i < HARNESS_KEPT; i++) {
        if (m->kept[i].fd < 0 || m->kept[i].kind != kind || m->kept[i].id != id)
            continue;
        close(m->kept[i].fd);
        m->kept[i].fd = -1;
    }
}

static int on_keep(void *ctx, enum keep_kind kind, uint64_t id, int fd)
{
    struct member *m = ctx;

    on_unkeep(ctx, kind, id);
    for (unsigned i = 0; i < HARNESS_KEPT; i++) {
        if (m->kept[i].fd >= 0)
            continue;
        m->kept[i] = (struct kept){.kind = kind, .id = id, .fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)};
        return m->kept[i].fd < 0 ? errno : 0;
    }
    return ENOSPC;
}

static const struct fabric_events harness_events = {
    .message = on_message,
    .event = on_event,
    .keep = on_keep,
    .unkeep = on_unkeep,
};

const struct kept *member_kept(const struct member *m, enum keep_kind kind, uint64_t id)
{
    for (unsigned i = 0; i < HARNESS_KEPT; i++)
        if (m->kept[i].fd >= 0 && m->kept[i].kind == kind && m->kept[i].id == id)
            return &m->kept[i];
    return NULL;
}

bool member_told(const struct member *m, uint32_t type, uint32_t part)
{
    for (uint32_t i = 0; i < m->events; i++)
        if (m->event[i].type == type && m->event[i].part == part)
            return true;
    return false;
}

bool member_told_of(const struct member *m, uint32_t type, int32_t shmid)
{
    for (uint32_t i = 0; i < m->events; i++)
        if (m->event[i].type == type && m->event[i].shmid == shmid)
            return true;
    return false;
}

/* ------------------------------------------------------------------ its life */

void member_init(struct member *m)
{
    memset(m, 0, sizeof(*m));
    for (unsigned i = 0; i < HARNESS_KEPT; i++)
        m->kept[i].fd = -1;
}

int member_open(struct member *m, const char *name, int part)
{
    const struct fabric_config config = {.path = harness_path,
                                         .partition = name,
                                         .part = part,
                                         .ring_pages = 1,
                                         .squash = m->squash,
                                         .events = &harness_events,
                                         .ctx = m};
    struct kept before[HARNESS_KEPT];
    int error;

    m->events = m->msgs = 0;
    memcpy(before, m->kept, sizeof(before));
    error = fabric_local_ops.open(&config, &m->f);
    for (unsigned i = 0; i < HARNESS_KEPT && !error; i++)
        if (before[i].fd >= 0)
            error = fabric_local_ops.adopt(m->f, before[i].kind, before[i].id, fcntl(before[i].fd, F_DUPFD_CLOEXEC, 0));
    return error;
}

int member_join(struct member *m)
{
    int error = fabric_local_ops.join(m->f, &m->fresh);

    if (!error)
        m->id = fabric_local_ops.self(m->f);
    return error;
}

void member_start(struct member *m, const char *name, int part)
{
    assert_int_equal(member_open(m, name, part), 0);
    assert_int_equal(member_join(m), 0);
    fabric_local_ops.ready(m->f);
}

void member_close(struct member *m)
{
    if (m->f)
        m->f = fabric_local_ops.close(m->f);
}

void member_forget(struct member *m)
{
    for (unsigned i = 0; i < HARNESS_KEPT; i++) {
        if (m->kept[i].fd >= 0)
            close(m->kept[i].fd);
        m->kept[i].fd = -1;
    }
}

void member_leave(struct member *m)
{
    fabric_local_ops.leave(m->f);
    member_close(m);
    member_forget(m);
}

/* ------------------------------------------------------------------ waiting */

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

bool member_until(struct member *const *members, unsigned n, bool (*done)(void *arg), void *arg)
{
    int64_t until = now_ms() + HARNESS_LIMIT_MS;
    struct pollfd fds[8];

    assert_true(n <= 8);
    for (;;) {
        for (unsigned i = 0; i < n; i++) {
            fabric_local_ops.dispatch(members[i]->f);
            fds[i] = (struct pollfd){.fd = fabric_local_ops.poll_fd(members[i]->f), .events = POLLIN};
        }
        if (done(arg))
            return true;
        if (now_ms() >= until)
            return false;
        poll(fds, n, (int)HARNESS_H);
    }
}

struct awaited {
    const struct member *m;
    uint32_t type, part;
    int32_t shmid;
};

static bool is_told(void *arg)
{
    const struct awaited *a = arg;

    return a->shmid >= 0 ? member_told_of(a->m, a->type, a->shmid) : member_told(a->m, a->type, a->part);
}

void member_wait(struct member *m, uint32_t type, uint32_t part)
{
    struct awaited awaited = {.m = m, .type = type, .part = part, .shmid = -1};

    if (!member_until(&m, 1, is_told, &awaited))
        fail_msg("no event %u of partition %u", type, part);
}

void member_wait_memory(struct member *m, uint32_t type, int32_t shmid)
{
    struct awaited awaited = {.m = m, .type = type, .shmid = shmid};

    if (!member_until(&m, 1, is_told, &awaited))
        fail_msg("no event %u of segment %d", type, shmid);
}

void member_meet(struct member *a, struct member *b)
{
    member_wait(a, DRIVER_EVENT_CAME, b->id);
    member_wait(b, DRIVER_EVENT_CAME, a->id);
}

int32_t member_shmid(const struct member *m, uint32_t slot)
{
    const struct fabric_superblock *sb = fabric_local_ops.superblock(m->f);

    return fabric_shmid(sb->part_bits, sb->slot_bits, 1, m->id, slot);
}
