/* SPDX-License-Identifier: GPL-2.0-or-later */
/* src/tools/parse.c: what is taken, what is refused and as what, and how numbers are shown. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "src/tools/parse.h"

static void test_numbers(void **state)
{
    static const struct {
        const char *text;
        int r;
        uint64_t value;
    } cases[] = {
        {"0", 0, 0},
        {"10", 0, 10},
        {"010", 0, 10}, /* not octal */
        {"0x1f", 0, 31},
        {"0XFF", 0, 255},
        {"18446744073709551615", 0, UINT64_MAX},
        {"18446744073709551616", ERANGE, 0},
        {"0x10000000000000000", ERANGE, 0},
        {"99999999999999999999999999", ERANGE, 0},
        {"", EINVAL, 0},
        {"0x", EINVAL, 0},
        {"-1", EINVAL, 0},
        {"+1", EINVAL, 0},
        {" 1", EINVAL, 0},
        {"1 ", EINVAL, 0},
        {"1a", EINVAL, 0},
        {"a", EINVAL, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t value = 12345;

        assert_int_equal(parse_number(cases[i].text, 0, UINT64_MAX, &value), cases[i].r);
        assert_int_equal(value, cases[i].r == 0 ? cases[i].value : 12345);
    }
}

static void test_bounds(void **state)
{
    uint64_t value;

    (void)state;
    assert_int_equal(parse_number("9", 10, 20, &value), ERANGE);
    assert_int_equal(parse_number("10", 10, 20, &value), 0);
    assert_int_equal(parse_number("20", 10, 20, &value), 0);
    assert_int_equal(parse_number("21", 10, 20, &value), ERANGE);
}

static void test_sizes(void **state)
{
    static const struct {
        const char *text;
        int r;
        uint64_t value;
    } cases[] = {
        {"0", 0, 0},
        {"1", 0, 1},
        {"4K", 0, 4096},
        {"4k", 0, 4096},
        {"4KiB", 0, 4096},
        {"3M", 0, 3 << 20},
        {"2G", 0, UINT64_C(2) << 30},
        {"1T", 0, UINT64_C(1) << 40},
        {"16777215T", 0, UINT64_C(16777215) << 40},
        {"16777216T", ERANGE, 0},
        {"17179869184G", ERANGE, 0},
        {"18014398509481984K", ERANGE, 0},
        {"18446744073709551615", 0, UINT64_MAX},
        {"K", EINVAL, 0},
        {"1KB", EINVAL, 0},
        {"1Ki", EINVAL, 0},
        {"1KK", EINVAL, 0},
        {"1P", EINVAL, 0},
        {"1.5K", EINVAL, 0},
        {"-1K", EINVAL, 0},
        {"0x10", EINVAL, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t value = 12345;

        assert_int_equal(parse_size(cases[i].text, &value), cases[i].r);
        assert_int_equal(value, cases[i].r == 0 ? cases[i].value : 12345);
    }
}

static void test_keys_and_modes(void **state)
{
    int32_t key = 0;
    uint32_t mode = 0;

    (void)state;
    assert_int_equal(parse_key("0x5ca1ab1e", &key), 0);
    assert_int_equal(key, 0x5ca1ab1e);
    assert_int_equal(parse_key("0xffffffff", &key), 0);
    assert_int_equal(key, -1);
    assert_int_equal(parse_key("4294967296", &key), ERANGE);
    assert_int_equal(parse_mode("640", 0777, &mode), 0);
    assert_int_equal(mode, 0640);
    assert_int_equal(parse_mode("2770", 07777, &mode), 0);
    assert_int_equal(parse_mode("1000", 0777, &mode), ERANGE);
    assert_int_equal(parse_mode("8", 0777, &mode), EINVAL);
    assert_int_equal(parse_mode("", 0777, &mode), EINVAL);
}

static void test_groups(void **state)
{
    int64_t gid = -1;

    (void)state;
    assert_int_equal(parse_group("root", &gid), 0);
    assert_int_equal(gid, 0);
    assert_int_equal(parse_group("1234567", &gid), 0);
    assert_int_equal(gid, 1234567);
    assert_int_equal(parse_group("4294967295", &gid), ERANGE); /* (gid_t)-1 is nobody's */
    assert_int_equal(parse_group("no such group", &gid), EINVAL);
}

static void test_show_sizes(void **state)
{
    char text[TEXT_SIZE_MAX];

    (void)state;
    assert_string_equal(format_size(0, text), "0B");
    assert_string_equal(format_size(1023, text), "1023B");
    assert_string_equal(format_size(1024, text), "1K");
    assert_string_equal(format_size(1536, text), "1.5K");
    assert_string_equal(format_size(1024 * 1024 - 1, text), "1023.9K");
    assert_string_equal(format_size(UINT64_C(3) << 30, text), "3G");
    assert_string_equal(format_size(UINT64_MAX, text), "15.9E");
}

static void test_show_the_rest(void **state)
{
    char text[TEXT_SIZE_MAX + 8];

    (void)state;
    assert_string_equal(format_perms(0640, text), "rw-r-----");
    assert_string_equal(format_perms(03777, text), "rwxrwxrwx"); /* dest and locked are no permissions */
    assert_string_equal(format_span(400, text), "0.4 s");
    assert_string_equal(format_span(12345, text), "12 s");
    assert_string_equal(format_span(600000, text), "10 min");
    assert_string_equal(format_time(0, 1000, text), "");
    setenv("TZ", "UTC", 1);
    tzset();
    assert_string_equal(format_time(1700000000, 1700000060, text), "22:13");
    assert_string_equal(format_time(1700000000, 1700000000 + 86400, text), "Nov14");
    assert_string_equal(format_time(1700000000, 1800000000, text), "2023-Nov14");
    assert_string_equal(format_iso_time(1700000000, text), "2023-11-14T22:13:20+00:00");
    assert_string_equal(format_iso_time(0, text), "");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),        cmocka_unit_test(test_bounds), cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_keys_and_modes), cmocka_unit_test(test_groups), cmocka_unit_test(test_show_sizes),
        cmocka_unit_test(test_show_the_rest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
