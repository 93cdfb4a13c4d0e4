/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clshmctl status: one request, STATUS, printed for a person or as nested JSON.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/tools/clshmctl.h"
#include "src/tools/machine.h"
#include "src/tools/parse.h"
#include "src/tools/table.h"
#include "src/util/cleanup.h"

/* A row of the table: a partition and what it takes to judge it. */
struct row {
    const struct clshmd_part *part;
    uint32_t id, heartbeat_ms;
    bool self;
};

TABLE_CELL(id)
{
    return cell_text("%" PRIu32, ((const struct row *)row)->id);
}

TABLE_CELL(name)
{
    const struct row *r = row;

    return cell_text("%.*s%s", (int)FABRIC_NAME_MAX, r->part->name, r->self ? " (this one)" : "");
}

TABLE_CELL(state)
{
    return strdup(tool_part_state(((const struct row *)row)->part->state));
}

TABLE_CELL(incarnation)
{
    return cell_text("%" PRIu32, ((const struct row *)row)->part->incarnation);
}

/* How long ago it beat, in this partition's time. */
TABLE_CELL(beat)
{
    const struct row *r = row;
    char span[TEXT_SIZE_MAX];

    if (r->part->state != CLSHMD_PART_ALIVE && r->part->state != CLSHMD_PART_STALLED)
        return NULL;
    if (r->part->missed == 0)
        return strdup("now");
    return cell_text("%s ago", format_span((uint64_t)r->part->missed * r->heartbeat_ms, span));
}

TABLE_CELL(version)
{
    const struct row *r = row;

    return cell_text("%u.%u", r->part->major, r->part->minor);
}

TABLE_CELL(owner)
{
    return format_user(((const struct row *)row)->part->uid);
}

static const struct column columns[] = {
    {"ID", "number", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_id},
    {"PARTITION", "name", 0, SCOLS_JSON_STRING, cell_name},
    {"STATE", "alive, stalled or dead", 0, SCOLS_JSON_STRING, cell_state},
    {"HEARTBEAT", "when it beat last", 0, SCOLS_JSON_STRING, cell_beat},
    {"INCARNATION", "how often it joined", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_incarnation},
    {"VERSION", "of its daemon", 0, SCOLS_JSON_STRING, cell_version},
    {"OWNER", "user of its daemon", 0, SCOLS_JSON_STRING, cell_owner},
};
#define COLUMNS "ID,PARTITION,STATE,HEARTBEAT,INCARNATION,VERSION,OWNER"

static size_t rows_of(const struct clshmd_status_reply *s, struct row rows[FABRIC_PARTS_MAX])
{
    size_t n = 0;

    for (uint32_t i = 0; i < FABRIC_PARTS_MAX; i++)
        if (s->part[i].state != CLSHMD_PART_ABSENT)
            rows[n++] = (struct row){&s->part[i], i, s->heartbeat_ms, i == s->self};
    return n;
}

/* ------------------------------------------------------------------ for a person */

static void print_memory(const struct clshmd_status_reply *s)
{
    char used[TEXT_SIZE_MAX], limit[TEXT_SIZE_MAX];
    uint64_t max;

    printf("memory      %s shared", format_size(s->bytes, used));
    if (s->maxpgs == 0 || __builtin_mul_overflow(s->maxpgs, s->granule, &max))
        printf(", no limit\n");
    else
        printf(" of at most %s (%" PRIu64 " granules of %" PRIu32 " bytes)\n", format_size(max, limit), s->maxpgs,
               s->granule);
}

/* What there is of huge pages, and what it would take to have some. */
static void print_huge(void)
{
    struct machine_huge huge;
    char size[TEXT_SIZE_MAX];

    machine_huge(&huge);
    if (huge.pages == 0)
        printf("huge pages  none reserved (vm.nr_hugepages)");
    else
        printf("huge pages  %" PRIu64 " of %" PRIu64 " free, of %s each", huge.free, huge.pages,
               format_size(huge.size, size));
    printf("; transparent: shmem_enabled %s%s\n", huge.shmem_enabled,
           huge.transparent ? "" : " (needs advise, within_size or always)");
}

static int print_text(const struct clshmd_status_reply *s, const struct tool *tool)
{
    struct row rows[FABRIC_PARTS_MAX];
    struct table_style style = {.json = false};
    struct table_choice choice;
    size_t n = rows_of(s, rows);
    int r;

    printf("fabric      %s (%s), %zu of %" PRIu32 " partitions, heartbeat %" PRIu32 " ms, granule %" PRIu32 "\n",
           s->fabric, tool_fabric_kind(s->kind), n, s->parts, s->heartbeat_ms, s->granule);
    printf("partition   %" PRIu32 " (%s) at %s\n", s->self, s->self < FABRIC_PARTS_MAX ? s->part[s->self].name : "?",
           tool_socket_path(tool));
    printf("daemon      pid %" PRIu64 ", keeper %" PRIu64 ", restarted %" PRIu32 " times\n", s->daemon_pid,
           s->keeper_pid, s->restarts);
    printf("versions    library %u.%u, daemon %u.%u, driver %u.%u, fabric %u.%u\n", s->lib_major, s->lib_minor,
           s->daemon_major, s->daemon_minor, s->driver_major, s->driver_minor, s->fabric_major, s->fabric_minor);
    printf("segments    %" PRIu64 " hosted", s->segments);
    if (s->maxsegs != 0)
        printf(" of at most %" PRIu64, s->maxsegs);
    printf(", %" PRIu64 " keys reserved, %" PRIu64 " imported\n", s->reserved_keys, s->imports);
    print_memory(s);
    print_huge();
    printf("clients     %" PRIu64 " processes, %" PRIu64 " connections, %" PRIu64 " attachments\n\n", s->clients,
           s->connections, s->attachments);
    if (table_choose(&choice, columns, sizeof(columns) / sizeof(columns[0]), COLUMNS) != NULL)
        return ENOMEM;
    r = fflush(stdout) == 0 ? 0 : errno;
    return r != 0 ? r : table_print("partitions", &choice, &style, rows, n, sizeof(rows[0]));
}

/* ------------------------------------------------------------------ for a program */

static json_t *json_version(uint16_t major, uint16_t minor)
{
    return json_sprintf("%u.%u", major, minor);
}

static json_t *json_uuid(const uint8_t u[16])
{
    return json_sprintf("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1], u[2], u[3],
                        u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

/* A number, or null where 0 means that there is no limit. */
static json_t *json_limit(uint64_t value, uint64_t unit)
{
    uint64_t product;

    if (value == 0 || __builtin_mul_overflow(value, unit, &product) || product > INT64_MAX)
        return json_null();
    return json_integer((json_int_t)product);
}

static json_t *json_parts(const struct clshmd_status_reply *s)
{
    struct row rows[FABRIC_PARTS_MAX];
    size_t n = rows_of(s, rows);
    json_t *array = json_array();

    for (size_t i = 0; array != NULL && i < n; i++) {
        const struct clshmd_part *p = rows[i].part;
        json_t *o =
            json_pack("{s:i s:s s:s s:b s:I s:I s:o s:I s:I s:I s:I}", "id", (int)rows[i].id, "name", p->name, "state",
                      tool_part_state(p->state), "self", rows[i].self, "incarnation", (json_int_t)p->incarnation,
                      "epoch", (json_int_t)p->epoch, "version", json_version(p->major, p->minor), "heartbeat",
                      (json_int_t)p->heartbeat, "missed", (json_int_t)p->missed, "silent_ms",
                      (json_int_t)p->missed * (json_int_t)s->heartbeat_ms, "uid", (json_int_t)p->uid);

        if (o == NULL || json_array_append_new(array, o) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static json_t *json_fabric(const struct clshmd_status_reply *s)
{
    return json_pack("{s:s s:o s:s s:o s:I s:I s:I s:I}", "name", s->fabric, "uuid", json_uuid(s->uuid), "kind",
                     tool_fabric_kind(s->kind), "version", json_version(s->fabric_major, s->fabric_minor),
                     "partitions_max", (json_int_t)s->parts, "segments_max", (json_int_t)s->slots, "granule",
                     (json_int_t)s->granule, "heartbeat_ms", (json_int_t)s->heartbeat_ms);
}

static json_t *json_daemon(const struct clshmd_status_reply *s)
{
    return json_pack(
        "{s:I s:I s:I s:o s:o s:o s:I}", "pid", (json_int_t)s->daemon_pid, "keeper_pid", (json_int_t)s->keeper_pid,
        "restarts", (json_int_t)s->restarts, "version", json_version(s->daemon_major, s->daemon_minor),
        "library_version", json_version(s->lib_major, s->lib_minor), "driver_version",
        json_version(s->driver_major, s->driver_minor), "driver_capabilities", (json_int_t)s->capabilities);
}

static json_t *json_segments(const struct clshmd_status_reply *s)
{
    return json_pack("{s:I s:o s:I s:I}", "hosted", (json_int_t)s->segments, "max", json_limit(s->maxsegs, 1),
                     "reserved_keys", (json_int_t)s->reserved_keys, "imported", (json_int_t)s->imports);
}

static json_t *json_memory(const struct clshmd_status_reply *s)
{
    return json_pack("{s:I s:o s:o}", "bytes", (json_int_t)s->bytes, "max_bytes", json_limit(s->maxpgs, s->granule),
                     "maxpgs", json_limit(s->maxpgs, 1));
}

static json_t *json_huge(void)
{
    struct machine_huge huge;

    machine_huge(&huge);
    return json_pack("{s:I s:I s:I s:s s:b}", "size", (json_int_t)huge.size, "reserved", (json_int_t)huge.pages, "free",
                     (json_int_t)huge.free, "shmem_enabled", huge.shmem_enabled, "transparent", huge.transparent);
}

static json_t *json_clients(const struct clshmd_status_reply *s)
{
    return json_pack("{s:I s:I s:I}", "processes", (json_int_t)s->clients, "connections", (json_int_t)s->connections,
                     "attachments", (json_int_t)s->attachments);
}

static json_t *json_status(const struct clshmd_status_reply *s, const struct tool *tool)
{
    json_t *self = json_pack("{s:I s:s s:s}", "id", (json_int_t)s->self, "name", s->part[s->self].name, "socket",
                             tool_socket_path(tool));

    return json_pack("{s:o s:o s:o s:o s:o s:o s:o s:o}", "fabric", json_fabric(s), "partition", self, "daemon",
                     json_daemon(s), "segments", json_segments(s), "memory", json_memory(s), "huge_pages", json_huge(),
                     "clients", json_clients(s), "partitions", json_parts(s));
}

static int print_json(const struct clshmd_status_reply *s, const struct tool *tool)
{
    json_t *root = json_status(s, tool);
    int r = root == NULL || json_dumpf(root, stdout, JSON_INDENT(2)) != 0 ? ENOMEM : 0;

    json_decref(root);
    puts("");
    return r;
}

/* What came from the socket: clean its strings, check its index. */
static bool sane(struct clshmd_status_reply *s)
{
    tool_clean(s->fabric, sizeof(s->fabric));
    for (size_t i = 0; i < FABRIC_PARTS_MAX; i++)
        tool_clean(s->part[i].name, sizeof(s->part[i].name));
    return s->self < FABRIC_PARTS_MAX;
}

int cmd_status(struct tool *tool, int argc, char **argv)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    static const struct argp argp = {
        .parser = tool_parse_none,
        .doc = "Show what this partition knows: its fabric, versions, segments, memory, and the other partitions.",
        .children = children,
    };
    CLEANUP_CONN struct tool_conn *conn = NULL;
    struct clshmd_status_reply reply;
    enum tool_status status;
    int r;

    argp_parse(&argp, argc, argv, 0, NULL, tool);
    status = tool_connect(tool, &conn);
    if (status != TOOL_DONE)
        return status;
    r = tool_call(conn, CLSHMD_STATUS, NULL, 0, &reply, sizeof(reply));
    if (r == 0 && !sane(&reply))
        r = EPROTO;
    if (r != 0)
        return tool_failed(conn, "status", r, "the daemon did not say");
    r = tool->json ? print_json(&reply, tool) : print_text(&reply, tool);
    if (r != 0)
        tool_error("status", r, "cannot print it");
    return r == 0 ? TOOL_DONE : TOOL_FAILED;
}
