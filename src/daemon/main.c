/* SPDX-License-Identifier: GPL-2.0-or-later */
/* clshmd: options and configuration; then this process is the keeper, and its child the daemon. */
#include <argp.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/daemon/daemon.h"
#include "src/lib/path.h"

#ifndef CLSHM_VERSION
#define CLSHM_VERSION "1.0.0"
#endif

static_assert(PATH_FABRIC_MAX <= sizeof(((struct daemon_options *)0)->fabric), "a fabric's path fits");
static_assert(PATH_SOCKET_MAX <= sizeof(((struct daemon_options *)0)->socket), "a socket's path fits");

enum { OPTION_LEVEL = 256, OPTION_ID, OPTION_FOREGROUND };

struct arguments {
    const char *fabric, *partition, *socket, *config;
    int level, part;
};

static const struct argp_option options[] = {
    {"fabric", 'f', "NAME|DIR", 0, "The fabric to join (CLSHM_FABRIC; default: \"default\")", 0},
    {"partition", 'p', "NAME", 0, "This partition's name (CLSHM_PARTITION; default: \"default\")", 0},
    {"socket", 's', "PATH", 0, "Where clients connect (CLSHM_SOCKET)", 0},
    {"config", 'c', "FILE", 0, "Configuration file", 0},
    {"id", OPTION_ID, "N", 0, "This partition's number, 0 to 63", 0},
    {"log-level", OPTION_LEVEL, "LEVEL", 0, "error, warning, info or debug", 0},
    {"foreground", OPTION_FOREGROUND, NULL, 0, "Stay in the foreground: clshmd always does", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;
    char *end;
    unsigned long n;

    switch (key) {
    case 'f':
        a->fabric = arg;
        return 0;
    case 'p':
        a->partition = arg;
        return 0;
    case 's':
        a->socket = arg;
        return 0;
    case 'c':
        a->config = arg;
        return 0;
    case OPTION_ID:
        errno = 0;
        n = strtoul(arg, &end, 10);
        if (*arg < '0' || *arg > '9' || *end || errno || n >= FABRIC_PARTS_MAX)
            argp_error(state, "--id %s: expected a number, 0 to 63", arg);
        a->part = (int)n;
        return 0;
    case OPTION_LEVEL:
        a->level = log_level_parse(arg);
        if (a->level < 0)
            argp_error(state, "--log-level %s: expected error, warning, info or debug", arg);
        return 0;
    case OPTION_FOREGROUND:
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .doc = "The daemon of one partition: shares memory by key with the other partitions of its fabric.",
};

const char *argp_program_version = "clshmd " CLSHM_VERSION;

static int report(const char *object, int error)
{
    log_error("%s: %s (%s)", object, path_strerror(error), strerrorname_np(error));
    log_error("hint: clshmd --help");
    return -1;
}

/* An option beats the environment, which beats the file. */
static int resolve(const struct arguments *a, struct daemon_options *o)
{
    const char *partition = a->partition ? a->partition : getenv("CLSHM_PARTITION");
    const char *fabric = a->fabric;
    int error;

    if (!fabric && !getenv("CLSHM_FABRIC") && *o->config.path)
        fabric = o->config.path;
    if (!partition || (!*partition && !a->partition))
        partition = "default";
    error = path_fabric(fabric, o->fabric);
    if (error)
        return report(fabric ? fabric : "CLSHM_FABRIC", error);
    error = path_partition(partition, o->partition);
    if (error)
        return report(partition, error);
    error = path_socket_bind(a->socket, o->partition, o->socket);
    if (error)
        return report(a->socket ? a->socket : "socket", error);
    if (a->part >= 0)
        o->config.part = a->part;
    if (a->level >= 0)
        o->config.log_level = a->level;
    return 0;
}

int main(int argc, char **argv)
{
    static struct daemon_options o;
    struct arguments a = {.level = -1, .part = -1};
    char ident[FABRIC_NAME_MAX + 16];

    argp_err_exit_status = KEEPER_EXIT_USAGE;
    argp_parse(&argp, argc, argv, 0, NULL, &a);
    log_open("clshmd", a.level >= 0 ? (enum log_level)a.level : LOG_LEVEL_INFO);
    config_init(&o.config);
    if (config_load(&o.config, a.config) || resolve(&a, &o))
        return KEEPER_EXIT_FAILED;
    snprintf(ident, sizeof(ident), "clshmd[%s]", o.partition);
    log_open(ident, (enum log_level)o.config.log_level);
    return keeper_run(daemon_main, &o);
}
