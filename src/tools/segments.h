/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All segments of the fabric, and the columns that show them. */
#ifndef CLSHM_TOOLS_SEGMENTS_H
#define CLSHM_TOOLS_SEGMENTS_H

#include "src/tools/table.h"
#include "src/tools/tools.h"

struct segment {
    struct clshmd_stat stat;
    char home[FABRIC_NAME_MAX]; /* name of the partition that hosts it */
    bool exact;                 /* its home answered; else these are the last figures that it published */
};

struct segments {
    size_t n;
    struct segment *segment;
    uint64_t silent; /* a bit for each partition that did not answer */
};

/* Fill an empty @out: which segments there are, then each one's exact figures. @return 0 or an errno. */
int segments_gather(struct segments *out, struct tool_conn *conn);
/* Only which there are, with published figures and no names. */
int segments_list(struct segments *out, struct tool_conn *conn);
void segments_deinit(struct segments *s);

extern const struct column segment_columns[];
extern const size_t n_segment_columns;

#define SEGMENT_COLUMNS_DEFAULT "KEY,ID,PERMS,OWNER,SIZE,NATTCH,STATUS,PARTITION,CTIME,CPID,LPID"
#define SEGMENT_COLUMNS_CREATOR "KEY,ID,PERMS,CUSER,CGROUP,USER,GROUP,PARTITION"
#define SEGMENT_COLUMNS_TIME    "KEY,ID,OWNER,ATIME,DTIME,CTIME,CPID,LPID,PARTITION"

#endif
