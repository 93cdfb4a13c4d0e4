/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reader KEY [hold]: attach what somebody published, read-only, and write it to standard output, straight from the shared
 * memory. With hold it stays attached until standard input ends.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xp_shm.h>

#include "demo/published.h"

static int failed(const char *what)
{
    fprintf(stderr, "reader: %s: %s (%s)\n", what, strerror(errno), strerrorname_np(errno));
    return 1;
}

int main(int argc, char **argv)
{
    const struct published *p;
    uint64_t size;
    char byte;
    int id;

    if (argc < 2) {
        fprintf(stderr, "usage: reader KEY [hold]\n");
        return 2;
    }
    id = xp_shmget((key_t)strtoul(argv[1], NULL, 0), 0, 0444);
    if (id < 0)
        return failed("xp_shmget");
    p = xp_shmat(id, NULL, SHM_RDONLY);
    if (p == (void *)-1)
        return failed("xp_shmat");
    size = __atomic_load_n(&p->size, __ATOMIC_ACQUIRE);
    for (uint64_t at = 0; at < size;) {
        ssize_t n = write(1, p->data + at, size - at);

        if (n < 0)
            return failed("write");
        at += (uint64_t)n;
    }
    close(1);
    while (argc > 2 && read(0, &byte, 1) > 0)
        continue;
    return xp_shmdt(p) == 0 ? 0 : failed("xp_shmdt");
}
