/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much memory may still be reserved.
 *
 * A memfd has no size limit of its own: reserving more than there is does not fail but wakes the OOM killer, which then
 * picks some process. So we look first: at what the kernel says it could give (MemAvailable, SwapFree) and at the limit
 * of each memory cgroup on the way up from ours (version 2, or 1), less what is kept for others to live on. A figure
 * that cannot be read does not limit.
 */
#include "src/fabric/local/local.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/util/cleanup.h"

#define ROOM_KEPT (32ULL << 20) /* for the processes that run already */
#define ROOM_MAX  UINT64_MAX

/* @return bytes read, NUL-terminated in @buf; 0: no such file */
static size_t slurp(const char *path, char *buf, size_t size)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;

    while (fd >= 0 && len < size - 1) {
        ssize_t n = read(fd, buf + len, size - 1 - len);

        if (n <= 0)
            break;
        len += (size_t)n;
    }
    buf[len] = 0;
    return len;
}

/* The number after @word at the beginning of a line. */
static bool line_value(const char *text, const char *word, uint64_t *out)
{
    size_t len = strlen(word);

    for (const char *line = text; line && *line; line = strchr(line, '\n')) {
        if (*line == '\n')
            line++;
        if (strncmp(line, word, len) == 0 && (line[len] == ' ' || line[len] == ':')) {
            *out = strtoull(line + len + 1, NULL, 10);
            return true;
        }
    }
    return false;
}

static uint64_t machine_room(void)
{
    char text[4096];
    uint64_t available, swap = 0;

    if (!slurp("/proc/meminfo", text, sizeof(text)) || !line_value(text, "MemAvailable", &available))
        return ROOM_MAX;
    (void)line_value(text, "SwapFree", &swap);
    return (available + swap) * 1024;
}

struct cgroup_files {
    const char *root, *limit, *usage, *inactive, *active;
};

static const struct cgroup_files cgroup_v2 = {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file",
                                              "active_file"};
static const struct cgroup_files cgroup_v1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                              "total_inactive_file", "total_active_file"};

static uint64_t cgroup_room_at(const struct cgroup_files *files, const char *group)
{
    char path[600], text[8192];
    uint64_t limit, usage, part, cache = 0;

    snprintf(path, sizeof(path), "%s%s/%s", files->root, group, files->limit);
    if (!slurp(path, text, sizeof(text)) || text[0] < '0' || text[0] > '9') /* "max" */
        return ROOM_MAX;
    limit = strtoull(text, NULL, 10);
    snprintf(path, sizeof(path), "%s%s/%s", files->root, group, files->usage);
    if (!slurp(path, text, sizeof(text)))
        return ROOM_MAX;
    usage = strtoull(text, NULL, 10);
    snprintf(path, sizeof(path), "%s%s/memory.stat", files->root, group);
    slurp(path, text, sizeof(text));
    /* Page cache of files counts as used, but goes when somebody needs room. */
    if (line_value(text, files->inactive, &part))
        cache += part;
    if (line_value(text, files->active, &part))
        cache += part;
    usage -= cache < usage ? cache : usage;
    return limit > usage ? limit - usage : 0;
}

/* The smallest room from @group up to the root. */
static uint64_t cgroup_room(const struct cgroup_files *files, char *group)
{
    uint64_t room = ROOM_MAX;

    for (;;) {
        uint64_t here = cgroup_room_at(files, group);
        char *slash = strrchr(group, '/');

        room = here < room ? here : room;
        if (!slash || !*group)
            return room;
        *slash = 0;
    }
}

/* Lines of /proc/self/cgroup: "0::/path" (version 2), "4:memory:/path" (version 1). */
static uint64_t cgroups_room(void)
{
    char text[4096];
    char *save = NULL;
    uint64_t room = ROOM_MAX;

    slurp("/proc/self/cgroup", text, sizeof(text));
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *names = strchr(line, ':');
        char *group = names ? strchr(names + 1, ':') : NULL;
        uint64_t here = ROOM_MAX;

        if (!group || strlen(group) > 480)
            continue;
        *group++ = 0;
        names++;
        if (!*names)
            here = cgroup_room(&cgroup_v2, group);
        else if (strcmp(names, "memory") == 0)
            here = cgroup_room(&cgroup_v1, group);
        room = here < room ? here : room;
    }
    return room;
}

uint64_t local_room(void)
{
    uint64_t machine = machine_room();
    uint64_t group = cgroups_room();
    uint64_t room = machine < group ? machine : group;

    if (room == ROOM_MAX)
        return room;
    return room > ROOM_KEPT ? room - ROOM_KEPT : 0;
}
