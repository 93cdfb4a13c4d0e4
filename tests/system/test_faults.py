# SPDX-License-Identifier: GPL-2.0-or-later
"""Daemons and partitions that die, stall and come back. Bounds are multiples of H, the heartbeat; here 100 ms."""

import os
import signal
import subprocess
import time

import pytest
from clshm import IPC_PRIVATE, Died, fails, go_on, gone, stop, wait_until

PAGE = 4096
# A machine that also builds and tests other things schedules late: on top of each bound in H.
SLACK = 3.0


def within(fabric, beats, begin):
    took = time.monotonic() - begin
    bound = beats * fabric.heartbeat + SLACK
    assert took <= bound, f"{took:.2f} s, {bound:.2f} s allowed"


# ---------------------------------------------------------------- the daemon alone


@pytest.mark.asan
def test_daemon_killed_nothing_lost(two):
    a, b = (p.process() for p in two)
    shmid = a.get(41, 10 * PAGE)
    other = b.get(42, PAGE)
    key = a.ftok("two")
    private = a.get(IPC_PRIVATE, PAGE)
    at, at_b = a.attach(shmid), b.attach(shmid)
    at_other = a.attach(other)
    a.fill(at, 10 * PAGE, 5)
    before = [a.stat(i) for i in (shmid, other, private)]
    for victim in (0, 1, 0, 1):
        two[victim].kill_daemon(wait=False)
        for p, address in ((a, at), (b, at_b)):  # attached programs notice nothing
            p.check(address, 10 * PAGE, 5)
        two[victim].sees(two[1 - victim], "alive")
        for p in (a, b):
            assert p.get(41, 0, 0) == shmid and p.get(42, 0, 0) == other
        assert [a.stat(i) for i in (shmid, other, private)] == before
    more = b.attach(shmid)
    assert a.nattch(shmid) == 3
    b.detach(more)
    b.detach(at_b)
    assert a.nattch(shmid) == 1
    reserved = b.get(key, PAGE, 0o600)
    assert b.number("part", reserved) == b.number("self")
    a.detach(at)
    a.detach(at_other)
    assert a.nattch(shmid) == 0 and b.nattch(other) == 0
    assert two[0].state("two") == two[1].state("one") == "alive"


def test_counts_while_the_daemon_is_away(two):
    """What happens while no daemon runs is known to the next one."""
    a, b = (p.process() for p in two)
    ids = [a.get(IPC_PRIVATE, PAGE) for _ in range(4)]
    doomed = two[0].process()
    for shmid in ids:
        doomed.attach(shmid)
        b.attach(shmid)
    at = a.attach(ids[0])
    keeper = two[0].keeper_pid()
    stop([keeper])  # the next daemon waits
    pid = two[0].daemon_pid()
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    two[0].expected_restarts += 1
    doomed.kill()
    a.send("detach", at)  # does not return before there is a daemon, or needs none
    go_on([keeper])
    a.receive("detach")
    for shmid in ids:
        a.comes_to(shmid, 1)
    b.kill()
    for shmid in ids:
        a.comes_to(shmid, 0)


def test_autormid_while_the_daemon_is_away(one):
    a, b = one.process(), one.process()
    shmid, marked = a.get(43, PAGE), a.get(44, PAGE)
    b.attach(shmid)
    b.attach(marked)
    a.autormid(shmid)
    a.rmid(marked)
    keeper = one.keeper_pid()
    stop([keeper])
    pid = one.daemon_pid()
    os.kill(pid, signal.SIGKILL)
    gone(pid)
    one.expected_restarts += 1
    b.kill()
    go_on([keeper])
    a.is_removed(shmid)
    a.is_removed(marked)
    wait_until(lambda: one.segments() == 0, what="both are gone")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("rounds", [30])
def test_daemon_killed_under_load(two, rounds):
    """Again and again, on either side, while programs create, attach, check and remove (helpers/churn.c)."""
    load = [p.program("churn", seed, 0x50000 + seed * 100000) for seed, p in enumerate((*two, *two), 1)]
    fixed = two[0].process()
    shmid = fixed.get(45, PAGE)
    at = fixed.attach(shmid)
    back = []
    for i in range(rounds):
        victim = two[i % 2]
        begin = time.monotonic()
        victim.kill_daemon()
        back.append(time.monotonic() - begin)
        fixed.store(at, 0, i)
        fixed.number("self")
    print(f"back in service after {sorted(back)[len(back) // 2] * 1000:.0f} ms (median), {max(back) * 1000:.0f} ms (longest)")
    results = [p.finish(60) for p in load]
    print(results)
    assert fixed.nattch(shmid) == 1 and fixed.load(at, 0) == rounds - 1
    assert sum(int(r.split()[1]) for r in results) > rounds * 10
    fixed.rmid(shmid)
    fixed.detach(at)
    for p in two:
        wait_until(lambda p=p: p.segments() == 0, what="nothing is left")


def test_calls_end_when_nobody_restarts(two):
    """Keeper and daemon are dead, their programs are not: calls fail, memory stays, the partition is not dead."""
    a, b = (p.process() for p in two)
    shmid = a.get(46, PAGE)
    at, at_b = a.attach(shmid), b.attach(shmid)
    pids = two[0].pids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        gone(pid)
    two[0].daemon.wait()
    two[0].daemon = None
    fails("EIO", a.get, 47, limit=30)
    fails(("EHOSTDOWN", "EIO"), b.rmid, shmid)
    two[1].sees("one", "stalled")
    a.store(at, 0, 8)
    assert b.load(at_b, 0) == 8
    time_to_die = 20 * two[1].fabric.heartbeat
    with pytest.raises(AssertionError):  # its program holds the life file: it may not be declared dead
        wait_until(lambda: two[1].state("one") == "dead", time_to_die)
    b.call("sigbus", "catch")
    a.kill()
    two[1].sees("one", "dead")
    fails("SIGBUS", b.load, at_b, 0)


# ---------------------------------------------------------------- a partition that stalls


def test_stalled(two):
    a, b = (p.process() for p in two)
    fabric = two[0].fabric
    shmid = a.get(51, PAGE)
    mine = b.get(52, PAGE)
    at, at_b = a.attach(shmid), b.attach(shmid)
    a.store(at, 0, 123)
    begin = time.monotonic()
    pids = two[0].pids()
    stop(pids)
    fails("EHOSTDOWN", b.ctl, shmid, 0, limit=30)
    within(fabric, 60, begin)
    two[1].sees("one", "stalled")
    within(fabric, 60, begin)
    begin = time.monotonic()
    fails("EHOSTDOWN", b.ctl, shmid, 0)  # known now: at once
    fails("EHOSTDOWN", b.ftok, "one")
    assert time.monotonic() - begin < SLACK
    assert b.load(at_b, 0) == 123  # mappings untouched
    b.store(at_b, 0, 124)
    assert a.load(at, 0) == 124
    assert b.get(52, 0, 0) == mine  # what needs nobody else goes on
    b.detach(b.attach(mine))
    assert b.stat(mine)["nattch"] == 0
    for _ in range(20):
        assert two[1].state("one") == "stalled"  # its programs live: never dead
    go_on(pids)
    two[1].sees("one", "alive")
    assert a.nattch(shmid) == b.nattch(shmid) == 2
    b.rmid(shmid)
    a.detach(at)
    b.detach(at_b)
    b.is_removed(shmid)


@pytest.mark.parametrize("beats", [2, 4, 6, 30])
def test_short_pauses(two, beats):
    """A pause, of any length, of a daemon whose kernel lives: never declared dead, nothing lost."""
    a, b = (p.process() for p in two)
    shmid = a.get(53, PAGE)
    at, at_b = a.attach(shmid), b.attach(shmid)
    incarnation = next(p["incarnation"] for p in two[1].status()["partitions"] if p["name"] == "one")
    for _ in range(3):
        pids = two[0].pids()
        stop(pids)
        end = time.monotonic() + beats * two[0].fabric.heartbeat
        while time.monotonic() < end:
            b.store(at_b, 0, 7)
        go_on(pids)
        two[1].sees("one", "alive")
        assert a.load(at, 0) == 7
    assert next(p["incarnation"] for p in two[1].status()["partitions"] if p["name"] == "one") == incarnation
    assert b.nattch(shmid) == 2


# ---------------------------------------------------------------- a partition that dies


@pytest.mark.asan
def test_dead(three):
    one, two, three_ = three
    a, b, c = (p.process() for p in three)
    fabric = one.fabric
    theirs = a.get(61, 4 * PAGE)  # hosted by the one that will die
    mine = b.get(62, PAGE)
    unused = a.get(63, PAGE)
    at = b.attach(theirs)
    at_c = c.attach(theirs)
    at_mine, at_a = b.attach(mine), a.attach(mine)
    a.store(at_a, 0, 9)
    assert b.nattch(mine) == 2
    b.call("sigbus", "catch")
    begin = time.monotonic()
    one.kill_all()
    two.sees("one", "dead")
    within(fabric, 10, begin)
    three_.sees("one", "dead")
    b.comes_to(mine, 1)  # its attachments no longer count
    within(fabric, 20, begin)
    assert b.load(at_mine, 0) == 9
    fails("SIGBUS", b.load, at, 0)
    fails("SIGBUS", b.store, at, 3 * PAGE, 1)
    c.call("sigbus", "default")
    c.send("load", at_c, 0)  # fatal by default
    with pytest.raises((Died, ConnectionError)):
        c.receive("load")
    assert b.number("count") == 2
    for shmid in (theirs, unused):
        fails(("EHOSTDOWN", "EIDRM", "EINVAL"), b.stat, shmid)
        fails(("EHOSTDOWN", "EIDRM", "EINVAL"), b.attach, shmid)
    b.detach(at)
    again = b.get(61, PAGE)  # its keys can be used again
    assert again != theirs and b.number("part", again) == b.number("self")
    fails("ENOENT", b.get, 63, 0, 0)


@pytest.mark.asan
def test_dead_and_back(two):
    one, other = two
    a, b = (p.process() for p in two)
    old = a.get(64, PAGE)
    never = a.get(65, PAGE)
    number = a.number("self")
    at = b.attach(old)
    one.kill_all()
    other.sees("one", "dead")
    one.start()
    other.sees("one", "alive")
    a = one.process()
    assert a.number("self") == number  # its id is used again
    for p in (a, b):
        for shmid in (old, never):
            fails("EIDRM", p.attach, shmid)
            fails("EIDRM", p.stat, shmid)
    fails("SIGBUS", b.load, at, 0)
    b.detach(at)
    fails("ENOENT", b.get, 64, 0, 0)
    new = a.get(64, PAGE)
    assert new not in (old, never)
    at, at_b = a.attach(new), b.attach(new)
    a.zeros(at, PAGE)
    a.store(at, 0, 3)
    assert b.load(at_b, 0) == 3
    assert a.nattch(new) == 2


def test_dead_at_once_for_a_new_start(two):
    """A partition killed whole and started again at once, before anybody has declared it dead."""
    one, other = two
    a, b = (p.process() for p in two)
    old = a.get(66, PAGE)
    at = b.attach(old)
    one.kill_all()
    one.start()
    other.sees("one", "alive")
    a = one.process()
    wait_until(lambda: fails(("EIDRM", "EHOSTDOWN"), b.attach, old) == "EIDRM", what="EIDRM")
    fails("SIGBUS", b.load, at, 0)
    at, new = None, a.get(66, PAGE)
    at = b.attach(new)
    b.zeros(at, PAGE)


def test_left_in_good_order(two):
    one, other = two
    a, b = (p.process() for p in two)
    shmid = a.get(67, PAGE)
    b.detach(b.attach(shmid))
    assert one.shutdown().returncode == 0
    wait_until(lambda: other.state("one") in (None, "absent"), what="it is seen to leave")
    assert b.number("count") == 1
    fails(("EHOSTDOWN", "EIDRM", "EINVAL"), b.attach, shmid)
    assert b.get(67, PAGE) != shmid
    one.start()
    other.sees("one", "alive")
    assert b.number("count") == 2


def test_importer_dies(two):
    """RMID waits for an importer; when it dies, it waits no longer."""
    a, b = (p.process() for p in two)
    shmid, automatic = a.get(68, PAGE), a.get(69, PAGE)
    b.attach(shmid)
    b.attach(automatic)
    a.rmid(shmid)
    a.autormid(automatic)
    assert a.nattch(shmid) == a.nattch(automatic) == 1
    two[1].kill_all()
    a.is_removed(shmid)
    a.is_removed(automatic)
    wait_until(lambda: two[0].segments() == 0, what="nothing is left")


def test_nobody_waits_for_the_dead(two):
    """A call that waits for a partition which dies meanwhile."""
    a, b = (p.process() for p in two)
    shmid = a.get(70, PAGE)
    b.attach(shmid)
    pids = two[0].pids()
    stop(pids)
    b.send("ctl", shmid, 0)
    two[0].kill_all()
    begin = time.monotonic()
    fails(("EHOSTDOWN", "EIDRM", "EINVAL"), b.receive, "ctl", 30)
    within(two[0].fabric, 60, begin)


@pytest.mark.asan
def test_evict(two):
    one, other = two
    a, b = (p.process() for p in two)
    shmid = a.get(71, PAGE)
    at = b.attach(shmid)
    result = other.ctl("clshmctl", "evict", "one")
    assert result.returncode == 1 and "EBUSY" in result.stderr and "--force" in result.stderr
    assert b.nattch(shmid) == 1
    result = other.ctl("clshmctl", "evict", "--force", "one")
    assert result.returncode == 0, result.stderr
    one.expected_restarts += 1
    fails("SIGBUS", b.load, at, 0)
    other.sees("one", "alive")  # it noticed, dropped everything, and joined anew
    wait_until(lambda: (one.status() or {"daemon": {"restarts": 0}})["daemon"]["restarts"] == 1, what="it is back")
    a = one.process()
    wait_until(lambda: fails(("EIDRM", "EHOSTDOWN"), a.attach, shmid) == "EIDRM", what="EIDRM")
    new = a.get(71, PAGE)
    b.attach(new)
    assert a.nattch(new) == 1


@pytest.mark.timeout(120)
def test_revocation_while_others_use_it(two):
    """The home dies while programs read, fork, exit, attach and detach with all their might (helpers/victim.c)."""
    one, other = two
    for round_ in range(3):
        a = one.process()
        shmid = a.get(72, 64 * PAGE)
        at = a.attach(shmid)
        for page in range(64):
            a.store(at, page * PAGE, 1000 + round_)
        victims = [other.program("victim", shmid, 1000 + round_) for _ in range(2)]
        for victim in victims:
            assert victim.line() == "running"
        one.kill_all()
        for victim in victims:
            print(victim.finish(60))
        other.sees("one", "dead")
        one.start()
        other.sees("one", "alive")


def test_keeper_killed_alone(two):
    """The daemon does not outlive its keeper, for nobody would keep its descriptors."""
    a, b = (p.process() for p in two)
    shmid = a.get(73, PAGE)
    at = b.attach(shmid)
    pids = two[0].pids()
    os.kill(pids[0], signal.SIGKILL)
    for pid in pids:
        gone(pid)
    two[0].daemon.wait()
    two[0].daemon = None
    a.kill()
    two[1].sees("one", "dead")
    fails("SIGBUS", b.load, at, 0)


def test_a_program_that_stands_still(two):
    """A stopped program with attachments holds nobody up."""
    a, b = (p.process() for p in two)
    shmid = a.get(74, PAGE)
    b.attach(shmid)
    stop([b.pid])
    assert a.nattch(shmid) == 1
    assert two[1].process().nattch(shmid) == 1
    a.rmid(shmid)
    go_on([b.pid])
    b.exit()
    a.is_removed(shmid)


def test_no_false_death_under_load(two):
    """Every processor busy: nobody is given up."""
    burners = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(3 * (os.cpu_count() or 1))]
    try:
        a, b = (p.process() for p in two)
        incarnations = [p["incarnation"] for p in two[0].status()["partitions"]]
        end = time.monotonic() + 40 * two[0].fabric.heartbeat
        while time.monotonic() < end:
            shmid = a.get(75, PAGE)
            try:
                b.detach(b.attach(shmid))
            except Exception as error:  # pylint: disable=broad-except
                assert getattr(error, "name", "") == "EHOSTDOWN", error  # stalled it may seem
            a.rmid(shmid)
        two[0].sees("two", "alive")
        two[1].sees("one", "alive")
        assert [p["incarnation"] for p in two[0].status()["partitions"]] == incarnations
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
