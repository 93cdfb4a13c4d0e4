/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log is an object: a name, a level, and a count of lines that found no room.
 *
 * A line is built in a buffer on the stack, tamed (control characters, broken UTF-8), cut to LINE_MAX_BYTES, and written
 * with one system call that does not wait: MSG_DONTWAIT on a socket, RWF_NOWAIT on a pipe, poll(0) first on the rest
 * and where the kernel cannot. Since a line is shorter than PIPE_BUF, it is written whole or not at all. Lines that
 * were lost are reported by the next one that gets through. No lock is held, so that fork() needs no care. A program
 * that logs to a pipe ignores SIGPIPE.
 */
#include "src/util/log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "src/util/text.h"

#define LINE_MAX_BYTES 1000u
#define NOTE_MAX_BYTES 128u
#define CUT_MARK       "..."

_Static_assert(LINE_MAX_BYTES + NOTE_MAX_BYTES + 2 <= PIPE_BUF, "a line and its note are written whole");

static struct {
    char ident[64];
    int level;
    uint64_t lost;
} the_log = {.level = LOG_LEVEL_INFO};

static const struct {
    enum log_level level;
    const char *name;
} levels[] = {
    {LOG_LEVEL_ERROR, "error"},
    {LOG_LEVEL_WARNING, "warning"},
    {LOG_LEVEL_INFO, "info"},
    {LOG_LEVEL_DEBUG, "debug"},
};

void log_open(const char *ident, enum log_level level)
{
    snprintf(the_log.ident, sizeof(the_log.ident), "%s", ident);
    text_tame(the_log.ident, strlen(the_log.ident));
    log_set_level(level);
}

void log_set_level(enum log_level level)
{
    __atomic_store_n(&the_log.level, (int)level, __ATOMIC_RELAXED);
}

int log_level_parse(const char *text)
{
    for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
        if (strcmp(levels[i].name, text) == 0)
            return (int)levels[i].level;
    return -1;
}

static bool log_wanted(enum log_level level)
{
    return (int)level <= __atomic_load_n(&the_log.level, __ATOMIC_RELAXED);
}

/* Is stderr what systemd said the journal reads? Somebody may have redirected it since. */
static bool is_journal(const struct stat *st)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long dev, ino;

    return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && st->st_dev == dev && st->st_ino == ino;
}

/* Begin a line in @line, which has room for @size bytes. @return its length so far. */
static size_t begin_line(char *line, size_t size, enum log_level level, bool journal)
{
    int n = journal ? snprintf(line, size, "<%d>", (int)level) : 0;

    /* The journal knows the name of the process. */
    if (the_log.ident[0])
        n += snprintf(line + n, size - (size_t)n, "%s: ", the_log.ident);
    if (!journal && level <= LOG_LEVEL_WARNING)
        n += snprintf(line + n, size - (size_t)n, "%s: ", level == LOG_LEVEL_ERROR ? "error" : "warning");
    return (size_t)n;
}

/* The whole line, with its end. @return its length, below @size. */
__attribute__((format(printf, 5, 0))) static size_t build_line(char *line, size_t size, enum log_level level,
                                                               bool journal, const char *format, va_list args)
{
    size_t begin = begin_line(line, size, level, journal), length;
    int n = vsnprintf(line + begin, size - begin - 1, format, args);

    if (n < 0)
        n = snprintf(line + begin, size - begin - 1, "a line that could not be formatted");
    length = begin + (size_t)n;
    if (length > size - 2) {
        length = size - 2;
        memcpy(line + length - strlen(CUT_MARK), CUT_MARK, strlen(CUT_MARK));
    }
    text_tame(line + begin, length - begin);
    line[length] = '\n';
    return length + 1;
}

/* Write without waiting. @return false: it was not written. */
static bool write_line(mode_t mode, const char *line, size_t length)
{
    struct iovec iov = {.iov_base = (char *)line, .iov_len = length};
    struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};

    if (S_ISSOCK(mode))
        return send(STDERR_FILENO, line, length, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
    if (S_ISFIFO(mode)) {
        if (pwritev2(STDERR_FILENO, &iov, 1, -1, RWF_NOWAIT) >= 0)
            return true;
        if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
            return false;
    }
    if (poll(&ready, 1, 0) != 1 || !(ready.revents & POLLOUT))
        return false;
    return write(STDERR_FILENO, line, length) >= 0;
}

__attribute__((format(printf, 2, 0))) static void log_line(enum log_level level, const char *format, va_list args)
{
    char text[NOTE_MAX_BYTES + LINE_MAX_BYTES];
    struct stat st = {0};
    uint64_t lost;
    size_t length = 0;
    int saved = errno;
    bool journal;

    if (fstat(STDERR_FILENO, &st) < 0)
        st.st_mode = 0;
    journal = is_journal(&st);

    lost = __atomic_exchange_n(&the_log.lost, 0, __ATOMIC_RELAXED);
    if (lost) {
        length = begin_line(text, NOTE_MAX_BYTES, LOG_LEVEL_WARNING, journal);
        length += (size_t)snprintf(text + length, NOTE_MAX_BYTES - length, "%llu lines of the log were lost\n",
                                   (unsigned long long)lost);
    }
    errno = saved; /* %m */
    length += build_line(text + length, LINE_MAX_BYTES, level, journal, format, args);
    if (!write_line(st.st_mode, text, length))
        __atomic_fetch_add(&the_log.lost, lost + 1, __ATOMIC_RELAXED);
    errno = saved;
}

void log_write(enum log_level level, const char *format, ...)
{
    va_list args;

    if (!log_wanted(level))
        return;
    va_start(args, format);
    log_line(level, format, args);
    va_end(args);
}

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

/* May another line be printed? Then *@missed is how many were left out before it. Threads that meet here count a line
 * too many or too few at worst: a limit is no ledger. */
static bool limit_pass(struct log_limit *limit, uint32_t *missed)
{
    uint64_t now = now_ms(), begin = __atomic_load_n(&limit->begin_ms, __ATOMIC_RELAXED);

    if (begin == 0 || now - begin >= limit->interval_ms) {
        __atomic_store_n(&limit->begin_ms, now ? now : 1, __ATOMIC_RELAXED);
        __atomic_store_n(&limit->printed, 0, __ATOMIC_RELAXED);
    }
    if (__atomic_load_n(&limit->printed, __ATOMIC_RELAXED) >= limit->burst) {
        __atomic_fetch_add(&limit->missed, 1, __ATOMIC_RELAXED);
        return false;
    }
    __atomic_fetch_add(&limit->printed, 1, __ATOMIC_RELAXED);
    *missed = __atomic_exchange_n(&limit->missed, 0, __ATOMIC_RELAXED);
    return true;
}

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
{
    uint32_t missed;
    va_list args;

    if (!log_wanted(level) || !limit_pass(limit, &missed))
        return;
    if (missed)
        log_write(level, "%u lines like the next one were left out", missed);
    va_start(args, format);
    log_line(level, format, args);
    va_end(args);
}
