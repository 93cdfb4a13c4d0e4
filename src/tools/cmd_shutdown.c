/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clshmctl shutdown: asks the daemon to end. When it refuses, says who uses what (USERS). When it agrees, waits for the
 * end of file on the socket, which is when it has ended.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "src/tools/clshmctl.h"
#include "src/tools/parse.h"
#include "src/tools/table.h"
#include "src/util/cleanup.h"

#define PROGRESS_MS 2000
#define LIMIT_MS    30000

struct users {
    size_t n;
    struct clshmd_user *user;
};

/* ------------------------------------------------------------------ who uses it */

TABLE_CELL(pid)
{
    const struct clshmd_user *u = row;

    if (u->pid <= 0)
        return u->pid == 0 || style->json ? NULL : strdup("?");
    return cell_text("%" PRId32, u->pid);
}

TABLE_CELL(user)
{
    const struct clshmd_user *u = row;

    return u->pid == 0 ? NULL : format_user(u->uid);
}

TABLE_CELL(part)
{
    return cell_text("%" PRIu32, ((const struct clshmd_user *)row)->part);
}

TABLE_CELL(segments)
{
    return cell_text("%" PRIu32, ((const struct clshmd_user *)row)->segments);
}

TABLE_CELL(attachments)
{
    return cell_text("%" PRIu32, ((const struct clshmd_user *)row)->attachments);
}

static const struct column columns[] = {
    {"PID", "process; ?: not visible to the daemon; none: a whole partition", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER,
     cell_pid},
    {"USER", "of the process", 0, SCOLS_JSON_STRING, cell_user},
    {"PARTITION", "where it runs", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_part},
    {"SEGMENTS", "segments in use", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_segments},
    {"ATTACHMENTS", "how often attached", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_attachments},
};

/* All users, a packet's worth at a time. */
static int get_users(struct tool_conn *conn, struct users *out)
{
    struct clshmd_users request = {.from = 0};
    struct clshmd_users_reply reply;
    int r;

    do {
        struct clshmd_user *more;

        r = tool_call(conn, CLSHMD_USERS, &request, sizeof(request), &reply, sizeof(reply));
        if (r != 0)
            return r;
        if (reply.count > CLSHMD_USERS_MAX || (reply.next != 0 && reply.next <= request.from))
            return EPROTO;
        more = reallocarray(out->user, out->n + reply.count + 1, sizeof(*more));
        if (more == NULL)
            return ENOMEM;
        memcpy(more + out->n, reply.user, reply.count * sizeof(*more));
        out->user = more;
        out->n += reply.count;
        request.from = reply.next;
    } while (request.from != 0);
    return 0;
}

static int busy(struct tool_conn *conn, const struct tool *tool)
{
    struct table_style style = {.json = tool->json};
    struct table_choice choice;
    struct users users = {.n = 0};
    CLEANUP_FREE struct clshmd_user *owner = NULL;
    int r = get_users(conn, &users);

    owner = users.user;
    if (r != 0)
        return (int)tool_failed(conn, "users", r, "the daemon did not say who uses it");
    tool_error(tool_socket_path(tool), EBUSY, "segments of this partition are in use");
    free(table_choose(&choice, columns, sizeof(columns) / sizeof(columns[0]),
                      "PID,USER,PARTITION,SEGMENTS,ATTACHMENTS"));
    r = table_print("users", &choice, &style, users.user, users.n, sizeof(users.user[0]));
    if (r != 0)
        tool_error("users", r, "cannot print them");
    fflush(stdout);
    tool_hint_command(tool, "clshmctl", "shutdown --force");
    return TOOL_FAILED;
}

/* ------------------------------------------------------------------ the end */

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Wait for the end of file. @return 0 or ETIMEDOUT. */
static int wait_end(int fd, const struct tool *tool)
{
    int64_t begin = now_ms();
    bool said = false;
    char drain[CLSHMD_PACKET_MAX];

    for (;;) {
        int64_t waited = now_ms() - begin;
        int64_t next = said ? LIMIT_MS : PROGRESS_MS;
        struct pollfd p = {.fd = fd, .events = POLLIN};

        if (waited >= LIMIT_MS)
            return ETIMEDOUT;
        if (waited >= next) {
            fprintf(stderr, "clshmctl: %s: it is still ending; waiting up to %d s more\n", tool_socket_path(tool),
                    (LIMIT_MS - PROGRESS_MS) / 1000);
            said = true;
            continue;
        }
        if (poll(&p, 1, (int)(next - waited)) > 0) {
            ssize_t n = recv(fd, drain, sizeof(drain), MSG_DONTWAIT);

            if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
                return 0;
        }
    }
}

static int shut_down(const struct tool *tool, uint32_t flags)
{
    CLEANUP_CONN struct tool_conn *conn = NULL;
    struct clshmd_shutdown request = {.flags = flags};
    enum tool_status status = tool_connect(tool, &conn);
    int r;

    if (status != TOOL_DONE)
        return (int)status;
    r = tool_call(conn, CLSHMD_SHUTDOWN, &request, sizeof(request), NULL, 0);
    if (r == EBUSY)
        return busy(conn, tool);
    if (r != 0)
        return (int)tool_failed(conn, tool_socket_path(tool), r,
                                r == EPERM ? "only root and the daemon's owner may stop it" : "cannot stop it");
    r = wait_end(tool_socket(conn), tool);
    if (r != 0) {
        tool_error(tool_socket_path(tool), r, "it agreed to end, but has not within %d s", LIMIT_MS / 1000);
        return TOOL_FAILED;
    }
    if (tool->json)
        printf("{\"stopped\": %" PRIu32 "}\n", tool_hello(conn)->part);
    else
        printf("partition %" PRIu32 " is shut down\n", tool_hello(conn)->part);
    return TOOL_DONE;
}

enum { OPT_FORCE = 0x100 };

struct input {
    struct tool *tool;
    uint32_t flags;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct input *input = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = input->tool;
        return 0;
    case OPT_FORCE:
        input->flags |= CLSHMD_SHUTDOWN_FORCE;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: too many arguments", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cmd_shutdown(struct tool *tool, int argc, char **argv)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    static const struct argp_option options[] = {
        {"force", OPT_FORCE, NULL, 0, "Stop the processes that use its segments too", 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc = "Stop this partition's daemon and leave the fabric. While processes, here or on other partitions, use "
               "segments of this partition, it says which, and refuses.",
        .children = children,
    };
    struct input input = {.tool = tool};

    argp_parse(&argp, argc, argv, 0, NULL, &input);
    return shut_down(tool, input.flags);
}
