/* SPDX-License-Identifier: GPL-2.0-or-later */
/* clshmd's configuration file: what each setting does, and each mistake with its line and what was expected. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "src/daemon/config.h"
#include "src/util/log.h"

struct reported {
    int n;
    char line[16][1024];
};

static void report(void *ctx, const char *line)
{
    struct reported *r = ctx;

    if (r->n < 16)
        snprintf(r->line[r->n], sizeof(r->line[0]), "%s", line);
    r->n++;
}

static int read_bytes(struct config *config, struct reported *r, const char *text, size_t size)
{
    FILE *file = fmemopen((void *)text, size, "r");
    int mistakes;

    assert_non_null(file);
    memset(r, 0, sizeof(*r));
    config_init(config);
    mistakes = config_read(config, file, "f.conf", report, r);
    fclose(file);
    assert_int_equal(mistakes, r->n);
    return mistakes;
}

static int read_text(struct config *config, struct reported *r, const char *text)
{
    return read_bytes(config, r, text, strlen(text));
}

static void test_all_settings(void **state)
{
    static const char text[] = "# a comment\n"
                               "; another\n"
                               "[fabric]\n"
                               "path = /srv/fabric\n"
                               "uids=squash\n"
                               "id = 63\n"
                               "[limits]\r\n"
                               "maxpgs = 1000\r\n"
                               "   max-segments = 11\n"
                               "\tmax-size = 2G\n"
                               "max-segments-uid = 12 ; inline\n"
                               "max-bytes-uid = 3M\n"
                               "max-keys-uid = 13\n"
                               "max-attachments-uid = 14\n"
                               "max-clients-uid = 15\n"
                               "\n"
                               "[driver]\n"
                               "maxdpgs = 1024\n"
                               "timeout = 10\n"
                               "huge = always\n"
                               "huge-min = 64M\n"
                               "[log]\n"
                               "level = debug"; /* no newline at the end */
    struct config c;
    struct reported r;

    (void)state;
    if (read_text(&c, &r, text))
        fail_msg("%s", r.line[0]);
    assert_string_equal(c.path, "/srv/fabric");
    assert_true(c.squash);
    assert_int_equal(c.part, 63);
    assert_true(c.maxpgs_given);
    assert_int_equal(c.limits.max_pages, 1000);
    assert_int_equal(c.limits.max_segments, 11);
    assert_int_equal(c.limits.max_size, 2ull << 30);
    assert_int_equal(c.limits.max_segments_uid, 12);
    assert_int_equal(c.limits.max_bytes_uid, 3u << 20);
    assert_int_equal(c.limits.max_keys_uid, 13);
    assert_int_equal(c.limits.max_grants_uid, 14);
    assert_int_equal(c.limits.max_clients_uid, 15);
    assert_int_equal(c.maxdpgs, 1024);
    assert_int_equal(c.timeout_ms, 10);
    assert_int_equal(c.huge, FABRIC_HUGE_ALWAYS);
    assert_int_equal(c.huge_min, 64u << 20);
    assert_int_equal(c.log_level, LOG_LEVEL_DEBUG);
}

static void test_defaults(void **state)
{
    struct config c;
    struct reported r;

    (void)state;
    assert_int_equal(read_text(&c, &r, "# nothing\n"), 0);
    assert_int_equal(c.part, -1);
    assert_false(c.squash);
    assert_false(c.maxpgs_given);
    assert_string_equal(c.path, "");
    assert_int_equal(c.limits.max_size, 0);
    assert_int_equal(c.maxdpgs, DRIVER_RING_PAGES_DEFAULT);
    assert_int_equal(c.huge, FABRIC_HUGE_AUTO);
    assert_int_equal(c.huge_min, 2u << 20);
    assert_true(config_default_maxpgs(4096) > 0);
}

static void test_mistakes(void **state)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"[fabric]\nuids = some\n", "f.conf:2: uids = some: expected same or squash"},
        {"[fabric]\npath = a/b\n", "f.conf:2: path = a/b: expected a fabric's name, or a directory beginning with /"},
        {"[fabric]\npath =\n", "f.conf:2: path = : expected a fabric's name, or a directory beginning with /"},
        {"[driver]\nhuge = yes\n", "f.conf:2: huge = yes: expected auto, never or always"},
        {"[fabric]\nid = 64\n", "f.conf:2: id = 64: expected a partition's number, 0 to 63"},
        {"[fabric]\nid = -1\n", "f.conf:2: id = -1: expected a partition's number, 0 to 63"},
        {"\n\n[limits]\n\n# x\nmaxpgs = 5k\n", "f.conf:6: maxpgs = 5k: expected a number; 0: no limit"},
        {"[limits]\nmaxpgs = 99999999999999999999\n",
         "f.conf:2: maxpgs = 99999999999999999999: expected a number; 0: no limit"},
        {"[limits]\nmax-size = 5x\n",
         "f.conf:2: max-size = 5x: expected a size (a number, with K, M, G or T); 0: no limit"},
        {"[limits]\nmax-size = 99999999T\n",
         "f.conf:2: max-size = 99999999T: expected a size (a number, with K, M, G or T); 0: no limit"},
        {"[limits]\nmaxpgs = 1\n  max-size = 1KB\n",
         "f.conf:3: max-size = 1KB: expected a size (a number, with K, M, G or T); 0: no limit"},
        {"[driver]\nmaxdpgs = 0\n", "f.conf:2: maxdpgs = 0: expected a number of pages, 1 to 1024"},
        {"[driver]\ntimeout = 9\n", "f.conf:2: timeout = 9: expected milliseconds, 10 to 60000; 0: never"},
        {"[driver]\ntimeout = 60001\n", "f.conf:2: timeout = 60001: expected milliseconds, 10 to 60000; 0: never"},
        {"[log]\nlevel = loud\n", "f.conf:2: level = loud: expected error, warning, info or debug"},
        {"[log]\nlevl = info\n", "f.conf:2: unknown key levl in [log]: expected one that clshmd.conf(5) names"},
        {"[logs]\nlevel = info\n", "f.conf:2: unknown section [logs]: expected [fabric], [limits], [driver] or [log]"},
        {"level = info\n",
         "f.conf:1: level stands before any section: expected [fabric], [limits], [driver] or [log] first"},
        {"[log\nlevel = info\n", "f.conf:1: [log: expected ] after the section's name"},
        {"[log]\nlevel\n", "f.conf:2: level: expected key = value"},
        {"[log]\nlevel = info\nlevel = info\n", "f.conf:3: level is given a second time: expected once"},
    };
    struct config c;
    struct reported r;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (read_text(&c, &r, cases[i].text) < 1)
            fail_msg("no mistake found in: %s", cases[i].text);
        assert_string_equal(r.line[0], cases[i].says);
    }
}

/* libinih would cut the line and take what is left. */
static void test_long_line(void **state)
{
    char text[600] = "[limits]\nmaxpgs = 1";
    struct config c;
    struct reported r;

    (void)state;
    memset(text + strlen(text), '0', 300);
    strcat(text, "\n[log]\nlevel = loud\n");
    assert_int_equal(read_text(&c, &r, text), 2);
    assert_string_equal(r.line[0], "f.conf:2: a line of 310 characters: expected at most 198");
    assert_string_equal(r.line[1], "f.conf:4: level = loud: expected error, warning, info or debug");

    /* A comment may be as long as it likes. */
    memset(text, '#', 500);
    strcpy(text + 500, "\n[log]\nlevel = debug\n");
    assert_int_equal(read_text(&c, &r, text), 0);
    assert_int_equal(c.log_level, LOG_LEVEL_DEBUG);
}

static void test_longest_line(void **state)
{
    char text[400] = "[fabric]\npath = /";
    struct config c;
    struct reported r;
    size_t at = strlen(text);

    (void)state;
    memset(text + at, 'x', 198 - 8); /* "path = /" has 8 */
    strcat(text, "\n");
    assert_int_equal(read_text(&c, &r, text), 0);
    assert_int_equal(strlen(c.path), 198 - 7);
}

static void test_nul(void **state)
{
    static const char text[] = "[log]\nlevel = info\0x\n";
    struct config c;
    struct reported r;

    (void)state;
    assert_int_equal(read_bytes(&c, &r, text, sizeof(text) - 1), 1);
    assert_string_equal(r.line[0], "f.conf:2: a NUL byte: expected text");
}

static void test_every_mistake_is_reported(void **state)
{
    struct config c;
    struct reported r;

    (void)state;
    assert_int_equal(read_text(&c, &r, "[log]\nlevel = x\n[driver]\nmaxdpgs = y\nfoo\n"), 3);
    assert_non_null(strstr(r.line[0], ":2: "));
    assert_non_null(strstr(r.line[1], ":4: "));
    assert_non_null(strstr(r.line[2], ":5: "));
}

static void test_load(void **state)
{
    struct config c;

    (void)state;
    config_init(&c);
    assert_int_equal(config_load(&c, "/nonexistent/clshmd.conf"), -1);
    config_init(&c);
    assert_int_equal(config_load(&c, "/"), -1); /* a directory */
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_settings), cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_mistakes),     cmocka_unit_test(test_long_line),
        cmocka_unit_test(test_longest_line), cmocka_unit_test(test_nul),
        cmocka_unit_test(test_load),         cmocka_unit_test(test_every_mistake_is_reported),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
