// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Names become paths here and nowhere else, so that library, tools and daemon look in the same places.
 *
 * A socket's path must fit sun_path: it is refused when it does not, never cut. Nothing is created, and of files only
 * their existence is asked for: what answers at a socket is judged by conn.c.
 */
#include "src/lib/path.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/fabric.h"
#include "src/util/cleanup.h"

static_assert(PATH_NAME_MAX == FABRIC_NAME_MAX, "one limit for names");

#define RUN_DIR "/run/clshm"

static void cleanup_closedir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

/* NULL when unset, empty, or not to be trusted. */
static const char *env(const char *name)
{
    const char *value = secure_getenv(name);
    return value && *value ? value : NULL;
}

/* $XDG_RUNTIME_DIR/clshm; NULL if there is none. A relative one is to be ignored, says its specification. */
static const char *runtime_dir(char *out, size_t size)
{
    const char *xdg = env("XDG_RUNTIME_DIR");
    if (!xdg || xdg[0] != '/')
        return NULL;
    int n = snprintf(out, size, "%s/clshm", xdg);
    return n > 0 && (size_t)n < size ? out : NULL;
}

static int copy_out(const char *text, char *out, size_t size)
{
    size_t length = strlen(text);
    if (length >= size)
        return ENAMETOOLONG;
    memcpy(out, text, length + 1);
    return 0;
}

bool path_name_valid(const char *name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = strnlen(name, PATH_NAME_MAX);
    return length > 0 && length < PATH_NAME_MAX && name[0] != '.' && strspn(name, allowed) == length;
}

int path_fabric(const char *option, char out[static PATH_FABRIC_MAX])
{
    const char *name = option ? option : env("CLSHM_FABRIC");
    if (!name)
        name = "default";
    if (strchr(name, '/'))
        return copy_out(name, out, PATH_FABRIC_MAX);
    if (!path_name_valid(name))
        return EINVAL;
    if (geteuid() == 0)
        snprintf(out, PATH_FABRIC_MAX, "/dev/shm/clshm/%s", name);
    else
        snprintf(out, PATH_FABRIC_MAX, "/dev/shm/clshm-%u/%s", geteuid(), name);
    return 0;
}

/* Look at the partitions below @base that have a socket. @found: the first one's name, or empty. @return false: there
 * is another besides @found. */
static bool scan_partitions(const char *base, char found[static PATH_NAME_MAX])
{
    DIR *dir CLEANUP(cleanup_closedir) = opendir(base);
    if (!dir)
        return true;
    for (struct dirent *e; (e = readdir(dir));) {
        char sock[PATH_NAME_MAX + 8];
        if (!path_name_valid(e->d_name) || strcmp(e->d_name, found) == 0)
            continue;
        snprintf(sock, sizeof(sock), "%.31s/sock", e->d_name);
        if (faccessat(dirfd(dir), sock, F_OK, 0) < 0)
            continue;
        if (*found)
            return false;
        copy_out(e->d_name, found, PATH_NAME_MAX);
    }
    return true;
}

int path_partition(const char *option, char out[static PATH_NAME_MAX])
{
    const char *name = option ? option : env("CLSHM_PARTITION");
    if (name) {
        if (!path_name_valid(name))
            return EINVAL;
        return copy_out(name, out, PATH_NAME_MAX);
    }
    char found[PATH_NAME_MAX] = "", dir[PATH_FABRIC_MAX];
    const char *xdg = runtime_dir(dir, sizeof(dir));
    bool single = (!xdg || scan_partitions(xdg, found)) && scan_partitions(RUN_DIR, found);
    return copy_out(single && *found ? found : "default", out, PATH_NAME_MAX);
}

static int join(const char *base, const char *partition, char *out)
{
    int n = snprintf(out, PATH_SOCKET_MAX, "%s/%s/sock", base, partition);
    return n > 0 && (size_t)n < PATH_SOCKET_MAX ? 0 : ENAMETOOLONG;
}

/* The socket named outright. @return -1: none is. */
static int explicit_socket(const char *option, char *out)
{
    const char *socket = option ? option : env("CLSHM_SOCKET");
    if (!socket)
        return -1;
    return *socket ? copy_out(socket, out, PATH_SOCKET_MAX) : EINVAL;
}

int path_socket_bind(const char *option, const char *partition, char out[static PATH_SOCKET_MAX])
{
    char name[PATH_NAME_MAX], dir[PATH_FABRIC_MAX];
    int error = explicit_socket(option, out);
    if (error >= 0)
        return error;
    error = path_partition(partition, name);
    if (error)
        return error;
    const char *xdg = geteuid() == 0 ? NULL : runtime_dir(dir, sizeof(dir));
    return join(xdg ? xdg : RUN_DIR, name, out);
}

int path_socket(const char *option, const char *partition, char out[static PATH_SOCKET_MAX])
{
    char name[PATH_NAME_MAX], dir[PATH_FABRIC_MAX];
    int error = explicit_socket(option, out);
    if (error >= 0)
        return error;
    error = path_partition(partition, name);
    if (error)
        return error;
    const char *bases[] = {runtime_dir(dir, sizeof(dir)), RUN_DIR};
    for (size_t i = 0; i < 2; i++) {
        if (bases[i] && join(bases[i], name, out) == 0 && access(out, F_OK) == 0)
            return 0;
    }
    return path_socket_bind(option, name, out);
}

const char *path_strerror(int error)
{
    switch (error) {
    case 0:
        return "no error";
    case EINVAL:
        return "malformed name: 1 to 31 of A-Z a-z 0-9 . _ - are allowed, the first one not a dot";
    case ENAMETOOLONG:
        return "path too long (a socket's: 107 bytes): name a shorter one with --socket or CLSHM_SOCKET";
    default:
        return strerror(error);
    }
}
