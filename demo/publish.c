/* SPDX-License-Identifier: GPL-2.0-or-later */
/* publish FILE KEY: put a file into a shared segment, where any partition finds it by its key. See reader.c. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xp_shm.h>

#include "demo/published.h"

static int failed(const char *what)
{
    fprintf(stderr, "publish: %s: %s (%s)\n", what, strerror(errno), strerrorname_np(errno));
    return 1;
}

int main(int argc, char **argv)
{
    struct published *p;
    struct stat st;
    key_t key;
    int fd, id;

    if (argc != 3) {
        fprintf(stderr, "usage: publish FILE KEY\n");
        return 2;
    }
    key = (key_t)strtoul(argv[2], NULL, 0);
    fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0)
        return failed(argv[1]);
    id = xp_shmget(key, sizeof(*p) + (size_t)st.st_size, IPC_CREAT | IPC_EXCL | 0644);
    if (id < 0)
        return failed("xp_shmget");
    p = xp_shmat(id, NULL, 0);
    if (p == (void *)-1)
        return failed("xp_shmat");
    for (off_t at = 0; at < st.st_size;) {
        ssize_t n = read(fd, p->data + at, (size_t)(st.st_size - at));

        if (n <= 0)
            return failed(argv[1]);
        at += n;
    }
    __atomic_store_n(&p->size, (uint64_t)st.st_size, __ATOMIC_RELEASE);
    printf("published %jd bytes as segment %d of partition %d\n", (intmax_t)st.st_size, id, part_getid());
    return xp_shmdt(p) == 0 ? 0 : failed("xp_shmdt");
}
