/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fake daemon is a process, not a thread: tests close every descriptor of theirs. The files it hands out are made
 * before it is forked, so that the test can map them too, under numbers above 500 which the tests leave alone.
 */
#include "tests/unit/fake_daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONNS_MAX 32

static void die(const char *what)
{
    perror(what);
    _exit(99);
}

static int make_file(const char *name, size_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 500);
    if (fd < 0 || high < 0 || ftruncate(high, (off_t)size) < 0)
        die(name);
    close(fd);
    return high;
}

static void *map_file(int fd, size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        die("mmap");
    return p;
}

uint32_t *fake_word(struct fake *f, int32_t shmid)
{
    static char *gens;
    if (!gens)
        gens = map_file(f->gens_fd, FAKE_PARTS * FAKE_GENS_BLOCK);
    uint32_t part = fabric_shmid_part(2, FAKE_SLOT_BITS, shmid), slot = fabric_shmid_slot(FAKE_SLOT_BITS, shmid);
    return (uint32_t *)(void *)(gens + part * FAKE_GENS_BLOCK + FABRIC_PAGE + 4 * slot);
}

uint32_t *fake_incarnation(struct fake *f, uint32_t part)
{
    static char *gens;
    if (!gens)
        gens = map_file(f->gens_fd, FAKE_PARTS * FAKE_GENS_BLOCK);
    return (uint32_t *)(void *)(gens + FAKE_PART * FAKE_GENS_BLOCK + 4 * part);
}

const struct clshmd_entry *fake_entries(struct fake *f, int n)
{
    static char *page[FAKE_PAGES];
    if (!page[n])
        page[n] = map_file(f->page_fd[n], CLSHMD_PAGE_SIZE);
    return (const void *)(page[n] + sizeof(struct clshmd_page_head));
}

/* ------------------------------------------------------------------ the daemon's side */

struct answer {
    struct clshmd_header header;
    char payload[CLSHMD_PACKET_MAX];
    size_t size;
    int fds[4];
    unsigned n_fds;
};

static uint64_t new_page(struct fake *f, struct answer *a)
{
    int n = f->n_pages;
    if (n == (int)FAKE_PAGES)
        die("too many pages");
    struct clshmd_page_head head = {.magic = CLSHMD_MAGIC, .entries = 126, .token = 1000u + (uint64_t)n};
    if (pwrite(f->page_fd[n], &head, sizeof(head), 0) != (ssize_t)sizeof(head))
        die("pwrite");
    f->token[n] = head.token;
    a->fds[a->n_fds++] = f->page_fd[n];
    f->n_pages = n + 1;
    return head.token;
}

static bool token_known(const struct fake *f, uint64_t token)
{
    for (int i = 0; i < f->n_pages; i++) {
        if (f->token[i] == token)
            return true;
    }
    return false;
}

static int on_hello(struct fake *f, const struct clshmd_hello *h, struct answer *a)
{
    struct clshmd_hello_reply r = {.major = CLSHM_DAEMON_MAJOR,
                                   .part = FAKE_PART,
                                   .token = h->token,
                                   .parts = FAKE_PARTS,
                                   .part_bits = 2,
                                   .slot_bits = FAKE_SLOT_BITS,
                                   .granule = 4096,
                                   .heartbeat_ms = 200,
                                   .entries = 126,
                                   .gens_block = FAKE_GENS_BLOCK,
                                   .incarnation = 1};
    f->last_hello_token = h->token;
    if (f->trick == FAKE_REFUSE)
        return EPROTO;
    if (f->trick == FAKE_OTHER_MAJOR)
        r.major = CLSHM_DAEMON_MAJOR + 1;
    if (f->trick == FAKE_BAD_GEOMETRY)
        r.parts = 1000;
    if (h->token && !token_known(f, h->token))
        return ESTALE;
    if (!(h->flags & CLSHMD_HELLO_TOOL)) {
        a->fds[a->n_fds++] = f->gens_fd;
        a->fds[a->n_fds++] = f->life_fd;
        if (!h->token)
            r.token = new_page(f, a);
    }
    memcpy(a->payload, &r, a->size = sizeof(r));
    return 0;
}

static int on_get(struct fake *f, const struct clshmd_get *g, struct answer *a)
{
    static uint64_t seen[64]; /* by the order of making */
    int n = 0;
    while (n < f->made && seen[n] != g->token)
        n++;
    seen[n] = g->token;
    if (n == f->made)
        f->made++;
    struct clshmd_get_reply r = {.shmid = fabric_shmid(2, FAKE_SLOT_BITS, 7, FAKE_PART, (uint32_t)n)};
    memcpy(a->payload, &r, a->size = sizeof(r));
    return 0;
}

static int on_open(struct fake *f, const struct clshmd_open *o, struct answer *a)
{
    struct clshmd_open_reply r = {.size = FAKE_SIZE - 100, .word = *fake_word(f, o->shmid), .key = 5};
    r.incarnation = *fake_incarnation(f, fabric_shmid_part(2, FAKE_SLOT_BITS, o->shmid));
    f->last_shmid = o->shmid;
    f->last_entry = (int)o->entry;
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", f->memory_fd);
    int fd = open(path, (o->access & CLSHMD_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0)
        die(path);
    a->fds[a->n_fds++] = fd;
    memcpy(a->payload, &r, a->size = sizeof(r));
    return 0;
}

static int on_ctl(struct fake *f, const struct clshmd_ctl *c, struct answer *a)
{
    struct clshmd_stat stat = {.shmid = c->shmid, .part = FAKE_PART, .stat = {.size = FAKE_SIZE - 100, .mode = 01600}};
    struct clshmd_info info = {.shmmax = 1u << 30, .used_ids = 3, .highest = 17};
    switch (c->cmd) {
    case CLSHMD_CTL_RMID:
        return f->removed++ ? EINVAL : 0;
    case CLSHMD_CTL_INFO:
        memcpy(a->payload, &info, a->size = sizeof(info));
        return 0;
    case CLSHMD_CTL_STAT:
    case CLSHMD_CTL_STAT_INDEX:
    case CLSHMD_CTL_STAT_ANY:
        if (c->shmid == 99)
            return EINVAL;
        memcpy(a->payload, &stat, a->size = sizeof(stat));
        return 0;
    default:
        return 0;
    }
}

static int on_fork(struct fake *f, struct answer *a)
{
    struct clshmd_fork_reply r = {.entries = 126};
    r.token = new_page(f, a);
    a->fds[a->n_fds++] = f->life_fd;
    memcpy(a->payload, &r, a->size = sizeof(r));
    return 0;
}

static int on_grow(struct fake *f, struct answer *a)
{
    static uint32_t entries = 126;
    if (entries + 128 > f->grow_max)
        return ENOSPC;
    struct clshmd_grow_reply r = {.entries = entries += 128};
    memcpy(a->payload, &r, a->size = sizeof(r));
    return 0;
}

static int handle(struct fake *f, int op, const void *payload, struct answer *a)
{
    struct clshmd_ftok_reply key = {.key = 0x1234, .part = FAKE_PART};
    struct clshmd_parts_reply parts = {.active = 0xb, .self = FAKE_PART};
    struct clshmd_hostname_reply host = {.hostname = "host.example"};
    struct clshmd_node_reply node = {.node = 3};
    if (f->fail_op == op)
        return f->fail_error;
    switch (op) {
    case CLSHMD_HELLO:
        return on_hello(f, payload, a);
    case CLSHMD_GET:
        return on_get(f, payload, a);
    case CLSHMD_OPEN:
        return on_open(f, payload, a);
    case CLSHMD_CTL:
        return on_ctl(f, payload, a);
    case CLSHMD_FORK:
        return on_fork(f, a);
    case CLSHMD_GROW:
        return on_grow(f, a);
    case CLSHMD_FTOK:
        memcpy(a->payload, &key, a->size = sizeof(key));
        return 0;
    case CLSHMD_PARTS:
        memcpy(a->payload, &parts, a->size = sizeof(parts));
        return 0;
    case CLSHMD_HOSTNAME:
        memcpy(a->payload, &host, a->size = sizeof(host));
        return 0;
    case CLSHMD_NODE:
        memcpy(a->payload, &node, a->size = sizeof(node));
        return 0;
    case CLSHMD_DETACHED:
        f->last_shmid = ((const struct clshmd_detached *)payload)->shmid;
        return 0;
    default:
        return 0;
    }
}

static void play_trick(const struct fake *f, struct answer *a, size_t *length)
{
    if (f->trick_op ? f->trick_op != a->header.op : a->header.op == CLSHMD_HELLO)
        return;
    int trick = f->trick;
    switch (trick) {
    case FAKE_WRONG_SEQ:
        a->header.seq++;
        break;
    case FAKE_WRONG_SIZE:
        a->header.length = (uint32_t)-- * length;
        break;
    case FAKE_LONG:
        a->header.length = (uint32_t)++ * length;
        break;
    case FAKE_LIE_LENGTH:
        a->header.length += 8;
        break;
    case FAKE_BAD_ERROR:
        a->header.error = -5;
        break;
    case FAKE_EXTRA_FD:
        a->fds[a->n_fds++] = f->life_fd;
        break;
    default:
        break;
    }
}

/* @return false: hang up. */
static bool serve(struct fake *f, int fd)
{
    static struct answer a;
    _Alignas(8) char packet[CLSHMD_PACKET_MAX];
    ssize_t n = recv(fd, packet, sizeof(packet), 0);
    if (n < (ssize_t)sizeof(a.header))
        return false;
    memset(&a, 0, sizeof(a));
    memcpy(&a.header, packet, sizeof(a.header));
    int op = a.header.op;
    f->count[op]++;
    a.header.error = handle(f, op, packet + sizeof(a.header), &a);
    if (a.header.error)
        a.size = a.n_fds = 0;
    if (f->drop_op == op) {
        f->drop_op = 0;
        return false;
    }
    if (f->trick == FAKE_SILENT && op != CLSHMD_HELLO)
        return true;
    size_t length = sizeof(a.header) + a.size;
    a.header.length = (uint32_t)length;
    play_trick(f, &a, &length);
    char control[CMSG_SPACE(sizeof(a.fds))] = {0};
    struct iovec iov = {&a, length};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (a.n_fds) {
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(a.n_fds * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        *c = (struct cmsghdr){CMSG_LEN(a.n_fds * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(c), a.fds, a.n_fds * sizeof(int));
    }
    bool sent = sendmsg(fd, &msg, MSG_NOSIGNAL) >= 0;
    if (op == CLSHMD_OPEN && a.n_fds)
        close(a.fds[0]);
    return sent;
}

static void hang_up_all(struct pollfd *p)
{
    for (int i = 1; i < CONNS_MAX; i++) {
        if (p[i].fd >= 0)
            close(p[i].fd);
        p[i].fd = -1;
    }
}

static void accept_one(struct pollfd *p)
{
    int fd = accept4(p[0].fd, NULL, NULL, SOCK_CLOEXEC);
    for (int i = 1; i < CONNS_MAX && fd >= 0; i++) {
        if (p[i].fd < 0) {
            p[i] = (struct pollfd){.fd = fd, .events = POLLIN};
            return;
        }
    }
    die("accept");
}

static void daemon_main(struct fake *f)
{
    struct pollfd p[CONNS_MAX];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memset(p, 0xff, sizeof(p));
    strcpy(address.sun_path, f->socket);
    unlink(f->socket);
    p[0] = (struct pollfd){.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), .events = POLLIN};
    if (bind(p[0].fd, (struct sockaddr *)&address, sizeof(address)) < 0 || chmod(f->socket, 0666) < 0 ||
        listen(p[0].fd, 32) < 0)
        die(f->socket);
    f->ready = 1;
    for (;;) {
        if (poll(p, CONNS_MAX, 2) < 0)
            die("poll");
        if (f->hang_up) {
            hang_up_all(p);
            f->hang_up = 0;
            continue;
        }
        if (f->forget) {
            memset(f->token, 0, sizeof(f->token));
            f->forget = 0;
        }
        for (int i = 1; i < CONNS_MAX; i++) {
            if (p[i].fd >= 0 && p[i].revents && !serve(f, p[i].fd)) {
                close(p[i].fd);
                p[i].fd = -1;
            }
        }
        if (p[0].revents)
            accept_one(p);
    }
}

/* ------------------------------------------------------------------ the test's side */

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void wait_until(_Atomic int *flag, int value)
{
    for (int i = 0; i < 10000 && *flag != value; i++)
        nap();
    if (*flag != value)
        die("the fake daemon does not react");
}

void fake_do(_Atomic int *flag)
{
    *flag = 1;
    wait_until(flag, 0);
}

static void run(struct fake *f, uid_t uid, int delay_ms)
{
    pid_t parent = getpid();
    f->ready = 0;
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent || (uid != geteuid() && setuid(uid) < 0))
            _exit(1);
        for (int i = 0; i < delay_ms; i++)
            nap();
        daemon_main(f);
    }
    f->pid = pid;
    if (delay_ms == 0)
        wait_until(&f->ready, 1);
}

struct fake *fake_start(uid_t uid)
{
    struct fake *f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (f == MAP_FAILED)
        die("mmap");
    f->grow_max = CLSHMD_ENTRIES_MAX;
    f->gens_fd = make_file("gens", FAKE_PARTS * FAKE_GENS_BLOCK);
    f->life_fd = make_file("life", 4096);
    f->memory_fd = make_file("memory", FAKE_SIZE);
    for (unsigned i = 0; i < FAKE_PAGES; i++)
        f->page_fd[i] = make_file("page", CLSHMD_PAGE_SIZE);
    for (uint32_t i = 0; i < FAKE_PARTS; i++)
        *fake_incarnation(f, i) = 10 + i;
    strcpy(f->dir, "/tmp/clshm-test-XXXXXX");
    if (!mkdtemp(f->dir) || chmod(f->dir, 0777) < 0)
        die("mkdtemp");
    snprintf(f->socket, sizeof(f->socket), "%s/sock", f->dir);
    setenv("CLSHM_SOCKET", f->socket, 1);
    run(f, uid, 0);
    return f;
}

void fake_kill(struct fake *f)
{
    if (f->pid <= 0)
        return;
    kill(f->pid, SIGKILL);
    waitpid(f->pid, NULL, 0);
    f->pid = 0;
}

void fake_restart(struct fake *f, int delay_ms)
{
    run(f, geteuid(), delay_ms);
}

struct fake *fake_stop(struct fake *f)
{
    fake_kill(f);
    unlink(f->socket);
    rmdir(f->dir);
    return NULL;
}
