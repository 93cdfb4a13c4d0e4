/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clshm against the kernel's own System V shared memory, in one process and one run.
 *
 * A case is a pair of functions that do the same work, one with xp_* and one with the native call, each returning the
 * nanoseconds of one round. Rounds of the two alternate, so that noise of the machine meets both; what is printed is
 * the median of each with its quartiles, and the ratio of the medians (below 1: clshm is faster).
 *
 * bench/run starts two partitions and runs this in the second one; the segments of the "imported" cases are created in
 * the first, by a child that talks to that partition's socket.
 */
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <xp_shm.h>

#include "bench/measure.h"

#define ROUNDS    201
#define ENOUGH_NS 3e9 /* a case ends after so long, with at least 5 rounds */

/* The calls of one side, so that each case is written once. */
struct side {
    const char *name;
    int (*get)(key_t key, size_t size, int flags);
    void *(*at)(int id, const void *addr, int flags);
    int (*dt)(const void *addr);
    int (*rm)(int id);
    key_t key; /* of the segment that the cases look up */
    int known; /* its id, with KNOWN_SIZE bytes, all touched */
};

#define KNOWN_SIZE (16 * MIB)

static int native_rm(int id)
{
    return shmctl(id, IPC_RMID, NULL);
}

static int clshm_rm(int id)
{
    return xp_shmctl(id, IPC_RMID);
}

static struct side sides[] = {
    {.name = "native", .get = shmget, .at = shmat, .dt = shmdt, .rm = native_rm},
    {.name = "clshm", .get = xp_shmget, .at = xp_shmat, .dt = xp_shmdt, .rm = clshm_rm},
};
#define NATIVE 0
#define CLSHM  1

static void *attach(const struct side *s, int id)
{
    void *p = s->at(id, NULL, 0);
    if (p == NOT_THERE)
        die("attach");
    return p;
}

static void touch(char *p, size_t size)
{
    for (size_t i = 0; i < size; i += PAGE)
        ((volatile char *)p)[i] = 1;
}

static double get_known(const struct side *s)
{
    enum { N = 1000 };
    double begin = now_ns();
    for (int i = 0; i < N; i++)
        if (s->get(s->key, 0, 0) != s->known)
            die("get");
    return (now_ns() - begin) / N;
}

static double attach_detach(const struct side *s)
{
    enum { N = 100 };
    double begin = now_ns();
    for (int i = 0; i < N; i++)
        if (s->dt(attach(s, s->known)) != 0)
            die("detach");
    return (now_ns() - begin) / N;
}

/* A fresh mapping of pages that are there: what a second process pays, per page. */
static double map_populated(const struct side *s)
{
    char *p = attach(s, s->known);
    double begin = now_ns();
    for (size_t i = 0; i < KNOWN_SIZE; i += PAGE)
        (void)((volatile char *)p)[i];
    double spent = now_ns() - begin;
    s->dt(p);
    return spent / (double)(KNOWN_SIZE / PAGE);
}

static double create_and_touch(const struct side *s, size_t size)
{
    double begin = now_ns();
    int id = s->get(IPC_PRIVATE, size, IPC_CREAT | 0600);
    if (id < 0)
        die("create");
    char *p = attach(s, id);
    touch(p, size);
    double spent = now_ns() - begin;
    if (s->dt(p) != 0 || s->rm(id) != 0)
        die("remove");
    return spent;
}

static double create_4k(const struct side *s)
{
    return create_and_touch(s, PAGE);
}

static double create_16m(const struct side *s)
{
    return create_and_touch(s, 16 * MIB);
}

static double copy_out(const struct side *s)
{
    static char *buffer;
    if (buffer == NULL && (buffer = malloc(KNOWN_SIZE)) == NULL)
        die("malloc");
    char *p = attach(s, s->known);
    memcpy(buffer, p, KNOWN_SIZE); /* faults are not what is measured */
    double begin = now_ns();
    memcpy(buffer, p, KNOWN_SIZE);
    double spent = now_ns() - begin;
    s->dt(p);
    return spent / (double)(KNOWN_SIZE / PAGE);
}

/* Dependent loads all over the segment, one cache line each. */
static double chase(const struct side *s)
{
    enum { N = 100000 };
    char *p = attach(s, s->known);
    touch(p, KNOWN_SIZE);
    uint64_t at = 0, sum = 0;
    double begin = now_ns();
    for (int i = 0; i < N; i++) {
        sum += *(volatile uint64_t *)(p + at);
        at = (at * 6364136223846793005u + 1442695040888963407u + (sum & 1)) % (KNOWN_SIZE / 64) * 64;
    }
    double spent = now_ns() - begin;
    s->dt(p);
    return spent / N;
}

static const struct {
    const char *name, *unit;
    double (*run)(const struct side *);
} cases[] = {
    {"get a known key", "ns", get_known},
    {"attach + detach", "ns", attach_detach},
    {"map populated pages", "ns/4K", map_populated},
    {"create, touch 4 KiB, remove", "ns", create_4k},
    {"create, touch 16 MiB, remove", "ns", create_16m},
    {"memcpy out", "ns/4K", copy_out},
    {"random loads, 16 MiB", "ns", chase},
};

/* The segment that the cases look up; created by a child, which uses the socket of @socket if that is given. */
static void make_known(struct side *s, const char *socket)
{
    s->key = (key_t)(0x62000000 | (getpid() & 0xffff) << 4 | (int)(s - sides));
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        if (socket != NULL)
            setenv("CLSHM_SOCKET", socket, 1);
        int id = s->get(s->key, KNOWN_SIZE, IPC_CREAT | IPC_EXCL | 0600);
        if (id < 0)
            die("create the known segment");
        touch(attach(s, id), KNOWN_SIZE);
        _exit(0);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || status != 0)
        exit(1);
    if ((s->known = s->get(s->key, 0, 0)) < 0)
        die("look up the known segment");
}

static void pin(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 1 : 0, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

static void print_row(const char *name, const char *unit, struct spread n, struct spread c, bool json, bool first)
{
    if (json)
        printf(
            "%s\n  {\"case\": \"%s\", \"unit\": \"%s\", \"native\": [%.1f, %.1f, %.1f], \"clshm\": [%.1f, %.1f, %.1f], "
            "\"ratio\": %.3f}",
            first ? "" : ",", name, unit, n.low, n.median, n.high, c.low, c.median, c.high, c.median / n.median);
    else
        printf("%-30s %-6s %12.1f (%.1f-%.1f) %12.1f (%.1f-%.1f) %8.2f\n", name, unit, n.median, n.low, n.high,
               c.median, c.low, c.high, c.median / n.median);
}

int main(int argc, char **argv)
{
    bool json = false;
    const char *home = NULL;
    for (int c; (c = getopt(argc, argv, "jh:")) != -1;) {
        if (c == 'j')
            json = true;
        else if (c == 'h')
            home = optarg;
        else
            return fprintf(stderr, "usage: bench [-j] [-h SOCKET of the home partition]\n"), 2;
    }
    pin();
    make_known(&sides[NATIVE], NULL);
    make_known(&sides[CLSHM], home);
    if (json)
        printf("[");
    else
        printf("%-30s %-6s %12s %s %20s %s %16s\n", "", "", "native", "(quartiles)", "clshm", "(quartiles)", "ratio");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        static double value[2][ROUNDS];
        double begin = now_ns();
        int round = 0;
        for (; round < ROUNDS && (round < 5 || now_ns() - begin < ENOUGH_NS); round++)
            for (int side = NATIVE; side <= CLSHM; side++)
                value[side][round] = cases[i].run(&sides[side]);
        print_row(cases[i].name, cases[i].unit, spread_of(value[NATIVE], round), spread_of(value[CLSHM], round), json,
                  i == 0);
    }
    if (json)
        printf("\n]\n");
    for (int side = NATIVE; side <= CLSHM; side++)
        sides[side].rm(sides[side].known);
    return 0;
}
