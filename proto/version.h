/* SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause */
/*
 * The versions of the pieces, and the rule that decides whether two pieces work together.
 *
 * Library, daemon, driver and the fabric's layout each have a major and a minor number, exchanged when two pieces
 * first talk. Majors must match. Minors may differ: the piece with the larger minor makes the two work together, that
 * is, it sends nothing that the other's minor does not know. The numbers are build options (-Ddaemon_version=1.1), so
 * that pairs of different versions can be tested.
 */
#ifndef CLSHM_PROTO_VERSION_H
#define CLSHM_PROTO_VERSION_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdbool.h>
#include <stdint.h>
#endif

#ifndef CLSHM_LIB_MAJOR
#define CLSHM_LIB_MAJOR 1
#define CLSHM_LIB_MINOR 0
#endif
#ifndef CLSHM_DAEMON_MAJOR
#define CLSHM_DAEMON_MAJOR 1
#define CLSHM_DAEMON_MINOR 0
#endif
#ifndef CLSHM_DRIVER_MAJOR
#define CLSHM_DRIVER_MAJOR 1
#define CLSHM_DRIVER_MINOR 0
#endif
/* The layout of the control area. A member refuses a fabric of another major. */
#ifndef CLSHM_FABRIC_MAJOR
#define CLSHM_FABRIC_MAJOR 1
#define CLSHM_FABRIC_MINOR 0
#endif

struct clshm_version {
    uint16_t major;
    uint16_t minor;
};

/* May a piece of version @a talk to one of version @b? */
static inline bool clshm_version_compatible(struct clshm_version a, struct clshm_version b)
{
    return a.major == b.major;
}

/* The minor that both speak: the smaller one, which the newer piece knows as well. */
static inline uint16_t clshm_version_common_minor(struct clshm_version a, struct clshm_version b)
{
    return a.minor < b.minor ? a.minor : b.minor;
}

#endif
