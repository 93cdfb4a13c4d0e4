/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Text that others wrote: names in shared pages, paths, whatever ends up in the log. Names are held to printable ASCII;
 * the log lets UTF-8 pass, so that paths stay legible, but no control character, be it of 7 or 8 bits.
 */
#include "src/util/text.h"

#include <string.h>

bool text_terminated(const char *text, size_t size)
{
    return memchr(text, 0, size) != NULL;
}

bool text_printable(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == 0)
            return true;
        if (c < 0x20 || c > 0x7e)
            return false;
    }
    return false;
}

/* Bytes of the character at @s, 0 if there is none that may be shown. C1 controls (c2 80 to c2 9f), overlong forms and
 * surrogates are refused by the range of the second byte. */
static size_t character(const unsigned char *s, size_t left)
{
    unsigned char low = 0x80, high = 0xbf;
    size_t n;

    if (s[0] < 0x80)
        return s[0] >= 0x20 && s[0] != 0x7f;
    if (s[0] >= 0xc2 && s[0] <= 0xdf)
        n = 2;
    else if (s[0] >= 0xe0 && s[0] <= 0xef)
        n = 3;
    else if (s[0] >= 0xf0 && s[0] <= 0xf4)
        n = 4;
    else
        return 0;

    if (s[0] == 0xc2 || s[0] == 0xe0)
        low = 0xa0;
    else if (s[0] == 0xf0)
        low = 0x90;
    if (s[0] == 0xed)
        high = 0x9f;
    else if (s[0] == 0xf4)
        high = 0x8f;

    if (left < n || s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

size_t text_tame(char *text, size_t length)
{
    unsigned char *s = (unsigned char *)text;

    for (size_t i = 0; i < length;) {
        size_t n = character(s + i, length - i);

        if (n == 0)
            s[i++] = '?';
        else
            i += n;
    }
    return length;
}
