/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Joining, beating, stalling, dying, leaving, coming back, being evicted. */
#include "tests/unit/local_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OPS fabric_local_ops

static struct member a, b, c;

static int setup(void **state)
{
    member_init(&a);
    member_init(&b);
    member_init(&c);
    return harness_setup(state);
}

static int teardown(void **state)
{
    struct member *const all[] = {&a, &b, &c};

    for (int i = 0; i < 3; i++) {
        member_close(all[i]);
        member_forget(all[i]);
    }
    return harness_teardown(state);
}

static uint32_t state_of(struct member *m, uint32_t part)
{
    struct clshmd_part out;

    assert_true(OPS.part(m->f, part, &out));
    return out.state;
}

/* What clients of @m read of @part. */
static uint32_t home_word(struct member *m, uint32_t part)
{
    const struct fabric_superblock *sb = OPS.superblock(m->f);
    uint32_t word;

    assert_int_equal(pread(OPS.gens_fd(m->f), &word, sizeof(word), (off_t)(m->id * sb->gens_block + 4 * part)),
                     sizeof(word));
    return word;
}

static void test_two_meet(void **state)
{
    struct clshmd_part part;
    char host[80], ours[80] = "";

    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    assert_true(a.fresh && b.fresh);
    assert_int_equal(a.id, 0);
    assert_int_equal(b.id, 1);
    member_meet(&a, &b);
    assert_true(OPS.part(a.f, 1, &part));
    assert_string_equal(part.name, "two");
    assert_int_equal(part.state, CLSHMD_PART_ALIVE);
    assert_int_equal(part.incarnation, 1);
    assert_int_equal(part.epoch, 1);
    assert_int_equal(part.uid, geteuid());
    assert_false(OPS.part(a.f, 2, &part));
    assert_false(OPS.part(a.f, 77, &part));
    gethostname(ours, sizeof(ours) - 1);
    assert_true(OPS.hostname(a.f, 1, host));
    assert_string_equal(host, ours);
    assert_true(OPS.same_users(a.f, 1));
    assert_int_equal(OPS.incarnation(a.f, 1), 1);
    assert_int_equal(OPS.incarnation(a.f, 2), 0);
    assert_int_equal(home_word(&a, 0), 1);
    assert_int_equal(home_word(&a, 1), 1);
    assert_int_equal(home_word(&a, 2), 0);
}

static void test_not_before_ready(void **state)
{
    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    assert_int_equal(member_open(&b, "two", -1), 0);
    assert_int_equal(member_join(&b), 0);
    member_wait(&b, DRIVER_EVENT_CAME, a.id);
    OPS.dispatch(a.f);
    assert_false(member_told(&a, DRIVER_EVENT_CAME, b.id));
    OPS.ready(b.f);
    member_wait(&a, DRIVER_EVENT_CAME, b.id);
}

static void test_taken(void **state)
{
    (void)state;
    harness_format(2);
    member_start(&a, "one", 1);
    assert_int_equal(a.id, 1);
    assert_int_equal(member_open(&b, "one", -1), 0);
    assert_int_equal(member_join(&b), EADDRINUSE);
    member_close(&b);
    assert_int_equal(member_open(&b, "two", 1), 0);
    assert_int_equal(member_join(&b), EADDRINUSE);
    member_close(&b);
    member_start(&b, "two", -1);
    assert_int_equal(b.id, 0);
    assert_int_equal(member_open(&c, "three", -1), 0);
    assert_int_equal(member_join(&c), ENOSPC);
    /* Nothing of the attempts is kept. */
    for (unsigned i = 0; i < HARNESS_KEPT; i++)
        assert_int_equal(c.kept[i].fd, -1);
}

static void test_squash(void **state)
{
    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    b.squash = true;
    member_start(&b, "two", -1);
    assert_false(OPS.same_users(a.f, b.id));
    assert_false(OPS.same_users(b.f, a.id));
    assert_true(OPS.same_users(b.f, b.id));
}

static void test_leave(void **state)
{
    char path[160];

    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    member_meet(&a, &b);
    member_leave(&b);
    member_wait(&a, DRIVER_EVENT_LEFT, 1);
    assert_false(member_told(&a, DRIVER_EVENT_DEAD, 1));
    assert_int_equal(state_of(&a, 1), CLSHMD_PART_ABSENT);
    assert_int_equal(home_word(&a, 1), 0);
    snprintf(path, sizeof(path), "%s/life.01", harness_path);
    assert_int_equal(access(path, F_OK), -1);
    snprintf(path, sizeof(path), "%s/door.01", harness_path);
    assert_int_equal(access(path, F_OK), -1);
    /* A name finds its id again, under a new incarnation. */
    member_start(&c, "three", -1);
    assert_int_equal(c.id, 2);
    member_start(&b, "two", -1);
    assert_int_equal(b.id, 1);
    assert_int_equal(OPS.incarnation(b.f, 1), 2);
    member_meet(&a, &b);
}

static void test_dies(void **state)
{
    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    member_meet(&a, &b);
    member_close(&b);
    member_forget(&b);
    member_wait(&a, DRIVER_EVENT_DEAD, 1);
    assert_int_equal(state_of(&a, 1), CLSHMD_PART_DEAD);
    assert_int_equal(OPS.incarnation(a.f, 1), 0);
    assert_int_equal(home_word(&a, 1), 0);
    member_start(&b, "two", -1);
    assert_int_equal(b.id, 1);
    a.events = 0;
    member_wait(&a, DRIVER_EVENT_CAME, 1);
    assert_int_equal(OPS.incarnation(a.f, 1), 2);
}

/* Its successor comes before anybody noticed: first DEAD, then CAME. */
static void test_replaced(void **state)
{
    uint32_t i;

    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    member_meet(&a, &b);
    member_close(&b);
    member_forget(&b);
    a.events = 0;
    member_start(&b, "two", -1);
    assert_int_equal(b.id, 1);
    member_wait(&a, DRIVER_EVENT_CAME, 1);
    for (i = 0; a.event[i].part != 1 || a.event[i].type == DRIVER_EVENT_STALLED; i++)
        ;
    assert_int_equal(a.event[i].type, DRIVER_EVENT_DEAD);
    assert_int_equal(a.event[i].incarnation, 1);
    assert_int_equal(a.event[i + 1].type, DRIVER_EVENT_CAME);
    assert_int_equal(a.event[i + 1].incarnation, 2);
}

/* ------------------------------------------------------------------ members in processes of their own */

/* @return its pid; it runs until it is killed. While we have no threads yet: ThreadSanitizer wants it so. */
static pid_t fork_member(const char *name, int part)
{
    pid_t parent = getpid();
    pid_t pid = fork();
    struct member m;

    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    member_init(&m);
    if (member_open(&m, name, part) == 0 && member_join(&m) == 0) {
        OPS.ready(m.f);
        for (;;)
            pause();
    }
    _exit(1);
}

static bool missed_ten(void *arg)
{
    struct clshmd_part part;

    (void)arg;
    return OPS.part(a.f, 1, &part) && part.missed >= 10;
}

static void test_process(void **state)
{
    struct member *const only_a = &a;
    pid_t pid;

    (void)state;
    harness_format(4);
    pid = fork_member("two", 1);
    member_start(&a, "one", 0);
    member_wait(&a, DRIVER_EVENT_CAME, 1);

    kill(pid, SIGSTOP);
    member_wait(&a, DRIVER_EVENT_STALLED, 1);
    assert_int_equal(state_of(&a, 1), CLSHMD_PART_STALLED);
    assert_int_equal(home_word(&a, 1), 1);
    /* However long it is silent: it is not gone while it holds its life file. */
    assert_true(member_until(&only_a, 1, missed_ten, NULL));
    assert_false(member_told(&a, DRIVER_EVENT_DEAD, 1));

    kill(pid, SIGCONT);
    member_wait(&a, DRIVER_EVENT_RESUMED, 1);
    assert_int_equal(state_of(&a, 1), CLSHMD_PART_ALIVE);

    kill(pid, SIGKILL);
    member_wait(&a, DRIVER_EVENT_DEAD, 1);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(OPS.incarnation(a.f, 1), 0);
}

/* ------------------------------------------------------------------ restarts */

static void test_restart(void **state)
{
    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    member_start(&c, "three", -1);
    member_meet(&a, &b);
    member_meet(&b, &c);
    member_close(&b);
    member_leave(&c);
    a.events = 0;
    member_start(&b, "two", -1);
    assert_false(b.fresh);
    assert_int_equal(b.id, 1);
    assert_int_equal(OPS.incarnation(b.f, 1), 1);
    assert_int_equal(OPS.epoch(b.f), 2);
    /* It is told of everybody anew, and of who went while it was away. */
    member_wait(&b, DRIVER_EVENT_CAME, 0);
    member_wait(&b, DRIVER_EVENT_LEFT, 2);
    assert_false(member_told(&a, DRIVER_EVENT_DEAD, 1));
    assert_false(member_told(&a, DRIVER_EVENT_LEFT, 1));
}

static void test_kept_alive(void **state)
{
    struct member *const only_a = &a;

    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    member_meet(&a, &b);
    member_close(&b); /* its keeper lives */
    member_wait(&a, DRIVER_EVENT_STALLED, 1);
    assert_true(member_until(&only_a, 1, missed_ten, NULL));
    assert_false(member_told(&a, DRIVER_EVENT_DEAD, 1));
    member_forget(&b);
    member_wait(&a, DRIVER_EVENT_DEAD, 1);
}

/* A client that holds the life file keeps its partition from being declared dead, and its id from being used. */
static void test_client_holds(void **state)
{
    struct member *const only_a = &a;
    void *page;
    int fd;

    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    member_meet(&a, &b);
    fd = OPS.life_fd(b.f);
    assert_true(fd >= 0);
    page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(page, MAP_FAILED);
    close(fd);
    member_close(&b);
    member_forget(&b);
    assert_true(member_until(&only_a, 1, missed_ten, NULL));
    assert_false(member_told(&a, DRIVER_EVENT_DEAD, 1));
    assert_int_equal(member_open(&b, "two", -1), 0);
    assert_int_equal(member_join(&b), EADDRINUSE);
    member_close(&b);
    munmap(page, 4096);
    member_wait(&a, DRIVER_EVENT_DEAD, 1);
    member_start(&b, "two", -1);
}

/* ------------------------------------------------------------------ eviction */

static void test_evict(void **state)
{
    const struct driver_create create = {.size = 4096};
    struct driver_create req = create;
    int32_t shmid;

    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    member_meet(&a, &b);
    req.shmid = shmid = member_shmid(&b, 0);
    assert_int_equal(OPS.create(b.f, &req), 0);
    assert_int_equal(OPS.evict(a.f, 0, 0), EINVAL);
    assert_int_equal(OPS.evict(a.f, 2, CLSHMD_EVICT_FORCE), EINVAL);
    assert_int_equal(OPS.evict(a.f, 99, CLSHMD_EVICT_FORCE), EINVAL);
    assert_int_equal(OPS.evict(a.f, 1, 8), EINVAL);
    assert_int_equal(OPS.evict(a.f, 1, 0), EBUSY);
    assert_int_equal(OPS.evict(a.f, 1, CLSHMD_EVICT_FORCE), 0);
    member_wait(&a, DRIVER_EVENT_DEAD, 1);
    member_wait(&b, DRIVER_EVENT_EVICTED, 1);
    assert_int_equal(OPS.evict(a.f, 1, CLSHMD_EVICT_FORCE), EINVAL);
    assert_int_equal(OPS.evict(b.f, 0, CLSHMD_EVICT_FORCE), EINVAL); /* the dead declare nobody */

    /* Nobody else may have its id while it still runs. */
    assert_int_equal(member_open(&c, "three", 1), 0);
    assert_int_equal(member_join(&c), EADDRINUSE);
    member_close(&c);

    member_close(&b);
    a.events = 0;
    member_start(&b, "two", -1);
    assert_true(b.fresh);
    assert_int_equal(b.id, 1);
    assert_int_equal(OPS.incarnation(b.f, 1), 2);
    assert_int_equal(OPS.epoch(b.f), 1);
    assert_false(OPS.has(b.f, shmid));
    assert_null(member_kept(&b, KEEP_MEMORY, (uint64_t)shmid));
    member_wait(&a, DRIVER_EVENT_CAME, 1);
}

/* The same with a client that still holds the old life file. */
static void test_evict_with_client(void **state)
{
    int fd;

    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    member_meet(&a, &b);
    fd = OPS.life_fd(b.f);
    assert_int_equal(OPS.evict(a.f, 1, CLSHMD_EVICT_FORCE), 0);
    member_close(&b);
    member_start(&b, "two", -1);
    assert_true(b.fresh);
    assert_int_equal(b.id, 1);
    close(fd);
}

/* One that left in good order after it was declared dead does not change that. */
static void test_evicted_leaves(void **state)
{
    (void)state;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    member_meet(&a, &b);
    assert_int_equal(OPS.evict(a.f, 1, CLSHMD_EVICT_FORCE), 0);
    member_leave(&b);
    assert_int_equal(state_of(&a, 1), CLSHMD_PART_DEAD);
    member_start(&b, "two", -1);
    assert_int_equal(b.id, 1);
}

/* ------------------------------------------------------------------ a full tmpfs */

static int fill(const char *dir)
{
    char path[160], block[65536];
    size_t size = sizeof(block);
    int fd;

    memset(block, 1, sizeof(block));
    snprintf(path, sizeof(path), "%s/filler", dir);
    fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0)
        return -1;
    while (size) {
        if (write(fd, block, size) <= 0)
            size /= 2;
    }
    close(fd);
    return 0;
}

/* In a process and a mount namespace of its own. @return what exit status says: 0, or the step that failed */
static int full_tmpfs(void)
{
    struct fabric_record peer;
    struct core_found found;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("clshm-test", harness_dir, "tmpfs", 0, "size=2m,mode=700") < 0)
        return 77;
    harness_format(8);
    member_start(&a, "one", -1);
    if (fill(harness_dir) < 0)
        return 1;
    /* Who is in lives on; what needs room is told so. */
    if (member_open(&b, "two", -1) != 0 || member_join(&b) != ENOSPC)
        return 2;
    member_close(&b);
    errno = 0;
    if (OPS.record(a.f, 0, true) || errno != ENOSPC)
        return 3;
    if (OPS.lookup(a.f, 0x1234, 0, &found) != 0)
        return 4;
    if (found.state != CORE_FOUND_FAILED && found.state != CORE_FOUND_NONE)
        return 5;
    if (OPS.peer_record(a.f, 5, 17, &peer))
        return 6;
    OPS.gen_store(a.f, 255, 7);
    if (OPS.gen_load(a.f, 255) != 7)
        return 7;
    OPS.dispatch(a.f);
    member_leave(&a);
    return umount2(harness_dir, MNT_DETACH) < 0 ? 8 : 0;
}

static void test_full_tmpfs(void **state)
{
    pid_t pid;
    int status;

    (void)state;
    if (geteuid() != 0)
        skip(); /* needs a mount */
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(full_tmpfs());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(status, 0);
}

#define MEMBER_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MEMBER_TEST(test_two_meet),
        MEMBER_TEST(test_not_before_ready),
        MEMBER_TEST(test_taken),
        MEMBER_TEST(test_squash),
        MEMBER_TEST(test_leave),
        MEMBER_TEST(test_dies),
        MEMBER_TEST(test_replaced),
        MEMBER_TEST(test_process),
        MEMBER_TEST(test_restart),
        MEMBER_TEST(test_kept_alive),
        MEMBER_TEST(test_client_holds),
        MEMBER_TEST(test_evict),
        MEMBER_TEST(test_evict_with_client),
        MEMBER_TEST(test_evicted_leaves),
        MEMBER_TEST(test_full_tmpfs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
