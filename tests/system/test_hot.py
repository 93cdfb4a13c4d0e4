# SPDX-License-Identifier: GPL-2.0-or-later
"""The calls that send no message against whatever makes what they know wrong (rule 9; helpers/hotrace.c).

CLSHM_ROUNDS sets the rounds of each race; the simulator (tests/sim/sim_attach.c) goes through the same steps one load and
store at a time.
"""

import os
import struct

import pytest
from clshm import IS_ROOT, LIMIT, USER, XpError, fails, wait_until

ROUNDS = int(os.environ.get("CLSHM_ROUNDS", "1500"))
PAGE = 4096
KEY = 0x300000
SECONDS = 60 + ROUNDS // 100  # a round is some messages; the machine may be busy


def step_file(fabric):
    path = fabric.dir / "step"
    path.write_bytes(bytes(24))
    path.chmod(0o666)
    return path


def race(fabric, mode, parts, rounds=ROUNDS, user=None):
    """One program in each of the two partitions. How often the second one attached, and was refused."""
    path = step_file(fabric)
    programs = [p.program("hotrace", mode, path, side, rounds, KEY, user=user) for side, p in enumerate(parts)]
    lines = [p.finish(SECONDS).split() for p in reversed(programs)][::-1]  # the second one has more to complain of
    print(mode, lines)
    assert all(line[:2] == ["ok", str(rounds)] for line in lines)
    return int(lines[1][3]), int(lines[1][5])


def nothing_left(*parts):
    for p in parts:
        wait_until(lambda p=p: p.segments() == 0, what="no segment is left")


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("mode", ["rmid", "autormid"])
def test_removal(two, kind_fabric, mode):
    attached, refused = race(kind_fabric, mode, two)
    assert attached >= ROUNDS and refused >= ROUNDS  # each round at least once: before, and after
    nothing_left(*two)


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("mode", ["rmid", "autormid"])
def test_removal_at_home(one, kind_fabric, mode):
    race(kind_fabric, mode, (one, one))
    nothing_left(one)


@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize("distant", [True, False], ids=["distant", "home"])
def test_rights(two, kind_fabric, distant):
    """Root may attach whatever the mode, so the programs are another's."""
    parts = two if distant else (two[0], two[0])
    attached, refused = race(kind_fabric, "set", parts, user=USER if IS_ROOT else None)
    assert attached > ROUNDS // 100 and refused > ROUNDS // 100, f"this was no race: {attached} and {refused}"
    nothing_left(*two)


@pytest.mark.timeout(SECONDS + 60)
def test_key_of_another_segment(two, kind_fabric):
    """Removed by one partition, created again by the other, by turns."""
    race(kind_fabric, "keys", two)
    nothing_left(*two)


@pytest.mark.timeout(SECONDS + 60)
def test_key_and_rights(two, kind_fabric):
    race(kind_fabric, "keyset", two, user=USER if IS_ROOT else None)
    nothing_left(*two)


class Hammer:
    """A program that attaches without pause what it is told to."""

    def __init__(self, part, user=None):
        self.path = step_file(part.fabric)
        self.program = part.program("hotrace", "hammer", self.path, 1, 0, KEY, user=user)
        self.tell(-1)
        assert self.program.line() == "ready"

    def tell(self, shmid):
        with open(self.path, "r+b") as file:
            file.seek(8)
            file.write(struct.pack("q", shmid))

    def attached(self):
        return struct.unpack("q", self.path.read_bytes()[16:24])[0]

    def goes_on(self):
        before = self.attached()
        wait_until(lambda: self.attached() > before + 20, what="it attaches")

    def finish(self):
        self.tell(0)
        return self.program.finish()


def is_refused(process, shmid):
    try:
        process.detach(process.attach(shmid))
        return False
    except XpError as error:
        assert error.name in ("EHOSTDOWN", "EIDRM", "EINVAL")
        return True


def is_unknown(process, key):
    try:
        process.get(key, 0, 0)
        return False
    except XpError as error:
        assert error.name == "ENOENT"
        return True


def segment_with_its_id(process, key=0):
    shmid = process.get(key, PAGE)
    at = process.attach(shmid)
    process.store(at, 0, shmid)
    return shmid


@pytest.mark.timeout(180)
def test_home_dies(two):
    """All of it at once, and it comes back, with other segments under the same slots."""
    one, other = two
    hammer, watcher = Hammer(other), other.process()
    for _ in range(max(3, min(ROUNDS // 500, 50))):
        shmid = segment_with_its_id(one.process(), KEY)
        assert watcher.get(KEY, 0, 0) == shmid and watcher.get(KEY, 0, 0) == shmid
        hammer.tell(shmid)
        hammer.goes_on()
        one.kill_all()
        other.sees("one", "dead")
        wait_until(lambda s=shmid: is_refused(watcher, s), what="refused")
        fails("ENOENT", watcher.get, KEY, 0, 0)
        one.start()
        other.sees("one", "alive")
        fails("EIDRM", watcher.attach, shmid)
        fails("ENOENT", watcher.get, KEY, 0, 0)
    hammer.finish()


@pytest.mark.timeout(180)
def test_home_is_evicted(two):
    one, other = two
    hammer, watcher = Hammer(other), other.process()
    for i in range(max(2, min(ROUNDS // 500, 50))):
        shmid = segment_with_its_id(one.process(), KEY)
        assert watcher.get(KEY, 0, 0) == shmid and watcher.get(KEY, 0, 0) == shmid
        hammer.tell(shmid)
        hammer.goes_on()
        result = other.ctl("clshmctl", "evict", "--force", "one")
        assert result.returncode == 0, result.stderr
        one.expected_restarts += 1
        # evict answers before all have noticed; the evicted one may be the first, and revoke its memory itself
        wait_until(lambda s=shmid: is_refused(watcher, s), what="refused")
        wait_until(lambda: is_unknown(watcher, KEY), what="the key is gone")
        other.sees("one", "alive")
        wait_until(lambda n=i + 1: (one.status() or {"daemon": {"restarts": 0}})["daemon"]["restarts"] == n, LIMIT,
                   "it is back")
        fails("EIDRM", watcher.attach, shmid)
    hammer.finish()


@pytest.mark.skipif(not IS_ROOT, reason="only root may become another user")
@pytest.mark.parametrize("part", [0, 1], ids=["home", "distant"])
def test_another_user(new_fabric, part):
    """What root has cached, descriptors and keys, is not this user's."""
    fabric = new_fabric()
    two = [fabric.partition(name, "root") for name in ("one", "two")]
    two[1].sees("one", "alive")
    two[0].sees("two", "alive")
    owner, p = two[0].process(), two[part].process()
    shmid = owner.get(KEY, PAGE, 0o1600)
    at = p.attach(p.get(KEY, 0, 0o600))
    p.detach(at)
    p.detach(p.attach(shmid))
    p.call("setuid", USER, USER)
    fails("EACCES", p.attach, shmid)
    fails("EACCES", p.get, KEY, 0, 0o600)
    owner.rmid(shmid)
    nothing_left(*two)
