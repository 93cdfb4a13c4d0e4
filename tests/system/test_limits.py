# SPDX-License-Identifier: GPL-2.0-or-later
"""Each limit with its error; what happens when memory is short."""

import os
import subprocess
import time

import clshm
import pytest
from clshm import IPC_CREAT, IPC_PRIVATE, SHM_NORESERVE, fails, wait_until

PAGE = 4096
MIB = 1 << 20


def limited(kind_fabric, kind, text):
    part = kind_fabric.partition("one", kind, config="[limits]\n" + text)
    return part, part.process()


@pytest.mark.asan
def test_segments(kind_fabric, kind):
    part, a = limited(kind_fabric, kind, "max-segments = 5\n")
    ids = [a.get(IPC_PRIVATE, PAGE) for _ in range(4)]
    key = a.ftok()  # reservations count
    fails("ENOSPC", a.get, IPC_PRIVATE, PAGE)
    fails("ENOSPC", a.ftok)
    a.get(key, PAGE)
    fails("ENOSPC", part.process().get, 1, PAGE)
    a.rmid(ids[0])
    a.get(IPC_PRIVATE, PAGE)
    fails("ENOSPC", a.get, IPC_PRIVATE, PAGE)


@pytest.mark.asan
def test_segments_of_a_uid(kind_fabric, kind):
    part, a = limited(kind_fabric, kind, "max-segments-uid = 2\n")
    ids = [a.get(IPC_PRIVATE, PAGE) for _ in range(2)]
    fails("ENOSPC", a.get, IPC_PRIVATE, PAGE)
    if clshm.IS_ROOT:
        other = part.process(user=clshm.USER + 1)
        other.get(IPC_PRIVATE, PAGE)  # each its own
        other.get(IPC_PRIVATE, PAGE)
        fails("ENOSPC", other.get, IPC_PRIVATE, PAGE)
    a.rmid(ids[1])
    a.get(IPC_PRIVATE, PAGE)


def test_bytes_of_a_uid(kind_fabric, kind):
    _, a = limited(kind_fabric, kind, "max-bytes-uid = 1M\n")
    first = a.get(IPC_PRIVATE, MIB // 2)
    a.get(IPC_PRIVATE, MIB // 2)
    fails("ENOSPC", a.get, IPC_PRIVATE, 1)
    a.rmid(first)
    fails("ENOSPC", a.get, IPC_PRIVATE, MIB // 2 + 1)
    a.get(IPC_PRIVATE, MIB // 2)


def test_pages(kind_fabric, kind):
    part, a = limited(kind_fabric, kind, "maxpgs = 10\n")
    shmid = a.get(IPC_PRIVATE, 10 * PAGE)
    fails("ENOSPC", a.get, IPC_PRIVATE, 1)
    assert part.ctl("clshmctl", "maxpgs", "12").returncode == 0
    a.get(IPC_PRIVATE, 2 * PAGE)
    fails("ENOSPC", a.get, IPC_PRIVATE, 1)
    part.kill_daemon()  # what was set survives
    fails("ENOSPC", a.get, IPC_PRIVATE, 1)
    a.rmid(shmid)
    wait_until(lambda: part.segments() == 1, what="freed")
    fails("ENOSPC", a.get, IPC_PRIVATE, 11 * PAGE)
    a.get(IPC_PRIVATE, 10 * PAGE)


def test_size(kind_fabric, kind):
    _, a = limited(kind_fabric, kind, "max-size = 64K\n")
    fails("EINVAL", a.get, 1, 64 * 1024 + 1)
    fails("EINVAL", a.get, IPC_PRIVATE, 1 << 40)
    fails("EINVAL", a.get, a.ftok(), 1 << 40)
    assert a.info()["shmmax"] == 65536
    a.get(1, 64 * 1024)


def test_keys(kind_fabric, kind):
    part, a = limited(kind_fabric, kind, "max-keys-uid = 3\n")
    keys = [a.ftok() for _ in range(3)]
    fails("ENOSPC", a.ftok)
    fails("ENOSPC", part.process().ftok)
    a.get(keys[0], PAGE)  # no longer merely reserved
    a.ftok()
    fails("ENOSPC", a.ftok)


def test_attachments(kind_fabric, kind):
    part, a = limited(kind_fabric, kind, "max-attachments-uid = 3\n")
    ids = [a.get(IPC_PRIVATE, PAGE) for _ in range(4)]
    at = [a.attach(shmid) for shmid in ids[:3]]
    fails("ENOMEM", a.attach, ids[3])
    assert a.nattch(ids[3]) == 0
    fails("ENOMEM", part.process().attach, ids[0])
    a.detach(at[0])
    a.attach(ids[3])


def test_clients(kind_fabric, kind):
    part, a = limited(kind_fabric, kind, "max-clients-uid = 3\n")
    a.number("self")
    others = [part.process() for _ in range(2)]
    for p in others:
        p.number("self")
    late = part.process()
    fails(("EAGAIN", "EIO", "ENOSPC"), late.number, "self")
    a.get(1, PAGE)  # nobody else is hurt
    assert part.status()["clients"]["processes"] == 3  # and the tools still come in
    others[0].exit()
    wait_until(lambda: part.status()["clients"]["processes"] == 2, what="one is gone")
    late.number("self")


def test_segments_of_a_process(one):
    """SHMSEG: as many as a client page has entries for."""
    a = one.process()
    most = a.info()["shmseg"]
    assert most == 4094
    ids = [a.get(IPC_PRIVATE, PAGE, IPC_CREAT | 0o600) for _ in range(300)]
    for shmid in ids:
        a.attach(shmid)
    assert one.status()["clients"]["attachments"] == 300


def test_slots(new_fabric):
    fabric = new_fabric("--slots", "64", "--partitions", "2")
    one = fabric.partition("one")
    a = one.process()
    ids = []
    fails("ENOSPC", lambda: ids.extend(a.get(IPC_PRIVATE, PAGE) for _ in range(65)))
    a.rmid(ids[0]) if ids else None
    made = one.segments()
    assert 60 <= made <= 64
    assert a.info()["shmmni"] >= 64


def test_partitions(new_fabric):
    """A full fabric says so."""
    fabric = new_fabric("--partitions", "2")
    fabric.partition("one")
    fabric.partition("two")
    three = clshm.Partition(fabric, "three", clshm.default_kind())
    three.start(check=False)
    assert three.daemon.wait(clshm.LIMIT) == 1
    three.daemon = None
    assert "full" in three.log() or "ENOSPC" in three.log()


# ---------------------------------------------------------------- memory


needs_root = pytest.mark.skipif(not clshm.IS_ROOT, reason="mounts a file system: run as root")


@pytest.fixture
def tiny(tmp_path):
    """A tmpfs of 64 MiB, seen by all (the control area is sparse; what it needs is allocated)."""
    directory = tmp_path / "tiny"
    directory.mkdir()
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        parent.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "clshm-tiny", directory], check=True)
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


def fill_up(directory):
    """Take the last page."""
    with open(directory / "filler", "wb", buffering=0) as filler:
        for block in (1 << 20, 4096):
            try:
                while filler.write(b"x" * block) == block:
                    pass
            except OSError:
                pass
    assert os.statvfs(directory).f_bavail == 0


@needs_root
@pytest.mark.asan
def test_full_tmpfs(new_fabric, tiny):
    """The file system of the fabric is full: clean errors, no daemon dies, and it goes on when there is room again."""
    fabric = new_fabric(directory=tiny)
    one, two = fabric.partition("one"), fabric.partition("two")
    one.sees(two, "alive")
    two.sees(one, "alive")
    a, b = one.process(), two.process()
    shmid = a.get(1, PAGE)
    at = b.attach(shmid)
    fill_up(tiny)
    ids, failed = [], None
    for i in range(2000):  # records come in extents of 256; key buckets are touched anew
        try:
            ids.append(a.get(1000 + i * 7919, PAGE))
        except clshm.XpError as error:
            failed = error.name
            break
    assert failed == "ENOSPC", failed
    b.store(at, 0, 5)
    assert b.nattch(shmid) == 1
    assert a.get(1, 0, 0) == shmid
    b.detach(at)
    late = clshm.Partition(fabric, "late", "root")
    late.start(check=False)  # cannot join, says why
    assert late.daemon.wait(clshm.LIMIT) == 1
    late.daemon = None
    assert "ENOSPC" in late.log()
    (tiny / "filler").unlink()
    a.get(1000 + len(ids) * 7919, PAGE)
    for pid_of in (one, two):
        pid_of.kill_daemon()
    assert a.get(1, 0, 0) == shmid


def available():
    with open("/proc/meminfo", encoding="ascii") as lines:
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return values["MemAvailable"]


@pytest.mark.timeout(120)
def test_large_creation_disturbs_nobody(new_fabric):
    """Half of the free memory (2 GiB at most) is created, with its pages, and removed: others are served meanwhile, and
    no heartbeat is missed.

    The figure to reach is 20 ms for any call. On a machine whose processors others use too, a call can wait that long for
    a processor alone, so the longest wait is printed, the one in a hundred is held to the figure, and the longest to a
    bound that a creation in the loop (a second or more) would break.
    """
    fabric = new_fabric(heartbeat=200)
    one, two = fabric.partition("one"), fabric.partition("two")
    one.sees(two, "alive")
    two.sees(one, "alive")
    creator, other, far = one.process(), one.process(), two.process()
    small = other.get(1, PAGE)
    far.attach(small)
    size = min(available() // 2, 2 << 30) & ~(PAGE - 1)
    begin = time.monotonic()
    creator.send("get", 2, size, IPC_CREAT | 0o600)
    waits, missed, done = [], 0, False
    while not done:
        for p in (other, far):
            waits.append(p.number("latency", 5, small) / 1000)
        done = bool(clshm.select.select([creator.channel], [], [], 0)[0])
        state = two.state("one")
        missed += state != "alive"
    shmid = int(creator.receive("get", 60))
    took = time.monotonic() - begin
    at = creator.attach(shmid)
    creator.store(at, size - 8, 1)
    creator.detach(at)
    creator.send("ctl", shmid, 0)
    for p in (other, far):
        waits.append(p.number("latency", 20, small) / 1000)
    creator.receive("ctl")
    waits.sort()
    print(f"{size >> 20} MiB in {took:.2f} s; {len(waits)} looks of others: "
          f"{waits[len(waits) // 2]:.1f} ms median, {waits[-1 - len(waits) // 100]:.1f} ms 99%, {waits[-1]:.1f} ms longest")
    assert missed == 0
    assert waits[len(waits) // 2] < 20
    assert waits[-1] < 300
    wait_until(lambda: one.status()["memory"]["bytes"] == PAGE, what="the memory is given back")


def test_more_than_there_is(kind_fabric, kind):
    """Beyond the memory: an error, not a SIGBUS later; with SHM_NORESERVE it is allowed, as the manual says."""
    part = kind_fabric.partition("one", kind, config="[limits]\nmaxpgs = 0\n")
    a = part.process()
    with open("/proc/meminfo", encoding="ascii") as lines:
        total = int(lines.readline().split()[1]) * 1024
    fails(("ENOMEM", "ENOSPC"), a.get, 1, 64 * total, limit=60)
    shmid = a.get(2, 64 * total, IPC_CREAT | 0o600 | SHM_NORESERVE)
    at = a.attach(shmid)
    a.store(at, 63 * total, 1)
    a.rmid(shmid)
    a.detach(at)
    wait_until(lambda: part.segments() == 0, what="gone")


def test_descriptors_run_out(one):
    """A program at its limit of descriptors gets an error, and goes on when there are some again."""
    a = one.process()
    shmid = a.get(3, PAGE)
    assert a.number("closeall", "reopen") > 0
    a.attach(shmid)
