/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clshmctl: starts, stops and configures a partition, and makes fabrics.
 *
 * This file has the table of commands and what is said before a command's name. Each command lives in a cmd_*.c, has
 * its own argp parser, and takes the common options too, so that both `clshmctl -j status` and `clshmctl status -j` do.
 */
#include "src/tools/clshmctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/util/cleanup.h"
#include "src/util/log.h"

struct command {
    const char *name;
    const char *arguments;
    const char *help;
    int (*run)(struct tool *tool, int argc, char **argv);
};

static const struct command commands[] = {
    {"mkfabric", "[NAME]", "make a fabric", cmd_mkfabric},
    {"rmfabric", "[NAME]", "remove a fabric that no partition uses", cmd_rmfabric},
    {"startup", "", "start this partition's daemon", cmd_startup},
    {"shutdown", "[--force]", "stop it; refused while its segments are used", cmd_shutdown},
    {"status", "", "show partitions, versions, segments, memory", cmd_status},
    {"getcfg", "", "show the configuration", cmd_getcfg},
    {"maxpgs", "N", "set how many granules this partition may share", cmd_maxpgs},
    {"maxdpgs", "N", "set the pages of the ring from driver to daemon", cmd_maxdpgs},
    {"timeout", "MS", "set how long the daemon sleeps at most", cmd_timeout},
    {"evict", "PARTITION", "declare another partition dead", cmd_evict},
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

struct input {
    struct tool tool;
    const struct command *command;
    int first; /* index of the command's name in argv */
};

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct input *input = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &input->tool;
        return 0;
    case ARGP_KEY_ARG:
        input->command = find_command(arg);
        if (input->command == NULL)
            argp_error(state, "%s: no such command", arg);
        input->first = state->next - 1;
        state->next = state->argc; /* the rest is the command's */
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "which command?");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The list of commands, after the options; argp frees it. */
static char *help_filter(int key, const char *text, void *input)
{
    char *list = NULL;
    size_t size = 0;
    FILE *f;

    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC || (f = open_memstream(&list, &size)) == NULL)
        return (char *)(uintptr_t)text;
    fputs("Commands:\n", f);
    for (size_t i = 0; i < N_COMMANDS; i++) {
        int width = fprintf(f, "  %s %s", commands[i].name, commands[i].arguments);
        fprintf(f, "%*s%s\n", width < 24 ? 24 - width : 1, "", commands[i].help);
    }
    fputs("`clshmctl COMMAND --help' says more about each.", f);
    fclose(f);
    return list;
}

int main(int argc, char **argv)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    static const struct argp argp = {
        .parser = parse,
        .args_doc = "COMMAND [ARGUMENTS]",
        .doc = "Start, stop and configure a partition of a clshm fabric.\v",
        .children = children,
        .help_filter = help_filter,
    };
    CLEANUP_FREE char *name = NULL;
    struct input input = {.first = 0};

    tool_init(argv);
    log_open(program_invocation_short_name, LOG_LEVEL_ERROR); /* the fabric's functions say why there */
    argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &input);
    if (asprintf(&name, "clshmctl %s", input.command->name) < 0) {
        tool_error(argv[0], ENOMEM, "cannot begin");
        return TOOL_FAILED;
    }
    argv[input.first] = name;
    return tool_finish(input.command->run(&input.tool, argc - input.first, argv + input.first));
}
