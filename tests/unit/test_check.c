/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The validators: every opcode with its exact size, and each thing that is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "src/core/core.h"

/* ------------------------------------------------------------------ packets */

static union {
    struct clshmd_header header;
    uint8_t bytes[CLSHMD_PACKET_MAX + 8];
} packet;

#define PAYLOAD(type) ((struct type *)(void *)(packet.bytes + sizeof(struct clshmd_header)))

static void make_packet(uint16_t op, size_t size)
{
    memset(&packet, 0, sizeof(packet));
    packet.header.op = op;
    packet.header.length = (uint32_t)(sizeof(struct clshmd_header) + size);
    packet.header.seq = 77;
    if (op == CLSHMD_OPEN)
        PAYLOAD(clshmd_open)->access = CLSHMD_READ;
    if (op == CLSHMD_CTL)
        PAYLOAD(clshmd_ctl)->cmd = CLSHMD_CTL_STAT;
    if (op == CLSHMD_DUMP)
        PAYLOAD(clshmd_dump)->what = 2;
}

static bool passes(void)
{
    struct clshmd_header header = {.op = 999};
    const void *payload = clshmd_request_check(&packet, packet.header.length, &header);

    if (!payload) {
        assert_int_equal(header.op, 999);
        return false;
    }
    assert_ptr_equal(payload, packet.bytes + sizeof(header));
    assert_memory_equal(&header, &packet.header, sizeof(header));
    return true;
}

/* @return the only size that passes for @op, -1: none. */
static int only_size(uint16_t op)
{
    int found = -1;

    for (size_t size = 0; size <= CLSHMD_PACKET_MAX - sizeof(struct clshmd_header); size++) {
        make_packet(op, size);
        if (passes()) {
            assert_int_equal(found, -1);
            found = (int)size;
        }
    }
    return found;
}

static void test_sizes(void **state)
{
    static const struct {
        uint16_t op;
        int size;
    } ops[] = {
        {0, -1},
        {CLSHMD_HELLO, sizeof(struct clshmd_hello)},
        {CLSHMD_GET, sizeof(struct clshmd_get)},
        {CLSHMD_OPEN, sizeof(struct clshmd_open)},
        {CLSHMD_DETACHED, sizeof(struct clshmd_detached)},
        {CLSHMD_CTL, sizeof(struct clshmd_ctl)},
        {CLSHMD_FTOK, sizeof(struct clshmd_ftok)},
        {CLSHMD_PARTS, 0},
        {CLSHMD_HOSTNAME, sizeof(struct clshmd_hostname)},
        {CLSHMD_FORK, 0},
        {CLSHMD_GROW, 0},
        {CLSHMD_SETPMO, sizeof(struct clshmd_setpmo)},
        {CLSHMD_NODE, sizeof(struct clshmd_node)},
        {CLSHMD_DUMP, sizeof(struct clshmd_dump)},
        {CLSHMD_EVENTS, 0},
        {15, -1},
        {31, -1},
        {CLSHMD_STATUS, 0},
        {CLSHMD_CONFIG, sizeof(struct clshmd_config)},
        {CLSHMD_SEGMENTS, sizeof(struct clshmd_segments)},
        {CLSHMD_USERS, sizeof(struct clshmd_users)},
        {CLSHMD_PING, sizeof(struct clshmd_ping)},
        {CLSHMD_EVICT, sizeof(struct clshmd_evict)},
        {CLSHMD_SHUTDOWN, sizeof(struct clshmd_shutdown)},
        {CLSHMD_OP_MAX, -1},
        {UINT16_MAX, -1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
        assert_int_equal(only_size(ops[i].op), ops[i].size);
}

static void test_header(void **state)
{
    struct clshmd_header header;

    (void)state;
    make_packet(CLSHMD_PARTS, 0);
    assert_true(passes());
    for (size_t size = 0; size < sizeof(header); size++)
        assert_null(clshmd_request_check(&packet, size, &header));
    assert_null(clshmd_request_check(&packet, sizeof(header) + 1, &header));
    packet.header.flags = 1;
    assert_false(passes());
    make_packet(CLSHMD_PARTS, 0);
    packet.header.error = 1;
    assert_false(passes());
    make_packet(CLSHMD_PARTS, CLSHMD_PACKET_MAX);
    assert_false(passes());
}

#define PACKET(op, type, field, value, expected)                                                                       \
    do {                                                                                                               \
        make_packet(op, sizeof(struct type));                                                                          \
        PAYLOAD(type)->field = (value);                                                                                \
        assert_int_equal(passes(), expected);                                                                          \
    } while (0)

static void test_payloads(void **state)
{
    (void)state;
    PACKET(CLSHMD_HELLO, clshmd_hello, flags, CLSHMD_HELLO_TOOL, true);
    PAYLOAD(clshmd_hello)->token = 1;
    assert_false(passes());
    PACKET(CLSHMD_HELLO, clshmd_hello, flags, 2, false);
    PACKET(CLSHMD_HELLO, clshmd_hello, token, 1, true);
    PACKET(CLSHMD_OPEN, clshmd_open, access, 0, false);
    PACKET(CLSHMD_OPEN, clshmd_open, access, CLSHMD_WRITE, false);
    PACKET(CLSHMD_OPEN, clshmd_open, access, 7, true);
    PACKET(CLSHMD_OPEN, clshmd_open, access, 9, false);
    PACKET(CLSHMD_OPEN, clshmd_open, entry, CLSHMD_ENTRIES_MAX - 1, true);
    PACKET(CLSHMD_OPEN, clshmd_open, entry, CLSHMD_ENTRIES_MAX, false);
    PACKET(CLSHMD_OPEN, clshmd_open, reserved, 1, false);
    PACKET(CLSHMD_OPEN, clshmd_open, shmid, -5, true);
    PACKET(CLSHMD_DETACHED, clshmd_detached, entry, UINT32_MAX, false);
    PACKET(CLSHMD_CTL, clshmd_ctl, cmd, 0, false);
    PACKET(CLSHMD_CTL, clshmd_ctl, cmd, CLSHMD_CTL_INFO, true);
    PACKET(CLSHMD_CTL, clshmd_ctl, cmd, CLSHMD_CTL_INFO + 1, false);
    PACKET(CLSHMD_CTL, clshmd_ctl, reserved, 1, false);
    PACKET(CLSHMD_FTOK, clshmd_ftok, path[62], 'x', true);
    memset(PAYLOAD(clshmd_ftok)->path, 'x', sizeof(PAYLOAD(clshmd_ftok)->path));
    assert_false(passes());
    PACKET(CLSHMD_HOSTNAME, clshmd_hostname, reserved, 1, false);
    PACKET(CLSHMD_NODE, clshmd_node, reserved, 1, false);
    PACKET(CLSHMD_DUMP, clshmd_dump, what, 0, false);
    PACKET(CLSHMD_DUMP, clshmd_dump, what, 3, false);
    PACKET(CLSHMD_CONFIG, clshmd_config, set, CLSHMD_SET_KNOWN, true);
    PACKET(CLSHMD_CONFIG, clshmd_config, set, 8, false);
    PACKET(CLSHMD_CONFIG, clshmd_config, reserved, 1, false);
    PACKET(CLSHMD_SEGMENTS, clshmd_segments, reserved, 1, false);
    PACKET(CLSHMD_USERS, clshmd_users, reserved, 1, false);
    PACKET(CLSHMD_PING, clshmd_ping, reserved, 1, false);
    PACKET(CLSHMD_EVICT, clshmd_evict, flags, CLSHMD_EVICT_KNOWN, true);
    PACKET(CLSHMD_EVICT, clshmd_evict, flags, 4, false);
    PACKET(CLSHMD_SHUTDOWN, clshmd_shutdown, flags, 2, false);
    PACKET(CLSHMD_SHUTDOWN, clshmd_shutdown, reserved, 1, false);
}

/* ------------------------------------------------------------------ messages: 5 partitions, we look at partition 2's */

#define PARTS     5u
#define PART_BITS 3u
#define SLOT_BITS 9u
#define FROM      2u

static struct fabric_msg make_msg(uint16_t op, uint32_t home)
{
    return (struct fabric_msg){
        .op = op, .incarnation = 1, .epoch = 1, .shmid = fabric_shmid(PART_BITS, SLOT_BITS, 3, home, 11)};
}

static bool msg_passes(const struct fabric_msg *msg)
{
    return fabric_msg_check(msg, FROM, PARTS, PART_BITS, SLOT_BITS);
}

static void test_messages(void **state)
{
    /* Who is the home of the segment that it names: S the sender, R another, B either. */
    static const char homes[FABRIC_OP_COUNT_] = {
        [FABRIC_OP_PING] = 'B',       [FABRIC_OP_PONG] = 'B',    [FABRIC_OP_IMPORT] = 'R',  [FABRIC_OP_IMPORTED] = 'S',
        [FABRIC_OP_COUNT] = 'S',      [FABRIC_OP_COUNTED] = 'R', [FABRIC_OP_RELEASE] = 'S', [FABRIC_OP_BUSY] = 'R',
        [FABRIC_OP_RELEASED] = 'R',   [FABRIC_OP_CREATE] = 'B',  [FABRIC_OP_RESERVE] = 'B', [FABRIC_OP_REMOVE] = 'R',
        [FABRIC_OP_AUTOREMOVE] = 'R', [FABRIC_OP_SET] = 'R',     [FABRIC_OP_STAT] = 'R',    [FABRIC_OP_LOCK] = 'R',
        [FABRIC_OP_DONE] = 'B',       [FABRIC_OP_WAIT] = 'B',    [FABRIC_OP_WAKE] = 'B',
    };

    (void)state;
    for (uint16_t op = 0; op < FABRIC_OP_COUNT_ + 3; op++) {
        struct fabric_msg own = make_msg(op, FROM), other = make_msg(op, FROM + 1), nobody = make_msg(op, PARTS);
        char home = op < FABRIC_OP_COUNT_ ? homes[op] : 0;

        assert_int_equal(msg_passes(&own), home == 'S' || home == 'B');
        assert_int_equal(msg_passes(&other), home == 'R' || home == 'B');
        assert_false(msg_passes(&nobody));
        own.shmid = -1;
        assert_int_equal(msg_passes(&own), home == 'B');
        own.shmid = -2;
        assert_false(msg_passes(&own));
    }
}

static void test_message_flags(void **state)
{
    (void)state;
    for (uint16_t op = 1; op < FABRIC_OP_COUNT_; op++) {
        for (uint32_t bit = 0; bit < 16; bit++) {
            struct fabric_msg msg = make_msg(op, FROM);
            bool caller = (op >= FABRIC_OP_CREATE && op <= FABRIC_OP_LOCK) || op == FABRIC_OP_IMPORT;
            uint32_t flag = 1u << bit;

            if (!msg_passes(&msg))
                msg = make_msg(op, FROM + 1);
            assert_true(msg_passes(&msg));
            msg.flags = (uint16_t)flag;
            assert_int_equal(msg_passes(&msg), (flag == FABRIC_MSG_MEMORY && op == FABRIC_OP_IMPORTED) ||
                                                   (flag == FABRIC_MSG_INDEX && op == FABRIC_OP_STAT) ||
                                                   (flag == FABRIC_MSG_OFF && op == FABRIC_OP_LOCK) ||
                                                   (flag == FABRIC_MSG_MADE && op == FABRIC_OP_DONE) ||
                                                   (flag == FABRIC_MSG_CALLER_PRIVILEGED && caller));
        }
    }
}

#define MSG(op, home, field, value, expected)                                                                          \
    do {                                                                                                               \
        struct fabric_msg msg_ = make_msg(op, home);                                                                   \
        msg_.field = value;                                                                                            \
        assert_int_equal(msg_passes(&msg_), expected);                                                                 \
    } while (0)

static void test_message_fields(void **state)
{
    struct fabric_msg msg = make_msg(FABRIC_OP_PING, 0);

    (void)state;
    assert_false(fabric_msg_check(&msg, PARTS, PARTS, PART_BITS, SLOT_BITS));
    MSG(FABRIC_OP_PING, 0, incarnation, 0, false);
    MSG(FABRIC_OP_PING, 0, epoch, 0, false);
    MSG(FABRIC_OP_PING, 0, status, 1, false);
    MSG(FABRIC_OP_DONE, 0, status, EPERM, true);
    MSG(FABRIC_OP_DONE, 0, status, -EPERM, false);
    MSG(FABRIC_OP_DONE, 0, status, 4096, false);
    MSG(FABRIC_OP_DONE, 0, body.stat.mode, 03777, true);
    MSG(FABRIC_OP_DONE, 0, body.stat.mode, 04000, false);
    MSG(FABRIC_OP_DONE, 0, body.stat.size, 1ULL << 63, false);
    MSG(FABRIC_OP_DONE, 0, body.stat.flags, FABRIC_SEG_KNOWN + 1, false);
    MSG(FABRIC_OP_DONE, 0, body.stat.reserved, 1, false);
    MSG(FABRIC_OP_IMPORTED, FROM, body.stat.mode, 04000, false);
    MSG(FABRIC_OP_CREATE, 0, body.create.reserved, 1, false);
    MSG(FABRIC_OP_PONG, 0, body.pong.hostname[0], 'h', true);
    MSG(FABRIC_OP_PONG, 0, body.pong.hostname[0], '\n', false);
    msg = make_msg(FABRIC_OP_PONG, 0);
    memset(msg.body.pong.hostname, 'h', sizeof(msg.body.pong.hostname));
    assert_false(msg_passes(&msg));

    /* In a refusal the body means nothing, and no memory comes with it. */
    msg = make_msg(FABRIC_OP_IMPORTED, FROM);
    msg.status = EACCES;
    msg.body.stat.mode = UINT32_MAX;
    assert_true(msg_passes(&msg));
    msg.flags = FABRIC_MSG_MEMORY;
    assert_false(msg_passes(&msg));
}

/* ------------------------------------------------------------------ superblocks */

static struct fabric_superblock make_sb(void)
{
    struct fabric_superblock sb = {
        .magic = FABRIC_MAGIC,
        .major = CLSHM_FABRIC_MAJOR,
        .head_size = sizeof(sb),
        .name = "test",
        .kind = FABRIC_LOCAL,
        .granule = 4096,
        .parts = 3,
        .slots = 64,
        .part_bits = 2,
        .slot_bits = 6,
        .heartbeat_ms = 200,
        .ring_size = 4096,
        .key_buckets = 16,
        .slots_offset = 4096,
        .keys_offset = 4096 + 3 * 8192,
        .blocks_offset = 4096 + 3 * 8192 + 8192,
        .records_offset = 3 * 4096,
        .block_size = 3 * 4096 + 256 * 192,
        .area_size = 4096 + 3 * 8192 + 8192 + 3 * (3 * 4096 + 256 * 192),
        .gens_block = 8192,
    };

    return sb;
}

static const char *sb_fault(struct fabric_superblock sb, uint32_t page_size)
{
    sb.checksum = fabric_superblock_checksum(&sb);
    return fabric_superblock_check(&sb, make_sb().area_size, page_size);
}

static void test_superblock(void **state)
{
    struct fabric_superblock sb = make_sb();
    uint64_t size = sb.area_size;

    (void)state;
    assert_null(sb_fault(sb, 4096));
    assert_string_equal(sb_fault(sb, 16384), "the pages of this machine are larger than the fabric's granule");
    sb.granule = 65536;
    assert_null(sb_fault(sb, 16384));

    sb = make_sb();
    sb.checksum = fabric_superblock_checksum(&sb);
    assert_null(fabric_superblock_check(&sb, size, 4096));
    assert_string_equal(fabric_superblock_check(&sb, size - 1, 4096), "truncated");
    assert_string_equal(fabric_superblock_check(&sb, size + 4096, 4096), "longer than it says");
    assert_non_null(fabric_superblock_check(&sb, sizeof(sb) - 1, 4096));
    sb.key_salt ^= 1;
    assert_string_equal(fabric_superblock_check(&sb, size, 4096), "the superblock is damaged: its checksum is wrong");
    /* FNV-1a of zeros */
    memset(&sb, 0, sizeof(sb));
    assert_true(fabric_superblock_checksum(&sb) == 0xa098b2259cac6f85ULL);
    assert_string_equal(fabric_superblock_check(&sb, size, 4096), "not a control area");
}

static void test_superblock_faults(void **state)
{
    (void)state;
#define FAULT(field, value)                                                                                            \
    do {                                                                                                               \
        struct fabric_superblock sb_ = make_sb();                                                                      \
        sb_.field = value;                                                                                             \
        assert_non_null(sb_fault(sb_, 4096));                                                                          \
    } while (0)
    FAULT(magic, 1);
    FAULT(major, CLSHM_FABRIC_MAJOR + 1);
    FAULT(head_size, 200);
    FAULT(name[0], 0);
    FAULT(name[0], 0x7f);
    FAULT(kind, 0);
    FAULT(kind, 4);
    FAULT(capabilities, 1);
    FAULT(granule, 0);
    FAULT(granule, 2048);
    FAULT(granule, 4097);
    FAULT(parts, 0);
    FAULT(parts, 65);
    FAULT(part_bits, 3);
    FAULT(slots, 32);
    FAULT(slots, 65);
    FAULT(slot_bits, 7);
    FAULT(heartbeat_ms, 0);
    FAULT(heartbeat_ms, 60001);
    FAULT(ring_size, 0);
    FAULT(ring_size, 6000);
    FAULT(ring_size, 1u << 21);
    FAULT(key_buckets, 0);
    FAULT(key_buckets, 12);
    FAULT(key_buckets, 32);
    FAULT(key_buckets, 1ULL << 40);
    FAULT(slots_offset, 0);
    FAULT(slots_offset, 4097);
    FAULT(slots_offset, 8192);
    FAULT(slots_offset, ~0xfffull);
    FAULT(keys_offset, 4096);
    FAULT(keys_offset, ~0xfffull);
    FAULT(blocks_offset, 4096 + 3 * 8192);
    FAULT(blocks_offset, ~0xfffull);
    FAULT(block_size, 3 * 4096);
    FAULT(block_size, ~0xfffull);
    FAULT(records_offset, 2 * 4096);
    FAULT(records_offset, 4 * 4096);
    FAULT(records_offset, ~0xfffull);
    FAULT(area_size, 0);
    FAULT(area_size, 8192);
    FAULT(area_size, ~0xfffull);
    FAULT(gens_block, 4096);
    FAULT(gens_block, 8193);
    FAULT(gens_block, 1ULL << 40);
    FAULT(sync_offset, 4096);
#undef FAULT
}

/* Whatever bit is turned, the checksum tells. */
static void test_superblock_bits(void **state)
{
    struct fabric_superblock sb = make_sb();

    (void)state;
    sb.checksum = fabric_superblock_checksum(&sb);
    for (size_t bit = 0; bit < 8 * sizeof(sb); bit++) {
        struct fabric_superblock copy = sb;

        ((uint8_t *)&copy)[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_non_null(fabric_superblock_check(&copy, sb.area_size, 4096));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),           cmocka_unit_test(test_header),
        cmocka_unit_test(test_payloads),        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_message_flags),   cmocka_unit_test(test_message_fields),
        cmocka_unit_test(test_superblock),      cmocka_unit_test(test_superblock_faults),
        cmocka_unit_test(test_superblock_bits),
    };

    return cmocka_run_group_tests_name("check", tests, NULL, NULL);
}
