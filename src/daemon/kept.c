/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Descriptors that the keeper holds for the next daemon, and the settings among them: a small memfd with what clshmctl
 * changed, so that a restart does not undo it.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/daemon/daemon.h"

struct settings {
    uint64_t maxpgs;
    uint32_t maxdpgs, timeout_ms;
    uint32_t valid, reserved;
};

static int kept_add(struct kept_fd **list, size_t *n, size_t *room, const struct keeper_msg *msg, int fd)
{
    if (*n == *room) {
        size_t more = *room ? *room * 2 : 64;
        struct kept_fd *grown = reallocarray(*list, more, sizeof(**list));

        if (!grown)
            return ENOMEM;
        *list = grown;
        *room = more;
    }
    (*list)[(*n)++] = (struct kept_fd){.kind = msg->kind, .id = msg->id, .fd = fd};
    return 0;
}

int kept_receive(int keeper, struct kept_fd **out, size_t *n, uint32_t *restarts)
{
    size_t room = 0;
    int error = 0;

    *out = NULL;
    *n = 0;
    while (!error) {
        struct keeper_msg msg;
        int fd;

        error = keeper_receive(keeper, &msg, &fd);
        if (error == EAGAIN || error == EINTR) {
            struct pollfd p = {.fd = keeper, .events = POLLIN};
            error = 0;
            poll(&p, 1, -1);
            continue;
        }
        if (error)
            break;
        if (msg.op == KEEPER_START) {
            *restarts = (uint32_t)msg.id;
            close_fd(fd);
            return 0;
        }
        if (msg.op != KEEPER_HERE || fd < 0) {
            close_fd(fd);
            continue;
        }
        error = kept_add(out, n, &room, &msg, fd);
        if (error)
            close_fd(fd);
    }
    for (size_t i = 0; i < *n; i++)
        close_fd((*out)[i].fd);
    free(*out);
    *out = NULL;
    *n = 0;
    return error;
}

int daemon_keep(struct daemon *d, enum keep_kind kind, uint64_t id, int fd)
{
    int error = keeper_send(d->keeper, KEEPER_KEEP, kind, id, fd);

    if (error)
        log_error("keeper: it does not take a descriptor of kind %d: %s (%s)", (int)kind, strerror(error),
                  strerrorname_np(error));
    return error;
}

void daemon_unkeep(struct daemon *d, enum keep_kind kind, uint64_t id)
{
    keeper_send(d->keeper, KEEPER_FORGET, kind, id, -1);
}

void settings_adopt(struct daemon *d, int fd)
{
    struct settings s;

    close_fd(d->settings);
    d->settings = fd;
    if (pread(fd, &s, sizeof(s), 0) != (ssize_t)sizeof(s) || s.valid != 1)
        return;
    d->config.limits.max_pages = s.maxpgs;
    d->config.maxpgs_given = true;
    d->config.maxdpgs = s.maxdpgs;
    d->config.timeout_ms = s.timeout_ms;
}

void settings_store(struct daemon *d)
{
    struct settings s = {.maxpgs = d->config.limits.max_pages,
                         .maxdpgs = d->config.maxdpgs,
                         .timeout_ms = d->config.timeout_ms,
                         .valid = 1};

    if (d->settings < 0) {
        d->settings = memfd_create("clshmd-settings", MFD_CLOEXEC);
        if (d->settings >= 0 && daemon_keep(d, KEEP_SETTINGS, 0, d->settings))
            d->settings = close_fd(d->settings);
    }
    if (d->settings < 0 || pwrite(d->settings, &s, sizeof(s), 0) != (ssize_t)sizeof(s))
        log_warning("settings: a restart of the daemon will not know what was changed now");
}
