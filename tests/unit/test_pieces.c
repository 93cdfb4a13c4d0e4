/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * src/lib/pieces.c against a model that is plain: an array that says of each page which attachment has it.
 * Random attachments over one another (SHM_REMAP) and detachments; a seed replays.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "src/lib/pieces.h"

#define PAGES 64u
#define MANY  512u

static uint32_t owner[PAGES + 1];   /* entry + 1 of the attachment that has the page */
static uintptr_t base_of[MANY + 1]; /* of attachment n; entries are used once here, so that they name attachments */
static struct pieces table;

static uintptr_t at(uint32_t page)
{
    return 0x100000u + (uintptr_t)page * 4096u;
}

static bool model_has(uint32_t n)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        if (owner[i] == n)
            return true;
    }
    return false;
}

static void same(void)
{
    size_t i = 0;
    for (uint32_t page = 0; page < PAGES;) {
        uint32_t n = owner[page], end = page;
        while (end < PAGES && owner[end] == n)
            end++;
        if (n) {
            assert_true(i < table.count);
            assert_int_equal(table.piece[i].addr, at(page));
            assert_int_equal(table.piece[i].end, at(end));
            assert_int_equal(table.piece[i].entry + 1, n);
            assert_int_equal(table.piece[i].base, base_of[n]);
            i++;
        }
        page = end;
    }
    assert_int_equal(i, table.count);
}

static void attach(uint32_t n, uint32_t from, uint32_t to)
{
    bool gone[MANY + 1] = {false};
    uint32_t e;
    assert_int_equal(pieces_reserve(&table), 0);
    for (uint32_t i = from; i < to; i++) {
        uint32_t old = owner[i];
        owner[i] = n;
        if (old && old != n)
            gone[old] = !model_has(old);
    }
    while (pieces_cut(&table, at(from), at(to), &e)) {
        assert_true(gone[e + 1]); /* it ended, and is told once */
        gone[e + 1] = false;
    }
    for (uint32_t i = 0; i <= MANY; i++)
        assert_false(gone[i]);
    pieces_add(&table, at(from), at(to), n - 1);
    base_of[n] = at(from);
}

static void detach(uint32_t n)
{
    struct piece *first = pieces_find(&table, base_of[n]), piece;
    if (!model_has(n)) {
        assert_true(!first || first->entry + 1 != n);
        return;
    }
    if (first->entry + 1 != n)
        return; /* a later one has the same base, and is what xp_shmdt() would mean */
    uint64_t id = first->id;
    while (pieces_take(&table, id, base_of[n], &piece)) {
        for (uintptr_t a = piece.addr; a < piece.end; a += 4096) {
            assert_int_equal(owner[(a - at(0)) / 4096], n);
            owner[(a - at(0)) / 4096] = 0;
        }
    }
    assert_false(model_has(n));
}

static void one_seed(unsigned seed)
{
    uint32_t made = 0;
    memset(owner, 0, sizeof(owner));
    table.count = 0;
    while (made < MANY) {
        uint32_t from = (uint32_t)rand_r(&seed) % PAGES, size = 1 + (uint32_t)rand_r(&seed) % 12;
        if (rand_r(&seed) % 3 && made)
            detach(1 + (uint32_t)rand_r(&seed) % made);
        else
            attach(++made, from, from + size < PAGES ? from + size : PAGES);
        same();
    }
}

static void test_random(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 40; seed++)
        one_seed(seed);
}

/* Two made at the same place: the later one is found first, then what is left of the earlier one. */
static void test_same_base(void **state)
{
    (void)state;
    memset(owner, 0, sizeof(owner));
    table.count = 0;
    attach(1, 10, 20);
    attach(2, 10, 12);
    assert_int_equal(pieces_find(&table, at(10))->entry, 1);
    detach(2);
    assert_int_equal(pieces_find(&table, at(10))->entry, 0);
    detach(1);
    assert_null(pieces_find(&table, at(10)));
    assert_int_equal(table.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_same_base),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
