/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libclshm: attaching, the conversation with the daemon when it breaks, arguments of all calls. */
#include <fcntl.h>
#include <grp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "tests/unit/lib_harness.h"

/* ------------------------------------------------------------------ attaching */

TEST(attach_detach)
{
    int id = xp_shmget(77, 100, IPC_CREAT | 0600);
    CHECK(id == SEG(0));
    errno = 7;
    char *a = xp_shmat(id, NULL, 0);
    CHECK(a != (void *)-1 && errno == 7);
    a[FAKE_SIZE - 1] = 'x';
    CHECK(counted(0, 0).count == 1 && counted(0, 0).attaches == 1 && counted(0, 0).atime > 0);
    char *b = xp_shmat(id, NULL, 0);
    CHECK(b != (void *)-1 && b != a && b[FAKE_SIZE - 1] == 'x');
    CHECK(counted(0, 0).count == 2 && counted(0, 0).attaches == 2);
    CHECK(fake->count[CLSHMD_OPEN] == 1); /* the second one was silent */
    FAILS(xp_shmdt(a + 4096), EINVAL);
    FAILS(xp_shmdt(NULL), EINVAL);
    CHECK(xp_shmdt(a) == 0 && xp_shmdt(b) == 0);
    FAILS(xp_shmdt(a), EINVAL);
    CHECK(counted(0, 0).count == 0 && counted(0, 0).attaches == 2 && counted(0, 0).dtime > 0);
    CHECK(fake->count[CLSHMD_DETACHED] == 0);
    CHECK(mincore(a, 4096, (unsigned char[1]){0}) < 0 && errno == ENOMEM);
    const char *r = xp_shmat(id, NULL, SHM_RDONLY);
    CHECK(r != (void *)-1 && r[FAKE_SIZE - 1] == 'x' && fake->count[CLSHMD_OPEN] == 2);
    CHECK(mprotect((void *)(uintptr_t)r, 4096, PROT_READ | PROT_WRITE) < 0 && errno == EACCES);
    FAILS(xp_shmat(-1, NULL, 0), EINVAL);
    CHECK(xp_shmat(id, NULL, 0) != (void *)-1 && xp_shmat(id, NULL, SHM_RDONLY) != (void *)-1);
    CHECK(fake->count[CLSHMD_OPEN] == 2); /* both descriptors are kept */
    fake->fail_op = CLSHMD_OPEN;
    fake->fail_error = EACCES;
    FAILS(xp_shmat(SEG(5), NULL, 0), EACCES);
    CHECK(counted(0, 5).count == 0 && counted(0, 5).attaches == 0);
}

TEST(generation)
{
    void *p = xp_shmat(SEG(1), NULL, 0);
    CHECK(p != (void *)-1 && fake->count[CLSHMD_OPEN] == 1);
    (*fake_word(fake,
                SEG(1)))++; /* rights changed: the descriptor counts for nothing, and the daemon hears of detaching */
    void *q = xp_shmat(SEG(1), NULL, 0);
    CHECK(q != (void *)-1 && fake->count[CLSHMD_OPEN] == 2);
    *fake_incarnation(fake, FAKE_PART) = 99; /* the home came back anew */
    void *r = xp_shmat(SEG(1), NULL, 0);
    CHECK(r != (void *)-1 && fake->count[CLSHMD_OPEN] == 3);
    CHECK(xp_shmdt(r) == 0 && fake->count[CLSHMD_DETACHED] == 0);
    *fake_word(fake, SEG(1)) |= FABRIC_GEN_MARKED;
    CHECK(xp_shmdt(q) == 0 && fake->count[CLSHMD_DETACHED] == 1 && fake->last_shmid == SEG(1));
    q = xp_shmat(SEG(1), NULL, 0); /* marked: by the daemon, each time */
    CHECK(q != (void *)-1 && fake->count[CLSHMD_OPEN] == 4);
    CHECK(xp_shmdt(q) == 0 && fake->count[CLSHMD_DETACHED] == 2);
    CHECK(xp_shmdt(p) == 0 && fake->count[CLSHMD_DETACHED] == 3);
    CHECK(counted(0, 1).attaches == 0); /* told: the entry is free */
    *fake_word(fake, SEG(2)) = 5;
    p = xp_shmat(SEG(2), NULL, 0);
    *fake_word(fake, SEG(2)) = 6;
    CHECK(xp_shmdt(p) == 0 && fake->count[CLSHMD_DETACHED] == 4);
}

TEST(addresses)
{
    char *area = mmap(NULL, 64 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED);
    FAILS(xp_shmat(SEG(1), area, 0), EINVAL); /* in use */
    FAILS(xp_shmat(SEG(1), area + 1, 0), EINVAL);
    FAILS(xp_shmat(SEG(1), NULL, SHM_REMAP), EINVAL);
    FAILS(xp_shmat(SEG(1), (void *)1, SHM_REMAP | SHM_RND), EINVAL);
    FAILS(xp_shmat(SEG(1), (void *)(UINTPTR_MAX & ~4095ul), 0), EINVAL); /* wraps */
    if (!TSAN)
        FAILS(xp_shmat(SEG(1), (void *)(1ul << 62), 0), ENOMEM);
    CHECK(counted(0, 1).count == 0);
    munmap(area, 64 * 4096);
    CHECK(xp_shmat(SEG(1), area + 100, SHM_RND) == area);
    CHECK(xp_shmat(SEG(2), area, SHM_REMAP) == area); /* in place of the other, which ends */
    CHECK(counted(0, 1).count == 0 && counted(0, 2).count == 1);
    CHECK(xp_shmat(SEG(1), area + 4096, SHM_REMAP) == area + 4096); /* over its second page only */
    CHECK(counted(0, 1).count == 1 && counted(0, 2).count == 1);
    area[4096] = 'y';
    CHECK(xp_shmdt(area) == 0 && counted(0, 2).count == 0 && area[4096] == 'y'); /* the other's page stays */
    FAILS(xp_shmdt(area), EINVAL);
    CHECK(xp_shmdt(area + 4096) == 0 && counted(0, 1).count == 0);
    /* unmapped by the program itself: it counts until something else comes there */
    CHECK(xp_shmat(SEG(1), area, 0) == area && munmap(area, FAKE_SIZE) == 0 && counted(0, 1).count == 1);
    CHECK(xp_shmat(SEG(2), area, 0) == area && counted(0, 1).count == 0 && counted(0, 2).count == 1);
}

/* What OPEN granted for an attachment that then failed is given back: a daemon that restarts would not know of it. */
TEST(failed_mapping)
{
    char *used = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAILS(xp_shmat(SEG(1), used, 0), EINVAL);
    CHECK(fake->count[CLSHMD_OPEN] == 1 && fake->count[CLSHMD_DETACHED] == 1 && counted(0, 1).attaches == 0);
    CHECK(xp_shmat(SEG(1), NULL, 0) != (void *)-1 && fake->count[CLSHMD_OPEN] == 2);
    FAILS(xp_shmat(SEG(1), used, 0), EINVAL); /* it is attached besides: the grant is good */
    CHECK(fake->count[CLSHMD_OPEN] == 2 && fake->count[CLSHMD_DETACHED] == 1 && counted(0, 1).count == 1);
}

TEST(many_segments)
{
    fake->grow_max = 254;
    void *p[255];
    for (int i = 0; i < 254; i++) {
        p[i] = xp_shmat(SEG(i), NULL, SHM_RDONLY);
        CHECK(p[i] != (void *)-1);
    }
    CHECK(fake->count[CLSHMD_GROW] == 1);
    FAILS(xp_shmat(SEG(254), NULL, 0), EMFILE);
    CHECK(xp_shmdt(p[9]) == 0 && fake->count[CLSHMD_DETACHED] == 0);
    p[254] = xp_shmat(SEG(254), NULL, 0); /* in the entry of the one that is idle, after DETACHED */
    CHECK(p[254] != (void *)-1 && fake->count[CLSHMD_DETACHED] == 1 && counted(0, 9).attaches == 0);
    for (int i = 0; i < 255; i++)
        CHECK(i == 9 || (counted(0, i).count == 1 && xp_shmdt(p[i]) == 0));
    CHECK(xp_shmat(SEG(9), NULL, 0) != (void *)-1);
}

TEST(few_descriptors)
{
    CHECK(part_getid() == FAKE_PART);
    struct rlimit limit = {.rlim_cur = 40, .rlim_max = 1024};
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int fds[64], n = 0;
    while ((fds[n] = open("/dev/null", O_RDONLY)) >= 0)
        n++;
    FAILS(xp_shmat(SEG(1), NULL, 0), EMFILE);
    CHECK(counted(0, 1).count == 0);
    close(fds[--n]);
    CHECK(xp_shmat(SEG(1), NULL, 0) != (void *)-1 && counted(0, 1).count == 1);
    CHECK(fake->count[CLSHMD_HELLO] == 1);
}

/* ------------------------------------------------------------------ the conversation */

TEST(versions)
{
    fake->trick = FAKE_OTHER_MAJOR;
    FAILS(xp_shmget(1, 1, IPC_CREAT), EPROTO);
    fake->trick = FAKE_REFUSE;
    FAILS(xp_shmat(1, NULL, 0), EPROTO);
    CHECK(fake->count[CLSHMD_HELLO] == 2); /* one is enough to know */
    fake->trick = FAKE_HONEST;
    CHECK(xp_shmget(1, 1, IPC_CREAT) >= 0);
}

TEST(garbage)
{
    fake->trick = FAKE_BAD_GEOMETRY;
    FAILS(part_getid(), EIO);
    fake->trick = FAKE_HONEST;
    CHECK(part_getid() == FAKE_PART);
    for (int trick = FAKE_WRONG_SEQ; trick <= FAKE_EXTRA_FD; trick++) {
        int before = fake->count[CLSHMD_PARTS];
        fake->trick = trick;
        FAILS(part_getcount(), EIO);
        CHECK(fake->count[CLSHMD_PARTS] == before + 3); /* tried anew, not for ever */
        FAILS(xp_shmat(SEG(1), NULL, 0), EIO);
        CHECK(counted(0, 1).count == 0);
    }
    fake->trick = FAKE_HONEST;
    CHECK(part_getcount() == 3);
    CHECK(fcntl(20, F_GETFD) < 0); /* nothing of what came was left open */
}

TEST(lost_answers)
{
    fake->drop_op = CLSHMD_GET;
    CHECK(xp_shmget(1, 1, IPC_CREAT) == SEG(0));
    CHECK(fake->count[CLSHMD_GET] == 2 && fake->made == 1); /* the same token found the same segment */
    CHECK(fake->last_hello_token == 1000);
    fake->drop_op = CLSHMD_CTL;
    CHECK(xp_shmctl(SEG(0), IPC_RMID) == 0); /* the second try finds nothing: the first has removed it */
    FAILS(xp_shmctl(SEG(0), IPC_RMID), EINVAL);
    fake->drop_op = CLSHMD_OPEN;
    char *p = xp_shmat(SEG(1), NULL, 0);
    CHECK(p != (void *)-1 && counted(0, 1).count == 1);
    *fake_word(fake, SEG(1)) |= FABRIC_GEN_MARKED;
    fake->drop_op = CLSHMD_DETACHED;
    CHECK(xp_shmdt(p) == 0 && fake->count[CLSHMD_DETACHED] == 2);
    fake->drop_op = CLSHMD_HELLO;
    fake_do(&fake->hang_up);
    CHECK(part_getcount() == 3);
}

TEST(restarts)
{
    char *p = xp_shmat(SEG(1), NULL, 0), *q;
    CHECK(p != (void *)-1);
    fake_kill(fake);
    p[0] = 'z';
    CHECK((q = xp_shmat(SEG(1), NULL, 0)) != (void *)-1 && q[0] == 'z' && xp_shmdt(q) == 0); /* needs no daemon */
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    FAILS(part_getcount(), EIO); /* waits for a restart for a while */
    FAILS(part_getcount(), EIO); /* and the next time not again */
    clock_gettime(CLOCK_MONOTONIC, &end);
    CHECK(end.tv_sec - begin.tv_sec >= 2 && end.tv_sec - begin.tv_sec <= 5);
    *fake_word(fake, SEG(1)) |= FABRIC_GEN_MARKED;
    CHECK(xp_shmdt(p) == 0); /* owed to the daemon now */
    fake_restart(fake, 0);
    int hellos = fake->count[CLSHMD_HELLO];
    CHECK(part_getcount() == 3 && fake->count[CLSHMD_HELLO] == hellos + 1 && fake->last_hello_token == 1000);
    CHECK(fake->count[CLSHMD_DETACHED] == 1 && counted(0, 1).attaches == 0); /* paid */
}

TEST(waits_for_restart)
{
    CHECK(part_getcount() == 3);
    fake_kill(fake);
    fake_restart(fake, 300);
    CHECK(part_getcount() == 3);
}

TEST(forgotten)
{
    char *p = xp_shmat(SEG(1), NULL, 0), *q = xp_shmat(SEG(2), NULL, 0);
    CHECK(xp_shmat(SEG(1), NULL, SHM_RDONLY) != (void *)-1 && xp_shmdt(q) == 0);
    p[0] = 'k';
    fake_do(&fake->forget);
    fake_do(&fake->hang_up);
    int opens = fake->count[CLSHMD_OPEN];
    CHECK(part_getcount() == 3 && fake->n_pages == 2);
    CHECK(counted(1, 1).count == 2 && counted(1, 2).count == 0 && fake->count[CLSHMD_OPEN] == opens + 1);
    CHECK(p[0] == 'k' && xp_shmdt(p) == 0 && counted(1, 1).count == 1);
    CHECK(xp_shmat(SEG(1), NULL, 0) != (void *)-1 && counted(1, 1).count == 2);
}

TEST(closed_descriptors)
{
    char *p = xp_shmat(SEG(1), NULL, 0);
    fake_entries(fake, 0);
    CHECK(close_range(3, 499, 0) == 0);
    char *q = xp_shmat(SEG(1), NULL, 0); /* asks for a new descriptor, on a new connection */
    CHECK(q != (void *)-1 && fake->count[CLSHMD_OPEN] == 2 && fake->count[CLSHMD_HELLO] == 2);
    p[1] = 'c';
    CHECK(q[1] == 'c' && counted(0, 1).count == 2);
    /* others under the same numbers: neither used nor closed */
    CHECK(close_range(3, 499, 0) == 0);
    int file = open("/dev/null", O_RDWR);
    for (int i = file + 1; i < 20; i++)
        CHECK(dup2(file, i) == i);
    CHECK(part_getcount() == 3 && fake->count[CLSHMD_HELLO] == 3);
    CHECK((q = xp_shmat(SEG(1), NULL, 0)) != (void *)-1 && q[1] == 'c');
    CHECK(xp_shmdt(p) == 0 && counted(0, 1).count == 2);
    struct stat st, null;
    CHECK(stat("/dev/null", &null) == 0);
    for (int i = file; i < 20; i++)
        CHECK(fstat(i, &st) == 0 && st.st_rdev == null.st_rdev);
}

/* The same file comes back under the number that a lost descriptor had, for reading only. */
TEST(number_used_again)
{
    CHECK(xp_shmat(SEG(1), NULL, 0) != (void *)-1 && close_range(3, 499, 0) == 0);
    CHECK(xp_shmat(SEG(1), NULL, SHM_RDONLY) != (void *)-1);
    char *p = xp_shmat(SEG(1), NULL, 0);
    CHECK(p != (void *)-1 && (p[0] = 1) == 1 && fake->count[CLSHMD_OPEN] == 3);
    const char *r = xp_shmat(SEG(1), NULL, SHM_RDONLY);
    CHECK(r != (void *)-1 && mprotect((void *)(uintptr_t)r, 4096, PROT_WRITE) < 0);
    CHECK(counted(0, 1).count == 4);
    /* and the other way round: what is attached for reading is not mapped by a descriptor for writing */
    CHECK(close_range(3, 499, 0) == 0 && xp_shmat(SEG(2), NULL, SHM_RDONLY) != (void *)-1);
    CHECK(close_range(3, 499, 0) == 0 && xp_shmat(SEG(2), NULL, 0) != (void *)-1);
    r = xp_shmat(SEG(2), NULL, SHM_RDONLY);
    CHECK(r != (void *)-1 && mprotect((void *)(uintptr_t)r, 4096, PROT_WRITE) < 0);
}

TEST(credentials)
{
    if (geteuid() != 0) /* only root can change them */
        return;
    CHECK(xp_shmat(SEG(1), NULL, 0) != (void *)-1 && fake->count[CLSHMD_HELLO] == 1);
    CHECK(setegid(54321) == 0);
    CHECK(xp_shmat(SEG(1), NULL, 0) != (void *)-1); /* not by what the old ones were granted */
    CHECK(fake->count[CLSHMD_HELLO] == 2 && fake->count[CLSHMD_OPEN] == 2 && fake->last_hello_token == 1000);
    CHECK(setgroups(1, (gid_t[]){4711}) == 0 && part_getcount() == 3 && fake->count[CLSHMD_HELLO] == 3);
    CHECK(seteuid(12345) == 0 && part_getcount() == 3 && fake->count[CLSHMD_HELLO] == 4);
    CHECK(part_getcount() == 3 && fake->count[CLSHMD_HELLO] == 4 && counted(0, 1).count == 2);
    CHECK(seteuid(0) == 0);
}

static void wrong_owner(void)
{
    FAILS(part_getid(), EIO);
    CHECK(fake->count[CLSHMD_HELLO] == 0); /* not a word to a stranger */
    setenv("CLSHM_DAEMON_UID", "65533", 1);
    FAILS(part_getid(), EIO);
    setenv("CLSHM_DAEMON_UID", "65534x", 1);
    FAILS(part_getid(), EIO);
    setenv("CLSHM_DAEMON_UID", "65534", 1);
    CHECK(part_getid() == FAKE_PART);
}

static void test_wrong_owner(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* only root can start a daemon of another user */
    run(wrong_owner, 65534);
}

/* ------------------------------------------------------------------ the other calls */

TEST(arguments)
{
    struct shmid_ds ds = {0};
    struct shminfo limits;
    void *bad = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FAILS(xp_shmctl(-1, IPC_INFO, &limits), EINVAL);
    FAILS(xp_shmctl(1, -1, &ds), EINVAL);
    FAILS(xp_shmctl(1, 4711, &ds), EINVAL);
    FAILS(xp_shmctl(SEG(1), IPC_STAT, bad), EFAULT);
    FAILS(xp_shmctl(99, IPC_STAT, bad), EINVAL);
    int ctls = fake->count[CLSHMD_CTL];
    FAILS(xp_shmctl(99, IPC_SET, (void *)8), EFAULT);
    CHECK(fake->count[CLSHMD_CTL] == ctls);
    CHECK(xp_shmctl(SEG(1), IPC_SET, &ds) == 0 && xp_shmctl(SEG(1), IPC_STAT, &ds) == 0);
    CHECK(ds.shm_segsz == FAKE_SIZE - 100 && ds.shm_perm.mode == 01600);
    CHECK(xp_shmctl(3, SHM_STAT, &ds) == 3 && xp_shmctl(3, SHM_STAT_ANY, &ds) == 3);
    CHECK(xp_shmctl(0, IPC_INFO, &limits) == 17 && limits.shmmax == 1u << 30);
    CHECK(xp_shmctl(0, SHM_INFO, &(struct shm_info){0}) == 17);
    CHECK(xp_shmctl(SEG(1), IPC_AUTORMID) == 0 && xp_shmctl(SEG(1), SHM_LOCK) == 0);

    FAILS(xp_ftok(NULL, 2), EINVAL);
    FAILS(xp_ftok("", 1), EINVAL);
    FAILS(xp_ftok("/hw/clshm/partition/1", 1), EINVAL);
    FAILS(xp_ftok("/hw/clshm/partition/0g", 1), EINVAL);
    FAILS(xp_ftok("/hw/clshm/partition/001", 1), EINVAL);
    FAILS(xp_ftok("a/b", 1), EINVAL);
    CHECK(fake->count[CLSHMD_FTOK] == 0);
    CHECK(xp_ftok(NULL, 1) == 0x1234 && xp_ftok("/hw/clshm/partition/0A", 1) == 0x1234 && xp_ftok("web", 1) == 0x1234);
}

TEST(partitions)
{
    partid_t list[4] = {-1, -1, -1, -1};
    char text[64];
    CHECK(part_getid() == FAKE_PART && part_getcount() == 3);
    CHECK(part_getlist(list, 2) == 3 && list[0] == 0 && list[1] == 1 && list[2] == -1);
    CHECK(part_getlist(list, 4) == 3 && list[2] == 3 && list[3] == -1);
    FAILS(part_getlist(list, -1), EINVAL);
    FAILS(part_getlist(NULL, 1), EINVAL);
    CHECK(part_gethostname(0, text, 13) == 0 && strcmp(text, "host.example") == 0);
    FAILS(part_gethostname(0, text, 12), ENAMETOOLONG);
    FAILS(part_gethostname(64, text, 64), EINVAL);
    FAILS(part_gethostname(-1, text, 64), EINVAL);
    CHECK(part_getpart(SEG(1)) == FAKE_PART);
    FAILS(part_getpart(-5), EINVAL);
    CHECK(part_getnode(SEG(1), text, 64) == 0 && strcmp(text, "/sys/devices/system/node/node3") == 0);
    FAILS(part_getnode(SEG(1), text, 30), ENAMETOOLONG);
    unsigned long nodes[2] = {1, 0};
    struct xp_placement place = {.nodemask = nodes, .maxnode = 128, .policy = 2};
    CHECK(part_setpmo(5, &place, PMO_NODEMASK) == 0);
    FAILS(part_setpmo(5, &place, (pmo_type_t)2), EINVAL);
    FAILS(part_setpmo(5, NULL, PMO_NODEMASK), EINVAL);
    nodes[1] = 1;
    FAILS(part_setpmo(5, &place, PMO_NODEMASK), EINVAL);
    place.maxnode = 64;
    CHECK(part_setpmo(5, &place, PMO_NODEMASK) == 0);
}

TEST(silent_daemon)
{
    struct timespec begin, end;
    CHECK(part_getcount() == 3);
    fake->trick = FAKE_SILENT;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    FAILS(part_getcount(), EIO);
    clock_gettime(CLOCK_MONOTONIC, &end);
    CHECK(end.tv_sec - begin.tv_sec >= 9 && end.tv_sec - begin.tv_sec <= 12);
    fake->trick = FAKE_HONEST;
    CHECK(part_getcount() == 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attach_detach),      cmocka_unit_test(test_generation),
        cmocka_unit_test(test_addresses),          cmocka_unit_test(test_failed_mapping),
        cmocka_unit_test(test_many_segments),      cmocka_unit_test(test_few_descriptors),
        cmocka_unit_test(test_versions),           cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_lost_answers),       cmocka_unit_test(test_restarts),
        cmocka_unit_test(test_waits_for_restart),  cmocka_unit_test(test_forgotten),
        cmocka_unit_test(test_closed_descriptors), cmocka_unit_test(test_number_used_again),
        cmocka_unit_test(test_credentials),        cmocka_unit_test(test_wrong_owner),
        cmocka_unit_test(test_arguments),          cmocka_unit_test(test_partitions),
        cmocka_unit_test(test_silent_daemon),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
