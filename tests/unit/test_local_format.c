/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Making a local fabric, and refusing to open what is none. */
#include "tests/unit/local_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void file_path(char out[160], const char *name)
{
    snprintf(out, 160, "%s/%s", harness_path, name);
}

static uint64_t allocated(const char *name)
{
    char path[160];
    struct stat st;

    file_path(path, name);
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static int try_open(void)
{
    struct member m;
    int error;

    member_init(&m);
    error = member_open(&m, "one", -1);
    if (error)
        assert_null(m.f);
    member_close(&m);
    return error;
}

static void change_superblock(void (*change)(struct fabric_superblock *sb))
{
    struct fabric_superblock sb;
    char path[160];
    int fd;

    file_path(path, "control");
    fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &sb, sizeof(sb), 0), sizeof(sb));
    change(&sb);
    assert_int_equal(pwrite(fd, &sb, sizeof(sb), 0), sizeof(sb));
    close(fd);
}

static void test_makes_what_opens(void **state)
{
    struct stat st;

    (void)state;
    harness_format(4);
    assert_int_equal(stat(harness_path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(try_open(), 0);
}

static void test_sparse(void **state)
{
    const struct fabric_format format = {.path = harness_path, .parts = 64, .slots = 32768, .group = -1};
    struct member m;

    (void)state;
    assert_int_equal(fabric_local_ops.format(&format), 0);
    assert_true(allocated("control") <= 600 << 10);
    assert_int_equal(allocated("gens"), 0);
    member_init(&m);
    member_start(&m, "one", -1);
    /* One partition more costs its rings and its generations. */
    assert_true(allocated("control") <= 1200 << 10);
    assert_true(allocated("gens") <= 256 << 10);
    member_leave(&m);
}

static void test_exists(void **state)
{
    const struct fabric_format format = {.path = harness_path, .group = -1};
    char aside[160];

    (void)state;
    harness_format(4);
    assert_int_equal(fabric_local_ops.format(&format), EEXIST);
    assert_int_equal(try_open(), 0);
    /* Nothing is left beside it: without it the directory is empty. */
    snprintf(aside, sizeof(aside), "%s-aside", harness_dir);
    assert_int_equal(rename(harness_path, aside), 0);
    assert_int_equal(rmdir(harness_dir), 0);
    assert_int_equal(rename(aside, harness_dir), 0);
}

static void test_group_and_mode(void **state)
{
    const struct fabric_format format = {.path = harness_path, .group = getegid(), .mode = 02770};
    char path[160];
    struct stat st;
    struct member m;

    (void)state;
    assert_int_equal(fabric_local_ops.format(&format), 0);
    assert_int_equal(stat(harness_path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 02770);
    file_path(path, "control");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);
    member_init(&m);
    member_start(&m, "one", 3);
    file_path(path, "door.03");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    file_path(path, "life.03");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    member_leave(&m);
}

static void test_bad_arguments(void **state)
{
    static const struct fabric_format bad[] = {
        {.path = harness_path, .parts = 65, .group = -1},
        {.path = harness_path, .slots = 100, .group = -1},
        {.path = harness_path, .granule = 5000, .group = -1},
        {.path = harness_path, .granule = 2048, .group = -1},
        {.path = harness_path, .heartbeat_ms = 100000, .group = -1},
        {.path = harness_path, .mode = 04700, .group = -1},
        {.path = harness_path, .name = "a name with \n in it", .group = -1},
        {.path = "relative", .group = -1},
        {.path = "", .group = -1},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int error = fabric_local_ops.format(&bad[i]);

        if (error != EINVAL)
            fail_msg("format %u: %d", i, error);
    }
    assert_int_equal(access(harness_path, F_OK), -1);
}

static void test_missing_parent(void **state)
{
    char path[128];
    const struct fabric_format format = {.path = path, .group = -1};

    (void)state;
    snprintf(path, sizeof(path), "%s/none/fabric", harness_dir);
    assert_int_equal(fabric_local_ops.format(&format), ENOENT);
}

static void test_open_parent(void **state)
{
    const struct fabric_format format = {.path = harness_path, .group = -1};

    (void)state;
    assert_int_equal(chmod(harness_dir, 0777), 0);
    assert_int_equal(fabric_local_ops.format(&format), EACCES);
    assert_int_equal(chmod(harness_dir, 01777), 0);
    assert_int_equal(fabric_local_ops.format(&format), 0);
}

static void test_no_fabric(void **state)
{
    char path[160];

    (void)state;
    assert_int_equal(try_open(), ENOENT);
    assert_int_equal(mkdir(harness_path, 0700), 0);
    assert_int_equal(try_open(), EINVAL);
    file_path(path, "control");
    close(open(path, O_CREAT | O_RDWR, 0600));
    file_path(path, "gens");
    close(open(path, O_CREAT | O_RDWR, 0600));
    assert_int_equal(try_open(), EINVAL);
}

static void truncated(const char *name)
{
    char path[160];
    struct stat st;

    harness_format(4);
    file_path(path, name);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - 4096), 0);
    assert_int_equal(try_open(), EINVAL);
    assert_int_equal(truncate(path, st.st_size + 4096), 0);
    assert_int_equal(try_open(), EINVAL);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(try_open(), EINVAL);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(try_open(), EINVAL);
    unlink(path);
    assert_int_equal(try_open(), EINVAL);
}

static void test_truncated_control(void **state)
{
    (void)state;
    truncated("control");
}

static void test_truncated_gens(void **state)
{
    (void)state;
    truncated("gens");
}

static void other_major(struct fabric_superblock *sb)
{
    sb->major++;
    sb->checksum = fabric_superblock_checksum(sb);
}

static void other_magic(struct fabric_superblock *sb)
{
    sb->magic ^= 1;
    sb->checksum = fabric_superblock_checksum(sb);
}

static void other_kind(struct fabric_superblock *sb)
{
    sb->kind = FABRIC_DEVICE;
    sb->checksum = fabric_superblock_checksum(sb);
}

static void one_bit(struct fabric_superblock *sb)
{
    sb->key_salt ^= 1;
}

static void test_foreign(void **state)
{
    (void)state;
    harness_format(4);
    change_superblock(one_bit);
    assert_int_equal(try_open(), EINVAL);
    change_superblock(one_bit);
    assert_int_equal(try_open(), 0);
    change_superblock(other_kind);
    assert_int_equal(try_open(), EINVAL);
    change_superblock(other_major);
    assert_int_equal(try_open(), EPROTO);
    change_superblock(other_magic);
    assert_int_equal(try_open(), EINVAL);
}

static void test_links(void **state)
{
    char path[160], aside[160];

    (void)state;
    harness_format(4);
    file_path(path, "control");
    snprintf(aside, sizeof(aside), "%s/aside", harness_dir);
    assert_int_equal(rename(path, aside), 0);
    assert_int_equal(symlink(aside, path), 0);
    assert_int_equal(try_open(), EINVAL);
}

static void test_names(void **state)
{
    static const char *const bad[] = {"", "a b", "a/b", "\n", "0123456789012345678901234567890123456789"};
    struct member m;

    (void)state;
    harness_format(4);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        member_init(&m);
        assert_int_equal(member_open(&m, bad[i], -1), EINVAL);
    }
    member_init(&m);
    assert_int_equal(member_open(&m, "one", 4), 0);
    assert_int_equal(member_join(&m), EINVAL);
    member_close(&m);
}

#define FABRIC_TEST(f) cmocka_unit_test_setup_teardown(f, harness_setup, harness_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FABRIC_TEST(test_makes_what_opens),
        FABRIC_TEST(test_sparse),
        FABRIC_TEST(test_exists),
        FABRIC_TEST(test_group_and_mode),
        FABRIC_TEST(test_bad_arguments),
        FABRIC_TEST(test_missing_parent),
        FABRIC_TEST(test_open_parent),
        FABRIC_TEST(test_no_fabric),
        FABRIC_TEST(test_truncated_control),
        FABRIC_TEST(test_truncated_gens),
        FABRIC_TEST(test_foreign),
        FABRIC_TEST(test_links),
        FABRIC_TEST(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
