/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Text that others wrote. */
#ifndef CLSHM_UTIL_TEXT_H
#define CLSHM_UTIL_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Is there a NUL within the @size bytes at @text? */
bool text_terminated(const char *text, size_t size);

/* Terminated within @size bytes, and before that printable ASCII only. An empty text passes. */
bool text_printable(const char *text, size_t size);

/* Replace, in place, control characters and what is not UTF-8 by '?'. @return the length, which stays. */
size_t text_tame(char *text, size_t length);

#endif
