/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * clshmd's configuration file. One line per setting, `key = value` under [section]; lines that begin with # or ; are
 * comments. Sizes take K, M, G, T. What is wrong is said as `file:line: what was expected`, every mistake of the file.
 *
 *     [fabric]  path = NAME or DIRECTORY   uids = same|squash   id = 0..63
 *     [limits]  maxpgs, max-segments, max-size, max-segments-uid, max-bytes-uid, max-keys-uid, max-attachments-uid,
 *               max-clients-uid = number; 0: no limit
 *     [driver]  maxdpgs = 1..1024   timeout = ms   huge = auto|never|always   huge-min = size
 *     [log]     level = error|warning|info|debug
 */
#ifndef CLSHM_DAEMON_CONFIG_H
#define CLSHM_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "src/core/core.h"
#include "src/fabric/ops.h"

#define CONFIG_TIMEOUT_MIN 10u
#define CONFIG_TIMEOUT_MAX 60000u
#define CONFIG_PATH_MAX    4096u

struct config {
    char file[CONFIG_PATH_MAX]; /* that was read; empty: none */
    char path[CONFIG_PATH_MAX]; /* of the fabric, as given; empty: not given */
    int part;                   /* -1: not given */
    bool squash;
    struct core_limits limits;
    bool maxpgs_given;
    uint32_t maxdpgs;
    uint32_t timeout_ms; /* 0: off */
    enum fabric_huge huge;
    uint64_t huge_min;
    int log_level;
};

/* What holds without a file. */
void config_init(struct config *config);
/* 0, or the number of mistakes; each was reported through @report. */
int config_read(struct config *config, FILE *file, const char *name, void (*report)(void *ctx, const char *line),
                void *ctx);
/* Read @file; NULL: /etc/clshm/clshmd.conf, else $XDG_CONFIG_HOME/clshm/clshmd.conf, and it is no mistake if neither is
 * there. Mistakes go to the log. @return 0, or -1. */
int config_load(struct config *config, const char *file);
/* 80% of this machine's memory, in granules. */
uint64_t config_default_maxpgs(uint32_t granule);

#endif
