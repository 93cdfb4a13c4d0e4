// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What the library tells stderr: nothing, unless set_debug_level() or a dump asks for it. By write(2), whole lines: the
 * program's stdio is its own. errno is kept.
 */
#include "src/lib/public.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "src/lib/lib.h"

static int level;

void set_debug_level(int new)
{
    __atomic_store_n(&level, new, __ATOMIC_RELAXED);
}

static void put(const char *text, size_t size)
{
    while (size > 0) {
        ssize_t n = write(STDERR_FILENO, text, size);
        if (n <= 0 && errno != EINTR)
            return;
        if (n > 0) {
            text += n;
            size -= (size_t)n;
        }
    }
}

static void line(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void line(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof(text) - 1, format, args);
    va_end(args);
    if (n < 0)
        return;
    size_t size = (size_t)n < sizeof(text) - 1 ? (size_t)n : sizeof(text) - 2;
    text[size++] = '\n';
    put(text, size);
}

void lib_debug(int at, const char *format, ...)
{
    if (__atomic_load_n(&level, __ATOMIC_RELAXED) < at)
        return;
    int saved = errno;
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    line("libclshm[%d]: %s", (int)getpid(), text);
    errno = saved;
}

static void usr_state(void)
{
    struct lib_scope scope;
    lib_enter(&scope);
    line("libclshm %d.%d, pid %d", CLSHM_LIB_MAJOR, CLSHM_LIB_MINOR, (int)getpid());
    line("  daemon: %s, %s%s%s", *lib.socket ? lib.socket : "not found yet",
         conn_ours(&lib.conn) ? "connected" : "not connected", *lib.conn.why ? ", last: " : "", lib.conn.why);
    if (lib.joined)
        line("  partition %u of %u, incarnation %u, granule %u, heartbeat %u ms", lib.geo.part, lib.geo.parts,
             lib.geo.incarnation, lib.geo.granule, lib.geo.heartbeat_ms);
    line("  page: %s, %u entries, %u attachments",
         lib.entries.page ? "own" : (lib.page.base ? "an ancestor's" : "none"), lib.entries.usable,
         lib.entries.attachments);
    for (uint32_t e = 0; e < lib.entries.fresh; e++) {
        const struct entry *x = &lib.entries.entry[e];
        if (x->shmid >= 0)
            line("  entry %u: segment %d, attached %u times, word %#x%s%s", e, x->shmid, x->count, x->word,
                 x->granted ? "" : ", no grant", x->owed ? ", DETACHED to be said" : "");
    }
    for (size_t i = 0; i < lib.pieces.count; i++) {
        const struct piece *p = &lib.pieces.piece[i];
        line("  %#lx-%#lx: segment %d%s", (unsigned long)p->addr, (unsigned long)p->end,
             lib.entries.entry[p->entry].shmid, p->addr == p->base ? "" : ", a part");
    }
    lib_leave(&scope, 0);
}

/* The daemon's own words, a part at a time. They end where it says, or when they would never end. */
static void daemon_state(uint32_t what)
{
    struct lib_scope scope;
    static struct clshmd_dump_reply reply; /* under the lock */
    struct clshmd_dump request = {.what = what};
    lib_enter(&scope);
    for (unsigned parts = 0; parts < 4096; parts++) {
        int error =
            lib_call(CLSHMD_DUMP, &request, sizeof(request), &reply, sizeof(reply), NULL, NULL, CONN_TIMEOUT_MS, NULL);
        if (error)
            line("libclshm: the daemon's state: %s", strerror(error));
        if (error || reply.length == 0 || reply.length > sizeof(reply.text))
            break;
        put(reply.text, reply.length);
        request.offset += reply.length;
    }
    lib_leave(&scope, 0);
}

void dump_usr_state(void)
{
    usr_state();
}

void dump_daem_state(void)
{
    daemon_state(1);
}

void dump_drv_state(void)
{
    daemon_state(2);
}

void dump_all_state(void)
{
    usr_state();
    daemon_state(1);
    daemon_state(2);
}
