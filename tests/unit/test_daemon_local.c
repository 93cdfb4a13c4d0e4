/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The daemon with its real core and a local fabric: kill -9 loses nothing, here and across partitions; eviction. */
#include "tests/unit/daemon_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE  10000u
#define KILLS 20

static char top[64];
static struct partition {
    const char *name;
    pid_t keeper;
    char socket[108];
} one = {.name = "one"}, two = {.name = "two"};

/* A program: its page, and one segment that it attaches by entry 0. */
struct program {
    struct partition *at;
    struct client_page page;
    struct clshmd_entry *entries;
    char *memory;
};

static int sock_of(const struct partition *p)
{
    strcpy(options.socket, p->socket);
    return connect_daemon();
}

static struct client_page hello_at(const struct partition *p)
{
    strcpy(options.socket, p->socket);
    return hello();
}

static int tool_at(const struct partition *p)
{
    strcpy(options.socket, p->socket);
    return hello_tool();
}

static void start(struct partition *p)
{
    config_init(&options.config);
    options.config.log_level = LOG_LEVEL_ERROR;
    strcpy(options.partition, p->name);
    snprintf(options.fabric, sizeof(options.fabric), "%s/fabric", top);
    snprintf(p->socket, sizeof(p->socket), "%s/%s", top, p->name);
    strcpy(options.socket, p->socket);
    p->keeper = fork();
    assert_true(p->keeper >= 0);
    if (p->keeper == 0)
        _exit(keeper_run(daemon_main, &options));
}

static void stop(struct partition *p)
{
    int status = -1;

    if (p->keeper <= 0)
        return;
    kill(p->keeper, SIGTERM);
    assert_int_equal(waitpid(p->keeper, &status, 0), p->keeper);
    assert_int_equal(status, 0);
    p->keeper = 0;
}

static struct clshmd_status_reply status_of(const struct partition *p)
{
    struct clshmd_status_reply status;
    struct answer a;
    int fd = tool_at(p);

    assert_int_equal(call(fd, CLSHMD_STATUS, NULL, 0, &a), 0);
    memcpy(&status, a.payload, sizeof(status));
    close(fd);
    return status;
}

/* STATUS tells what the life words say; a request gets there a moment later, when the daemon was told. */
static bool reaches(const struct partition *from, const struct partition *to)
{
    struct clshmd_ping ping = {.part = status_of(to).self};
    struct answer a;
    int fd = tool_at(from), error = call(fd, CLSHMD_PING, &ping, sizeof(ping), &a);

    close(fd);
    return error == 0;
}

static void kill_daemon(const struct partition *p)
{
    struct clshmd_status_reply status = status_of(p);

    assert_int_equal(status.keeper_pid, p->keeper);
    assert_true(status.daemon_pid > 1);
    kill((pid_t)status.daemon_pid, SIGKILL);
    EVENTUALLY(status_of(p).restarts == status.restarts + 1);
}

static int setup_local(void **state)
{
    struct fabric_format format = {.name = "test", .parts = 4, .slots = 64, .heartbeat_ms = 200};

    (void)state;
    log_open("test", LOG_LEVEL_ERROR);
    strcpy(top, "/dev/shm/clshm-test-daemon-XXXXXX");
    if (!mkdtemp(top))
        return -1;
    snprintf(options.fabric, sizeof(options.fabric), "%s/fabric", top);
    format.path = options.fabric;
    return fabric_local_ops.format(&format);
}

static int teardown_local(void **state)
{
    char command[128];

    (void)state;
    stop(&one);
    stop(&two);
    snprintf(command, sizeof(command), "rm -rf %s", top);
    return system(command);
}

/* ------------------------------------------------------------------ a program */

static struct program program(struct partition *at)
{
    struct program p = {.at = at, .page = hello_at(at)};
    void *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, p.page.fd, 0);

    assert_true(map != MAP_FAILED);
    close(p.page.fd);
    p.entries = (struct clshmd_entry *)((char *)map + sizeof(struct clshmd_page_head));
    return p;
}

/* As the library does after EIO. */
static void reconnect(struct program *p)
{
    struct clshmd_hello req = {.major = CLSHM_LIB_MAJOR, .token = p->page.token};
    struct answer a;

    close(p->page.sock);
    p->page.sock = sock_of(p->at);
    assert_int_equal(call(p->page.sock, CLSHMD_HELLO, &req, sizeof(req), &a), 0);
    close_call_fds();
}

static int32_t get(struct program *p, int32_t key)
{
    static uint64_t token;
    struct clshmd_get req = {.key = key, .flags = IPC_CREAT | 0600, .size = SIZE, .token = ++token};
    struct answer a;

    assert_int_equal(call(p->page.sock, CLSHMD_GET, &req, sizeof(req), &a), 0);
    return ((struct clshmd_get_reply *)a.payload)->shmid;
}

static int attach(struct program *p, int32_t shmid)
{
    struct clshmd_open req = {.shmid = shmid, .access = CLSHMD_READ | CLSHMD_WRITE};
    struct answer a;
    int error;

    p->entries[0] = (struct clshmd_entry){.shmid = shmid, .count = 1, .attaches = 1};
    error = call(p->page.sock, CLSHMD_OPEN, &req, sizeof(req), &a);
    if (error)
        return error;
    assert_int_equal(n_fds_of_call, 1);
    p->memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fds_of_call[0], 0);
    assert_true(p->memory != MAP_FAILED);
    close_call_fds();
    return 0;
}

static uint32_t nattch(struct program *p, int32_t shmid)
{
    struct clshmd_ctl req = {.shmid = shmid, .cmd = CLSHMD_CTL_STAT};
    struct answer a;

    assert_int_equal(call(p->page.sock, CLSHMD_CTL, &req, sizeof(req), &a), 0);
    return ((struct clshmd_stat *)a.payload)->stat.nattch;
}

static void end_program(struct program *p)
{
    munmap((void *)((uintptr_t)p->entries & ~(uintptr_t)4095), 4096);
    close(p->page.sock);
    if (p->memory)
        munmap(p->memory, SIZE);
}

/* ------------------------------------------------------------------ the tests */

static void test_killed_again_and_again(void **state)
{
    struct program p, q;
    struct clshmd_ctl rmid = {.cmd = CLSHMD_CTL_RMID};
    struct answer a;
    int32_t shmid, unattached;

    (void)state;
    start(&one);
    p = program(&one);
    shmid = get(&p, 42);
    unattached = get(&p, 43);
    assert_int_equal(attach(&p, shmid), 0);
    strcpy(p.memory, "it stays");
    for (int i = 0; i < KILLS; i++) {
        kill_daemon(&one);
        reconnect(&p);
        assert_int_equal(get(&p, 42), shmid);
        assert_int_equal(get(&p, 43), unattached);
        assert_int_equal(nattch(&p, shmid), 1);
    }
    q = program(&one);
    assert_int_equal(attach(&q, shmid), 0);
    assert_string_equal(q.memory, "it stays");
    assert_int_equal(nattch(&p, shmid), 2);
    end_program(&q);
    EVENTUALLY(nattch(&p, shmid) == 1);
    rmid.shmid = shmid;
    assert_int_equal(call(p.page.sock, CLSHMD_CTL, &rmid, sizeof(rmid), &a), 0);
    kill_daemon(&one);
    reconnect(&p);
    assert_int_not_equal(get(&p, 42), shmid); /* the key is free, the memory is there */
    assert_string_equal(p.memory, "it stays");
    assert_int_equal(status_of(&one).segments, 3);
    end_program(&p);
    EVENTUALLY(status_of(&one).segments == 2); /* the removed one is gone with its last user */
}

static void test_two_partitions(void **state)
{
    struct program p, q;
    int32_t shmid;

    (void)state;
    start(&one);
    start(&two);
    p = program(&one);
    q = program(&two);
    shmid = get(&p, 7);
    assert_int_equal(attach(&p, shmid), 0);
    EVENTUALLY(reaches(&one, &two) && reaches(&two, &one));
    assert_int_equal(get(&q, 7), shmid);
    assert_int_equal(attach(&q, shmid), 0);
    strcpy(q.memory, "from two");
    assert_string_equal(p.memory, "from two");
    assert_int_equal(nattch(&p, shmid), 2);
    for (int i = 0; i < KILLS / 4; i++) {
        kill_daemon(&two);
        reconnect(&q);
        kill_daemon(&one);
        reconnect(&p);
        assert_int_equal(get(&q, 7), shmid);
        EVENTUALLY(nattch(&p, shmid) == 2);
        assert_int_equal(status_of(&two).imports, 1);
    }
    end_program(&q);
    EVENTUALLY(nattch(&p, shmid) == 1);
    end_program(&p);
}

/* Evicted while it runs: it drops everything, and is a member again by itself. */
static void test_evicted(void **state)
{
    struct clshmd_evict evict = {.flags = CLSHMD_EVICT_FORCE};
    struct clshmd_hello hi = {.major = CLSHM_LIB_MAJOR};
    struct clshmd_status_reply before;
    struct program p;
    struct answer a;
    int32_t shmid;
    int fd;

    (void)state;
    start(&one);
    start(&two);
    p = program(&one);
    shmid = get(&p, 7);
    assert_int_equal(attach(&p, shmid), 0);
    before = status_of(&one);
    evict.part = before.self;
    EVENTUALLY(reaches(&two, &one));
    fd = tool_at(&two);
    assert_int_equal(call(fd, CLSHMD_EVICT, &evict, sizeof(evict), &a), 0);
    close(fd);
    /* Asked of the other one, for the evicted daemon may end in the midst of an answer. Under the same id: */
    EVENTUALLY(status_of(&two).part[before.self].state == CLSHMD_PART_ALIVE &&
               status_of(&two).part[before.self].incarnation > before.part[before.self].incarnation);
    assert_true(status_of(&one).daemon_pid != before.daemon_pid);
    assert_int_equal(status_of(&one).self, before.self);
    assert_true(status_of(&one).part[before.self].incarnation > before.part[before.self].incarnation);

    close(p.page.sock);
    p.page.sock = sock_of(&one);
    hi.token = p.page.token;
    assert_int_equal(call(p.page.sock, CLSHMD_HELLO, &hi, sizeof(hi), &a), ESTALE);
    end_program(&p);
    p = program(&one);
    assert_int_equal(attach(&p, shmid), EIDRM);
    end_program(&p);
}

static void test_shutdown_refused(void **state)
{
    struct clshmd_shutdown shutdown = {0};
    struct clshmd_users users = {0};
    const struct clshmd_users_reply *reply;
    struct program p, q;
    struct answer a;
    int32_t shmid;
    int fd, status;

    (void)state;
    start(&one);
    start(&two);
    p = program(&one);
    q = program(&two);
    shmid = get(&p, 7);
    EVENTUALLY(reaches(&two, &one));
    assert_int_equal(attach(&q, shmid), 0);
    fd = tool_at(&one);
    assert_int_equal(call(fd, CLSHMD_SHUTDOWN, &shutdown, sizeof(shutdown), &a), EBUSY);
    assert_int_equal(call(fd, CLSHMD_USERS, &users, sizeof(users), &a), 0);
    reply = (const struct clshmd_users_reply *)a.payload;
    assert_int_equal(reply->count, 1);
    assert_int_equal(reply->user[0].pid, 0);
    assert_int_equal(reply->user[0].part, status_of(&two).self);
    end_program(&q);
    EVENTUALLY(call(fd, CLSHMD_SHUTDOWN, &shutdown, sizeof(shutdown), &a) == 0);
    assert_true(at_end(fd));
    assert_int_equal(waitpid(one.keeper, &status, 0), one.keeper);
    assert_int_equal(status, 0);
    one.keeper = 0;
    close(fd);
    end_program(&p);
}

/* SIGTERM for the daemon takes the memory away at once; whoever attached it is not killed for that. */
static void test_sigterm_kills_nobody(void **state)
{
    struct program p;
    uint64_t began;
    int status;
    pid_t child;

    (void)state;
    start(&one);
    p = program(&one);
    assert_int_equal(attach(&p, get(&p, 7)), 0);
    strcpy(p.memory, "here");
    began = now_ms();
    stop(&one);
    assert_true(now_ms() - began < 1500);
    child = fork();
    if (child == 0) {
        signal(SIGBUS, SIG_DFL); /* cmocka's is not */
        _exit(p.memory[0] == 'h');
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    end_program(&p);
}

/* A second daemon for a partition that has one: status 1, and the first one is not disturbed. */
static void test_taken(void **state)
{
    struct partition again = {.name = "one"};
    struct clshmd_status_reply before;
    int status;

    (void)state;
    start(&one);
    before = status_of(&one);
    log_set_level((enum log_level)0); /* it complains, and should */
    start(&again);
    assert_int_equal(waitpid(again.keeper, &status, 0), again.keeper);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == KEEPER_EXIT_FAILED);
    log_set_level(LOG_LEVEL_ERROR);
    assert_int_equal(status_of(&one).daemon_pid, before.daemon_pid);
}

#define TEST_LOCAL(name) cmocka_unit_test_setup_teardown(name, setup_local, teardown_local)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST_LOCAL(test_killed_again_and_again), TEST_LOCAL(test_two_partitions), TEST_LOCAL(test_evicted),
        TEST_LOCAL(test_shutdown_refused),       TEST_LOCAL(test_taken),          TEST_LOCAL(test_sigterm_kills_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
