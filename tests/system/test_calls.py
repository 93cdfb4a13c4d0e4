# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls, on one partition and across three: System V's behaviour, and what clshm adds."""

import os

import clshm
import pytest
from clshm import IPC_CREAT, IPC_EXCL, IPC_PRIVATE, SHM_DEST, SHM_RDONLY, SHM_REMAP, SHM_RND, fails

PAGE = 4096
PROT_READ, PROT_WRITE = 1, 2


@pytest.mark.asan
def test_one_partition(one):
    a, b = one.process(), one.process()
    shmid = a.get(0x1001, 10000)
    assert b.get(0x1001, 0, 0) == shmid
    at, at_b = a.attach(shmid), b.attach(shmid)
    a.zeros(at, 8192 + 4096)
    a.store(at, 8, 42)
    assert b.load(at_b, 8) == 42
    b.fill(at_b, 10000, 7)
    a.check(at, 10000, 7)
    assert a.nattch(shmid) == 2
    a.detach(at)
    assert b.nattch(shmid) == 1
    b.detach(at_b)
    b.rmid(shmid)
    fails("EINVAL", a.stat, shmid)
    fails("ENOENT", a.get, 0x1001, 0, 0)


@pytest.mark.asan
def test_three_partitions(three):
    a, b, c = (p.process() for p in three)
    shmid = a.get(0x2002, 1 << 20)
    assert b.get(0x2002, 0, 0) == c.get(0x2002, 1 << 20) == shmid
    at = [p.attach(shmid) for p in (a, b, c)]
    for i, p in enumerate((a, b, c)):
        p.fill(at[i], 1 << 20, i)
        for j, q in enumerate((a, b, c)):
            q.check(at[j], 1 << 20, i)
    assert [p.nattch(shmid) for p in (a, b, c)] == [3, 3, 3]
    home = a.number("self")
    assert [p.number("part", shmid) for p in (a, b, c)] == [home] * 3
    b.detach(at[1])
    assert [p.nattch(shmid) for p in (a, b, c)] == [2, 2, 2]
    c.rmid(shmid)
    assert a.stat(shmid)["mode"] & SHM_DEST
    a.detach(at[0])
    c.check(at[2], 1 << 20, 2)
    c.detach(at[2])
    for p in (a, b, c):
        p.is_removed(shmid)


def test_each_creates_where_it_is(three):
    programs = [p.process() for p in three]
    ids = [p.get(0x100 + i, PAGE) for i, p in enumerate(programs)]
    for p in programs:
        assert [p.number("part", shmid) for shmid in ids] == [q.number("self") for q in programs]
    assert len(set(ids)) == 3


def test_get(two):
    a, b = (p.process() for p in two)
    fails("ENOENT", a.get, 5, PAGE, 0o666)
    fails("EINVAL", a.get, 5, 0, IPC_CREAT | 0o666)
    fails("EINVAL", a.get, IPC_PRIVATE, 0, 0o666)
    shmid = a.get(5, 100, IPC_CREAT | IPC_EXCL | 0o600)
    for p in (a, b):
        fails("EEXIST", p.get, 5, 100, IPC_CREAT | IPC_EXCL | 0o600)
        fails("EEXIST", p.get, 5, 101, IPC_CREAT | IPC_EXCL | 0o600)  # before the size
        fails("EINVAL", p.get, 5, 101, 0)
        fails("EINVAL", p.get, 5, 101, IPC_CREAT)
        assert p.get(5, 100, 0) == p.get(5, 1, IPC_EXCL) == p.get(5, 0, IPC_CREAT) == shmid
    private = [p.get(IPC_PRIVATE, PAGE, 0) for p in (a, a, b)]
    assert len({*private, shmid}) == 4
    fails(("EINVAL", "ENOSPC"), a.get, 6, 1 << 62)


def test_stat_of_a_new_segment(two):
    a, b = (p.process() for p in two)
    shmid = a.get(9, 12345, IPC_CREAT | 0o640)
    for p in (a, b):
        s = p.stat(shmid)
        assert s["key"] == 9 and s["size"] == 12345 and s["mode"] == 0o640
        assert s["uid"] == s["cuid"] == two[0].uid and s["gid"] == s["cgid"]
        assert s["nattch"] == s["lpid"] == s["atime"] == s["dtime"] == 0 and s["ctime"] > 0
    assert a.stat(shmid)["cpid"] == a.number("pid")


@pytest.mark.asan
def test_attach(two):
    a, b = (p.process() for p in two)
    shmid = a.get(11, 3 * PAGE)
    for p in (a, b):
        ro = p.attach(shmid, SHM_RDONLY)
        fails("EACCES", p.number, "mprotect", ro, PAGE, PROT_READ | PROT_WRITE)
        rw = p.attach(shmid)
        p.store(rw, 2 * PAGE, 77)
        assert p.load(ro, 2 * PAGE) == 77
        fails("EINVAL", p.attach, shmid, 0, rw + 8)
        fails("EINVAL", p.attach, shmid, 0, rw)  # in use
        fails("EINVAL", p.attach, shmid, SHM_REMAP, 0)
        p.detach(rw)
        assert p.attach(shmid, SHM_RND, rw + 8) == rw
        other = p.get(IPC_PRIVATE, 3 * PAGE)
        assert p.attach(other, SHM_REMAP, rw) == rw
        p.zeros(rw, 3 * PAGE)
        assert p.nattch(shmid) == 1 and p.nattch(other) == 1
        p.detach(rw)
        p.detach(ro)
        assert p.nattch(shmid) == 0
    fails("EINVAL", a.attach, shmid + (1 << 30))
    fails("EINVAL", a.attach, -1)


def test_detach_what_is_not_there(one):
    a = one.process()
    at = a.attach(a.get(12, 3 * PAGE))
    for address in (0, at + 1, at + PAGE, at - PAGE):
        fails("EINVAL", a.detach, address)
    a.detach(at)
    fails("EINVAL", a.detach, at)


def test_removed_while_attached(two):
    a, b = (p.process() for p in two)
    shmid = a.get(13, PAGE)
    at = a.attach(shmid)
    a.store(at, 0, 1)
    b.rmid(shmid)
    b.rmid(shmid)
    for p in (a, b):
        s = p.stat(shmid)
        assert s["mode"] & SHM_DEST and s["key"] == 0
        fails("ENOENT", p.get, 13, 0, 0)
    again = b.get(13, PAGE)
    assert again != shmid
    at_b = b.attach(shmid)  # by id it still goes
    assert b.load(at_b, 0) == 1
    a.detach(at)
    assert b.nattch(shmid) == 1
    b.detach(at_b)
    for p in (a, b):
        p.is_removed(shmid)
        fails(("EINVAL", "EIDRM"), p.attach, shmid)
    assert a.stat(again)["size"] == PAGE


@pytest.mark.asan
def test_autormid(two):
    a, b = (p.process() for p in two)
    shmid = a.get(14, PAGE)
    a.autormid(shmid)  # waits for its first attachment
    assert b.get(14, 0, 0) == shmid
    at = b.attach(shmid)
    at_a = a.attach(shmid)
    b.detach(at)
    assert a.nattch(shmid) == 1
    a.detach(at_a)
    a.is_removed(shmid)
    b.is_removed(shmid)
    shmid = a.get(14, PAGE)
    b.detach(b.attach(shmid))
    b.autormid(shmid)  # was attached and is no longer: at once
    a.is_removed(shmid)


def test_set(two):
    a, b = (p.process() for p in two)
    shmid = a.get(15, PAGE, IPC_CREAT | 0o600)
    b.set(shmid, two[0].uid, 4242, 0o7640)
    s = a.stat(shmid)
    assert (s["uid"], s["gid"], s["mode"]) == (two[0].uid, 4242, 0o640)
    assert s["cuid"] == two[0].uid


def test_ftok(three):
    programs = [p.process() for p in three]
    a, b, c = programs
    keys = [p.ftok() for p in programs for _ in range(5)]
    assert len(set(keys)) == 15 and -1 not in keys and 0 not in keys
    homes = {"two": b, f"/hw/clshm/partition/{c.number('self'):02x}": c, "-": a}
    for path, home in homes.items():
        key = a.ftok(path)
        shmid = b.get(key, 5000, 0o600)  # creates, whatever the flags say
        assert a.get(key, 5000, 0) == c.get(key, 5000, IPC_CREAT | 0o666) == shmid
        fails("EEXIST", c.get, key, 5000, IPC_CREAT | IPC_EXCL | 0o666)
        assert a.number("part", shmid) == home.number("self")
        at, at_c = a.attach(shmid), c.attach(shmid)
        a.zeros(at, 5000)
        a.fill(at, 5000, 3)
        c.check(at_c, 5000, 3)
        for size in (4999, 5001):
            for p in programs:
                fails("EINVAL", p.get, key, size, 0o600)
        a.rmid(shmid)
        a.detach(at)
        c.detach(at_c)


def test_ftok_refuses(two):
    a = two[0].process()
    fails("ENOENT", a.ftok, "nowhere")
    fails("ENOENT", a.ftok, "/hw/clshm/partition/3f")
    for path in ("/hw/clshm/partition/", "/hw/clshm/partition/zz", "/hw/clshm/partition/123", "/tmp", "a/b", "." * 40):
        fails(("EINVAL", "ENOENT"), a.ftok, path)
    for number in (0, 2, -1):
        fails("EINVAL", a.ftok, "-", number)


def test_partitions(three):
    programs = [p.process() for p in three]
    a, b, _ = programs
    two_name = b.partition.hostname
    ids = sorted(p.number("self") for p in programs)
    assert len(set(ids)) == 3
    for p in programs:
        assert p.number("count") == 3
        assert p.call("list").split() == ["3", *map(str, ids)]
        assert p.call("list", 1).split() == ["3", str(ids[0])]
        for q in programs:
            assert p.call("hostname", q.number("self")) == q.partition.hostname
    fails("EINVAL", a.call, "list", -1)
    fails("ENAMETOOLONG", a.call, "hostname", b.number("self"), len(two_name))
    fails("EINVAL", a.call, "hostname", 63)
    fails("EINVAL", a.call, "hostname", -1)
    fails("EINVAL", a.number, "part", 0x7fffffff)


def test_listing_by_index(two):
    a, b = (p.process() for p in two)
    ids = {a.get(IPC_PRIVATE, PAGE) for _ in range(3)} | {b.get(IPC_PRIVATE, PAGE) for _ in range(3)}
    for p in (a, b):
        info = p.info()
        assert info["ids"] == 6 and info["tot"] == 6
        seen = set()
        for index in range(info["r"] + 1) if info["r"] < 100000 else ():
            try:
                seen.add(p.stat(index, "statany")["r"])
            except clshm.XpError as error:
                assert error.name == "EINVAL"
        assert info["r"] >= 100000 or seen == ids
        for shmid in ids:
            assert p.stat(shmid, "statindex")["r"] == shmid  # even an id is taken for its index


def test_lock(two):
    a, b = (p.process() for p in two)
    shmid = a.get(16, PAGE)
    b.ctl(shmid, clshm.SHM_LOCK)
    assert a.stat(shmid)["mode"] & clshm.SHM_LOCKED
    a.ctl(shmid, clshm.SHM_UNLOCK)
    assert not b.stat(shmid)["mode"] & clshm.SHM_LOCKED


def test_bad_commands(one):
    a = one.process()
    shmid = a.get(17, PAGE)
    for command in (-1, 99, 0x7fff):
        fails("EINVAL", a.ctl, shmid, command)
    for bad in (-1, shmid ^ 1, shmid + (1 << 30) & 0x7fffffff):
        fails("EINVAL", a.stat, bad)
        fails("EINVAL", a.rmid, bad)
        fails("EINVAL", a.ctl, bad, clshm.SHM_LOCK)
        fails("EINVAL", a.set, bad, 0, 0, 0)


def test_node(two):
    a, b = (p.process() for p in two)
    shmid = a.get(18, 4 * PAGE)
    at = a.attach(shmid)
    a.fill(at, 4 * PAGE, 1)
    assert a.call("node", shmid) == "/sys/devices/system/node/node0"
    fails("ENOSYS", b.call, "node", shmid)


def test_placement(one):
    a = one.process()
    key = a.ftok()
    a.call("setpmo", key, 1, 2)  # MPOL_BIND to node 0
    shmid = a.get(key, 4 * PAGE, 0o600)
    at = a.attach(shmid)
    a.fill(at, 4 * PAGE, 1)
    assert a.call("node", shmid) == "/sys/devices/system/node/node0"
    fails("EINVAL", a.call, "setpmo", key, 1, 2)  # too late
    fails("EINVAL", a.call, "setpmo", a.ftok(), 1, 99)
    fails("EINVAL", a.call, "setpmo", a.ftok(), 0, 2)
    fails("EINVAL", a.call, "setpmo", a.ftok(), 1 << 62, 2)


MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE = 1, 2, 3


@pytest.mark.parametrize("policy", [MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE])
def test_placement_policies(two, policy):
    a, b = (p.process() for p in two)
    key = a.ftok()
    a.call("setpmo", key, 1, policy)
    a.call("setpmo", key, 1, policy)  # as often as one likes, before the segment is there
    shmid = b.get(key, 4 * PAGE, 0o600)  # whoever asks first
    at = b.attach(shmid)
    b.fill(at, 4 * PAGE, 1)
    assert a.call("node", shmid) == "/sys/devices/system/node/node0"
    fails("EINVAL", a.call, "setpmo", key, 1, policy)


def test_placement_is_the_homes(two):
    """Another partition's key cannot be placed, nor one that is nobody's, nor a segment's."""
    a, b = (p.process() for p in two)
    fails("EINVAL", b.call, "setpmo", a.ftok(), 1, MPOL_BIND)
    fails("EINVAL", a.call, "setpmo", 0x7001, 1, MPOL_BIND)
    a.get(0x7002)
    fails("EINVAL", a.call, "setpmo", 0x7002, 1, MPOL_BIND)
    fails("EINVAL", a.call, "setpmo", IPC_PRIVATE, 1, MPOL_BIND)


@pytest.mark.skipif(not os.path.exists("/sys/devices/system/node/node1"), reason="needs two NUMA nodes")
def test_placement_on_the_second_node(one):
    a = one.process()
    key = a.ftok()
    a.call("setpmo", key, 2, MPOL_BIND)
    shmid = a.get(key, 4 * PAGE, 0o600)
    a.fill(a.attach(shmid), 4 * PAGE, 1)
    assert a.call("node", shmid) == "/sys/devices/system/node/node1"


def test_ids_are_not_used_again_at_once(one):
    a = one.process()
    seen = set()
    for _ in range(200):
        shmid = a.get(IPC_PRIVATE, PAGE)
        assert shmid not in seen
        seen.add(shmid)
        a.rmid(shmid)
        fails("EINVAL", a.attach, shmid)


def test_new_memory_is_zero(two):
    a, b = (p.process() for p in two)
    for seed in range(10):
        shmid = a.get(19, 1 << 18)
        at = b.attach(shmid)
        b.zeros(at, 1 << 18)
        b.fill(at, 1 << 18, seed)
        b.rmid(shmid)
        b.detach(at)


@pytest.mark.asan
def test_threads(two):
    a, b = (p.process() for p in two)
    for p, key in ((a, 0x4000), (b, 0x5000)):
        p.send("threads", 8, 50, key)
    for p in (a, b):
        assert int(p.receive("threads", 60)) == 0
    assert two[0].status()["clients"]["attachments"] == 0


# ---------------------------------------------------------------- rights


needs_users = pytest.mark.skipif(not clshm.IS_ROOT, reason="needs several users: run as root")
ALICE, BOB = 12346, 12347


def refused(owner, stranger, shmid, at_write=True):
    """What a stranger may not do with a segment of mode 0600."""
    fails("EACCES", stranger.attach, shmid)
    fails("EACCES", stranger.attach, shmid, SHM_RDONLY)
    fails("EACCES", stranger.stat, shmid)
    fails("EPERM", stranger.rmid, shmid)
    fails("EPERM", stranger.autormid, shmid)
    fails("EPERM", stranger.set, shmid, 0, 0, 0o666)
    fails("EPERM", stranger.ctl, shmid, clshm.SHM_LOCK)
    assert owner.stat(shmid)["mode"] == 0o600


@needs_users
@pytest.mark.asan
def test_permissions_on_one_partition(fabric):
    part = fabric.partition("one")
    alice, bob, root = part.process(user=ALICE), part.process(user=BOB), part.process()
    shmid = alice.get(21, PAGE, IPC_CREAT | 0o600)
    refused(alice, bob, shmid)
    fails("EACCES", bob.get, 21, 0, 0o600)
    assert bob.get(21, 0, 0) == shmid  # no bits, no check, says System V
    root.detach(root.attach(shmid))
    assert bob.stat(shmid, "statany")["uid"] == ALICE
    alice.set(shmid, ALICE, ALICE, 0o644)
    at = bob.attach(shmid, SHM_RDONLY)
    fails("EACCES", bob.attach, shmid)
    fails("EACCES", bob.number, "mprotect", at, PAGE, PROT_READ | PROT_WRITE)
    bob.detach(at)
    alice.set(shmid, BOB, BOB, 0o600)  # given away: the creator keeps its rights
    bob.detach(bob.attach(shmid))
    alice.rmid(shmid)


@needs_users
def test_permissions_across_partitions(fabric):
    one, two = fabric.partition("one"), fabric.partition("two")
    one.sees(two, "alive")
    two.sees(one, "alive")
    alice, bob, alice2, root2 = (one.process(user=ALICE), two.process(user=BOB), two.process(user=ALICE), two.process())
    shmid = alice.get(22, PAGE, IPC_CREAT | 0o600)
    refused(alice, bob, shmid)
    fails("EACCES", bob.get, 22, 0, 0o400)
    alice2.detach(alice2.attach(shmid))
    root2.detach(root2.attach(shmid))
    alice2.set(shmid, ALICE, ALICE, 0o604)
    bob.detach(bob.attach(shmid, SHM_RDONLY))
    fails("EACCES", bob.attach, shmid)
    alice.set(shmid, ALICE, ALICE, 0o600)  # a right that was granted once is not remembered
    fails("EACCES", bob.attach, shmid, SHM_RDONLY)
    alice2.rmid(shmid)
    alice.is_removed(shmid)


@needs_users
def test_squash(fabric):
    """A partition that squashes takes callers of others for strangers, root included."""
    one = fabric.partition("one", config="[fabric]\nuids = squash\n")
    two = fabric.partition("two")
    one.sees(two, "alive")
    two.sees(one, "alive")
    alice, alice2, root2 = one.process(user=ALICE), two.process(user=ALICE), two.process()
    shmid = alice.get(23, PAGE, IPC_CREAT | 0o600)
    for stranger in (alice2, root2):
        refused(alice, stranger, shmid)
    alice.set(shmid, ALICE, ALICE, 0o606)
    for stranger in (alice2, root2):
        stranger.detach(stranger.attach(shmid))
        fails("EPERM", stranger.rmid, shmid)


@needs_users
def test_a_program_changes_its_user(fabric):
    """Rights are those of the caller at the call, not of whoever connected first."""
    part = fabric.partition("one")
    alice, a = part.process(user=ALICE), part.process()
    shmid = alice.get(24, PAGE, IPC_CREAT | 0o600)
    at = a.attach(shmid)
    a.call("setuid", BOB, BOB)
    a.store(at, 0, 5)  # what is attached stays
    fails("EACCES", a.attach, shmid)
    fails("EACCES", a.stat, shmid)
    mine = a.get(25, PAGE, IPC_CREAT | 0o600)
    assert a.stat(mine)["uid"] == BOB
    assert alice.nattch(shmid) == 1
    a.detach(at)
    assert alice.nattch(shmid) == 0


@needs_users
def test_users_of_one_machine(fabric, new_fabric):
    """A daemon that an unprivileged user runs serves other users too, and they trust it only if told to."""
    mine = new_fabric(owner=clshm.USER)
    part = mine.partition("one", "user")
    owner, other = part.process(), part.process(user=BOB)
    shmid = owner.get(26, PAGE, IPC_CREAT | 0o600)
    refused(owner, other, shmid)
    fails("EIO", part.process(user=BOB, CLSHM_DAEMON_UID=BOB).get, 27)
