/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tables, with libsmartcols. A column is a line of a static array; what is printed is a choice of them. Every cell is
 * made by its column's function from a row that the caller gathered before.
 *
 * A cell that has no value is NULL: libsmartcols makes it empty in text, and null in JSON.
 */
#include "src/tools/table.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "src/util/cleanup.h"

static void cleanup_table(struct libscols_table **table)
{
    scols_unref_table(*table);
}

char *cell_text(const char *format, ...)
{
    va_list ap;
    char *text;
    int n;

    va_start(ap, format);
    n = vasprintf(&text, format, ap);
    va_end(ap);
    return n < 0 ? NULL : text;
}

static const struct column *find_column(const struct column *columns, size_t n, const char *name, size_t length)
{
    for (size_t i = 0; i < n; i++)
        if (strlen(columns[i].name) == length && strncasecmp(columns[i].name, name, length) == 0)
            return &columns[i];
    return NULL;
}

char *table_choose(struct table_choice *choice, const struct column *columns, size_t n_columns, const char *list)
{
    struct table_choice chosen = {.n = 0};

    if (*list == '+') {
        chosen = *choice;
        list++;
    }
    for (;;) {
        size_t length = strcspn(list, ",");
        const struct column *c = find_column(columns, n_columns, list, length);

        if (c == NULL || chosen.n == TABLE_COLUMNS_MAX)
            return strndup(list, length);
        chosen.column[chosen.n++] = c;
        if (list[length] == '\0')
            break;
        list += length + 1;
    }
    *choice = chosen;
    return NULL;
}

char *table_help(const struct column *columns, size_t n_columns)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);

    if (f == NULL)
        return NULL;
    for (size_t i = 0; i < n_columns; i++)
        fprintf(f, "  %-10s %s\n", columns[i].name, columns[i].help);
    return fclose(f) == 0 ? text : NULL;
}

static int add_row(struct libscols_table *table, const struct table_choice *choice, const struct table_style *style,
                   const void *row)
{
    struct libscols_line *line = scols_table_new_line(table, NULL);

    if (line == NULL)
        return ENOMEM;
    for (size_t i = 0; i < choice->n; i++) {
        char *cell = choice->column[i]->cell(row, style);

        if (cell != NULL && scols_line_refer_data(line, i, cell) != 0) {
            free(cell);
            return ENOMEM;
        }
    }
    return 0;
}

static int add_columns(struct libscols_table *table, const struct table_choice *choice)
{
    for (size_t i = 0; i < choice->n; i++) {
        const struct column *c = choice->column[i];
        struct libscols_column *column = scols_table_new_column(table, c->name, 0.1, c->flags);

        if (column == NULL)
            return ENOMEM;
        scols_column_set_json_type(column, c->json);
    }
    return 0;
}

int table_print(const char *name, const struct table_choice *choice, const struct table_style *style, const void *rows,
                size_t n_rows, size_t row_size)
{
    CLEANUP(cleanup_table) struct libscols_table *table = scols_new_table();
    int r;

    if (table == NULL || scols_table_set_name(table, name) != 0)
        return ENOMEM;
    if (style->out != NULL)
        scols_table_set_stream(table, style->out);
    scols_table_enable_json(table, style->json);
    scols_table_enable_raw(table, style->raw);
    scols_table_enable_noheadings(table, style->noheadings);
    r = add_columns(table, choice);
    for (size_t i = 0; r == 0 && i < n_rows; i++)
        r = add_row(table, choice, style, (const uint8_t *)rows + i * row_size);
    if (r == 0)
        r = -scols_print_table(table);
    return r;
}
