// SPDX-License-Identifier: LGPL-2.1-or-later
/* The part_* calls: what the daemon knows of partitions and NUMA nodes, one message each. */
#include "src/lib/public.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "src/lib/lib.h"

static int call(enum clshmd_op op, const void *request, size_t size, void *reply, size_t reply_size)
{
    return lib_call(op, request, size, reply, reply_size, NULL, NULL, CONN_TIMEOUT_MS, NULL);
}

/* @text to the caller's @to, if it fits in @max bytes. */
static int hand_out(char *to, int max, const char *text)
{
    size_t size = strlen(text) + 1;
    if (max < 0 || size > (size_t)max)
        return ENAMETOOLONG;
    return user_write(to, text, size);
}

partid_t part_getid(void)
{
    struct lib_scope scope;
    lib_enter(&scope);
    int error = lib_ready();
    partid_t part = (partid_t)lib.geo.part;
    return lib_leave(&scope, error) < 0 ? (partid_t)-1 : part;
}

int part_getlist(partid_t *list, int max)
{
    struct lib_scope scope;
    struct clshmd_parts_reply reply;
    int n = 0;
    lib_enter(&scope);
    int error = max < 0 || (max > 0 && !list) ? EINVAL : call(CLSHMD_PARTS, NULL, 0, &reply, sizeof(reply));
    for (unsigned i = 0; error == 0 && i < FABRIC_PARTS_MAX; i++) {
        if (!(reply.active >> i & 1))
            continue;
        if (n < max)
            list[n] = (partid_t)i;
        n++;
    }
    return lib_leave(&scope, error) < 0 ? -1 : n;
}

int part_getcount(void)
{
    return part_getlist(NULL, 0);
}

int part_gethostname(partid_t part, char *name, int max)
{
    struct lib_scope scope;
    struct clshmd_hostname request = {.part = (uint32_t)part};
    struct clshmd_hostname_reply reply;
    lib_enter(&scope);
    int error = part < 0 || part >= (partid_t)FABRIC_PARTS_MAX ? EINVAL : 0;
    if (error == 0)
        error = call(CLSHMD_HOSTNAME, &request, sizeof(request), &reply, sizeof(reply));
    if (error == 0) {
        reply.hostname[sizeof(reply.hostname) - 1] = '\0';
        error = hand_out(name, max, reply.hostname);
    }
    return lib_leave(&scope, error);
}

partid_t part_getpart(int shmid)
{
    struct lib_scope scope;
    struct clshmd_ctl request = {.shmid = shmid, .cmd = CLSHMD_CTL_STAT};
    struct clshmd_stat reply;
    lib_enter(&scope);
    int error = shmid < 0 ? EINVAL : call(CLSHMD_CTL, &request, sizeof(request), &reply, sizeof(reply));
    if (error == EACCES) /* it is there, and where is no secret: the id says it */
        error = 0;
    partid_t part = (partid_t)fabric_shmid_part(lib.geo.part_bits, lib.geo.slot_bits, shmid);
    return lib_leave(&scope, error) < 0 ? (partid_t)-1 : part;
}

/* The first 64 nodes of the caller's mask. EINVAL: there are others in it. */
static int read_nodes(const struct xp_placement *p, uint64_t *out)
{
    const unsigned long bits = sizeof(unsigned long) * CHAR_BIT;
    unsigned long words = p->maxnode / bits + (p->maxnode % bits != 0);
    *out = 0;
    for (unsigned long i = 0; i < words; i++) {
        unsigned long word, used = p->maxnode - i * bits;
        if (user_read(&word, &p->nodemask[i], sizeof(word)) != 0)
            return EFAULT;
        if (used < bits)
            word &= (1ul << used) - 1;
        if (word && i * bits >= 64)
            return EINVAL;
        if (i * bits < 64)
            *out |= (uint64_t)word << (i * bits);
    }
    return 0;
}

int part_setpmo(key_t key, pmo_handle_t handle, pmo_type_t type)
{
    struct lib_scope scope;
    struct xp_placement placement;
    struct clshmd_setpmo request = {.key = key};
    lib_enter(&scope);
    int error = type != PMO_NODEMASK || !handle ? EINVAL : user_read(&placement, handle, sizeof(placement));
    if (error == 0)
        error = placement.policy < 0 || !placement.nodemask || placement.maxnode > 1u << 20 ? EINVAL : 0;
    if (error == 0)
        error = read_nodes(&placement, &request.nodes);
    if (error == 0) {
        request.policy = (uint32_t)placement.policy;
        error = call(CLSHMD_SETPMO, &request, sizeof(request), NULL, 0);
    }
    return lib_leave(&scope, error);
}

int part_getnode(int shmid, char *path, int max)
{
    struct lib_scope scope;
    struct clshmd_node request = {.shmid = shmid};
    struct clshmd_node_reply reply = {.node = -1};
    char text[64];
    lib_enter(&scope);
    int error = shmid < 0 ? EINVAL : call(CLSHMD_NODE, &request, sizeof(request), &reply, sizeof(reply));
    if (error == 0 && reply.node < 0)
        error = ENOENT;
    if (error == 0) {
        snprintf(text, sizeof(text), "/sys/devices/system/node/node%d", reply.node);
        error = hand_out(path, max, text);
    }
    return lib_leave(&scope, error);
}
