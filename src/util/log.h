/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The log: one line for each event to stderr, with systemd's <N> priority prefix when stderr is the journal
 * (JOURNAL_STREAM). Preserves errno, never blocks the caller (a full pipe loses lines and counts them), cuts long
 * lines, replaces control characters. Safe from any thread.
 */
#ifndef CLSHM_UTIL_LOG_H
#define CLSHM_UTIL_LOG_H

#include <stdint.h>

enum log_level {
    LOG_LEVEL_ERROR = 3, /* syslog's numbers */
    LOG_LEVEL_WARNING = 4,
    LOG_LEVEL_INFO = 6,
    LOG_LEVEL_DEBUG = 7,
};

/* @ident begins every line, e.g. "clshmd[web]"; copied. */
void log_open(const char *ident, enum log_level level);
void log_set_level(enum log_level level);
/* "error", "warning", "info", "debug". @return -1: none of them. */
int log_level_parse(const char *text);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)    log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)   log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* For what a peer or client can cause: at most `burst` lines in `interval_ms`; the next one says how many were left out. */
struct log_limit {
    uint32_t interval_ms, burst;
    uint64_t begin_ms;
    uint32_t printed, missed;
};
#define LOG_LIMIT_DEFAULT                                                                                              \
    {                                                                                                                  \
        .interval_ms = 5000, .burst = 10                                                                               \
    }

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
