# SPDX-License-Identifier: GPL-2.0-or-later
"""What docs/memory-model.md says of a local fabric, statement by statement: one process in each of two partitions
(helpers/locks.c). As root the partitions differ in their PID namespaces."""

import re

import clshm
import pytest

ROUNDS = {"atomic": 300000, "publish": 3000, "futex": 3000, "mutex": 100000, "rwlock": 20000, "spin": 20000, "cond": 3000,
          "sem": 3000, "barrier": 3000}


def pair(partitions, what, rounds):
    a = partitions[0].process()
    shmid = a.get(81, 1 << 16)
    programs = [p.program("locks", what, shmid, side, rounds) for side, p in enumerate(partitions)]
    return programs


@pytest.mark.parametrize("what", ROUNDS)
def test_works_across_partitions(two, what):
    """C11 atomics and their order, futexes, and pthread objects with PTHREAD_PROCESS_SHARED."""
    for program in pair(two, what, ROUNDS[what]):
        program.finish()


@pytest.mark.parametrize("what", ["mutex", "cond", "sem"])
def test_works_between_programs_of_one_partition(one, what):
    for program in pair((one, one), what, ROUNDS[what]):
        program.finish()


def test_robust_mutex_within_a_partition(one):
    """Its owner dies: EOWNERDEAD for the next one."""
    first, second = pair((one, one), "robust", 1)
    assert first.finish() == "ok died holding it"
    assert second.finish() == "ok EOWNERDEAD"


def test_robust_mutex_across_partitions_owner_dies(two):
    """The kernel walks the dying thread's list in its own namespace: this much works on one kernel."""
    first, second = pair(two, "robust", 1)
    assert first.finish() == "ok died holding it"
    assert second.finish() == "ok EOWNERDEAD"


@pytest.mark.skipif(not clshm.IS_ROOT, reason="needs PID namespaces of its own: run as root")
def test_priority_inheritance(fabric):
    """The kernel finds the owner of a lock only in the waiter's own PID namespace: elsewhere there is none of that id."""
    one, other = (fabric.partition(name) for name in ("one", "two"))
    one.sees(other, "alive")
    other.sees(one, "alive")
    for i, (partner, says) in enumerate(((one, "ETIMEDOUT"), (other, "ESRCH"))):
        shmid = one.process().get(90 + i, 1 << 16)
        holder = numbered(one, 800, "pi", shmid, 0)
        waiter = partner.program("locks", "pi", shmid, 1, 1)
        assert waiter.finish() == f"ok {says}"
        assert holder.finish() == "ok held"


def numbered(part, tid, *arguments):
    """locks, with a thread id of our choice."""
    command = f"echo {tid - 1} >/proc/sys/kernel/ns_last_pid && {clshm.binary('locks')} {' '.join(map(str, arguments))} 1; exit $?"
    return clshm.Program(part, part.inside("sh", "-c", command), {})


@pytest.mark.skipif(not clshm.IS_ROOT, reason="needs PID namespaces of its own: run as root")
def test_robust_mutex_thread_ids_collide(fabric):
    """Why robust mutexes are for one PID namespace only: two threads of two partitions can have the same id, and each
    takes itself for the owner of what the other one holds. Shown with an error-checking mutex, which says so."""
    parts = [fabric.partition(name) for name in ("one", "two")]
    parts[0].sees(parts[1], "alive")
    parts[1].sees(parts[0], "alive")
    shmid = parts[0].process().get(82, 1 << 16)
    programs = [numbered(part, 700, "tid", shmid, side) for side, part in enumerate(parts)]
    holder, asker = (p.finish() for p in programs)
    tid = int(re.fullmatch(r"ok tid (\d+)", holder).group(1))
    other, owner, says = re.fullmatch(r"ok tid (\d+) owner (\d+) says (\w+)", asker).groups()
    assert int(owner) == tid
    assert int(other) == tid, "both threads have one id, each in its namespace"
    assert says == "EDEADLK", "and the second takes itself for the owner"
