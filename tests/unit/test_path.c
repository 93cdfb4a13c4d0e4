/* SPDX-License-Identifier: GPL-2.0-or-later */
/* src/lib/path.c: what beats what, and what is refused. */
#include <errno.h>
#include <glob.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/lib/path.h"

static char run_dir[64];

static int setup(void **state)
{
    (void)state;
    unsetenv("CLSHM_FABRIC");
    unsetenv("CLSHM_PARTITION");
    unsetenv("CLSHM_SOCKET");
    strcpy(run_dir, "/tmp/clshm-test-XXXXXX");
    if (!mkdtemp(run_dir))
        return -1;
    return setenv("XDG_RUNTIME_DIR", run_dir, 1);
}

static void run_path(char *out, size_t size, const char *part, const char *leaf)
{
    snprintf(out, size, "%s/clshm%s%s%s%s", run_dir, *part ? "/" : "", part, *leaf ? "/" : "", leaf);
}

static void add_socket(const char *part)
{
    char path[160];
    run_path(path, sizeof(path), "", "");
    mkdir(path, 0700);
    run_path(path, sizeof(path), part, "");
    assert_int_equal(mkdir(path, 0700), 0);
    run_path(path, sizeof(path), part, "sock");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
}

static void remove_part(const char *part)
{
    char path[160];
    run_path(path, sizeof(path), part, "sock");
    unlink(path);
    run_path(path, sizeof(path), part, "");
    rmdir(path);
}

static int teardown(void **state)
{
    (void)state;
    const char *parts[] = {"alpha", "beta", "gamma"};
    char path[160];
    for (size_t i = 0; i < 3; i++)
        remove_part(parts[i]);
    run_path(path, sizeof(path), "", "");
    rmdir(path);
    return rmdir(run_dir);
}

static void test_names(void **state)
{
    (void)state;
    assert_true(path_name_valid("a"));
    assert_true(path_name_valid("web-1_x.Y"));
    assert_true(path_name_valid("1234567890123456789012345678901"));
    assert_false(path_name_valid("12345678901234567890123456789012"));
    assert_false(path_name_valid(""));
    assert_false(path_name_valid("."));
    assert_false(path_name_valid(".."));
    assert_false(path_name_valid(".x"));
    assert_false(path_name_valid("a/b"));
    assert_false(path_name_valid("a b"));
    assert_false(path_name_valid("\xc3\xa4"));
}

static void test_fabric(void **state)
{
    (void)state;
    char out[PATH_FABRIC_MAX], want[PATH_FABRIC_MAX], base[64], option[PATH_FABRIC_MAX + 8];
    if (geteuid() == 0)
        strcpy(base, "/dev/shm/clshm");
    else
        snprintf(base, sizeof(base), "/dev/shm/clshm-%u", geteuid());
    snprintf(want, sizeof(want), "%s/default", base);
    assert_int_equal(path_fabric(NULL, out), 0);
    assert_string_equal(out, want);
    setenv("CLSHM_FABRIC", "blue", 1);
    snprintf(want, sizeof(want), "%s/blue", base);
    assert_int_equal(path_fabric(NULL, out), 0);
    assert_string_equal(out, want);
    snprintf(want, sizeof(want), "%s/red", base);
    assert_int_equal(path_fabric("red", out), 0);
    assert_string_equal(out, want);
    assert_int_equal(path_fabric("/some/where", out), 0);
    assert_string_equal(out, "/some/where");
    assert_int_equal(path_fabric("..", out), EINVAL);
    assert_int_equal(path_fabric("", out), EINVAL);
    memset(option, 'x', sizeof(option) - 1);
    option[0] = '/';
    option[sizeof(option) - 1] = '\0';
    assert_int_equal(path_fabric(option, out), ENAMETOOLONG);
}

static void test_partition(void **state)
{
    (void)state;
    char out[PATH_NAME_MAX];
    glob_t sockets;
    if (glob("/run/clshm/*/sock", 0, NULL, &sockets) == 0) {
        globfree(&sockets);
        skip(); /* partitions of the machine's own */
    }
    assert_int_equal(path_partition(NULL, out), 0);
    assert_string_equal(out, "default");
    add_socket("alpha");
    assert_int_equal(path_partition(NULL, out), 0);
    assert_string_equal(out, "alpha");
    add_socket("beta");
    assert_int_equal(path_partition(NULL, out), 0);
    assert_string_equal(out, "default");
    setenv("CLSHM_PARTITION", "gamma", 1);
    assert_int_equal(path_partition(NULL, out), 0);
    assert_string_equal(out, "gamma");
    assert_int_equal(path_partition("beta", out), 0);
    assert_string_equal(out, "beta");
    assert_int_equal(path_partition("a/b", out), EINVAL);
    setenv("CLSHM_PARTITION", "a/b", 1);
    assert_int_equal(path_partition(NULL, out), EINVAL);
}

static void test_socket(void **state)
{
    (void)state;
    char out[PATH_SOCKET_MAX], want[160];
    add_socket("alpha");
    run_path(want, sizeof(want), "alpha", "sock");
    assert_int_equal(path_socket(NULL, "alpha", out), 0);
    assert_string_equal(out, want);
    setenv("CLSHM_PARTITION", "alpha", 1);
    assert_int_equal(path_socket(NULL, NULL, out), 0);
    assert_string_equal(out, want);
    /* beta has none: where its daemon would bind */
    assert_int_equal(path_socket(NULL, "beta", out), 0);
    run_path(want, sizeof(want), "beta", "sock");
    assert_string_equal(out, geteuid() == 0 ? "/run/clshm/beta/sock" : want);
    assert_int_equal(path_socket_bind(NULL, "beta", out), 0);
    assert_string_equal(out, geteuid() == 0 ? "/run/clshm/beta/sock" : want);
    setenv("CLSHM_SOCKET", "/x/sock", 1);
    assert_int_equal(path_socket(NULL, "alpha", out), 0);
    assert_string_equal(out, "/x/sock");
    assert_int_equal(path_socket("/y/sock", "alpha", out), 0);
    assert_string_equal(out, "/y/sock");
    assert_int_equal(path_socket_bind("/y/sock", NULL, out), 0);
    assert_string_equal(out, "/y/sock");
}

static void test_long_socket(void **state)
{
    (void)state;
    char out[PATH_SOCKET_MAX], name[120];
    memset(name, 'x', sizeof(name));
    name[0] = '/';
    name[107] = '\0';
    assert_int_equal(path_socket(name, NULL, out), 0);
    name[107] = 'x';
    name[108] = '\0';
    assert_int_equal(path_socket(name, NULL, out), ENAMETOOLONG);
    setenv("CLSHM_SOCKET", name, 1);
    assert_int_equal(path_socket_bind(NULL, NULL, out), ENAMETOOLONG);
    assert_non_null(strstr(path_strerror(ENAMETOOLONG), "107"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fabric, setup, teardown),
        cmocka_unit_test_setup_teardown(test_partition, setup, teardown),
        cmocka_unit_test_setup_teardown(test_socket, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_socket, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
