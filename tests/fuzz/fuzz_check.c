/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The validators, with any bytes. The first byte chooses: a client's packet, a partition's message, a superblock (whose
 * checksum and magic are mended, or nothing would get further). What passes must be what the rest relies on.
 */
#include <stdlib.h>
#include <string.h>

#include "src/core/core.h"
#include "src/fabric/area/area.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void packet(const uint8_t *data, size_t size)
{
    /* A copy of its own, so that the sanitizer sees a read beyond the end. */
    uint8_t *copy = malloc(size ? size : 1);
    struct clshmd_header header;
    const void *payload;

    if (!copy)
        return;
    memcpy(copy, data, size);
    payload = clshmd_request_check(copy, size, &header);
    if (payload) {
        must(header.length == size && header.op < CLSHMD_OP_MAX && header.error == 0);
        must(payload == copy + sizeof(header));
        if (header.op == CLSHMD_FTOK)
            must(strlen(((const struct clshmd_ftok *)payload)->path) < sizeof(((struct clshmd_ftok *)0)->path));
    }
    free(copy);
}

static void message(const uint8_t *data, size_t size)
{
    struct fabric_msg msg = {0};

    memcpy(&msg, data, size < sizeof(msg) ? size : sizeof(msg));
    if (!fabric_msg_check(&msg, 2, 5, 3, 9))
        return;
    must(msg.op < FABRIC_OP_COUNT_ && msg.status >= 0 && msg.shmid >= -1);
    must(msg.shmid == -1 || fabric_shmid_part(3, 9, msg.shmid) < 5);
    if (msg.op == FABRIC_OP_PONG && msg.status == 0)
        must(strlen(msg.body.pong.hostname) < sizeof(msg.body.pong.hostname));
}

static void superblock(const uint8_t *data, size_t size)
{
    struct area_geometry geometry = {
        .kind = FABRIC_LOCAL, .parts = 5, .slots = 512, .granule = 4096, .heartbeat_ms = 200, .name = "fuzz"};
    struct fabric_superblock sb;
    uint64_t area_size;

    must(area_layout(&geometry, &sb, NULL) == 0);
    /* Pairs of (word, value) to change. */
    for (; size >= 9; data += 9, size -= 9)
        memcpy((uint8_t *)&sb + data[0] % (sizeof(sb) / 8) * 8, data + 1, 8);
    sb.magic = FABRIC_MAGIC;
    sb.checksum = fabric_superblock_checksum(&sb);
    area_size = sb.area_size;
    if (fabric_superblock_check(&sb, area_size, 4096))
        return;
    must(sb.parts >= 1 && sb.parts <= FABRIC_PARTS_MAX && sb.slots <= FABRIC_SLOTS_MAX);
    must(area_slot_offset(&sb, sb.parts) <= sb.keys_offset);
    must(sb.keys_offset + sb.key_buckets * sizeof(struct fabric_bucket) <= sb.blocks_offset);
    must(sb.records_offset + sb.slots * sizeof(struct fabric_record) <= sb.block_size);
    must((uint64_t)sb.parts * sb.ring_size <= sb.records_offset);
    must(area_block_offset(&sb, sb.parts) <= area_size && area_block_offset(&sb, sb.parts) > sb.blocks_offset);
    must((FABRIC_RING_SLOTS(sb.ring_size) + 1) * sizeof(struct fabric_msg) <= sb.ring_size);
    must(sizeof(struct fabric_gens_head) + sb.slots * sizeof(uint32_t) <= sb.gens_block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] % 3 == 0)
        packet(data + 1, size - 1);
    else if (data[0] % 3 == 1)
        message(data + 1, size - 1);
    else
        superblock(data + 1, size - 1);
    return 0;
}
