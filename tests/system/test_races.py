# SPDX-License-Identifier: GPL-2.0-or-later
"""Many rounds of what must never go wrong, in tight loops of C (helpers/race.c, helpers/orphan.c)."""

import pytest

ROUNDS = 10000


def race(two, fabric, *more):
    path = fabric.dir / "step"
    path.touch()
    path.chmod(0o666)
    programs = [p.program("race", path, side, ROUNDS, 0x100000, *more) for side, p in enumerate(two)]
    return [int(p.finish(120).split()[3]) for p in programs]


@pytest.mark.timeout(180)
def test_two_partitions_create_one_key(two, kind_fabric):
    won = race(two, kind_fabric)
    assert sum(won) == ROUNDS
    assert all(w > ROUNDS // 100 for w in won), f"this was no race: {won}"
    for p in two:
        assert p.segments() == 0


@pytest.mark.timeout(180)
def test_two_partitions_create_one_key_exclusively(two, kind_fabric):
    won = race(two, kind_fabric, "excl")
    assert sum(won) == ROUNDS
    assert all(w > ROUNDS // 100 for w in won), f"this was no race: {won}"
    for p in two:
        assert p.segments() == 0


def test_two_programs_create_one_key(one, kind_fabric):
    path = kind_fabric.dir / "step"
    path.touch()
    path.chmod(0o666)
    programs = [one.program("race", path, side, 3000, 0x100000, "excl") for side in (0, 1)]
    assert sum(int(p.finish().split()[3]) for p in programs) == 3000
    assert one.segments() == 0


@pytest.mark.timeout(180)
def test_orphan_finds_its_data(one):
    """AUTORMID, fork, and the parent is gone before the child runs: 1,000 rounds."""
    one.program("orphan", 1000).finish(150)
    assert one.segments() == 0


@pytest.mark.timeout(120)
def test_orphan_of_a_distant_segment(two):
    two[1].program("orphan", 200, "one").finish(100)
    for p in two:
        assert p.segments() == 0


@pytest.mark.asan
def test_orphan_briefly(one):
    one.program("orphan", 20).finish()
    assert one.segments() == 0
