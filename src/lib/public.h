/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The public header for those who define what it declares: everything else in the library is hidden. */
#ifndef CLSHM_LIB_PUBLIC_H
#define CLSHM_LIB_PUBLIC_H

#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/types.h>

#pragma GCC visibility push(default)
#include "include/xp_shm.h"
#pragma GCC visibility pop

#endif
