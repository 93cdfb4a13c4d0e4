/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Gathers segments in two passes. SEGMENTS gives what every partition published: quick, and right even for one that is
 * stalled, but attachments lag behind. Then each segment's home is asked (STAT_ANY, by index). A home that does not
 * answer is asked once, not once for each of its segments: the published figures stand for the rest, marked as such.
 *
 * A segment that was removed between the passes is left out.
 */
#include "src/tools/segments.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/util/cleanup.h"

void segments_deinit(struct segments *s)
{
    free(s->segment);
    *s = (struct segments){.n = 0};
}

/* First pass. */
int segments_list(struct segments *s, struct tool_conn *conn)
{
    struct clshmd_segments request = {.from = 0};
    struct clshmd_segments_reply reply;
    int r;

    do {
        struct segment *more;

        r = tool_call(conn, CLSHMD_SEGMENTS, &request, sizeof(request), &reply, sizeof(reply));
        if (r != 0)
            return r;
        if (reply.count > CLSHMD_SEGMENTS_MAX || (reply.next != 0 && reply.next <= request.from))
            return EPROTO;
        more = reallocarray(s->segment, s->n + reply.count + 1, sizeof(*more));
        if (more == NULL)
            return ENOMEM;
        s->segment = more;
        for (uint32_t i = 0; i < reply.count; i++)
            s->segment[s->n++] = (struct segment){.stat = reply.segment[i]};
        request.from = reply.next;
    } while (request.from != 0);
    return 0;
}

/* Second pass, for one. @return 0; EINVAL: it is gone; else why its home did not answer. */
static int get_exact(struct segment *segment, struct tool_conn *conn)
{
    const struct clshmd_hello_reply *geometry = tool_hello(conn);
    uint32_t index_mask = (1u << (geometry->part_bits + geometry->slot_bits)) - 1;
    struct clshmd_ctl request = {.shmid = (int32_t)((uint32_t)segment->stat.shmid & index_mask),
                                 .cmd = CLSHMD_CTL_STAT_ANY};
    struct clshmd_stat reply;
    int r = tool_call(conn, CLSHMD_CTL, &request, sizeof(request), &reply, sizeof(reply));

    if (r == EIDRM)
        return EINVAL;
    if (r != 0)
        return r;
    segment->stat = reply;
    segment->exact = true;
    return 0;
}

static int get_names(struct segments *s, struct tool_conn *conn)
{
    struct clshmd_status_reply known;
    int r = tool_call(conn, CLSHMD_STATUS, NULL, 0, &known, sizeof(known));

    for (size_t i = 0; r == 0 && i < s->n; i++) {
        uint32_t part = s->segment[i].stat.part;

        if (part >= FABRIC_PARTS_MAX)
            return EPROTO;
        memcpy(s->segment[i].home, known.part[part].name, FABRIC_NAME_MAX);
        tool_clean(s->segment[i].home, FABRIC_NAME_MAX);
    }
    return r;
}

/* A reserved key has no memory: nothing to ask for. */
static bool is_reservation(const struct clshmd_stat *stat)
{
    return (stat->stat.flags & FABRIC_SEG_FTOK) != 0 && stat->stat.size == 0;
}

int segments_gather(struct segments *out, struct tool_conn *conn)
{
    int r = segments_list(out, conn);
    size_t kept = 0;

    r = r != 0 ? r : get_names(out, conn);
    if (r != 0)
        return r;
    for (size_t i = 0; i < out->n; i++) {
        struct segment *segment = &out->segment[i];
        uint64_t home = UINT64_C(1) << segment->stat.part;

        if (is_reservation(&segment->stat))
            segment->exact = true;
        else if ((out->silent & home) == 0)
            r = get_exact(segment, conn);
        if (tool_broken(conn))
            return r;
        if (r == EHOSTDOWN || r == EIO)
            out->silent |= home;
        if (r != EINVAL)
            out->segment[kept++] = *segment;
        r = 0;
    }
    out->n = kept;
    return 0;
}
