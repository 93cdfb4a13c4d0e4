/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is attached where. Callers hold the library's lock. */
#ifndef CLSHM_LIB_PIECES_H
#define CLSHM_LIB_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct piece {
    uintptr_t addr, end;
    uintptr_t base; /* what xp_shmat() returned */
    uint64_t id;    /* of the attachment */
    uint32_t entry;
};

struct pieces {
    struct piece *piece; /* by addr; they do not overlap */
    size_t count, room;
    uint64_t last_id;
    size_t longest; /* no attachment was ever longer */
};

/* Make room for one more attachment. @return 0 or ENOMEM. */
int pieces_reserve(struct pieces *t);
/* Put in [@addr, @end), which pieces_cut() has made free, after pieces_reserve(). */
void pieces_add(struct pieces *t, uintptr_t addr, uintptr_t end, uint32_t entry);
/* Take [@addr, @end) out of every attachment there. Call until false; true: attachment *@entry has no piece left. */
bool pieces_cut(struct pieces *t, uintptr_t addr, uintptr_t end, uint32_t *entry);
/* The first piece left of the attachment that was made at @base (of several, the lowest); NULL: there is none. */
struct piece *pieces_find(const struct pieces *t, uintptr_t base);
/* Take out the first piece of attachment @id, @base. @return false: it has none. */
bool pieces_take(struct pieces *t, uint64_t id, uintptr_t base, struct piece *out);

#endif
