/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The clients' socket: made in a directory of its own, or taken over from the keeper or systemd. A stale one is
 * replaced only if it is this daemon's user's and nobody accepts on it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/daemon/daemon.h"

#define LISTEN_BACKLOG 1024

/* The mode is meant, whatever the umask; umask(2) itself would hit other threads. */
static int make_dir(const char *dir, mode_t mode)
{
    if (mkdir(dir, mode) < 0)
        return errno == EEXIST ? 0 : -1;
    return chmod(dir, mode);
}

/* Make the last two directories of @path's parent that are missing: .../clshm/PART. */
static int make_parents(const char *path)
{
    char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
    char *slash, *upper;
    mode_t mode = geteuid() == 0 ? 0755 : 0700;

    snprintf(dir, sizeof(dir), "%s", path);
    slash = strrchr(dir, '/');
    if (!slash || slash == dir)
        return 0;
    *slash = '\0';
    if (make_dir(dir, mode) == 0)
        return 0;
    upper = strrchr(dir, '/');
    if (errno != ENOENT || !upper || upper == dir)
        return errno;
    *upper = '\0';
    if (make_dir(dir, mode) < 0)
        return errno;
    *upper = '/';
    return make_dir(dir, mode) < 0 ? errno : 0;
}

/* @return 0: @path is a stale socket of ours, and gone; EADDRINUSE: leave it alone. */
static int remove_stale(const struct sockaddr_un *addr)
{
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct stat st;

    if (fd < 0)
        return errno;
    if (lstat(addr->sun_path, &st) < 0)
        return errno == ENOENT ? 0 : errno;
    if (!S_ISSOCK(st.st_mode) || st.st_uid != geteuid())
        return EADDRINUSE;
    if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno != ECONNREFUSED)
        return EADDRINUSE;
    log_info("%s: removing the socket that an earlier daemon left", addr->sun_path);
    return unlink(addr->sun_path) < 0 && errno != ENOENT ? errno : 0;
}

static int bind_path(int fd, const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int error;

    if (strlen(path) >= sizeof(addr.sun_path))
        return ENAMETOOLONG;
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    for (int tries = 0; tries < 2; tries++) {
        if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
            return 0;
        error = errno;
        if (error == ENOENT)
            error = make_parents(path);
        else if (error == EADDRINUSE)
            error = remove_stale(&addr);
        if (error)
            return error;
    }
    return bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 ? errno : 0;
}

int daemon_listen(struct daemon *d)
{
    const char *path = d->options->socket;
    CLEANUP_CLOSE int fd = -1;
    int error;

    if (d->listen >= 0)
        return 0;
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return errno;
    error = bind_path(fd, path);
    if (!error && chmod(path, 0666) < 0) /* HELLO decides who gets what */
        error = errno;
    if (!error && listen(fd, LISTEN_BACKLOG) < 0)
        error = errno;
    if (!error)
        error = daemon_keep(d, KEEP_LISTEN, KEEPER_LISTEN_OWN, fd);
    if (error) {
        log_error("%s: cannot listen: %s (%s)", path, strerror(error), strerrorname_np(error));
        if (error == EADDRINUSE)
            log_error("hint: clshmctl -s %s status", path);
        return error;
    }
    d->listen = steal_fd(&fd);
    d->listen_own = true;
    return 0;
}

void daemon_unlisten(struct daemon *d, bool remove)
{
    struct stat st;

    d->listen_io = sd_event_source_disable_unref(d->listen_io);
    if (remove && d->listen >= 0 && d->listen_own && lstat(d->options->socket, &st) == 0 && S_ISSOCK(st.st_mode) &&
        st.st_uid == geteuid())
        unlink(d->options->socket);
    d->listen = close_fd(d->listen);
}
