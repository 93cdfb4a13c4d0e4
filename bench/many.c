/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Does it matter how many segments and partitions there are?
 *
 * Two fabrics that differ in that: one has nothing but what is measured, the other many segments and partitions. In
 * each a process of its own (the library serves one fabric in a process) does the same: look up, attach and detach the
 * keys of a hot set, all known to it; and meet a cold key, which it never asked for before, until it is attached.
 * Rounds of the two processes alternate; a ratio of the medians near 1 says that it does not matter.
 *
 *   many -c N [-k FIRST]           create N more segments of a page, through CLSHM_SOCKET, and exit
 *   many [-j] FEW-HOME FEW MANY-HOME MANY   sockets: where the segments are created, where they are looked up
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <xp_shm.h>

#include "bench/measure.h"

#define HOT       64
#define ROUNDS    201
#define HOT_KEY   0x51000000
#define COLD_KEY  0x52000000
#define OTHER_KEY 0x53000000

static void create(int first, int n)
{
    for (int i = 0; i < n; i++)
        if (xp_shmget(first + i, PAGE, IPC_CREAT | IPC_EXCL | 0600) < 0)
            die("xp_shmget");
}

static void visit(int key)
{
    int id = xp_shmget(key, 0, 0);
    void *at = id < 0 ? NOT_THERE : xp_shmat(id, NULL, 0);
    if (at == NOT_THERE || xp_shmdt(at) != 0)
        die("a segment of the set");
}

/* ------------------------------------------------------------------ what is measured: ns for one key */

static double hot_get(int round)
{
    enum { TIMES = 100 };
    (void)round;
    double begin = now_ns();
    for (int t = 0; t < TIMES; t++)
        for (int i = 0; i < HOT; i++)
            if (xp_shmget(HOT_KEY + i, 0, 0) < 0)
                die("xp_shmget");
    return (now_ns() - begin) / (TIMES * HOT);
}

static double hot_all(int round)
{
    (void)round;
    double begin = now_ns();
    for (int i = 0; i < HOT; i++)
        visit(HOT_KEY + i);
    return (now_ns() - begin) / HOT;
}

static double cold(int round)
{
    double begin = now_ns();
    visit(COLD_KEY + round);
    return now_ns() - begin;
}

static const struct {
    const char *name;
    double (*run)(int round);
} cases[] = {
    {"a hot key: get", hot_get},
    {"a hot key: get, attach, detach", hot_all},
    {"a cold key: get, attach, detach", cold},
};
#define CASES (sizeof(cases) / sizeof(cases[0]))

/* ------------------------------------------------------------------ a process for each fabric */

struct order {
    uint32_t which, round;
};

static void serve(int channel, const char *socket_path)
{
    struct order order;

    setenv("CLSHM_SOCKET", socket_path, 1);
    hot_all(0);
    while (recv(channel, &order, sizeof(order), 0) == (ssize_t)sizeof(order)) {
        double ns = cases[order.which].run((int)order.round);
        if (send(channel, &ns, sizeof(ns), 0) < 0)
            die("send");
    }
    _exit(0);
}

static void set_up(const char *home)
{
    int status;
    pid_t pid = fork();

    if (pid < 0)
        die("fork");
    if (pid == 0) {
        setenv("CLSHM_SOCKET", home, 1);
        create(HOT_KEY, HOT);
        create(COLD_KEY, ROUNDS);
        _exit(0);
    }
    if (waitpid(pid, &status, 0) != pid || status != 0)
        exit(1);
}

/* @return its end of the channel */
static int start(const char *home, const char *here, int others)
{
    int pair[2];

    set_up(home);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
        die("socketpair");
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        close(pair[0]);
        close(others);
        serve(pair[1], here);
    }
    close(pair[1]);
    return pair[0];
}

static double ask(int channel, uint32_t which, uint32_t round)
{
    struct order order = {which, round};
    double ns;

    if (send(channel, &order, sizeof(order), MSG_NOSIGNAL) < 0 ||
        recv(channel, &ns, sizeof(ns), 0) != (ssize_t)sizeof(ns))
        exit(1); /* it said why */
    return ns;
}

static void measure(uint32_t which, const int channel[2], bool json)
{
    static double ns[2][ROUNDS];

    for (uint32_t round = 0; round < ROUNDS; round++)
        for (int i = 0; i < 2; i++)
            ns[i][round] = ask(channel[i], which, round);
    struct spread few = spread_of(ns[0], ROUNDS), many = spread_of(ns[1], ROUNDS);
    if (json)
        printf("%s\n  {\"case\": \"%s\", \"unit\": \"ns\", \"few\": [%.1f, %.1f, %.1f], \"many\": [%.1f, %.1f, %.1f], "
               "\"ratio\": %.3f}",
               which == 0 ? "" : ",", cases[which].name, few.low, few.median, few.high, many.low, many.median,
               many.high, many.median / few.median);
    else
        printf("%-34s ns %12.1f (%.1f-%.1f) %12.1f (%.1f-%.1f) %8.2f\n", cases[which].name, few.median, few.low,
               few.high, many.median, many.low, many.high, many.median / few.median);
}

int main(int argc, char **argv)
{
    bool json = false;
    int channel[2], more = -1, first = 0;

    for (int c; (c = getopt(argc, argv, "c:k:j")) != -1;) {
        if (c == 'c')
            more = atoi(optarg);
        else if (c == 'k')
            first = atoi(optarg);
        else if (c == 'j')
            json = true;
        else
            return 2;
    }
    if (more >= 0) {
        create(OTHER_KEY + first, more);
        return 0;
    }
    if (argc - optind != 4)
        return fprintf(stderr, "usage: many [-j] FEW-HOME FEW MANY-HOME MANY | many -c N [-k FIRST]\n"), 2;
    channel[0] = start(argv[optind], argv[optind + 1], -1);
    channel[1] = start(argv[optind + 2], argv[optind + 3], channel[0]);
    if (json)
        printf("[");
    else
        printf("%-34s    %12s %s %18s %s %14s\n", "", "few", "(quartiles)", "many", "(quartiles)", "ratio");
    for (uint32_t i = 0; i < CASES; i++)
        measure(i, channel, json);
    if (json)
        printf("\n]\n");
    close(channel[0]);
    close(channel[1]);
    while (wait(NULL) > 0)
        ;
    return 0;
}
