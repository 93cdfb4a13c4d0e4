/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The configuration file, parsed by libinih under three precautions: Debian's build tells its handler no line number,
 * so lines are counted as they are fed to it; it cuts lines at a fixed length, so a longer one is a mistake here; and an
 * indented line would continue the one before, so indentation is taken away.
 */
#include "src/daemon/config.h"

#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/util/cleanup.h"
#include "src/util/log.h"

enum config_type {
    TYPE_PATH,
    TYPE_UIDS,
    TYPE_PART,
    TYPE_NUMBER, /* uint64_t */
    TYPE_SIZE,   /* uint64_t, with a unit */
    TYPE_RING,
    TYPE_TIMEOUT,
    TYPE_HUGE,
    TYPE_LEVEL,
};

struct config_key {
    const char *section, *name;
    enum config_type type;
    size_t offset; /* of NUMBER and SIZE */
};

#define LIMIT(name, type, field)                                                                                       \
    {                                                                                                                  \
        "limits", name, type, offsetof(struct config, limits.field)                                                    \
    }

static const struct config_key config_keys[] = {
    {"fabric", "path", TYPE_PATH, 0},
    {"fabric", "uids", TYPE_UIDS, 0},
    {"fabric", "id", TYPE_PART, 0},
    LIMIT("maxpgs", TYPE_NUMBER, max_pages),
    LIMIT("max-segments", TYPE_NUMBER, max_segments),
    LIMIT("max-size", TYPE_SIZE, max_size),
    LIMIT("max-segments-uid", TYPE_NUMBER, max_segments_uid),
    LIMIT("max-bytes-uid", TYPE_SIZE, max_bytes_uid),
    LIMIT("max-keys-uid", TYPE_NUMBER, max_keys_uid),
    LIMIT("max-attachments-uid", TYPE_NUMBER, max_grants_uid),
    LIMIT("max-clients-uid", TYPE_NUMBER, max_clients_uid),
    {"driver", "maxdpgs", TYPE_RING, 0},
    {"driver", "timeout", TYPE_TIMEOUT, 0},
    {"driver", "huge", TYPE_HUGE, 0},
    {"driver", "huge-min", TYPE_SIZE, offsetof(struct config, huge_min)},
    {"log", "level", TYPE_LEVEL, 0},
};
#define CONFIG_KEYS (sizeof(config_keys) / sizeof(config_keys[0]))

struct reader {
    struct config *config;
    FILE *file;
    const char *name;
    void (*report)(void *ctx, const char *line);
    void *ctx;
    unsigned line;
    int mistakes;
    bool seen[CONFIG_KEYS];
};

void config_init(struct config *config)
{
    memset(config, 0, sizeof(*config));
    config->part = -1;
    config->limits = (struct core_limits){
        .max_segments_uid = 4096,
        .max_keys_uid = 256,
        .max_grants_uid = 16384,
        .max_clients_uid = 1024,
        .max_ops_client = 32,
        .op_timeout_ms = 5000,
    };
    config->maxdpgs = DRIVER_RING_PAGES_DEFAULT;
    config->timeout_ms = 1000;
    config->huge_min = 2u << 20;
    config->log_level = LOG_LEVEL_INFO;
}

uint64_t config_default_maxpgs(uint32_t granule)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);

    if (pages <= 0 || size <= 0 || !granule)
        return 0;
    return (uint64_t)pages / 5 * 4 * (uint64_t)size / granule;
}

static void __attribute__((format(printf, 2, 3))) mistake(struct reader *r, const char *format, ...)
{
    char line[1024];
    int n = snprintf(line, sizeof(line), "%s:%u: ", r->name, r->line);
    va_list ap;

    if (n < 0 || (size_t)n >= sizeof(line))
        n = 0;
    va_start(ap, format);
    vsnprintf(line + n, sizeof(line) - (size_t)n, format, ap);
    va_end(ap);
    r->mistakes++;
    r->report(r->ctx, line);
}

/* ------------------------------------------------------------------ values */

/* A decimal number, with a unit of 1024 if @units. */
static bool parse_number(const char *text, bool units, uint64_t *out)
{
    static const char unit[] = "KMGT";
    unsigned long long value;
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno)
        return false;
    if (units && *end) {
        const char *u = strchr(unit, *end);
        unsigned shift = u ? (unsigned)(u - unit + 1) * 10 : 0;

        if (!u || value << shift >> shift != value)
            return false;
        value <<= shift;
        end++;
    }
    *out = value;
    return *end == '\0';
}

static bool parse_range(const char *text, uint64_t low, uint64_t high, uint64_t *out)
{
    return parse_number(text, false, out) && *out >= low && *out <= high;
}

static bool parse_huge(const char *text, enum fabric_huge *out)
{
    static const char *const names[] = {
        [FABRIC_HUGE_AUTO] = "auto", [FABRIC_HUGE_NEVER] = "never", [FABRIC_HUGE_ALWAYS] = "always"};

    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (enum fabric_huge)i;
            return true;
        }
    return false;
}

/* @return NULL, or what was expected. */
static const char *set_value(struct config *c, const struct config_key *key, const char *value)
{
    uint64_t n = 0;

    switch (key->type) {
    case TYPE_PATH:
        if (!*value || strlen(value) >= sizeof(c->path) || (strchr(value, '/') && *value != '/'))
            return "a fabric's name, or a directory beginning with /";
        strcpy(c->path, value);
        return NULL;
    case TYPE_UIDS:
        if (strcmp(value, "same") != 0 && strcmp(value, "squash") != 0)
            return "same or squash";
        c->squash = *value == 's' && value[1] == 'q';
        return NULL;
    case TYPE_PART:
        if (!parse_range(value, 0, FABRIC_PARTS_MAX - 1, &n))
            return "a partition's number, 0 to 63";
        c->part = (int)n;
        return NULL;
    case TYPE_NUMBER:
    case TYPE_SIZE:
        if (!parse_number(value, key->type == TYPE_SIZE, &n))
            return key->type == TYPE_SIZE ? "a size (a number, with K, M, G or T); 0: no limit"
                                          : "a number; 0: no limit";
        memcpy((char *)c + key->offset, &n, sizeof(n));
        return NULL;
    case TYPE_RING:
        if (!parse_range(value, 1, DRIVER_RING_PAGES_MAX, &n))
            return "a number of pages, 1 to 1024";
        c->maxdpgs = (uint32_t)n;
        return NULL;
    case TYPE_TIMEOUT:
        if (!parse_range(value, 0, CONFIG_TIMEOUT_MAX, &n) || (n && n < CONFIG_TIMEOUT_MIN))
            return "milliseconds, 10 to 60000; 0: never";
        c->timeout_ms = (uint32_t)n;
        return NULL;
    case TYPE_HUGE:
        return parse_huge(value, &c->huge) ? NULL : "auto, never or always";
    case TYPE_LEVEL:
        c->log_level = log_level_parse(value);
        return c->log_level < 0 ? "error, warning, info or debug" : NULL;
    }
    return "nothing";
}

static int handle(void *user, const char *section, const char *name, const char *value)
{
    struct reader *r = user;
    bool known_section = false;
    const char *expected;

    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        const struct config_key *key = &config_keys[i];

        if (strcmp(section, key->section) != 0)
            continue;
        known_section = true;
        if (strcmp(name, key->name) != 0)
            continue;
        expected = set_value(r->config, key, value);
        if (expected)
            mistake(r, "%s = %s: expected %s", name, value, expected);
        else if (r->seen[i])
            mistake(r, "%s is given a second time: expected once", name);
        if (key->type == TYPE_NUMBER && strcmp(name, "maxpgs") == 0)
            r->config->maxpgs_given = true;
        r->seen[i] = true;
        return 1;
    }
    if (!*section)
        mistake(r, "%s stands before any section: expected [fabric], [limits], [driver] or [log] first", name);
    else if (known_section)
        mistake(r, "unknown key %s in [%s]: expected one that clshmd.conf(5) names", name, section);
    else
        mistake(r, "unknown section [%s]: expected [fabric], [limits], [driver] or [log]", section);
    return 1;
}

/* ------------------------------------------------------------------ lines */

/* As fgets(3), but for what the file's head says. A line that is a mistake is reported here and fed as an empty one. */
static char *next_line(char *out, int size, void *stream)
{
    struct reader *r = stream;
    CLEANUP_FREE char *line = NULL;
    const char *text;
    size_t room = 0;
    ssize_t n = getline(&line, &room, r->file);

    if (n < 0)
        return NULL;
    r->line++;
    while (n > 0 && strchr("\r\n", line[n - 1]))
        line[--n] = '\0';
    text = line + strspn(line, " \t");
    if (strlen(line) != (size_t)n) {
        mistake(r, "a NUL byte: expected text");
        text = "";
    } else if (*text && *text != '#' && *text != ';' && strlen(text) + 2 > (size_t)size) {
        mistake(r, "a line of %zd characters: expected at most %d", n, size - 2);
        text = "";
    } else if (*text == '#' || *text == ';') {
        text = "";
    } else if (*text == '[' && !strchr(text, ']')) {
        mistake(r, "%s: expected ] after the section's name", text);
        text = "";
    } else if (*text && *text != '[' && !strpbrk(text, "=:")) {
        mistake(r, "%s: expected key = value", text);
        text = "";
    }
    snprintf(out, (size_t)size, "%s\n", text);
    return out;
}

int config_read(struct config *config, FILE *file, const char *name, void (*report)(void *ctx, const char *line),
                void *ctx)
{
    struct reader r = {.config = config, .file = file, .name = name, .report = report, .ctx = ctx};
    int line = ini_parse_stream(next_line, &r, handle, &r);

    if (line != 0 && r.mistakes == 0) {
        r.line = line > 0 ? (unsigned)line : r.line;
        mistake(&r, "expected [section] or key = value");
    }
    if (ferror(file)) {
        r.line++;
        mistake(&r, "cannot be read on: expected a regular file");
    }
    return r.mistakes;
}

static void report_to_log(void *ctx, const char *line)
{
    (void)ctx;
    log_error("%s", line);
}

static FILE *open_default(struct config *config)
{
    static const char etc[] = "/etc/clshm/clshmd.conf";
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    FILE *file = fopen(etc, "re");

    strcpy(config->file, etc);
    if (file || errno != ENOENT)
        return file;
    if (xdg && *xdg == '/')
        snprintf(config->file, sizeof(config->file), "%s/clshm/clshmd.conf", xdg);
    else if (home && *home == '/')
        snprintf(config->file, sizeof(config->file), "%s/.config/clshm/clshmd.conf", home);
    else
        return NULL;
    return fopen(config->file, "re");
}

int config_load(struct config *config, const char *name)
{
    FILE *file;
    int mistakes;

    if (name) {
        snprintf(config->file, sizeof(config->file), "%s", name);
        file = fopen(name, "re");
    } else {
        file = open_default(config);
    }
    if (!file && !name && (errno == ENOENT || errno == ENOTDIR)) {
        config->file[0] = '\0';
        return 0;
    }
    if (!file) {
        log_error("%s: cannot be read: %s (%s)", config->file, strerror(errno), strerrorname_np(errno));
        log_error("hint: ls -l %s", config->file);
        return -1;
    }
    mistakes = config_read(config, file, config->file, report_to_log, NULL);
    fclose(file);
    return mistakes ? -1 : 0;
}
