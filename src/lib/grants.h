/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Descriptors that map a segment, kept for the next attachment. Callers hold the library's lock. */
#ifndef CLSHM_LIB_GRANTS_H
#define CLSHM_LIB_GRANTS_H

#include "src/lib/entries.h"

#include <stddef.h>
#include <sys/types.h>

#define GRANTS_MAX 256u

struct grant {
    int fd; /* -1: this place is free */
    uint32_t entry;
    uint8_t kind;
    uint16_t huge;        /* CLSHMD_HUGE_* */
    uint32_t word;        /* valid while the generation word is this */
    uint32_t incarnation; /* and the home this */
    uint64_t size;
    uint64_t length; /* of the file */
    dev_t dev;
    ino_t ino;
    uint64_t used; /* when last, for choosing what to give up */
};

struct grants {
    uint32_t limit; /* at most so many; 0 before the first use */
    uint32_t top;   /* places from here on were never used */
    uint64_t clock;
    struct grant grant[GRANTS_MAX];
};

/* The cached descriptor for @access (CLSHMD_*) to entry @e, still ours by fstat(2); NULL: none. */
const struct grant *grants_find(struct grants *g, struct entries *t, uint32_t e, uint32_t access);
/* Keep @new, whose fd is open and becomes the cache's (which may close it at once when it has no room). */
void grants_put(struct grants *g, struct entries *t, uint32_t e, uint32_t access, const struct grant *new);
/* Close those of entry @e; all. */
void grants_drop(struct grants *g, struct entries *t, uint32_t e);
void grants_drop_all(struct grants *g, struct entries *t);

#endif
