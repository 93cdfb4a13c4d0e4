/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * race: two processes, in two partitions, create one key at the same moment, again and again.
 *
 *     race FILE SIDE ROUNDS KEY [excl]      SIDE 0 or 1; FILE keeps them in step
 *
 * Round r is about key KEY + r. Without excl both must come away with the same id; with excl one gets an id and the
 * other EEXIST. Then the losing side removes it, where the winner is known: removal across partitions races with the
 * next round. Prints "ok ROUNDS won N", or "failed: ..." and status 1.
 */
#include <stdbool.h>
#include <xp_shm.h>

#include "meet.h"

static int attempt(key_t key, bool excl)
{
    int id = xp_shmget(key, 4096, IPC_CREAT | 0666 | (excl ? IPC_EXCL : 0));

    return id < 0 ? -errno : id;
}

static void failed(long round, int64_t mine, int64_t theirs)
{
    printf("failed: round %ld: %lld here, %lld there\n", round, (long long)mine, (long long)theirs);
    exit(1);
}

int main(int argc, char **argv)
{
    bool excl = argc > 5 && strcmp(argv[5], "excl") == 0;
    long won = 0, rounds;
    unsigned side;
    struct meet *m;
    key_t key;

    if (argc < 5) {
        fprintf(stderr, "usage: race FILE SIDE ROUNDS KEY [excl]\n");
        return 2;
    }
    m = meet_open(argv[1]);
    side = argv[2][0] == '1';
    rounds = strtol(argv[3], NULL, 0);
    key = (key_t)strtol(argv[4], NULL, 0);
    if (part_getid() < 0) /* connect before the first round */
        die("part_getid");
    for (long r = 0; r < rounds; r++) {
        int64_t mine, theirs;
        bool first;

        meet(m, side);
        mine = attempt(key + (key_t)r, excl);
        first = mine >= 0 && (excl || part_getpart((int)mine) == part_getid()); /* asked while it is there */
        theirs = meet_swap(m, side, mine);
        if (excl ? (mine == -EEXIST) == (theirs == -EEXIST) || (mine < 0 && mine != -EEXIST)
                 : mine < 0 || mine != theirs)
            failed(r, mine, theirs);
        won += first;
        if (!first && xp_shmctl((int)(excl ? theirs : mine), IPC_RMID) != 0)
            die("IPC_RMID");
    }
    meet(m, side);
    printf("ok %ld won %ld\n", rounds, won);
    return 0;
}
