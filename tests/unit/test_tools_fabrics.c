/* SPDX-License-Identifier: GPL-2.0-or-later */
/* src/tools/fabrics.c: which directories are fabrics, when they may be removed, and what is never removed. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/tools/fabrics.h"
#include "src/util/cleanup.h"

static char root[] = "/tmp/clshm-test-XXXXXX";

static const char *at(const char *name)
{
    static char path[4][256];
    static unsigned next;
    char *out = path[next++ % 4];

    snprintf(out, sizeof(path[0]), "%s/%s", root, name);
    return out;
}

static void touch(const char *name)
{
    int fd = open(at(name), O_WRONLY | O_CREAT | O_EXCL, 0600);

    assert_true(fd >= 0);
    close(fd);
}

static void make(const char *name)
{
    char path[64];

    assert_int_equal(mkdir(at(name), 0700), 0);
    snprintf(path, sizeof(path), "%s/control", name);
    touch(path);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(fabrics_name("/dev/shm/clshm/demo"), "demo");
    assert_string_equal(fabrics_name("a-b_c.9"), "a-b_c.9");
    assert_null(fabrics_name("/dev/shm/clshm/"));
    assert_null(fabrics_name("/dev/shm/.."));
    assert_null(fabrics_name(".hidden"));
    assert_null(fabrics_name("a b"));
    assert_null(fabrics_name(""));
    assert_non_null(fabrics_name("1234567890123456789012345678901")); /* 31 and its NUL */
    assert_null(fabrics_name("12345678901234567890123456789012"));
}

static void test_remove(void **state)
{
    unsigned part = 99;

    (void)state;
    assert_int_equal(fabrics_look(at("one"), &part), FABRICS_NONE);
    make("one");
    touch("one/gens");
    touch("one/life.00");
    touch("one/door.63");
    assert_int_equal(fabrics_look(at("one"), &part), FABRICS_UNUSED);
    assert_int_equal(fabrics_remove(at("one"), &part), FABRICS_NONE);
    assert_int_equal(access(at("one"), F_OK), -1);
    assert_int_equal(fabrics_remove(at("one"), &part), FABRICS_NONE);
}

static void test_used(void **state)
{
    unsigned part = 99;
    int fd;

    (void)state;
    make("two");
    touch("two/life.00");
    touch("two/life.07");
    fd = open(at("two/life.07"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(flock(fd, LOCK_SH), 0);
    assert_int_equal(fabrics_look(at("two"), &part), FABRICS_USED);
    assert_int_equal(part, 7);
    assert_int_equal(fabrics_remove(at("two"), &part), FABRICS_USED);
    assert_int_equal(access(at("two/control"), F_OK), 0);
    close(fd);
    assert_int_equal(fabrics_remove(at("two"), &part), FABRICS_NONE);
}

/* Nothing that is not a fabric's is removed, nor anything beside it. */
static void test_foreign(void **state)
{
    static const char *const names[] = {"three/notes", "three/life.64", "three/life.0", "three/life.0a",
                                        "three/control2"};
    unsigned part;

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        make("three");
        touch(names[i]);
        assert_int_equal(fabrics_remove(at("three"), &part), FABRICS_FOREIGN);
        assert_int_equal(access(at("three/control"), F_OK), 0);
        assert_int_equal(unlink(at(names[i])), 0);
        assert_int_equal(fabrics_remove(at("three"), &part), FABRICS_NONE);
    }
    assert_int_equal(mkdir(at("empty"), 0700), 0);
    assert_int_equal(fabrics_remove(at("empty"), &part), FABRICS_FOREIGN);
    assert_int_equal(symlink(at("empty"), at("link")), 0);
    assert_int_equal(fabrics_look(at("link"), &part), FABRICS_FOREIGN);
    touch("file");
    assert_int_equal(fabrics_look(at("file"), &part), FABRICS_FOREIGN);
    unlink(at("link"));
    unlink(at("file"));
    rmdir(at("empty"));
}

/* Where clshmd.conf(5) says that the fabric is; the rest of the file is not this function's business. */
static void test_configured(void **state)
{
    FILE *f = fopen(at("conf"), "w");
    char *path;

    (void)state;
    assert_non_null(f);
    fputs("[limits]\npath = wrong\nnonsense\n[fabric]\nuids = same\npath = demo\n", f);
    fclose(f);
    path = fabrics_configured(at("conf"));
    assert_string_equal(path, "demo");
    free(path);
    unlink(at("conf"));
    assert_null(fabrics_configured(at("conf")));
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(root) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(root); /* which says that nothing was left */
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),   cmocka_unit_test(test_remove),     cmocka_unit_test(test_used),
        cmocka_unit_test(test_foreign), cmocka_unit_test(test_configured),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
