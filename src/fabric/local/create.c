/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The in-process driver: making a segment.
 *
 * A memfd of the size rounded up, sealed, with its placement, is made at once. Then its pages are reserved: small ones
 * in the loop, larger ones by a worker, and the segment is PENDING until the worker's event CREATED was seen by the
 * loop. An event counts only for the job that the segment waits for: it may have been destroyed and made anew.
 */
#include "src/fabric/local/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <numaif.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/util/cleanup.h"
#include "src/util/math.h"

#define INLINE_MAX    (1u << 20) /* reserved in the loop: quicker than waking a worker */
#define ROOM_PLENTY   (256ULL << 20)
#define ROOM_FRESH_MS 100u

#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif

static uint32_t huge_shift(uint32_t flags)
{
    uint32_t shift = flags >> DRIVER_CREATE_HUGE_SHIFT;

    return shift ? shift : 21;
}

static int check_create(const struct driver_create *req)
{
    bool huge = req->flags & DRIVER_CREATE_HUGE;

    if (req->shmid < 0 || req->size == 0 || req->reserved || (req->flags & ~DRIVER_CREATE_KNOWN))
        return EINVAL;
    if (!huge && (req->flags >> DRIVER_CREATE_HUGE_SHIFT))
        return EINVAL;
    return 0;
}

/* A memfd of @size bytes, sealed; nothing of it reserved. */
static int make_memfd(const struct driver_create *req, uint64_t size, int *out)
{
    unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    CLEANUP_CLOSE int fd = -1;
    char name[32];

    if (req->flags & DRIVER_CREATE_HUGE)
        flags |= MFD_HUGETLB | huge_shift(req->flags) << MFD_HUGE_SHIFT;
    snprintf(name, sizeof(name), "clshm-%d", req->shmid);
    fd = memfd_create(name, flags);
    if (fd < 0) {
        if (errno == ENODEV) /* no huge pages of this size */
            return EINVAL;
        return errno == EMFILE || errno == ENFILE ? ENOSPC : errno;
    }
    if (fchmod(fd, 0600) < 0)
        return errno;
    if (ftruncate(fd, (off_t)size) < 0)
        return errno == EFBIG || errno == ENOSPC ? ENOMEM : errno;
    if (fcntl(fd, F_ADD_SEALS, LOCAL_SEALS) < 0)
        return errno;
    *out = steal_fd(&fd);
    return 0;
}

/* The policy belongs to the file: it stays when this mapping goes, and holds for whoever brings the pages in. */
static int set_policy(int fd, uint64_t size, uint32_t policy, uint64_t nodes)
{
    unsigned long mask = nodes;
    void *addr = mmap(NULL, size, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    int error = 0;

    if (addr == MAP_FAILED)
        return ENOMEM;
    if (mbind(addr, size, (int)policy, &mask, sizeof(mask) * 8 + 1, 0) < 0)
        error = errno == ENOSYS ? 0 : errno; /* a kernel without NUMA has one node */
    munmap(addr, size);
    return error;
}

/* Hand the reservation to a worker. */
static int start_reserve(struct local *l, struct local_memory *m, const struct driver_create *req)
{
    struct local_job *job = calloc(1, sizeof(*job));

    if (!job)
        return ENOMEM;
    job->kind = LOCAL_JOB_RESERVE;
    job->shmid = m->shmid;
    job->size = m->size;
    job->huge = req->flags & DRIVER_CREATE_HUGE;
    job->advise = !job->huge && local_huge_advise(l, m->size);
    if (job->huge && (1ULL << huge_shift(req->flags)) > LOCAL_SLICE)
        job->slice = 1ULL << huge_shift(req->flags);
    job->fd = fcntl(m->rw, F_DUPFD_CLOEXEC, 0);
    if (job->fd < 0) {
        free(job);
        return ENOSPC;
    }
    m->pending = true;
    m->serial = local_workers_add(&l->driver.workers, job);
    if (m->serial)
        return CORE_PENDING;
    close_fd(job->fd);
    free(job);
    return EAGAIN;
}

/* Is there room for @size bytes, beyond what was promised to others? To ask costs more than to make a small segment:
 * where there was plenty a moment ago it is not asked again. */
static bool has_room(struct local *l, uint64_t size)
{
    uint64_t reserving = local_workers_reserving(&l->driver.workers);
    uint64_t now = local_now_ms();

    if (size > INLINE_MAX || l->driver.room < reserving + ROOM_PLENTY || now - l->driver.room_ms > ROOM_FRESH_MS) {
        l->driver.room = local_room();
        l->driver.room_ms = now;
    }
    if (l->driver.room < reserving || l->driver.room - reserving < size)
        return false;
    if (size <= INLINE_MAX)
        l->driver.room -= size; /* larger ones count as being reserved, or are asked about */
    return true;
}

static int reserve(struct local *l, struct local_memory *m, const struct driver_create *req)
{
    bool huge = req->flags & DRIVER_CREATE_HUGE;

    if (req->flags & DRIVER_CREATE_NORESERVE)
        return 0;
    if (!huge && !has_room(l, m->size))
        return ENOMEM;
    if (m->size <= INLINE_MAX || (huge && m->size <= 1ULL << huge_shift(req->flags)))
        return local_reserve(m->rw, 0, m->size);
    return start_reserve(l, m, req);
}

/* A memfd for @req, which becomes one for huge pages where the configuration wants them and the pool has enough. */
static int make_file(const struct local *l, struct driver_create *req, uint64_t size, int *out)
{
    CLEANUP_CLOSE int fd = -1;
    int error;

    if (local_huge_wanted(l, req)) {
        struct driver_create huge = *req;

        huge.flags |= DRIVER_CREATE_HUGE;
        if (make_memfd(&huge, size, &fd) == 0 && local_huge_reserve(fd, size)) {
            *req = huge;
            *out = steal_fd(&fd);
            return 0;
        }
        fd = close_fd(fd);
    }
    error = make_memfd(req, size, &fd);
    if (!error && req->policy)
        error = set_policy(fd, size, req->policy, req->nodes);
    if (!error)
        *out = steal_fd(&fd);
    return error;
}

int local_create(struct fabric *f, const struct driver_create *wanted)
{
    struct driver_create request = *wanted, *req = &request;
    struct local *l = to_local(f);
    CLEANUP_CLOSE int fd = -1;
    struct local_memory *m;
    uint64_t size;
    int error = check_create(req);

    if (error)
        return error;
    if (local_memory_find(l, req->shmid))
        return EEXIST;
    if (!round_up(req->size, l->driver.granule, &size) ||
        ((req->flags & DRIVER_CREATE_HUGE) && !round_up(size, 1ULL << huge_shift(req->flags), &size)) ||
        size > INT64_MAX)
        return ENOMEM;
    error = make_file(l, req, size, &fd);
    if (error)
        return error;
    m = local_memory_new(l, req->shmid, false, fd, -1, size);
    if (!m)
        return ENOMEM;
    steal_fd(&fd);
    error = reserve(l, m, req);
    if (error == CORE_PENDING)
        return error;
    if (!error)
        error = l->events->keep(l->ctx, KEEP_MEMORY, (uint64_t)m->shmid, m->rw);
    if (error) {
        m->pending = true; /* nothing to forget */
        local_memory_free(l, m);
    }
    return error;
}

bool local_created(struct local *l, struct driver_event *event)
{
    struct local_memory *m = local_memory_find(l, event->shmid);

    if (!m || !m->pending || m->serial != event->value)
        return false; /* destroyed meanwhile */
    event->value = 0;
    m->serial = 0;
    if (!event->status)
        event->status = l->events->keep(l->ctx, KEEP_MEMORY, (uint64_t)m->shmid, m->rw);
    if (event->status)
        local_memory_free(l, m);
    else
        m->pending = false;
    return true;
}
