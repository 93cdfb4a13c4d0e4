/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Message rings, one for each pair of partitions. The tail is the sender's, in its own block; the head the receiver's,
 * in its own slot; so each side writes its own pages only. Both count messages and wrap at 2^32; tail - head is what
 * waits, and never more than the ring has slots: whatever is more is a lie, and the caller closes the ring.
 *
 * A message is stored before the tail that shows it. The receiver copies it and lets it lie until its effect is durable;
 * a receiver that died in between sees it again.
 */
#include <errno.h>

#include "src/fabric/area/area_mem.h"

/* The words of the ring between two partitions. */
struct ring {
    uint64_t offset; /* in the area */
    struct fabric_ring *ring;
    uint32_t *head;
    uint32_t slots;
};

/* Only the first page is touched here. */
static int ring_open(struct area *area, uint32_t from, uint32_t to, struct ring *out)
{
    uint64_t offset;
    int error;

    if (from >= area->sb.parts || to >= area->sb.parts)
        return EINVAL;
    offset = area_block_offset(&area->sb, from) + to * (uint64_t)area->sb.ring_size;
    error = area_touch(area, offset, sizeof(struct fabric_ring));
    if (error)
        return error;
    *out = (struct ring){
        .offset = offset,
        .ring = (struct fabric_ring *)(void *)(area->base + offset),
        .head = &area_slot(area, to)->daemon.ring_head[from],
        .slots = FABRIC_RING_SLOTS(area->sb.ring_size),
    };
    return 0;
}

static int ring_slot(struct area *area, const struct ring *ring, uint32_t count, struct fabric_msg **out)
{
    struct fabric_msg *slot = &ring->ring->slot[count % ring->slots];

    *out = slot;
    return area_touch(area, ring->offset + (uint64_t)((uint8_t *)slot - (uint8_t *)ring->ring), sizeof(*slot));
}

int area_ring_send(struct area *area, uint32_t from, uint32_t to, const struct fabric_msg *msg)
{
    struct fabric_msg *slot;
    struct ring ring;
    uint32_t tail, waiting;
    int error = ring_open(area, from, to, &ring);

    if (error)
        return error;
    tail = load32(&ring.ring->tail);
    waiting = tail - load32(ring.head);
    if (waiting >= ring.slots)
        return waiting == ring.slots ? EAGAIN : EBADMSG;
    error = ring_slot(area, &ring, tail, &slot);
    if (error)
        return error;
    copy_out(slot, msg, sizeof(*msg));
    store32(&ring.ring->tail, tail + 1);
    return 0;
}

int area_ring_receive(struct area *area, uint32_t self, uint32_t from, struct fabric_msg *out)
{
    struct fabric_msg *slot;
    struct ring ring;
    uint32_t head, waiting;
    int error = ring_open(area, from, self, &ring);

    if (error)
        return error;
    head = load32(ring.head);
    waiting = load32(&ring.ring->tail) - head;
    if (waiting == 0)
        return EAGAIN;
    if (waiting > ring.slots)
        return EBADMSG;
    error = ring_slot(area, &ring, head, &slot);
    if (error)
        return error;
    copy_in(out, slot, sizeof(*out));
    return 0;
}

void area_ring_advance(struct area *area, uint32_t self, uint32_t from)
{
    uint32_t *head;

    if (self >= area->sb.parts || from >= area->sb.parts)
        return;
    head = &area_slot(area, self)->daemon.ring_head[from];
    store32(head, load32(head) + 1);
}

int area_ring_skip(struct area *area, uint32_t self, uint32_t from)
{
    struct ring ring;
    int error = ring_open(area, from, self, &ring);

    if (error == 0)
        store32(ring.head, load32(&ring.ring->tail));
    return error;
}
