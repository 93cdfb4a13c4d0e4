/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clients. A client is its page: a memfd with two open file descriptions. The one that the daemon and the keeper have
 * carries no lock; the other one, made through /proc/self/fd, carries LOCK_SH and goes to the client, whose mapping keeps
 * it alive. So LOCK_EX on the first succeeds exactly when the client is gone, however it ended, and whether or not it
 * was connected. A page that is still on its way to the client is held by the packet.
 *
 * Nothing of a page is believed about anyone but its client: the uid that is charged stands in the id under which the
 * keeper has the page.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/daemon/daemon.h"

#define PAGE_BYTES      4096
#define NUMBERS_MAX     (1u << 20)
#define BEAT_STEPS      1024u /* clients looked at in one beat */
#define BEAT_PROBES     256u  /* of which so many are probed at most */
#define CONNECTED_BEATS 32u   /* one with a connection is probed this seldom: the end of the connection will tell */

static uint64_t keep_id(const struct client *client)
{
    return (uint64_t)client->uid << 32 | client->number;
}

uint32_t client_entries(const struct client *client)
{
    return CLSHMD_PAGE_ENTRIES(client->pages);
}

/* ------------------------------------------------------------------ numbers */

static int numbers_grow(struct daemon *d)
{
    uint32_t n = d->n_numbers ? d->n_numbers * 2 : 64;
    struct client **numbers = reallocarray(d->numbers, n, sizeof(*numbers));
    bool *taken;

    if (!numbers)
        return ENOMEM;
    d->numbers = numbers;
    taken = reallocarray(d->taken, n, sizeof(*taken));
    if (!taken)
        return ENOMEM;
    d->taken = taken;
    memset(numbers + d->n_numbers, 0, (n - d->n_numbers) * sizeof(*numbers));
    memset(taken + d->n_numbers, 0, (n - d->n_numbers) * sizeof(*taken));
    d->n_numbers = n;
    return 0;
}

int client_number_take(struct daemon *d, uint32_t *out)
{
    for (uint32_t i = 0; i < d->n_numbers; i++) {
        uint32_t number = (d->number_hint + i) % d->n_numbers;

        if (!d->taken[number]) {
            d->taken[number] = true;
            d->number_hint = number + 1;
            *out = number;
            return 0;
        }
    }
    d->number_hint = d->n_numbers;
    if (numbers_grow(d))
        return ENOMEM;
    d->taken[d->number_hint] = true;
    *out = d->number_hint++;
    return 0;
}

/* That very number, which an earlier daemon chose. */
static int number_claim(struct daemon *d, uint32_t number)
{
    if (number >= NUMBERS_MAX)
        return ERANGE;
    while (number >= d->n_numbers)
        if (numbers_grow(d))
            return ENOMEM;
    if (d->taken[number])
        return EEXIST;
    d->taken[number] = true;
    return 0;
}

void client_number_give(struct daemon *d, uint32_t number)
{
    d->taken[number] = false;
    d->numbers[number] = NULL;
    if (number < d->number_hint)
        d->number_hint = number;
}

struct client *client_at(struct daemon *d, uint32_t number)
{
    return number < d->n_numbers ? d->numbers[number] : NULL;
}

struct client *client_find(struct daemon *d, uint64_t token)
{
    struct client *client;

    HASH_FIND(hh, d->by_token, &token, sizeof(token), client);
    return client;
}

/* ------------------------------------------------------------------ pages */

static int page_head(const struct client *client, bool first)
{
    struct clshmd_page_head head = {
        .magic = CLSHMD_MAGIC, .entries = client_entries(client), .token = client->token, .pid = client->pid};
    size_t from = first ? 0 : offsetof(struct clshmd_page_head, pid);
    size_t size = first ? sizeof(head) : sizeof(head.pid);
    ssize_t n = pwrite(client->fd, (const char *)&head + from, size, (off_t)from);

    return n < 0 ? errno : (size_t)n == size ? 0 : EIO;
}

static int page_make(struct client *client)
{
    CLEANUP_CLOSE int fd = memfd_create("clshm-client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int error;

    /* Mode 0600: who was handed a description cannot open another one without the lock. */
    if (fd < 0 || fchmod(fd, 0600) < 0 || ftruncate(fd, CLSHMD_PAGE_SIZE) < 0)
        return errno;
    if (fallocate(fd, 0, 0, (off_t)client->pages * PAGE_BYTES) < 0)
        return errno;
    client->fd = fd;
    error = page_head(client, true);
    client->fd = -1;
    if (error)
        return error;
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
        return errno;
    client->fd = steal_fd(&fd);
    return 0;
}

/* A second description of @fd, with the lock. */
static int page_lock(int fd, int *out)
{
    char path[32];
    CLEANUP_CLOSE int other = -1;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    other = open(path, O_RDWR | O_CLOEXEC);
    if (other < 0 || flock(other, LOCK_SH | LOCK_NB) < 0)
        return errno;
    *out = steal_fd(&other);
    return 0;
}

/* @return whether nobody has the locked description any more. */
static bool page_is_free(int fd)
{
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return false;
    flock(fd, LOCK_UN);
    return true;
}

bool client_entry(struct daemon *d, uint32_t number, uint32_t entry, struct clshmd_entry *out)
{
    const struct client *client = client_at(d, number);
    off_t at = (off_t)(sizeof(struct clshmd_page_head) + (size_t)entry * sizeof(*out));

    if (!client || entry >= client_entries(client))
        return false;
    return pread(client->fd, out, sizeof(*out), at) == (ssize_t)sizeof(*out);
}

int client_grow(struct client *client)
{
    if (client->pages >= CLSHMD_PAGES_MAX)
        return ENOSPC;
    if (fallocate(client->fd, 0, (off_t)client->pages * PAGE_BYTES, PAGE_BYTES) < 0)
        return errno == ENOSPC ? ENOSPC : ENOMEM;
    client->pages++;
    return 0;
}

/* ------------------------------------------------------------------ begin and end */

static void client_unlink(struct client *client)
{
    struct daemon *d = client->d;

    if (d->probe_next == client)
        d->probe_next = client->next;
    HASH_DELETE(hh, d->by_token, client);
    DL_DELETE(d->clients, client);
    client_number_give(d, client->number);
}

static struct client *client_free(struct client *client)
{
    sd_event_source_disable_unref(client->exit_io);
    close_fd(client->fd);
    close_fd(client->pidfd);
    free(client);
    return NULL;
}

static void cleanup_client(struct client **client)
{
    if (*client)
        client_free(*client);
}

static int client_link(struct client *client)
{
    struct daemon *d = client->d;

    HASH_ADD(hh, d->by_token, token, sizeof(client->token), client);
    if (!client->hh.tbl) {
        client_number_give(d, client->number);
        return ENOMEM;
    }
    DL_APPEND(d->clients, client);
    d->numbers[client->number] = client;
    return 0;
}

static int new_token(struct daemon *d, uint64_t *token)
{
    do {
        if (getrandom(token, sizeof(*token), GRND_NONBLOCK) != (ssize_t)sizeof(*token))
            return EAGAIN;
    } while (*token == 0 || client_find(d, *token));
    return 0;
}

static struct client *client_alloc(struct daemon *d, uint32_t uid, int32_t pid)
{
    struct client *client = calloc(1, sizeof(*client));

    if (!client)
        return NULL;
    client->d = d;
    client->uid = uid;
    client->pid = pid;
    client->fd = -1;
    client->pidfd = -1;
    client->pages = 1;
    return client;
}

/* Make it known to the keeper and the core, under a new number. Undone as a whole if it fails. */
static int client_register(struct client *client, const struct client *parent)
{
    struct daemon *d = client->d;
    int error = client_number_take(d, &client->number);

    if (!error)
        error = client_link(client);
    if (error)
        return error;
    error = parent ? core_client_fork(d->core, parent->number, client->number)
                   : core_client_new(d->core, client->number, client->uid, client->pid);
    if (!error) {
        error = daemon_keep(d, KEEP_CLIENT, keep_id(client), client->fd);
        if (error)
            core_client_gone(d->core, client->number);
    }
    if (error)
        client_unlink(client);
    return error;
}

int client_new(struct daemon *d, uint32_t uid, int32_t pid, struct client *parent, struct client **out, int *page)
{
    CLEANUP(cleanup_client) struct client *client = client_alloc(d, uid, pid);
    CLEANUP_CLOSE int locked = -1;
    int error = client ? new_token(d, &client->token) : ENOMEM;

    if (!error && parent) {
        client->pages = parent->pages; /* as many entries as it is to copy */
        client->parent = parent->token;
    }
    if (!error)
        error = page_make(client);
    if (!error)
        error = page_lock(client->fd, &locked);
    if (!error)
        error = client_register(client, parent);
    if (error)
        return error == EMFILE || error == ENFILE || error == ENOSPC ? ENOMEM : error;
    *page = steal_fd(&locked);
    *out = steal_ptr(client);
    return 0;
}

/* Of a page that may have been written to by its client since: only this client is concerned. */
static uint32_t pages_of(int fd)
{
    struct stat st;
    uint32_t pages;

    if (fstat(fd, &st) < 0)
        return 1;
    pages = (uint32_t)(st.st_blocks / (PAGE_BYTES / 512));
    return pages < 1 ? 1 : pages > CLSHMD_PAGES_MAX ? CLSHMD_PAGES_MAX : pages;
}

static int client_adopt_page(struct daemon *d, uint64_t id, int fd)
{
    CLEANUP_CLOSE int page = fd;
    CLEANUP(cleanup_client) struct client *client = NULL;
    struct clshmd_page_head head;
    int error;

    if (page_is_free(page))
        return ESRCH;
    if (pread(page, &head, sizeof(head), 0) != (ssize_t)sizeof(head) || client_find(d, head.token))
        return EINVAL;
    client = client_alloc(d, (uint32_t)(id >> 32), head.pid > 0 ? head.pid : 0);
    if (!client)
        return ENOMEM;
    client->number = (uint32_t)id;
    client->token = head.token;
    client->pages = pages_of(page);
    client->fd = steal_fd(&page);
    error = number_claim(d, client->number);
    if (!error)
        error = client_link(client);
    if (error)
        return error;
    error = core_client_new(d->core, client->number, client->uid, client->pid);
    if (error) {
        client_unlink(client);
        return error;
    }
    client = NULL;
    return 0;
}

/* It stays with the keeper as it was, so that a daemon that is killed right now loses nothing. */
void client_adopt(struct daemon *d, uint64_t id, int fd)
{
    int error = client_adopt_page(d, id, fd);

    if (!error)
        return;
    if (error != ESRCH)
        log_warning("client %u (uid %u): its page is dropped: %s (%s)", (uint32_t)id, (uint32_t)(id >> 32),
                    strerror(error), strerrorname_np(error));
    daemon_unkeep(d, KEEP_CLIENT, id);
}

static void client_gone(struct client *client)
{
    struct daemon *d = client->d;

    log_debug("client %u (pid %d, uid %u) is gone", client->number, client->pid, client->uid);
    core_client_gone(d->core, client->number);
    daemon_unkeep(d, KEEP_CLIENT, keep_id(client));
    client_unlink(client);
    client_free(client);
}

void client_free_all(struct daemon *d)
{
    while (d->clients) {
        struct client *client = d->clients;
        client_unlink(client);
        client_free(client);
    }
    free(d->numbers);
    free(d->taken);
    d->numbers = NULL;
    d->taken = NULL;
    d->n_numbers = 0;
}

/* ------------------------------------------------------------------ connections of it */

void client_attach(struct client *client, struct session *c)
{
    c->client = client;
    client->conns++;
    client->exit_io = sd_event_source_disable_unref(client->exit_io);
    close_fd(client->pidfd);
    client->pidfd = c->pid > 0 ? (int)syscall(SYS_pidfd_open, c->pid, 0) : -1;
    if (c->pid <= 0 || client->pid == c->pid)
        return;
    client->pid = c->pid;
    core_client_pid(client->d->core, client->number, c->pid);
    page_head(client, false); /* for listings only: a failure does no harm */
}

static int on_exit_of(sd_event_source *source, int fd, uint32_t revents, void *ctx)
{
    struct client *client = ctx;

    (void)source;
    (void)fd;
    (void)revents;
    client->exit_io = sd_event_source_disable_unref(client->exit_io);
    client_probe(client); /* still locked: a child of it has the page; the beats look again */
    return 0;
}

/* An ending process closes its connection a moment before its mappings are gone. Looking again when it has ended costs
 * nothing meanwhile; without a descriptor of it the next beat looks. */
static void watch_exit(struct client *client)
{
    if (client->pidfd >= 0 && !client->exit_io &&
        sd_event_add_io(client->d->event, &client->exit_io, client->pidfd, EPOLLIN, on_exit_of, client) < 0)
        client->exit_io = NULL;
}

void client_detach(struct client *client)
{
    if (--client->conns > 0)
        return;
    core_client_disconnected(client->d->core, client->number);
    if (page_is_free(client->fd))
        client_gone(client);
    else
        watch_exit(client);
}

void client_probe(struct client *client)
{
    struct session *c, *tmp;

    if (!page_is_free(client->fd))
        return;
    if (client->conns == 0) {
        client_gone(client);
        return;
    }
    /* Somebody inherited its connection, but not its page. */
    DL_FOREACH_SAFE (client->d->conns, c, tmp) {
        if (c->client == client)
            session_close(c);
    }
}

void client_beat(struct daemon *d)
{
    uint32_t probes = 0;

    d->beats++;
    if (!d->probe_next)
        d->probe_next = d->clients;
    for (uint32_t i = 0; i < BEAT_STEPS && probes < BEAT_PROBES && d->probe_next; i++) {
        struct client *client = d->probe_next;

        d->probe_next = client->next;
        if (client->conns && (d->beats + client->number) % CONNECTED_BEATS)
            continue;
        probes++;
        client_probe(client);
    }
}
