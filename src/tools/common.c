/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every tool shares. A conversation with the daemon is a struct conn of the library's, plus what HELLO said; once
 * it has broken, every further request fails with EIO. All that a tool has to say against the user's wish goes through
 * tool_error() and tool_hint(), so that it looks the same everywhere.
 */
#include "src/tools/tools.h"

#include <errno.h>
#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/lib/conn.h"
#include "src/lib/path.h"
#include "src/util/cleanup.h"

#ifndef CLSHM_VERSION
#define CLSHM_VERSION "0"
#endif

struct tool_conn {
    struct conn conn;
    struct clshmd_hello_reply hello;
    bool broken;
};

/* ------------------------------------------------------------------ options */

static void print_version(FILE *stream, struct argp_state *state)
{
    (void)state;
    fprintf(stream, "%s (clshm) %s, protocol %u.%u\n", program_invocation_short_name, CLSHM_VERSION, CLSHM_LIB_MAJOR,
            CLSHM_LIB_MINOR);
}

void tool_init(char **argv)
{
    argv[0] = program_invocation_short_name; /* getopt prints it */
    setlocale(LC_ALL, "");
    argp_err_exit_status = TOOL_USAGE;
    argp_program_version_hook = print_version;
}

/* "-1" where a number is expected looks like an option. */
static void refuse_negative(struct argp_state *state, int digit)
{
    for (int i = 1; i < state->argc; i++)
        if (state->argv[i][0] == '-' && state->argv[i][1] >= '0' && state->argv[i][1] <= '9' &&
            strchr(state->argv[i], digit) != NULL)
            argp_error(state, "%s: numbers are not negative (%s)", state->argv[i], tool_errno_name(EINVAL));
    argp_error(state, "-%c: no such option", digit);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct tool *tool = state->input;

    if (key >= '0' && key <= '9') {
        refuse_negative(state, key);
        return EINVAL;
    }
    switch (key) {
    case 'f':
        tool->fabric = arg;
        return 0;
    case 'p':
        tool->partition = arg;
        unsetenv("CLSHM_SOCKET"); /* an option beats the environment, and a socket would beat a partition */
        return 0;
    case 's':
        tool->socket = arg;
        return 0;
    case 'j':
        tool->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option tool_options[] = {
    {0, 0, NULL, 0, "Options of every clshm tool:", 10},
    {"fabric", 'f', "NAME", 0, "The fabric, by its name or directory (CLSHM_FABRIC)", 0},
    {"partition", 'p', "NAME", 0, "The partition whose daemon to talk to (CLSHM_PARTITION)", 0},
    {"socket", 's', "PATH", 0, "The socket of that daemon (CLSHM_SOCKET)", 0},
    {"json", 'j', NULL, 0, "Print JSON", 0},
    {NULL, '0', NULL, OPTION_HIDDEN, NULL, 0},
    {NULL, '1', NULL, OPTION_HIDDEN, NULL, 0},
    {NULL, '2', NULL, OPTION_HIDDEN, NULL, 0},
    {NULL, '3', NULL, OPTION_HIDDEN, NULL, 0},
    {NULL, '4', NULL, OPTION_HIDDEN, NULL, 0},
    {NULL, '5', NULL, OPTION_HIDDEN, NULL, 0},
    {NULL, '6', NULL, OPTION_HIDDEN, NULL, 0},
    {NULL, '7', NULL, OPTION_HIDDEN, NULL, 0},
    {NULL, '8', NULL, OPTION_HIDDEN, NULL, 0},
    {NULL, '9', NULL, OPTION_HIDDEN, NULL, 0},
    {0}};

const struct argp tool_argp = {.options = tool_options, .parser = parse};

error_t tool_parse_none(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->input;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: too many arguments", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

void tool_bad_argument(struct argp_state *state, const char *text, int r, const char *expected)
{
    argp_error(state, "%s: expected %s (%s)", text, expected, tool_errno_name(r));
}

void tool_export(const struct tool *tool)
{
    if (tool->fabric != NULL)
        setenv("CLSHM_FABRIC", tool->fabric, 1);
    if (tool->partition != NULL)
        setenv("CLSHM_PARTITION", tool->partition, 1);
    if (tool->socket != NULL)
        setenv("CLSHM_SOCKET", tool->socket, 1);
}

/* ------------------------------------------------------------------ errors */

const char *tool_errno_name(int error)
{
    const char *name = strerrorname_np(error);

    return name != NULL ? name : "unknown error";
}

void tool_error(const char *object, int error, const char *format, ...)
{
    int saved = errno;
    va_list ap;

    fflush(stdout);
    fprintf(stderr, "%s: %s: ", program_invocation_short_name, object);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    if (error != 0)
        fprintf(stderr, " (%s)\n", tool_errno_name(error));
    else
        fputc('\n', stderr);
    errno = saved;
}

void tool_hint(const char *format, ...)
{
    va_list ap;

    fputs("hint: ", stderr);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void tool_hint_command(const struct tool *tool, const char *program, const char *arguments)
{
    const char *const given[][2] = {{" -f ", tool->fabric}, {" -p ", tool->partition}, {" -s ", tool->socket}};

    fprintf(stderr, "hint: %s", program);
    for (size_t i = 0; i < sizeof(given) / sizeof(given[0]); i++)
        if (given[i][1] != NULL)
            fprintf(stderr, "%s%s", given[i][0], given[i][1]);
    fprintf(stderr, " %s\n", arguments);
}

int tool_finish(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    tool_error("standard output", errno, "cannot be written");
    return status != TOOL_DONE ? status : TOOL_FAILED;
}

/* ------------------------------------------------------------------ where things are */

/* @return NULL: *@error. */
static const char *socket_path(const struct tool *tool, int *error)
{
    static char path[PATH_SOCKET_MAX];

    *error = path_socket(tool->socket, tool->partition, path);
    return *error == 0 ? path : NULL;
}

const char *tool_socket_path(const struct tool *tool)
{
    int error;
    const char *path = socket_path(tool, &error);

    return path != NULL ? path : tool->socket != NULL ? tool->socket : "socket";
}

char *tool_fabric_path(const struct tool *tool, const char *name)
{
    char path[PATH_FABRIC_MAX];
    CLEANUP_FREE char *cwd = NULL;
    char *whole;
    int r = path_fabric(name != NULL ? name : tool->fabric, path);

    if (r != 0) {
        errno = r;
        return NULL;
    }
    for (size_t length = strlen(path); length > 1 && path[length - 1] == '/'; length--)
        path[length - 1] = '\0';
    if (path[0] == '/')
        return strdup(path);
    cwd = get_current_dir_name();
    return cwd == NULL || asprintf(&whole, "%s/%s", cwd, path) < 0 ? NULL : whole;
}

int tool_resolve_bind(struct tool *tool)
{
    static char socket[PATH_SOCKET_MAX];
    const char *env = secure_getenv("CLSHM_PARTITION");
    int r;

    if (tool->partition == NULL)
        tool->partition = env != NULL && *env != '\0' ? env : "default";
    r = path_socket_bind(tool->socket, tool->partition, socket);
    if (r == 0)
        tool->socket = socket;
    return r;
}

/* ------------------------------------------------------------------ the conversation */

static struct tool_conn *conn_new(void)
{
    struct tool_conn *conn = calloc(1, sizeof(*conn));

    if (conn != NULL)
        conn->conn = (struct conn)CONN_INIT;
    return conn;
}

struct tool_conn *tool_disconnect(struct tool_conn *conn)
{
    if (conn != NULL)
        conn_close(&conn->conn);
    free(conn);
    return NULL;
}

/* Connect and say HELLO. @return 0 or an errno. */
static int greet(struct tool_conn *conn, const char *path, uint32_t wait_ms)
{
    int r = conn_open(&conn->conn, path, wait_ms);

    if (r == 0)
        r = conn_hello(&conn->conn, CLSHMD_HELLO_TOOL, 0, &conn->hello, NULL, NULL, CONN_TIMEOUT_MS);
    return r < 0 ? -r : r;
}

int tool_try_connect(const struct tool *tool, struct tool_conn **out)
{
    CLEANUP_CONN struct tool_conn *conn = conn_new();
    int r;
    const char *path = socket_path(tool, &r);

    *out = NULL;
    if (conn == NULL || path == NULL)
        return conn == NULL ? ENOMEM : r;
    r = greet(conn, path, 0);
    if (r == 0)
        *out = steal_ptr(conn);
    return r;
}

/* What happened, without the socket's path at its start: tool_error() says that already. */
static const char *why(const struct tool_conn *conn, const char *path)
{
    const char *text = conn->conn.why;
    size_t length = strlen(path);

    if (strncmp(text, path, length) == 0)
        text += length;
    text += strspn(text, ": ");
    return *text != '\0' ? text : "the daemon refuses to talk";
}

enum tool_status tool_connect(const struct tool *tool, struct tool_conn **out)
{
    CLEANUP_CONN struct tool_conn *conn = conn_new();
    struct stat st;
    int r;
    const char *path = socket_path(tool, &r);

    *out = NULL;
    if (path == NULL) {
        tool_error(tool->socket != NULL      ? tool->socket
                   : tool->partition != NULL ? tool->partition
                                             : "socket",
                   r, "%s", path_strerror(r));
        return TOOL_USAGE;
    }
    if (conn == NULL) {
        tool_error(path, ENOMEM, "cannot talk to the daemon");
        return TOOL_FAILED;
    }
    r = greet(conn, path, 0);
    if (r == 0) {
        *out = steal_ptr(conn);
        return TOOL_DONE;
    }
    tool_error(path, r, "%s", why(conn, path));
    if (r == EIO)
        tool_hint_command(tool, "clshmctl", "startup");
    if (r == EACCES && stat(path, &st) == 0)
        tool_hint("export CLSHM_DAEMON_UID=%u # if you trust that user", st.st_uid);
    return TOOL_UNREACHABLE;
}

const struct clshmd_hello_reply *tool_hello(const struct tool_conn *conn)
{
    return &conn->hello;
}

int tool_socket(const struct tool_conn *conn)
{
    return conn->conn.fd;
}

bool tool_broken(const struct tool_conn *conn)
{
    return conn->broken;
}

int tool_call(struct tool_conn *conn, enum clshmd_op op, const void *request, size_t request_size, void *reply,
              size_t reply_size)
{
    int r;

    if (conn->broken)
        return EIO;
    r = conn_call(&conn->conn, op, request, request_size, reply, reply_size, NULL, NULL, CONN_TIMEOUT_MS);
    conn->broken = r < 0;
    return r < 0 ? -r : r;
}

enum tool_status tool_failed(const struct tool_conn *conn, const char *object, int error, const char *what)
{
    if (conn->broken) {
        tool_error(object, error, "%s", conn->conn.why[0] != '\0' ? conn->conn.why : "the conversation broke");
        return TOOL_UNREACHABLE;
    }
    tool_error(object, error, "%s", what);
    return TOOL_FAILED;
}

/* ------------------------------------------------------------------ texts */

void tool_clean(char *text, size_t size)
{
    text[size - 1] = '\0';
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
}

const char *tool_part_state(uint32_t state)
{
    static const char *const names[] = {"absent", "alive", "stalled", "dead"};

    return state < sizeof(names) / sizeof(names[0]) ? names[state] : "unknown";
}

const char *tool_fabric_kind(uint32_t kind)
{
    static const char *const names[] = {"unknown", "local", "device", "cluster"};

    return kind < sizeof(names) / sizeof(names[0]) ? names[kind] : names[0];
}
