/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clshm_diag: does every partition answer? Asks each that this partition knows for its host name (PING), then prints
 * who answered, with the time that it took, and who did not. The exit status tells: 0 all did, 4 some did not.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/tools/parse.h"
#include "src/tools/table.h"
#include "src/tools/tools.h"
#include "src/util/cleanup.h"

struct row {
    uint32_t id;
    char name[FABRIC_NAME_MAX];
    uint32_t state; /* enum clshmd_part_state */
    int error;      /* of the ping */
    char hostname[sizeof(((struct clshmd_ping_reply *)0)->hostname)];
    uint64_t rtt_ns;
};

TABLE_CELL(id)
{
    return cell_text("%" PRIu32, ((const struct row *)row)->id);
}

TABLE_CELL(name)
{
    return strdup(((const struct row *)row)->name);
}

TABLE_CELL(state)
{
    return strdup(tool_part_state(((const struct row *)row)->state));
}

TABLE_CELL(answer)
{
    const struct row *r = row;

    return r->error == 0 ? strdup("yes") : cell_text("no (%s)", tool_errno_name(r->error));
}

TABLE_CELL(error)
{
    const struct row *r = row;

    return r->error == 0 ? NULL : strdup(tool_errno_name(r->error));
}

TABLE_CELL(hostname)
{
    const struct row *r = row;

    return r->error == 0 ? strdup(r->hostname) : NULL;
}

TABLE_CELL(rtt)
{
    const struct row *r = row;

    if (r->error != 0)
        return NULL;
    if (style->json)
        return cell_text("%" PRIu64 ".%03" PRIu64, r->rtt_ns / 1000, r->rtt_ns % 1000);
    return cell_text("%" PRIu64 " us", r->rtt_ns / 1000);
}

static const struct column columns[] = {
    {"ID", "number", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_id},
    {"PARTITION", "name", 0, SCOLS_JSON_STRING, cell_name},
    {"STATE", "as this partition sees it", 0, SCOLS_JSON_STRING, cell_state},
    {"ANSWERS", "whether it does", 0, SCOLS_JSON_BOOLEAN, cell_answer},
    {"ERROR", "why not", 0, SCOLS_JSON_STRING, cell_error},
    {"HOSTNAME", "that it answered with", 0, SCOLS_JSON_STRING, cell_hostname},
    {"RTT", "time until it answered, in microseconds", SCOLS_FL_RIGHT, SCOLS_JSON_NUMBER, cell_rtt},
};
#define COLUMNS_TEXT "ID,PARTITION,STATE,ANSWERS,HOSTNAME,RTT"
#define COLUMNS_JSON "ID,PARTITION,STATE,ANSWERS,ERROR,HOSTNAME,RTT"

/* Ping every known partition. @return 0 or an errno of the conversation. */
static int gather(struct tool_conn *conn, struct row rows[FABRIC_PARTS_MAX], size_t *n)
{
    struct clshmd_status_reply known;
    int r = tool_call(conn, CLSHMD_STATUS, NULL, 0, &known, sizeof(known));

    for (uint32_t i = 0; r == 0 && i < FABRIC_PARTS_MAX; i++) {
        struct clshmd_ping request = {.part = i};
        struct clshmd_ping_reply reply = {.rtt_ns = 0};
        struct row *row = &rows[*n];

        if (known.part[i].state == CLSHMD_PART_ABSENT)
            continue;
        *row = (struct row){.id = i, .state = known.part[i].state};
        memcpy(row->name, known.part[i].name, sizeof(row->name));
        tool_clean(row->name, sizeof(row->name));
        row->error = tool_call(conn, CLSHMD_PING, &request, sizeof(request), &reply, sizeof(reply));
        if (tool_broken(conn))
            return row->error;
        memcpy(row->hostname, reply.hostname, sizeof(row->hostname));
        tool_clean(row->hostname, sizeof(row->hostname));
        row->rtt_ns = reply.rtt_ns;
        (*n)++;
    }
    return r;
}

static int print(const struct tool *tool, const struct row *rows, size_t n)
{
    struct table_style style = {.json = tool->json};
    struct table_choice choice;
    size_t silent = 0;
    int r;

    for (size_t i = 0; i < n; i++)
        silent += rows[i].error != 0;
    free(
        table_choose(&choice, columns, sizeof(columns) / sizeof(columns[0]), tool->json ? COLUMNS_JSON : COLUMNS_TEXT));
    r = table_print("partitions", &choice, &style, rows, n, sizeof(rows[0]));
    if (r != 0) {
        tool_error("partitions", r, "cannot print them");
        return TOOL_FAILED;
    }
    if (!tool->json)
        printf("%zu of %zu answer\n", n - silent, n);
    return silent == 0 ? TOOL_DONE : TOOL_PARTIAL;
}

static int diag(const struct tool *tool)
{
    CLEANUP_CONN struct tool_conn *conn = NULL;
    struct row rows[FABRIC_PARTS_MAX];
    size_t n = 0;
    enum tool_status status = tool_connect(tool, &conn);
    int r;

    if (status != TOOL_DONE)
        return (int)status;
    r = gather(conn, rows, &n);
    if (r != 0)
        return (int)tool_failed(conn, "partitions", r, "the daemon did not say which there are");
    return print(tool, rows, n);
}

int main(int argc, char **argv)
{
    static const struct argp_child children[] = {{.argp = &tool_argp}, {0}};
    static const struct argp argp = {
        .parser = tool_parse_none,
        .doc = "Ask every known partition for its host name, and list who answers and who does not.\v"
               "Exit status: 0 all answer, 1 failed, 2 usage, 3 the daemon cannot be reached, 4 some do not answer.",
        .children = children,
    };
    struct tool tool = {.json = false};

    tool_init(argv);
    argp_parse(&argp, argc, argv, 0, NULL, &tool);
    return tool_finish(diag(&tool));
}
