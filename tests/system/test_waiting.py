# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting: what an idle daemon costs, and that it is awake again at once."""

import time
from pathlib import Path

from clshm import IPC_PRIVATE, wait_until

PAGE = 4096
SECONDS = 3.0
BEATS = 10  # a second, of the fabrics made here (100 ms)


def spent(pid):
    """Times that all threads of a process went to sleep, and seconds of CPU time."""
    switches, ran = 0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                switches += int(line.split()[1])
        ran += int((task / "schedstat").read_text().split()[0])
    return switches, ran / 1e9


def idle_cost(pid):
    """What a process costs in a second."""
    before, begin = spent(pid), time.monotonic()
    time.sleep(SECONDS)
    after, took = spent(pid), time.monotonic() - begin
    return tuple((a - b) / took for a, b in zip(after, before))


def test_idle_daemon(fabric):
    """Its heartbeat and no more: three threads that wake at each beat, and a thousandth of a CPU or so. With partitions
    and clients that have been busy, too."""
    one, two = fabric.partition("one"), fabric.partition("two")
    a, b = one.process(), two.process()
    for _ in range(300):  # they wait awake for what follows, and must stop doing so
        shmid = a.get(IPC_PRIVATE, PAGE)
        b.stat(shmid)
        a.rmid(shmid)
    for part in (one, two):
        pid = part.daemon_pid()
        wait_until(lambda pid=pid: idle_cost(pid)[0] < 8 * BEATS, what="it settles")
        switches, ran = idle_cost(pid)
        assert switches < 8 * BEATS, f"{switches:.0f} times awake in a second"
        assert ran < 0.01, f"{ran:.4f} s of CPU time in a second"
