/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * stream: frames from one partition to another through a ring in shared memory.
 *
 *     stream send KEY SECONDS BYTES PAUSE_US     a frame of BYTES as often as there is room, or every PAUSE_US
 *     stream receive KEY                         prints what came: frames, rate, latency, and the longest gap
 *
 * The ring is one segment: a head, then SLOTS frames. `sent` is the sender's, `received` the receiver's; each waits for the
 * other by looking a while and then by a futex, which works across partitions of one kernel. No daemon takes part.
 * Each frame carries its number and when it was sent; every word of it is checked.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <xp_shm.h>

#define SLOTS   32u
#define MOST    (1u << 20) /* bytes of a frame */
#define SPIN    4000
#define SAMPLES 1000000u

struct frame {
    uint64_t number, when_ns;
    uint64_t word[MOST / 8 - 2];
};

struct ring {
    _Atomic uint32_t sent, received; /* counts, modulo 2^32 */
    _Atomic uint32_t ended;          /* 0, or how many were sent plus 1 */
    _Atomic uint32_t ready;          /* the receiver is there */
    uint32_t bytes;
    uint32_t reserved[11];
    _Alignas(4096) struct frame slot[SLOTS];
};

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int failed(const char *what)
{
    fprintf(stderr, "stream: %s: %s (%s)\n", what, strerror(errno), strerrorname_np(errno));
    return 1;
}

/* Until @word is no longer @value. */
static void wait_change(_Atomic uint32_t *word, uint32_t value)
{
    const struct timespec limit = {.tv_sec = 1};

    for (int i = 0; i < SPIN; i++)
        if (atomic_load_explicit(word, memory_order_acquire) != value)
            return;
    while (atomic_load_explicit(word, memory_order_acquire) == value)
        syscall(SYS_futex, word, FUTEX_WAIT, value, &limit, NULL, 0);
}

static void publish(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
    syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static struct ring *attach(const char *key, int flags, int *id)
{
    *id = xp_shmget((key_t)strtoul(key, NULL, 0), sizeof(struct ring), flags | 0666);
    return *id < 0 ? (void *)-1 : xp_shmat(*id, NULL, 0);
}

/* ------------------------------------------------------------------ the sender */

static void pause_until(uint64_t when)
{
    struct timespec t = {.tv_sec = (time_t)(when / 1000000000u), .tv_nsec = (long)(when % 1000000000u)};

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int send_frames(const char *key, double seconds, uint32_t bytes, uint64_t pause_us)
{
    int id;
    struct ring *r = attach(key, IPC_CREAT | IPC_EXCL, &id);
    uint64_t end, next;
    uint32_t n = 0;

    if (r == (void *)-1)
        return failed(key);
    if (xp_shmctl(id, IPC_AUTORMID) != 0)
        return failed("IPC_AUTORMID");
    r->bytes = bytes;
    printf("ready\n");
    fflush(stdout);
    wait_change(&r->ready, 0);
    next = now_ns();
    end = next + (uint64_t)(seconds * 1e9);
    while (now_ns() < end) {
        struct frame *f = &r->slot[n % SLOTS];
        uint32_t received = atomic_load_explicit(&r->received, memory_order_acquire);

        if (n - received == SLOTS) {
            wait_change(&r->received, received);
            continue;
        }
        for (uint32_t i = 0; i < bytes / 8 - 2; i++)
            f->word[i] = n + i;
        f->number = n;
        f->when_ns = now_ns();
        publish(&r->sent, ++n);
        if (pause_us)
            pause_until(next += pause_us * 1000);
    }
    publish(&r->ended, n + 1);
    publish(&r->sent, n + 1); /* one that is no frame: it says that all is said */
    return xp_shmdt(r) == 0 ? 0 : failed("xp_shmdt");
}

/* ------------------------------------------------------------------ the receiver */

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void report(uint64_t frames, uint32_t bytes, uint64_t took, uint64_t *latency, uint64_t gap)
{
    size_t n = frames < SAMPLES ? frames : SAMPLES;
    double s = (double)took / 1e9;

    qsort(latency, n, sizeof(*latency), compare);
    printf("%" PRIu64 " frames of %" PRIu32
           " bytes, all intact: %.0f frames/s, %.2f GB/s; latency %.1f us median, %.1f us 99%%; "
           "longest gap %.1f ms\n",
           frames, bytes, (double)frames / s, (double)frames * bytes / s / 1e9, n ? (double)latency[n / 2] / 1e3 : 0,
           n ? (double)latency[n - 1 - n / 100] / 1e3 : 0, (double)gap / 1e6);
}

static int receive_frames(const char *key)
{
    int id;
    struct ring *r = attach(key, 0, &id);
    uint64_t *latency = calloc(SAMPLES, sizeof(*latency)), begin = 0, last = 0, gap = 0;
    uint32_t n = 0;

    if (r == (void *)-1 || !latency)
        return failed(key);
    publish(&r->ready, 1);
    for (;; n++) {
        const struct frame *f = &r->slot[n % SLOTS];
        uint64_t now;

        wait_change(&r->sent, n);
        now = now_ns();
        if (atomic_load_explicit(&r->ended, memory_order_acquire) == n + 1)
            break;
        if (n == 0)
            begin = now;
        else if (now - last > gap)
            gap = now - last;
        latency[n % SAMPLES] = now - f->when_ns;
        if (f->number != n) {
            fprintf(stderr, "stream: frame %" PRIu32 " has number %" PRIu64 "\n", n, f->number);
            return 1;
        }
        for (uint32_t i = 0; i < r->bytes / 8 - 2; i++) {
            if (f->word[i] != n + i) {
                fprintf(stderr, "stream: frame %" PRIu32 " is damaged\n", n);
                return 1;
            }
        }
        publish(&r->received, n + 1);
        last = now;
    }
    report(n, r->bytes, last > begin ? last - begin : 1, latency, gap);
    free(latency);
    return xp_shmdt(r) == 0 ? 0 : failed("xp_shmdt");
}

int main(int argc, char **argv)
{
    uint32_t bytes = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 0) : 0;

    if (argc == 6 && strcmp(argv[1], "send") == 0 && bytes >= 32 && bytes <= MOST)
        return send_frames(argv[2], strtod(argv[3], NULL), bytes, strtoull(argv[5], NULL, 0));
    if (argc == 3 && strcmp(argv[1], "receive") == 0)
        return receive_frames(argv[2]);
    fprintf(stderr, "usage: stream send KEY SECONDS BYTES PAUSE_US | stream receive KEY\n");
    return 2;
}
