/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The log with hostile input and a reader that does not read; text that others wrote. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/util/log.h"
#include "src/util/math.h"
#include "src/util/text.h"

/* stderr is redirected into a pipe (or socket pair) while the log is used, and put back before anything is asserted. */
static int real_stderr, reader;
static char got[1u << 20];

static void redirect(const int pair[2])
{
    fflush(stderr);
    real_stderr = dup(STDERR_FILENO);
    dup2(pair[1], STDERR_FILENO);
    close(pair[1]);
    reader = pair[0];
    fcntl(reader, F_SETFL, O_NONBLOCK);
}

static void open_pipe(void)
{
    int pair[2];

    assert_int_equal(pipe(pair), 0);
    redirect(pair);
}

/* What has arrived so far. */
static const char *drain(void)
{
    size_t length = 0;
    ssize_t n;

    while ((n = read(reader, got + length, sizeof(got) - 1 - length)) > 0)
        length += (size_t)n;
    got[length] = 0;
    return got;
}

static const char *finish(void)
{
    drain();
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    close(reader);
    return got;
}

static void test_line(void **state)
{
    (void)state;
    log_open("clshmd[web]", LOG_LEVEL_INFO);
    open_pipe();
    log_info("hello %d", 5);
    log_debug("not this");
    log_error("bad");
    log_warning("hm");
    log_set_level(LOG_LEVEL_ERROR);
    log_warning("not this");
    assert_string_equal(finish(), "clshmd[web]: hello 5\nclshmd[web]: error: bad\nclshmd[web]: warning: hm\n");
    log_set_level(LOG_LEVEL_INFO);
}

static void test_levels(void **state)
{
    (void)state;
    assert_int_equal(log_level_parse("error"), LOG_LEVEL_ERROR);
    assert_int_equal(log_level_parse("debug"), LOG_LEVEL_DEBUG);
    assert_int_equal(log_level_parse("Debug"), -1);
    assert_int_equal(log_level_parse(""), -1);
}

static void test_journal(void **state)
{
    char stream[64];
    struct stat st;

    (void)state;
    open_pipe();
    fstat(STDERR_FILENO, &st);
    snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_warning("to the journal");
    setenv("JOURNAL_STREAM", "1:2", 1);
    log_info("redirected since");
    unsetenv("JOURNAL_STREAM");
    assert_string_equal(finish(), "<4>clshmd[web]: to the journal\nclshmd[web]: redirected since\n");
}

static void test_errno(void **state)
{
    int after;

    (void)state;
    open_pipe();
    errno = ENOENT;
    log_info("%s: %m", "file");
    after = errno;
    assert_string_equal(finish(), "clshmd[web]: file: No such file or directory\n");
    assert_int_equal(after, ENOENT);
}

static void test_hostile(void **state)
{
    static char long_text[100000];
    size_t length;

    (void)state;
    memset(long_text, 'x', sizeof(long_text) - 1);
    open_pipe();
    log_info("a\nb\r\x1b[2J\x7f\tc%s", "\xc2\x9b" /* C1 */ "\xff\xc3\xa9" /* e acute */);
    log_info("%s", long_text);
    log_info("%s", "");
    finish();
    assert_memory_equal(got, "clshmd[web]: a?b??[2J??c???\xc3\xa9\nclshmd[web]: xxx", 46);
    length = strcspn(strchr(got, '\n') + 1, "\n");
    assert_true(length > 900 && length < 1000);
    assert_memory_equal(strchr(got, '\n') + 1 + length - 4, "x...\nclshmd[web]: \n", 20);

    log_open("evil\nname\x1b with very very very very very very very very very many characters", LOG_LEVEL_INFO);
    open_pipe();
    log_info("x");
    finish();
    assert_memory_equal(got, "evil?name? with", 15);
    assert_ptr_equal(strchr(got, '\n'), got + strlen(got) - 1);
    log_open("clshmd[web]", LOG_LEVEL_INFO);
}

/* Nobody reads: lines are lost, not waited for; the first that finds room says how many. */
static void fill_and_recover(void)
{
    char note[64];
    unsigned lines = 0, lost, changed = 0;

    for (unsigned i = 0; i < 5000; i++) {
        errno = EIO;
        log_info("line %u of many, with some more text so that the pipe or socket is full in the end", i);
        changed += errno != EIO;
    }
    for (const char *s = drain(); *s; s++)
        lines += *s == '\n';
    lost = 5000 - lines;
    log_info("there is room");
    finish();
    assert_int_equal(changed, 0);
    assert_in_range(lines, 50, 4990);
    snprintf(note, sizeof(note), "clshmd[web]: warning: %u lines of the log were lost\n", lost);
    assert_memory_equal(got, note, strlen(note));
    assert_string_equal(got + strlen(note), "clshmd[web]: there is room\n");
}

static void test_full_pipe(void **state)
{
    (void)state;
    alarm(20);
    open_pipe();
    fill_and_recover();

    open_pipe();
    fcntl(STDERR_FILENO, F_SETFL, O_NONBLOCK);
    fill_and_recover();
    alarm(0);
}

static void test_full_socket(void **state)
{
    int pair[2];

    (void)state;
    alarm(20);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    redirect(pair);
    fill_and_recover();
    alarm(0);
}

static void test_no_stderr(void **state)
{
    int pair[2];

    (void)state;
    assert_int_equal(pipe(pair), 0);
    redirect(pair);
    close(STDERR_FILENO);
    errno = EIO;
    log_info("nobody hears");
    assert_int_equal(errno, EIO);
    finish();
    assert_string_equal(got, "");
    open_pipe();
    log_info("x");
    assert_string_equal(finish(), "clshmd[web]: warning: 1 lines of the log were lost\nclshmd[web]: x\n");
}

static void test_limit(void **state)
{
    struct log_limit limit = {.interval_ms = 1000000, .burst = 3};

    (void)state;
    open_pipe();
    for (int i = 0; i < 10; i++)
        log_limited(&limit, LOG_LEVEL_INFO, "noise %d", i);
    log_limited(&limit, LOG_LEVEL_DEBUG, "not counted");
    assert_string_equal(drain(), "clshmd[web]: noise 0\nclshmd[web]: noise 1\nclshmd[web]: noise 2\n");
    assert_int_equal(limit.missed, 7);
    limit.begin_ms -= 1000000;
    log_limited(&limit, LOG_LEVEL_INFO, "later");
    assert_string_equal(finish(), "clshmd[web]: 7 lines like the next one were left out\nclshmd[web]: later\n");
}

static void *shout(void *ctx)
{
    (void)ctx;
    for (int i = 0; i < 200; i++) {
        log_info("from a thread");
        log_set_level(LOG_LEVEL_INFO);
    }
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t threads[4];
    unsigned lines = 0;

    (void)state;
    open_pipe();
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, shout, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (char *s = (char *)finish(), *line; (line = strsep(&s, "\n")) && *line; lines++)
        assert_string_equal(line, "clshmd[web]: from a thread");
    assert_int_equal(lines, 800);
}

/* ------------------------------------------------------------------ text */

static void test_tame(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain", "plain"},           {"\xe2\x82\xac \xf0\x9f\x98\x80", "\xe2\x82\xac \xf0\x9f\x98\x80"},
        {"\xc0\x80", "??"},           /* overlong */
        {"\xe0\x80\x80", "???"},      /* overlong */
        {"\xed\xa0\x80", "???"},      /* surrogate */
        {"\xf4\x90\x80\x80", "????"}, /* beyond U+10FFFF */
        {"\xe2\x82", "??"},           /* cut */
        {"\xe2\x28\xa1", "?(?"},      /* broken */
        {"\x80\xc3", "??"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[32];

        snprintf(text, sizeof(text), "%s", cases[i].in);
        assert_int_equal(text_tame(text, strlen(text)), strlen(cases[i].in));
        assert_string_equal(text, cases[i].out);
    }
}

static void test_names(void **state)
{
    (void)state;
    assert_true(text_printable("web", 4));
    assert_true(text_printable("", 1));
    assert_false(text_printable("web", 3));
    assert_false(text_printable("we\tb", 5));
    assert_false(text_printable("w\xc3\xa9", 4));
    assert_true(text_terminated("a\n", 3));
    assert_false(text_terminated("abc", 3));
}

static void test_math(void **state)
{
    uint64_t out = 7;

    (void)state;
    assert_true(round_up(0, 4096, &out) && out == 0);
    assert_true(round_up(1, 4096, &out) && out == 4096);
    assert_true(round_up(4096, 4096, &out) && out == 4096);
    assert_false(round_up(UINT64_MAX - 4094, 4096, &out));
    assert_int_equal(bits_for(1), 0);
    assert_int_equal(bits_for(2), 1);
    assert_int_equal(bits_for(3), 2);
    assert_int_equal(bits_for(64), 6);
    assert_true(is_within(10, 5, 10, 15));
    assert_false(is_within(10, 6, 10, 15));
    assert_false(is_within(9, 1, 10, 15));
    assert_false(is_within(16, 0, 10, 15));
    assert_false(is_within(12, UINT64_MAX, 10, 15));
    assert_true(is_power_of_two(1) && !is_power_of_two(0) && !is_power_of_two(12));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),        cmocka_unit_test(test_levels),    cmocka_unit_test(test_journal),
        cmocka_unit_test(test_errno),       cmocka_unit_test(test_hostile),   cmocka_unit_test(test_full_pipe),
        cmocka_unit_test(test_full_socket), cmocka_unit_test(test_no_stderr), cmocka_unit_test(test_limit),
        cmocka_unit_test(test_threads),     cmocka_unit_test(test_tame),      cmocka_unit_test(test_names),
        cmocka_unit_test(test_math),
    };

    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
