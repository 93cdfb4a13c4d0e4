/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What pages cost: native System V memory, clshm's, and clshm's with huge pages of the pool (SHM_HUGETLB), in turn.
 *
 * Further ones tell what a fault costs in a fresh mapping of pages that are there: read, written, or brought in with one
 * madvise(MADV_POPULATE_WRITE). With shmem_enabled on `advise` the second column has transparent huge pages.
 *
 *   huge [-m MiB of the random loads]
 */
#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <xp_shm.h>

#include "bench/measure.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

#define SIZE   (64 * MIB)
#define PAGES  ((double)(SIZE / PAGE))
#define ROUNDS 21
#define SIDES  3

struct side {
    const char *name;
    int (*get)(key_t key, size_t size, int flags);
    void *(*at)(int id, const void *addr, int flags);
    int (*dt)(const void *addr);
    int (*rm)(int id);
    int flags;
    int id, large; /* touched; -1: there is none */
};

static size_t large = 1024 * MIB;

static int native_rm(int id)
{
    return shmctl(id, IPC_RMID, NULL);
}

static int clshm_rm(int id)
{
    return xp_shmctl(id, IPC_RMID);
}

static struct side sides[SIDES] = {
    {"native", shmget, shmat, shmdt, native_rm, 0, -1, -1},
    {"clshm", xp_shmget, xp_shmat, xp_shmdt, clshm_rm, 0, -1, -1},
    {"clshm, pool", xp_shmget, xp_shmat, xp_shmdt, clshm_rm, SHM_HUGETLB, -1, -1},
};

static char *attach(const struct side *s, int id)
{
    char *p = s->at(id, NULL, 0);
    if (p == NOT_THERE)
        die("attach");
    return p;
}

static void touch(char *p, size_t size)
{
    for (size_t i = 0; i < size; i += PAGE)
        ((volatile char *)p)[i] = 1;
}

static int make(const struct side *s, size_t size)
{
    return s->get(IPC_PRIVATE, size, IPC_CREAT | 0600 | s->flags);
}

static int make_touched(const struct side *s, size_t size)
{
    int id = make(s, size);
    if (id >= 0) {
        touch(attach(s, id), size);
        s->rm(id); /* it goes with this process; until then it can be attached by its id */
    }
    return id;
}

/* ------------------------------------------------------------------ cases */

static double read_there(const struct side *s)
{
    char *p = attach(s, s->id);
    double begin = now_ns();
    for (size_t i = 0; i < SIZE; i += PAGE)
        (void)((volatile char *)p)[i];
    double spent = now_ns() - begin;
    s->dt(p);
    return spent / PAGES;
}

static double write_there(const struct side *s)
{
    char *p = attach(s, s->id);
    double begin = now_ns();
    touch(p, SIZE);
    double spent = now_ns() - begin;
    s->dt(p);
    return spent / PAGES;
}

static double populate(const struct side *s, int advice)
{
    char *p = attach(s, s->id);
    double begin = now_ns();
    if (madvise(p, SIZE, advice) != 0)
        die("madvise");
    touch(p, SIZE);
    double spent = now_ns() - begin;
    s->dt(p);
    return spent / PAGES;
}

static double populate_write(const struct side *s)
{
    return populate(s, MADV_POPULATE_WRITE);
}

/* Read faults bring in their neighbours, and what they map may be written. */
static double populate_read(const struct side *s)
{
    return populate(s, MADV_POPULATE_READ);
}

/* One page of many: what a sparse user would pay for pages that it never touches. */
static double write_one(const struct side *s)
{
    char *p = attach(s, s->id);
    double begin = now_ns();
    touch(p, PAGE);
    double spent = now_ns() - begin;
    s->dt(p);
    return spent;
}

static double create_and_touch(const struct side *s)
{
    double begin = now_ns();
    int id = make(s, SIZE);
    if (id < 0)
        die("create");
    char *p = attach(s, id);
    touch(p, SIZE);
    double spent = now_ns() - begin;
    if (s->dt(p) != 0 || s->rm(id) != 0)
        die("remove");
    return spent / PAGES;
}

static double copy_out(const struct side *s)
{
    static char *buffer;
    if (buffer == NULL && (buffer = malloc(SIZE)) == NULL)
        die("malloc");
    char *p = attach(s, s->id);
    memcpy(buffer, p, SIZE); /* faults are not what is measured */
    double begin = now_ns();
    memcpy(buffer, p, SIZE);
    double spent = now_ns() - begin;
    s->dt(p);
    return spent / PAGES;
}

/* Each load's address depends on what the one before brought. */
static double chase(const struct side *s)
{
    enum { N = 200000 };
    if (s->large < 0)
        return -1;
    char *p = attach(s, s->large);
    touch(p, large);
    uint64_t at = 0, state = 1;
    double begin = now_ns();
    for (int i = 0; i < N; i++) {
        state = (state ^ *(volatile uint64_t *)(p + at)) * 6364136223846793005u + 1442695040888963407u;
        at = (state >> 20) % (large / 64) * 64;
    }
    double spent = now_ns() - begin;
    s->dt(p);
    return spent / N;
}

static const struct {
    const char *name, *unit;
    double (*run)(const struct side *);
} cases[] = {
    {"pages there: read, fresh mapping", "ns/4K", read_there},
    {"pages there: written", "ns/4K", write_there},
    {"pages there: POPULATE_WRITE, written", "ns/4K", populate_write},
    {"pages there: POPULATE_READ, written", "ns/4K", populate_read},
    {"pages there: one written", "ns", write_one},
    {"create 64 MiB to last page touched", "ns/4K", create_and_touch},
    {"memcpy out of 64 MiB", "ns/4K", copy_out},
    {"random loads", "ns", chase},
};

static void measure(size_t which)
{
    static double value[SIDES][ROUNDS];
    struct spread spread[SIDES];
    const int rounds = cases[which].run == chase ? 5 : ROUNDS; /* it touches all of a large segment first */

    for (int round = 0; round < rounds; round++)
        for (int i = 0; i < SIDES; i++)
            value[i][round] = sides[i].id < 0 ? -1 : cases[which].run(&sides[i]);
    printf("%-37s %-6s", cases[which].name, cases[which].unit);
    for (int i = 0; i < SIDES; i++) {
        spread[i] = spread_of(value[i], rounds);
        if (spread[i].median < 0)
            printf(" %31s", "-");
        else
            printf(" %9.1f (%8.1f-%8.1f)", spread[i].median, spread[i].low, spread[i].high);
        if (i > 0 && spread[i].median >= 0)
            printf(" %5.1fx", spread[0].median / spread[i].median);
    }
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    cpu_set_t set;

    for (int c; (c = getopt(argc, argv, "m:")) != -1;) {
        if (c != 'm')
            return fprintf(stderr, "usage: huge [-m MIB]\n"), 2;
        large = strtoul(optarg, NULL, 10) * MIB;
    }
    CPU_ZERO(&set);
    CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 1 : 0, &set);
    sched_setaffinity(0, sizeof(set), &set);
    for (int i = 0; i < SIDES; i++) {
        sides[i].id = make_touched(&sides[i], SIZE);
        sides[i].large = sides[i].id < 0 ? -1 : make_touched(&sides[i], large);
    }
    printf("%-37s %-6s %9s (quartiles)          %9s (quartiles)    faster %9s (quartiles)  faster\n", "", "", "native",
           "clshm", "of the pool");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        measure(i);
    return 0;
}
