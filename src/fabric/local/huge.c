/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The in-process driver: huge pages. Two kinds:
 *
 *   of the pool    the administrator reserved them (vm.nr_hugepages). SHM_HUGETLB asks for them, or `huge = always`
 *                  takes them where the size fits. The whole segment has them, or it has none.
 *   transparent    ordinary pages that the kernel joins as shmem_enabled says: `always` and `within_size` by itself,
 *                  `advise` only where a mapping asks. Then memory is populated through such a mapping, and the library
 *                  is told to map at a multiple of the huge page. How many pages were joined nobody promises.
 */
#include "src/fabric/local/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "src/util/cleanup.h"
#include "src/util/math.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define JOINED_SHIFT 21u /* where transparent ones are larger (arm64 with 64 KiB pages), they are not asked for */

enum local_joined {
    JOINED_NEVER,
    JOINED_ADVISE,
    JOINED_ALWAYS,
};

/* What the kernel does now; it may be changed at any time. */
static enum local_joined joined(void)
{
    CLEANUP_CLOSE int fd = open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", O_RDONLY | O_CLOEXEC);
    char text[128];
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    if (n < 0)
        return JOINED_NEVER;
    text[n] = 0;
    if (strstr(text, "[advise]"))
        return JOINED_ADVISE;
    return strstr(text, "[never]") || strstr(text, "[deny]") ? JOINED_NEVER : JOINED_ALWAYS;
}

static bool large_enough(const struct local *l, uint64_t size)
{
    return l->driver.huge != FABRIC_HUGE_NEVER && size >= 1ULL << JOINED_SHIFT && size >= l->driver.huge_min;
}

bool local_huge_advise(const struct local *l, uint64_t size)
{
    return large_enough(l, size) && joined() == JOINED_ADVISE;
}

/* To map pages of the pool is to reserve them for this file, and the reservation outlives the mapping. */
bool local_huge_reserve(int fd, uint64_t size)
{
    void *addr = mmap(NULL, size, PROT_NONE, MAP_SHARED, fd, 0);

    if (addr == MAP_FAILED)
        return false;
    munmap(addr, size);
    return true;
}

bool local_huge_wanted(const struct local *l, const struct driver_create *req)
{
    return l->driver.huge == FABRIC_HUGE_ALWAYS && large_enough(l, req->size) && !req->flags && !req->policy &&
           is_aligned(req->size, 1ULL << JOINED_SHIFT) && is_aligned(1ULL << JOINED_SHIFT, l->driver.granule);
}

uint32_t local_huge_shift(int fd)
{
    struct statfs fs;

    if (fd < 0 || fstatfs(fd, &fs) < 0 || fs.f_type != HUGETLBFS_MAGIC || !is_power_of_two((uint64_t)fs.f_bsize))
        return 0;
    return (uint32_t)__builtin_ctzll((uint64_t)fs.f_bsize);
}

/* Bring in [offset, offset + len) of @fd through a mapping at @at. */
static int populate_at(void *at, int fd, uint64_t offset, uint64_t len)
{
    int error;

    if (mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)offset) == MAP_FAILED)
        return errno;
    (void)madvise(at, len, MADV_HUGEPAGE); /* only they would be missing */
    do
        error = madvise(at, len, MADV_POPULATE_WRITE) < 0 ? errno : 0;
    while (error == EINTR || error == EAGAIN);
    return error;
}

int local_huge_populate(int fd, uint64_t offset, uint64_t len)
{
    const uint64_t huge = 1ULL << JOINED_SHIFT;
    uint64_t at = 0;
    void *place = mmap(NULL, len + huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int error;

    if (place == MAP_FAILED)
        return ENOMEM;
    (void)round_up((uint64_t)(uintptr_t)place, huge, &at);
    error = populate_at((void *)(uintptr_t)at, fd, offset, len);
    munmap(place, len + huge);
    if (error == EINVAL) /* before Linux 5.14 */
        return local_reserve(fd, offset, len);
    return error ? ENOMEM : 0;
}

uint32_t local_huge(struct fabric *f, int32_t shmid, bool *pool)
{
    struct local *l = to_local(f);
    const struct local_memory *m = local_memory_find(l, shmid);

    *pool = m && m->huge_shift;
    if (*pool)
        return m->huge_shift;
    return m && large_enough(l, m->size) && joined() != JOINED_NEVER ? JOINED_SHIFT : 0;
}
