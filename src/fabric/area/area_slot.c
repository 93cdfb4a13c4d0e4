/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's page of a slot: who runs there, how far it has read, where its records are. Its owner writes it; others
 * take a copy, check all of it, and use the copy.
 *
 * Publishing: READY goes first, then the fields, then the epoch, flags last. A reader that meets it half done sees the
 * fields of two daemons of one partition, or a name that is cut: the check refuses what could hurt, the rest is a moment
 * old, as any copy is.
 */
#include <errno.h>
#include <string.h>

#include "src/fabric/area/area_mem.h"
#include "src/util/math.h"
#include "src/util/text.h"

#define SLOT_FLAGS_KNOWN (FABRIC_SLOT_READY | FABRIC_SLOT_SQUASH)

static struct fabric_slot_daemon *own_page(const struct area *area, uint32_t part)
{
    return part < area->sb.parts ? &area_slot(area, part)->daemon : NULL;
}

void area_slot_publish(struct area *area, uint32_t self, const struct fabric_slot_daemon *page)
{
    struct fabric_slot_daemon *own = own_page(area, self), copy;
    const size_t head = offsetof(struct fabric_slot_daemon, ring_head);

    if (!own)
        return;
    store32(&own->flags, 0);
    /* The first word holds the epoch, the fourth the flags: they are stored when the rest stands. */
    memcpy(&copy, page, head);
    copy.epoch = load32(&own->epoch);
    copy.flags = 0;
    copy_out(own, &copy, head);
    store32(&own->epoch, page->epoch);
    store32(&own->flags, page->flags);
}

void area_slot_set_flags(struct area *area, uint32_t self, uint32_t flags)
{
    struct fabric_slot_daemon *own = own_page(area, self);

    if (own)
        store32(&own->flags, flags);
}

void area_slot_set_away(struct area *area, uint32_t self, uint32_t beats)
{
    struct fabric_slot_daemon *own = own_page(area, self);

    if (own)
        store32(&own->away_beats, beats);
}

uint32_t area_slot_epoch(const struct area *area, uint32_t part)
{
    const struct fabric_slot_daemon *page = own_page(area, part);

    return page ? load32(&page->epoch) : 0;
}

uint32_t area_slot_flags(const struct area *area, uint32_t part)
{
    const struct fabric_slot_daemon *page = own_page(area, part);

    return page ? load32(&page->flags) & SLOT_FLAGS_KNOWN : 0;
}

uint32_t area_slot_away(const struct area *area, uint32_t part)
{
    const struct fabric_slot_daemon *page = own_page(area, part);
    uint32_t beats = page ? load32(&page->away_beats) : 0;

    return beats < FABRIC_AWAY_MAX ? beats : FABRIC_AWAY_MAX;
}

uint32_t area_slot_bell(const struct area *area, uint32_t part)
{
    const struct fabric_slot_daemon *page = own_page(area, part);

    return page ? load32(&page->bell) : FABRIC_BELL(0, FABRIC_BELL_ALWAYS);
}

void area_slot_set_bell(struct area *area, uint32_t self, enum fabric_bell state)
{
    struct fabric_slot_daemon *own = own_page(area, self);
    uint32_t count;

    if (!own)
        return;
    count = FABRIC_BELL_COUNT(load32(&own->bell));
    store32(&own->bell, FABRIC_BELL(state == FABRIC_BELL_AWAKE ? count : count + 1, state));
}

static bool slot_makes_sense(const struct fabric_superblock *sb, uint32_t part, const struct fabric_slot_daemon *page)
{
    if (page->major == 0 || page->reserved0 != 0 || page->flags & ~SLOT_FLAGS_KNOWN)
        return false;
    if (page->away_beats > FABRIC_AWAY_MAX)
        return false;
    if (page->name[0] == 0 || !text_printable(page->name, sizeof(page->name)))
        return false;
    if (!text_printable(page->hostname, FABRIC_HOSTNAME_MAX))
        return false;
    for (uint32_t i = 0; i < FABRIC_EXTENTS_MAX; i++)
        if (page->extent[i] && !area_extent_valid(sb, part, page->extent[i]))
            return false;
    return true;
}

int area_slot_read(const struct area *area, uint32_t part, struct fabric_slot_daemon *out)
{
    const struct fabric_slot_daemon *page = own_page(area, part);
    struct fabric_slot_daemon copy;

    if (!page)
        return ENOENT;
    copy_in(&copy, page, sizeof(copy));
    if (copy.epoch == 0)
        return ENOENT;
    if (!slot_makes_sense(&area->sb, part, &copy))
        return EBADMSG;
    *out = copy;
    return 0;
}
