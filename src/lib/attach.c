// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * xp_shmat and xp_shmdt.
 *
 * Attaching: the segment's entry of the client page (made if need be) counts first; then a descriptor is had, from the
 * cache if the generation word and the home's incarnation say that it still holds, else by OPEN; then it is mapped. What
 * fails undoes the count. Detaching: unmap, count down, then look at the word: if the segment is marked for removal, or
 * has changed, the daemon hears of it.
 *
 * lib_call() may find that the process must begin anew with another page. Entries with a count keep their number then,
 * idle ones are freed: so after a call an idle entry is looked at again before it is used.
 */
#include "src/lib/lib.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "src/lib/public.h"
#include "src/util/cleanup.h"

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME_COARSE, &t);
    return t.tv_sec;
}

/* ------------------------------------------------------------------ entries */

/* Say DETACHED of entry @e, and free it if it counts nothing. @return 0, or an errno: the daemon was not reached. */
static int tell_detached(uint32_t e)
{
    struct entry *x = &lib.entries.entry[e];
    struct clshmd_detached request = {.shmid = x->shmid, .entry = e};
    int error = lib_call(CLSHMD_DETACHED, &request, sizeof(request), NULL, 0, NULL, NULL, CONN_TIMEOUT_MS, NULL);
    if (x->shmid != request.shmid)
        return error; /* a new page: the daemon knows nothing of the old one's */
    x->owed = error == EIO;
    lib.in_debt |= x->owed;
    if (x->owed)
        return error;
    if (x->count == 0) {
        grants_drop(&lib.grants, &lib.entries, e);
        entries_release(&lib.entries, e);
    }
    return 0;
}

static int free_idle(uint32_t e)
{
    if (lib.entries.entry[e].granted)
        return tell_detached(e);
    entries_release(&lib.entries, e);
    return 0;
}

static int grow(void)
{
    struct clshmd_grow_reply reply;
    if (lib.entries.usable >= CLSHMD_ENTRIES_MAX)
        return EMFILE;
    int error = lib_call(CLSHMD_GROW, NULL, 0, &reply, sizeof(reply), NULL, NULL, CONN_TIMEOUT_MS, NULL);
    if (error == 0 && reply.entries > lib.entries.usable && reply.entries <= CLSHMD_ENTRIES_MAX)
        lib.entries.usable = reply.entries;
    return error;
}

/* The entry of @shmid, made if there is none: of a free one, of an idle one that is of no use any more, of a new one, of
 * any idle one. EMFILE: this process has attached as many segments as it may. */
static int entry_for(int shmid, uint32_t *out)
{
    struct entries *t = &lib.entries;
    if ((*out = entries_find(t, shmid)) != ENTRY_NONE || (*out = entries_take(t, shmid)) != ENTRY_NONE)
        return 0;
    uint32_t idle = entries_idle(t);
    int error = 0;
    if (idle != ENTRY_NONE && lib_word(t->entry[idle].shmid) != t->entry[idle].word)
        error = free_idle(idle);
    else if ((error = grow()) != 0 && error != EIO && (idle = entries_idle(t)) != ENTRY_NONE)
        error = free_idle(idle);
    if (error)
        return error == ENOSPC ? EMFILE : error;
    *out = entries_take(t, shmid);
    return *out == ENTRY_NONE ? EMFILE : 0;
}

/* A count of @e went down: does the daemon have to know? */
static void settle(uint32_t e)
{
    struct entry *x = &lib.entries.entry[e];
    int32_t shmid = x->shmid;
    if (!lib.entries.page || !x->granted)
        return;
    uint32_t word = lib_word(shmid);
    if (!(word & FABRIC_GEN_MARKED) && word == x->word)
        return;
    if (tell_detached(e) == 0 && x->shmid == shmid)
        x->word = word;
}

/* ------------------------------------------------------------------ the descriptor */

static const struct grant *cached(uint32_t e, uint32_t access)
{
    const struct entry *x = &lib.entries.entry[e];
    uint32_t word = lib_word(x->shmid);
    if (!x->granted || (word & FABRIC_GEN_MARKED))
        return NULL;
    const struct grant *g = grants_find(&lib.grants, &lib.entries, e, access);
    bool holds = g && g->word == word && g->incarnation == lib_incarnation(x->shmid);
    return holds ? g : NULL;
}

/* Ask the daemon. @return 0 with *@out, whose fd the caller owns, or an errno. */
static int ask(uint32_t e, uint32_t access, struct grant *out)
{
    struct entry *x = &lib.entries.entry[e];
    struct clshmd_open request = {.shmid = x->shmid, .access = access, .entry = e};
    struct clshmd_open_reply reply;
    struct stat st;
    int fd = -1;
    unsigned n = 1;
    x->access |= (uint8_t)access;
    int error = lib_call(CLSHMD_OPEN, &request, sizeof(request), &reply, sizeof(reply), &fd, &n, CONN_TIMEOUT_MS, NULL);
    if (error == 0 || error == EIO || error == EMFILE)
        x->granted = true; /* perhaps: it costs a DETACHED to be sure */
    if (error)
        return error;
    x->word = reply.word;
    if (fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size < reply.size || reply.size == 0) {
        close_fd(fd);
        return EIDRM; /* taken away meanwhile */
    }
    *out = (struct grant){.fd = fd,
                          .entry = e,
                          .huge = (uint16_t)reply.huge,
                          .word = reply.word,
                          .incarnation = reply.incarnation,
                          .size = reply.size,
                          .length = (uint64_t)st.st_size,
                          .dev = st.st_dev,
                          .ino = st.st_ino};
    return 0;
}

/* The daemon's limit counts idle entries as well: where it is reached, they are given back, one after the other. */
static int ask_firmly(uint32_t e, uint32_t access, struct grant *out)
{
    int error = ask(e, access, out);
    uint32_t idle;
    while (error == ENOMEM && (idle = entries_idle(&lib.entries)) != ENTRY_NONE && free_idle(idle) == 0)
        error = ask(e, access, out);
    return error;
}

/* ------------------------------------------------------------------ mapping */

/* To a multiple of what the mapping's address should be: huge pages that the kernel joins are mapped as such only where
 * file and address fit. Those of the pool it places itself. */
static size_t alignment(const struct grant *g, size_t size)
{
    uint32_t shift = g->huge & CLSHMD_HUGE_SHIFT;
    size_t huge = shift && shift < 40 ? (size_t)1 << shift : 0;
    bool pool = g->huge & CLSHMD_HUGE_POOL;
    if (huge <= lib.geo.granule || huge > size || (pool && lib.geo.granule <= (uint32_t)sysconf(_SC_PAGESIZE)))
        return lib.geo.granule;
    return huge;
}

/* A place of @size bytes that begins at a multiple of @granule, when that is more than a page. */
static void *map_aligned(size_t size, size_t granule, int prot, int fd)
{
    size_t room;
    if (__builtin_add_overflow(size, granule, &room)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    char *area = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (area == MAP_FAILED)
        return MAP_FAILED;
    size_t before = (granule - (uintptr_t)area % granule) % granule;
    char *at = mmap(area + before, size, prot, MAP_SHARED | MAP_FIXED, fd, 0);
    if (at == MAP_FAILED) {
        int saved = errno;
        munmap(area, room);
        errno = saved;
        return MAP_FAILED;
    }
    if (before)
        munmap(area, before);
    munmap(at + size, room - before - size);
    return at;
}

static int map(const struct grant *g, uintptr_t addr, int flags, size_t size, uintptr_t *out)
{
    int prot = PROT_READ | (flags & SHM_RDONLY ? 0 : PROT_WRITE) | (flags & SHM_EXEC ? PROT_EXEC : 0);
    bool replace = flags & SHM_REMAP;
    size_t granule = alignment(g, size);
    void *p;
    if (addr == 0 && granule > (size_t)sysconf(_SC_PAGESIZE))
        p = map_aligned(size, granule, prot, g->fd);
    else
        p = mmap((void *)addr, size, prot, MAP_SHARED | (addr ? (replace ? MAP_FIXED : MAP_FIXED_NOREPLACE) : 0), g->fd,
                 0);
    if (p == MAP_FAILED)
        return errno == EEXIST ? EINVAL : errno;
    if (addr && (uintptr_t)p != addr) { /* before Linux 4.17 it was only a hint */
        munmap(p, size);
        return EINVAL;
    }
    if (g->huge && !(g->huge & CLSHMD_HUGE_POOL) && (uintptr_t)p % granule == 0)
        (void)madvise(p, size, MADV_HUGEPAGE); /* as good without */
    *out = (uintptr_t)p;
    return 0;
}

/* What lay at [@addr, @end) is there no longer: attachments of which nothing is left are not counted any more. */
static void cut(uintptr_t addr, uintptr_t end)
{
    uint32_t e;
    while (pieces_cut(&lib.pieces, addr, end, &e)) {
        entries_detach(&lib.entries, e, now());
        settle(e);
    }
}

/* Map @g, and note it. */
static int map_grant(const struct grant *g, uintptr_t addr, int flags, uintptr_t *out)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size;
    if (__builtin_add_overflow(g->length, page - 1, &size))
        return ENOMEM;
    size &= ~(page - 1);
    if (addr + size < addr && !(flags & SHM_REMAP))
        return EINVAL;
    int error = pieces_reserve(&lib.pieces);
    if (error == 0)
        error = map(g, addr, flags, size, out);
    if (error)
        return error;
    uint32_t e = g->entry;
    cut(*out, *out + size);
    pieces_add(&lib.pieces, *out, *out + size, e);
    return 0;
}

/* Map what entry @e, which counts this attachment already, is about. */
static int map_entry(uint32_t e, uintptr_t addr, int flags, uintptr_t *out)
{
    uint32_t access = CLSHMD_READ | (flags & SHM_RDONLY ? 0 : CLSHMD_WRITE) | (flags & SHM_EXEC ? CLSHMD_EXEC : 0);
    const struct grant *g = cached(e, access);
    struct grant fresh;
    int error = g ? map_grant(g, addr, flags, out) : EBADF;
    if (error == EBADF || error == EACCES || error == ENODEV) { /* no, or no longer the descriptor that it was */
        if (g)
            grants_drop(&lib.grants, &lib.entries, e);
        error = ask_firmly(e, access, &fresh);
        if (error)
            return error;
        error = map_grant(&fresh, addr, flags, out);
        if (fresh.word & FABRIC_GEN_MARKED)
            close_fd(fresh.fd);
        else
            grants_put(&lib.grants, &lib.entries, e, access, &fresh);
    }
    lib.entries.entry[e].access |= (uint8_t)access;
    return error;
}

/* shmat(2)'s rules for the address. */
static int place(uintptr_t *addr, int flags)
{
    uintptr_t mask = lib.geo.granule - 1;
    if (*addr == 0)
        return flags & SHM_REMAP ? EINVAL : 0;
    if ((*addr & mask) == 0)
        return 0;
    if (!(flags & SHM_RND))
        return EINVAL;
    *addr &= ~mask;
    return *addr == 0 && (flags & SHM_REMAP) ? EINVAL : 0;
}

/* An attachment failed with @error. An entry that was never attached tells a daemon that restarts nothing, so that
 * a grant for it must not be relied upon: it goes. A daemon that was @met anew meanwhile may have found the count in our
 * page as it started, and made a grant of it, although it refuses us. */
static void give_up(uint32_t e, int error, bool met)
{
    struct entry *x = &lib.entries.entry[e];
    entries_undo(&lib.entries, e);
    x->granted |= met;
    if (x->count == 0 && !x->granted)
        entries_release(&lib.entries, e);
    else if (x->count == 0 && error != EIO && lib.entries.page && lib.entries.page[e].attaches == 0)
        (void)tell_detached(e);
    else
        settle(e);
}

static int attach(int shmid, uintptr_t addr, int flags, uintptr_t *out)
{
    uint32_t e;
    if (shmid < 0)
        return EINVAL;
    int error = lib_ready();
    if (error == 0)
        error = place(&addr, flags);
    if (error == 0)
        error = entry_for(shmid, &e);
    if (error)
        return error;
    if (!lib.entries.page)
        return EIO;
    uint32_t hellos = lib.hellos;
    entries_attach(&lib.entries, e, now());
    error = map_entry(e, addr, flags, out);
    if (error == 0)
        return 0;
    give_up(e, error, lib.hellos != hellos);
    return error;
}

void *xp_shmat(int shmid, const void *addr, int shmflg)
{
    struct lib_scope scope;
    uintptr_t at = 0;
    lib_enter(&scope);
    int error = attach(shmid, (uintptr_t)addr, shmflg, &at);
    lib_debug(3, "xp_shmat(%d, %p, %#x): %d", shmid, addr, (unsigned)shmflg, error);
    return lib_leave(&scope, error) < 0 ? (void *)-1 : (void *)at;
}

static int detach(uintptr_t addr)
{
    struct piece *first = pieces_find(&lib.pieces, addr), piece;
    if (!first)
        return EINVAL;
    uint64_t id = first->id;
    uint32_t e = first->entry;
    if (!lib.entries.page)
        (void)lib_ready(); /* what is counted for us in another's page should be in ours */
    while (pieces_take(&lib.pieces, id, addr, &piece))
        munmap((void *)piece.addr, piece.end - piece.addr);
    entries_detach(&lib.entries, e, now());
    settle(e);
    return 0;
}

int xp_shmdt(const void *addr)
{
    struct lib_scope scope;
    lib_enter(&scope);
    int error = detach((uintptr_t)addr);
    lib_debug(3, "xp_shmdt(%p): %d", addr, error);
    return lib_leave(&scope, error);
}
