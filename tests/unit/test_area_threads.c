/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The key table and the rings under real concurrency: a thread for each partition. Also run under ThreadSanitizer. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "src/fabric/area/area_mem.h"

#define PARTS    4u
#define ROUNDS   400u
#define MESSAGES 20000u

static struct area area;
static pthread_barrier_t barrier;
static struct core_found found[PARTS];
static unsigned faults;

static int setup(void **state)
{
    struct area_geometry geometry = {.kind = FABRIC_LOCAL,
                                     .parts = PARTS,
                                     .slots = 64,
                                     .granule = 4096,
                                     .heartbeat_ms = 200,
                                     .name = "threads",
                                     .key_salt = 1};
    struct fabric_superblock sb;
    uint32_t incarnation;
    void *memory;

    (void)state;
    assert_int_equal(area_layout(&geometry, &sb, NULL), 0);
    memory = mmap(NULL, sb.area_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);
    assert_int_equal(area_init(&area, &sb, memory, NULL, NULL, NULL), 0);
    for (uint32_t i = 0; i < PARTS; i++)
        assert_int_equal(area_life_claim(&area, i, &incarnation), 0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    munmap(area.base, area.size);
    area_deinit(&area);
    return 0;
}

/* A daemon writes the body with plain stores, in a process of its own; here the sanitizer sees both sides. */
static void fill(struct fabric_record *rec, int32_t key)
{
    record_new(rec);
    __atomic_store_n(&rec->key, key, __ATOMIC_RELAXED);
    __atomic_store_n(&rec->incarnation, 1, __ATOMIC_RELAXED);
    record_ready(rec, FABRIC_REC_NEW);
}

static void judge_round(void)
{
    uint32_t winners = 0;

    for (uint32_t i = 0; i < PARTS; i++)
        winners += found[i].state == CORE_FOUND_NONE;
    for (uint32_t i = 0; i < PARTS; i++)
        for (uint32_t j = 0; j < PARTS; j++)
            if (found[i].shmid != found[j].shmid)
                faults++;
    if (winners != 1)
        faults++;
}

static void *race(void *ctx)
{
    uint32_t self = (uint32_t)(uintptr_t)ctx;
    struct fabric_record *rec = area_record(&area, self, 5, true);

    for (uint32_t round = 0; round < ROUNDS; round++) {
        int32_t key = (int32_t)round / 3;
        struct core_found after;

        fill(rec, key);
        pthread_barrier_wait(&barrier);
        area_claim(&area, self, 5, key, &found[self]);
        area_lookup(&area, key, &after);
        if (after.shmid != found[self].shmid)
            __atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED);
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
            judge_round();
        pthread_barrier_wait(&barrier);
        record_set_state(rec, FABRIC_REC_FREE);
        area_unclaim(&area, self, 5);
    }
    return NULL;
}

static void test_race(void **state)
{
    pthread_t threads[PARTS];

    (void)state;
    pthread_barrier_init(&barrier, NULL, PARTS);
    for (uint32_t i = 0; i < PARTS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, race, (void *)(uintptr_t)i), 0);
    for (uint32_t i = 0; i < PARTS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
    assert_int_equal(faults, 0);
    for (int32_t key = 0; key < (int32_t)ROUNDS / 3 + 1; key++) {
        struct core_found after;

        area_lookup(&area, key, &after);
        assert_int_equal(after.state, CORE_FOUND_NONE);
    }
}

static void *sender(void *ctx)
{
    struct fabric_msg msg = {.op = FABRIC_OP_PING};

    (void)ctx;
    for (; msg.seq < MESSAGES; msg.seq++) {
        int error;

        memset(msg.body.bytes, (int)(msg.seq & 0xff), sizeof(msg.body.bytes));
        while ((error = area_ring_send(&area, 1, 3, &msg)) == EAGAIN)
            sched_yield();
        if (error)
            __atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void test_ring(void **state)
{
    struct fabric_msg msg, expected = {.op = FABRIC_OP_PING};
    pthread_t thread;
    int error;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, sender, NULL), 0);
    for (; expected.seq < MESSAGES; expected.seq++) {
        memset(expected.body.bytes, (int)(expected.seq & 0xff), sizeof(expected.body.bytes));
        while ((error = area_ring_receive(&area, 3, 1, &msg)) == EAGAIN)
            sched_yield();
        if (error || memcmp(&msg, &expected, sizeof(msg)) != 0)
            faults++;
        area_ring_advance(&area, 3, 1);
    }
    pthread_join(thread, NULL);
    assert_int_equal(faults, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_race, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ring, setup, teardown),
    };

    return cmocka_run_group_tests_name("area_threads", tests, NULL, NULL);
}
