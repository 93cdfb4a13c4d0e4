/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tools say of this machine. */
#ifndef CLSHM_TOOLS_MACHINE_H
#define CLSHM_TOOLS_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

struct machine_huge {
    uint64_t size, pages, free; /* of the default pool: bytes of a page, pages, pages that nobody uses or reserved */
    char shmem_enabled[32];     /* what is chosen there; "unknown" */
    bool transparent;           /* does that let the kernel join pages of segments? */
};

void machine_huge(struct machine_huge *out);

#endif
