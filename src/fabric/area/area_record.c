/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Segment records. They lie in the home's block in extents of 256, each allocated before its offset is published in the
 * home's daemon page, and never given back: generations outlast everything.
 *
 * The home writes its records in place (src/core/record.h). Everybody else takes a copy under the head's version. A home
 * that died while it wrote leaves the version odd until its next daemon; a reader gives up after a few milliseconds.
 */
#include <errno.h>

#include "src/fabric/area/area_mem.h"
#include "src/util/math.h"

#define READ_ROUNDS 40u

bool area_extent_valid(const struct fabric_superblock *sb, uint32_t part, uint64_t offset)
{
    uint64_t block = area_block_offset(sb, part);

    return is_aligned(offset, FABRIC_PAGE) &&
           is_within(offset, area_extent_size(), block + sb->records_offset, block + sb->block_size);
}

int area_record_find(struct area *area, uint32_t part, uint32_t slot, struct fabric_record **out)
{
    uint64_t offset;
    int error;

    if (part >= area->sb.parts || slot >= area->sb.slots)
        return ENOENT;
    offset = load64(&area_slot(area, part)->daemon.extent[slot / FABRIC_EXTENT_RECORDS]);
    if (offset == 0)
        return ENOENT;
    if (!area_extent_valid(&area->sb, part, offset))
        return EBADMSG;
    offset += slot % FABRIC_EXTENT_RECORDS * (uint64_t)sizeof(struct fabric_record);
    error = area_touch(area, offset, sizeof(struct fabric_record));
    if (error)
        return error;
    *out = (struct fabric_record *)(void *)(area->base + offset);
    return 0;
}

struct fabric_record *area_record(struct area *area, uint32_t self, uint32_t slot, bool allocate)
{
    struct fabric_record *rec = NULL;
    uint32_t extent = slot / FABRIC_EXTENT_RECORDS;
    uint64_t offset;
    int error = area_record_find(area, self, slot, &rec);

    if (error == ENOENT && allocate && self < area->sb.parts && slot < area->sb.slots) {
        offset = area_block_offset(&area->sb, self) + area->sb.records_offset + extent * area_extent_size();
        error = area_touch(area, offset, area_extent_size());
        if (error == 0) {
            store64(&area_slot(area, self)->daemon.extent[extent], offset);
            error = area_record_find(area, self, slot, &rec);
        }
    }
    if (error)
        errno = error;
    return error ? NULL : rec;
}

static bool record_makes_sense(const struct fabric_superblock *sb, const struct fabric_record *rec)
{
    uint64_t parts_mask = sb->parts == 64 ? ~0ULL : (1ULL << sb->parts) - 1;

    return FABRIC_REC_STATE(rec->head) <= FABRIC_REC_LOST && !(rec->flags & ~FABRIC_SEG_KNOWN) &&
           !(rec->mode & ~02777u) && rec->size <= INT64_MAX && !(rec->importers & ~parts_mask) &&
           rec->cell <= sb->key_buckets * FABRIC_BUCKET_CELLS;
}

int area_record_read(struct area *area, uint32_t part, uint32_t slot, struct fabric_record *out)
{
    struct fabric_record *rec, copy;
    int error = area_record_find(area, part, slot, &rec);

    if (error)
        return error;
    for (uint32_t round = 0; round < READ_ROUNDS; round++) {
        uint64_t head = load64(&rec->head);

        if (FABRIC_REC_STATE(head) == FABRIC_REC_FREE)
            return ENOENT;
        if (!(FABRIC_REC_VERSION(head) & 1)) {
            copy_in(&copy, rec, sizeof(copy));
            if (copy.head == head && load64(&rec->head) == head) {
                if (!record_makes_sense(&area->sb, &copy))
                    return EBADMSG;
                *out = copy;
                return 0;
            }
        }
        area_relax(round);
    }
    return EAGAIN;
}

void area_record_stat(const struct fabric_record *rec, uint32_t word, struct fabric_stat *out)
{
    *out = (struct fabric_stat){
        .key = rec->key,
        .mode = rec->mode | (FABRIC_REC_STATE(rec->head) == FABRIC_REC_DEST ? 01000u : 0),
        .size = rec->size,
        .uid = rec->uid,
        .gid = rec->gid,
        .cuid = rec->cuid,
        .cgid = rec->cgid,
        .cpid = rec->cpid,
        .lpid = rec->lpid,
        .atime = rec->atime,
        .dtime = rec->dtime,
        .ctime = rec->ctime,
        .nattch = rec->nattch,
        .flags = rec->flags,
        .word = word,
    };
}

int32_t area_shmid(const struct area *area, uint32_t part, uint32_t slot, uint32_t gen)
{
    return fabric_shmid(area->sb.part_bits, area->sb.slot_bits, gen, part, slot);
}
