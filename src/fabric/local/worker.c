/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Worker threads: whatever takes long with memory.
 *
 * A job is in the queue, or in the hands of one worker, which does one slice of it and puts it back at the end of the
 * queue. The daemon's loop refers to it by its serial number only. It may be cancelled at any time: then it undoes what
 * it did and ends without an event. Threads start with the first job.
 */
#include "src/fabric/local/local.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "src/util/cleanup.h"
#include "src/util/log.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define WORKER_NICE 5

int local_reserve(int fd, uint64_t offset, uint64_t len)
{
    int r;

    do
        r = fallocate(fd, 0, (off_t)offset, (off_t)len);
    while (r < 0 && errno == EINTR);
    return r == 0 ? 0 : ENOMEM; /* ENOSPC is what shmget(2) says of a limit, not of memory */
}

static uint64_t slice_of(const struct local_job *job, uint64_t left)
{
    return left < job->slice ? left : job->slice;
}

static void job_undo(struct local_job *job, int status)
{
    job->kind = LOCAL_JOB_UNDO;
    job->status = status;
}

/* @return true: it has ended */
static bool job_reserve(struct local_job *job)
{
    uint64_t len = slice_of(job, job->size - job->done);
    int error = 0;

    if (!job->huge && local_room() < len)
        error = ENOMEM;
    else if (job->advise)
        error = local_huge_populate(job->fd, job->done, len);
    else
        error = local_reserve(job->fd, job->done, len);

    if (error) {
        job->done += len; /* a part of the slice may be there */
        job_undo(job, error);
        return false;
    }
    job->done += len;
    return job->done == job->size;
}

/* Give back from the end, so that no single call takes long. */
static bool job_free(struct local_job *job)
{
    job->done -= slice_of(job, job->done);
    if (ftruncate(job->fd, (off_t)job->done) < 0) {
        log_error("freeing the memory of segment %d: %m", job->shmid);
        return true; /* what is left goes with the last descriptor */
    }
    return job->done == 0;
}

static bool job_lock(struct local_job *job)
{
    uint64_t len = slice_of(job, job->size - job->done);

    /* Only what the mapping says to be locked on fault; a kernel that does not know it locks at the first touch. */
    if (madvise((char *)job->addr + job->done, len, MADV_POPULATE_READ) < 0 && errno != EINTR)
        log_debug("bringing in segment %d: %m", job->shmid);
    job->done += len;
    return job->done == job->size;
}

static bool job_step(struct local_job *job)
{
    switch (job->kind) {
    case LOCAL_JOB_RESERVE:
        return job_reserve(job);
    case LOCAL_JOB_UNDO:
    case LOCAL_JOB_FREE:
        return job_free(job);
    case LOCAL_JOB_REVOKE:
        if (ftruncate(job->fd, 0) < 0)
            log_error("revoking segment %d: %m", job->shmid);
        return true;
    case LOCAL_JOB_LOCK:
        return job_lock(job);
    }
    return true;
}

static void job_dispose(struct local_job *job)
{
    close_fd(job->fd);
    if (job->kind == LOCAL_JOB_LOCK && job->cancelled)
        munmap(job->addr, job->size);
    free(job);
}

static void job_end(struct local_workers *workers, struct local_job *job)
{
    struct driver_event event = {.shmid = job->shmid, .status = job->status, .value = job->serial};

    if (job->kind == LOCAL_JOB_FREE)
        event.type = DRIVER_EVENT_DESTROYED;
    else if ((job->kind == LOCAL_JOB_RESERVE || job->kind == LOCAL_JOB_UNDO) && !job->cancelled)
        event.type = DRIVER_EVENT_CREATED;
    job_dispose(job);
    if (event.type != DRIVER_EVENT_NONE)
        (void)local_ring_push(workers->ring, &event, true);
}

static void queue_put(struct local_workers *workers, struct local_job *job)
{
    job->next = NULL;
    if (workers->tail)
        workers->tail->next = job;
    else
        workers->head = job;
    workers->tail = job;
}

static struct local_job *queue_get(struct local_workers *workers)
{
    struct local_job *job = workers->head;

    workers->head = job->next;
    if (!workers->head)
        workers->tail = NULL;
    return job;
}

static void reserving_less(struct local_workers *workers, const struct local_job *job, uint64_t before)
{
    if (job->kind == LOCAL_JOB_RESERVE)
        workers->reserving -= job->done - before;
    else
        workers->reserving -= job->size - before; /* it failed: nothing of the rest will be taken */
}

/* One slice of one job; called and returns with the lock held. */
static void work(struct local_workers *workers, uint32_t me)
{
    struct local_job *job = queue_get(workers);
    bool reserving = job->kind == LOCAL_JOB_RESERVE;
    bool pointless = job->kind == LOCAL_JOB_LOCK && job->cancelled;
    uint64_t before = job->done;
    bool ended;

    if (job->cancelled && reserving)
        job_undo(job, ECANCELED);
    workers->active[me] = job;
    pthread_mutex_unlock(&workers->lock);
    ended = pointless || job_step(job);
    pthread_mutex_lock(&workers->lock);
    if (reserving)
        reserving_less(workers, job, before);
    if (ended && job->cancelled && job->kind == LOCAL_JOB_RESERVE) {
        job_undo(job, ECANCELED); /* cancelled during its last slice */
        ended = false;
    }
    if (!ended) {
        workers->active[me] = NULL;
        queue_put(workers, job);
        pthread_cond_signal(&workers->more);
        return;
    }
    workers->active[me] = NULL; /* from here on it cannot be cancelled */
    pthread_cond_broadcast(&workers->ended);
    pthread_mutex_unlock(&workers->lock);
    job_end(workers, job);
    pthread_mutex_lock(&workers->lock);
}

static void *worker(void *arg)
{
    struct local_workers *workers = arg;
    uint32_t me;

    /* Whoever waits for memory waits a little longer; whoever does not should not notice. */
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), WORKER_NICE);
    pthread_mutex_lock(&workers->lock);
    for (me = 0; me < LOCAL_WORKERS && !pthread_equal(workers->thread[me], pthread_self()); me++)
        ;
    while (me < LOCAL_WORKERS && !workers->stop) {
        if (workers->head)
            work(workers, me);
        else
            pthread_cond_wait(&workers->more, &workers->lock);
    }
    pthread_mutex_unlock(&workers->lock);
    return NULL;
}

int local_workers_init(struct local_workers *workers, struct local_ring *ring)
{
    pthread_condattr_t attr;

    workers->ring = ring;
    pthread_mutex_init(&workers->lock, NULL);
    pthread_cond_init(&workers->more, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&workers->ended, &attr);
    pthread_condattr_destroy(&attr);
    return 0;
}

void local_workers_deinit(struct local_workers *workers)
{
    struct local_job *job;

    if (!workers->ring)
        return;
    pthread_mutex_lock(&workers->lock);
    workers->stop = true;
    pthread_cond_broadcast(&workers->more);
    pthread_mutex_unlock(&workers->lock);
    for (uint32_t i = 0; i < workers->started; i++)
        pthread_join(workers->thread[i], NULL);
    while ((job = workers->head)) {
        workers->head = job->next;
        /* Others may have mapped what was to go: closing it here would leave it to them. */
        if ((job->kind == LOCAL_JOB_FREE || job->kind == LOCAL_JOB_REVOKE) && ftruncate(job->fd, 0) < 0)
            log_error("freeing the memory of segment %d: %m", job->shmid);
        job_dispose(job);
    }
    pthread_mutex_destroy(&workers->lock);
    pthread_cond_destroy(&workers->more);
    pthread_cond_destroy(&workers->ended);
    memset(workers, 0, sizeof(*workers));
}

/* With the lock held, so that a new thread finds its number. Signals are the loop's: a worker takes none. */
static void start_threads(struct local_workers *workers)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (workers->started < LOCAL_WORKERS &&
           pthread_create(&workers->thread[workers->started], NULL, worker, workers) == 0)
        workers->started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

uint64_t local_workers_add(struct local_workers *workers, struct local_job *job)
{
    uint64_t serial = 0;

    if (job->slice == 0)
        job->slice = LOCAL_SLICE;
    pthread_mutex_lock(&workers->lock);
    start_threads(workers);
    if (workers->started) {
        serial = job->serial = ++workers->serial;
        if (job->kind == LOCAL_JOB_RESERVE)
            workers->reserving += job->size - job->done;
        queue_put(workers, job);
        pthread_cond_signal(&workers->more);
    }
    pthread_mutex_unlock(&workers->lock);
    return serial;
}

/* With the lock held. */
static struct local_job *find(struct local_workers *workers, uint64_t serial)
{
    for (uint32_t i = 0; i < LOCAL_WORKERS; i++)
        if (workers->active[i] && workers->active[i]->serial == serial)
            return workers->active[i];
    for (struct local_job *job = workers->head; job; job = job->next)
        if (job->serial == serial)
            return job;
    return NULL;
}

bool local_workers_cancel(struct local_workers *workers, uint64_t serial)
{
    struct local_job *job;

    pthread_mutex_lock(&workers->lock);
    job = find(workers, serial);
    if (job)
        job->cancelled = true;
    pthread_mutex_unlock(&workers->lock);
    return job != NULL;
}

void local_workers_wait(struct local_workers *workers, uint64_t serial, uint32_t limit_ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)limit_ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&workers->lock);
    while (find(workers, serial))
        if (pthread_cond_timedwait(&workers->ended, &workers->lock, &until) == ETIMEDOUT)
            break;
    pthread_mutex_unlock(&workers->lock);
}

uint64_t local_workers_reserving(struct local_workers *workers)
{
    uint64_t reserving;

    pthread_mutex_lock(&workers->lock);
    reserving = workers->reserving;
    pthread_mutex_unlock(&workers->lock);
    return reserving;
}

uint32_t local_workers_jobs(struct local_workers *workers)
{
    uint32_t n = 0;

    pthread_mutex_lock(&workers->lock);
    for (uint32_t i = 0; i < LOCAL_WORKERS; i++)
        n += workers->active[i] != NULL;
    for (struct local_job *job = workers->head; job; job = job->next)
        n++;
    pthread_mutex_unlock(&workers->lock);
    return n;
}
