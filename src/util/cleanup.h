/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Build into a local that cleans itself up; hand it out in the last line. */
#ifndef CLSHM_UTIL_CLEANUP_H
#define CLSHM_UTIL_CLEANUP_H

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(f) __attribute__((cleanup(f)))

/* Close unless negative, keeping errno. @return -1, to be assigned. */
static inline int close_fd(int fd)
{
    if (fd >= 0) {
        int saved = errno;
        close(fd);
        errno = saved;
    }
    return -1;
}

static inline void cleanup_close(int *fd)
{
    *fd = close_fd(*fd);
}

static inline void cleanup_free(void *p)
{
    int saved = errno;
    free(*(void **)p);
    errno = saved;
}

#define CLEANUP_CLOSE CLEANUP(cleanup_close)
#define CLEANUP_FREE  CLEANUP(cleanup_free)

static inline int steal_fd(int *fd)
{
    int taken = *fd;
    *fd = -1;
    return taken;
}

#define steal_ptr(p)                                                                                                   \
    ({                                                                                                                 \
        __typeof__(p) *steal_ = &(p);                                                                                  \
        __typeof__(p) taken_ = *steal_;                                                                                \
        *steal_ = NULL;                                                                                                \
        taken_;                                                                                                        \
    })

#endif
