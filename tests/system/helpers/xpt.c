/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * xpt: a program under test, driven one call at a time.
 *
 * Descriptor 0 is a SOCK_SEQPACKET socket. A packet in is a command, words separated by spaces; a packet out is its
 * answer, "OK ..." or "ERR NAME" (an errno's name, SIGBUS, MISMATCH, or USAGE). The end of file ends the program. The
 * other side sets SO_PASSCRED and so learns from each answer which process wrote it.
 *
 * Memory is named by its address, as the library returned it. A SIGBUS while a command touches memory is its answer,
 * unless `sigbus default` was said before.
 *
 * fork and rawfork answer "OK PID" with a descriptor: the child's own socket. The child goes on there with everything
 * that it inherited.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xp_shm.h>

#define WORDS_MAX 8

static int channel; /* descriptor 0 */
static sigjmp_buf touching_env;
static volatile sig_atomic_t touching;

/* ------------------------------------------------------------------ answers */

static void __attribute__((format(printf, 2, 3))) answer(int fd, const char *format, ...)
{
    char text[4096], control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {.iov_base = text};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    va_list ap;
    int n;

    va_start(ap, format);
    n = vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    iov.iov_len = n < 0 ? 0 : (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1;
    if (fd >= 0) {
        struct cmsghdr *c;

        msg.msg_control = control;
        msg.msg_controllen = sizeof(control);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(int));
    }
    if (sendmsg(channel, &msg, MSG_NOSIGNAL) < 0)
        _exit(3);
}

static void answer_errno(void)
{
    answer(-1, "ERR %s", strerrorname_np(errno));
}

static void answer_result(long r)
{
    if (r < 0)
        answer_errno();
    else
        answer(-1, "OK %ld", r);
}

/* ------------------------------------------------------------------ touching memory */

static void on_sigbus(int sig)
{
    if (touching)
        siglongjmp(touching_env, 1);
    signal(sig, SIG_DFL);
    raise(sig);
}

/* The word that stands at byte @i of a pattern; different for each seed and place. */
static uint64_t pattern(uint64_t seed, uint64_t i)
{
    uint64_t x = (seed + 1) * 0x9e3779b97f4a7c15u + i * 0xbf58476d1ce4e5b9u;

    return x ^ x >> 31;
}

static void fill(volatile uint64_t *p, size_t words, uint64_t seed)
{
    for (size_t i = 0; i < words; i++)
        p[i] = pattern(seed, i);
}

/* @return where it differs, or @words. */
static size_t differs(const volatile uint64_t *p, size_t words, uint64_t seed, bool zero)
{
    size_t i;

    for (i = 0; i < words && p[i] == (zero ? 0 : pattern(seed, i)); i++)
        continue;
    return i;
}

static void touch(const char *command, volatile char *base, uint64_t a, uint64_t b)
{
    volatile uint64_t *word = (volatile uint64_t *)(base + a);
    size_t at;

    if (strcmp(command, "store") == 0) {
        *word = b;
        answer(-1, "OK");
    } else if (strcmp(command, "load") == 0) {
        answer(-1, "OK %" PRIu64, *word);
    } else if (strcmp(command, "add") == 0) {
        answer(-1, "OK %" PRIu64, __atomic_add_fetch(word, b, __ATOMIC_SEQ_CST));
    } else if (strcmp(command, "fill") == 0) {
        fill((volatile uint64_t *)base, a / 8, b);
        answer(-1, "OK");
    } else {
        at = differs((volatile uint64_t *)base, a / 8, b, strcmp(command, "zeros") == 0);
        if (at == a / 8)
            answer(-1, "OK");
        else
            answer(-1, "ERR MISMATCH %zu", at * 8);
    }
}

/* store ADDR OFFSET VALUE, load ADDR OFFSET, add ADDR OFFSET N, fill ADDR SIZE SEED, check ADDR SIZE SEED, zeros ADDR SIZE */
static void do_touch(int n, char **w)
{
    volatile char *base = n > 2 ? (volatile char *)strtoull(w[1], NULL, 0) : NULL;
    uint64_t a = n > 2 ? strtoull(w[2], NULL, 0) : 0, b = n > 3 ? strtoull(w[3], NULL, 0) : 0;

    if (sigsetjmp(touching_env, 1) == 0) {
        touching = 1;
        touch(w[0], base, a, b);
    } else {
        answer(-1, "ERR SIGBUS");
    }
    touching = 0;
}

static void do_sigbus(int n, char **w)
{
    signal(SIGBUS, n > 1 && strcmp(w[1], "default") == 0 ? SIG_DFL : on_sigbus);
    answer(-1, "OK");
}

/* ------------------------------------------------------------------ the library's calls */

static long number(int n, char **w, int i)
{
    return i < n ? strtol(w[i], NULL, 0) : 0;
}

static size_t size_at(int n, char **w, int i)
{
    return i < n ? strtoull(w[i], NULL, 0) : 0;
}

static void do_get(int n, char **w) /* get KEY SIZE FLAGS */
{
    answer_result(xp_shmget((key_t)number(n, w, 1), size_at(n, w, 2), (int)number(n, w, 3)));
}

static void do_ftok(int n, char **w) /* ftok PATH|- [ID] */
{
    key_t key = xp_ftok(n > 1 && strcmp(w[1], "-") != 0 ? w[1] : NULL, n > 2 ? (int)number(n, w, 2) : 1);

    if (key == -1)
        answer_errno();
    else
        answer(-1, "OK %ld", (long)key);
}

static void do_attach(int n, char **w) /* attach ID [FLAGS] [ADDR] */
{
    void *p = xp_shmat((int)number(n, w, 1), (void *)size_at(n, w, 3), (int)number(n, w, 2));

    if (p == (void *)-1)
        answer_errno();
    else
        answer(-1, "OK %" PRIuPTR, (uintptr_t)p);
}

static void do_detach(int n, char **w) /* detach ADDR */
{
    answer_result(xp_shmdt((void *)size_at(n, w, 1)));
}

static void answer_stat(int r, const struct shmid_ds *s)
{
    if (r < 0)
        answer_errno();
    else
        answer(-1,
               "OK r=%d key=%d size=%zu uid=%u gid=%u cuid=%u cgid=%u mode=%u nattch=%lu cpid=%d lpid=%d atime=%lld "
               "dtime=%lld ctime=%lld",
               r, s->shm_perm.__key, s->shm_segsz, s->shm_perm.uid, s->shm_perm.gid, s->shm_perm.cuid, s->shm_perm.cgid,
               (unsigned)s->shm_perm.mode, s->shm_nattch, s->shm_cpid, s->shm_lpid, (long long)s->shm_atime,
               (long long)s->shm_dtime, (long long)s->shm_ctime);
}

static void do_stat(int n, char **w) /* stat ID, statindex INDEX, statany INDEX */
{
    int cmd = w[0][4] == '\0' ? IPC_STAT : w[0][4] == 'i' ? SHM_STAT : SHM_STAT_ANY;
    struct shmid_ds s = {0};
    int r = xp_shmctl((int)number(n, w, 1), cmd, &s);

    answer_stat(r, &s);
}

static void do_ctl(int n, char **w) /* ctl ID COMMAND-NUMBER */
{
    answer_result(xp_shmctl((int)number(n, w, 1), (int)number(n, w, 2)));
}

static void do_set(int n, char **w) /* set ID UID GID MODE */
{
    struct shmid_ds s = {0};

    s.shm_perm.uid = (uid_t)size_at(n, w, 2);
    s.shm_perm.gid = (gid_t)size_at(n, w, 3);
    s.shm_perm.mode = (unsigned short)number(n, w, 4);
    answer_result(xp_shmctl((int)number(n, w, 1), IPC_SET, &s));
}

static void do_info(int n, char **w)
{
    struct shminfo limits = {0};
    struct shm_info used = {0};
    int r = xp_shmctl(0, IPC_INFO, &limits);

    (void)n;
    (void)w;
    if (r >= 0)
        r = xp_shmctl(0, SHM_INFO, &used);
    if (r < 0)
        answer_errno();
    else
        answer(-1, "OK r=%d shmmax=%lu shmmni=%lu shmseg=%lu shmall=%lu ids=%d tot=%lu", r, limits.shmmax,
               limits.shmmni, limits.shmseg, limits.shmall, used.used_ids, used.shm_tot);
}

/* ------------------------------------------------------------------ partitions */

static void do_self(int n, char **w)
{
    (void)n;
    (void)w;
    answer_result(part_getid());
}

static void do_count(int n, char **w)
{
    (void)n;
    (void)w;
    answer_result(part_getcount());
}

static void do_list(int n, char **w) /* list [MAX] */
{
    partid_t list[64];
    char text[512] = "";
    int r = part_getlist(list, n > 1 ? (int)number(n, w, 1) : 64);

    if (r < 0) {
        answer_errno();
        return;
    }
    for (int i = 0; i < r && i < (n > 1 ? (int)number(n, w, 1) : 64); i++)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), " %d", list[i]);
    answer(-1, "OK %d%s", r, text);
}

static void do_hostname(int n, char **w) /* hostname PART [MAX] */
{
    char name[256];
    int max = n > 2 ? (int)number(n, w, 2) : 256;

    if (part_gethostname((partid_t)number(n, w, 1), name, max) < 0)
        answer_errno();
    else
        answer(-1, "OK %s", name);
}

static void do_part(int n, char **w) /* part ID */
{
    answer_result(part_getpart((int)number(n, w, 1)));
}

static void do_node(int n, char **w) /* node ID */
{
    char path[256];

    if (part_getnode((int)number(n, w, 1), path, sizeof(path)) < 0)
        answer_errno();
    else
        answer(-1, "OK %s", path);
}

static void do_setpmo(int n, char **w) /* setpmo KEY NODEMASK POLICY */
{
    unsigned long mask = size_at(n, w, 2);
    struct xp_placement placement = {.nodemask = &mask, .maxnode = 64, .policy = (int)number(n, w, 3)};

    answer_result(part_setpmo((key_t)number(n, w, 1), &placement, PMO_NODEMASK));
}

/* ------------------------------------------------------------------ the process */

static void become_child(int fd)
{
    if (dup2(fd, 0) < 0)
        _exit(3);
    close(fd);
}

static void do_fork(int n, char **w) /* fork, rawfork */
{
    int pair[2], on = 1;
    pid_t pid;

    (void)n;
    /* SO_PASSCRED from the start: what was sent without it names no process. */
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0 ||
        setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) != 0) {
        answer_errno();
        return;
    }
    pid = w[0][0] == 'r' ? (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) : fork();
    if (pid == 0) {
        close(pair[0]);
        become_child(pair[1]);
        answer(-1, "OK");
        return;
    }
    close(pair[1]);
    if (pid < 0)
        answer_errno();
    else
        answer(pair[0], "OK %d", (int)pid);
    close(pair[0]);
}

static void do_wait(int n, char **w) /* wait PID: "OK exit N" or "OK signal N" */
{
    int status;

    if (waitpid((pid_t)number(n, w, 1), &status, 0) < 0)
        answer_errno();
    else if (WIFEXITED(status))
        answer(-1, "OK exit %d", WEXITSTATUS(status));
    else
        answer(-1, "OK signal %d", WTERMSIG(status));
}

static void do_exec(int n, char **w) /* a new image of this program, which answers "OK" */
{
    (void)n;
    (void)w;
    execl("/proc/self/exe", "xpt", "again", NULL);
    answer_errno();
}

static void do_exit(int n, char **w) /* exit [STATUS]; no answer but the end of file */
{
    exit((int)number(n, w, 1));
}

static void do_setuid(int n, char **w) /* setuid UID GID */
{
    if (setresgid((gid_t)number(n, w, 2), (gid_t)number(n, w, 2), (gid_t)number(n, w, 2)) != 0 ||
        setresuid((uid_t)number(n, w, 1), (uid_t)number(n, w, 1), (uid_t)number(n, w, 1)) != 0)
        answer_errno();
    else
        answer(-1, "OK");
}

/* Close every descriptor but the channel, and put other files there: the library's numbers now name files that are none
 * of its business, which it must neither use nor close. */
static void do_closeall(int n, char **w) /* closeall [reopen]: the number of those now open */
{
    int last = 64, opened = 0;

    for (int fd = 3; fd < 1024; fd++)
        close(fd);
    while (n > 1 && strcmp(w[1], "reopen") == 0 && opened < last && open("/dev/zero", O_RDONLY) >= 0)
        opened++;
    answer(-1, "OK %d", opened);
}

static void do_zerofds(int n, char **w) /* how many descriptors of closeall are still /dev/zero */
{
    int count = 0;
    char link[64], target[64];

    (void)n;
    (void)w;
    for (int fd = 3; fd < 128; fd++) {
        ssize_t size;

        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        size = readlink(link, target, sizeof(target) - 1);
        target[size < 0 ? 0 : size] = '\0';
        count += strcmp(target, "/dev/zero") == 0;
    }
    answer(-1, "OK %d", count);
}

static void do_pid(int n, char **w)
{
    (void)n;
    (void)w;
    answer(-1, "OK %d", (int)getpid());
}

/* mprotect ADDR SIZE PROT, munmap ADDR SIZE, madvise ADDR SIZE ADVICE */
static void do_memory(int n, char **w)
{
    void *p = (void *)size_at(n, w, 1);
    size_t size = size_at(n, w, 2);
    int what = (int)number(n, w, 3);

    switch (w[0][1]) {
    case 'p':
        answer_result(mprotect(p, size, what));
        break;
    case 'u':
        answer_result(munmap(p, size));
        break;
    default:
        answer_result(madvise(p, size, what));
    }
}

/* ------------------------------------------------------------------ many threads */

struct worker {
    pthread_t thread;
    int rounds, key, errors;
    bool wrong;
};

static void *work(void *arg)
{
    struct worker *t = arg;

    for (int i = 0; i < t->rounds; i++) {
        int id = xp_shmget(t->key, 8192, IPC_CREAT | 0600);
        uint64_t *p = id < 0 ? (void *)-1 : xp_shmat(id, NULL, 0);

        if (p == (void *)-1) {
            t->errors++;
            continue;
        }
        fill(p, 1024, (uint64_t)t->key);
        t->wrong |= differs(p, 1024, (uint64_t)t->key, false) != 1024;
        t->errors += xp_shmdt(p) != 0;
        t->errors += i % 4 == 3 && xp_shmctl(id, IPC_RMID) != 0;
    }
    return NULL;
}

static void do_threads(int n, char **w) /* threads N ROUNDS KEY: each its own key */
{
    struct worker worker[64];
    int count = (int)number(n, w, 1), errors = 0;
    bool wrong = false;

    if (count < 1 || count > 64) {
        answer(-1, "ERR USAGE");
        return;
    }
    for (int i = 0; i < count; i++) {
        worker[i] = (struct worker){.rounds = (int)number(n, w, 2), .key = (int)number(n, w, 3) + i};
        if (pthread_create(&worker[i].thread, NULL, work, &worker[i]) != 0)
            _exit(3);
    }
    for (int i = 0; i < count; i++) {
        pthread_join(worker[i].thread, NULL);
        errors += worker[i].errors;
        wrong |= worker[i].wrong;
    }
    if (wrong)
        answer(-1, "ERR MISMATCH");
    else
        answer(-1, "OK %d", errors);
}

/* latency N ID: call IPC_STAT N times; the longest one in microseconds */
static void do_latency(int n, char **w)
{
    int64_t longest = 0;

    for (long i = 0; i < number(n, w, 1); i++) {
        struct timespec a, b;
        struct shmid_ds s;
        int64_t us;

        clock_gettime(CLOCK_MONOTONIC, &a);
        if (xp_shmctl((int)number(n, w, 2), IPC_STAT, &s) != 0) {
            answer_errno();
            return;
        }
        clock_gettime(CLOCK_MONOTONIC, &b);
        us = (b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000;
        longest = us > longest ? us : longest;
    }
    answer(-1, "OK %" PRId64, longest);
}

/* ------------------------------------------------------------------ the loop */

static const struct command {
    const char *name;
    void (*run)(int n, char **words);
} commands[] = {
    {"get", do_get},           {"ftok", do_ftok},       {"attach", do_attach},     {"detach", do_detach},
    {"store", do_touch},       {"load", do_touch},      {"add", do_touch},         {"fill", do_touch},
    {"check", do_touch},       {"zeros", do_touch},     {"sigbus", do_sigbus},     {"stat", do_stat},
    {"statindex", do_stat},    {"statany", do_stat},    {"ctl", do_ctl},           {"set", do_set},
    {"info", do_info},         {"self", do_self},       {"count", do_count},       {"list", do_list},
    {"hostname", do_hostname}, {"part", do_part},       {"node", do_node},         {"setpmo", do_setpmo},
    {"fork", do_fork},         {"rawfork", do_fork},    {"wait", do_wait},         {"exec", do_exec},
    {"exit", do_exit},         {"setuid", do_setuid},   {"closeall", do_closeall}, {"zerofds", do_zerofds},
    {"pid", do_pid},           {"mprotect", do_memory}, {"munmap", do_memory},     {"madvise", do_memory},
    {"threads", do_threads},   {"latency", do_latency},
};

static void run(char *line)
{
    char *words[WORDS_MAX], *save = NULL;
    int n = 0;

    for (char *word = strtok_r(line, " ", &save); word && n < WORDS_MAX; word = strtok_r(NULL, " ", &save))
        words[n++] = word;
    for (size_t i = 0; n > 0 && i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(commands[i].name, words[0]) == 0) {
            commands[i].run(n, words);
            return;
        }
    }
    answer(-1, "ERR USAGE");
}

int main(int argc, char **argv)
{
    char line[512];

    (void)argv;
    signal(SIGBUS, on_sigbus);
    answer(-1, argc > 1 ? "OK exec" : "OK ready");
    for (;;) {
        ssize_t n = recv(channel, line, sizeof(line) - 1, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return 0;
        line[n] = '\0';
        run(line);
    }
}
