/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The in-process driver: creation in the loop and by workers, grants, locks, placement, the end; and its event ring. */
#include "tests/unit/local_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <numaif.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/fabric/local/local.h"

#define OPS   fabric_local_ops
#define SMALL 10000u
#define LARGE (40u << 20)

static struct member a;

static int setup(void **state)
{
    member_init(&a);
    if (harness_setup(state) < 0)
        return -1;
    harness_format(4);
    member_start(&a, "one", -1);
    return 0;
}

static int teardown(void **state)
{
    member_close(&a);
    member_forget(&a);
    return harness_teardown(state);
}

static int create(uint32_t slot, uint64_t size, uint32_t flags)
{
    const struct driver_create req = {.shmid = member_shmid(&a, slot), .size = size, .flags = flags};

    return OPS.create(a.f, &req);
}

static int grant(uint32_t slot, uint32_t prot)
{
    struct driver_grant req = {.shmid = member_shmid(&a, slot), .prot = prot};

    assert_int_equal(OPS.grant(a.f, &req), 0);
    return req.fd;
}

static uint64_t blocks(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static unsigned open_fds(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void test_small(void **state)
{
    int32_t shmid = member_shmid(&a, 3);
    struct stat st;
    char *p;
    int rw, ro;

    (void)state;
    assert_int_equal(create(3, SMALL, 0), 0);
    assert_int_equal(create(3, SMALL, 0), EEXIST);
    assert_true(OPS.has(a.f, shmid));
    assert_false(OPS.has(a.f, shmid + 1));
    assert_non_null(member_kept(&a, KEEP_MEMORY, (uint64_t)shmid));
    rw = grant(3, DRIVER_PROT_READ | DRIVER_PROT_WRITE);
    ro = grant(3, DRIVER_PROT_READ);
    assert_int_equal(fstat(rw, &st), 0);
    assert_int_equal(st.st_size, 12288);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(blocks(rw), 12288); /* it is there already */
    assert_int_equal(fcntl(rw, F_GET_SEALS), F_SEAL_GROW | F_SEAL_SEAL);
    assert_int_equal(ftruncate(rw, 16384), -1);
    assert_int_equal(fcntl(rw, F_ADD_SEALS, F_SEAL_SHRINK), -1);
    assert_true(fcntl(rw, F_GETFD) & FD_CLOEXEC);
    p = mmap(NULL, 12288, PROT_READ | PROT_WRITE, MAP_SHARED, rw, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    for (int i = 0; i < 12288; i++)
        assert_int_equal(p[i], 0);
    munmap(p, 12288);
    assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0), MAP_FAILED);
    p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, ro, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    munmap(p, 4096);
    OPS.destroy(a.f, shmid);
    assert_false(OPS.has(a.f, shmid));
    assert_null(member_kept(&a, KEEP_MEMORY, (uint64_t)shmid));
    assert_int_equal(blocks(rw), 0);
    member_wait_memory(&a, DRIVER_EVENT_DESTROYED, shmid);
    close(rw);
    close(ro);
}

static void test_large(void **state)
{
    int32_t shmid = member_shmid(&a, 1);
    struct driver_grant req = {.shmid = shmid, .prot = DRIVER_PROT_READ};
    int fd;

    (void)state;
    assert_int_equal(create(1, LARGE, 0), CORE_PENDING);
    assert_false(OPS.has(a.f, shmid));
    assert_int_equal(OPS.grant(a.f, &req), EINVAL);
    assert_int_equal(create(1, LARGE, 0), EEXIST);
    assert_null(member_kept(&a, KEEP_MEMORY, (uint64_t)shmid));
    member_wait_memory(&a, DRIVER_EVENT_CREATED, shmid);
    assert_int_equal(a.event[a.events - 1].status, 0);
    assert_true(OPS.has(a.f, shmid));
    assert_non_null(member_kept(&a, KEEP_MEMORY, (uint64_t)shmid));
    fd = grant(1, DRIVER_PROT_READ);
    assert_int_equal(blocks(fd), LARGE);
    OPS.destroy(a.f, shmid);
    member_wait_memory(&a, DRIVER_EVENT_DESTROYED, shmid);
    assert_int_equal(blocks(fd), 0);
    close(fd);
}

/* A small one does not wait for a large one to be ready, though the workers have but one queue. */
static void test_fair(void **state)
{
    uint32_t first;

    (void)state;
    for (uint32_t slot = 0; slot < LOCAL_WORKERS; slot++)
        assert_int_equal(create(slot, 256u << 20, 0), CORE_PENDING);
    assert_int_equal(create(9, 2u << 20, 0), CORE_PENDING);
    member_wait_memory(&a, DRIVER_EVENT_CREATED, member_shmid(&a, 9));
    for (first = 0; a.event[first].type != DRIVER_EVENT_CREATED; first++)
        ;
    assert_int_equal(a.event[first].shmid, member_shmid(&a, 9));
    for (uint32_t slot = 0; slot < LOCAL_WORKERS; slot++)
        OPS.destroy(a.f, member_shmid(&a, slot));
}

static bool no_jobs(void *arg)
{
    return local_workers_jobs(&to_local(arg)->driver.workers) == 0;
}

static bool fds_are(void *arg)
{
    return open_fds() == *(unsigned *)arg;
}

static void test_destroyed_while_made(void **state)
{
    struct member *const only = &a;
    int32_t shmid = member_shmid(&a, 1);
    unsigned before = open_fds();

    (void)state;
    assert_int_equal(create(1, 128u << 20, 0), CORE_PENDING);
    OPS.destroy(a.f, shmid);
    /* Its id may be used at once: the first one's end is not taken for the second's. */
    assert_int_equal(create(1, LARGE, 0), CORE_PENDING);
    member_wait_memory(&a, DRIVER_EVENT_CREATED, shmid);
    assert_true(OPS.has(a.f, shmid));
    OPS.destroy(a.f, shmid);
    assert_true(member_until(&only, 1, no_jobs, a.f));
    member_wait_memory(&a, DRIVER_EVENT_DESTROYED, shmid);
    for (uint32_t i = 0, n = 0; i < a.events; i++) {
        n += a.event[i].type == DRIVER_EVENT_CREATED;
        assert_true(n <= 1);
    }
    assert_int_equal(local_workers_reserving(&to_local(a.f)->driver.workers), 0);
    assert_true(member_until(&only, 1, fds_are, &before)); /* the worker that was cancelled closes its own */
}

/* The end of a reservation that the loop has not heard of yet is not the end of the next one under the same id. */
static void test_destroyed_before_told(void **state)
{
    struct local_ring *ring = &to_local(a.f)->driver.ring;
    struct pollfd ended = {.fd = ring->event_fd, .events = POLLIN};
    int32_t shmid = member_shmid(&a, 1);

    (void)state;
    OPS.dispatch(a.f);
    assert_int_equal(create(1, 2u << 20, 0), CORE_PENDING);
    assert_int_equal(poll(&ended, 1, HARNESS_LIMIT_MS), 1);
    assert_int_equal(local_ring_pending(ring), 1);
    OPS.destroy(a.f, shmid);
    assert_int_equal(create(1, 512u << 20, 0), CORE_PENDING);
    OPS.dispatch(a.f);
    assert_false(member_told_of(&a, DRIVER_EVENT_CREATED, shmid));
    assert_false(OPS.has(a.f, shmid));
    OPS.destroy(a.f, shmid);
}

static void test_too_large(void **state)
{
    (void)state;
    assert_int_equal(create(1, 1ULL << 50, 0), ENOMEM);
    assert_int_equal(create(1, UINT64_MAX, 0), ENOMEM);
    assert_int_equal(create(1, UINT64_MAX - 4096, DRIVER_CREATE_NORESERVE), ENOMEM);
    assert_int_equal(create(1, 1ULL << 50, DRIVER_CREATE_NORESERVE), 0);
    assert_int_equal(create(2, SMALL, 0), 0);
    OPS.destroy(a.f, member_shmid(&a, 1));
    /* What others were promised is not promised again. */
    assert_int_equal(create(3, local_room() / 10 * 7, 0), CORE_PENDING);
    assert_int_equal(create(4, local_room() / 10 * 7, 0), ENOMEM);
    OPS.destroy(a.f, member_shmid(&a, 3));
}

static void test_bad_requests(void **state)
{
    struct driver_grant bad_grant = {.shmid = member_shmid(&a, 1), .prot = 8};
    struct driver_create req = {.shmid = -1, .size = 1};

    (void)state;
    assert_int_equal(OPS.create(a.f, &req), EINVAL);
    assert_int_equal(create(1, 0, 0), EINVAL);
    assert_int_equal(create(1, 1, 4), EINVAL);
    assert_int_equal(create(1, 1, 21u << DRIVER_CREATE_HUGE_SHIFT), EINVAL);
    assert_int_equal(create(1, 1, DRIVER_CREATE_HUGE | 3u << DRIVER_CREATE_HUGE_SHIFT), EINVAL);
    assert_int_equal(OPS.grant(a.f, &bad_grant), EINVAL);
    assert_int_equal(create(1, 1, 0), 0);
    assert_int_equal(OPS.grant(a.f, &bad_grant), EINVAL);
    bad_grant.prot = DRIVER_PROT_WRITE;
    assert_int_equal(OPS.grant(a.f, &bad_grant), EINVAL);
    assert_int_equal(bad_grant.fd, -1);
    OPS.drop(a.f, member_shmid(&a, 1)); /* not an import */
    OPS.revoke(a.f, member_shmid(&a, 1));
    assert_true(OPS.has(a.f, member_shmid(&a, 1)));
    OPS.destroy(a.f, member_shmid(&a, 2)); /* not there */
}

static void test_huge(void **state)
{
    int error;

    (void)state;
    error = create(1, 1, DRIVER_CREATE_HUGE);
    if (error == 0) { /* this machine has some */
        int fd = grant(1, DRIVER_PROT_READ);
        struct stat st;

        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, 2 << 20);
        close(fd);
    } else {
        assert_int_equal(error, ENOMEM);
        assert_false(OPS.has(a.f, member_shmid(&a, 1)));
    }
}

static void test_placement(void **state)
{
    struct driver_create req = {.size = SMALL, .policy = MPOL_BIND, .nodes = 1};
    char *p;
    int fd;

    (void)state;
    req.shmid = member_shmid(&a, 1);
    assert_int_equal(OPS.create(a.f, &req), 0);
    fd = grant(1, DRIVER_PROT_READ | DRIVER_PROT_WRITE);
    p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    assert_int_equal(OPS.node(a.f, req.shmid), -1); /* no page was touched */
    p[0] = 1;
    assert_int_equal(OPS.node(a.f, req.shmid), 0);
    munmap(p, 4096);
    close(fd);
    req.shmid = member_shmid(&a, 2);
    req.nodes = 1ULL << 63;
    assert_int_equal(OPS.create(a.f, &req), EINVAL);
    assert_int_equal(OPS.node(a.f, req.shmid), -1);
}

static uint64_t locked_kb(void)
{
    char line[256];
    unsigned long long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "VmLck: %llu", &kb) == 1)
            break;
    if (f)
        fclose(f);
    return kb;
}

static bool locked_is(void *arg)
{
    return locked_kb() == *(uint64_t *)arg;
}

static void test_lock(void **state)
{
    struct member *const only = &a;
    uint64_t before = locked_kb();
    struct rlimit limit;

    (void)state;
    assert_int_equal(create(1, SMALL, 0), 0);
    assert_int_equal(create(2, LARGE, 0), CORE_PENDING);
    assert_int_equal(OPS.lock(a.f, member_shmid(&a, 2), true), EINVAL); /* not there yet */
    member_wait_memory(&a, DRIVER_EVENT_CREATED, member_shmid(&a, 2));
    assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
    if (geteuid() != 0 && limit.rlim_cur < 2 * LARGE) {
        assert_int_equal(OPS.lock(a.f, member_shmid(&a, 2), true), limit.rlim_cur ? ENOMEM : EPERM);
        assert_int_equal(locked_kb(), before);
        skip(); /* the rest needs more than RLIMIT_MEMLOCK */
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(OPS.lock(a.f, member_shmid(&a, 1), true), 0);
        assert_int_equal(OPS.lock(a.f, member_shmid(&a, 2), true), 0);
    }
    assert_int_equal(locked_kb(), before + 12 + LARGE / 1024);
    assert_int_equal(OPS.lock(a.f, member_shmid(&a, 2), false), 0);
    assert_int_equal(OPS.lock(a.f, member_shmid(&a, 2), false), 0);
    assert_int_equal(OPS.lock(a.f, member_shmid(&a, 2), true), 0);
    OPS.destroy(a.f, member_shmid(&a, 1));
    OPS.destroy(a.f, member_shmid(&a, 2));
    assert_true(member_until(&only, 1, locked_is, &before)); /* a worker unmaps what it was still bringing in */
    assert_int_equal(OPS.lock(a.f, member_shmid(&a, 1), true), EINVAL);
}

static void test_restart(void **state)
{
    int32_t shmid = member_shmid(&a, 5);
    char *p;
    int fd;

    (void)state;
    assert_int_equal(create(5, SMALL, 0), 0);
    assert_int_equal(create(6, LARGE, 0), CORE_PENDING); /* still being made: not kept */
    fd = grant(5, DRIVER_PROT_READ | DRIVER_PROT_WRITE);
    p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    strcpy(p, "it is still here");
    member_close(&a);
    member_start(&a, "one", -1);
    assert_false(a.fresh);
    assert_true(OPS.has(a.f, shmid));
    assert_false(OPS.has(a.f, member_shmid(&a, 6)));
    assert_string_equal(p, "it is still here");
    OPS.destroy(a.f, shmid);
    assert_int_equal(blocks(fd), 0);
    munmap(p, 4096);
    close(fd);
}

static void test_no_descriptors(void **state)
{
    struct driver_grant req = {.shmid = member_shmid(&a, 1), .prot = DRIVER_PROT_READ};
    struct rlimit before, none;
    unsigned fds;

    (void)state;
    assert_int_equal(create(1, SMALL, 0), 0);
    fds = open_fds();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(create(2, SMALL, 0), ENOSPC);
    assert_int_equal(create(2, LARGE, 0), ENOSPC);
    assert_int_equal(OPS.grant(a.f, &req), EMFILE);
    assert_int_equal(OPS.life_fd(a.f), -1);
    OPS.dispatch(a.f);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(open_fds(), fds);
    assert_false(OPS.has(a.f, member_shmid(&a, 2)));
    assert_int_equal(create(2, SMALL, 0), 0);
}

/* A large one that is on its way out when the daemon ends is gone all the same, for whoever has it mapped. */
static void test_closed_while_freed(void **state)
{
    int fd;

    (void)state;
    assert_int_equal(create(1, 1ULL << 40, DRIVER_CREATE_NORESERVE), 0);
    fd = grant(1, DRIVER_PROT_READ);
    OPS.destroy(a.f, member_shmid(&a, 1));
    member_close(&a);
    assert_int_equal(lseek(fd, 0, SEEK_END), 0);
    close(fd);
}

/* ------------------------------------------------------------------ the event ring */

static void test_ring(void **state)
{
    struct local_ring ring = {0};
    struct driver_event event = {.type = DRIVER_EVENT_CREATED};
    int32_t next = 0;
    uint32_t slots;

    (void)state;
    assert_int_equal(local_ring_init(&ring, DRIVER_RING_PAGES_MAX + 1), EINVAL);
    assert_int_equal(local_ring_init(&ring, 1), 0);
    slots = DRIVER_RING_SLOTS(1);
    assert_false(local_ring_pop(&ring, &event));
    for (uint32_t i = 0; i < slots; i++) {
        event.shmid = (int32_t)i;
        assert_true(local_ring_push(&ring, &event, false));
    }
    assert_false(local_ring_push(&ring, &event, false));
    for (int i = 0; i < 50; i++, next++) {
        assert_true(local_ring_pop(&ring, &event));
        assert_int_equal(event.shmid, next);
        event.shmid = (int32_t)slots + i;
        assert_true(local_ring_push(&ring, &event, true));
    }
    assert_int_equal(local_ring_resize(&ring, 0), EINVAL);
    assert_int_equal(local_ring_resize(&ring, DRIVER_RING_PAGES_MAX + 1), EINVAL);
    assert_int_equal(local_ring_resize(&ring, 3), 0);
    event.shmid = (int32_t)slots + 50;
    assert_true(local_ring_push(&ring, &event, false));
    assert_int_equal(local_ring_resize(&ring, 1), EBUSY);
    for (; local_ring_pop(&ring, &event); next++)
        assert_int_equal(event.shmid, next);
    assert_int_equal(next, slots + 51);
    assert_int_equal(local_ring_resize(&ring, 1), 0);
    local_ring_deinit(&ring);
}

#define PUSHED 5000

static void *pusher(void *arg)
{
    struct driver_event event = {.type = DRIVER_EVENT_DESTROYED};

    for (event.shmid = 0; event.shmid < PUSHED; event.shmid++)
        local_ring_push(arg, &event, true);
    return NULL;
}

/* A full ring makes the pushers wait; nothing is lost, whatever its size does meanwhile. */
static void test_ring_waits(void **state)
{
    struct local_ring ring = {0};
    pthread_t thread[2];
    struct driver_event event;
    int64_t sum = 0;
    uint32_t n = 0;

    (void)state;
    assert_int_equal(local_ring_init(&ring, 1), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, pusher, &ring), 0);
    while (n < 2 * PUSHED) {
        if (!local_ring_pop(&ring, &event)) {
            sched_yield();
            continue;
        }
        sum += event.shmid;
        if (++n % 1000 == 0)
            (void)local_ring_resize(&ring, n % 2000 ? 2 : 1);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(sum, (int64_t)PUSHED * (PUSHED - 1));
    assert_false(local_ring_pop(&ring, &event));
    local_ring_deinit(&ring);
}

static void test_dump(void **state)
{
    char *text;

    (void)state;
    assert_int_equal(create(1, SMALL, 0), 0);
    assert_int_equal(OPS.resize_ring(a.f, 8), 0);
    text = OPS.dump(a.f);
    assert_non_null(strstr(text, "partition 0 'one'"));
    assert_non_null(strstr(text, "own, 12288 bytes"));
    free(text);
}

#define MEMORY_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        MEMORY_TEST(test_small),
        MEMORY_TEST(test_large),
        MEMORY_TEST(test_fair),
        MEMORY_TEST(test_destroyed_while_made),
        MEMORY_TEST(test_destroyed_before_told),
        MEMORY_TEST(test_too_large),
        MEMORY_TEST(test_bad_requests),
        MEMORY_TEST(test_huge),
        MEMORY_TEST(test_placement),
        MEMORY_TEST(test_lock),
        MEMORY_TEST(test_restart),
        MEMORY_TEST(test_no_descriptors),
        MEMORY_TEST(test_closed_while_freed),
        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_ring_waits),
        MEMORY_TEST(test_dump),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
