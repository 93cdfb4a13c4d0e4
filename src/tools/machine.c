/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine's huge pages, as the kernel tells everybody. Tool and daemon talk over a Unix socket, so they have the same
 * kernel. What cannot be read counts as 0.
 */
#include "src/tools/machine.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The pool: HugePages_Free includes what was promised to somebody. */
static void read_pool(struct machine_huge *out)
{
    FILE *f = fopen("/proc/meminfo", "re");
    uint64_t promised = 0;
    char line[128];

    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "HugePages_Total: %" SCNu64, &out->pages) == 1 ||
            sscanf(line, "HugePages_Free: %" SCNu64, &out->free) == 1 ||
            sscanf(line, "HugePages_Rsvd: %" SCNu64, &promised) == 1)
            continue;
        if (sscanf(line, "Hugepagesize: %" SCNu64, &out->size) == 1)
            out->size *= 1024;
    }
    if (f)
        fclose(f);
    out->free -= promised < out->free ? promised : out->free;
}

/* "always within_size advise [never] deny force" */
static void read_shmem(struct machine_huge *out)
{
    FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re");
    char line[128] = "", *begin = NULL, *end = NULL;

    if (f && fgets(line, sizeof(line), f) && (begin = strchr(line, '[')) && (end = strchr(begin, ']')))
        *end = '\0';
    snprintf(out->shmem_enabled, sizeof(out->shmem_enabled), "%s", end ? begin + 1 : "unknown");
    out->transparent = end && strcmp(out->shmem_enabled, "never") != 0 && strcmp(out->shmem_enabled, "deny") != 0;
    if (f)
        fclose(f);
}

void machine_huge(struct machine_huge *out)
{
    memset(out, 0, sizeof(*out));
    read_pool(out);
    read_shmem(out);
}
