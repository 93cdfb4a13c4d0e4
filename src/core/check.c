/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The edge. What a client, another partition or a file says passes through here once, as a private copy, before anything
 * else looks at it. The validators are pure: they answer yes or no, change nothing, and are what the fuzzers call.
 *
 * They decide form: sizes, opcodes, flags, reserved fields, ranges that the layout needs. Whether a request is allowed,
 * or names something that exists, is the core's to say, with an errno for the caller.
 */
#include <string.h>

#include "src/core/core.h"
#include "src/util/math.h"
#include "src/util/text.h"

#define ERRNO_MAX 4095

/* ------------------------------------------------------------------ packets of clients */

static bool check_hello(const void *payload)
{
    const struct clshmd_hello *p = payload;

    return !(p->flags & ~CLSHMD_HELLO_KNOWN) && !(p->flags & CLSHMD_HELLO_TOOL && p->token != 0);
}

static bool check_open(const void *payload)
{
    const struct clshmd_open *p = payload;
    const uint32_t known = CLSHMD_READ | CLSHMD_WRITE | CLSHMD_EXEC;

    return p->access & CLSHMD_READ && !(p->access & ~known) && p->entry < CLSHMD_ENTRIES_MAX && p->reserved == 0;
}

static bool check_detached(const void *payload)
{
    const struct clshmd_detached *p = payload;

    return p->entry < CLSHMD_ENTRIES_MAX;
}

static bool check_ctl(const void *payload)
{
    const struct clshmd_ctl *p = payload;

    return p->cmd >= CLSHMD_CTL_RMID && p->cmd <= CLSHMD_CTL_INFO && p->reserved == 0;
}

static bool check_ftok(const void *payload)
{
    const struct clshmd_ftok *p = payload;

    return text_terminated(p->path, sizeof(p->path));
}

static bool check_hostname(const void *payload)
{
    const struct clshmd_hostname *p = payload;

    return p->reserved == 0;
}

static bool check_node(const void *payload)
{
    const struct clshmd_node *p = payload;

    return p->reserved == 0;
}

static bool check_dump(const void *payload)
{
    const struct clshmd_dump *p = payload;

    return p->what == 1 || p->what == 2;
}

static bool check_config(const void *payload)
{
    const struct clshmd_config *p = payload;

    return !(p->set & ~CLSHMD_SET_KNOWN) && p->reserved == 0;
}

static bool check_segments(const void *payload)
{
    const struct clshmd_segments *p = payload;

    return p->reserved == 0;
}

static bool check_users(const void *payload)
{
    const struct clshmd_users *p = payload;

    return p->reserved == 0;
}

static bool check_ping(const void *payload)
{
    const struct clshmd_ping *p = payload;

    return p->reserved == 0;
}

static bool check_evict(const void *payload)
{
    const struct clshmd_evict *p = payload;

    return !(p->flags & ~CLSHMD_EVICT_KNOWN);
}

static bool check_shutdown(const void *payload)
{
    const struct clshmd_shutdown *p = payload;

    return !(p->flags & ~CLSHMD_SHUTDOWN_KNOWN) && p->reserved == 0;
}

/* By opcode; `known` tells those without payload from those that do not exist. */
static const struct {
    bool known;
    uint32_t size;
    bool (*check)(const void *payload); /* NULL: any content will do */
} requests[CLSHMD_OP_MAX] = {
    [CLSHMD_HELLO] = {true, sizeof(struct clshmd_hello), check_hello},
    [CLSHMD_GET] = {true, sizeof(struct clshmd_get), NULL},
    [CLSHMD_OPEN] = {true, sizeof(struct clshmd_open), check_open},
    [CLSHMD_DETACHED] = {true, sizeof(struct clshmd_detached), check_detached},
    [CLSHMD_CTL] = {true, sizeof(struct clshmd_ctl), check_ctl},
    [CLSHMD_FTOK] = {true, sizeof(struct clshmd_ftok), check_ftok},
    [CLSHMD_PARTS] = {true, 0, NULL},
    [CLSHMD_HOSTNAME] = {true, sizeof(struct clshmd_hostname), check_hostname},
    [CLSHMD_FORK] = {true, 0, NULL},
    [CLSHMD_GROW] = {true, 0, NULL},
    [CLSHMD_SETPMO] = {true, sizeof(struct clshmd_setpmo), NULL},
    [CLSHMD_NODE] = {true, sizeof(struct clshmd_node), check_node},
    [CLSHMD_DUMP] = {true, sizeof(struct clshmd_dump), check_dump},
    [CLSHMD_EVENTS] = {true, 0, NULL},
    [CLSHMD_STATUS] = {true, 0, NULL},
    [CLSHMD_CONFIG] = {true, sizeof(struct clshmd_config), check_config},
    [CLSHMD_SEGMENTS] = {true, sizeof(struct clshmd_segments), check_segments},
    [CLSHMD_USERS] = {true, sizeof(struct clshmd_users), check_users},
    [CLSHMD_PING] = {true, sizeof(struct clshmd_ping), check_ping},
    [CLSHMD_EVICT] = {true, sizeof(struct clshmd_evict), check_evict},
    [CLSHMD_SHUTDOWN] = {true, sizeof(struct clshmd_shutdown), check_shutdown},
};

/* @packet is aligned as its structures are (8 bytes). */
const void *clshmd_request_check(const void *packet, size_t size, struct clshmd_header *header)
{
    struct clshmd_header copy;
    const void *payload = (const uint8_t *)packet + sizeof(copy);

    if (size < sizeof(copy) || size > CLSHMD_PACKET_MAX)
        return NULL;
    memcpy(&copy, packet, sizeof(copy));
    if (copy.length != size || copy.flags != 0 || copy.error != 0)
        return NULL;
    if (copy.op >= CLSHMD_OP_MAX || !requests[copy.op].known || size != sizeof(copy) + requests[copy.op].size)
        return NULL;
    if (requests[copy.op].check && !requests[copy.op].check(payload))
        return NULL;
    *header = copy;
    return payload;
}

/* ------------------------------------------------------------------ messages of partitions */

enum msg_shmid {
    SHMID_ANY,      /* none, or one that its answer repeats */
    SHMID_SENDER,   /* a segment of the sender */
    SHMID_RECEIVER, /* not of the sender */
};

static bool check_stat(const struct fabric_msg *msg)
{
    const struct fabric_stat *s = &msg->body.stat;

    return !(s->mode & ~03777u) && s->size <= INT64_MAX && !(s->flags & ~FABRIC_SEG_KNOWN) && s->reserved == 0;
}

static bool check_create(const struct fabric_msg *msg)
{
    return msg->body.create.reserved == 0;
}

static bool check_pong(const struct fabric_msg *msg)
{
    return text_printable(msg->body.pong.hostname, sizeof(msg->body.pong.hostname));
}

/* DONE has a stat where it was asked for, else zeros, which pass as one. */
static const struct {
    bool known, answer;
    enum msg_shmid shmid;
    uint32_t flags;
    bool (*check)(const struct fabric_msg *msg); /* of the body, in answers if status is 0 */
} messages[FABRIC_OP_COUNT_] = {
    [FABRIC_OP_PING] = {true, false, SHMID_ANY, 0, NULL},
    [FABRIC_OP_PONG] = {true, true, SHMID_ANY, 0, check_pong},
    [FABRIC_OP_IMPORT] = {true, false, SHMID_RECEIVER, FABRIC_MSG_CALLER_PRIVILEGED, NULL},
    [FABRIC_OP_IMPORTED] = {true, true, SHMID_SENDER, FABRIC_MSG_MEMORY, check_stat},
    [FABRIC_OP_COUNT] = {true, false, SHMID_SENDER, 0, NULL},
    [FABRIC_OP_COUNTED] = {true, true, SHMID_RECEIVER, 0, NULL},
    [FABRIC_OP_RELEASE] = {true, false, SHMID_SENDER, 0, NULL},
    [FABRIC_OP_BUSY] = {true, true, SHMID_RECEIVER, 0, NULL},
    [FABRIC_OP_RELEASED] = {true, true, SHMID_RECEIVER, 0, NULL},
    [FABRIC_OP_CREATE] = {true, false, SHMID_ANY, FABRIC_MSG_CALLER_PRIVILEGED, check_create},
    [FABRIC_OP_RESERVE] = {true, false, SHMID_ANY, FABRIC_MSG_CALLER_PRIVILEGED, check_create},
    [FABRIC_OP_REMOVE] = {true, false, SHMID_RECEIVER, FABRIC_MSG_CALLER_PRIVILEGED, NULL},
    [FABRIC_OP_AUTOREMOVE] = {true, false, SHMID_RECEIVER, FABRIC_MSG_CALLER_PRIVILEGED, NULL},
    [FABRIC_OP_SET] = {true, false, SHMID_RECEIVER, FABRIC_MSG_CALLER_PRIVILEGED, NULL},
    [FABRIC_OP_STAT] = {true, false, SHMID_RECEIVER, FABRIC_MSG_INDEX | FABRIC_MSG_CALLER_PRIVILEGED, NULL},
    [FABRIC_OP_LOCK] = {true, false, SHMID_RECEIVER, FABRIC_MSG_OFF | FABRIC_MSG_CALLER_PRIVILEGED, NULL},
    [FABRIC_OP_DONE] = {true, true, SHMID_ANY, FABRIC_MSG_MADE, check_stat},
    [FABRIC_OP_WAIT] = {true, false, SHMID_ANY, 0, NULL},
    [FABRIC_OP_WAKE] = {true, false, SHMID_ANY, 0, NULL},
};

static bool check_shmid(enum msg_shmid rule, int32_t shmid, uint32_t from, uint32_t parts, uint32_t part_bits,
                        uint32_t slot_bits)
{
    uint32_t part;

    if (shmid < 0)
        return rule == SHMID_ANY && shmid == -1;
    part = fabric_shmid_part(part_bits, slot_bits, shmid);
    if (part >= parts)
        return false;
    return rule == SHMID_ANY || (rule == SHMID_SENDER) == (part == from);
}

bool fabric_msg_check(const struct fabric_msg *msg, uint32_t from, uint32_t parts, uint32_t part_bits,
                      uint32_t slot_bits)
{
    if (msg->op >= FABRIC_OP_COUNT_ || !messages[msg->op].known || from >= parts)
        return false;
    if (msg->flags & ~messages[msg->op].flags)
        return false;
    if (messages[msg->op].answer ? msg->status < 0 || msg->status > ERRNO_MAX : msg->status != 0)
        return false;
    if (msg->flags & FABRIC_MSG_MEMORY && msg->status != 0)
        return false;
    if (msg->incarnation == 0 || msg->epoch == 0)
        return false;
    if (!check_shmid(messages[msg->op].shmid, msg->shmid, from, parts, part_bits, slot_bits))
        return false;
    return msg->status != 0 || !messages[msg->op].check || messages[msg->op].check(msg);
}

/* ------------------------------------------------------------------ the superblock */

uint64_t fabric_superblock_checksum(const struct fabric_superblock *sb)
{
    const uint8_t *bytes = (const uint8_t *)sb;
    uint64_t hash = 0xcbf29ce484222325ULL;

    for (size_t i = 0; i < offsetof(struct fabric_superblock, checksum); i++) {
        hash ^= bytes[i];
        hash *= 0x100000001b3ULL;
    }
    return hash;
}

static const char *identity_fault(const struct fabric_superblock *sb)
{
    if (sb->magic != FABRIC_MAGIC)
        return "not a control area";
    if (sb->major != CLSHM_FABRIC_MAJOR)
        return "made by another major version";
    if (sb->head_size != sizeof(*sb))
        return "the superblock has a wrong size";
    if (sb->checksum != fabric_superblock_checksum(sb))
        return "the superblock is damaged: its checksum is wrong";
    if (sb->name[0] == 0 || !text_printable(sb->name, sizeof(sb->name)))
        return "the fabric's name is not printable";
    if (sb->kind < FABRIC_LOCAL || sb->kind > FABRIC_CLUSTER)
        return "unknown kind of fabric";
    if (sb->capabilities & ~FABRIC_CAP_KNOWN)
        return "it needs a capability that this version does not have";
    return NULL;
}

static const char *numbers_fault(const struct fabric_superblock *sb, uint32_t page_size)
{
    if (sb->granule < FABRIC_PAGE || !is_power_of_two(sb->granule))
        return "the granule is out of range";
    if (sb->granule < page_size)
        return "the pages of this machine are larger than the fabric's granule";
    if (sb->parts < 1 || sb->parts > FABRIC_PARTS_MAX || sb->part_bits != bits_for(sb->parts))
        return "the number of partitions is out of range";
    if (sb->slots < FABRIC_SLOTS_MIN || sb->slots > FABRIC_SLOTS_MAX || !is_power_of_two(sb->slots) ||
        sb->slot_bits != bits_for(sb->slots))
        return "the number of segments is out of range";
    if (sb->heartbeat_ms < 1 || sb->heartbeat_ms > 60000)
        return "the heartbeat is out of range";
    if (sb->ring_size < FABRIC_PAGE || sb->ring_size > 1u << 20 || !is_aligned(sb->ring_size, FABRIC_PAGE))
        return "the size of the rings is out of range";
    /* The multiplications below cannot overflow with this many. */
    if (!is_power_of_two(sb->key_buckets) || sb->key_buckets > 1u << 24)
        return "the size of the key table is out of range";
    return NULL;
}

static const char *layout_fault(const struct fabric_superblock *sb)
{
    const uint64_t extents = (sb->slots + FABRIC_EXTENT_RECORDS - 1) / FABRIC_EXTENT_RECORDS;
    const uint64_t records = extents * FABRIC_EXTENT_RECORDS * sizeof(struct fabric_record);
    uint64_t blocks;

    if (sb->slots_offset < sizeof(*sb) || !is_aligned(sb->slots_offset, FABRIC_PAGE) ||
        !is_within(sb->slots_offset, sb->parts * sizeof(struct fabric_slot), 0, sb->keys_offset))
        return "the slots are in a wrong place";
    if (!is_aligned(sb->keys_offset, FABRIC_PAGE) ||
        !is_within(sb->keys_offset, sb->key_buckets * sizeof(struct fabric_bucket), 0, sb->blocks_offset))
        return "the key table is in a wrong place";
    if (!is_aligned(sb->records_offset, FABRIC_PAGE) || !is_aligned(sb->block_size, FABRIC_PAGE) ||
        sb->records_offset < sb->parts * (uint64_t)sb->ring_size ||
        !is_within(sb->records_offset, records, 0, sb->block_size))
        return "the records are in a wrong place";
    if (!is_aligned(sb->blocks_offset, FABRIC_PAGE) || !is_aligned(sb->area_size, FABRIC_PAGE) ||
        __builtin_mul_overflow(sb->block_size, sb->parts, &blocks) ||
        !is_within(sb->blocks_offset, blocks, 0, sb->area_size))
        return "the blocks are in a wrong place";
    if (!is_aligned(sb->gens_block, FABRIC_PAGE) || sb->gens_block > 1u << 20 ||
        sb->gens_block < sizeof(struct fabric_gens_head) + sb->slots * sizeof(uint32_t))
        return "the generations are in a wrong place";
    if (sb->sync_offset != 0)
        return "it has synchronisation pages, which this version does not know";
    return NULL;
}

const char *fabric_superblock_check(const struct fabric_superblock *sb, uint64_t size, uint32_t page_size)
{
    const char *fault = NULL;

    if (size < sizeof(*sb))
        return "too short for a control area";
    fault = identity_fault(sb);
    if (!fault)
        fault = numbers_fault(sb, page_size);
    if (!fault)
        fault = layout_fault(sb);
    if (!fault && sb->area_size > size)
        fault = "truncated";
    if (!fault && sb->area_size < size)
        fault = "longer than it says";
    return fault;
}
