/* SPDX-License-Identifier: GPL-2.0-or-later */
/* impostor PATH: a socket that looks like a daemon's, owned by whoever runs this. Says "listening"; accepts and waits. */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    if (argc != 2 || strlen(argv[1]) >= sizeof(addr.sun_path))
        return 2;
    strcpy(addr.sun_path, argv[1]);
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 || chmod(argv[1], 0666) != 0 || listen(fd, 8) != 0) {
        perror(argv[1]);
        return 1;
    }
    printf("listening\n");
    fflush(stdout);
    for (;;)
        if (accept(fd, NULL, NULL) < 0)
            return 1;
}
