/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Messages, datagrams and memory of a peer that make no sense: refused, nothing leaks, the rest goes on. */
#include "tests/unit/local_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/fabric/local/local.h"

#define OPS fabric_local_ops

static struct member a, b;

static int setup(void **state)
{
    member_init(&a);
    member_init(&b);
    if (harness_setup(state) < 0)
        return -1;
    harness_format(4);
    member_start(&a, "one", -1);
    member_start(&b, "two", -1);
    member_meet(&a, &b);
    return 0;
}

static int teardown(void **state)
{
    member_close(&a);
    member_close(&b);
    member_forget(&a);
    member_forget(&b);
    return harness_teardown(state);
}

struct count {
    struct member *m;
    uint32_t msgs;
};

static bool has_count(void *arg)
{
    const struct count *count = arg;

    return count->m->msgs >= count->msgs;
}

/* Turn both until @m has @n messages. */
static void wait_messages(struct member *m, uint32_t n)
{
    struct member *const both[] = {&a, &b};
    struct count count = {m, n};

    if (!member_until(both, 2, has_count, &count))
        fail_msg("%u messages instead of %u", m->msgs, n);
}

static void ping(struct member *from, struct member *to, uint32_t seq)
{
    const struct fabric_msg msg = {.op = FABRIC_OP_PING, .seq = seq};

    OPS.send(from->f, to->id, &msg);
}

static unsigned open_fds(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static int32_t make(struct member *m, uint32_t slot, uint64_t size, const char *text)
{
    struct driver_create req = {.shmid = member_shmid(m, slot), .size = size};
    struct driver_grant grant = {.shmid = req.shmid, .prot = DRIVER_PROT_READ | DRIVER_PROT_WRITE};
    int error = OPS.create(m->f, &req);

    if (error == CORE_PENDING)
        member_wait_memory(m, DRIVER_EVENT_CREATED, req.shmid);
    else
        assert_int_equal(error, 0);
    assert_int_equal(OPS.grant(m->f, &grant), 0);
    assert_int_equal(pwrite(grant.fd, text, strlen(text) + 1, 0), strlen(text) + 1);
    close(grant.fd);
    return req.shmid;
}

static void send_memory(struct member *from, struct member *to, int32_t shmid)
{
    struct fabric_msg msg = {.op = FABRIC_OP_IMPORTED, .flags = FABRIC_MSG_MEMORY, .shmid = shmid};

    msg.body.stat.size = 4096;
    msg.body.stat.mode = 0600;
    OPS.send(from->f, to->id, &msg);
}

static char *map(struct member *m, int32_t shmid, uint32_t prot)
{
    struct driver_grant grant = {.shmid = shmid, .prot = prot};
    char *p;

    assert_int_equal(OPS.grant(m->f, &grant), 0);
    p = mmap(NULL, 4096, PROT_READ | (prot & DRIVER_PROT_WRITE ? PROT_WRITE : 0), MAP_SHARED, grant.fd, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    if (!(prot & DRIVER_PROT_WRITE))
        assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, grant.fd, 0), MAP_FAILED);
    close(grant.fd);
    return p;
}

static int memfd(uint64_t size, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

static int reopen(int fd, int flags)
{
    char path[40];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

static bool imports(int32_t shmid, int rw, int ro)
{
    struct local_held *held = calloc(1, sizeof(*held));
    bool taken;

    *held = (struct local_held){.shmid = shmid, .rw = rw, .ro = ro};
    taken = local_driver_import(to_local(b.f), a.id, held);
    local_held_free(held);
    if (taken)
        OPS.drop(b.f, shmid);
    return taken;
}

static void test_import_checks(void **state)
{
    const int good = F_SEAL_GROW | F_SEAL_SEAL;
    int32_t shmid = member_shmid(&a, 4);
    unsigned before = open_fds();
    int fd, other;

    (void)state;
    fd = memfd(8192, good);
    assert_true(imports(shmid, fd, reopen(fd, O_RDONLY)));
    fd = memfd(8192, good);
    assert_false(imports(shmid, fd, reopen(fd, O_RDWR)));
    fd = memfd(8192, good);
    assert_false(imports(shmid, reopen(fd, O_RDONLY), fd));
    fd = memfd(8192, F_SEAL_GROW);
    assert_false(imports(shmid, fd, reopen(fd, O_RDONLY)));
    fd = memfd(8192, F_SEAL_SEAL);
    assert_false(imports(shmid, fd, reopen(fd, O_RDONLY)));
    fd = memfd(8192, good | F_SEAL_SHRINK); /* could not be revoked */
    assert_false(imports(shmid, fd, reopen(fd, O_RDONLY)));
    fd = memfd(8191, good);
    assert_false(imports(shmid, fd, reopen(fd, O_RDONLY)));
    fd = memfd(0, good);
    assert_false(imports(shmid, fd, reopen(fd, O_RDONLY)));
    fd = memfd(8192, good);
    other = memfd(8192, good);
    assert_false(imports(shmid, fd, reopen(other, O_RDONLY)));
    close(other);
    fd = open("/dev/null", O_RDWR);
    assert_false(imports(shmid, fd, reopen(fd, O_RDONLY)));
    /* Only its own segments: not a third one's, nor ours. */
    fd = memfd(8192, good);
    assert_false(imports(member_shmid(&b, 4), fd, reopen(fd, O_RDONLY)));
    fd = memfd(8192, good);
    assert_false(imports(-1, fd, reopen(fd, O_RDONLY)));
    assert_int_equal(open_fds(), before);
}

static void knock_with(const void *data, size_t size, const int *fds, unsigned n_fds)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct iovec iov = {.iov_base = (void *)data, .iov_len = size};
    union {
        char bytes[CMSG_SPACE(8 * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr msg = {.msg_name = &address, .msg_namelen = sizeof(address), .msg_iov = &iov, .msg_iovlen = 1};
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s/door.%02u", harness_path, b.id);
    if (n_fds) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        CMSG_FIRSTHDR(&msg)->cmsg_level = SOL_SOCKET;
        CMSG_FIRSTHDR(&msg)->cmsg_type = SCM_RIGHTS;
        CMSG_FIRSTHDR(&msg)->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&msg)), fds, n_fds * sizeof(int));
    }
    assert_int_equal(sendmsg(fd, &msg, 0), size);
    OPS.dispatch(b.f);
    close(fd);
}

static void test_garbage_at_the_door(void **state)
{
    unsigned before = open_fds();
    uint32_t note[8] = {0x314f4f44u, a.id, 1, 1, 0, 0, 0, 0}; /* struct door_note */
    int fds[8];
    char junk[500];

    (void)state;
    for (int i = 0; i < 8; i++)
        fds[i] = 2;
    memset(junk, 0x5a, sizeof(junk));
    for (unsigned n_fds = 0; n_fds <= 8; n_fds++) {
        knock_with(junk, sizeof(junk), fds, n_fds);
        knock_with(junk, 1, fds, n_fds);
        knock_with(junk, 0, fds, n_fds);
        knock_with(junk, 32, fds, n_fds);
        if (n_fds != 2)
            knock_with(note, sizeof(note), fds, n_fds);
    }
    note[1] = 99; /* no such partition */
    knock_with(note, sizeof(note), fds, 2);
    note[1] = b.id; /* itself */
    knock_with(note, sizeof(note), fds, 2);
    note[1] = a.id;
    note[2] = 5; /* not its incarnation */
    knock_with(note, sizeof(note), fds, 2);
    assert_int_equal(open_fds(), before);
    note[2] = 1; /* looks right: held, but never asked for; at most so many */
    for (unsigned i = 0; i < 3 * LOCAL_HELD_MAX; i++)
        knock_with(note, sizeof(note), fds, 2);
    assert_int_equal(to_local(b.f)->peer[a.id].n_held, LOCAL_HELD_MAX);
    ping(&a, &b, 1);
    wait_messages(&b, 1);
    member_leave(&a);
    member_wait(&b, DRIVER_EVENT_LEFT, 0);
    assert_int_equal(to_local(b.f)->peer[0].n_held, 0);
}

/* Descriptors whose message never came (their sender died in between) are not taken for a later one's. */
static void test_stale_memory(void **state)
{
    int32_t shmid = make(&a, 2, 4096, "the right one");
    uint32_t note[8] = {0x314f4f44u, a.id, 1, 5, (uint32_t)shmid, 0, 4096, 0};
    int fds[2] = {memfd(4096, F_SEAL_GROW | F_SEAL_SEAL), -1};
    unsigned before = open_fds();
    char *p;

    (void)state;
    fds[1] = reopen(fds[0], O_RDONLY);
    knock_with(note, sizeof(note), fds, 2);
    close(fds[1]);
    send_memory(&a, &b, shmid);
    wait_messages(&b, 1);
    assert_true(b.msg[0].has_memory);
    p = map(&b, shmid, DRIVER_PROT_READ);
    assert_string_equal(p, "the right one");
    munmap(p, 4096);
    close(fds[0]);
    assert_int_equal(to_local(b.f)->peer[a.id].n_held, 0);
    OPS.drop(b.f, shmid);
    assert_true(open_fds() <= before);
}

static void quarantined(void)
{
    ping(&a, &b, 2);
    OPS.dispatch(b.f);
    OPS.dispatch(b.f);
    assert_int_equal(b.msgs, 1);
    assert_int_equal(to_local(b.f)->peer[a.id].closed, 1);
    /* It comes back with a new incarnation: it is listened to again. */
    member_leave(&a);
    member_wait(&b, DRIVER_EVENT_LEFT, 0);
    b.events = 0;
    member_start(&a, "one", 0);
    member_meet(&a, &b);
    ping(&a, &b, 3);
    wait_messages(&b, 2);
    assert_int_equal(b.msg[1].msg.seq, 3);
}

static void test_bad_message(void **state)
{
    const struct fabric_msg msg = {.op = 999};

    (void)state;
    ping(&a, &b, 1);
    wait_messages(&b, 1);
    OPS.send(a.f, b.id, &msg);
    quarantined();
}

static void test_bad_tail(void **state)
{
    struct local *l = to_local(a.f);
    struct fabric_ring *ring;

    (void)state;
    ping(&a, &b, 1);
    wait_messages(&b, 1);
    ring = (struct fabric_ring *)((char *)l->base + area_block_offset(&l->area.sb, a.id) +
                                  (uint64_t)b.id * l->area.sb.ring_size);
    __atomic_add_fetch(&ring->tail, 1000, __ATOMIC_SEQ_CST);
    quarantined();
}

/* The message came, its memory did not. */
static void test_memory_lost(void **state)
{
    struct fabric_msg msg = {.op = FABRIC_OP_IMPORTED, .flags = FABRIC_MSG_MEMORY, .incarnation = 1, .epoch = 1};

    (void)state;
    msg.shmid = member_shmid(&a, 1);
    msg.body.stat.size = 4096;
    assert_int_equal(area_ring_send(&to_local(a.f)->area, a.id, b.id, &msg), 0);
    wait_messages(&b, 1);
    assert_false(b.msg[0].has_memory);
    assert_false(OPS.has(b.f, msg.shmid));
    /* Memory that is not there is not sent, nor its message. */
    send_memory(&a, &b, member_shmid(&a, 1));
    ping(&a, &b, 9);
    wait_messages(&b, 2);
    assert_int_equal(b.msg[1].msg.seq, 9);
}

#define NONSENSE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        NONSENSE_TEST(test_import_checks), NONSENSE_TEST(test_garbage_at_the_door),
        NONSENSE_TEST(test_stale_memory),  NONSENSE_TEST(test_bad_message),
        NONSENSE_TEST(test_bad_tail),      NONSENSE_TEST(test_memory_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
