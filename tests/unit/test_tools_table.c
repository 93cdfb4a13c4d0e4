/* SPDX-License-Identifier: GPL-2.0-or-later */
/* src/tools/table.c and the columns of xpipcs: choosing, printing, JSON types, what is marked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/shm.h>

#include <cmocka.h>
#include <jansson.h>

#include "src/tools/segments.h"
#include "src/tools/table.h"

static struct table_choice choice_of(const char *list)
{
    struct table_choice choice = {.n = 0};

    assert_null(table_choose(&choice, segment_columns, n_segment_columns, list));
    return choice;
}

static char *print(const char *list, struct table_style style, const struct segment *rows, size_t n)
{
    struct table_choice choice = choice_of(list);
    char *text = NULL;
    size_t size = 0;

    style.out = open_memstream(&text, &size);
    assert_non_null(style.out);
    assert_int_equal(table_print("segments", &choice, &style, rows, n, sizeof(*rows)), 0);
    fclose(style.out);
    return text;
}

static const struct segment rows[] = {
    {
        .stat = {.shmid = 65537,
                 .part = 2,
                 .stat = {.key = 0x5ca1ab1e, .mode = 0640, .size = 5 << 20, .nattch = 3, .cpid = 7}},
        .home = "web",
        .exact = true,
    },
    {
        .stat = {.shmid = 9,
                 .part = 1,
                 .stat = {.key = 0,
                          .mode = 0600 | SHM_DEST | SHM_LOCKED,
                          .size = 100,
                          .nattch = 1,
                          .flags = FABRIC_SEG_AUTORMID,
                          .ctime = 1700000000}},
        .home = "db",
        .exact = false,
    },
    {
        .stat = {.shmid = 10, .part = 1, .stat = {.key = -5, .flags = FABRIC_SEG_FTOK}},
        .home = "db",
        .exact = true,
    },
};

static void test_choose(void **state)
{
    struct table_choice choice = choice_of("key,Id,NATTCH");
    char *wrong;

    (void)state;
    assert_int_equal(choice.n, 3);
    assert_string_equal(choice.column[1]->name, "ID");
    assert_null(table_choose(&choice, segment_columns, n_segment_columns, "+STATUS"));
    assert_int_equal(choice.n, 4);
    wrong = table_choose(&choice, segment_columns, n_segment_columns, "KEY,NONSENSE,ID");
    assert_string_equal(wrong, "NONSENSE");
    free(wrong);
    wrong = table_choose(&choice, segment_columns, n_segment_columns, "KEY,");
    assert_string_equal(wrong, "");
    free(wrong);
    assert_int_equal(choice.n, 4); /* as before */
}

static void test_too_many(void **state)
{
    struct table_choice choice = {.n = 0};
    char list[4 * (TABLE_COLUMNS_MAX + 1)] = "KEY";
    char *wrong;

    (void)state;
    for (size_t i = 1; i < TABLE_COLUMNS_MAX; i++)
        strcat(list, ",KEY");
    assert_null(table_choose(&choice, segment_columns, n_segment_columns, list));
    wrong = table_choose(&choice, segment_columns, n_segment_columns, "+KEY");
    assert_non_null(wrong);
    free(wrong);
}

static void test_presets_name_columns(void **state)
{
    (void)state;
    choice_of(SEGMENT_COLUMNS_DEFAULT);
    choice_of(SEGMENT_COLUMNS_CREATOR);
    choice_of(SEGMENT_COLUMNS_TIME);
}

static void test_text(void **state)
{
    char *text = print("KEY,ID,PERMS,SIZE,NATTCH,PARTITION", (struct table_style){.raw = true}, rows, 2);

    (void)state;
    assert_string_equal(text, "KEY ID PERMS SIZE NATTCH PARTITION\n"
                              "0x5ca1ab1e 65537 rw-r----- 5M 3 web\n"
                              "0x00000000 9 rw------- 100B 1? db\n");
    free(text);
    text = print("SIZE", (struct table_style){.raw = true, .bytes = true, .noheadings = true}, rows, 1);
    assert_string_equal(text, "5242880\n");
    free(text);
}

static void test_status(void **state)
{
    char *text = print("ID,STATUS", (struct table_style){.raw = true, .noheadings = true}, rows, 3);

    (void)state;
    assert_non_null(strstr(text, "9 dest,locked,autormid\n"));
    assert_non_null(strstr(text, "10 reserved\n"));
    free(text);
}

/* Every cell of every column is of the type that its column says. */
static void test_json(void **state)
{
    char *text;
    json_t *root, *array, *row;
    const char *all = "KEY,ID,PERMS,MODE,OWNER,SIZE,NATTCH,STATUS,HUGE,PARTITION,PART,CTIME,ATIME,DTIME,CPID,LPID,UID,"
                      "USER,GID,GROUP,CUID,CUSER,CGID,CGROUP,EXACT";

    (void)state;
    assert_int_equal(choice_of(all).n, n_segment_columns);
    text = print(all, (struct table_style){.json = true}, rows, 3);
    root = json_loads(text, 0, NULL);
    assert_non_null(root);
    array = json_object_get(root, "segments");
    assert_int_equal(json_array_size(array), 3);
    row = json_array_get(array, 0);
    assert_int_equal(json_integer_value(json_object_get(row, "id")), 65537);
    assert_true(json_is_integer(json_object_get(row, "size")));
    assert_int_equal(json_integer_value(json_object_get(row, "size")), 5 << 20);
    assert_string_equal(json_string_value(json_object_get(row, "key")), "0x5ca1ab1e");
    assert_string_equal(json_string_value(json_object_get(row, "mode")), "0640");
    assert_true(json_is_null(json_object_get(row, "ctime")));
    assert_true(json_is_true(json_object_get(row, "exact")));
    row = json_array_get(array, 1);
    assert_int_equal(json_integer_value(json_object_get(row, "nattch")), 1); /* no ? in JSON */
    assert_true(json_is_false(json_object_get(row, "exact")));
    assert_true(json_is_string(json_object_get(row, "ctime")));
    json_decref(root);
    free(text);
}

static void test_no_rows(void **state)
{
    char *text = print("KEY,ID", (struct table_style){.json = true}, rows, 0);
    json_t *root = json_loads(text, 0, NULL);

    (void)state;
    assert_non_null(root);
    assert_int_equal(json_array_size(json_object_get(root, "segments")), 0);
    assert_true(json_is_array(json_object_get(root, "segments")));
    json_decref(root);
    free(text);
}

static void test_help_names_all(void **state)
{
    char *help = table_help(segment_columns, n_segment_columns);

    (void)state;
    assert_non_null(help);
    for (size_t i = 0; i < n_segment_columns; i++)
        assert_non_null(strstr(help, segment_columns[i].name));
    free(help);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choose),
        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_presets_name_columns),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_no_rows),
        cmocka_unit_test(test_help_names_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
