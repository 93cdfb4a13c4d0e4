/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The entries of the client page, and what the library knows of each besides. Callers hold the library's lock. */
#ifndef CLSHM_LIB_ENTRIES_H
#define CLSHM_LIB_ENTRIES_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/clshmd.h"

#define ENTRY_NONE  UINT32_MAX
#define ENTRY_KINDS 4u /* CLSHMD_READ, with or without WRITE, with or without EXEC */

struct entry {
    int32_t shmid;               /* -1: free */
    uint32_t count;              /* attachments of this process; what its page says, if the page is its own */
    uint32_t word;               /* generation word, as the last OPEN told */
    uint8_t access;              /* CLSHMD_*: all that its attachments have needed */
    bool granted;                /* the daemon has, or may have, a grant for it */
    bool owed;                   /* the daemon has yet to be told DETACHED */
    uint16_t hash;               /* next entry of the same hash, plus 1 */
    uint16_t prev, next;         /* neighbours in the list of idle or free ones, plus 1 */
    uint16_t grant[ENTRY_KINDS]; /* cached descriptors (grants.c), plus 1 */
};

struct entries {
    struct clshmd_entry *page; /* NULL: there is none, or it is another process's */
    uint32_t usable;
    uint32_t fresh;       /* entries from here on were never used */
    uint32_t attachments; /* sum of all counts */
    uint16_t free_head;
    uint16_t idle_head, idle_tail; /* count 0, still granted; the longest idle one first */
    uint16_t hash[1024];
    struct entry entry[CLSHMD_ENTRIES_MAX];
};

/* @return the entry of @shmid, or ENTRY_NONE. */
uint32_t entries_find(const struct entries *t, int32_t shmid);
/* A free entry becomes that of @shmid, count 0, and idle. ENTRY_NONE: none is free. */
uint32_t entries_take(struct entries *t, int32_t shmid);
/* Make it free. It has count 0, and the daemon has no grant for it. */
void entries_release(struct entries *t, uint32_t e);
/* The entry that is idle for the longest time, or ENTRY_NONE. */
uint32_t entries_idle(const struct entries *t);

/* One attachment more or less, in the page first. undo() takes back what attach() did. */
void entries_attach(struct entries *t, uint32_t e, int64_t now);
void entries_undo(struct entries *t, uint32_t e);
void entries_detach(struct entries *t, uint32_t e, int64_t now);

/* Entries in use lie below this. */
uint32_t entries_end(const struct entries *t);

/* Write all that is counted into @page, the new page of this process, with the time @now (0: as the present page has it).
 * @by_parent: the process has just been forked. */
void entries_copy(const struct entries *t, struct clshmd_entry *page, int64_t now, bool by_parent);

#endif
