# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures: fabrics that are always taken down, and the kinds of partition that this user can make."""

import ctypes
import os
import resource
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

import clshm  # noqa: E402  pylint: disable=wrong-import-position

PR_SET_CHILD_SUBREAPER = 36
KINDS = ["root", "user"] if clshm.IS_ROOT else ["user"]


def pytest_configure():
    # What the programs under test leave behind comes to this process, and not to whatever process 1 is here.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    clshm.publish()


def shm_files():
    """What clshm may leave in /dev/shm. Others' tests may run at the same time, so only what names this process's user."""
    return {name for name in os.listdir("/dev/shm") if name.startswith("clshm")}


@pytest.fixture
def new_fabric():
    """A function that makes fabrics, which are closed and checked for what is left over at the end."""
    made = []

    def make(*options, **more):
        made.append(clshm.Fabric(*options, **more))
        return made[-1]

    yield make
    errors = []
    for fabric in made:
        try:
            fabric.close()
        except AssertionError as error:
            errors.append(str(error))
        if fabric.dir.exists():
            errors.append(f"{fabric.dir} is left")
    assert not errors, "\n".join(errors)


@pytest.fixture
def fabric(new_fabric):
    return new_fabric()


@pytest.fixture(params=KINDS)
def kind(request):
    """Partitions in namespaces as root, and plain ones of an unprivileged user."""
    return request.param


@pytest.fixture
def kind_fabric(new_fabric, kind):
    """A fabric whose owner can be the partitions' user."""
    return new_fabric(owner=clshm.USER if kind == "user" and clshm.IS_ROOT else None)


@pytest.fixture
def one(kind_fabric, kind):
    return kind_fabric.partition("one", kind)


@pytest.fixture
def two(kind_fabric, kind):
    """Two partitions that see each other."""
    a, b = kind_fabric.partition("one", kind), kind_fabric.partition("two", kind)
    a.sees(b, "alive")
    b.sees(a, "alive")
    return a, b


@pytest.fixture
def three(kind_fabric, kind):
    parts = [kind_fabric.partition(name, kind) for name in ("one", "two", "three")]
    for a in parts:
        for b in parts:
            a.sees(b, "alive")
    return parts
