/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What lies in a published segment. */
#ifndef CLSHM_DEMO_PUBLISHED_H
#define CLSHM_DEMO_PUBLISHED_H

#include <stdint.h>

struct published {
    uint64_t size; /* stored last: 0 until all of it is there */
    uint64_t reserved[7];
    unsigned char data[];
};

#endif
