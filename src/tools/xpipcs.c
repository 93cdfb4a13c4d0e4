/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * xpipcs: the segments of the fabric, in lsipc(1)'s manner. Options here; gathering in segments.c, columns in
 * segment_columns.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/tools/parse.h"
#include "src/tools/segments.h"
#include "src/tools/tools.h"
#include "src/util/cleanup.h"

enum { OPT_NOHEADINGS = 0x100 };

static const struct argp_option options[] = {
    {"id", 'i', "ID", 0, "All about the segment with this id", 0},
    {"output", 'o', "LIST", 0, "The columns to print; +LIST adds to the default ones", 0},
    {"creator", 'c', NULL, 0, "Show creators and owners", 0},
    {"time", 't', NULL, 0, "Show times, and the processes of the last operation", 0},
    {"bytes", 'b', NULL, 0, "Sizes in bytes", 0},
    {"raw", 'r', NULL, 0, "Columns separated by one blank, nothing aligned", 0},
    {"noheadings", OPT_NOHEADINGS, NULL, 0, "Do not print the headings", 0},
    {0}};

struct input {
    struct tool tool;
    struct table_style style;
    struct table_choice choice;
    bool one;
    int32_t id; /* with `one` */
};

static void choose(struct argp_state *state, struct table_choice *choice, const char *list)
{
    CLEANUP_FREE char *wrong = table_choose(choice, segment_columns, n_segment_columns, list);

    if (wrong != NULL)
        argp_error(state, "%s: no such column", wrong);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct input *input = state->input;
    uint64_t value = 0;
    int r;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &input->tool;
        choose(state, &input->choice, SEGMENT_COLUMNS_DEFAULT);
        return 0;
    case 'i':
        r = parse_number(arg, 0, INT32_MAX, &value);
        if (r != 0)
            tool_bad_argument(state, arg, r, "a segment's id");
        input->one = true;
        input->id = (int32_t)value;
        return 0;
    case 'o':
        choose(state, &input->choice, arg);
        return 0;
    case 'c':
        choose(state, &input->choice, SEGMENT_COLUMNS_CREATOR);
        return 0;
    case 't':
        choose(state, &input->choice, SEGMENT_COLUMNS_TIME);
        return 0;
    case 'b':
        input->style.bytes = true;
        return 0;
    case 'r':
        input->style.raw = true;
        return 0;
    case OPT_NOHEADINGS:
        input->style.noheadings = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: too many arguments", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The columns, after the options; argp frees it. */
static char *help_filter(int key, const char *text, void *input)
{
    CLEANUP_FREE char *list = NULL;
    char *whole;

    (void)input;
    if (key != ARGP_KEY_HELP_POST_DOC)
        return (char *)(uintptr_t)text;
    list = table_help(segment_columns, n_segment_columns);
    return list == NULL || asprintf(&whole, "Columns:\n%s", list) < 0 ? NULL : whole;
}

static int print_one(const struct input *input, const struct segments *s)
{
    for (size_t i = 0; i < s->n; i++) {
        struct table_choice all = {.n = 0};

        if (s->segment[i].stat.shmid != input->id)
            continue;
        for (size_t c = 0; c < n_segment_columns; c++)
            all.column[all.n++] = &segment_columns[c];
        if (input->style.json)
            return table_print("segments", &all, &input->style, &s->segment[i], 1, sizeof(s->segment[0]));
        for (size_t c = 0; c < n_segment_columns; c++) {
            CLEANUP_FREE char *cell = segment_columns[c].cell(&s->segment[i], &input->style);

            printf("%-10s %s\n", segment_columns[c].name, cell != NULL ? cell : "");
        }
        return 0;
    }
    return ENOENT;
}

static int show(struct input *input)
{
    CLEANUP_CONN struct tool_conn *conn = NULL;
    CLEANUP(segments_deinit) struct segments s = {.n = 0};
    enum tool_status status = tool_connect(&input->tool, &conn);
    char id[16];
    int r;

    if (status != TOOL_DONE)
        return (int)status;
    r = segments_gather(&s, conn);
    if (r != 0)
        return (int)tool_failed(conn, "segments", r, "the daemon did not say which there are");
    input->style.json = input->tool.json;
    input->style.iso_time = input->one;
    snprintf(id, sizeof(id), "%d", input->id);
    r = input->one ? print_one(input, &s)
                   : table_print("segments", &input->choice, &input->style, s.segment, s.n, sizeof(s.segment[0]));
    if (r != 0) {
        tool_error(input->one ? id : "segments", r, r == ENOENT ? "no such segment" : "cannot be printed");
        return TOOL_FAILED;
    }
    return s.silent == 0 ? TOOL_DONE : TOOL_PARTIAL;
}

int main(int argc, char **argv)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc = "Show the shared memory segments of the fabric, on all partitions.\v",
        .children = children,
        .help_filter = help_filter,
    };
    struct input input = {.one = false};

    tool_init(argv);
    argp_parse(&argp, argc, argv, 0, NULL, &input);
    return tool_finish(show(&input));
}
