/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * System V's rule of who may do what. The class is exclusive: an owner whom the mode denies what it grants to others is
 * denied. A stranger's numbers mean nothing here: it is of the class of others, owns nothing and has no privilege.
 */
#include "core_internal.h"

static bool in_group(const struct core_cred *cred, uint32_t gid)
{
    if (cred->gid == gid)
        return true;
    for (uint32_t i = 0; i < cred->n_groups; i++)
        if (cred->groups[i] == gid)
            return true;
    return false;
}

static bool is_owner(const struct fabric_stat *stat, const struct core_cred *cred)
{
    return cred->uid != ID_NOBODY && (cred->uid == stat->uid || cred->uid == stat->cuid);
}

bool core_perm_allows(const struct fabric_stat *stat, const struct core_cred *cred, uint32_t want, bool stranger)
{
    uint32_t shift = 0;

    if (!stranger) {
        if (cred->privileged)
            return true;
        if (is_owner(stat, cred))
            shift = 6;
        else if (in_group(cred, stat->gid) || in_group(cred, stat->cgid))
            shift = 3;
    }
    return (want & ~(stat->mode >> shift) & 7) == 0;
}

bool core_perm_owns(const struct fabric_stat *stat, const struct core_cred *cred, bool stranger)
{
    return !stranger && (cred->privileged || is_owner(stat, cred));
}
