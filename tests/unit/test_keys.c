/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Known keys answer what the daemon would answer, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>
#include <sys/ipc.h>

#include "src/lib/keys.h"

static struct keys keys;

static void put(int32_t key, uint32_t flags, struct clshmd_get_reply reply)
{
    struct clshmd_get request = {.key = key, .flags = flags, .size = 1};
    keys_put(&keys, &request, &reply);
}

static int reset(void **state)
{
    (void)state;
    keys_drop_all(&keys);
    return 0;
}

#define REPLY(id) ((struct clshmd_get_reply){.shmid = (id), .size = 100, .word = 8, .incarnation = 3})

static void test_only_what_was_asked(void **state)
{
    (void)state;
    put(1, 0400, REPLY(7));
    assert_int_equal(keys_find(&keys, 1, 100, 0400)->shmid, 7);
    assert_int_equal(keys_find(&keys, 1, 0, 0)->word, 8);
    assert_int_equal(keys_find(&keys, 1, 0, IPC_CREAT | 0040)->incarnation, 3); /* the same bits of another class */
    assert_null(keys_find(&keys, 1, 101, 0));                                   /* EINVAL, the daemon says */
    assert_null(keys_find(&keys, 1, 0, 0600));                                  /* never asked for w */
    assert_null(keys_find(&keys, 1, 0, IPC_CREAT | IPC_EXCL));
    assert_non_null(keys_find(&keys, 1, 0, IPC_EXCL)); /* alone it is ignored */
    assert_null(keys_find(&keys, 2, 0, 0));
    assert_null(keys_find(&keys, IPC_PRIVATE, 0, 0));
}

static void test_rights_add_up_while_it_is_the_same(void **state)
{
    struct clshmd_get_reply changed = REPLY(7);
    (void)state;
    put(1, 0400, REPLY(7));
    put(1, 0200, REPLY(7));
    assert_non_null(keys_find(&keys, 1, 0, 0600));
    changed.word = 9; /* IPC_SET: rights may be others */
    put(1, 0400, changed);
    assert_non_null(keys_find(&keys, 1, 0, 0400));
    assert_null(keys_find(&keys, 1, 0, 0600));
}

static void test_ftok_keys_are_exact(void **state)
{
    struct clshmd_get_reply reply = REPLY(7);
    (void)state;
    reply.flags = FABRIC_SEG_FTOK;
    put(1, 0, reply);
    assert_non_null(keys_find(&keys, 1, 100, 0));
    assert_null(keys_find(&keys, 1, 99, 0));
}

static void test_what_is_not_kept(void **state)
{
    struct clshmd_get_reply marked = REPLY(7), unknown = REPLY(7);
    (void)state;
    marked.word |= FABRIC_GEN_MARKED;
    unknown.incarnation = 0;
    put(1, 0, marked);
    put(2, 0, unknown);
    put(IPC_PRIVATE, 0, REPLY(7));
    assert_null(keys_find(&keys, 1, 0, 0));
    assert_null(keys_find(&keys, 2, 0, 0));
    assert_null(keys_find(&keys, IPC_PRIVATE, 0, 0));
}

/* A hot set of 64 keys stays known however many others come by once: at most its own set's four ways are replaced. */
static void test_many(void **state)
{
    int known = 0;
    (void)state;
    for (int32_t key = 1; key <= 64; key++)
        put(key, 0, REPLY(key));
    for (int32_t key = 1; key <= 64; key++) {
        const struct known_key *k = keys_find(&keys, key, 0, 0);
        known += k && k->shmid == key;
    }
    assert_int_equal(known, 64);
    for (int32_t key = 1000; key < 1000000; key++)
        put(key, 0, REPLY(key));
    assert_null(keys_find(&keys, 1, 0, 0));
    assert_int_equal(keys_find(&keys, 999999, 0, 0)->shmid, 999999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_only_what_was_asked, reset),
        cmocka_unit_test_setup(test_rights_add_up_while_it_is_the_same, reset),
        cmocka_unit_test_setup(test_ftok_keys_are_exact, reset),
        cmocka_unit_test_setup(test_what_is_not_kept, reset),
        cmocka_unit_test_setup(test_many, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
