/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The columns of xpipcs: names as lsipc(1) has them, plus what a fabric adds. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>
#include <time.h>

#include "src/tools/parse.h"
#include "src/tools/segments.h"
#include "src/util/cleanup.h"

static const struct fabric_stat *stat_of(const void *row)
{
    return &((const struct segment *)row)->stat.stat;
}

TABLE_CELL(key)
{
    return cell_text("0x%08" PRIx32, (uint32_t)stat_of(row)->key);
}

TABLE_CELL(id)
{
    return cell_text("%" PRId32, ((const struct segment *)row)->stat.shmid);
}

TABLE_CELL(perms)
{
    char perms[10];

    return strdup(format_perms(stat_of(row)->mode, perms));
}

TABLE_CELL(mode)
{
    return cell_text("%04" PRIo32, stat_of(row)->mode & 0777);
}

TABLE_CELL(size)
{
    char text[TEXT_SIZE_MAX];

    if (style->bytes || style->json)
        return cell_text("%" PRIu64, stat_of(row)->size);
    return strdup(format_size(stat_of(row)->size, text));
}

/* A figure that its home did not confirm is marked. */
TABLE_CELL(nattch)
{
    bool doubt = !((const struct segment *)row)->exact && !style->json;

    return cell_text("%" PRIu32 "%s", stat_of(row)->nattch, doubt ? "?" : "");
}

TABLE_CELL(exact)
{
    return strdup(((const struct segment *)row)->exact ? "yes" : "no");
}

TABLE_CELL(status)
{
    static const struct {
        uint32_t mode, flag;
        const char *name;
    } names[] = {
        {SHM_DEST, 0, "dest"},
        {SHM_LOCKED, 0, "locked"},
        {0, FABRIC_SEG_AUTORMID, "autormid"},
        {0, FABRIC_SEG_HUGE, "hugetlb"},
        {0, FABRIC_SEG_NORESERVE, "noreserve"},
    };
    const struct fabric_stat *s = stat_of(row);
    char text[64] = "";

    if ((s->flags & FABRIC_SEG_FTOK) != 0 && s->size == 0)
        return strdup("reserved");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if ((s->mode & names[i].mode) != 0 || (s->flags & names[i].flag) != 0) {
            size_t used = strlen(text);

            snprintf(text + used, sizeof(text) - used, "%s%s", used != 0 ? "," : "", names[i].name);
        }
    return text[0] != '\0' ? strdup(text) : NULL;
}

TABLE_CELL(huge)
{
    return strdup(stat_of(row)->flags & FABRIC_SEG_HUGE ? "yes" : "no");
}

TABLE_CELL(home)
{
    return strdup(((const struct segment *)row)->home);
}

TABLE_CELL(part)
{
    return cell_text("%" PRIu32, ((const struct segment *)row)->stat.part);
}

static char *cell_when(int64_t seconds, const struct table_style *style)
{
    char text[TEXT_SIZE_MAX + 8];

    if (seconds == 0)
        return NULL;
    if (style->json || style->iso_time)
        return strdup(format_iso_time(seconds, text));
    return strdup(format_time(seconds, time(NULL), text));
}

TABLE_CELL(ctime)
{
    return cell_when(stat_of(row)->ctime, style);
}

TABLE_CELL(atime)
{
    return cell_when(stat_of(row)->atime, style);
}

TABLE_CELL(dtime)
{
    return cell_when(stat_of(row)->dtime, style);
}

TABLE_CELL(cpid)
{
    return cell_text("%" PRId32, stat_of(row)->cpid);
}

TABLE_CELL(lpid)
{
    return cell_text("%" PRId32, stat_of(row)->lpid);
}

TABLE_CELL(uid)
{
    return cell_text("%" PRIu32, stat_of(row)->uid);
}

TABLE_CELL(gid)
{
    return cell_text("%" PRIu32, stat_of(row)->gid);
}

TABLE_CELL(cuid)
{
    return cell_text("%" PRIu32, stat_of(row)->cuid);
}

TABLE_CELL(cgid)
{
    return cell_text("%" PRIu32, stat_of(row)->cgid);
}

TABLE_CELL(user)
{
    return format_user(stat_of(row)->uid);
}

TABLE_CELL(group)
{
    return format_group(stat_of(row)->gid);
}

TABLE_CELL(cuser)
{
    return format_user(stat_of(row)->cuid);
}

TABLE_CELL(cgroup)
{
    return format_group(stat_of(row)->cgid);
}

const struct column segment_columns[] = {
    {"KEY", "key; 0x00000000: none (any more)", 0, SCOLS_JSON_STRING, cell_key},
    {"ID", "shmid, the same on all partitions", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_id},
    {"PERMS", "permissions", 0, SCOLS_JSON_STRING, cell_perms},
    {"MODE", "permissions, octal", SCOLS_FL_RIGHT, SCOLS_JSON_STRING, cell_mode},
    {"OWNER", "name of the owner", 0, SCOLS_JSON_STRING, cell_user},
    {"SIZE", "as asked for", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_size},
    {"NATTCH", "attachments on all partitions; with ? the last figure of a partition that does not answer",
     SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_nattch},
    {"STATUS", "dest, locked, autormid, hugetlb, noreserve, reserved", 0, SCOLS_JSON_STRING, cell_status},
    {"HUGE", "whether all its memory is huge pages of the pool", 0, SCOLS_JSON_BOOLEAN, cell_huge},
    {"PARTITION", "name of the one that hosts it", 0, SCOLS_JSON_STRING, cell_home},
    {"PART", "number of the one that hosts it", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_part},
    {"CTIME", "created or changed", 0, SCOLS_JSON_STRING, cell_ctime},
    {"ATIME", "attached last", 0, SCOLS_JSON_STRING, cell_atime},
    {"DTIME", "detached last", 0, SCOLS_JSON_STRING, cell_dtime},
    {"CPID", "process that created it; 0: not visible", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_cpid},
    {"LPID", "process of the last operation", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_lpid},
    {"UID", "owner, number", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_uid},
    {"USER", "owner, name", 0, SCOLS_JSON_STRING, cell_user},
    {"GID", "owner's group, number", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_gid},
    {"GROUP", "owner's group, name", 0, SCOLS_JSON_STRING, cell_group},
    {"CUID", "creator, number", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_cuid},
    {"CUSER", "creator, name", 0, SCOLS_JSON_STRING, cell_cuser},
    {"CGID", "creator's group, number", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_cgid},
    {"CGROUP", "creator's group, name", 0, SCOLS_JSON_STRING, cell_cgroup},
    {"EXACT", "whether the hosting partition answered", 0, SCOLS_JSON_BOOLEAN, cell_exact},
};
const size_t n_segment_columns = sizeof(segment_columns) / sizeof(segment_columns[0]);
