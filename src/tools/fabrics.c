/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A local fabric is a directory with the files control, gens, life.NN and door.NN. Partition NN uses it while anybody
 * holds a lock on life.NN: its keeper, its daemon or one of its clients.
 *
 * Removal looks at the locks, renames the directory out of everyone's way, and looks again: who opens the fabric by
 * its path later finds none, and who had joined in between is seen by the second look and gets its directory back.
 * What is not a fabric's file is never removed.
 */
#include "src/tools/fabrics.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/tools/parse.h"
#include "src/util/cleanup.h"

static void cleanup_dir(DIR **dir)
{
    if (*dir != NULL)
        closedir(*dir);
}

static int on_setting(void *user, const char *section, const char *name, const char *value)
{
    char **out = user;

    if (*out == NULL && strcmp(section, "fabric") == 0 && strcmp(name, "path") == 0 && *value != '\0')
        *out = strdup(value);
    return 1;
}

char *fabrics_configured(const char *file)
{
    static const char etc[] = "/etc/clshm/clshmd.conf";
    const char *xdg = secure_getenv("XDG_CONFIG_HOME"), *home = secure_getenv("HOME");
    CLEANUP_FREE char *own = NULL;
    char *out = NULL;

    if (file == NULL && access(etc, F_OK) == 0)
        file = etc;
    if (file == NULL && xdg != NULL && *xdg == '/' && asprintf(&own, "%s/clshm/clshmd.conf", xdg) < 0)
        return NULL;
    if (file == NULL && own == NULL && home != NULL && asprintf(&own, "%s/.config/clshm/clshmd.conf", home) < 0)
        return NULL;
    if (file == NULL)
        file = own;
    if (file != NULL)
        ini_parse(file, on_setting, &out);
    return out;
}

const char *fabrics_name(const char *path)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    size_t length = strlen(name);

    if (length == 0 || length >= FABRIC_NAME_MAX || name[0] == '.' || strspn(name, letters) != length)
        return NULL;
    return name;
}

/* The NN of "life.NN" or "door.NN", else -1. */
static int part_of(const char *name, const char *prefix)
{
    size_t length = strlen(prefix);
    uint64_t part;

    if (strncmp(name, prefix, length) != 0 || strlen(name) != length + 2 ||
        parse_number(name + length, 0, FABRIC_PARTS_MAX - 1, &part) != 0)
        return -1;
    return (int)part;
}

static bool known_file(const char *name)
{
    return strcmp(name, "control") == 0 || strcmp(name, "gens") == 0 || part_of(name, "life.") >= 0 ||
           part_of(name, "door.") >= 0;
}

/* Whether @name, a life file, is locked. -1: errno. */
static int locked(int dir, const char *name)
{
    CLEANUP_CLOSE int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return errno == ENOENT ? 0 : -1;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    return errno == EWOULDBLOCK ? 1 : -1;
}

static enum fabrics_state look(DIR *dir, unsigned *out_part)
{
    struct dirent *entry;
    bool control = false;

    rewinddir(dir);
    while ((entry = readdir(dir)) != NULL) {
        int part = part_of(entry->d_name, "life.");
        int used = part >= 0 ? locked(dirfd(dir), entry->d_name) : 0;

        if (used < 0)
            return FABRICS_FAILED;
        if (used > 0) {
            *out_part = (unsigned)part;
            return FABRICS_USED;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (!known_file(entry->d_name))
            return FABRICS_FOREIGN;
        control = control || strcmp(entry->d_name, "control") == 0;
    }
    return control ? FABRICS_UNUSED : FABRICS_FOREIGN;
}

static enum fabrics_state open_dir(const char *path, DIR **out)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return errno == ENOENT ? FABRICS_NONE : errno == ENOTDIR || errno == ELOOP ? FABRICS_FOREIGN : FABRICS_FAILED;
    *out = fdopendir(fd);
    if (*out == NULL)
        return FABRICS_FAILED;
    fd = -1; /* the stream's now */
    return FABRICS_UNUSED;
}

enum fabrics_state fabrics_look(const char *path, unsigned *out_part)
{
    CLEANUP(cleanup_dir) DIR *dir = NULL;
    enum fabrics_state state = open_dir(path, &dir);

    return state == FABRICS_UNUSED ? look(dir, out_part) : state;
}

static enum fabrics_state remove_files(DIR *dir, const char *path)
{
    struct dirent *entry;

    rewinddir(dir);
    while ((entry = readdir(dir)) != NULL)
        if (known_file(entry->d_name) && unlinkat(dirfd(dir), entry->d_name, 0) != 0)
            return FABRICS_FAILED;
    return rmdir(path) == 0 ? FABRICS_NONE : FABRICS_FAILED;
}

enum fabrics_state fabrics_remove(const char *path, unsigned *out_part)
{
    CLEANUP(cleanup_dir) DIR *dir = NULL;
    CLEANUP_FREE char *aside = NULL;
    enum fabrics_state state = open_dir(path, &dir);

    if (state == FABRICS_UNUSED)
        state = look(dir, out_part);
    if (state != FABRICS_UNUSED)
        return state;
    if (asprintf(&aside, "%s.removed-%ld", path, (long)getpid()) < 0 || rename(path, aside) != 0)
        return FABRICS_FAILED;
    state = look(dir, out_part);
    if (state == FABRICS_UNUSED)
        return remove_files(dir, aside);
    return rename(aside, path) == 0 ? state : FABRICS_FAILED;
}
