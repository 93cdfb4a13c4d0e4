/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A control area whose other members lie. The input is a list of steps: questions that this partition asks, and words
 * that somebody stores anywhere in the area. The area's code is built with AREA_SIM, and before each of its accesses
 * the next stores are made, so that what is read twice may differ the second time. Nothing may be read or written
 * outside the area (guard pages), every call must end, and what passes the checks must be what the rest relies on.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "src/fabric/area/area_mem.h"

#define PARTS 3u
#define SLOTS 64u
#define SELF  1u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct step {
    uint8_t what;
    uint8_t where[2];
    uint8_t value[8];
};

static struct area area;
static const struct step *steps;
static size_t count, next;
static unsigned accesses;

static void must(bool holds)
{
    if (!holds)
        abort();
}

static uint64_t value_of(const struct step *step)
{
    uint64_t value;

    memcpy(&value, step->value, sizeof(value));
    return value;
}

static uint32_t where_of(const struct step *step)
{
    return step->where[0] | (uint32_t)step->where[1] << 8;
}

/* A lie: a word of a slot, a record, the key table, a ring, or anything. */
static void lie(const struct step *step)
{
    const struct fabric_superblock *sb = &area.sb;
    uint32_t where = where_of(step), part = where % PARTS;
    uint64_t offset, value = value_of(step);

    switch (step->what & 7) {
    case 0:
    case 1:
        offset = sb->keys_offset + (where % (sb->key_buckets * FABRIC_BUCKET_CELLS)) * 8;
        if (step->what & 8) /* a cell that looks like one */
            value = FABRIC_CELL(1 + value % 2, value >> 8 & 3, value >> 16 & 3, value >> 24 & 3, value >> 32);
        break;
    case 2:
        offset = area_block_offset(sb, part) + sb->records_offset + where / PARTS % (4 * 24) * 8;
        break;
    case 3:
        offset = area_slot_offset(sb, part) + FABRIC_PAGE + where / PARTS % 512 * 8;
        break;
    case 4:
        offset = area_slot_offset(sb, part);
        break;
    case 5:
        offset = area_block_offset(sb, part) + where / PARTS % PARTS * sb->ring_size;
        break;
    case 6: /* an extent that might be right */
        offset = area_slot_offset(sb, part) + FABRIC_PAGE + offsetof(struct fabric_slot_daemon, extent);
        value = area_block_offset(sb, part) + sb->records_offset + (value & 0x1000);
        break;
    default:
        offset = (where * 8191ull) % (area.size / 8) * 8;
    }
    *(uint64_t *)(void *)(area.base + offset) = value;
}

/* Before each access: every other one, the next step is made if it is a lie. */
void area_point(void)
{
    must(++accesses < 10000000);
    if (accesses % 2 && next < count && !(steps[next].what & 0x80))
        lie(&steps[next++]);
}

static void ask_keys(uint32_t what, int32_t key, uint32_t slot)
{
    struct core_found found = {.state = CORE_FOUND_NONE};
    struct fabric_record *rec;

    if (what == 0) {
        area_lookup(&area, key, &found);
    } else if (what == 1) {
        rec = area_record(&area, SELF, slot, true);
        if (!rec)
            return;
        record_new(rec);
        rec->key = key;
        rec->incarnation = area_incarnation(&area, SELF);
        record_ready(rec, FABRIC_REC_NEW);
        area_claim(&area, SELF, slot, key, &found);
    } else {
        area_unclaim(&area, SELF, slot);
    }
    if (found.state == CORE_FOUND_OTHER) {
        must(found.home < PARTS && found.shmid >= 0 && found.stat.key == key);
        must(!(found.stat.mode & ~03777u) && !(found.stat.flags & ~FABRIC_SEG_KNOWN));
    }
    must(found.state != CORE_FOUND_FAILED || found.error > 0);
}

static void ask(const struct step *step)
{
    uint32_t where = where_of(step), part = where % 5, incarnation;
    struct fabric_slot_daemon page;
    struct fabric_record rec;
    struct fabric_msg msg = {.op = FABRIC_OP_PING};

    switch (step->what & 15) {
    case 0:
    case 1:
    case 2:
        ask_keys(step->what & 15, (int32_t)(value_of(step) % 4), where % 4);
        break;
    case 3:
        if (area_record_read(&area, part, where / 5 % 70, &rec) == 0)
            must(FABRIC_REC_STATE(rec.head) <= FABRIC_REC_LOST && rec.cell <= area.sb.key_buckets * 64);
        break;
    case 4:
        if (area_slot_read(&area, part, &page) == 0)
            must(strlen(page.name) < sizeof(page.name) && strlen(page.hostname) < FABRIC_HOSTNAME_MAX);
        break;
    case 5:
        area_ring_receive(&area, SELF, part, &msg);
        break;
    case 6:
        area_ring_send(&area, SELF, part, &msg);
        break;
    case 7:
        area_ring_advance(&area, SELF, part);
        break;
    case 8:
        area_ring_skip(&area, SELF, part);
        break;
    case 9:
        area_life_claim(&area, part, &incarnation);
        break;
    case 10:
        area_declare_dead(&area, part, where / 5, SELF);
        break;
    default:
        area_slot_publish(&area, SELF, &(struct fabric_slot_daemon){.epoch = where, .name = "x"});
    }
}

static void set_up(void)
{
    struct area_geometry geometry = {
        .kind = FABRIC_LOCAL, .parts = PARTS, .slots = SLOTS, .granule = 4096, .heartbeat_ms = 200, .name = "fuzz"};
    struct fabric_superblock sb;
    uint8_t *memory;

    must(area_layout(&geometry, &sb, NULL) == 0);
    memory = mmap(NULL, sb.area_size + 2 * FABRIC_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(memory != MAP_FAILED);
    memory += FABRIC_PAGE;
    must(mprotect(memory, sb.area_size, PROT_READ | PROT_WRITE) == 0);
    must(area_init(&area, &sb, memory, NULL, NULL, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t incarnation;

    count = next = 0;
    accesses = 0;
    if (!area.base)
        set_up();
    memset(area.base, 0, area.size);
    for (uint32_t i = 0; i < PARTS; i++)
        area_life_claim(&area, i, &incarnation);

    steps = (const struct step *)(const void *)data;
    count = size / sizeof(struct step);
    while (next < count) {
        const struct step *step = &steps[next++];

        if (step->what & 0x80)
            ask(step);
        else
            lie(step);
    }
    return 0;
}
