// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The session with the daemon: one for each process, used by all of its threads under one lock.
 *
 * A process is a client by its page (proto/clshmd.h), not by its connection. The connection may go at any time: the
 * daemon restarts, the program closes our descriptor or puts another under its number, its credentials change. Then the
 * next call that needs one connects anew with the page's token, and repeats its request, which the daemon recognises.
 *
 * A new page is needed at the first call, in a child whose page its parent could not get (entries.page is NULL: the
 * mapped page is an ancestor's and counts for us meanwhile), and when the daemon does not know our token any more
 * (stale). All that is attached is then counted in the new page, and OPENed again so that the daemon knows what for;
 * where that fails, the memory stays mapped and counted, and the daemon counts it as soon as it can.
 *
 * What the daemon has yet to be told is a debt of an entry: an attachment without a grant (OPEN), a detachment from a
 * marked segment (DETACHED). Debts are paid at each connection.
 */
#include "src/lib/lib.h"

#include <errno.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "src/util/cleanup.h"

struct lib lib; /* all zero, so that programs get no larger by it; lib_init() does the rest */

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void lib_init(void)
{
    pthread_mutex_init(&lib.lock, NULL);
    lib.conn.fd = -1;
    fork_init();
}

void lib_enter(struct lib_scope *scope)
{
    scope->error = errno;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &scope->cancel);
    pthread_once(&once, lib_init);
    fork_check();
    pthread_mutex_lock(&lib.lock);
    lib.heeded = false;
}

int lib_leave(const struct lib_scope *scope, int error)
{
    pthread_mutex_unlock(&lib.lock);
    pthread_setcancelstate(scope->cancel, NULL);
    errno = error ? error : scope->error;
    return error ? -1 : 0;
}

/* ------------------------------------------------------------------ mapped files */

void mapping_unmap(struct mapping *m)
{
    if (m->base)
        munmap(m->base, m->size);
    *m = (struct mapping){0};
}

/* Map the first @size bytes of @fd in place of what @m has, unless it is the same file. @return 0 or an errno. */
int mapping_map(struct mapping *m, int fd, size_t size, bool writable)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return errno;
    if (m->base && m->size == size && m->dev == st.st_dev && m->ino == st.st_ino)
        return 0;
    void *base = mmap(NULL, size, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return errno;
    mapping_unmap(m);
    *m = (struct mapping){.base = base, .size = size, .dev = st.st_dev, .ino = st.st_ino};
    return 0;
}

static bool file_holds(int fd, size_t size)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_size >= 0 && (uint64_t)st.st_size >= size;
}

static const uint32_t *gens_at(uint32_t part, uint64_t offset)
{
    const uint8_t *base = lib.gens.base;
    return (const uint32_t *)(const void *)(base + part * lib.geo.gens_block + offset);
}

uint32_t lib_word(int32_t shmid)
{
    uint32_t part = fabric_shmid_part(lib.geo.part_bits, lib.geo.slot_bits, shmid);
    uint64_t offset = FABRIC_PAGE + 4ull * fabric_shmid_slot(lib.geo.slot_bits, shmid);
    if (part >= lib.geo.parts || offset + 4 > lib.geo.gens_block)
        return FABRIC_GEN_MARKED;
    return __atomic_load_n(gens_at(part, offset), __ATOMIC_SEQ_CST);
}

uint32_t lib_incarnation(int32_t shmid)
{
    uint32_t part = fabric_shmid_part(lib.geo.part_bits, lib.geo.slot_bits, shmid);
    return part < lib.geo.parts ? __atomic_load_n(gens_at(lib.geo.part, 4ull * part), __ATOMIC_SEQ_CST) : 0;
}

/* ------------------------------------------------------------------ HELLO */

/* A new HELLO can be trusted to describe memory that we then read. */
static bool geometry_sound(const struct clshmd_hello_reply *r)
{
    return r->parts >= 1 && r->parts <= FABRIC_PARTS_MAX && r->part < r->parts && r->part_bits <= 8 &&
           r->slot_bits >= 1 && r->slot_bits <= 15 && r->granule >= 4096 && (r->granule & (r->granule - 1)) == 0 &&
           r->granule % (uint32_t)sysconf(_SC_PAGESIZE) == 0 && r->gens_block >= FABRIC_PAGE &&
           r->gens_block % FABRIC_PAGE == 0 && r->gens_block <= FABRIC_PAGE + 4ull * FABRIC_SLOTS_MAX + FABRIC_PAGE &&
           r->entries >= 1 && r->entries <= CLSHMD_ENTRIES_MAX && r->reserved == 0;
}

static uint32_t left(uint64_t deadline)
{
    uint64_t now = conn_now_ms();
    return now >= deadline ? 0 : (uint32_t)(deadline - now);
}

/* More entries. @return as conn_call(). */
static int grow(uint32_t *usable, uint64_t deadline)
{
    struct clshmd_grow_reply reply;
    int error = conn_call(&lib.conn, CLSHMD_GROW, NULL, 0, &reply, sizeof(reply), NULL, NULL, left(deadline));
    if (error == 0 && (reply.entries <= *usable || reply.entries > CLSHMD_ENTRIES_MAX))
        error = ENOSPC;
    if (error == 0)
        *usable = reply.entries;
    return error;
}

/* All entries have lost their grants with the page that they were counted in. */
static void forget_grants(void)
{
    struct entries *t = &lib.entries;
    grants_drop_all(&lib.grants, t);
    for (uint32_t e = 0; e < t->fresh; e++) {
        struct entry *x = &t->entry[e];
        x->granted = x->owed = false;
        if (x->shmid >= 0 && x->count == 0)
            entries_release(t, e);
        else if (x->count > 0)
            lib.in_debt = true;
    }
}

/* The page that came with HELLO takes over what the present one counts. @return 0 or as conn_call(). */
static int adopt_page(int fd, const struct clshmd_hello_reply *reply, uint64_t deadline)
{
    struct mapping new = {0};
    uint32_t usable = reply->entries;
    if (!file_holds(fd, CLSHMD_PAGE_SIZE) || mapping_map(&new, fd, CLSHMD_PAGE_SIZE, true) != 0)
        return -EIO;
    const struct clshmd_page_head *head = new.base;
    int error = head->magic == CLSHMD_MAGIC && head->token == reply->token && reply->token != 0 ? 0 : -EIO;
    while (error == 0 && usable < entries_end(&lib.entries))
        error = grow(&usable, deadline);
    if (error) {
        mapping_unmap(&new);
        return error;
    }
    struct clshmd_entry *page = (void *)((char *)new.base + sizeof(*head));
    entries_copy(&lib.entries, page, lib.entries.page ? 0 : time(NULL), false);
    lib.entries.page = NULL;
    forget_grants();
    lib.entries.page = page;
    lib.entries.usable = usable;
    mapping_unmap(&lib.page);
    lib.page = new;
    lib.token = reply->token;
    lib.stale = false;
    return 0;
}

/* Take in what HELLO answered. @fds: gens, life and, for a new client, the page. */
static int adopt(const struct clshmd_hello_reply *reply, const int *fds, bool new_page, uint64_t deadline)
{
    size_t gens_size = (size_t)(reply->parts * reply->gens_block);
    if (!geometry_sound(reply) || !file_holds(fds[0], gens_size) ||
        mapping_map(&lib.gens, fds[0], gens_size, false) != 0 || mapping_map(&lib.life, fds[1], 4096, false) != 0) {
        lib_debug(1, "the daemon's HELLO makes no sense");
        return -EIO;
    }
    if (lib.joined && (reply->incarnation != lib.geo.incarnation || reply->part != lib.geo.part)) {
        grants_drop_all(&lib.grants, &lib.entries);
        keys_drop_all(&lib.keys);
    }
    lib.geo = *reply;
    lib.joined = true;
    if (new_page)
        return adopt_page(fds[2], reply, deadline);
    lib.entries.usable = reply->entries;
    return 0;
}

static int hello(uint64_t deadline)
{
    struct clshmd_hello_reply reply;
    bool new_page = !lib.entries.page || lib.stale;
    int fds[3] = {-1, -1, -1};
    unsigned n = new_page ? 3 : 2;
    int error = conn_hello(&lib.conn, 0, new_page ? 0 : lib.token, &reply, fds, &n, left(deadline));
    lib.hellos += error == 0;
    if (error == 0)
        error = adopt(&reply, fds, new_page, deadline);
    for (unsigned i = 0; i < 3; i++)
        close_fd(fds[i]);
    if (error)
        conn_close(&lib.conn);
    return error;
}

/* ------------------------------------------------------------------ debts */

/* Tell the daemon what an attachment is that it has no grant for. */
static int reopen(uint32_t e, uint64_t deadline)
{
    struct entry *x = &lib.entries.entry[e];
    struct clshmd_open request = {.shmid = x->shmid, .access = x->access | CLSHMD_READ, .entry = e};
    struct clshmd_open_reply reply;
    int fd = -1;
    unsigned n = 1;
    int error =
        conn_call(&lib.conn, CLSHMD_OPEN, &request, sizeof(request), &reply, sizeof(reply), &fd, &n, left(deadline));
    if (error == 0) {
        close_fd(fd);
        x->word = reply.word;
        x->granted = true;
    } else if (error > 0) {
        lib_debug(1, "segment %d stays attached, but the daemon does not count it: %s", x->shmid, strerror(error));
    }
    return error < 0 ? error : 0;
}

static int say_detached(uint32_t e, uint64_t deadline)
{
    struct entry *x = &lib.entries.entry[e];
    struct clshmd_detached request = {.shmid = x->shmid, .entry = e};
    int error = conn_call(&lib.conn, CLSHMD_DETACHED, &request, sizeof(request), NULL, 0, NULL, NULL, left(deadline));
    if (error < 0)
        return error;
    x->owed = false;
    if (x->count == 0) {
        grants_drop(&lib.grants, &lib.entries, e);
        entries_release(&lib.entries, e);
    }
    return 0;
}

static int pay_debts(uint64_t deadline)
{
    struct entries *t = &lib.entries;
    if (!lib.in_debt)
        return 0;
    for (uint32_t e = 0; e < t->fresh; e++) {
        struct entry *x = &t->entry[e];
        int error = 0;
        if (x->count > 0 && !x->granted)
            error = reopen(e, deadline);
        else if (x->owed)
            error = say_detached(e, deadline);
        if (error)
            return error;
    }
    lib.in_debt = false;
    return 0;
}

/* ------------------------------------------------------------------ connecting */

/* Can this process never become somebody else? Then it holds no id to go back to and no capability to take one; short of
 * exec(2), which begins anew, only a user namespace of its own, with ids that a privileged helper maps into it, gives it
 * another: that is noticed at the next message. False once, this may be false for ever. */
static bool credentials_fixed(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    uid_t uid[3];
    gid_t gid[3];
    if (getresuid(&uid[0], &uid[1], &uid[2]) < 0 || getresgid(&gid[0], &gid[1], &gid[2]) < 0 ||
        syscall(SYS_capget, &header, data) < 0)
        return false;
    return uid[0] == uid[1] && uid[1] == uid[2] && gid[0] == gid[1] && gid[1] == gid[2] &&
           (data[0].permitted & (1u << CAP_SETUID | 1u << CAP_SETGID)) == 0;
}

/* The daemon judges rights by the connection's credentials: are they still ours? Notes the present ones. */
static bool credentials_changed(void)
{
    static gid_t now[LIB_GROUPS_MAX];
    uid_t uid = geteuid();
    gid_t gid = getegid();
    int n = getgroups(LIB_GROUPS_MAX, now);
    size_t size = n > 0 ? (size_t)n * sizeof(gid_t) : 0;
    if (uid == lib.uid && gid == lib.gid && n == lib.n_groups && memcmp(now, lib.groups, size) == 0)
        return false;
    lib.uid = uid;
    lib.gid = gid;
    lib.n_groups = n;
    memcpy(lib.groups, now, size);
    lib.fixed = credentials_fixed();
    return true;
}

/* Once in each call is enough: nobody can tell a change in the midst of it from one that came right after. */
static void heed_credentials(void)
{
    if (lib.heeded)
        return;
    lib.heeded = true;
    if (credentials_changed()) {
        conn_close(&lib.conn);
        grants_drop_all(&lib.grants, &lib.entries);
        keys_drop_all(&lib.keys);
    }
}

/*
 * The same before a cached descriptor is used, where a system call is dear: none for most processes, else the two ids.
 * Groups alone are changed by who has CAP_SETGID, and may take them back as he likes: to refuse him what he had a moment
 * ago would keep nothing from him. Who gives the capability up for good changes an id with it, or is found out at the
 * next message.
 */
static void heed_ids(void)
{
    if (!lib.fixed && (geteuid() != lib.uid || getegid() != lib.gid))
        heed_credentials();
}

static int open_socket(uint64_t deadline)
{
    char path[PATH_SOCKET_MAX];
    int error = *lib.socket ? 0 : path_socket(NULL, NULL, path);
    if (error) {
        lib_debug(1, "%s", path_strerror(error));
        return -EIO;
    }
    const char *target = *lib.socket ? lib.socket : path;
    uint32_t wait = lib.missing ? 0 : CONN_WAIT_MS;
    if (!lib.joined && access(target, F_OK) < 0)
        wait = 0; /* there was no daemon here so far: it does not restart */
    error = conn_open(&lib.conn, target, wait < left(deadline) ? wait : left(deadline));
    lib.missing = error != 0;
    if (error == 0 && !*lib.socket)
        strcpy(lib.socket, path);
    return error;
}

/* Have a connection. @return 0, or as conn_call(). */
static int connected(uint64_t deadline)
{
    heed_credentials();
    if (!conn_ours(&lib.conn))
        conn_close(&lib.conn);
    else if (lib.entries.page && !lib.stale)
        return pay_debts(deadline);
    int error = open_socket(deadline);
    if (error == 0)
        error = hello(deadline);
    if (error == ESTALE && lib.entries.page && !lib.stale) {
        lib_debug(2, "the daemon does not know this process any more: beginning anew");
        lib.stale = true;
        error = open_socket(deadline);
        if (error == 0)
            error = hello(deadline);
    }
    return error ? error : pay_debts(deadline);
}

/* As errors of the calls of xp_shm.h. */
static int public_error(int error)
{
    switch (error) {
    case -EPROTO:
    case -EMFILE:
    case -ENFILE:
    case -ENOMEM:
        return -error;
    default:
        return error < 0 ? EIO : error;
    }
}

int lib_call(enum clshmd_op op, const void *request, size_t size, void *reply, size_t reply_size, int *fds,
             unsigned *n_fds, uint32_t limit_ms, bool *repeated)
{
    uint64_t deadline = conn_now_ms() + limit_ms;
    unsigned wanted = n_fds ? *n_fds : 0;
    for (unsigned tries = 1;; tries++) {
        int error = connected(deadline);
        if (error == 0) {
            if (n_fds)
                *n_fds = wanted;
            error = conn_exchange(&lib.conn, op, request, size, reply, reply_size, fds, n_fds, left(deadline));
            if (error < 0 && repeated)
                *repeated = true;
        }
        lib_debug(error < 0 ? 1 : 2, "message %d: %s", op,
                  error < 0 ? lib.conn.why : (error > 0 ? strerror(error) : "done"));
        if (error >= 0 || error != -EIO || lib.missing || tries == 3 || left(deadline) == 0)
            return public_error(error);
    }
}

int lib_ready(void)
{
    if (lib.joined && lib.entries.page && !lib.stale) {
        heed_ids();
        return 0;
    }
    uint64_t deadline = conn_now_ms() + CONN_TIMEOUT_MS;
    int error = 0;
    for (unsigned tries = 0; tries < 3; tries++) {
        error = connected(deadline);
        if (error != -EIO || lib.missing || left(deadline) == 0)
            break;
    }
    if (error)
        lib_debug(1, "%s", lib.conn.why);
    return public_error(error);
}

void lib_orphaned(void)
{
    conn_close(&lib.conn);
    lib.entries.page = NULL;
    lib.stale = false;
    grants_drop_all(&lib.grants, &lib.entries);
}

uint64_t lib_token(void)
{
    uint64_t token = 0;
    struct timespec now;
    while (token == 0) {
        if (getrandom(&token, sizeof(token), GRND_NONBLOCK) == (ssize_t)sizeof(token))
            continue;
        clock_gettime(CLOCK_MONOTONIC, &now); /* early at boot: unique is enough, secret it need not be */
        token = (uint64_t)now.tv_sec << 32 ^ (uint64_t)now.tv_nsec << 20 ^ (uint64_t)getpid();
    }
    return token;
}
