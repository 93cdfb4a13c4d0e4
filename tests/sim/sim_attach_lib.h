/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Included before everything else into src/lib/{attach,entries,grants,pieces}.c when they are built for sim_attach (cc
 * -include): the library's state becomes that of the client whose turn it is, the kernel is the simulator's, and before
 * each atomic access somebody else may run. The sources know nothing of it.
 */
#ifndef CLSHM_TESTS_SIM_ATTACH_LIB_H
#define CLSHM_TESTS_SIM_ATTACH_LIB_H

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "src/lib/lib.h"

extern struct lib *sim_lib;
#define lib (*sim_lib)

void sim_point(void);
void *sim_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
int sim_munmap(void *addr, size_t length);
int sim_fstat(int fd, struct stat *st);
int sim_close(int fd);
int sim_getrlimit(int resource, struct rlimit *limit);
int sim_clock_gettime(clockid_t clock, struct timespec *t);

#ifndef SIM_ATTACH_ITSELF
#define mmap(a, l, p, f, d, o)      sim_mmap(a, l, p, f, d, o)
#define munmap(a, l)                sim_munmap(a, l)
#define fstat(d, s)                 sim_fstat(d, s)
#define close(d)                    sim_close(d)
#define getrlimit(r, l)             sim_getrlimit((int)(r), l)
#define clock_gettime(c, t)         sim_clock_gettime(c, t)
#define __atomic_store_n(p, v, o)   (sim_point(), __atomic_store_n(p, v, o))
#define __atomic_load_n(p, o)       (sim_point(), __atomic_load_n(p, o))
#define __atomic_fetch_add(p, v, o) (sim_point(), __atomic_fetch_add(p, v, o))
#define __atomic_fetch_sub(p, v, o) (sim_point(), __atomic_fetch_sub(p, v, o))
#endif

#endif
