/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tables of columns: one description feeds help, text and JSON. Rows are gathered first, then printed at once. */
#ifndef CLSHM_TOOLS_TABLE_H
#define CLSHM_TOOLS_TABLE_H

#include <libsmartcols/libsmartcols.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* How a table is to look; the columns' functions see it too. */
struct table_style {
    bool json;
    bool raw;
    bool noheadings;
    bool bytes;    /* sizes in bytes */
    bool iso_time; /* times in full */
    FILE *out;     /* NULL: standard output */
};

struct column {
    const char *name;
    const char *help;
    int flags; /* SCOLS_FL_* */
    int json;  /* SCOLS_JSON_*; a boolean is false if its text begins with n or 0 */
    /* The cell as text, which the table frees; NULL: empty, or null in JSON. */
    char *(*cell)(const void *row, const struct table_style *style);
};

/* The head of a column's function: its row is `row`, and it need not look at `style`. */
#define TABLE_CELL(name)                                                                                               \
    static char *cell_##name(const void *row, const struct table_style *style __attribute__((unused)))

/* A cell, as printf(3) makes it; NULL: no memory. */
char *cell_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define TABLE_COLUMNS_MAX 48u

struct table_choice {
    size_t n;
    const struct column *column[TABLE_COLUMNS_MAX];
};

/*
 * Choose columns by a list of names, "KEY,ID"; the case does not matter. A list that begins with + is added to what
 * @choice holds already. @return NULL, or the name that is not a column, to be freed (then @choice is unchanged).
 */
char *table_choose(struct table_choice *choice, const struct column *columns, size_t n_columns, const char *list);

/* "  NAME   help" lines for --help; caller frees. */
char *table_help(const struct column *columns, size_t n_columns);

/* Print @n_rows rows of @row_size bytes each. @name: the array's in JSON. @return 0 or an errno. */
int table_print(const char *name, const struct table_choice *choice, const struct table_style *style, const void *rows,
                size_t n_rows, size_t row_size);

#endif
