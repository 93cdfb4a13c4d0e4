/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A cell: the namespaces that a container would give a partition, and the first process in them.
 *
 *     cell HOSTNAME     new IPC, PID, mount, network and UTS namespaces; says "ready PID" (of the first process, as seen
 *                       from outside), then waits. Enter with `nsenter -t PID -a`.
 *
 * Two processes: the outer one only waits for the inner one, which is process 1 of the cell: it reaps what is left to it
 * and ends when its standard input does. Then the kernel ends everything else in the cell. So the cell ends with
 * whoever holds the other end of that pipe, however that one ends.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static int failed(const char *what)
{
    fprintf(stderr, "cell: %s: %s (%s)\n", what, strerror(errno), strerrorname_np(errno));
    return 1;
}

static void reap(void)
{
    while (waitpid(-1, NULL, WNOHANG) > 0)
        continue;
}

/* Process 1: until standard input ends. @ready is told when the cell can be entered. */
static int first_process(const char *hostname, int ready)
{
    struct pollfd p[2] = {{.fd = 0, .events = POLLIN}, {.events = POLLIN}};
    sigset_t child;
    char byte = 0;

    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("proc", "/proc", "proc", 0, NULL) != 0)
        return failed("mount");
    if (sethostname(hostname, strlen(hostname)) != 0)
        return failed(hostname);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    p[1].fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (p[1].fd < 0 || write(ready, &byte, 1) != 1)
        return failed("start");
    close(ready);
    for (;;) {
        struct signalfd_siginfo info;
        char drain[64];

        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return failed("poll");
        if (p[0].revents && read(0, drain, sizeof(drain)) <= 0)
            return 0;
        while (read(p[1].fd, &info, sizeof(info)) > 0)
            continue;
        reap();
    }
}

int main(int argc, char **argv)
{
    int ready[2], status;
    char byte;
    pid_t pid;

    if (argc != 2) {
        fprintf(stderr, "usage: cell HOSTNAME\n");
        return 2;
    }
    if (pipe(ready) != 0)
        return failed("pipe");
    if (unshare(CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS) != 0)
        return failed("unshare");
    pid = fork();
    if (pid < 0)
        return failed("fork");
    if (pid == 0) {
        close(ready[0]);
        _exit(first_process(argv[1], ready[1]));
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) == 1) {
        printf("ready %d\n", (int)pid);
        fflush(stdout);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
