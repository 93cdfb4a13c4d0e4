/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands of clshmctl: each parses its own arguments (argv[0] is "clshmctl NAME") and returns an exit status. */
#ifndef CLSHM_TOOLS_CLSHMCTL_H
#define CLSHM_TOOLS_CLSHMCTL_H

#include "src/tools/tools.h"

/* @tool holds what was given before the command's name; the same options may follow it. */
int cmd_mkfabric(struct tool *tool, int argc, char **argv);
int cmd_rmfabric(struct tool *tool, int argc, char **argv);
int cmd_startup(struct tool *tool, int argc, char **argv);
int cmd_shutdown(struct tool *tool, int argc, char **argv);
int cmd_status(struct tool *tool, int argc, char **argv);
int cmd_getcfg(struct tool *tool, int argc, char **argv);
int cmd_maxpgs(struct tool *tool, int argc, char **argv);
int cmd_maxdpgs(struct tool *tool, int argc, char **argv);
int cmd_timeout(struct tool *tool, int argc, char **argv);
int cmd_evict(struct tool *tool, int argc, char **argv);

#endif
