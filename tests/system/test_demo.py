# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo is a test too: as root in namespaces, as a user without; and it cleans up when it is interrupted."""

import os
import signal
import subprocess
import time

import clshm
import pytest
from clshm import wait_until


def start(fabric, user, **more):
    env = fabric.environment(CLSHM_BUILD=clshm.BUILD, CLSHM_DEMO_DIR=fabric.home, **more)
    return subprocess.Popen([*clshm.become(user), str(clshm.ROOT / "demo/run")], env=env, text=True, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def leftovers(fabric):
    return [name for name in os.listdir(fabric.home) if name.startswith("clshm-demo")]


@pytest.mark.timeout(120)
def test_demo(fabric, kind):
    begin = time.monotonic()
    demo = start(fabric, clshm.USER if kind == "user" and clshm.IS_ROOT else None)
    out, _ = demo.communicate(timeout=100)
    assert demo.returncode == 0, out
    assert time.monotonic() - begin < 60
    assert not clshm.marked(fabric.mark)
    assert not leftovers(fabric)


@pytest.mark.timeout(60)
def test_demo_of_a_given_file(fabric, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1234567))
    demo = start(fabric, None, FILE=path)
    out, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0, out
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
    assert digest[:16] in out and str(path) in out
    demo = start(fabric, None, FILE="/nonexistent")
    out, _ = demo.communicate(timeout=60)
    assert demo.returncode != 0 and "/nonexistent" in out


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_demo_interrupted(fabric, sig):
    demo = start(fabric, None)
    while "agree" not in demo.stdout.readline():
        assert demo.poll() is None
    os.kill(demo.pid, sig)
    demo.communicate(timeout=30)
    assert demo.returncode != 0
    wait_until(lambda: not clshm.marked(fabric.mark), what="all processes of the demo end")
    if sig != signal.SIGKILL:
        assert not leftovers(fabric)
