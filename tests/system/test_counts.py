# SPDX-License-Identifier: GPL-2.0-or-later
"""shm_nattch counts attachments on all partitions, through fork, exec, exit and SIGKILL; and the program may do what it
likes with its descriptors."""

import signal

import pytest
from clshm import IPC_PRIVATE, Died, fails

PAGE = 4096


@pytest.fixture
def shared(two):
    """A process in each of two partitions; a segment of the first one's; the second has attached it once."""
    a, b = (p.process() for p in two)
    shmid = a.get(31, PAGE)
    at = b.attach(shmid)
    b.store(at, 0, 99)
    return a, b, shmid, at


@pytest.mark.asan
def test_sigkill(shared):
    a, b, shmid, _ = shared
    b.attach(shmid)
    assert a.nattch(shmid) == 2
    pid = b.number("pid")
    b.kill()
    a.comes_to(shmid, 0)
    s = a.stat(shmid)
    assert s["dtime"] > 0
    assert s["lpid"] in (pid, 0)  # 0: another partition's pid is none of this one's


def test_sigkill_next_door(one):
    a, b = one.process(), one.process()
    shmid = a.get(32, PAGE)
    b.attach(shmid)
    pid = b.number("pid")
    assert a.stat(shmid)["lpid"] == pid
    b.kill(signal.SIGKILL)
    a.comes_to(shmid, 0)
    assert a.stat(shmid)["lpid"] == pid


@pytest.mark.asan
def test_exit(shared):
    a, b, shmid, _ = shared
    b.exit(3)
    a.comes_to(shmid, 0)


@pytest.mark.asan
def test_exec(shared):
    a, b, shmid, _ = shared
    b.exec()
    a.comes_to(shmid, 0)
    at = b.attach(b.get(31, 0, 0))
    assert b.load(at, 0) == 99
    assert a.nattch(shmid) == 1


@pytest.mark.asan
@pytest.mark.parametrize("how", ["fork", "rawfork"])
def test_fork(shared, how):
    a, b, shmid, at = shared
    child = b.fork(how)
    assert child.load(at, 0) == 99
    if how == "rawfork":
        child.number("self")  # seen at its first call; until then its parent's count is the only one
    assert a.nattch(shmid) == 2
    b.kill()
    a.comes_to(shmid, 1)
    child.store(at, 0, 100)
    grandchild = child.fork()
    assert grandchild.nattch(shmid) == 2
    assert grandchild.load(at, 0) == 100
    child.detach(at)
    fails("EINVAL", child.detach, at)
    assert a.nattch(shmid) == 1
    more = grandchild.attach(shmid)
    assert a.nattch(shmid) == 2
    grandchild.detach(more)
    grandchild.detach(at)
    assert a.nattch(shmid) == 0


def test_raw_child_before_its_first_call(shared):
    """A child of a raw clone that has called nothing yet lives on its parent's page, which must not be taken for dead."""
    a, b, shmid, at = shared
    child = b.fork("rawfork")
    b.kill()
    assert a.nattch(shmid) == 1
    assert child.load(at, 0) == 99
    child.number("self")
    a.comes_to(shmid, 1)
    child.detach(at)
    a.comes_to(shmid, 0)


def test_family(one):
    """Sixteen children at once, each with three attachments; all killed."""
    a, b = one.process(), one.process()
    ids = [a.get(IPC_PRIVATE, PAGE) for _ in range(3)]
    for shmid in ids:
        b.attach(shmid)
    family = [b.fork() for _ in range(16)]
    assert [a.nattch(shmid) for shmid in ids] == [17] * 3
    for child in family[::2]:
        child.kill()
    for shmid in ids:
        a.comes_to(shmid, 9)
    for child in family[1::2]:
        child.exit()
    b.exit()
    for shmid in ids:
        a.comes_to(shmid, 0)


def test_fork_lpid(one):
    a, b = one.process(), one.process()
    shmid = a.get(33, PAGE)
    b.attach(shmid)
    parent = b.number("pid")
    child = b.fork()
    s = a.stat(shmid)
    assert s["nattch"] == 2 and s["lpid"] == parent
    pid = child.number("pid")
    child.nattch(shmid)  # from its first message on the daemon knows its pid
    child.exit()
    a.comes_to(shmid, 1)
    assert a.stat(shmid)["lpid"] == pid
    child = b.fork()
    child.exit()
    a.comes_to(shmid, 1)
    assert a.stat(shmid)["lpid"] == 0  # one that never said a word is not known by its pid


@pytest.mark.parametrize("how", ["exit", "kill", "detach"])
def test_autormid_through_fork(shared, how):
    a, b, shmid, at = shared
    b.autormid(shmid)
    child = b.fork()
    b.kill()
    a.comes_to(shmid, 1)
    child.check(at, 0, 0)
    {"exit": child.exit, "kill": child.kill, "detach": lambda: child.detach(at)}[how]()
    a.is_removed(shmid)


def test_rmid_then_last_one_is_killed(shared):
    a, b, shmid, at = shared
    a.rmid(shmid)
    assert b.load(at, 0) == 99
    b.kill()
    a.is_removed(shmid)
    assert a.partition.segments() == 0


def test_many_segments(one):
    """More segments than a first client page has entries for; all counted, none left."""
    a, b = one.process(), one.process()
    ids = [a.get(IPC_PRIVATE, PAGE) for _ in range(400)]
    for shmid in ids:
        b.attach(shmid)
    assert one.status()["clients"]["attachments"] == 400
    child = b.fork()
    assert a.nattch(ids[0]) == a.nattch(ids[-1]) == 2
    child.exit()
    b.exit()
    for shmid in ids:
        a.comes_to(shmid, 0)
        a.rmid(shmid)
    assert one.segments() == 0


@pytest.mark.asan
def test_closes_all_descriptors(shared):
    """A program that closes everything and opens other files under the same numbers."""
    a, b, shmid, at = shared
    for reopen in ((), ("reopen",)):
        opened = b.number("closeall", *reopen)
        assert b.load(at, 0) == 99  # the mapping is not a descriptor
        more = b.attach(shmid)
        assert b.load(more, 0) == 99
        assert a.nattch(shmid) == 2
        b.detach(more)
        assert a.nattch(shmid) == 1
        fresh = b.get(IPC_PRIVATE, PAGE)
        b.zeros(b.attach(fresh), PAGE)
        assert b.number("zerofds") == opened  # the library closed none of them
        b.rmid(fresh)
    b.number("closeall", "reopen")
    child = b.fork()
    assert a.nattch(shmid) == 2
    child.exit()
    b.kill()
    a.comes_to(shmid, 0)


def test_munmap_does_not_detach(shared):
    """Documented: the kernel's own segments differ here."""
    a, b, shmid, at = shared
    b.call("munmap", at, PAGE)
    assert a.nattch(shmid) == 1
    b.detach(at)
    assert a.nattch(shmid) == 0


def test_shutdown_refuses_and_says_who(shared):
    a, b, shmid, at = shared
    two = b.partition
    result = two.shutdown()
    assert result.returncode == 1
    assert str(b.number("pid")) in result.stdout and "EBUSY" in result.stderr and "--force" in result.stderr
    assert b.load(at, 0) == 99
    b.detach(at)
    assert two.shutdown().returncode == 0
    one = a.partition
    assert one.state("two") in (None, "absent")
    assert a.stat(shmid)["nattch"] == 0


def test_forced_shutdown_stops_the_users(shared):
    a, b, shmid, _ = shared
    two = b.partition
    result = two.shutdown("--force")
    assert result.returncode == 0, result.stderr
    with pytest.raises((Died, ConnectionError)):
        b.receive("its end")
    a.comes_to(shmid, 0)
    fails("EIO", two.process().get, 34)


def test_shutdown_with_importers_refuses(two):
    a, b = (p.process() for p in two)
    shmid = a.get(35, PAGE)
    at = b.attach(shmid)
    assert two[0].shutdown().returncode == 1
    b.store(at, 0, 1)
    b.call("sigbus", "catch")
    assert two[0].shutdown("--force").returncode == 0
    fails("SIGBUS", b.load, at, 0)
