// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * System calls answer EFAULT to a bad pointer, and so do these calls: the kernel copies, within this process. Where it
 * may not (a seccomp filter that knows no process_vm_readv), a bad pointer is a SIGSEGV, as for any library.
 */
#include "src/lib/lib.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

int user_read(void *to, const void *from, size_t size)
{
    struct iovec local = {to, size}, remote = {(void *)(uintptr_t)from, size};
    ssize_t n = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
    if (n == (ssize_t)size)
        return 0;
    if (n >= 0 || errno == EFAULT || !from)
        return EFAULT;
    memcpy(to, from, size);
    return 0;
}

int user_write(void *to, const void *from, size_t size)
{
    struct iovec local = {(void *)(uintptr_t)from, size}, remote = {to, size};
    ssize_t n = process_vm_writev(getpid(), &local, 1, &remote, 1, 0);
    if (n == (ssize_t)size)
        return 0;
    if (n >= 0 || errno == EFAULT || !to)
        return EFAULT;
    memcpy(to, from, size);
    return 0;
}
