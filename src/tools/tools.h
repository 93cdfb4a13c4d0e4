/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What every tool shares: options, exit statuses, errors with a hint, a conversation with the daemon. */
#ifndef CLSHM_TOOLS_TOOLS_H
#define CLSHM_TOOLS_TOOLS_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/clshmd.h"

enum tool_status {
    TOOL_DONE = 0,
    TOOL_FAILED = 1,
    TOOL_USAGE = 2,
    TOOL_UNREACHABLE = 3, /* no daemon answers, or the conversation broke */
    TOOL_PARTIAL = 4,     /* some partitions did not answer */
};

/* The options that every tool takes; NULL: not given. */
struct tool {
    const char *fabric, *partition, *socket;
    bool json;
};

/* Begin a tool: its name as messages have it (argv[0] loses its directory), argp's exit status, the locale. */
void tool_init(char **argv);

/* The common options, to be a child of each parser; its input is a struct tool. */
extern const struct argp tool_argp;

/* The parser of a command that takes only these, with a struct tool as its input. */
error_t tool_parse_none(int key, char *arg, struct argp_state *state);

/* In a parser: @text is not what @r (of parse.h: EINVAL or ERANGE) says it should be. Ends the program with TOOL_USAGE. */
void tool_bad_argument(struct argp_state *state, const char *text, int r, const char *expected);

/* "tool: object: what happened (ERRNO)" to stderr; without the last part if @error is 0. */
void tool_error(const char *object, int error, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* "hint: command" */
void tool_hint(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same for a hint that repeats the options given: "hint: clshmctl -f demo -p web startup" */
void tool_hint_command(const struct tool *tool, const char *program, const char *arguments);

struct tool_conn; /* a conversation with the daemon, by CLSHMD_HELLO_TOOL */

/* Connect. On failure the user has been told. @return an exit status; *@out is NULL unless it is TOOL_DONE. */
enum tool_status tool_connect(const struct tool *tool, struct tool_conn **out);
/* The same, silently. @return 0 or an errno. */
int tool_try_connect(const struct tool *tool, struct tool_conn **out);
struct tool_conn *tool_disconnect(struct tool_conn *conn);
static inline void cleanup_tool_conn(struct tool_conn **conn)
{
    *conn = tool_disconnect(*conn);
}
#define CLEANUP_CONN __attribute__((cleanup(cleanup_tool_conn)))

const struct clshmd_hello_reply *tool_hello(const struct tool_conn *conn);
int tool_socket(const struct tool_conn *conn); /* stays the conversation's */
/* Where the daemon's socket is, as the options and the environment say; never NULL. */
const char *tool_socket_path(const struct tool *tool);
/* The directory of the fabric @name (NULL: the one that options and environment say); caller frees; NULL: errno. */
char *tool_fabric_path(const struct tool *tool, const char *name);
/* Before a daemon is started: where it will bind its socket, and the partition's name, become @tool's options.
 * @return 0, or an errno of path.h. */
int tool_resolve_bind(struct tool *tool);

/* One request. @return 0, the daemon's errno, or EIO: the conversation broke (tool_broken() is true then). */
int tool_call(struct tool_conn *conn, enum clshmd_op op, const void *request, size_t request_size, void *reply,
              size_t reply_size);
bool tool_broken(const struct tool_conn *conn);

/* Say that a request about @object failed with @error. @return TOOL_FAILED, or TOOL_UNREACHABLE if the talk broke. */
enum tool_status tool_failed(const struct tool_conn *conn, const char *object, int error, const char *what);

/* Put the options into the environment, where libclshm finds them. */
void tool_export(const struct tool *tool);

/* Flush what was printed. @return @status, or TOOL_FAILED with a message if it could not be written. */
int tool_finish(int status);

/* Make @size bytes at @text, which came from elsewhere, a string that a terminal may show. */
void tool_clean(char *text, size_t size);

/* Texts that several tools print. */
const char *tool_errno_name(int error); /* "EBUSY"; never NULL */
const char *tool_part_state(uint32_t state);
const char *tool_fabric_kind(uint32_t kind);

#endif
