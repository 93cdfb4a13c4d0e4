# SPDX-License-Identifier: GPL-2.0-or-later
"""The tools on a living fabric: what they show is what is there."""

import json

import clshm
import pytest
from clshm import IPC_CREAT, IPC_PRIVATE, wait_until

PAGE = 4096


def as_json(part, tool, *arguments):
    result = part.ctl(tool, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.asan
def test_status(two):
    a, b = (p.process() for p in two)
    shmid = a.get(1, 3 * PAGE)
    a.ftok()
    b.attach(shmid)
    s = two[0].status()
    assert s["segments"]["hosted"] >= 1 and s["segments"]["reserved_keys"] == 1 and s["segments"]["imported"] == 0
    assert s["memory"]["bytes"] == 3 * PAGE
    assert s["partition"]["name"] == "one"
    assert {p["name"]: p["state"] for p in s["partitions"]} == {"one": "alive", "two": "alive"}
    t = two[1].status()
    assert t["segments"]["imported"] == 1 and t["clients"]["attachments"] == 1
    text = two[0].ctl("clshmctl", "status").stdout
    for word in ("one", "two", "alive", "fabric"):
        assert word in text


def test_diag(two):
    assert two[0].ctl("clshm_diag").returncode == 0
    two[1].stop()
    result = two[0].ctl("clshm_diag")
    assert result.returncode == 4, result
    two[1].go_on()
    two[0].sees("two", "alive")
    wait_until(lambda: two[0].ctl("clshm_diag").returncode == 0, what="it answers again")


@pytest.mark.asan
def test_xpipcs(two):
    a, b = (p.process() for p in two)
    ids = {a.get(0x77, 100, IPC_CREAT | 0o640), b.get(IPC_PRIVATE, 5000)}
    a.attach(min(ids))
    for part in two:
        listing = as_json(part, "xpipcs")
        text = part.ctl("xpipcs").stdout
        assert isinstance(listing, dict) and len(listing) == 1
        rows = next(iter(listing.values()))
        assert {int(row["id"]) for row in rows} == ids
        for shmid in ids:
            assert str(shmid) in text


def test_xpipcmk_and_xpipcrm(two):
    a = two[0].process()
    result = two[1].ctl("xpipcmk", "-M", "64K")
    assert result.returncode == 0, result.stderr
    shmid = int("".join(c if c.isdigit() else " " for c in result.stdout).split()[-1])
    assert a.stat(shmid)["size"] == 65536
    result = two[0].ctl("xpipcrm", "-m", shmid)
    assert result.returncode == 0, result.stderr
    a.is_removed(shmid)
    assert two[0].ctl("xpipcrm", "-m", shmid).returncode == 1


@pytest.mark.asan
def test_settings(one):
    assert one.ctl("clshmctl", "timeout", "333").returncode == 0
    assert one.ctl("clshmctl", "maxdpgs", "8").returncode == 0
    text = one.ctl("clshmctl", "getcfg").stdout
    assert "333" in text and "8" in text
    one.process().get(1, PAGE)


def test_startup_and_shutdown(fabric):
    """As a user types it: startup in the background, the daemon goes on, shutdown ends it."""
    sock, log = fabric.dir / "s" / "sock", fabric.dir / "startup.log"
    where = ["-f", fabric.path, "-p", "web", "-s", sock]
    env = {"CLSHMD": clshm.binary("clshmd")}
    result = fabric.run("clshmctl", *where, "startup", "--log", log, env=env)
    try:
        assert result.returncode == 0, result.stderr
        assert "web" in result.stdout and str(sock) in result.stdout
        again = fabric.run("clshmctl", *where, "startup", env=env)
        assert again.returncode == 0 and "already" in again.stdout
        assert fabric.run("clshm_diag", "-s", sock).returncode == 0
        assert fabric.run("clshmctl", "rmfabric", fabric.path).returncode == 1
    finally:
        result = fabric.run("clshmctl", "shutdown", "-s", sock)
    assert result.returncode == 0, result.stderr
    assert fabric.run("clshmctl", "status", "-s", sock).returncode == 3
    wait_until(lambda: not clshm.marked(fabric.mark), what="nothing runs any more")
    result = fabric.run("clshmctl", "rmfabric", fabric.path)
    assert result.returncode == 0, result.stderr
    assert not fabric.path.exists()
