# SPDX-License-Identifier: GPL-2.0-or-later
"""What docs/containers.md says: a client needs its partition's socket and nothing else."""

import socket
import subprocess

import clshm
import pytest
from clshm import IPC_CREAT, fails

PAGE = 4096
NOBODY = 65534
pytestmark = pytest.mark.skipif(not clshm.IS_ROOT, reason="makes namespaces: run as root")


def contained(part, script, **env):
    """xpt in namespaces of its own, set up by a shell script that ends with: exec "$XPT"."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    popen = subprocess.Popen(["unshare", "--mount", "--ipc", "--net", "--uts", "sh", "-euc", script], stdin=theirs,
                             stdout=subprocess.DEVNULL, env=part.environment(XPT=clshm.binary("xpt"), **env))
    theirs.close()
    return clshm.Process(part, ours, popen)


def test_a_container_with_a_tiny_dev_shm(fabric, tmp_path):
    """Its /dev/shm has 64 KiB, the fabric is nowhere to be seen, the socket's directory is mounted: 128 MiB are shared."""
    one = fabric.partition("one")
    a = one.process()
    mount = tmp_path / "sock"
    mount.mkdir()
    script = 'mount --bind "$DIR" "$MNT"; mount -t tmpfs -o size=64k tmpfs /dev/shm; exec "$XPT"'
    b = contained(one, script, DIR=one.dir, MNT=mount, CLSHM_SOCKET=mount / "sock")
    shmid = b.get(1, 128 << 20, IPC_CREAT | 0o600)
    at, at_a = b.attach(shmid), a.attach(shmid)
    b.fill(at, 128 << 20, 4)
    a.check(at_a, 128 << 20, 4)
    child = b.fork()
    assert a.nattch(shmid) == 3
    child.kill()
    b.kill()
    a.comes_to(shmid, 1)


def test_a_new_daemon_is_found_through_the_mounted_directory(fabric, tmp_path):
    one = fabric.partition("one")
    script = 'mount --bind "$DIR" "$MNT"; exec "$XPT"'
    b = contained(one, script, DIR=one.dir, MNT=tmp_path, CLSHM_SOCKET=tmp_path / "sock")
    b.get(1, PAGE)
    assert one.shutdown().returncode == 0
    fails("EIO", b.get, 2, PAGE)
    one.start()
    b.get(2, PAGE)


def test_uids_are_the_daemons(fabric):
    """A rootless container: root inside is an unprivileged user outside, and so for the daemon."""
    one = fabric.partition("one")
    a = one.process()
    script = f'exec setpriv --reuid={clshm.USER} --regid={clshm.USER} --clear-groups unshare --user --map-root-user --pid --fork "$XPT"'
    b = contained(one, script, CLSHM_DAEMON_UID=NOBODY)
    shmid = b.get(1, PAGE, IPC_CREAT | 0o600)
    assert a.stat(shmid)["uid"] == b.stat(shmid)["uid"] == clshm.USER
    rights = a.get(2, PAGE, IPC_CREAT | 0o600)
    fails("EACCES", b.attach, rights)  # "root" there is nobody here
    b.detach(b.attach(shmid))


def test_a_daemon_that_the_container_cannot_name(fabric):
    one = fabric.partition("one")
    script = f'exec setpriv --reuid={clshm.USER} --regid={clshm.USER} --clear-groups unshare --user --map-root-user "$XPT"'
    fails("EIO", contained(one, script, CLSHM_DAEMON_UID=0).get, 1)
    contained(one, script, CLSHM_DAEMON_UID=NOBODY).get(1, PAGE)


def test_daemons_in_different_user_namespaces_are_strangers(fabric):
    """Nobody has to be told: uids compare only within one user namespace."""
    one = fabric.partition("one")
    two = clshm.Partition(fabric, "two", "root", ns=False)
    real = two.inside
    two.inside = lambda *command, user=None: ["unshare", "--user", "--map-root-user", *real(*command, user=user)]
    two.start()
    one.sees(two, "alive")
    two.sees(one, "alive")
    a, b = one.process(), two.process()
    shmid = a.get(1, PAGE, IPC_CREAT | 0o600)
    fails("EACCES", b.attach, shmid)
    fails("EPERM", b.rmid, shmid)
    a.set(shmid, 0, 0, 0o606)
    b.detach(b.attach(shmid))
