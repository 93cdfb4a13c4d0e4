/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The directories of local fabrics, as files: looked at by mkfabric and startup, removed by rmfabric. */
#ifndef CLSHM_TOOLS_FABRICS_H
#define CLSHM_TOOLS_FABRICS_H

#include <stdbool.h>

#include "proto/fabric.h"

/* The fabric that clshmd's configuration names: @file, or if that is NULL the first file that clshmd looks for. Caller
 * frees. @return NULL: none. What is wrong in the file is clshmd's to say. */
char *fabrics_configured(const char *file);

/* The fabric's name: the last component of @path. @return NULL: it cannot be one. */
const char *fabrics_name(const char *path);

/* What stands at @path. */
enum fabrics_state {
    FABRICS_NONE,    /* nothing */
    FABRICS_UNUSED,  /* a fabric; no life file is locked */
    FABRICS_USED,    /* *@out_part uses it */
    FABRICS_FOREIGN, /* not a fabric: it has a file that no fabric has, or is no directory */
    FABRICS_FAILED,  /* errno */
};
enum fabrics_state fabrics_look(const char *path, unsigned *out_part);

/* Remove an unused fabric. A partition that joins meanwhile keeps it, or fails to join. @out_part is set with USED.
 * @return FABRICS_NONE: it is gone. */
enum fabrics_state fabrics_remove(const char *path, unsigned *out_part);

#endif
