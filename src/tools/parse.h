/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Text to numbers and back, for the command line and for tables. */
#ifndef CLSHM_TOOLS_PARSE_H
#define CLSHM_TOOLS_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Each parse function takes the whole of @text, which may be neither empty nor preceded by blanks or a sign.
 * @return 0; EINVAL: not such a thing; ERANGE: too big or outside of the bounds. *@out is set only on 0.
 */
int parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *out); /* decimal or 0x... */
int parse_size(const char *text, uint64_t *out);               /* with K, M, G, T: powers of 1024; also KiB */
int parse_key(const char *text, int32_t *out);                 /* 32 bits, decimal or 0x... */
int parse_mode(const char *text, uint32_t max, uint32_t *out); /* octal */
int parse_group(const char *text, int64_t *out);               /* a group's name or number */

#define TEXT_SIZE_MAX 24u

/* "0B", "512B", "4K", "1.5M": the largest unit that leaves at least 1, one decimal unless it is 0. */
const char *format_size(uint64_t bytes, char out[TEXT_SIZE_MAX]);
/* "rw-r-----" */
const char *format_perms(uint32_t mode, char out[10]);
/* "0.4 s", "12 s", "3 min": a span of time, for heartbeats. */
const char *format_span(uint64_t ms, char out[TEXT_SIZE_MAX]);
/* Today: "14:03"; else "Nov28"; 0: "". */
const char *format_time(int64_t seconds, int64_t now, char out[TEXT_SIZE_MAX]);
/* ISO 8601 with the zone. 0: "". */
const char *format_iso_time(int64_t seconds, char out[TEXT_SIZE_MAX + 8]);
/* Name of a user, else its number; caller frees; NULL: no memory. */
char *format_user(uint32_t uid);
char *format_group(uint32_t gid);

#endif
