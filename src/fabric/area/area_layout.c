/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The geometry of a fabric. Everything follows from the numbers of partitions and slots: the bits of the shmid, the size
 * of the key table (a quarter of its cells is used when every slot of every partition has a key), the blocks. The area
 * is as large as a full fabric needs; what nobody touches is a hole and costs nothing.
 */
#include <errno.h>
#include <string.h>

#include "src/fabric/area/area_mem.h"
#include "src/util/math.h"
#include "src/util/text.h"

#define CELLS_PER_KEY 4u

static const char *geometry_fault(const struct area_geometry *g)
{
    if (g->kind < FABRIC_LOCAL || g->kind > FABRIC_CLUSTER)
        return "unknown kind of fabric";
    if (g->parts < 1 || g->parts > FABRIC_PARTS_MAX)
        return "there may be 1 to 64 partitions";
    if (g->slots < FABRIC_SLOTS_MIN || g->slots > FABRIC_SLOTS_MAX || !is_power_of_two(g->slots))
        return "there may be 64 to 32768 segments on each partition, a power of two";
    if (g->granule < FABRIC_PAGE || !is_power_of_two(g->granule))
        return "the granule is a power of two, not below 4096";
    if (g->heartbeat_ms < 1 || g->heartbeat_ms > 60000)
        return "the heartbeat is 1 to 60000 ms";
    if (!g->name || !g->name[0] || strlen(g->name) >= FABRIC_NAME_MAX || !text_printable(g->name, FABRIC_NAME_MAX))
        return "the fabric's name is 1 to 31 printable characters";
    return NULL;
}

static uint64_t key_buckets(uint32_t parts, uint32_t slots)
{
    uint64_t cells = (uint64_t)parts * slots * CELLS_PER_KEY;
    uint64_t buckets = FABRIC_PAGE / sizeof(struct fabric_bucket);

    while (buckets * FABRIC_BUCKET_CELLS < cells)
        buckets *= 2;
    return buckets;
}

static uint64_t page_up(uint64_t value)
{
    return (value + FABRIC_PAGE - 1) & ~(uint64_t)(FABRIC_PAGE - 1);
}

static void place(struct fabric_superblock *sb)
{
    uint32_t extents = (sb->slots + FABRIC_EXTENT_RECORDS - 1) / FABRIC_EXTENT_RECORDS;

    sb->part_bits = bits_for(sb->parts);
    sb->slot_bits = bits_for(sb->slots);
    sb->ring_size = AREA_RING_SIZE;
    sb->key_buckets = key_buckets(sb->parts, sb->slots);
    sb->slots_offset = page_up(sizeof(*sb));
    sb->keys_offset = sb->slots_offset + sb->parts * (uint64_t)sizeof(struct fabric_slot);
    sb->blocks_offset = page_up(sb->keys_offset + sb->key_buckets * sizeof(struct fabric_bucket));
    sb->records_offset = (uint64_t)sb->ring_size * sb->parts;
    sb->block_size = page_up(sb->records_offset + extents * area_extent_size());
    sb->area_size = sb->blocks_offset + sb->parts * sb->block_size;
    sb->gens_block = sizeof(struct fabric_gens_head) + page_up(sb->slots * (uint64_t)sizeof(uint32_t));
}

int area_layout(const struct area_geometry *geometry, struct fabric_superblock *out, const char **why)
{
    struct area_geometry g = *geometry;
    struct fabric_superblock sb = {.magic = FABRIC_MAGIC, .major = CLSHM_FABRIC_MAJOR, .minor = CLSHM_FABRIC_MINOR};
    const char *fault;

    g.parts = g.parts ? g.parts : AREA_PARTS_DEFAULT;
    g.slots = g.slots ? g.slots : AREA_SLOTS_DEFAULT;
    fault = geometry_fault(&g);
    if (fault) {
        if (why)
            *why = fault;
        return EINVAL;
    }
    sb.head_size = sizeof(sb);
    memcpy(sb.uuid, g.uuid, sizeof(sb.uuid));
    memcpy(sb.name, g.name, strlen(g.name));
    sb.kind = g.kind;
    sb.granule = g.granule;
    sb.parts = g.parts;
    sb.slots = g.slots;
    sb.capabilities = FABRIC_CAP_KNOWN;
    sb.heartbeat_ms = g.heartbeat_ms;
    sb.key_salt = g.key_salt;
    place(&sb);
    sb.checksum = fabric_superblock_checksum(&sb);
    *out = sb;
    return 0;
}
