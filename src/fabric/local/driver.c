/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The in-process driver: memory as sealed memfds, in a table by shmid.
 *
 * An own segment has one descriptor, writable; read-only ones are opened from it (it is ours). An import has both,
 * as its home sent them: a memfd of another uid cannot be opened anew. Seals: no growth, no further seals; shrinking
 * stays possible, since that is how memory is revoked.
 *
 * A segment is PENDING while a worker reserves its memory, then READY. Only READY ones are had, granted, shared and
 * kept by the keeper. Destroying a PENDING one cancels the job; no event follows.
 */
#include "src/fabric/local/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <numaif.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/util/cleanup.h"
#include "src/util/log.h"
#include "src/util/math.h"

#define DESTROY_MAX (4u << 20)  /* freed in the loop */
#define FREE_STEPS  4096u       /* slices in which a large one is freed, at the most */
#define REVOKE_MAX  (16u << 20) /* revoked in the loop */
#define REVOKE_WAIT 100u        /* ms that the loop waits for a larger revocation */

static void memory_unlock(struct local *l, struct local_memory *m)
{
    if (!m->locked)
        return;
    /* A worker that still brings its pages in unmaps it itself. */
    if (!m->lock_serial || !local_workers_cancel(&l->driver.workers, m->lock_serial))
        munmap(m->locked, m->size);
    m->locked = NULL;
    m->lock_serial = 0;
}

struct local_memory *local_memory_free(struct local *l, struct local_memory *m)
{
    memory_unlock(l, m);
    local_table_remove(&l->driver.table, m);
    if (!m->pending && m->import) {
        if (m->rw >= 0)
            l->events->unkeep(l->ctx, KEEP_IMPORT, (uint64_t)m->shmid);
        if (m->ro >= 0)
            l->events->unkeep(l->ctx, KEEP_IMPORT_RO, (uint64_t)m->shmid);
    } else if (!m->pending) {
        l->events->unkeep(l->ctx, KEEP_MEMORY, (uint64_t)m->shmid);
    }
    close_fd(m->rw);
    close_fd(m->ro);
    free(m);
    return NULL;
}

bool local_driver_event(struct local *l, struct driver_event *event)
{
    if (event->type == DRIVER_EVENT_CREATED)
        return local_created(l, event);
    if (event->type == DRIVER_EVENT_DESTROYED)
        event->value = 0;
    return true;
}

/* ------------------------------------------------------------------ the end of memory */

/* @return the job's serial, 0: it could not be handed over. */
static uint64_t hand_over(struct local *l, struct local_memory *m, enum local_job_kind kind)
{
    struct local_job *job = calloc(1, sizeof(*job));
    uint64_t serial;

    if (!job)
        return 0;
    job->kind = kind;
    job->shmid = m->shmid;
    job->size = job->done = m->size;
    /* One that was not reserved may be larger than any memory, and mostly a hole. */
    job->slice = m->size / FREE_STEPS > LOCAL_SLICE ? m->size / FREE_STEPS : LOCAL_SLICE;
    /* Pages of the pool are not cut. */
    if (m->huge_shift && !round_up(job->slice, 1ULL << m->huge_shift, &job->slice))
        job->slice = m->size;
    job->fd = fcntl(m->rw, F_DUPFD_CLOEXEC, 0);
    serial = job->fd < 0 ? 0 : local_workers_add(&l->driver.workers, job);
    if (!serial) {
        close_fd(job->fd);
        free(job);
    }
    return serial;
}

static void truncate_now(struct local *l, struct local_memory *m, bool tell)
{
    struct driver_event event = {.type = DRIVER_EVENT_DESTROYED, .shmid = m->shmid};

    if (ftruncate(m->rw, 0) < 0)
        log_error("%s: revoking segment %d: %m", l->path, m->shmid);
    if (tell)
        (void)local_ring_push(&l->driver.ring, &event, false);
}

/* Nobody counted is attached any more. Large ones are given back a slice at a time. */
void local_destroy(struct fabric *f, int32_t shmid)
{
    struct local *l = to_local(f);
    struct local_memory *m = local_memory_find(l, shmid);

    if (!m || m->import)
        return;
    if (m->pending && m->serial)
        (void)local_workers_cancel(&l->driver.workers, m->serial);
    else if (m->size <= DESTROY_MAX || !hand_over(l, m, LOCAL_JOB_FREE))
        truncate_now(l, m, true);
    local_memory_free(l, m);
}

void local_drop(struct fabric *f, int32_t shmid)
{
    struct local *l = to_local(f);
    struct local_memory *m = local_memory_find(l, shmid);

    if (m && m->import)
        local_memory_free(l, m);
}

/*
 * The home is dead: whoever touches the pages from now on gets SIGBUS. One ftruncate() does it: the file's size changes
 * first, then the mappings are emptied, then the pages go. The last takes long if there are many, so a worker does it
 * and the loop waits REVOKE_WAIT at the most. Beyond that somebody may still read what the dead have left there, for as
 * long as the worker takes; nobody else's data comes into these pages while they can be reached.
 */
void local_revoke(struct fabric *f, int32_t shmid)
{
    struct local *l = to_local(f);
    struct local_memory *m = local_memory_find(l, shmid);
    uint64_t serial;

    if (!m || !m->import)
        return;
    memory_unlock(l, m);
    serial = m->size <= REVOKE_MAX ? 0 : hand_over(l, m, LOCAL_JOB_REVOKE);
    if (serial)
        local_workers_wait(&l->driver.workers, serial, REVOKE_WAIT);
    else
        truncate_now(l, m, false);
    local_memory_free(l, m);
}

/* ------------------------------------------------------------------ imports */

/* Are these the two descriptors of one memfd that nobody can grow or seal further? */
static bool import_ok(const struct local_held *held, uint64_t *size)
{
    struct stat rw, ro;
    int seals = fcntl(held->rw, F_GET_SEALS);

#ifdef F_SEAL_EXEC
    seals &= seals < 0 ? -1 : ~F_SEAL_EXEC;
#endif
    if (seals != LOCAL_SEALS || fstat(held->rw, &rw) < 0 || fstat(held->ro, &ro) < 0)
        return false;
    if (rw.st_dev != ro.st_dev || rw.st_ino != ro.st_ino || !S_ISREG(rw.st_mode) || rw.st_size <= 0)
        return false;
    if ((fcntl(held->rw, F_GETFL) & O_ACCMODE) != O_RDWR || (fcntl(held->ro, F_GETFL) & O_ACCMODE) != O_RDONLY)
        return false;
    *size = (uint64_t)rw.st_size;
    return true;
}

static bool same_file(int a, int b)
{
    struct stat sa, sb;

    return fstat(a, &sa) == 0 && fstat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

bool local_driver_import(struct local *l, uint32_t from, struct local_held *held)
{
    static struct log_limit limit = LOG_LIMIT_DEFAULT;
    const struct fabric_superblock *sb = &l->area.sb;
    struct local_memory *m;
    uint64_t size;

    if (held->shmid < 0 || fabric_shmid_part(sb->part_bits, sb->slot_bits, held->shmid) != from || from == l->self ||
        !import_ok(held, &size) || size % l->driver.granule) {
        log_limited(&limit, LOG_LEVEL_WARNING, "%s: partition %u sent memory for segment %d that is not acceptable",
                    l->path, from, held->shmid);
        return false;
    }
    m = local_memory_find(l, held->shmid);
    if (m && same_file(m->rw, held->rw))
        return true;
    if (m)
        local_memory_free(l, m);
    m = local_memory_new(l, held->shmid, true, held->rw, held->ro, size);
    if (!m)
        return false;
    held->rw = held->ro = -1;
    if (l->events->keep(l->ctx, KEEP_IMPORT, (uint64_t)m->shmid, m->rw) == 0 &&
        l->events->keep(l->ctx, KEEP_IMPORT_RO, (uint64_t)m->shmid, m->ro) == 0)
        return true;
    local_memory_free(l, m);
    return false;
}

int local_driver_share(struct local *l, int32_t shmid, int *rw, int *ro, uint64_t *size)
{
    struct local_memory *m = local_memory_find(l, shmid);
    struct driver_grant grant = {.shmid = shmid, .prot = DRIVER_PROT_READ};
    int error;

    if (!m || m->import)
        return EINVAL;
    error = local_grant((struct fabric *)l, &grant);
    if (error)
        return error;
    *rw = m->rw;
    *ro = grant.fd;
    *size = m->size;
    return 0;
}

/* ------------------------------------------------------------------ what an earlier daemon left */

int local_driver_adopt(struct local *l, enum keep_kind kind, int32_t shmid, int fd)
{
    struct local_memory *m = local_memory_find(l, shmid);
    bool import = kind != KEEP_MEMORY;
    bool ro = kind == KEEP_IMPORT_RO;
    struct stat st;

    if (shmid < 0 || fstat(fd, &st) < 0 || (m && (!import || !m->import || (ro ? m->ro : m->rw) >= 0))) {
        close_fd(fd);
        return EINVAL;
    }
    if (!m)
        m = local_memory_new(l, shmid, import, -1, -1, (uint64_t)st.st_size);
    if (!m) {
        close_fd(fd);
        return ENOMEM;
    }
    m->huge_shift = (uint8_t)local_huge_shift(fd);
    if (ro)
        m->ro = fd;
    else
        m->rw = fd;
    return 0;
}

void local_driver_sweep(struct local *l)
{
    struct local_memory *m, *next;

    for (m = local_table_next(&l->driver.table, NULL); m; m = next) {
        next = local_table_next(&l->driver.table, m);
        if (m->rw < 0 || (m->import && m->ro < 0))
            local_memory_free(l, m);
    }
}

/* This incarnation is over: own memory is revoked, that of others let go. */
void local_driver_drop_all(struct local *l)
{
    struct local_memory *m, *next;

    for (m = local_table_next(&l->driver.table, NULL); m; m = next) {
        next = local_table_next(&l->driver.table, m);
        if (m->pending && m->serial)
            (void)local_workers_cancel(&l->driver.workers, m->serial);
        else if (!m->import && m->rw >= 0)
            truncate_now(l, m, false);
        local_memory_free(l, m);
    }
}

/* ------------------------------------------------------------------ requests */

void local_info(struct fabric *f, struct driver_info *out)
{
    *out = (struct driver_info){
        .major = CLSHM_DRIVER_MAJOR,
        .minor = CLSHM_DRIVER_MINOR,
        .capabilities = DRV_DOORBELL | DRV_HUGE_PAGES,
        .granule = to_local(f)->driver.granule,
    };
}

bool local_has(struct fabric *f, int32_t shmid)
{
    const struct local_memory *m = local_memory_find(to_local(f), shmid);

    return m && !m->pending;
}

/* A descriptor of its own for each who gets one, so that flags and locks are not shared; imports of another uid's memory
 * cannot be opened anew and are copied. */
int local_grant(struct fabric *f, struct driver_grant *req)
{
    const struct local_memory *m = local_memory_find(to_local(f), req->shmid);
    bool write = req->prot & DRIVER_PROT_WRITE;
    char path[40];

    req->fd = -1;
    if (!m || m->pending || req->reserved || !(req->prot & DRIVER_PROT_READ) ||
        (req->prot & ~(DRIVER_PROT_READ | DRIVER_PROT_WRITE)))
        return EINVAL;
    if (m->import) {
        req->fd = fcntl(write ? m->rw : m->ro, F_DUPFD_CLOEXEC, 0);
    } else {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", m->rw);
        req->fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    }
    return req->fd < 0 ? errno : 0;
}

/* Bring in and hold the pages of a locked mapping: in the loop if few, else by a worker. */
static int lock_pages(struct local *l, struct local_memory *m, void *addr)
{
    struct local_job *job;

    if (m->size <= DESTROY_MAX)
        return mlock2(addr, m->size, 0) < 0 ? errno : 0;
    if (mlock2(addr, m->size, MLOCK_ONFAULT) < 0)
        return errno;
    job = calloc(1, sizeof(*job));
    if (!job)
        return ENOMEM;
    *job = (struct local_job){.kind = LOCAL_JOB_LOCK, .shmid = m->shmid, .fd = -1, .addr = addr, .size = m->size};
    m->lock_serial = local_workers_add(&l->driver.workers, job);
    if (m->lock_serial)
        return 0;
    free(job);
    return EAGAIN;
}

/* EPERM, ENOMEM as shmctl(2) says of SHM_LOCK; the limit is the daemon's. */
int local_lock(struct fabric *f, int32_t shmid, bool lock)
{
    struct local *l = to_local(f);
    struct local_memory *m = local_memory_find(l, shmid);
    void *addr;
    int error;

    if (!m || m->pending)
        return EINVAL;
    if (!lock || m->locked) {
        if (!lock)
            memory_unlock(l, m);
        return 0;
    }
    addr = mmap(NULL, m->size, PROT_READ, MAP_SHARED, m->rw, 0);
    if (addr == MAP_FAILED)
        return ENOMEM;
    error = lock_pages(l, m, addr);
    if (error) {
        munmap(addr, m->size);
        return error == EAGAIN ? ENOMEM : error;
    }
    m->locked = addr;
    return 0;
}

/* The node of the page of @size bytes at @offset of @fd; -1: cannot be told. */
static int node_at(int fd, off_t offset, off_t size)
{
    void *addr = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, offset & ~(size - 1));
    int node = -1;

    if (addr == MAP_FAILED)
        return -1;
    /* This faults the page in, and answers EFAULT, not SIGBUS, if it was cut off meanwhile. */
    if (get_mempolicy(&node, NULL, 0, addr, MPOL_F_NODE | MPOL_F_ADDR) < 0)
        node = -1;
    munmap(addr, (size_t)size);
    return node;
}

/* Only pages that were touched have a node: lseek() tells them from holes. At most NODE_SAMPLES, evenly spread, are
 * looked at, so that a large segment does not hold up the loop. */
#define NODE_SAMPLES 256u
int local_node(struct fabric *f, int32_t shmid)
{
    const struct local_memory *m = local_memory_find(to_local(f), shmid);
    off_t step, page, offset = 0;
    int node = -1;

    if (!m || m->pending)
        return -1;
    page = m->huge_shift ? (off_t)1 << m->huge_shift : 4096;
    step = (off_t)(m->size / NODE_SAMPLES) & ~(page - 1);
    step = step ? step : page;
    while ((uint64_t)offset < m->size) {
        off_t data = lseek(m->rw, offset, SEEK_DATA);
        int here = data < 0 ? -1 : node_at(m->rw, data, page);

        if (data < 0)
            break; /* nothing but a hole from here on */
        if (here < 0 || (node >= 0 && node != here))
            return -1;
        node = here;
        offset = data - data % step + step;
    }
    return node;
}

/* ------------------------------------------------------------------ life of the driver */

int local_driver_init(struct local *l, uint32_t ring_pages)
{
    int error = local_ring_init(&l->driver.ring, ring_pages);

    if (error)
        return error;
    l->driver.granule = l->area.sb.granule;
    return local_workers_init(&l->driver.workers, &l->driver.ring);
}

/* As if killed: the keeper's copies are what counts. */
void local_driver_deinit(struct local *l)
{
    struct local_memory *m, *next;

    if (!l->driver.ring.ring)
        return;
    local_ring_stop(&l->driver.ring);
    for (m = local_table_next(&l->driver.table, NULL); m; m = next) {
        next = local_table_next(&l->driver.table, m);
        memory_unlock(l, m);
        local_table_remove(&l->driver.table, m);
        close_fd(m->rw);
        close_fd(m->ro);
        free(m);
    }
    local_table_deinit(&l->driver.table);
    local_workers_deinit(&l->driver.workers);
    local_ring_deinit(&l->driver.ring);
}

void local_driver_dump(struct local *l, FILE *out)
{
    struct local_memory *m;

    fprintf(out, "memory: %u, jobs: %u, still to reserve: %" PRIu64 " bytes, events: %u of %u\n", l->driver.table.count,
            local_workers_jobs(&l->driver.workers), local_workers_reserving(&l->driver.workers),
            local_ring_pending(&l->driver.ring), DRIVER_RING_SLOTS(l->driver.ring.pages));
    for (m = local_table_next(&l->driver.table, NULL); m; m = local_table_next(&l->driver.table, m))
        fprintf(out, "  segment %d: %s, %" PRIu64 " bytes%s%s%s\n", m->shmid, m->import ? "import" : "own", m->size,
                m->pending ? ", being reserved" : "", m->locked ? ", locked" : "", m->huge_shift ? ", huge pages" : "");
}
