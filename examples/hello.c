/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The program of the README: whoever runs it first creates the segment; all count their runs in it, in any partition. */
#include <stdio.h>
#include <xp_shm.h>

int main(void)
{
    int id = xp_shmget(0x5ca1ab1e, 4096, IPC_CREAT | 0666); /* one key space for the whole fabric */
    unsigned long *p = xp_shmat(id, NULL, 0);
    if (p == (void *)-1)
        return perror("xp_shmat"), 1;
    printf("run number %lu\n", __atomic_add_fetch(p, 1, __ATOMIC_SEQ_CST)); /* whoever runs it, in any partition */
    return xp_shmdt(p);
}
