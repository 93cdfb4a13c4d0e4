# SPDX-License-Identifier: GPL-2.0-or-later
"""Pairs of versions. Minors differ: both ways it works. Majors differ: EPROTO, and the log says who had which."""

import subprocess

import clshm
import pytest
from clshm import fails, wait_until

PAGE = 4096


@pytest.fixture(scope="session")
def build_of(pytestconfig):
    """The build directory of a daemon, library or fabric that claims another version. Kept in the build tree, so that
    the next run only looks whether it is up to date."""
    def make(**versions):
        name = "-".join(f"{piece}-{version}" for piece, version in sorted(versions.items()))
        directory = clshm.BUILD_TREE / "versions" / name
        options = [f"-D{piece}_version={version}" for piece, version in versions.items()]
        if not (directory / "build.ninja").exists():
            run("meson", "setup", "--buildtype=debug", "-Dman=false", "-Dtests=false", *options, directory, pytestconfig.rootpath.parents[1])
        run("ninja", "-C", directory, "-j2", "src/daemon/clshmd", "src/lib/libclshm.so.1.0.0")
        return directory

    return make


def run(*command):
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def library(build):
    return {"LD_LIBRARY_PATH": build / "src/lib"}


def works(*programs):
    shmid = programs[0].get(1, PAGE)
    for i, p in enumerate(programs):
        at = p.attach(p.get(1, 0, 0))
        p.store(at, 0, i)
        assert programs[0].nattch(shmid) == 1
        p.detach(at)
    programs[-1].rmid(shmid)
    programs[0].is_removed(shmid)


@pytest.mark.timeout(240)
def test_newer_library(fabric, build_of):
    one = fabric.partition("one")
    works(one.process(), one.process(**library(build_of(lib="1.1"))))


@pytest.mark.timeout(240)
def test_newer_daemon(fabric, build_of):
    one = fabric.partition("one", build=build_of(daemon="1.1"))
    works(one.process(), one.process())
    assert one.status()["daemon"]["version"] == "1.1"


@pytest.mark.timeout(240)
def test_daemons_of_different_minors(fabric, build_of):
    one, two = fabric.partition("one"), fabric.partition("two", build=build_of(daemon="1.1"))
    one.sees(two, "alive")
    two.sees(one, "alive")
    works(one.process(), two.process())
    works(two.process(), one.process())


@pytest.mark.timeout(240)
def test_library_of_another_major(fabric, build_of):
    one = fabric.partition("one")
    new = one.process(**library(build_of(lib="2.0")))
    for call in (lambda: new.get(1), new.ftok, lambda: new.attach(1), lambda: new.stat(1), lambda: new.number("self"),
                 lambda: new.number("count")):
        fails("EPROTO", call)
    wait_until(lambda: "2.0" in one.log() and "1.0" in one.log(), what="the log says who had which")
    one.process().get(1)


@pytest.mark.timeout(240)
def test_daemon_of_another_major(fabric, build_of):
    one = clshm.Partition(fabric, "one", clshm.default_kind(), build=build_of(daemon="2.0"))
    one.start()
    fails("EPROTO", one.process().get, 1)
    wait_until(lambda: "2.0" in one.log() and "1.0" in one.log(), what="the log says who had which")
    result = one.ctl("clshmctl", "status")
    assert result.returncode == 3 and "EPROTO" in result.stderr


@pytest.mark.timeout(240)
def test_daemons_of_different_majors(fabric, build_of):
    """They do not talk, and say so; each serves its own programs."""
    one, two = fabric.partition("one"), fabric.partition("two", build=build_of(daemon="2.0", lib="2.0"))
    a, b = one.process(), two.process(**library(build_of(daemon="2.0", lib="2.0")))
    theirs = b.get(1, PAGE)
    mine = a.get(2, PAGE)
    a.detach(a.attach(mine))
    b.detach(b.attach(theirs))
    for call in (lambda: a.attach(theirs), lambda: a.rmid(theirs), lambda: a.ftok("two"), lambda: b.attach(mine)):
        fails("EPROTO", call)
    fails("EPROTO", a.get, 1, 0, 0)
    for part in (one, two):
        wait_until(lambda part=part: "do not talk (EPROTO)" in part.log() and "2.0" in part.log(), what="the log says who had which")


@pytest.mark.timeout(240)
def test_fabric_of_another_major(fabric, build_of):
    one = clshm.Partition(fabric, "one", clshm.default_kind(), build=build_of(fabric="2.0"))
    one.start(check=False)
    assert one.daemon.wait(clshm.LIMIT) == 1
    one.daemon = None
    assert "version 1.0" in one.log() and "version 2" in one.log()
