/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Messages between members, memory that travels with them, and keys that both see. */
#include "tests/unit/local_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "src/core/record.h"
#include "src/fabric/local/local.h"

#define OPS fabric_local_ops

static struct member a, b;

static int setup(void **state)
{
    member_init(&a);
    member_init(&b);
    if (harness_setup(state) < 0)
        return -1;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    member_meet(&a, &b);
    return 0;
}

static int teardown(void **state)
{
    member_close(&a);
    member_close(&b);
    member_forget(&a);
    member_forget(&b);
    return harness_teardown(state);
}

struct count {
    struct member *m;
    uint32_t msgs;
};

static bool has_count(void *arg)
{
    const struct count *count = arg;

    return count->m->msgs >= count->msgs;
}

/* Turn both until @m has @n messages. */
static void wait_messages(struct member *m, uint32_t n)
{
    struct member *const both[] = {&a, &b};
    struct count count = {m, n};

    if (!member_until(both, 2, has_count, &count))
        fail_msg("%u messages instead of %u", m->msgs, n);
}

static void ping(struct member *from, struct member *to, uint32_t seq)
{
    const struct fabric_msg msg = {.op = FABRIC_OP_PING, .seq = seq};

    OPS.send(from->f, to->id, &msg);
}

static unsigned open_fds(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void test_there_and_back(void **state)
{
    struct fabric_msg pong = {.op = FABRIC_OP_PONG, .body.pong.hostname = "host"};

    (void)state;
    ping(&a, &b, 7);
    wait_messages(&b, 1);
    assert_int_equal(b.msg[0].from, a.id);
    assert_int_equal(b.msg[0].msg.op, FABRIC_OP_PING);
    assert_int_equal(b.msg[0].msg.seq, 7);
    assert_int_equal(b.msg[0].msg.incarnation, 1);
    assert_int_equal(b.msg[0].msg.epoch, 1);
    assert_false(b.msg[0].has_memory);
    pong.seq = 7;
    OPS.send(b.f, a.id, &pong);
    wait_messages(&a, 1);
    assert_int_equal(a.msg[0].msg.op, FABRIC_OP_PONG);
    /* To nobody, to itself: nothing happens. */
    OPS.send(a.f, 3, &pong);
    OPS.send(a.f, 200, &pong);
    OPS.send(a.f, a.id, &pong);
}

/* More than the ring holds, and than is taken in a turn: all arrive, in order. */
static void test_many(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 400; i++)
        ping(&a, &b, i);
    wait_messages(&b, 400);
    for (uint32_t i = 0; i < 400; i++)
        assert_int_equal(b.msg[i].msg.seq, i);
}

/* What waits is not for a successor. */
static void test_not_for_the_next(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 400; i++)
        ping(&a, &b, i);
    member_close(&b);
    member_forget(&b);
    a.events = 0;
    member_start(&b, "two", -1);
    member_wait(&a, DRIVER_EVENT_CAME, b.id);
    ping(&a, &b, 1000);
    member_wait(&b, DRIVER_EVENT_CAME, a.id);
    wait_messages(&b, 1);
    assert_int_equal(b.msg[0].msg.seq, 1000);
}

/* A daemon that was away finds what was sent meanwhile. */
static void test_restart(void **state)
{
    (void)state;
    member_close(&b);
    ping(&a, &b, 1);
    ping(&a, &b, 2);
    member_start(&b, "two", -1);
    assert_false(b.fresh);
    ping(&a, &b, 3);
    wait_messages(&b, 3);
    assert_int_equal(b.msg[0].msg.seq, 1);
    assert_int_equal(b.msg[2].msg.seq, 3);
}

/* ------------------------------------------------------------------ memory */

static int32_t make(struct member *m, uint32_t slot, uint64_t size, const char *text)
{
    struct driver_create req = {.shmid = member_shmid(m, slot), .size = size};
    struct driver_grant grant = {.shmid = req.shmid, .prot = DRIVER_PROT_READ | DRIVER_PROT_WRITE};
    int error = OPS.create(m->f, &req);

    if (error == CORE_PENDING)
        member_wait_memory(m, DRIVER_EVENT_CREATED, req.shmid);
    else
        assert_int_equal(error, 0);
    assert_int_equal(OPS.grant(m->f, &grant), 0);
    assert_int_equal(pwrite(grant.fd, text, strlen(text) + 1, 0), strlen(text) + 1);
    close(grant.fd);
    return req.shmid;
}

static void send_memory(struct member *from, struct member *to, int32_t shmid)
{
    struct fabric_msg msg = {.op = FABRIC_OP_IMPORTED, .flags = FABRIC_MSG_MEMORY, .shmid = shmid};

    msg.body.stat.size = 4096;
    msg.body.stat.mode = 0600;
    OPS.send(from->f, to->id, &msg);
}

static char *map(struct member *m, int32_t shmid, uint32_t prot)
{
    struct driver_grant grant = {.shmid = shmid, .prot = prot};
    char *p;

    assert_int_equal(OPS.grant(m->f, &grant), 0);
    p = mmap(NULL, 4096, PROT_READ | (prot & DRIVER_PROT_WRITE ? PROT_WRITE : 0), MAP_SHARED, grant.fd, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    if (!(prot & DRIVER_PROT_WRITE))
        assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, grant.fd, 0), MAP_FAILED);
    close(grant.fd);
    return p;
}

static void test_memory(void **state)
{
    int32_t shmid = make(&a, 2, 4096, "from one");
    char *theirs, *ours;

    (void)state;
    send_memory(&a, &b, shmid);
    ping(&a, &b, 1);
    wait_messages(&b, 2);
    assert_int_equal(b.msg[0].msg.op, FABRIC_OP_IMPORTED);
    assert_true(b.msg[0].has_memory);
    assert_false(b.msg[1].has_memory);
    assert_true(OPS.has(b.f, shmid));
    assert_non_null(member_kept(&b, KEEP_IMPORT, (uint64_t)shmid));
    assert_non_null(member_kept(&b, KEEP_IMPORT_RO, (uint64_t)shmid));
    theirs = map(&b, shmid, DRIVER_PROT_READ);
    assert_string_equal(theirs, "from one");
    ours = map(&b, shmid, DRIVER_PROT_READ | DRIVER_PROT_WRITE);
    strcpy(ours, "from two");
    assert_string_equal(theirs, "from two");
    OPS.destroy(b.f, shmid); /* not its own */
    assert_true(OPS.has(b.f, shmid));

    /* It outlives the daemon. */
    member_close(&b);
    member_start(&b, "two", -1);
    assert_true(OPS.has(b.f, shmid));
    munmap(ours, 4096);
    ours = map(&b, shmid, DRIVER_PROT_READ);
    assert_string_equal(ours, "from two");

    OPS.drop(b.f, shmid);
    assert_false(OPS.has(b.f, shmid));
    assert_null(member_kept(&b, KEEP_IMPORT, (uint64_t)shmid));
    assert_null(member_kept(&b, KEEP_IMPORT_RO, (uint64_t)shmid));
    assert_string_equal(ours, "from two");
    munmap(ours, 4096);
    munmap(theirs, 4096);
}

/* More at a time than a door's queue holds; each finds its own message. */
static void test_much_memory(void **state)
{
    unsigned before = open_fds();
    char text[16];
    char *p;

    (void)state;
    for (uint32_t i = 0; i < 20; i++) {
        snprintf(text, sizeof(text), "segment %u", i);
        make(&a, i, 4096, text);
        send_memory(&a, &b, member_shmid(&a, i));
    }
    wait_messages(&b, 20);
    for (uint32_t i = 0; i < 20; i++) {
        assert_true(b.msg[i].has_memory);
        assert_int_equal(b.msg[i].msg.shmid, member_shmid(&a, i));
        snprintf(text, sizeof(text), "segment %u", i);
        p = map(&b, member_shmid(&a, i), DRIVER_PROT_READ);
        assert_string_equal(p, text);
        munmap(p, 4096);
        OPS.drop(b.f, member_shmid(&a, i));
        OPS.destroy(a.f, member_shmid(&a, i));
    }
    assert_true(open_fds() <= before + 2); /* the connections to one another's door */
}

/* An answer that is sent again, and a new segment under an old id. */
static void test_memory_again(void **state)
{
    int32_t shmid = make(&a, 2, 4096, "first");
    char *p;

    (void)state;
    send_memory(&a, &b, shmid);
    send_memory(&a, &b, shmid);
    wait_messages(&b, 2);
    assert_true(b.msg[1].has_memory);
    OPS.destroy(a.f, shmid);
    make(&a, 2, 4096, "second");
    send_memory(&a, &b, shmid);
    wait_messages(&b, 3);
    assert_true(b.msg[2].has_memory);
    p = map(&b, shmid, DRIVER_PROT_READ);
    assert_string_equal(p, "second");
    munmap(p, 4096);
}

/* How a child ends that touches @p. */
static int touch(const volatile char *p)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGBUS, SIG_DFL); /* a sanitizer may have it */
        _exit(*p == 0x7f);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static bool is_gone(void *p)
{
    return touch(p) == SIGBUS;
}

/* @at_once: nobody reaches it once revoke() has returned; large ones may take a moment more on a busy machine. */
static void revoked(uint64_t size, bool at_once)
{
    struct member *const both[] = {&a, &b};
    int32_t shmid = make(&a, 2, size, "soon gone");
    struct stat st;
    char *p, *home;

    send_memory(&a, &b, shmid);
    wait_messages(&b, 1);
    p = map(&b, shmid, DRIVER_PROT_READ);
    home = map(&a, shmid, DRIVER_PROT_READ);
    assert_int_equal(touch(p), 0);
    assert_int_equal(fstat(member_kept(&a, KEEP_MEMORY, (uint64_t)shmid)->fd, &st), 0);
    OPS.revoke(b.f, shmid);
    assert_false(OPS.has(b.f, shmid));
    assert_null(member_kept(&b, KEEP_IMPORT, (uint64_t)shmid));
    assert_true(at_once ? is_gone(p) : member_until(both, 2, is_gone, p));
    assert_true(at_once ? is_gone(home) : member_until(both, 2, is_gone, home));
    munmap(p, 4096);
    munmap(home, 4096);
}

static void test_revoke(void **state)
{
    (void)state;
    revoked(4096, true);
}

static void test_revoke_large(void **state)
{
    (void)state;
    revoked(64u << 20, false);
}

static void test_destroy_reaches_importers(void **state)
{
    int32_t shmid = make(&a, 2, 4096, "soon gone");
    char *p;

    (void)state;
    send_memory(&a, &b, shmid);
    wait_messages(&b, 1);
    p = map(&b, shmid, DRIVER_PROT_READ);
    OPS.destroy(a.f, shmid);
    assert_int_equal(touch(p), SIGBUS);
    munmap(p, 4096);
}

/* ------------------------------------------------------------------ keys */

static void test_keys(void **state)
{
    struct fabric_record *rec = OPS.record(a.f, 3, true);
    struct core_found found;
    int32_t shmid;
    uint32_t gen;

    (void)state;
    assert_non_null(rec);
    gen = record_new(rec);
    rec->incarnation = 1;
    rec->key = 0x4711;
    rec->size = 100;
    rec->mode = 0640;
    record_ready(rec, FABRIC_REC_NEW);
    assert_int_equal(OPS.claim(a.f, 0x4711, 3, 0, &found), 0);
    assert_int_equal(found.state, CORE_FOUND_NONE);
    record_set_state(rec, FABRIC_REC_LIVE);
    OPS.gen_store(a.f, 3, 5);
    shmid = area_shmid(&to_local(a.f)->area, a.id, 3, gen);
    assert_int_equal(OPS.lookup(b.f, 0x4711, 0, &found), 0);
    assert_int_equal(found.state, CORE_FOUND_OTHER);
    assert_int_equal(found.shmid, shmid);
    assert_int_equal(found.home, a.id);
    assert_int_equal(found.stat.mode, 0640);
    assert_int_equal(OPS.lookup(b.f, 0x4712, 0, &found), 0);
    assert_int_equal(found.state, CORE_FOUND_NONE);
    /* Its home dies: the key is free again. */
    member_close(&a);
    member_forget(&a);
    member_wait(&b, DRIVER_EVENT_DEAD, 0);
    assert_int_equal(OPS.lookup(b.f, 0x4711, 0, &found), 0);
    assert_int_equal(found.state, CORE_FOUND_NONE);
}

/* Is @m woken? Messages that come meanwhile stay where they are. */
static bool woken(const struct member *m)
{
    struct pollfd p = {.fd = to_local(m->f)->door_fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void quiet(struct member *m)
{
    while (local_door_drain(to_local(m->f)))
        continue;
    assert_false(woken(m));
}

/* Who is awake is not woken, who sleeps is woken once, who does not say is woken each time. */
static void test_bell(void **state)
{
    (void)state;
    ping(&a, &b, 1); /* b has not said anything so far */
    assert_true(woken(&b));
    quiet(&b);
    ping(&a, &b, 2);
    assert_true(woken(&b));
    quiet(&b);
    assert_true(OPS.receive(b.f, false));
    assert_int_equal(b.msgs, 2);
    ping(&a, &b, 3);
    ping(&a, &b, 4);
    assert_false(woken(&b));
    assert_true(OPS.receive(b.f, true)); /* it must not sleep */
    assert_int_equal(b.msgs, 4);
    assert_false(OPS.receive(b.f, true));
    assert_false(woken(&b));
    for (uint32_t sleeps = 0; sleeps < 3; sleeps++) {
        ping(&a, &b, 5);
        assert_true(woken(&b));
        quiet(&b);
        ping(&a, &b, 6); /* it is on its way already */
        assert_false(woken(&b));
        assert_true(OPS.receive(b.f, true));
        assert_int_equal(b.msgs, 6 + 2 * sleeps);
        assert_false(OPS.receive(b.f, true));
    }
}

/* A daemon that ends asleep, after it was woken: the next one is woken again, even if it never sleeps. */
static void test_bell_after_restart(void **state)
{
    (void)state;
    assert_false(OPS.receive(b.f, true));
    ping(&a, &b, 1);
    for (int i = 0; i < 2; i++) {
        member_close(&b);
        member_start(&b, "two", -1);
        member_meet(&a, &b);
    }
    assert_false(b.fresh);
    quiet(&b);
    ping(&a, &b, 2);
    assert_true(woken(&b));
    quiet(&b);
    (void)OPS.receive(b.f, true);
    assert_false(OPS.receive(b.f, true));
    ping(&a, &b, 3);
    assert_true(woken(&b));
}

#define MESSAGE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MESSAGE_TEST(test_bell),   MESSAGE_TEST(test_bell_after_restart), MESSAGE_TEST(test_there_and_back),
        MESSAGE_TEST(test_many),   MESSAGE_TEST(test_not_for_the_next),   MESSAGE_TEST(test_restart),
        MESSAGE_TEST(test_memory), MESSAGE_TEST(test_much_memory),        MESSAGE_TEST(test_memory_again),
        MESSAGE_TEST(test_revoke), MESSAGE_TEST(test_revoke_large),       MESSAGE_TEST(test_destroy_reaches_importers),
        MESSAGE_TEST(test_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
