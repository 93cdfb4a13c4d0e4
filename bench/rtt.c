/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a message costs: requests that need the daemon against the bare round trips that they are made of.
 *
 *   cold get + attach   xp_shmget and xp_shmat of a segment of the own partition that this process has not seen before,
 *                       against two round trips over a SOCK_SEQPACKET socket, the second bringing a descriptor back
 *   a peer answers      xp_shmctl(IPC_STAT) of the other partition's segment, against the sum of one such round trip
 *                       and one over a SOCK_DGRAM socket, which is what two daemons have between them
 *
 * The bare round trips are made by this process and a child that sleeps in recvmsg() and answers. Every process is
 * pinned, the daemons with all of their threads: on one core, or on two, so that each message goes from one to the
 * other. Rounds of both sides alternate; a round may begin with a pause, so that everybody is asleep. Printed are
 * medians with quartiles and the ratio of the medians. bench/run starts the two partitions.
 */
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <xp_shm.h>

#include "bench/measure.h"

#define ROUNDS    101
#define PACKET    40 /* as large as the requests and answers of the library */
#define PAUSE_NS  2000000
#define MAX_CORES 2
#define FIRST_KEY 0x63000000
#define COLD_KEYS (MAX_CORES * 2 * ROUNDS) /* each with and without a pause */

static struct {
    bool json;
    int here_pid, home_pid; /* the daemons */
    const char *home_socket;
} opt;

static int cores[MAX_CORES], n_cores;

/* ------------------------------------------------------------------ where things run */

static void find_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        die("sched_getaffinity");
    for (int c = 0; c < CPU_SETSIZE && n_cores < MAX_CORES; c++)
        if (CPU_ISSET(c, &set))
            cores[n_cores++] = c;
}

static void pin_thread(pid_t tid, int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(tid, sizeof(set), &set) != 0)
        die("sched_setaffinity");
}

/* A process with all of its threads. */
static void pin(pid_t pid, int core)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    DIR *dir = opendir(path);
    if (dir == NULL)
        die(path);
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        if (e->d_name[0] != '.')
            pin_thread((pid_t)atoi(e->d_name), core);
    closedir(dir);
}

/* ------------------------------------------------------------------ bare round trips */

struct bare {
    pid_t pid;
    int fd;
};

static void send_bytes(int fd, int passed)
{
    char data[PACKET] = {0};
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {data, sizeof(data)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    data[0] = passed >= 0;
    if (passed >= 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &passed, sizeof(int));
    }
    if (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0)
        die("sendmsg");
}

/* @return the first byte, -1: the end. *@passed: a descriptor that came, or -1. */
static int receive_bytes(int fd, int *passed)
{
    char data[PACKET];
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {data, sizeof(data)};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    ssize_t n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
    if (n <= 0)
        return -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    *passed = -1;
    if (c != NULL)
        memcpy(passed, CMSG_DATA(c), sizeof(int));
    return data[0];
}

/* Answers each packet until the end; one whose first byte is 1 with a descriptor. */
static void serve(int fd)
{
    int memory = memfd_create("rtt", MFD_CLOEXEC), passed;
    for (int what; (what = receive_bytes(fd, &passed)) >= 0 && what != 'q';)
        send_bytes(fd, what == 1 ? memory : -1);
    _exit(0);
}

static struct bare bare_start(int type)
{
    struct bare b;
    int fd[2];
    if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fd) != 0 || (b.pid = fork()) < 0)
        die("a child to talk to");
    if (b.pid == 0) {
        close(fd[0]);
        serve(fd[1]);
    }
    close(fd[1]);
    b.fd = fd[0];
    return b;
}

static void bare_stop(struct bare *b)
{
    (void)!send(b->fd, "q", 1, MSG_NOSIGNAL); /* a datagram socket knows no end of file */
    close(b->fd);
    waitpid(b->pid, NULL, 0);
}

static void ask(const struct bare *b, bool with_fd)
{
    char data[PACKET] = {(char)with_fd};
    int passed = -1;
    if (send(b->fd, data, sizeof(data), MSG_NOSIGNAL) < 0 || receive_bytes(b->fd, &passed) < 0)
        die("a bare round trip");
    if (passed >= 0)
        close(passed);
}

/* ------------------------------------------------------------------ the cases */

static void rest(bool wanted)
{
    struct timespec t = {.tv_nsec = PAUSE_NS};
    if (wanted)
        nanosleep(&t, NULL);
}

static struct bare packets, datagrams;
static int remote_id;
static bool printed;
static key_t next_key;

static double cold_bare(void)
{
    double begin = now_ns();
    ask(&packets, false);
    ask(&packets, true);
    return now_ns() - begin;
}

static double cold_clshm(void)
{
    double begin = now_ns();
    int id = xp_shmget(next_key++, 0, 0);
    void *p = id < 0 ? NOT_THERE : xp_shmat(id, NULL, 0);
    double spent = now_ns() - begin;
    if (p == NOT_THERE || xp_shmdt(p) != 0 || xp_shmctl(id, IPC_RMID) != 0)
        die("a key that was not known");
    return spent;
}

static double peer_bare(void)
{
    double begin = now_ns();
    ask(&packets, false);
    ask(&datagrams, false);
    return now_ns() - begin;
}

/* On a busy machine a heartbeat may come late; that partition is asked again when it beats. */
static double peer_clshm(void)
{
    for (int tries = 0;; tries++) {
        struct shmid_ds ds;
        double begin = now_ns();
        if (xp_shmctl(remote_id, IPC_STAT, &ds) == 0)
            return now_ns() - begin;
        if (errno != EHOSTDOWN || tries == 1000)
            die("stat of the other partition's segment");
        rest(true);
    }
}

static const struct {
    const char *name;
    double (*bare)(void), (*clshm)(void);
} cases[] = {
    {"cold get + attach", cold_bare, cold_clshm},
    {"a peer answers", peer_bare, peer_clshm},
};

/* ------------------------------------------------------------------ running them */

static void print_row(const char *name, int n, bool paused, struct spread b, struct spread c)
{
    if (opt.json)
        printf(
            "%s\n  {\"case\": \"%s\", \"cores\": %d, \"paused\": %s, \"unit\": \"ns\", \"bare\": [%.1f, %.1f, %.1f], "
            "\"clshm\": [%.1f, %.1f, %.1f], \"ratio\": %.3f}",
            printed ? "," : "", name, n, paused ? "true" : "false", b.low, b.median, b.high, c.low, c.median, c.high,
            c.median / b.median);
    else
        printf("%-20s %d %-14s %10.0f (%.0f-%.0f) %12.0f (%.0f-%.0f) %8.2f\n", name, n, paused ? "after a pause" : "",
               b.median, b.low, b.high, c.median, c.low, c.high, c.median / b.median);
    fflush(stdout);
}

/* In a process of its own: its library knows nothing yet, and its client page has room for every segment. */
static void measure(size_t which, int n, bool paused)
{
    static double bare[ROUNDS], clshm[ROUNDS];
    if ((remote_id = xp_shmget(FIRST_KEY - 1, 0, 0)) < 0)
        die("the other partition's segment");
    for (int round = 0; round < ROUNDS; round++) {
        rest(paused);
        bare[round] = cases[which].bare();
        rest(paused);
        clshm[round] = cases[which].clshm();
    }
    print_row(cases[which].name, n, paused, spread_of(bare, ROUNDS), spread_of(clshm, ROUNDS));
}

static void place(int n)
{
    int other = cores[n > 1 ? 1 : 0];
    pin(getpid(), cores[0]);
    pin(packets.pid, other);
    pin(datagrams.pid, other);
    if (opt.here_pid)
        pin(opt.here_pid, other);
    if (opt.home_pid)
        pin(opt.home_pid, cores[0]);
}

/* Its failure is ours; it said why. */
static void wait_for(pid_t child)
{
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        exit(1);
}

/* Segments that this process does not know: made by a child, on the partition of @socket (NULL: its own). */
static void make_segments(const char *socket, key_t key, int n)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (socket != NULL)
            setenv("CLSHM_SOCKET", socket, 1);
        for (int i = 0; i < n; i++)
            if (xp_shmget(key + i, PAGE, IPC_CREAT | IPC_EXCL | 0600) < 0)
                die("make a segment");
        _exit(0);
    }
    wait_for(pid);
}

static void run(void)
{
    fflush(stdout);
    packets = bare_start(SOCK_SEQPACKET);
    datagrams = bare_start(SOCK_DGRAM);
    for (int n = 1; n <= n_cores; n++) {
        place(n);
        for (size_t i = 0; i < 2 * sizeof(cases) / sizeof(cases[0]); i++) {
            pid_t pid = fork();
            if (pid == 0) {
                measure(i / 2, n, i % 2);
                exit(0);
            }
            wait_for(pid);
            next_key += cases[i / 2].clshm == cold_clshm ? ROUNDS : 0;
            printed = true;
        }
    }
    bare_stop(&packets);
    bare_stop(&datagrams);
}

static void remove_all(void)
{
    for (key_t key = FIRST_KEY - 1; key < FIRST_KEY + COLD_KEYS; key++) {
        int id = xp_shmget(key, 0, 0);
        if (id >= 0)
            xp_shmctl(id, IPC_RMID);
    }
}

int main(int argc, char **argv)
{
    for (int c; (c = getopt(argc, argv, "jh:d:D:")) != -1;) {
        if (c == 'j')
            opt.json = true;
        else if (c == 'h')
            opt.home_socket = optarg;
        else if (c == 'd')
            opt.here_pid = atoi(optarg);
        else if (c == 'D')
            opt.home_pid = atoi(optarg);
        else
            return fprintf(stderr, "usage: rtt [-j] -h SOCKET of the other partition [-d PID of the daemon]"
                                   " [-D PID of the other partition's daemon]\n"),
                   2;
    }
    if (opt.home_socket == NULL)
        return fprintf(stderr, "rtt: -h is needed; bench/run starts it as it should be\n"), 2;
    next_key = FIRST_KEY;
    find_cores();
    make_segments(opt.home_socket, FIRST_KEY - 1, 1);
    make_segments(NULL, FIRST_KEY, COLD_KEYS);
    if (opt.json)
        printf("[");
    else
        printf("%-20s %s %10s %19s (quartiles) %12s (quartiles) %8s\n", "", "cores", "", "bare, ns", "clshm, ns",
               "ratio");
    run();
    if (opt.json)
        printf("\n]\n");
    remove_all();
    return 0;
}
