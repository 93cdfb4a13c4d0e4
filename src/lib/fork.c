// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a child has attached must be counted before the child exists, or the parent could detach and the segment be
 * removed in between. So fork(2)'s prepare handler asks the daemon for the child's page and copies the counts into it.
 * Parent and child both map it then; the parent lets go of it, the child keeps it and lets go of the parent's. The child
 * says nothing in its handler: it connects, with its page's token, at its next call that needs to.
 *
 * If there is no page to be had (the daemon is away), the child keeps the parent's page mapped. As long as it does, that
 * page is not found unlocked, so what is counted there stays counted, even when the parent ends; only if the parent
 * detaches meanwhile does the child go uncounted. Its next call gets it a page of its own.
 *
 * The same holds after a raw clone, or _Fork, which run no handlers. They are seen by a page that the kernel wipes in
 * the child (MADV_WIPEONFORK). A child that shares its parent's memory (vfork, posix_spawn) is its parent, and wipes
 * nothing. In a process of several threads a raw clone may have cut one off in the middle of a call: as for any library,
 * what that one had begun stays as it was.
 */
#include "src/lib/lib.h"

#include <sched.h>
#include <sys/mman.h>
#include <time.h>

#include "src/util/cleanup.h"

#define CLAIMING 1u /* of *lib.alive: 0 wiped, then this, then LIB_ALIVE */

static void prepare(void)
{
    struct lib_scope scope;
    int fds[2] = {-1, -1};
    unsigned n = 2;
    lib_enter(&scope);
    lib.fork_scope = scope;
    if (lib.entries.attachments == 0)
        return;
    int error = lib_call(CLSHMD_FORK, NULL, 0, &lib.child, sizeof(lib.child), fds, &n, CONN_WAIT_MS, NULL);
    if (error == 0 && lib.child.entries <= CLSHMD_ENTRIES_MAX && lib.child.entries >= entries_end(&lib.entries))
        error = mapping_map(&lib.child_page, fds[0], CLSHMD_PAGE_SIZE, true);
    const struct clshmd_page_head *head = lib.child_page.base;
    if (head && (head->magic != CLSHMD_MAGIC || head->token != lib.child.token))
        mapping_unmap(&lib.child_page);
    if (lib.child_page.base)
        entries_copy(&lib.entries, (void *)((char *)lib.child_page.base + sizeof(*head)), time(NULL), true);
    else
        lib_debug(1, "fork: no page for the child, which its parent's page counts for until its next call");
    close_fd(fds[0]);
    close_fd(fds[1]);
}

static void parent(void)
{
    mapping_unmap(&lib.child_page);
    lib_leave(&lib.fork_scope, 0);
}

/* What counts nothing is not in the child's page. So a daemon that restarts would know nothing of it: it is to be asked
 * for again. */
static void release_idle(void)
{
    uint32_t e;
    while ((e = entries_idle(&lib.entries)) != ENTRY_NONE) {
        grants_drop(&lib.grants, &lib.entries, e);
        entries_release(&lib.entries, e);
    }
}

static void take_child_page(void)
{
    lib.entries.page = NULL; /* the parent's: not ours to write to */
    release_idle();
    mapping_unmap(&lib.page);
    lib.page = lib.child_page;
    lib.child_page = (struct mapping){0};
    lib.entries.page = (void *)((char *)lib.page.base + sizeof(struct clshmd_page_head));
    lib.entries.usable = lib.child.entries;
    lib.token = lib.child.token;
    lib.stale = false;
}

static void child(void)
{
    /* Another's handler that ran before this one and called us has begun anew already. */
    if (lib.wipes && __atomic_load_n(lib.alive, __ATOMIC_ACQUIRE) != 0) {
        mapping_unmap(&lib.child_page);
        pthread_setcancelstate(lib.fork_scope.cancel, NULL);
        return;
    }
    if (lib.child_page.base) {
        conn_close(&lib.conn);
        take_child_page();
    } else {
        lib_orphaned();
        if (lib.entries.attachments == 0)
            mapping_unmap(&lib.page);
    }
    __atomic_store_n(lib.alive, LIB_ALIVE, __ATOMIC_RELEASE);
    lib_leave(&lib.fork_scope, 0);
}

void fork_init(void)
{
    static uint32_t never_wiped = LIB_ALIVE;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    lib.wipes = page != MAP_FAILED && madvise(page, 4096, MADV_WIPEONFORK) == 0;
    lib.alive = lib.wipes ? page : &never_wiped;
    __atomic_store_n(lib.alive, LIB_ALIVE, __ATOMIC_RELEASE);
    pthread_atfork(prepare, parent, child);
}

void fork_check(void)
{
    uint32_t seen = __atomic_load_n(lib.alive, __ATOMIC_ACQUIRE);
    if (seen == LIB_ALIVE)
        return;
    if (seen == 0 &&
        __atomic_compare_exchange_n(lib.alive, &seen, CLAIMING, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        pthread_mutex_init(&lib.lock, NULL); /* whoever held it is not in this process */
        lib_orphaned();
        __atomic_store_n(lib.alive, LIB_ALIVE, __ATOMIC_RELEASE);
        return;
    }
    while (__atomic_load_n(lib.alive, __ATOMIC_ACQUIRE) != LIB_ALIVE)
        sched_yield();
}
