/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's life. It starts by taking over what the keeper has, joins, builds the core from the records, and serves
 * until somebody sets exit_status. Everything happens on one thread in one loop, nothing in it waits; what takes long
 * is done by the fabric's threads.
 *
 * If the start fails half way, what was built is taken down in the opposite order. If the keeper dies, the daemon ends
 * at once without a word to anyone, as if it had been killed with it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "src/daemon/daemon.h"

#define TICK_MOST_MS 200u /* while the core waits for something, it is asked at least this often */

/* ------------------------------------------------------------------ time */

static void set_time(struct daemon *d)
{
    struct timespec mono, real;

    clock_gettime(CLOCK_MONOTONIC, &mono);
    clock_gettime(CLOCK_REALTIME, &real);
    d->now_ms = (uint64_t)mono.tv_sec * 1000u + (uint64_t)mono.tv_nsec / 1000000u;
    d->now_s = real.tv_sec;
    if (d->core)
        core_set_time(d->core, d->now_ms, d->now_s);
}

static void timer_arm(sd_event_source *timer, uint64_t ms)
{
    sd_event_source_set_time_relative(timer, ms * 1000u);
    sd_event_source_set_enabled(timer, SD_EVENT_ONESHOT);
}

void daemon_rearm(struct daemon *d)
{
    int enabled = SD_EVENT_OFF;
    uint64_t ms;

    if (!d->core || !d->tick_timer)
        return;
    sd_event_source_get_enabled(d->tick_timer, &enabled);
    if (enabled != SD_EVENT_OFF)
        return;
    ms = core_tick(d->core);
    if (ms != UINT64_MAX)
        timer_arm(d->tick_timer, ms < TICK_MOST_MS ? ms : TICK_MOST_MS);
}

/* Nothing to do: the loop calls daemon_rearm() after each event, and finds the timer off. */
static int on_tick(sd_event_source *source, uint64_t usec, void *ctx)
{
    (void)source;
    (void)usec;
    (void)ctx;
    return 0;
}

static int on_beat(sd_event_source *source, uint64_t usec, void *ctx)
{
    struct daemon *d = ctx;

    (void)usec;
    client_beat(d);
    session_beat(d);
    timer_arm(source, d->sb->heartbeat_ms);
    return 0;
}

static int on_poll(sd_event_source *source, uint64_t usec, void *ctx)
{
    struct daemon *d = ctx;

    (void)source;
    (void)usec;
    d->ops->dispatch(d->fabric);
    if (d->exit_status < 0)
        daemon_poll_timer(d);
    return 0;
}

void daemon_poll_timer(struct daemon *d)
{
    struct driver_info info = {0};
    uint64_t ms = d->config.timeout_ms;

    d->ops->info(d->fabric, &info);
    if (!ms && !(info.capabilities & DRV_DOORBELL))
        ms = CONFIG_TIMEOUT_MIN; /* nothing else would wake the daemon */
    if (ms)
        timer_arm(d->poll_timer, ms);
    else
        sd_event_source_set_enabled(d->poll_timer, SD_EVENT_OFF);
}

/* ------------------------------------------------------------------ events */

void daemon_exit(struct daemon *d, int status)
{
    if (d->exit_status < 0)
        d->exit_status = status;
}

static int on_fabric(sd_event_source *source, int fd, uint32_t revents, void *ctx)
{
    struct daemon *d = ctx;

    (void)source;
    (void)fd;
    (void)revents;
    d->ops->dispatch(d->fabric);
    d->served = true;
    return 0;
}

static int on_keeper(sd_event_source *source, int fd, uint32_t revents, void *ctx)
{
    struct keeper_msg msg;
    int with = -1, error = keeper_receive(fd, &msg, &with);

    (void)source;
    (void)revents;
    close_fd(with);
    if (error == ENOTCONN) {
        log_error("the keeper is gone: ending");
        daemon_exit(ctx, KEEPER_EXIT_FAILED);
    }
    return 0;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *ctx)
{
    struct daemon *d = ctx;

    (void)source;
    log_info("signal %u", info->ssi_signo);
    stop_begin(d, false);
    return 0;
}

static int add_signals(struct daemon *d)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    int error = 0;

    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]) && error >= 0; i++)
        error = sd_event_add_signal(d->event, NULL, signals[i], on_signal, d);
    return error;
}

static int add_sources(struct daemon *d)
{
    int error = add_signals(d);

    if (error >= 0)
        error = sd_event_add_io(d->event, &d->keeper_io, d->keeper, EPOLLIN, on_keeper, d);
    if (error >= 0)
        error = sd_event_add_io(d->event, &d->fabric_io, d->ops->poll_fd(d->fabric), EPOLLIN, on_fabric, d);
    if (error >= 0) /* what others wait for comes first */
        error = sd_event_source_set_priority(d->fabric_io, SD_EVENT_PRIORITY_IMPORTANT);
    if (error >= 0)
        error = sd_event_add_time_relative(d->event, &d->tick_timer, CLOCK_MONOTONIC, 0, 1000, on_tick, d);
    if (error >= 0)
        error = sd_event_add_time_relative(d->event, &d->poll_timer, CLOCK_MONOTONIC, 0, 1000, on_poll, d);
    if (error >= 0)
        error = sd_event_add_time_relative(d->event, &d->beat_timer, CLOCK_MONOTONIC,
                                           (uint64_t)d->sb->heartbeat_ms * 1000u, 1000, on_beat, d);
    if (error >= 0)
        daemon_poll_timer(d);
    return error < 0 ? -error : -daemon_accept_enable(d, true);
}

static bool receive(struct daemon *d, bool sleep)
{
    return d->ops->receive && d->ops->receive(d->fabric, sleep);
}

/* Look for what comes without sleeping. @return > 0: events to dispatch; 0: messages came, or nothing; negative */
static int look_around(struct daemon *d, bool *came)
{
    uint64_t end = spin_now_ns() + SPIN_NS;
    uint32_t looks = 0;
    int r = 0;

    do {
        looks++;
        *came = receive(d, false);
        if (!*came)
            r = sd_event_prepare(d->event);
        if (!*came && r == 0)
            r = sd_event_wait(d->event, 0);
    } while (!*came && r == 0 && spin_now_ns() < end);
    spin_learn(&d->spin, *came || r > 0, looks);
    return r;
}

/* Wait for the next turn: awake after a turn that served somebody, then asleep. @return as look_around(). */
static int wait_turn(struct daemon *d)
{
    bool came = false, spin = d->served && spin_wanted(&d->spin);
    int r = 0;

    d->served = false;
    if (spin) {
        r = look_around(d, &came);
        set_time(d);
    }
    if (!came && r == 0)
        came = receive(d, true);
    d->served = came;
    if (came || r != 0)
        return r;
    r = sd_event_prepare(d->event);
    if (r == 0)
        r = sd_event_wait(d->event, UINT64_MAX);
    set_time(d);
    d->served = receive(d, false);
    return r;
}

static int loop(struct daemon *d)
{
    spin_init(&d->spin, 0);
    while (d->exit_status < 0) {
        int r = wait_turn(d);

        if (r > 0)
            r = sd_event_dispatch(d->event);
        if (r < 0 && r != -EINTR) {
            log_error("event loop: %s (%s)", strerror(-r), strerrorname_np(-r));
            return KEEPER_EXIT_ANEW + 1; /* not a reason to give up: the keeper tries again */
        }
        if (d->exit_status >= 0)
            break;
        session_reap(d);
        daemon_rearm(d);
    }
    return d->exit_status;
}

/* ------------------------------------------------------------------ start */

static int fail(const struct daemon *d, const char *object, int error, const char *hint)
{
    log_error("%s: %s (%s)", object, strerror(error), strerrorname_np(error));
    if (hint)
        log_error("hint: %s%s", hint, strncmp(hint, "clshmctl", 8) == 0 ? d->options->fabric : "");
    return KEEPER_EXIT_FAILED;
}

static int open_fabric(struct daemon *d)
{
    struct fabric_config config = {.path = d->options->fabric,
                                   .partition = d->options->partition,
                                   .part = d->config.part,
                                   .ring_pages = d->config.maxdpgs,
                                   .squash = d->config.squash,
                                   .huge = d->config.huge,
                                   .huge_min = d->config.huge_min,
                                   .events = &glue_fabric_events,
                                   .ctx = d};
    int error = d->ops->open(&config, &d->fabric);

    if (error == ENOENT)
        return fail(d, d->options->fabric, error, "clshmctl mkfabric -f ");
    if (error)
        return fail(d, d->options->fabric, error, NULL);
    d->sb = d->ops->superblock(d->fabric);
    return 0;
}

static bool is_fabrics(uint32_t kind)
{
    return kind == KEEP_LIFE || kind == KEEP_DOOR || kind == KEEP_MEMORY || kind == KEEP_IMPORT ||
           kind == KEEP_IMPORT_RO;
}

/* Before the fabric is opened: the settings say how. */
static void adopt_early(struct daemon *d, struct kept_fd *kept, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (kept[i].kind == KEEP_SETTINGS)
            settings_adopt(d, steal_fd(&kept[i].fd));
        if (kept[i].kind == KEEP_LISTEN) {
            d->listen_own = kept[i].id == KEEPER_LISTEN_OWN;
            d->listen = close_fd(d->listen);
            d->listen = steal_fd(&kept[i].fd);
        }
    }
}

static void adopt_memory(struct daemon *d, struct kept_fd *kept, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int error;

        if (!is_fabrics(kept[i].kind))
            continue;
        error = d->ops->adopt(d->fabric, kept[i].kind, kept[i].id, steal_fd(&kept[i].fd));
        if (error)
            log_warning("descriptor of kind %u, id %llu, is not taken over: %s (%s)", kept[i].kind,
                        (unsigned long long)kept[i].id, strerror(error), strerrorname_np(error));
    }
}

/* @fresh: the pages belong to a membership that is over; their clients will say HELLO anew. */
static void adopt_clients(struct daemon *d, struct kept_fd *kept, size_t n, bool fresh)
{
    for (size_t i = 0; i < n; i++) {
        if (kept[i].kind != KEEP_CLIENT)
            continue;
        if (fresh)
            daemon_unkeep(d, KEEP_CLIENT, kept[i].id);
        else
            client_adopt(d, kept[i].id, steal_fd(&kept[i].fd));
    }
}

static void restore_imports(struct daemon *d, const struct kept_fd *kept, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int32_t shmid = (int32_t)kept[i].id;
        int error;

        if (kept[i].kind != KEEP_IMPORT || !d->ops->has(d->fabric, shmid))
            continue;
        error = core_restore_import(d->core, shmid);
        if (error)
            log_warning("import %d is not restored: %s (%s)", shmid, strerror(error), strerrorname_np(error));
    }
}

static int new_core(struct daemon *d)
{
    char hostname[80] = "";
    struct core_params params = {.self = d->ops->self(d->fabric),
                                 .epoch = d->ops->epoch(d->fabric),
                                 .parts = d->sb->parts,
                                 .slots = d->sb->slots,
                                 .part_bits = d->sb->part_bits,
                                 .slot_bits = d->sb->slot_bits,
                                 .granule = d->sb->granule};

    if (!d->config.maxpgs_given)
        d->config.limits.max_pages = config_default_maxpgs(d->sb->granule);
    if (!d->config.limits.max_segments || d->config.limits.max_segments > d->sb->slots)
        d->config.limits.max_segments = d->sb->slots;
    params.limits = d->config.limits;
    params.incarnation = d->ops->incarnation(d->fabric, params.self);
    d->core = core_new(&params, &glue_core_ops, d);
    if (!d->core)
        return ENOMEM;
    set_time(d);
    gethostname(hostname, sizeof(hostname) - 1);
    core_set_hostname(d->core, hostname);
    return 0;
}

/* Join, and be what the last daemon was. */
static int come_up(struct daemon *d, struct kept_fd *kept, size_t n)
{
    bool fresh = false;
    int error;

    adopt_memory(d, kept, n);
    error = d->ops->join(d->fabric, &fresh);
    if (error)
        return fail(d, d->options->partition, error, error == EADDRINUSE ? "clshmctl status -f " : NULL);
    error = new_core(d);
    if (!error) {
        adopt_clients(d, kept, n, fresh);
        restore_imports(d, kept, n);
        error = core_restore(d->core, fresh);
    }
    if (error) {
        fail(d, d->options->partition, error, NULL);
        if (fresh)
            d->ops->leave(d->fabric);
        return KEEPER_EXIT_FAILED;
    }
    if (daemon_listen(d)) { /* it said why */
        if (fresh)
            d->ops->leave(d->fabric);
        return KEEPER_EXIT_FAILED;
    }
    error = add_sources(d);
    if (error)
        return fail(d, "event loop", error < 0 ? -error : error, NULL);
    d->ops->ready(d->fabric);
    log_info("serving as partition %u (incarnation %u) of %s, on %s%s", d->ops->self(d->fabric),
             d->ops->incarnation(d->fabric, d->ops->self(d->fabric)), d->options->fabric, d->options->socket,
             fresh ? "" : ", going on where the last daemon stopped");
    return keeper_send(d->keeper, KEEPER_READY, 0, 0, -1) ? KEEPER_EXIT_FAILED : 0;
}

static int start(struct daemon *d)
{
    struct kept_fd *kept;
    size_t n;
    int status, error = kept_receive(d->keeper, &kept, &n, &d->restarts);

    if (error)
        return fail(d, "keeper", error, NULL);
    adopt_early(d, kept, n);
    error = sd_event_new(&d->event);
    if (error < 0)
        status = fail(d, "event loop", -error, NULL);
    else
        status = open_fabric(d);
    if (!status)
        status = come_up(d, kept, n);
    for (size_t i = 0; i < n; i++)
        close_fd(kept[i].fd);
    free(kept);
    return status;
}

static void take_down(struct daemon *d)
{
    while (d->conns)
        session_close(d->conns);
    while (d->dead) { /* the core is not told any more */
        d->dead->client = NULL;
        d->dead->tool_client = NO_CLIENT;
        session_reap(d);
    }
    d->core = core_free(d->core);
    client_free_all(d);
    free(d->pending);
    d->keeper_io = sd_event_source_disable_unref(d->keeper_io);
    d->fabric_io = sd_event_source_disable_unref(d->fabric_io);
    d->tick_timer = sd_event_source_disable_unref(d->tick_timer);
    d->beat_timer = sd_event_source_disable_unref(d->beat_timer);
    d->poll_timer = sd_event_source_disable_unref(d->poll_timer);
    d->stop_timer = sd_event_source_disable_unref(d->stop_timer);
    d->stop_ask_timer = sd_event_source_disable_unref(d->stop_ask_timer);
    daemon_unlisten(d, false);
    if (d->fabric)
        d->fabric = d->ops->close(d->fabric);
    d->event = sd_event_unref(d->event);
    d->settings = close_fd(d->settings);
    d->keeper = close_fd(d->keeper);
}

int daemon_main(int keeper, void *ctx)
{
    const struct daemon_options *options = ctx;
    struct daemon d = {.options = options,
                       .config = options->config,
                       .keeper = keeper,
                       .ops = &fabric_local_ops,
                       .listen = -1,
                       .settings = -1,
                       .exit_status = -1};
    int status;

    set_time(&d);
    status = start(&d);
    if (!status)
        status = loop(&d);
    else
        daemon_unlisten(&d, d.restarts == 0);
    take_down(&d);
    return status;
}
