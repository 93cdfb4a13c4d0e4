/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Text to numbers and back. Pure, but for users and groups, which the system's databases know.
 *
 * Numbers are strict: strtoull(3) would take blanks, signs, an octal 0 and trailing text, each of which has turned a
 * slip of the keyboard into another number somewhere. So digits are read here, with overflow checked at every step.
 */
#include "src/tools/parse.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return 99;
}

/* Digits of @base from *@text on, which then points behind them. EINVAL: there are none. */
static int read_digits(const char **text, unsigned base, uint64_t *out)
{
    const char *p = *text;
    uint64_t value = 0;

    for (; (unsigned)digit_of(*p) < base; p++)
        if (__builtin_mul_overflow(value, base, &value) ||
            __builtin_add_overflow(value, (unsigned)digit_of(*p), &value))
            return ERANGE;
    if (p == *text)
        return EINVAL;
    *text = p;
    *out = value;
    return 0;
}

static int read_number(const char **text, uint64_t *out)
{
    if ((*text)[0] == '0' && ((*text)[1] == 'x' || (*text)[1] == 'X')) {
        *text += 2;
        return read_digits(text, 16, out);
    }
    return read_digits(text, 10, out);
}

int parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t value;
    int r = read_number(&text, &value);

    if (r != 0)
        return r;
    if (*text != '\0')
        return EINVAL;
    if (value < min || value > max)
        return ERANGE;
    *out = value;
    return 0;
}

/* The shift of a unit; -1: none. */
static int unit_shift(const char *unit)
{
    static const char letters[] = "KMGT";
    const char *at;

    if (*unit == '\0')
        return 0;
    at = strchr(letters, *unit >= 'a' ? *unit - 'a' + 'A' : *unit);
    if (at == NULL || (unit[1] != '\0' && strcmp(unit + 1, "iB") != 0))
        return -1;
    return 10 * (int)(at - letters + 1);
}

int parse_size(const char *text, uint64_t *out)
{
    uint64_t value;
    int shift, r = read_digits(&text, 10, &value);

    if (r != 0)
        return r;
    shift = unit_shift(text);
    if (shift < 0)
        return EINVAL;
    if (__builtin_mul_overflow(value, UINT64_C(1) << shift, &value))
        return ERANGE;
    *out = value;
    return 0;
}

int parse_key(const char *text, int32_t *out)
{
    uint64_t value;
    int r = parse_number(text, 0, UINT32_MAX, &value);

    if (r == 0)
        *out = (int32_t)(uint32_t)value;
    return r;
}

int parse_mode(const char *text, uint32_t max, uint32_t *out)
{
    uint64_t value;
    int r = read_digits(&text, 8, &value);

    if (r != 0)
        return r;
    if (*text != '\0')
        return EINVAL;
    if (value > max)
        return ERANGE;
    *out = (uint32_t)value;
    return 0;
}

int parse_group(const char *text, int64_t *out)
{
    const struct group *gr = getgrnam(text);
    uint64_t value;
    int r;

    if (gr != NULL) {
        *out = gr->gr_gid;
        return 0;
    }
    r = parse_number(text, 0, UINT32_MAX - 1, &value);
    if (r == 0)
        *out = (int64_t)value;
    return r;
}

const char *format_size(uint64_t bytes, char out[TEXT_SIZE_MAX])
{
    static const char units[] = "BKMGTPE";
    unsigned unit = 0;
    uint64_t whole = bytes, rest = 0;

    while (whole >= 1024) {
        rest = whole % 1024;
        whole /= 1024;
        unit++;
    }
    if (rest * 10 / 1024 != 0)
        snprintf(out, TEXT_SIZE_MAX, "%llu.%llu%c", (unsigned long long)whole, (unsigned long long)(rest * 10 / 1024),
                 units[unit]);
    else
        snprintf(out, TEXT_SIZE_MAX, "%llu%c", (unsigned long long)whole, units[unit]);
    return out;
}

const char *format_perms(uint32_t mode, char out[10])
{
    static const char letters[] = "rwxrwxrwx";

    for (unsigned i = 0; i < 9; i++)
        out[i] = (mode & 0400u >> i) != 0 ? letters[i] : '-';
    out[9] = '\0';
    return out;
}

const char *format_span(uint64_t ms, char out[TEXT_SIZE_MAX])
{
    unsigned long long tenths = ms / 100, seconds = ms / 1000;

    if (seconds < 10)
        snprintf(out, TEXT_SIZE_MAX, "%llu.%llu s", tenths / 10, tenths % 10);
    else if (seconds < 120)
        snprintf(out, TEXT_SIZE_MAX, "%llu s", seconds);
    else
        snprintf(out, TEXT_SIZE_MAX, "%llu min", seconds / 60);
    return out;
}

const char *format_time(int64_t seconds, int64_t now, char out[TEXT_SIZE_MAX])
{
    time_t then = (time_t)seconds, today = (time_t)now;
    struct tm tm, tm_now;

    out[0] = '\0';
    if (seconds == 0 || localtime_r(&then, &tm) == NULL || localtime_r(&today, &tm_now) == NULL)
        return out;
    if (tm.tm_year == tm_now.tm_year && tm.tm_yday == tm_now.tm_yday)
        strftime(out, TEXT_SIZE_MAX, "%H:%M", &tm);
    else if (tm.tm_year == tm_now.tm_year)
        strftime(out, TEXT_SIZE_MAX, "%b%d", &tm);
    else
        strftime(out, TEXT_SIZE_MAX, "%Y-%b%d", &tm);
    return out;
}

const char *format_iso_time(int64_t seconds, char out[TEXT_SIZE_MAX + 8])
{
    time_t then = (time_t)seconds;
    struct tm tm;
    char zone[8] = "";

    out[0] = '\0';
    if (seconds == 0 || localtime_r(&then, &tm) == NULL)
        return out;
    strftime(zone, sizeof(zone), "%z", &tm); /* +hhmm */
    strftime(out, TEXT_SIZE_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
    if (strlen(zone) == 5)
        snprintf(out + strlen(out), 8, "%.3s:%.2s", zone, zone + 3);
    return out;
}

char *format_user(uint32_t uid)
{
    const struct passwd *pw = getpwuid(uid);
    char *text;

    if (pw != NULL)
        return strdup(pw->pw_name);
    return asprintf(&text, "%u", uid) < 0 ? NULL : text;
}

char *format_group(uint32_t gid)
{
    const struct group *gr = getgrgid(gid);
    char *text;

    if (gr != NULL)
        return strdup(gr->gr_name);
    return asprintf(&text, "%u", gid) < 0 ? NULL : text;
}
