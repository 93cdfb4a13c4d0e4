/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table of memory (table.c), shared by driver.c, which keeps it, and create.c. */
#ifndef CLSHM_FABRIC_LOCAL_MEMORY_H
#define CLSHM_FABRIC_LOCAL_MEMORY_H

#include "src/fabric/local/local.h"

#define LOCAL_SEALS (F_SEAL_GROW | F_SEAL_SEAL) /* not against shrinking: that is how memory is revoked */

struct local_memory {
    int32_t shmid;
    bool import, pending;
    uint8_t huge_shift; /* log2 of its pages, if they are of the pool */
    int rw, ro;         /* ro: imports only */
    uint64_t size;
    uint64_t serial; /* of the job that reserves it */
    void *locked;    /* mapping that keeps it in memory */
    uint64_t lock_serial;
    struct local_memory *next; /* of its chain */
};

/* Of all in the table the one after @m, the first if that is NULL. Removing others than it meanwhile does no harm. */
struct local_memory *local_table_next(const struct local_table *table, const struct local_memory *m);
void local_table_remove(struct local_table *table, struct local_memory *m);
void local_table_deinit(struct local_table *table);

struct local_memory *local_memory_find(struct local *l, int32_t shmid);
/* @return NULL: memory is short. The descriptors become its own, then. */
struct local_memory *local_memory_new(struct local *l, int32_t shmid, bool import, int rw, int ro, uint64_t size);
/* Out of the table, descriptors closed, forgotten by the keeper unless it is pending. */
struct local_memory *local_memory_free(struct local *l, struct local_memory *m);
/* The end of a reservation. @return false: it was destroyed meanwhile. */
bool local_created(struct local *l, struct driver_event *event);

#endif
