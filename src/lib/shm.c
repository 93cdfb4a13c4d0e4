// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * xp_ftok, xp_shmget and xp_shmctl: one message each. Arguments that the daemon need not see are refused here, in the
 * order that Linux has; what the daemon answers is put into the structures of <sys/shm.h>.
 */
#include "src/lib/public.h"

#include <errno.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/lib/lib.h"

/* ------------------------------------------------------------------ keys */

static bool is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* "/hw/clshm/partition/<2 hex digits>", or a name. */
static bool path_sound(const char *path)
{
    static const char prefix[] = "/hw/clshm/partition/";
    size_t n = sizeof(prefix) - 1;
    if (strncmp(path, prefix, n) == 0)
        return is_hex(path[n]) && is_hex(path[n + 1]) && path[n + 2] == '\0';
    return path_name_valid(path);
}

static int make_key(const char *path, int id, key_t *out)
{
    struct clshmd_ftok request = {.token = lib_token()};
    struct clshmd_ftok_reply reply;
    if (id != 1 || (path && !path_sound(path)))
        return EINVAL;
    if (path)
        memcpy(request.path, path, strlen(path) + 1);
    int error =
        lib_call(CLSHMD_FTOK, &request, sizeof(request), &reply, sizeof(reply), NULL, NULL, CONN_TIMEOUT_MS, NULL);
    if (error == 0)
        *out = reply.key;
    return error;
}

key_t xp_ftok(const char *path, int id)
{
    struct lib_scope scope;
    key_t key = -1;
    lib_enter(&scope);
    int error = make_key(path, id, &key);
    lib_debug(3, "xp_ftok(%s, %d): %d, key %#x", path ? path : "NULL", id, error, (unsigned)key);
    return lib_leave(&scope, error) < 0 ? -1 : key;
}

/* Reserving memory takes its time: 30 s and one more for each GiB, at most ten minutes, when it may be much. */
static uint32_t get_limit(size_t size)
{
    uint64_t seconds = 30 + (size >> 30);
    return size < (64u << 20) ? CONN_TIMEOUT_MS : (uint32_t)(seconds < 600 ? seconds : 600) * 1000;
}

/* Without a message, if what is known still holds. */
static bool get_known(key_t key, size_t size, uint32_t flags, int *shmid)
{
    const struct known_key *known = lib.joined ? keys_find(&lib.keys, key, size, flags) : NULL;
    if (!known || lib_word(known->shmid) != known->word || lib_incarnation(known->shmid) != known->incarnation)
        return false;
    *shmid = known->shmid;
    return true;
}

static int get(key_t key, size_t size, uint32_t flags, int *shmid)
{
    struct clshmd_get request = {.key = key, .flags = flags, .size = size, .token = lib_token()};
    struct clshmd_get_reply reply;
    int error =
        lib_call(CLSHMD_GET, &request, sizeof(request), &reply, sizeof(reply), NULL, NULL, get_limit(size), NULL);
    if (error)
        return error;
    keys_put(&lib.keys, &request, &reply);
    *shmid = reply.shmid;
    return 0;
}

int xp_shmget(key_t key, size_t size, int shmflg)
{
    /* the bits above say which size of huge page */
    const uint32_t known = IPC_CREAT | IPC_EXCL | 0777 | SHM_HUGETLB | SHM_NORESERVE | 0x3fu << 26;
    uint32_t flags = (uint32_t)shmflg & known;
    struct lib_scope scope;
    int shmid = -1;
    lib_enter(&scope);
    int error = get_known(key, size, flags, &shmid) ? 0 : get(key, size, flags, &shmid);
    lib_debug(3, "xp_shmget(%#x, %zu, %#o): %d, id %d", (unsigned)key, size, (unsigned)shmflg, error, shmid);
    return lib_leave(&scope, error) < 0 ? -1 : shmid;
}

/* ------------------------------------------------------------------ control */

static int control(const struct clshmd_ctl *request, void *reply, size_t size, bool *repeated)
{
    return lib_call(CLSHMD_CTL, request, sizeof(*request), reply, size, NULL, NULL, CONN_TIMEOUT_MS, repeated);
}

static int set(int shmid, const struct shmid_ds *user)
{
    struct shmid_ds ds;
    if (user_read(&ds, user, sizeof(ds)) != 0)
        return EFAULT;
    struct clshmd_ctl request = {.shmid = shmid,
                                 .cmd = CLSHMD_CTL_SET,
                                 .uid = ds.shm_perm.uid,
                                 .gid = ds.shm_perm.gid,
                                 .mode = ds.shm_perm.mode & 0777u};
    return control(&request, NULL, 0, NULL);
}

static int stat_segment(int shmid, uint32_t cmd, struct shmid_ds *user, int *out)
{
    struct clshmd_ctl request = {.shmid = shmid, .cmd = cmd};
    struct clshmd_stat reply;
    int error = control(&request, &reply, sizeof(reply), NULL);
    if (error)
        return error;
    const struct fabric_stat *s = &reply.stat;
    struct shmid_ds ds = {
        .shm_perm = {.__key = s->key,
                     .uid = s->uid,
                     .gid = s->gid,
                     .cuid = s->cuid,
                     .cgid = s->cgid,
                     .mode = (unsigned short)s->mode,
                     .__seq = (unsigned short)fabric_shmid_gen(lib.geo.part_bits, lib.geo.slot_bits, reply.shmid)},
        .shm_segsz = s->size,
        .shm_atime = s->atime,
        .shm_dtime = s->dtime,
        .shm_ctime = s->ctime,
        .shm_cpid = s->cpid,
        .shm_lpid = s->lpid,
        .shm_nattch = s->nattch,
    };
    if (user_write(user, &ds, sizeof(ds)) != 0)
        return EFAULT;
    *out = cmd == CLSHMD_CTL_STAT ? 0 : reply.shmid;
    return 0;
}

static int info(int cmd, void *user, int *out)
{
    struct clshmd_ctl request = {.cmd = CLSHMD_CTL_INFO};
    struct clshmd_info reply;
    int error = control(&request, &reply, sizeof(reply), NULL);
    if (error)
        return error;
    struct shminfo limits = {.shmmax = reply.shmmax,
                             .shmmin = reply.shmmin,
                             .shmmni = reply.shmmni,
                             .shmseg = reply.shmseg,
                             .shmall = reply.shmall};
    struct shm_info use = {.used_ids = (int)reply.used_ids, .shm_tot = reply.shm_tot, .shm_rss = reply.shm_rss};
    if (cmd == IPC_INFO)
        error = user_write(user, &limits, sizeof(limits));
    else
        error = user_write(user, &use, sizeof(use));
    *out = reply.highest;
    return error;
}

static bool may_lock(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0)
        return geteuid() == 0;
    return data[0].effective & 1u << CAP_IPC_LOCK;
}

/* RLIMIT_MEMLOCK is this process's, so the daemon cannot judge it. Bad ids come first, as in Linux. */
static int lock_limit(int shmid)
{
    struct rlimit limit;
    if (may_lock() || getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return 0;
    struct clshmd_ctl request = {.shmid = shmid, .cmd = CLSHMD_CTL_STAT};
    struct clshmd_stat reply;
    int error = control(&request, &reply, sizeof(reply), NULL);
    if (error && error != EACCES)
        return error;
    if (limit.rlim_cur == 0)
        return EPERM;
    bool owner = error == 0 && (reply.stat.uid == geteuid() || reply.stat.cuid == geteuid());
    return owner && reply.stat.size > limit.rlim_cur ? ENOMEM : 0;
}

static int simple(int shmid, uint32_t cmd)
{
    struct clshmd_ctl request = {.shmid = shmid, .cmd = cmd};
    bool repeated = false;
    int error = cmd == CLSHMD_CTL_LOCK ? lock_limit(shmid) : 0;
    if (error == 0)
        error = control(&request, NULL, 0, &repeated);
    bool removal = cmd == CLSHMD_CTL_RMID || cmd == CLSHMD_CTL_AUTORMID;
    if (removal && repeated && (error == EINVAL || error == EIDRM))
        return 0; /* the try whose answer was lost has removed it */
    return error;
}

static int dispatch(int shmid, int cmd, void *user, int *out)
{
    if (shmid < 0 || cmd < 0)
        return EINVAL;
    switch (cmd) {
    case IPC_RMID:
        return simple(shmid, CLSHMD_CTL_RMID);
    case IPC_AUTORMID:
        return simple(shmid, CLSHMD_CTL_AUTORMID);
    case SHM_LOCK:
        return simple(shmid, CLSHMD_CTL_LOCK);
    case SHM_UNLOCK:
        return simple(shmid, CLSHMD_CTL_UNLOCK);
    case IPC_SET:
        return set(shmid, user);
    case IPC_STAT:
        return stat_segment(shmid, CLSHMD_CTL_STAT, user, out);
    case SHM_STAT:
        return stat_segment(shmid, CLSHMD_CTL_STAT_INDEX, user, out);
    case SHM_STAT_ANY:
        return stat_segment(shmid, CLSHMD_CTL_STAT_ANY, user, out);
    case IPC_INFO:
    case SHM_INFO:
        return info(cmd, user, out);
    default:
        return EINVAL;
    }
}

static bool takes_pointer(int cmd)
{
    return cmd == IPC_SET || cmd == IPC_STAT || cmd == SHM_STAT || cmd == SHM_STAT_ANY || cmd == IPC_INFO ||
           cmd == SHM_INFO;
}

int xp_shmctl(int shmid, int cmd, ...)
{
    struct lib_scope scope;
    void *user = NULL;
    int out = 0;
    if (takes_pointer(cmd)) {
        va_list args;
        va_start(args, cmd);
        user = va_arg(args, void *);
        va_end(args);
    }
    lib_enter(&scope);
    int error = dispatch(shmid, cmd, user, &out);
    lib_debug(3, "xp_shmctl(%d, %d): %d", shmid, cmd, error);
    return lib_leave(&scope, error) < 0 ? -1 : out;
}
