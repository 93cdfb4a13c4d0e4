/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clshmctl startup: makes the default fabric if need be, starts clshmd detached, and waits until its socket answers.
 *
 * The daemon's stdout and stderr go to the file of --log, else to a memfd that holds the first LOG_MAX bytes and
 * refuses the rest: so what a daemon said that ended at once can be shown, and nothing is blocked or fills up later.
 * (A pipe would break when this tool ends.)
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "src/fabric/ops.h"
#include "src/lib/path.h"
#include "src/tools/clshmctl.h"
#include "src/tools/fabrics.h"
#include "src/tools/parse.h"
#include "src/util/cleanup.h"

#define LOG_MAX  65536
#define LIMIT_MS 10000
#define LOOK_MS  20

extern char **environ;

struct input {
    struct tool *tool;
    const char *log, *config;
};

/* A daemon that was started and has not answered yet. */
struct child {
    pid_t pid;
    int pidfd;
    int log;
    off_t log_begin;
};

static void child_deinit(struct child *child)
{
    child->pidfd = close_fd(child->pidfd);
    child->log = close_fd(child->log);
}

/* ------------------------------------------------------------------ the binary */

/* The directory that this program lies in. */
static char *own_directory(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    char *slash;

    if (n < 0)
        return NULL;
    path[n] = '\0';
    slash = strrchr(path, '/');
    if (slash == NULL)
        return NULL;
    *slash = '\0';
    return strdup(path);
}

/* $CLSHMD; beside or near this program (a build tree, an unusual prefix); where it is installed. Caller frees. */
static char *find_daemon(void)
{
    static const char *const near[] = {"clshmd", "../daemon/clshmd", "../sbin/clshmd", "../libexec/clshm/clshmd"};
    const char *env = secure_getenv("CLSHMD");
    CLEANUP_FREE char *own = own_directory();
    char *path;

    if (env != NULL && *env != '\0')
        return strdup(env);
    for (size_t i = 0; own != NULL && i < sizeof(near) / sizeof(near[0]); i++) {
        if (asprintf(&path, "%s/%s", own, near[i]) < 0)
            return NULL;
        if (access(path, X_OK) == 0)
            return path;
        free(path);
    }
    return strdup(CLSHMD_PATH);
}

/* ------------------------------------------------------------------ starting it */

static int open_log(const char *path)
{
    int fd;

    if (path != NULL)
        return open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    fd = memfd_create("clshmd-log", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && (ftruncate(fd, LOG_MAX) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) != 0))
        fd = close_fd(fd);
    return fd;
}

/* argv for posix_spawn: words stay the caller's. */
static void daemon_arguments(const struct input *input, const char *binary, const char *fabric, const char *words[16])
{
    size_t n = 0;

    words[n++] = binary;
    words[n++] = "--fabric";
    words[n++] = fabric;
    words[n++] = "--partition";
    words[n++] = input->tool->partition;
    words[n++] = "--socket";
    words[n++] = input->tool->socket;
    if (input->config != NULL) {
        words[n++] = "--config";
        words[n++] = input->config;
    }
    words[n] = NULL;
}

/* It should not keep the place busy where this tool was called, unless it was told of files in relation to it. */
static bool may_leave(const struct input *input)
{
    return input->tool->socket[0] == '/' && (input->config == NULL || input->config[0] == '/');
}

static int spawn(const char *binary, const char *const *words, bool leave, int log, pid_t *out)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int r;

    sigemptyset(&none);
    sigfillset(&all);
    if (posix_spawn_file_actions_init(&actions) != 0)
        return ENOMEM;
    if (posix_spawnattr_init(&attr) != 0) {
        posix_spawn_file_actions_destroy(&actions);
        return ENOMEM;
    }
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    r = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    r = r != 0 ? r : posix_spawn_file_actions_adddup2(&actions, log, 1);
    r = r != 0 ? r : posix_spawn_file_actions_adddup2(&actions, log, 2);
    r = r != 0 ? r : posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    if (r == 0 && leave)
        r = posix_spawn_file_actions_addchdir_np(&actions, "/");
    r = r != 0 ? r : posix_spawn(out, binary, &actions, &attr, (char *const *)(uintptr_t)words, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

/* Start the daemon. On failure the user has been told. */
static bool start(const struct input *input, const char *fabric, struct child *child)
{
    CLEANUP_FREE char *binary = find_daemon();
    const char *words[16];
    int r;

    if (binary == NULL) {
        tool_error("clshmd", ENOMEM, "cannot start it");
        return false;
    }
    child->log = open_log(input->log);
    if (child->log < 0) {
        tool_error(input->log != NULL ? input->log : "log", errno, "cannot be opened");
        return false;
    }
    child->log_begin = lseek(child->log, 0, input->log != NULL ? SEEK_END : SEEK_SET);
    daemon_arguments(input, binary, fabric, words);
    r = spawn(binary, words, may_leave(input) && binary[0] == '/', child->log, &child->pid);
    if (r != 0) {
        tool_error(binary, r, "cannot start the daemon");
        tool_hint("CLSHMD=/path/to/clshmd clshmctl startup");
        return false;
    }
    child->pidfd = pidfd_open(child->pid, 0);
    return true;
}

/* Show what the daemon has said since it was started. */
static void show_log(const struct child *child)
{
    off_t at = child->log_begin, end = lseek(child->log, 0, SEEK_CUR);
    char buffer[4096];

    while (at < end) {
        size_t want = end - at < (off_t)sizeof(buffer) ? (size_t)(end - at) : sizeof(buffer);
        ssize_t n = pread(child->log, buffer, want, at);

        if (n <= 0)
            break;
        fwrite(buffer, 1, (size_t)n, stderr);
        at += n;
    }
}

/* ------------------------------------------------------------------ waiting for it */

static int64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Until it answers. @return 0 with *@out; ECHILD: it ended, with *@wstatus; ETIMEDOUT; what else connecting gave. */
static int wait_answer(const struct tool *tool, struct child *child, struct tool_conn **out, int *wstatus)
{
    int64_t end = now_ms() + LIMIT_MS;
    struct pollfd p = {.fd = child->pidfd, .events = POLLIN};

    for (;;) {
        int r = tool_try_connect(tool, out);

        if (r == 0 || r == EPROTO)
            return r;
        if (waitpid(child->pid, wstatus, WNOHANG) == child->pid)
            return ECHILD;
        if (now_ms() >= end)
            return ETIMEDOUT;
        poll(&p, 1, LOOK_MS); /* it ends, or a look later */
    }
}

static int not_up(const struct tool *tool, const struct child *child, int r, int wstatus)
{
    show_log(child);
    if (r == ECHILD && WIFEXITED(wstatus)) {
        tool_error("clshmd", 0, "it ended with status %d before its socket answered", WEXITSTATUS(wstatus));
        return WEXITSTATUS(wstatus) == TOOL_USAGE ? TOOL_USAGE : TOOL_FAILED;
    }
    if (r == ECHILD) {
        tool_error("clshmd", 0, "signal %d ended it before its socket answered", WTERMSIG(wstatus));
        return TOOL_FAILED;
    }
    tool_error(tool_socket_path(tool), r, "the daemon does not answer; it is stopped again");
    kill(child->pid, SIGTERM);
    return TOOL_FAILED;
}

/* ------------------------------------------------------------------ the command */

/* What a user asks for: which partition is up, and where. */
static int report(const struct tool *tool, struct tool_conn *conn, const char *fabric, bool was_up, bool made)
{
    struct clshmd_status_reply s;
    int r = tool_call(conn, CLSHMD_STATUS, NULL, 0, &s, sizeof(s));
    const char *name;

    if (r == 0 && s.self >= FABRIC_PARTS_MAX)
        r = EPROTO;
    if (r != 0)
        return (int)tool_failed(conn, "status", r, "the daemon is up, but did not say what it is");
    tool_clean(s.fabric, sizeof(s.fabric));
    tool_clean(s.part[s.self].name, sizeof(s.part[s.self].name));
    name = s.part[s.self].name;
    if (tool->json) {
        json_t *root = json_pack("{s:i s:s s:s s:s s:s s:b s:b}", "id", (int)s.self, "partition", name, "socket",
                                 tool_socket_path(tool), "fabric", s.fabric, "path", fabric, "was_up", was_up,
                                 "made_fabric", made);

        r = json_dumpf(root, stdout, JSON_INDENT(2));
        json_decref(root);
        puts("");
        return r == 0 ? TOOL_DONE : TOOL_FAILED;
    }
    if (made)
        printf("made fabric %s, the default one\n", s.fabric);
    printf("partition %" PRIu32 " (%s) %s\n  socket  %s\n  fabric  %s at %s\n", s.self, name,
           was_up ? "is up already" : "is up", tool_socket_path(tool), s.fabric, fabric);
    return TOOL_DONE;
}

/* Is the fabric that the running daemon serves the one that was asked for? */
static int already_up(const struct input *input, struct tool_conn *conn, const char *fabric)
{
    const char *name = fabrics_name(fabric);
    struct clshmd_status_reply s;

    if (input->tool->fabric != NULL && name != NULL && tool_call(conn, CLSHMD_STATUS, NULL, 0, &s, sizeof(s)) == 0 &&
        strncmp(s.fabric, name, FABRIC_NAME_MAX) != 0) {
        tool_error(tool_socket_path(input->tool), EADDRINUSE, "a daemon of fabric %.*s serves this partition already",
                   (int)FABRIC_NAME_MAX, s.fabric);
        tool_hint("clshmctl -p OTHER -f %s startup", input->tool->fabric);
        return TOOL_FAILED;
    }
    return report(input->tool, conn, fabric, true, false);
}

/* The fabric must be there; the default one is made. On failure the user has been told. */
static bool have_fabric(const char *named, const char *path, bool *made)
{
    struct fabric_format format = {.path = path, .name = fabrics_name(path), .group = -1};
    unsigned part;
    int r;

    if (fabrics_look(path, &part) != FABRICS_NONE)
        return true; /* a wrong one is the daemon's to judge */
    if (format.name == NULL || named != NULL) {
        tool_error(path, ENOENT, "there is no such fabric");
        tool_hint("clshmctl mkfabric %s", named != NULL ? named : path);
        return false;
    }
    r = fabric_local_ops.format(&format);
    if (r != 0 && r != EEXIST) {
        tool_error(path, r, "cannot make the default fabric");
        return false;
    }
    *made = r == 0;
    return true;
}

/* What names the fabric: option, environment, configuration file; NULL: nothing does. */
static const char *named_fabric(const struct input *input, const char *configured)
{
    const char *env = secure_getenv("CLSHM_FABRIC");

    if (input->tool->fabric != NULL)
        return input->tool->fabric;
    return env != NULL && *env != '\0' ? env : configured;
}

static int startup(struct input *input)
{
    CLEANUP_CONN struct tool_conn *conn = NULL;
    CLEANUP_FREE char *configured = fabrics_configured(input->config);
    const char *named = named_fabric(input, configured);
    CLEANUP_FREE char *fabric = tool_fabric_path(input->tool, named);
    CLEANUP(child_deinit) struct child child = {.pidfd = -1, .log = -1};
    int r = fabric != NULL ? tool_resolve_bind(input->tool) : errno;
    bool made = false;
    int wstatus = 0;

    if (r != 0) {
        tool_error(fabric == NULL                                     ? named
                   : r == ENAMETOOLONG && input->tool->socket != NULL ? input->tool->socket
                                                                      : input->tool->partition,
                   r, "%s", path_strerror(r));
        return TOOL_USAGE;
    }
    if (input->config != NULL && access(input->config, R_OK) != 0) {
        tool_error(input->config, errno, "cannot be read");
        return TOOL_FAILED;
    }
    r = tool_try_connect(input->tool, &conn);
    if (r == 0)
        return already_up(input, conn, fabric);
    if (!have_fabric(named, fabric, &made) || !start(input, fabric, &child))
        return TOOL_FAILED;
    r = wait_answer(input->tool, &child, &conn, &wstatus);
    return r == 0 ? report(input->tool, conn, fabric, false, made) : not_up(input->tool, &child, r, wstatus);
}

enum { OPT_LOG = 0x100, OPT_CONFIG };

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct input *input = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = input->tool;
        return 0;
    case OPT_LOG:
        input->log = arg;
        return 0;
    case OPT_CONFIG:
        input->config = arg;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "%s: too many arguments", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cmd_startup(struct tool *tool, int argc, char **argv)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    static const struct argp_option options[] = {
        {"log", OPT_LOG, "FILE", 0, "Append what the daemon says to FILE", 0},
        {"config", OPT_CONFIG, "FILE", 0, "Configuration file of the daemon", 0},
        {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc =
            "Start the daemon of this partition, in the background, and wait until it answers. The default fabric is "
            "made if it is not there. A partition that is up already is left alone.",
        .children = children,
    };
    struct input input = {.tool = tool};

    argp_parse(&argp, argc, argv, 0, NULL, &input);
    return startup(&input);
}
