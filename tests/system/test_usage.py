# SPDX-License-Identifier: GPL-2.0-or-later
"""Tools without a daemon: usage errors (2), an unreachable daemon (3) with its hint, help that matches the manual."""
import json
import os
import pathlib
import re
import socket
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("CLSHM_BUILD", ROOT / "build"))
TOOLS = BUILD / "src" / "tools"
NAMES = ["clshmctl", "clshm_diag", "xpipcs", "xpipcrm", "xpipcmk"]
COMMANDS = ["mkfabric", "rmfabric", "startup", "shutdown", "status", "getcfg", "maxpgs", "maxdpgs", "timeout", "evict"]
MANUAL = {"clshmctl": "clshmctl.8", "clshm_diag": "clshm_diag.8", "xpipcs": "xpipcs.1", "xpipcrm": "xpipcrm.1",
          "xpipcmk": "xpipcmk.1"}
COMMON = {"--fabric", "--partition", "--socket", "--json", "--help", "--usage", "--version"}


@pytest.fixture
def run(tmp_path):
    """run(tool, arguments...) -> the finished process. Nobody listens where the environment points."""
    def go(tool, *arguments, **environment):
        env = {key: value for key, value in os.environ.items() if not key.startswith(("CLSHM", "XDG_"))}
        env.update(LC_ALL="C", HOME=str(tmp_path), CLSHM_SOCKET=str(tmp_path / "nobody"), CLSHM_FABRIC=str(tmp_path / "none"))
        env.update(environment)
        return subprocess.run([TOOLS / tool, *arguments], env=env, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=30, cwd=tmp_path)
    return go


@pytest.mark.parametrize("line", [
    "clshmctl",
    "clshmctl nonsense",
    "clshmctl --nonsense status",
    "clshmctl status extra",
    "clshmctl status --nonsense",
    "clshmctl startup extra",
    "clshmctl shutdown extra",
    "clshmctl shutdown --nonsense",
    "clshmctl maxpgs",
    "clshmctl maxpgs 12x",
    "clshmctl maxpgs 18446744073709551616",
    "clshmctl maxpgs 1 2",
    "clshmctl maxpgs -1",
    "xpipcrm -12",
    "clshmctl maxdpgs 0",
    "clshmctl maxdpgs 1025",
    "clshmctl timeout 60001",
    "clshmctl timeout soon",
    "clshmctl evict",
    "clshmctl evict a b",
    "clshmctl mkfabric a b",
    "clshmctl mkfabric .hidden",
    "clshmctl mkfabric x --partitions 0",
    "clshmctl mkfabric x --partitions 65",
    "clshmctl mkfabric x --slots 100",
    "clshmctl mkfabric x --slots 65536",
    "clshmctl mkfabric x --granule 2K",
    "clshmctl mkfabric x --granule 5K",
    "clshmctl mkfabric x --granule 18446744073709551616",
    "clshmctl mkfabric x --granule 17179869184G",
    "clshmctl mkfabric x --heartbeat 0",
    "clshmctl mkfabric x --group no-such-group",
    "clshmctl mkfabric x --mode 0070",
    "clshmctl mkfabric x --mode 9",
    "clshmctl rmfabric a b",
    "clshm_diag extra",
    "clshm_diag --nonsense",
    "xpipcs extra",
    "xpipcs -o NONSENSE",
    "xpipcs -o KEY,",
    "xpipcs -i -1",
    "xpipcs -i x",
    "xpipcs -p a/b",
    "xpipcrm",
    "xpipcrm 1x",
    "xpipcrm 2147483648",
    "xpipcrm -M 0",
    "xpipcrm -M 4294967296",
    "xpipcmk",
    "xpipcmk -M 0",
    "xpipcmk -M 1Q",
    "xpipcmk -M 4K -m 1000",
    "xpipcmk -M 4K -k 0",
    "xpipcmk -M 4K -k 1 --private",
    "xpipcmk -M 4K -k 1 --on web",
    "xpipcmk -M 4K extra",
])
def test_usage(run, line, tmp_path):
    done = run(*line.split())
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(line.split()[0])
    assert not (tmp_path / "x").exists()


def test_negative_numbers(run):
    for line in ("clshmctl maxpgs -12", "clshmctl -p 1 timeout -3 -j", "xpipcrm 12 -3"):
        done = run(*line.split())
        assert done.returncode == 2
        assert re.search(r": -(12|3): numbers are not negative", done.stderr), done.stderr


@pytest.mark.parametrize("line", [
    *(f"clshmctl {command}" for command in ["shutdown", "status", "getcfg", "maxpgs 1", "maxdpgs 1", "timeout 10",
                                            "evict web"]),
    "clshm_diag", "xpipcs", "xpipcs -i 1", "xpipcrm 1", "xpipcrm -a", "xpipcmk -M 4K",
])
@pytest.mark.parametrize("json_too", [False, True])
def test_unreachable(run, line, json_too, tmp_path):
    done = run(*line.split(), *(["-j"] if json_too else []))
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    first, hint = done.stderr.splitlines()
    assert re.fullmatch(rf"{line.split()[0]}: {re.escape(str(tmp_path))}/nobody: .+ \(E[A-Z]+\)", first)
    assert hint == "hint: clshmctl startup"


def test_hint_repeats_the_options(run):
    done = run("clshmctl", "-p", "web", "status", "--socket", "/nowhere/sock")
    assert done.returncode == 3
    assert done.stderr.splitlines()[1] == "hint: clshmctl -p web -s /nowhere/sock startup"


def test_option_beats_environment(run, tmp_path):
    """-p is an option, CLSHM_SOCKET is not: the partition's socket is asked for, in the runtime directory."""
    runtime = tmp_path / "run"
    (runtime / "clshm" / "web").mkdir(parents=True)
    (runtime / "clshm" / "web" / "sock").touch()
    done = run("clshmctl", "-p", "web", "status", XDG_RUNTIME_DIR=str(runtime))
    assert done.returncode == 3
    assert f"{runtime}/clshm/web/sock: " in done.stderr


def test_no_daemon_but_a_listener(run, tmp_path):
    """Somebody who hangs up, and somebody who answers nonsense, are not daemons."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / "nobody"))
    listener.listen()
    env = {**os.environ, "LC_ALL": "C", "CLSHM_SOCKET": str(tmp_path / "nobody")}
    for answer in [None, b"nonsense", b"\0" * 72]:
        child = subprocess.Popen([TOOLS / "clshm_diag"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        peer, _ = listener.accept()
        peer.recv(8192)
        if answer is not None:
            peer.send(answer)
        peer.close()
        out, err = child.communicate(timeout=30)
        assert child.returncode == 3, err
        assert out == ""
        assert re.search(r"\(E[A-Z]+\)$", err.splitlines()[0])
    listener.close()


@pytest.mark.parametrize("tool", NAMES)
def test_help_and_version(run, tool):
    done = run(tool, "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"Usage: {tool}")
    done = run(tool, "--version")
    assert done.returncode == 0
    assert re.match(rf"{tool} \(clshm\) \d+\.\d+\.\d+", done.stdout)


def long_options(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


@pytest.mark.parametrize("tool", NAMES)
def test_manual_names_every_option(run, tool):
    """And no other: the page and the program agree."""
    texts = [run(tool, "--help").stdout]
    if tool == "clshmctl":
        texts += [run(tool, command, "--help").stdout for command in COMMANDS]
    real = set().union(*(long_options(text) for text in texts)) - COMMON
    page = (ROOT / "man" / f"{MANUAL[tool]}.scd").read_text()
    assert long_options(page.replace("\\", "")) - COMMON == real


def test_manual_names_every_command(run):
    listed = re.findall(r"^  ([a-z]+) ", run("clshmctl", "--help").stdout.split("Commands:")[1], re.M)
    page = (ROOT / "man" / "clshmctl.8.scd").read_text()
    assert listed == COMMANDS
    assert re.findall(r"^\*clshmctl\* \[_options_\] \*([a-z]+)\*", page, re.M) == COMMANDS
    assert set(re.findall(r"^\*([a-z]+)\*", page.split("# COMMANDS")[1].split("# EXIT")[0], re.M)) == set(COMMANDS)


def test_manual_names_every_column(run):
    columns = re.findall(r"^  ([A-Z]+) ", run("xpipcs", "--help").stdout.split("Columns:")[1], re.M)
    page = (ROOT / "man" / "xpipcs.1.scd").read_text().split("# COLUMNS")[1]
    assert set(re.findall(r"\*([A-Z]+)\*", page)) == set(columns)


def test_manual_of_the_daemon_names_every_option():
    text = subprocess.run([BUILD / "src" / "daemon" / "clshmd", "--help"], capture_output=True, text=True, check=True).stdout
    page = (ROOT / "man" / "clshmd.8.scd").read_text()
    assert long_options(page) - {"--usage"} == long_options(text) - {"--usage"}


def test_manual_of_the_configuration():
    """Every key of the daemon's table, no other, in its section; and the defaults that config_init() sets."""
    source = (ROOT / "src" / "daemon" / "config.c").read_text()
    keys = set(re.findall(r'^    \{"(\w+)", "([\w-]+)", TYPE', source, re.M))
    limits = dict(re.findall(r'^    LIMIT\("([\w-]+)", TYPE_\w+, (\w+)\)', source, re.M))
    assert keys and limits
    page = (ROOT / "man" / "clshmd.conf.5.scd").read_text()
    sections = dict(re.findall(r"^# \[(\w+)\]\n(.*?)(?=^# )", page, re.M | re.S))
    assert {(section, key) for section, text in sections.items() for key in re.findall(r"^\*([\w-]+)\* =", text, re.M)} \
        == keys | {("limits", key) for key in limits}
    init = source.split("void config_init")[1].split("\n}")[0]
    for key, field in limits.items():
        if key == "maxpgs":
            continue
        value = re.search(rf"\.{field} = (\d+)", init)
        text = re.search(rf"^\*{key}\* = .*\n\t(.*)", sections["limits"], re.M).group(1)
        assert re.search(rf"Default: {value.group(1) if value else 0}[;.]", text), key


def test_output_that_cannot_be_written(run):
    with open("/dev/full", "w") as full:
        done = subprocess.run([TOOLS / "clshmctl", "mkfabric", "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode in (0, 1)  # argp's own; it must not crash


def test_mkfabric_and_rmfabric(run, tmp_path):
    path = tmp_path / "fab"
    done = run("clshmctl", "mkfabric", str(path), "--partitions", "4", "--slots", "64", "--heartbeat", "50")
    assert done.returncode == 0, done.stderr
    assert f"fabric fab is at {path}" in done.stdout
    assert f"clshmctl -f {path} -p NAME startup" in done.stdout
    done = run("clshmctl", "mkfabric", str(path))
    assert done.returncode == 1
    assert "(EEXIST)" in done.stderr and f"hint: clshmctl rmfabric {path}" in done.stderr
    (path / "notes").touch()
    done = run("clshmctl", "rmfabric", str(path))
    assert done.returncode == 1 and "(EINVAL)" in done.stderr
    (path / "notes").unlink()
    done = run("clshmctl", "rmfabric", str(path), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"removed": str(path)}
    assert not path.exists()
    done = run("clshmctl", "rmfabric", str(path))
    assert done.returncode == 1 and "(ENOENT)" in done.stderr


def test_mkfabric_names_its_group_and_mode(run, tmp_path):
    group = os.getgid()
    done = run("clshmctl", "mkfabric", str(tmp_path / "fab"), "--group", str(group), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"fabric": "fab", "path": str(tmp_path / "fab")}
    st = (tmp_path / "fab").stat()
    assert st.st_mode & 0o7777 == 0o2770 and st.st_gid == group


def test_startup_without_a_fabric(run, tmp_path):
    done = run("clshmctl", "startup")
    assert done.returncode == 1
    assert f"{tmp_path}/none: there is no such fabric (ENOENT)" in done.stderr
    assert f"hint: clshmctl mkfabric {tmp_path}/none" in done.stderr


def test_startup_with_an_absent_configuration(run, tmp_path):
    """Nothing is made for a daemon that cannot start."""
    done = run("clshmctl", "startup", "--config", str(tmp_path / "conf"), CLSHM_FABRIC="")
    assert done.returncode == 1
    assert done.stderr == f"clshmctl: {tmp_path}/conf: cannot be read (ENOENT)\n"


def test_startup_shows_what_the_daemon_said(run, tmp_path):
    """A daemon that ends at once: what it said is shown, with its status; so is one that cannot be run."""
    assert run("clshmctl", "mkfabric").returncode == 0
    daemon = tmp_path / "daemon"
    daemon.write_text("#!/bin/sh\necho \"no room for $4\" >&2\nexit 1\n")
    daemon.chmod(0o755)
    done = run("clshmctl", "startup", CLSHMD=str(daemon))
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["no room for default",
                                        "clshmctl: clshmd: it ended with status 1 before its socket answered"]
    log = tmp_path / "log"
    log.write_text("before\n")
    done = run("clshmctl", "startup", "--log", str(log), CLSHMD=str(daemon))
    assert done.stderr.splitlines()[0] == "no room for default"
    assert log.read_text() == "before\nno room for default\n"
    done = run("clshmctl", "startup", CLSHMD=str(tmp_path / "absent"))
    assert done.returncode == 1 and "(ENOENT)" in done.stderr and "hint: CLSHMD=" in done.stderr
