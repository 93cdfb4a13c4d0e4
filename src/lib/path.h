/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where things are: the fabric's directory, the partition's name, the daemon's socket. For library, tools and daemon.
 *
 * An option (NULL: not given) beats the environment, which beats the default. In privileged programs (AT_SECURE) the
 * environment is empty. Functions return 0 or an errno: EINVAL (a malformed name), ENAMETOOLONG (path_strerror()).
 */
#ifndef CLSHM_LIB_PATH_H
#define CLSHM_LIB_PATH_H

#include <stdbool.h>
#include <stddef.h>

#define PATH_SOCKET_MAX 108u /* of sockaddr_un.sun_path, the NUL included */
#define PATH_FABRIC_MAX 1024u
#define PATH_NAME_MAX   32u /* FABRIC_NAME_MAX */

/* A name of a partition or fabric: 1 to 31 of A-Z a-z 0-9 . _ -, the first one not a dot. */
bool path_name_valid(const char *name);

/* The fabric's directory. @option: a name, or a path if it holds a slash. Then CLSHM_FABRIC (same), then "default".
 * A name lies in /dev/shm/clshm for root, in /dev/shm/clshm-UID for others. Neither need exist. */
int path_fabric(const char *option, char out[static PATH_FABRIC_MAX]);

/* The partition's name: @option, CLSHM_PARTITION, the one partition that has a socket here if there is exactly one (in
 * $XDG_RUNTIME_DIR/clshm and /run/clshm), "default". */
int path_partition(const char *option, char out[static PATH_NAME_MAX]);

/* The socket to connect to: @option, CLSHM_SOCKET, else that of the partition path_partition(@partition): the first that
 * exists of $XDG_RUNTIME_DIR/clshm/PART/sock and /run/clshm/PART/sock; if none does, the one path_socket_bind() says. */
int path_socket(const char *option, const char *partition, char out[static PATH_SOCKET_MAX]);

/* The socket that a daemon of the partition binds: @option, CLSHM_SOCKET, else $XDG_RUNTIME_DIR/clshm/PART/sock if that
 * is set and the caller is not root, else /run/clshm/PART/sock. */
int path_socket_bind(const char *option, const char *partition, char out[static PATH_SOCKET_MAX]);

/* What to tell the user about an error of these functions. */
const char *path_strerror(int error);

#endif
