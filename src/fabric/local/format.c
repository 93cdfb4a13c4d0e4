/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mkfabric: make the directory of a local fabric with its two files.
 *
 * All is made in a directory of another name beside it, which is then renamed without replacing anything: a half-made
 * fabric never shows, and of two who make the same one gets EEXIST. The files are sparse; what every member touches
 * without asking, superblock and slots, is allocated. Where this is done, the parent, must be root's or ours, and no
 * place where others may put things, unless it is sticky; the usual parents are made when they are missing.
 */
#include "src/fabric/local/local.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/util/cleanup.h"
#include "src/util/log.h"

#define FABRICS_ROOT "/dev/shm/clshm"

struct making {
    const struct fabric_format *format;
    struct fabric_superblock sb;
    char *parent, *name; /* of the path */
    char temporary[32];
    int parent_fd, dir_fd;
    bool made; /* the temporary directory is there */
};

static int split_path(struct making *m, const char *path)
{
    char *slash;
    size_t len;

    m->parent = strdup(path ? path : "");
    if (!m->parent)
        return ENOMEM;
    for (len = strlen(m->parent); len > 1 && m->parent[len - 1] == '/'; len--)
        m->parent[len - 1] = 0;
    slash = strrchr(m->parent, '/');
    m->name = slash ? slash + 1 : m->parent;
    if (!slash || !*m->name || strcmp(m->name, ".") == 0 || strcmp(m->name, "..") == 0) {
        log_error("'%s': a fabric's path is absolute and ends with its name", path ? path : "");
        return EINVAL;
    }
    *slash = 0;
    return 0;
}

/* The places where fabrics are looked for are made when they are missing; others are the caller's to make. */
static int make_usual_parent(const char *parent)
{
    char own[sizeof(FABRICS_ROOT) + 16];
    bool for_all = strcmp(parent, FABRICS_ROOT) == 0;

    snprintf(own, sizeof(own), FABRICS_ROOT "-%u", geteuid());
    if (!for_all && strcmp(parent, own) != 0)
        return 0;
    if (mkdir(parent, 0700) < 0)
        return errno == EEXIST ? 0 : errno;
    if (for_all && chmod(parent, 0755) < 0) /* whatever the umask */
        return errno;
    return 0;
}

static int open_parent(struct making *m)
{
    const char *parent = *m->parent ? m->parent : "/";
    int error = make_usual_parent(parent);
    struct stat st;

    if (!error) {
        m->parent_fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (m->parent_fd < 0 || fstat(m->parent_fd, &st) < 0)
            error = errno;
    }
    if (error) {
        log_error("%s: %s", parent, strerror(error));
        return error;
    }
    if (st.st_uid != 0 && st.st_uid != geteuid()) {
        log_error("%s: belongs to uid %u, who is neither root nor this user", parent, st.st_uid);
        return EACCES;
    }
    if ((st.st_mode & 022) && !(st.st_mode & S_ISVTX)) {
        log_error("%s: others may write here; no place for a fabric", parent);
        return EACCES;
    }
    return 0;
}

static int compute_layout(struct making *m)
{
    const struct fabric_format *format = m->format;
    struct area_geometry geometry = {
        .kind = FABRIC_LOCAL,
        .parts = format->parts,
        .slots = format->slots,
        .granule = format->granule ? format->granule : (uint32_t)sysconf(_SC_PAGESIZE),
        .heartbeat_ms = format->heartbeat_ms ? format->heartbeat_ms : LOCAL_HEARTBEAT_MS,
        .name = format->name ? format->name : m->name,
    };
    const char *why = NULL;

    if (getrandom(geometry.uuid, sizeof(geometry.uuid), 0) < 0 ||
        getrandom(&geometry.key_salt, sizeof(geometry.key_salt), 0) < 0)
        return errno;
    if (area_layout(&geometry, &m->sb, &why) != 0) {
        log_error("%s: %s", format->path, why ? why : strerror(EINVAL));
        return EINVAL;
    }
    if (format->mode & ~02777u) {
        log_error("%s: mode %o: only 02777 may be given", format->path, format->mode);
        return EINVAL;
    }
    return 0;
}

static int make_file(struct making *m, const char *name, uint64_t size, uint64_t allocated, mode_t mode)
{
    CLEANUP_CLOSE int fd = openat(m->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0 || fchmod(fd, mode) < 0)
        return errno;
    if (m->format->group >= 0 && fchown(fd, (uid_t)-1, (gid_t)m->format->group) < 0)
        return errno;
    if (ftruncate(fd, (off_t)size) < 0)
        return errno;
    if (allocated == 0)
        return 0;
    if (fallocate(fd, 0, 0, (off_t)allocated) < 0)
        return errno;
    return pwrite(fd, &m->sb, sizeof(m->sb), 0) == (ssize_t)sizeof(m->sb) ? 0 : EIO;
}

static int make_directory(struct making *m)
{
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) < 0)
        return errno;
    snprintf(m->temporary, sizeof(m->temporary), ".new-%016lx", random);
    if (mkdirat(m->parent_fd, m->temporary, 0700) < 0)
        return errno;
    m->made = true;
    m->dir_fd = openat(m->parent_fd, m->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return m->dir_fd < 0 ? errno : 0;
}

static int fill_directory(struct making *m)
{
    uint32_t dir_mode = m->format->mode ? m->format->mode : 0700;
    mode_t mode = 0600 | (dir_mode & 020 ? 060 : 0) | (dir_mode & 02 ? 06 : 0);
    uint64_t slots_end = m->sb.slots_offset + m->sb.parts * (uint64_t)sizeof(struct fabric_slot);
    int error = make_file(m, "control", m->sb.area_size, slots_end, mode);

    if (!error)
        error = make_file(m, "gens", area_gens_size(&m->sb), 0, mode);
    /* The group first: changing it would clear the setgid bit. */
    if (!error && m->format->group >= 0 && fchown(m->dir_fd, (uid_t)-1, (gid_t)m->format->group) < 0)
        error = errno;
    if (!error && fchmod(m->dir_fd, dir_mode) < 0)
        error = errno;
    if (!error && renameat2(m->parent_fd, m->temporary, m->parent_fd, m->name, RENAME_NOREPLACE) < 0)
        error = errno;
    if (!error)
        m->made = false;
    return error;
}

static void making_deinit(struct making *m)
{
    if (m->made) {
        if (m->dir_fd >= 0) {
            (void)unlinkat(m->dir_fd, "control", 0);
            (void)unlinkat(m->dir_fd, "gens", 0);
        }
        (void)unlinkat(m->parent_fd, m->temporary, AT_REMOVEDIR);
    }
    close_fd(m->dir_fd);
    close_fd(m->parent_fd);
    free(m->parent);
}

int local_format(const struct fabric_format *format)
{
    CLEANUP(making_deinit) struct making m = {.format = format, .parent_fd = -1, .dir_fd = -1};
    struct stat st;
    int error;

    if ((error = split_path(&m, format->path)) || (error = compute_layout(&m)) || (error = open_parent(&m)))
        return error;
    if (fstatat(m.parent_fd, m.name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        error = EEXIST;
    if (!error)
        error = make_directory(&m);
    if (!error)
        error = fill_directory(&m);
    if (error == EEXIST)
        log_error("%s: exists already", format->path);
    else if (error)
        log_error("%s: %s", format->path, strerror(error));
    return error;
}
