/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a partition ends. In good order: no more connections; if users are to be ended, SIGTERM to the processes that
 * attach something, SIGKILL two seconds later; then every own segment is destroyed (who still maps it gets SIGBUS), the
 * partition leaves the fabric, the socket goes, the keeper is told to quit.
 *
 * Evicted: the others have declared this partition dead. Its own segments are destroyed, what it imported is let go of
 * untouched (it lives on elsewhere), and the keeper starts a fresh daemon that joins anew.
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/daemon/daemon.h"

#define STOP_LOOK_MS   50u
#define STOP_TERM_MS   2000u
#define STOP_KILL_MS   4000u
#define STOP_ASK_BEATS 3u /* how long importers have to say that nobody is attached there */

static bool client_in_use(struct client *client)
{
    struct clshmd_user use = {0};

    return core_client_use(client->d->core, client->number, &use) && use.attachments > 0;
}

static bool clients_in_use(struct daemon *d)
{
    struct client *client;

    DL_FOREACH (d->clients, client)
        if (client_in_use(client))
            return true;
    return false;
}

bool stop_in_use(struct daemon *d)
{
    if (clients_in_use(d))
        return true;
    for (uint32_t p = 0; p < d->sb->parts; p++) {
        struct clshmd_user use = {0};

        if (p != d->ops->self(d->fabric) && core_part_use(d->core, p, &use) && use.attachments > 0)
            return true;
    }
    return false;
}

static void destroy_own(struct daemon *d)
{
    struct clshmd_stat stat;

    for (uint32_t slot = core_next_segment(d->core, 0, &stat); slot; slot = core_next_segment(d->core, slot, &stat))
        if (d->ops->has(d->fabric, stat.shmid))
            d->ops->destroy(d->fabric, stat.shmid);
}

static void stop_finish(struct daemon *d)
{
    destroy_own(d);
    d->ops->leave(d->fabric);
    daemon_unlisten(d, true);
    keeper_send(d->keeper, KEEPER_QUIT, 0, 0, -1);
    log_info("stopped");
    daemon_exit(d, 0);
}

static void signal_users(struct daemon *d, int sig)
{
    struct client *client;

    DL_FOREACH (d->clients, client) {
        if (client->pidfd < 0 || !client_in_use(client))
            continue;
        log_info("pid %d (uid %u) still uses segments: signal %d", client->pid, client->uid, sig);
        syscall(SYS_pidfd_send_signal, client->pidfd, sig, NULL, 0);
    }
}

static int on_stop_timer(sd_event_source *source, uint64_t usec, void *ctx)
{
    struct daemon *d = ctx;
    uint64_t age = d->now_ms - d->stop_began_ms;

    if (!d->stop_users || !clients_in_use(d) || age >= STOP_KILL_MS) {
        stop_finish(d);
        return 0;
    }
    if (age >= STOP_TERM_MS && !d->stop_killed) {
        signal_users(d, SIGKILL);
        d->stop_killed = true;
    }
    sd_event_source_set_time(source, usec + STOP_LOOK_MS * 1000u);
    sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
    return 0;
}

void stop_begin(struct daemon *d, bool kill_users)
{
    if (d->stopping)
        return;
    d->stopping = true;
    d->stop_began_ms = d->now_ms;
    d->stop_users = kill_users;
    d->listen_io = sd_event_source_disable_unref(d->listen_io);
    log_info("stopping%s", kill_users ? ", and the processes that use segments" : "");
    if (kill_users)
        signal_users(d, SIGTERM);
    /* In the next turn: the answer to who asked is sent first. */
    if (sd_event_add_time_relative(d->event, &d->stop_timer, CLOCK_MONOTONIC, 0, 1000, on_stop_timer, d) < 0)
        stop_finish(d);
}

static int on_ask_timer(sd_event_source *source, uint64_t usec, void *ctx)
{
    struct daemon *d = ctx;
    bool in_use = stop_in_use(d), late = d->now_ms - d->stop_asked_ms > STOP_ASK_BEATS * d->sb->heartbeat_ms;

    if (in_use && core_counting(d->core) && !clients_in_use(d) && !late) {
        sd_event_source_set_time(source, usec + STOP_LOOK_MS * 1000u / 10);
        sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
    }
    d->stop_ask_timer = sd_event_source_disable_unref(d->stop_ask_timer);
    request_reply(d, d->stop_tag, in_use ? EBUSY : 0, NULL, 0, 0, 0);
    if (!in_use)
        stop_begin(d, false);
    return 0;
}

void stop_ask(struct daemon *d, uint64_t tag)
{
    if (d->stop_ask_timer || d->stopping) {
        request_reply(d, tag, d->stopping ? 0 : EBUSY, NULL, 0, 0, 0);
        return;
    }
    d->stop_tag = tag;
    d->stop_asked_ms = d->now_ms;
    core_count(d->core);
    if (sd_event_add_time_relative(d->event, &d->stop_ask_timer, CLOCK_MONOTONIC, 0, 1000, on_ask_timer, d) < 0)
        request_reply(d, tag, ENOMEM, NULL, 0, 0, 0);
}

void stop_evicted(struct daemon *d)
{
    log_error("this partition was declared dead by another one: everything is dropped, it joins anew");
    if (d->core)
        destroy_own(d);
    daemon_exit(d, KEEPER_EXIT_ANEW);
}
