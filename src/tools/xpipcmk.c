/* SPDX-License-Identifier: GPL-2.0-or-later */
/* xpipcmk: makes a segment, in ipcmk(1)'s manner, through libclshm, and prints its id. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "include/xp_shm.h"
#include "src/tools/parse.h"
#include "src/tools/segments.h"
#include "src/tools/tools.h"
#include "src/util/cleanup.h"

enum { OPT_PRIVATE = 0x100, OPT_ON };

static const struct argp_option options[] = {
    {"shmem", 'M', "SIZE", 0, "Make a segment of this size (K, M, G, T)", 0},
    {"mode", 'm', "MODE", 0, "Its permissions, octal (default 0644)", 0},
    {"key", 'k', "KEY", 0, "Its key; it is a failure if that is taken (default: a fresh one)", 0},
    {"private", OPT_PRIVATE, NULL, 0, "Without a key", 0},
    {"on", OPT_ON, "PARTITION", 0, "Host its memory on this partition (not with --key, --private)", 0},
    {0}};

struct input {
    struct tool tool;
    bool have_size, have_key;
    uint64_t size;
    uint32_t mode;
    int32_t key;
    const char *on;
};

static void set_key(struct argp_state *state, struct input *input, int32_t key)
{
    if (input->have_key)
        argp_error(state, "--key and --private exclude each other, and count once");
    input->have_key = true;
    input->key = key;
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct input *input = state->input;
    int32_t value = 0;
    int r = 0;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &input->tool;
        return 0;
    case 'M':
        r = parse_size(arg, &input->size);
        r = r == 0 && input->size == 0 ? ERANGE : r;
        if (r != 0)
            tool_bad_argument(state, arg, r, "a size, at least 1");
        input->have_size = true;
        return 0;
    case 'm':
        r = parse_mode(arg, 0777, &input->mode);
        if (r != 0)
            tool_bad_argument(state, arg, r, "an octal mode up to 0777");
        return 0;
    case 'k':
        r = parse_key(arg, &value);
        if (r != 0 || value == IPC_PRIVATE)
            tool_bad_argument(state, arg, r != 0 ? r : ERANGE, "a key other than 0");
        set_key(state, input, value);
        return 0;
    case OPT_PRIVATE:
        set_key(state, input, IPC_PRIVATE);
        return 0;
    case OPT_ON:
        input->on = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: too many arguments", arg);
        return 0;
    case ARGP_KEY_END:
        if (!input->have_size)
            argp_error(state, "of what size? (--shmem SIZE)");
        if (input->on != NULL && input->have_key)
            argp_error(state, "--on needs a fresh key: neither --key nor --private");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* @return the id, or -1 with errno, and *@what as text. */
static int make(struct input *input, const char **what)
{
    int id;

    *what = "cannot make the segment";
    if (!input->have_key) {
        input->key = xp_ftok(input->on, 1);
        if (input->key == -1) {
            *what = errno == ENOENT ? "no such partition" : "cannot get a fresh key";
            return -1;
        }
    }
    id = xp_shmget(input->key, input->size, IPC_CREAT | IPC_EXCL | (int)input->mode);
    if (id < 0 && errno == EEXIST)
        *what = "a segment has this key already";
    if (id < 0 && errno == ENOSPC)
        *what = "a limit is reached";
    return id;
}

/* A fresh key stays reserved until its segment is removed: give back one that got no memory. */
static void give_back(struct tool_conn *conn, int32_t key)
{
    CLEANUP(segments_deinit) struct segments s = {.n = 0};

    if (segments_list(&s, conn) != 0)
        return;
    for (size_t i = 0; i < s.n; i++)
        if (s.segment[i].stat.stat.key == key)
            xp_shmctl(s.segment[i].stat.shmid, IPC_RMID, NULL);
}

static int make_it(struct input *input)
{
    CLEANUP_CONN struct tool_conn *conn = NULL;
    enum tool_status status = tool_connect(&input->tool, &conn); /* so that an absent daemon is said with its hint */
    const char *what;
    char object[32];
    int id, r;

    if (status != TOOL_DONE)
        return (int)status;
    id = make(input, &what);
    if (id < 0) {
        r = errno;
        snprintf(object, sizeof(object), "0x%08x", (unsigned)input->key);
        tool_error(input->have_key ? object : input->on != NULL ? input->on : "segment", r, "%s", what);
        if (r == ENOSPC)
            tool_hint_command(&input->tool, "clshmctl", "getcfg");
        if (!input->have_key && input->key != -1)
            give_back(conn, input->key);
        return TOOL_FAILED;
    }
    if (input->tool.json)
        printf("{\"id\": %d, \"key\": \"0x%08x\"}\n", id, (unsigned)input->key);
    else
        printf("%d\n", id);
    return TOOL_DONE;
}

int main(int argc, char **argv)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc = "Make a shared memory segment on the fabric, and print its id.",
        .children = children,
    };
    struct input input = {.mode = 0644};

    tool_init(argv);
    argp_parse(&argp, argc, argv, 0, NULL, &input);
    tool_export(&input.tool);
    return tool_finish(make_it(&input));
}
