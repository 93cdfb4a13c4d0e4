/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Quotas: what each uid has here. A struct user exists while anything is charged to it; each charge is given back by
 * whoever ends what was charged, to the same struct user, so that a change of a segment's owner moves nothing.
 */
#include "core_internal.h"

static struct user *user_get(struct core *core, uint32_t uid)
{
    struct user *user;

    HASH_FIND(hh, core->users, &uid, sizeof(uid), user);
    if (user)
        return user;
    user = calloc(1, sizeof(*user));
    if (!user)
        return NULL;
    user->uid = uid;
    HASH_ADD(hh, core->users, uid, sizeof(user->uid), user);
    if (!user->hh.tbl) {
        free(user);
        return NULL;
    }
    return user;
}

static void user_put(struct core *core, struct user *user)
{
    if (user->segments || user->keys || user->grants || user->clients)
        return;
    HASH_DEL(core->users, user);
    free(user);
}

static bool exceeds(uint64_t have, uint64_t more, uint64_t max)
{
    return max && (have > max || more > max - have);
}

int user_charge_segment(struct core *core, uint32_t uid, uint64_t bytes, bool force, struct user **out)
{
    const struct core_limits *limits = &core->params.limits;
    struct user *user = user_get(core, uid);

    if (!user)
        return ENOMEM;
    if (!force &&
        (exceeds(user->segments, 1, limits->max_segments_uid) || exceeds(user->bytes, bytes, limits->max_bytes_uid))) {
        user_put(core, user);
        return ENOSPC;
    }
    user->segments++;
    user->bytes += bytes;
    *out = user;
    return 0;
}

int user_charge_key(struct core *core, uint32_t uid, bool force, struct user **out)
{
    struct user *user = user_get(core, uid);

    if (!user)
        return ENOMEM;
    if (!force && exceeds(user->keys, 1, core->params.limits.max_keys_uid)) {
        user_put(core, user);
        return ENOSPC;
    }
    user->keys++;
    *out = user;
    return 0;
}

void user_give_back(struct core *core, struct user *user, enum charge charge, uint64_t bytes)
{
    if (charge == CHARGE_KEY) {
        user->keys--;
    } else if (charge == CHARGE_SEGMENT) {
        user->segments--;
        user->bytes -= bytes;
    }
    if (charge != CHARGE_NONE)
        user_put(core, user);
}

/* The client that holds it keeps @user alive. */
int user_charge_grant(struct core *core, struct user *user, bool force)
{
    if (!force && exceeds(user->grants, 1, core->params.limits.max_grants_uid))
        return ENOMEM;
    user->grants++;
    return 0;
}

void user_give_back_grant(struct core *core, struct user *user)
{
    user->grants--;
    user_put(core, user);
}

int user_charge_client(struct core *core, uint32_t uid, bool force, struct user **out)
{
    struct user *user = user_get(core, uid);

    if (!user)
        return ENOMEM;
    if (!force && exceeds(user->clients, 1, core->params.limits.max_clients_uid)) {
        user_put(core, user);
        return EAGAIN;
    }
    user->clients++;
    *out = user;
    return 0;
}

void user_give_back_client(struct core *core, struct user *user)
{
    user->clients--;
    user_put(core, user);
}
