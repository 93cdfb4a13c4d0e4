/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * xp_shm.h - System V shared memory across operating-system instances (partitions). Link with -lclshm.
 *
 * A partition is a virtual machine, a host, or a container; the partitions that reach one another's memory form a
 * fabric. The calls below behave as shmget(2), shmat(2), shmdt(2) and shmctl(2) do, on segments of the whole fabric;
 * where they differ it is said. They talk to the daemon of the caller's partition, clshmd(8), found as xp_shm(3) says.
 *
 * All calls are safe to use from many threads, and in a child after fork(2), which inherits its parent's attachments.
 * None may be called from a signal handler. Failing calls return -1, xp_shmat() (void *)-1, and set errno. Any may fail
 * with
 *   EIO        the daemon cannot be reached, or the conversation with it broke
 *   EPROTO     library and daemon have different major versions; the daemon's log says which
 *   EAGAIN     the user has too many processes connected, or too many requests under way
 *   EHOSTDOWN  the partition that hosts the segment is stalled or down
 *
 * What may be stored in a segment: data without pointers; C11 lock-free atomics, which work across partitions of every
 * kind of fabric. Futexes, pthread locks and semaphores with PTHREAD_PROCESS_SHARED work between partitions that share
 * one kernel (fabric kind "local") and only there. Robust mutexes store thread ids, which collide between PID
 * namespaces: use them only within one. docs/memory-model.md has the details.
 */
#ifndef XP_SHM_H
#define XP_SHM_H

#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A partition's number, 0 to 63. */
typedef short partid_t;

/** xp_shmctl(): remove the segment after the last detach on all partitions; at once if it was attached before and is
 *  no longer. One that was never attached waits for its first attachment. */
#define IPC_AUTORMID 0x41

/** NUMA placement for part_setpmo(): a node mask as numactl(3) keeps it in struct bitmask (maskp, size), and a policy
 *  of set_mempolicy(2) (MPOL_BIND, MPOL_INTERLEAVE, MPOL_PREFERRED). Nodes beyond 63 are refused. */
struct xp_placement {
    const unsigned long *nodemask;
    unsigned long maxnode; /* bits in nodemask */
    int policy;
};
typedef const struct xp_placement *pmo_handle_t;
typedef enum {
    PMO_NODEMASK = 1, /* the handle is a struct xp_placement */
} pmo_type_t;

/**
 * xp_ftok - a fresh key, different at every call
 * @path: the partition that will host the memory: "/hw/clshm/partition/<2 hex digits>", a partition's name, or NULL for
 *        the caller's own
 * @id:   1
 *
 * The key is reserved, and charged to the caller, until its segment is removed or its partition ends.
 * Return: the key, or -1 with errno EINVAL (@id is not 1, malformed path), ENOENT (no such partition), ENOSPC (too many
 * keys reserved and not used), EHOSTDOWN, EIO, EPROTO.
 */
key_t xp_ftok(const char *path, int id);

/**
 * xp_shmget - the shmid of a key: shmget(2), with one key space for the whole fabric
 * @key:    IPC_PRIVATE; a key of xp_ftok(), which creates on first use whatever @shmflg says, on the partition that it
 *          names; or any other key, whose segment is created on the caller's partition
 * @size:   bytes; for a key of xp_ftok() the same at every call
 * @shmflg: IPC_CREAT, IPC_EXCL, SHM_HUGETLB, SHM_NORESERVE, and mode bits 0777. Unknown bits are ignored
 *
 * A key that this process has asked for before is answered without asking again, as long as the segment and its rights
 * are the same; the caller's rights are then those of when it asked. An id gives no access: xp_shmat() checks.
 *
 * A new segment reads as zeros. Its memory is reserved here and now, unless SHM_NORESERVE is given.
 * Return: the shmid, or -1 with errno EACCES, EEXIST, EINVAL (size), ENOENT, ENOMEM, ENOSPC (a limit on segments, bytes
 * or pages; see clshmctl(8)), EPERM (SHM_HUGETLB), EHOSTDOWN, EIO, EPROTO.
 */
int xp_shmget(key_t key, size_t size, int shmflg);

/**
 * xp_shmat - attach a segment: shmat(2)
 * @shmid:  of xp_shmget(), on any partition
 * @addr:   NULL, or where; a multiple of the fabric's granule (the page size, unless said otherwise at mkfabric)
 * @shmflg: SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_EXEC
 *
 * Return: the address, or (void *)-1 with errno EACCES, EINVAL (bad or removed id, address unaligned or in use),
 * EIDRM (the hosting partition came back anew; the segment is gone), ENOMEM (address space, or the limit on
 * attachments), EMFILE, EHOSTDOWN, EIO, EPROTO.
 * When the partition that hosts a segment dies, touching the segment raises SIGBUS.
 */
void *xp_shmat(int shmid, const void *addr, int shmflg);

/**
 * xp_shmdt - detach: shmdt(2)
 * @addr: as xp_shmat() returned it
 *
 * An attachment is counted once, however it was split by munmap(2) or mprotect(2) since; munmap(2) of all of it does not
 * detach (the kernel's own segments differ in both).
 * Return: 0, or -1 with errno EINVAL: nothing is attached there.
 */
int xp_shmdt(const void *addr);

/**
 * xp_shmctl - control: shmctl(2)
 * @shmid: of xp_shmget(); an index for SHM_STAT and SHM_STAT_ANY
 * @cmd:   IPC_RMID, IPC_AUTORMID, IPC_SET, IPC_STAT, IPC_INFO, SHM_INFO, SHM_STAT, SHM_STAT_ANY, SHM_LOCK, SHM_UNLOCK
 * @...:   struct shmid_ds *, struct shminfo * (IPC_INFO) or struct shm_info * (SHM_INFO); nothing for the rest
 *
 * shm_nattch counts attachments on all partitions; where one does not answer, its last figure stands. shm_cpid and
 * shm_lpid are 0 for a process that the daemon's pid namespace does not show, and for a forked child that never asked it
 * anything (it need not, to use what it inherited).
 * Where other partitions have had a segment attached, IPC_RMID returns before they have let go of it: its id can be
 * attached until then, a moment later.
 * Return: 0 (the shmid for SHM_STAT and SHM_STAT_ANY, the highest index for IPC_INFO and SHM_INFO), or -1 with errno
 * EACCES, EFAULT, EINVAL, EIDRM, ENOMEM (SHM_LOCK), EPERM, EHOSTDOWN, EIO, EPROTO.
 */
int xp_shmctl(int shmid, int cmd, ...);

/** part_getid - the caller's partition. Return: it, or -1 with errno EIO, EPROTO. */
partid_t part_getid(void);

/** part_getcount - how many partitions are active (joined, not dead). Return: it, or -1 with errno EIO, EPROTO. */
int part_getcount(void);

/**
 * part_getlist - the active partitions, in ascending order
 * Return: how many there are, of which the first @max are stored; -1 with errno EINVAL (@max negative, or @list NULL
 * with @max not 0), EIO, EPROTO.
 */
int part_getlist(partid_t *list, int max);

/**
 * part_gethostname - the host name of a partition
 * @max: bytes at @name, its terminating NUL included
 * Return: 0, or -1 with errno EINVAL (no such partition), ENAMETOOLONG (it does not fit), EIO, EPROTO.
 */
int part_gethostname(partid_t part, char *name, int max);

/** part_getpart - the partition that hosts a segment's memory. Return: it, or -1 with errno EINVAL, EIDRM, EHOSTDOWN,
 *  EIO, EPROTO. */
partid_t part_getpart(int shmid);

/**
 * part_setpmo - NUMA placement for a key of xp_ftok() that the caller's partition hosts, before its first xp_shmget()
 * Return: 0, or -1 with errno EINVAL (not such a key, bad handle or type, a node or policy that is not there), EACCES
 * (another user's key), EIO, EPROTO.
 */
int part_setpmo(key_t key, pmo_handle_t handle, pmo_type_t type);

/**
 * part_getnode - the NUMA node that holds a segment, as its sysfs path ("/sys/devices/system/node/node0")
 * @max: bytes at @path, its terminating NUL included
 * Return: 0, or -1 with errno ENOENT (no page is there yet, or they lie on several nodes), EINVAL, EACCES, ENOSYS (the
 * caller's partition does not host it), ENAMETOOLONG, EIO, EPROTO.
 */
int part_getnode(int shmid, char *path, int max);

/** set_debug_level - what the library tells stderr: 0 nothing (default), 1 errors, 2 messages, 3 every call. */
void set_debug_level(int level);

/** Print to stderr what the library, this partition's daemon, its driver, or all three know. */
void dump_usr_state(void);
void dump_daem_state(void);
void dump_drv_state(void);
void dump_all_state(void);

#ifdef __cplusplus
}
#endif

#endif
