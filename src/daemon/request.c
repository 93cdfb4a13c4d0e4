/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Requests of the library. One table: opcode -> handler. A packet reaches a handler only after clshmd_request_check()
 * has seen all of it, so that handlers look at meaning, not at sizes.
 *
 * What the core answers later waits in the table of struct pending. A tag is (generation, index) of its place there;
 * the connection it came from gets the answer, or nobody if that has closed.
 */
#include <errno.h>
#include <fcntl.h>
#include <numaif.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "src/daemon/daemon.h"

static struct log_limit version_log = LOG_LIMIT_DEFAULT;
static struct log_limit garbage_log = LOG_LIMIT_DEFAULT;
static struct log_limit grant_log = LOG_LIMIT_DEFAULT;

/* ------------------------------------------------------------------ waiting for the core */

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int pending_grow(struct daemon *d)
{
    uint32_t n = d->n_pending ? d->n_pending * 2 : 256;
    struct pending *grown = reallocarray(d->pending, n, sizeof(*grown));

    if (!grown)
        return ENOMEM;
    memset(grown + d->n_pending, 0, (n - d->n_pending) * sizeof(*grown));
    for (uint32_t i = n; i-- > d->n_pending;) {
        grown[i].next_free = d->free_pending; /* index + 1; 0: none */
        d->free_pending = i + 1;
    }
    d->pending = grown;
    d->n_pending = n;
    return 0;
}

static int pending_new(const struct request *r, uint64_t *tag)
{
    struct daemon *d = r->d;
    struct pending *p;
    uint32_t index;

    if (!d->free_pending && pending_grow(d))
        return ENOMEM;
    index = d->free_pending - 1;
    p = &d->pending[index];
    d->free_pending = p->next_free;
    p->generation++;
    p->used = true;
    p->conn = r->conn;
    p->op = r->op;
    p->seq = r->seq;
    p->begin_ns = r->op == CLSHMD_PING ? now_ns() : 0;
    r->conn->n_waiting++;
    *tag = (uint64_t)p->generation << 32 | index;
    return 0;
}

void request_forget(struct session *c)
{
    struct daemon *d = c->d;

    for (uint32_t i = 0; i < d->n_pending && c->n_waiting; i++) {
        if (d->pending[i].conn != c)
            continue;
        d->pending[i].conn = NULL;
        c->n_waiting--;
    }
}

/* @return whether @tag is a request that waits; its place is free again. */
static bool pending_take(struct daemon *d, uint64_t tag, struct pending *out)
{
    uint32_t index = (uint32_t)tag;
    struct pending *p = index < d->n_pending ? &d->pending[index] : NULL;

    if (!p || !p->used || p->generation != (uint32_t)(tag >> 32))
        return false;
    *out = *p;
    p->used = false;
    p->conn = NULL;
    p->next_free = d->free_pending;
    d->free_pending = index + 1;
    if (out->conn)
        out->conn->n_waiting--;
    return out->conn != NULL;
}

/* @return the descriptor, or -1 with *@error. */
static int grant_fd(struct daemon *d, int32_t shmid, uint32_t prot, int *error)
{
    struct driver_grant grant = {.shmid = shmid, .prot = prot, .fd = -1};

    *error = d->ops->grant(d->fabric, &grant);
    if (!*error)
        return grant.fd;
    log_limited(&grant_log, LOG_LEVEL_WARNING, "segment %d: no descriptor: %s (%s)", shmid, strerror(*error),
                strerrorname_np(*error));
    if (*error == EMFILE || *error == ENFILE)
        *error = ENOMEM;
    return -1;
}

void request_reply(struct daemon *d, uint64_t tag, int error, const void *payload, size_t size, int32_t grant_shmid,
                   uint32_t grant_prot)
{
    struct clshmd_ping_reply ping;
    struct pending p;
    int fd = -1;

    if (!pending_take(d, tag, &p))
        return;
    if (!error && grant_prot)
        fd = grant_fd(d, grant_shmid, grant_prot, &error);
    if (!error && p.op == CLSHMD_PING && size == sizeof(ping)) {
        memcpy(&ping, payload, sizeof(ping));
        ping.rtt_ns = now_ns() - p.begin_ns; /* the core's clock counts milliseconds */
        payload = &ping;
    }
    session_reply(p.conn, p.op, p.seq, error, payload, size, &fd, fd >= 0 ? 1 : 0);
}

void request_done(const struct request *r, int error, const void *payload, size_t size)
{
    session_reply(r->conn, r->op, r->seq, error, payload, size, NULL, 0);
}

/* A tool has no page; it becomes a client of the core when it asks for something that the core does. */
static int tool_number(const struct request *r, uint32_t *client)
{
    struct session *c = r->conn;
    int error = 0;

    if (c->tool_client == NO_CLIENT) {
        uint32_t number;

        error = client_number_take(r->d, &number);
        if (error)
            return error;
        error = core_client_new(r->d->core, number, c->uid, c->pid);
        if (error) {
            client_number_give(r->d, number);
            return error;
        }
        c->tool_client = number;
    }
    *client = c->tool_client;
    return 0;
}

bool request_pend(const struct request *r, uint32_t *client, uint64_t *tag)
{
    int error = 0;

    if (r->conn->client)
        *client = r->conn->client->number;
    else
        error = tool_number(r, client);
    if (!error)
        error = pending_new(r, tag);
    if (error)
        request_done(r, error, NULL, 0);
    return !error;
}

/* ------------------------------------------------------------------ HELLO */

static bool versions_match(const struct request *r, const struct clshmd_hello *hello)
{
    struct clshm_version lib = {hello->major, hello->minor};
    struct clshm_version own = {CLSHM_DAEMON_MAJOR, CLSHM_DAEMON_MINOR};

    if (clshm_version_compatible(lib, own))
        return true;
    log_limited(&version_log, LOG_LEVEL_WARNING,
                "pid %d, uid %u: its library has version %u.%u, this daemon %u.%u: refused (EPROTO)", r->conn->pid,
                r->conn->uid, lib.major, lib.minor, own.major, own.minor);
    return false;
}

static void close_fds(int *fds, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        fds[i] = close_fd(fds[i]);
}

/* The descriptors of a HELLO answer, and the client. @return 0, or an errno with everything closed. */
static int hello_client(const struct request *r, uint64_t token, int fds[SESSION_FDS_MAX], unsigned *n)
{
    struct daemon *d = r->d;
    struct client *client = token ? client_find(d, token) : NULL;
    int error = 0;

    *n = 2;
    fds[2] = -1;
    if (token && !client)
        return ESTALE;
    fds[0] = fcntl(d->ops->gens_fd(d->fabric), F_DUPFD_CLOEXEC, 3);
    fds[1] = d->ops->life_fd(d->fabric);
    if (fds[0] < 0 || fds[1] < 0)
        error = ENOMEM;
    if (!error && !client) {
        error = client_new(d, r->conn->uid, r->conn->pid, NULL, &client, &fds[2]);
        *n = 3;
    }
    if (error)
        close_fds(fds, 3);
    else
        client_attach(client, r->conn);
    return error;
}

static void handle_hello(const struct request *r)
{
    const struct clshmd_hello *hello = r->payload;
    struct daemon *d = r->d;
    struct session *c = r->conn;
    struct clshmd_hello_reply reply = {.major = CLSHM_DAEMON_MAJOR,
                                       .minor = CLSHM_DAEMON_MINOR,
                                       .part = d->ops->self(d->fabric),
                                       .parts = d->sb->parts,
                                       .part_bits = d->sb->part_bits,
                                       .slot_bits = d->sb->slot_bits,
                                       .granule = d->sb->granule,
                                       .heartbeat_ms = d->sb->heartbeat_ms,
                                       .gens_block = d->sb->gens_block};
    int fds[SESSION_FDS_MAX] = {-1, -1, -1};
    unsigned n_fds = 0;
    int error = 0;

    if (hello->flags & ~CLSHMD_HELLO_KNOWN || !versions_match(r, hello))
        error = EPROTO;
    else if (c->refused)
        error = EAGAIN;
    if (error) {
        session_fail(c, r->op, r->seq, error);
        return;
    }
    reply.incarnation = d->ops->incarnation(d->fabric, reply.part);
    c->tool = hello->flags & CLSHMD_HELLO_TOOL;
    if (!c->tool)
        error = hello_client(r, hello->token, fds, &n_fds);
    if (error) { /* ESTALE: the library says HELLO again, with token 0 */
        request_done(r, error, NULL, 0);
        return;
    }
    c->hello = true;
    if (c->client) {
        reply.token = c->client->token;
        reply.entries = client_entries(c->client);
    }
    session_reply(c, r->op, r->seq, 0, &reply, sizeof(reply), fds, n_fds);
}

/* ------------------------------------------------------------------ what the core answers */

static void handle_get(const struct request *r)
{
    struct core_cred cred = session_cred(r->conn);
    uint32_t client;
    uint64_t tag;

    if (request_pend(r, &client, &tag))
        core_get(r->d->core, client, tag, &cred, r->payload);
}

static void handle_open(const struct request *r)
{
    struct core_cred cred = session_cred(r->conn);
    uint32_t client;
    uint64_t tag;

    if (request_pend(r, &client, &tag))
        core_open(r->d->core, client, tag, &cred, r->payload);
}

static void handle_detached(const struct request *r)
{
    uint32_t client;
    uint64_t tag;

    if (request_pend(r, &client, &tag))
        core_detached(r->d->core, client, tag, r->payload);
}

static void handle_ctl(const struct request *r)
{
    struct core_cred cred = session_cred(r->conn);
    uint32_t client;
    uint64_t tag;

    if (request_pend(r, &client, &tag))
        core_ctl(r->d->core, client, tag, &cred, r->payload);
}

/* Does the kernel take this policy with these nodes? Asked now, so that the key's first xp_shmget does not fail for it. */
static int placement_check(const struct clshmd_setpmo *req)
{
    unsigned long nodes = req->nodes;
    void *page = mmap(NULL, FABRIC_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int error = 0;

    if (page == MAP_FAILED)
        return ENOMEM;
    if (mbind(page, FABRIC_PAGE, (int)req->policy, &nodes, sizeof(nodes) * 8 + 1, 0) < 0 && errno != ENOSYS)
        error = errno;
    munmap(page, FABRIC_PAGE);
    return error;
}

static void handle_setpmo(const struct request *r)
{
    struct core_cred cred = session_cred(r->conn);
    int error = placement_check(r->payload);
    uint32_t client;
    uint64_t tag;

    if (error)
        request_done(r, error, NULL, 0);
    else if (request_pend(r, &client, &tag))
        core_setpmo(r->d->core, client, tag, &cred, r->payload);
}

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c | 0x20) : NULL;

    return at ? (int)(at - digits) : -1;
}

/* @return 0 with *@out, EINVAL: malformed, ENOENT, EHOSTDOWN. */
static int resolve_partition(struct daemon *d, const char *path, uint32_t *out)
{
    static const char prefix[] = "/hw/clshm/partition/";
    const char *digits = path + sizeof(prefix) - 1;
    struct clshmd_part part;
    uint32_t p;

    *out = d->ops->self(d->fabric);
    if (!*path)
        return 0;
    if (*path == '/') {
        if (strncmp(path, prefix, sizeof(prefix) - 1) != 0 || hex_digit(digits[0]) < 0 || hex_digit(digits[1]) < 0 ||
            digits[2])
            return EINVAL;
        p = (uint32_t)(hex_digit(digits[0]) << 4 | hex_digit(digits[1]));
        if (p >= d->sb->parts || !d->ops->part(d->fabric, p, &part))
            return ENOENT;
    } else {
        for (p = 0; p < d->sb->parts; p++)
            if (d->ops->part(d->fabric, p, &part) && part.state != CLSHMD_PART_ABSENT &&
                strncmp(part.name, path, sizeof(part.name)) == 0)
                break;
        if (p == d->sb->parts)
            return ENOENT;
    }
    *out = p;
    return part.state == CLSHMD_PART_ABSENT ? ENOENT : part.state == CLSHMD_PART_DEAD ? EHOSTDOWN : 0;
}

static void handle_ftok(const struct request *r)
{
    const struct clshmd_ftok *ftok = r->payload;
    struct core_cred cred = session_cred(r->conn);
    uint32_t client, home = 0;
    uint64_t tag;
    int error = EINVAL;

    if (memchr(ftok->path, '\0', sizeof(ftok->path)))
        error = resolve_partition(r->d, ftok->path, &home);
    if (error)
        request_done(r, error, NULL, 0);
    else if (request_pend(r, &client, &tag))
        core_ftok(r->d->core, client, tag, &cred, home, ftok->token);
}

/* ------------------------------------------------------------------ what is answered here */

static void handle_parts(const struct request *r)
{
    struct daemon *d = r->d;
    struct clshmd_parts_reply reply = {.self = d->ops->self(d->fabric)};

    for (uint32_t p = 0; p < d->sb->parts; p++) {
        struct clshmd_part part;

        if (d->ops->part(d->fabric, p, &part) && (part.state == CLSHMD_PART_ALIVE || part.state == CLSHMD_PART_STALLED))
            reply.active |= 1ull << p;
    }
    request_done(r, 0, &reply, sizeof(reply));
}

static void handle_events(const struct request *r)
{
    request_done(r, ENOSYS, NULL, 0);
}

static void handle_hostname(const struct request *r)
{
    const struct clshmd_hostname *req = r->payload;
    struct clshmd_hostname_reply reply = {0};
    struct clshmd_part part;

    if (req->part >= r->d->sb->parts || !r->d->ops->part(r->d->fabric, req->part, &part) ||
        part.state == CLSHMD_PART_ABSENT || !r->d->ops->hostname(r->d->fabric, req->part, reply.hostname)) {
        request_done(r, EINVAL, NULL, 0);
        return;
    }
    reply.hostname[sizeof(reply.hostname) - 1] = '\0';
    memcpy(reply.name, part.name, sizeof(reply.name));
    reply.name[sizeof(reply.name) - 1] = '\0';
    request_done(r, 0, &reply, sizeof(reply));
}

static void handle_fork(const struct request *r)
{
    struct client *parent = r->conn->client, *child = NULL;
    struct clshmd_fork_reply reply = {0};
    int fds[2] = {-1, -1};
    int error = parent ? 0 : EINVAL;

    if (!error) {
        fds[1] = r->d->ops->life_fd(r->d->fabric);
        error = fds[1] < 0 ? ENOMEM : client_new(r->d, parent->uid, 0, parent, &child, &fds[0]);
    }
    if (error) {
        close_fds(fds, 2);
        request_done(r, error, NULL, 0);
        return;
    }
    reply.token = child->token;
    reply.entries = client_entries(child);
    session_reply(r->conn, r->op, r->seq, 0, &reply, sizeof(reply), fds, 2);
}

static void handle_grow(const struct request *r)
{
    struct client *client = r->conn->client;
    struct clshmd_grow_reply reply = {0};
    int error = client ? client_grow(client) : EINVAL;

    if (!error)
        reply.entries = client_entries(client);
    request_done(r, error, &reply, sizeof(reply));
}

static void handle_node(const struct request *r)
{
    const struct clshmd_node *req = r->payload;
    struct daemon *d = r->d;
    struct core_cred cred = session_cred(r->conn);
    struct clshmd_node_reply reply = {0};
    int error = 0;

    if (req->shmid < 0)
        error = EINVAL;
    else if (fabric_shmid_part(d->sb->part_bits, d->sb->slot_bits, req->shmid) != d->ops->self(d->fabric))
        error = ENOSYS;
    else
        error = core_may_read(d->core, &cred, req->shmid);
    if (!error)
        reply.node = d->ops->node(d->fabric, req->shmid);
    request_done(r, error, &reply, sizeof(reply));
}

/* ------------------------------------------------------------------ the table */

static void (*const handlers[CLSHMD_OP_MAX])(const struct request *r) = {
    [CLSHMD_HELLO] = handle_hello,       [CLSHMD_GET] = handle_get,           [CLSHMD_OPEN] = handle_open,
    [CLSHMD_DETACHED] = handle_detached, [CLSHMD_CTL] = handle_ctl,           [CLSHMD_FTOK] = handle_ftok,
    [CLSHMD_PARTS] = handle_parts,       [CLSHMD_HOSTNAME] = handle_hostname, [CLSHMD_FORK] = handle_fork,
    [CLSHMD_GROW] = handle_grow,         [CLSHMD_SETPMO] = handle_setpmo,     [CLSHMD_NODE] = handle_node,
    [CLSHMD_DUMP] = admin_dump,          [CLSHMD_STATUS] = admin_status,      [CLSHMD_CONFIG] = admin_config,
    [CLSHMD_SEGMENTS] = admin_segments,  [CLSHMD_USERS] = admin_users,        [CLSHMD_PING] = admin_ping,
    [CLSHMD_EVICT] = admin_evict,        [CLSHMD_SHUTDOWN] = admin_shutdown,  [CLSHMD_EVENTS] = handle_events,
};

/* What can be said of the sender of a packet that is none: its own header, if there is one. */
static void refuse(struct session *c, const void *packet, size_t size)
{
    struct clshmd_header header = {0};

    if (size >= sizeof(header))
        memcpy(&header, packet, sizeof(header));
    log_limited(&garbage_log, LOG_LEVEL_WARNING, "pid %d, uid %u: a malformed request (%zu bytes, opcode %u): closed",
                c->pid, c->uid, size, header.op);
    session_fail(c, header.op, header.seq, EPROTO);
}

void request_handle(struct session *c, const void *packet, size_t size)
{
    struct clshmd_header header;
    const void *payload = size <= CLSHMD_PACKET_MAX ? clshmd_request_check(packet, size, &header) : NULL;
    struct request r = {.conn = c, .d = c->d, .payload = payload};

    if (!payload || header.op >= CLSHMD_OP_MAX || !handlers[header.op] || (header.op == CLSHMD_HELLO) == c->hello) {
        refuse(c, packet, size);
        return;
    }
    r.op = header.op;
    r.seq = header.seq;
    handlers[header.op](&r);
}
