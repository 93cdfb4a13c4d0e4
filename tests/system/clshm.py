# SPDX-License-Identifier: GPL-2.0-or-later
"""Real fabrics, daemons and programs for the system tests.

Fabric      a fabric in a directory of its own under /dev/shm; knows everything that was started in it
Partition   a daemon, and the place where its programs run. Kinds: "root" in namespaces of its own (a cell, demo/cell.c);
            "user" as an unprivileged user, plain processes
Process     a program under test (helpers/xpt.c), driven one call at a time, also after fork and exec
Program     any other helper, with its output

What always holds: whatever is started carries CLSHM_TEST=<the fabric's mark> in its environment, so that close() finds
what is left over, anywhere, ends it, and fails the test. Nothing waits by sleeping for long: wait_until() looks again
every few milliseconds up to a limit, and where the kernel tells (a pidfd, a socket) that is waited for.
"""

import atexit
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("CLSHM_BUILD", ROOT / "build")).resolve()
BUILD_TREE = BUILD
IS_ROOT = os.geteuid() == 0
USER = 12345  # nobody's; tests as root use it and those after it
LIMIT = 20.0  # seconds; for what takes milliseconds on an idle machine

IPC_CREAT, IPC_EXCL = 0o1000, 0o2000
IPC_RMID, IPC_SET, IPC_STAT, IPC_AUTORMID, SHM_LOCK, SHM_UNLOCK = 0, 1, 2, 0x41, 11, 12
SHM_RDONLY, SHM_RND, SHM_REMAP, SHM_EXEC = 0o10000, 0o20000, 0o40000, 0o100000
SHM_HUGETLB, SHM_NORESERVE, SHM_DEST, SHM_LOCKED = 0o4000, 0o10000, 0o1000, 0o2000
IPC_PRIVATE = 0

# What no test may ever make a daemon say.
NEVER_IN_LOG = re.compile(r"AddressSanitizer|ThreadSanitizer|LeakSanitizer|runtime error:|invariant|assert", re.I)


def wait_until(condition, limit=LIMIT, what=None):
    """The first true value of condition(), looked at every few milliseconds; fails after limit seconds."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit} s: {what or condition.__doc__ or 'the condition'}")
        time.sleep(0.003)


def publish():
    """As root: copy the programs to where an unprivileged user reaches them, unless the build tree is such a place."""
    global ROOT, BUILD  # pylint: disable=global-statement
    paths = (str(ROOT / "demo/run"), str(BUILD / "src/daemon/clshmd"))
    if not IS_ROOT or all(subprocess.run([*become(USER), "test", "-x", path], check=False).returncode == 0 for path in paths):
        return
    public = Path(tempfile.mkdtemp(prefix="clshm-public-"))
    atexit.register(shutil.rmtree, public)
    public.chmod(0o755)
    for directory in ("tests/system", "demo", "src/daemon", "src/tools", "src/lib"):
        shutil.copytree(BUILD / directory, public / "build" / directory, symlinks=True,
                        ignore=shutil.ignore_patterns("*.p", "*.a"))
    shutil.copytree(ROOT / "demo", public / "demo")
    ROOT, BUILD = public, public / "build"


def binary(name, build=None):
    """The program of that name in the build tree."""
    build = build or BUILD
    for directory in ("tests/system", "demo", "src/daemon", "src/tools", "src/lib", "."):
        path = build / directory / name
        if path.is_file():
            return str(path)
    raise FileNotFoundError(f"{name} is not built in {build}")


class XpError(Exception):
    """A call of the program under test failed: `name` is an errno's name, SIGBUS, or MISMATCH."""

    def __init__(self, command, name):
        super().__init__(f"{command}: {name}")
        self.name = name


class Died(Exception):
    """The program under test ended instead of answering."""


def fails(name, call, *args, **kwargs):
    """Assert that the call fails with this errno (or one of several)."""
    names = (name,) if isinstance(name, str) else name
    try:
        value = call(*args, **kwargs)
    except XpError as error:
        assert error.name in names, f"expected {name}, got {error}"
        return error.name
    raise AssertionError(f"expected {name}, got {value}")


def children(pid):
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def descendants(pid):
    found = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def exe_name(pid):
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def state_of(pid):
    """One letter, as ps(1) shows it; '' when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def gone(pid, limit=LIMIT):
    """Wait until a process has ended (a zombie has)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        readable, _, _ = select.select([fd], [], [], limit)
        assert readable, f"process {pid} does not end"
    finally:
        os.close(fd)


def waiting_for(pid):
    """The nsenter(1) that waits for this process, if any: it stops when its child does."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
    return parent if exe_name(parent) == "nsenter" else None


def stop(pids):
    """Stop processes and wait until they stand still."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    everyone = [pid for pid in (*pids, *map(waiting_for, pids)) if pid]
    wait_until(lambda: all(state_of(pid) == "T" for pid in everyone), what="stopped")


def go_on(pids):
    for pid in pids:
        for target in (waiting_for(pid), pid):
            if target:
                os.kill(target, signal.SIGCONT)


def marked(mark):
    """Processes whose environment carries the mark."""
    wanted = f"CLSHM_TEST={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            if wanted in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0") and state_of(entry) not in ("Z", "X"):
                found.append(int(entry))
        except OSError:
            pass
    return found


class Fabric:
    """A fabric, and all that runs in it. Used as a context manager, or closed by the `fabric` fixture."""

    def __init__(self, *options, heartbeat=100, directory=None, owner=None, mode=None):
        self.dir = Path(tempfile.mkdtemp(prefix="clshm-test-", dir="/dev/shm"))
        self.mark = self.dir.name
        self.dir.chmod(0o755)
        self.home = self.dir / "home"  # HOME and XDG directories of everything here, so that no user's files matter
        self.home.mkdir()
        self.home.chmod(0o777)
        self.path = Path(directory or self.dir) / "fabric"
        self.heartbeat = heartbeat / 1000
        self.partitions, self.processes, self.programs = [], [], []
        self.problems = []
        self.owner = owner
        if owner:
            self.path.parent.joinpath("own").mkdir()
            os.chown(self.dir / "own", owner, owner)
            self.path = self.dir / "own" / "fabric"
        arguments = ["mkfabric", "--heartbeat", str(heartbeat), *options, str(self.path)]
        if mode:
            arguments[1:1] = ["--mode", mode]
        result = self.run("clshmctl", *arguments, user=owner)
        assert result.returncode == 0, result.stderr

    def environment(self, **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("CLSHM", "XDG_", "NOTIFY", "LISTEN_"))}
        env.update(CLSHM_TEST=self.mark, HOME=str(self.home), XDG_CONFIG_HOME=str(self.home))
        env.update({k: str(v) for k, v in more.items()})
        return env

    def run(self, tool, *arguments, user=None, env=None, limit=60):
        """Run a tool to its end."""
        command = [*become(user), binary(tool), *map(str, arguments)]
        return subprocess.run(command, env=self.environment(**(env or {})), capture_output=True, text=True,
                              timeout=limit, check=False, stdin=subprocess.DEVNULL)

    def partition(self, name, kind=None, **options):
        """A started partition."""
        return Partition(self, name, kind or default_kind(), **options).start()

    def close(self):
        for process in self.processes:
            process.close()
        for program in self.programs:
            program.close()
        for process in self.processes:
            self._ends(process)
        for part in reversed(self.partitions):
            part.close()
        left = marked(self.mark)
        for pid in left:
            self.problem(f"left over: {pid} {exe_name(pid)} {state_of(pid)}")
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGKILL)
        for part in self.partitions:
            part.report()
        shutil.rmtree(self.dir, ignore_errors=True)
        assert not self.problems, "\n".join(self.problems)

    def problem(self, text):
        self.problems.append(text)

    def _ends(self, process):
        try:
            gone(process.pid, 5)
        except AssertionError:
            self.problem(f"process {process.pid} does not end when told to: state {state_of(process.pid)}")
            os.kill(process.pid, signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def default_kind():
    return "root" if IS_ROOT else "user"


def become(user):
    """The prefix of a command that runs as this user."""
    if user is None or user == os.geteuid():
        return []
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


class Partition:
    def __str__(self):
        return self.name

    def __init__(self, fabric, name, kind, user=None, config=None, arguments=(), build=None, hostname=None, ns=True):
        self.fabric, self.name, self.kind = fabric, name, kind
        self.arguments, self.build = list(arguments), build
        self.user = (user or (USER if IS_ROOT else None)) if kind == "user" else None
        self.hostname = hostname or (name + "-host" if kind == "root" else socket.gethostname())
        self.uid = self.user if self.user is not None else os.geteuid()
        self.dir = fabric.dir / name
        self.dir.mkdir()
        if self.user is not None:
            os.chown(self.dir, self.user, self.user)
        self.socket = self.dir / "sock"
        self.log_path = self.dir / "log"
        self.config_path = self.dir / "conf"
        if config:
            self.config_path.write_text(config)
            self.arguments += ["--config", str(self.config_path)]
        self.cell = self.cell_pid = self.daemon = None
        self.expected_restarts = 0
        self.quiet = False  # the test knows why the daemon says what it never should
        if kind == "root" and ns:
            self.cell = subprocess.Popen([binary("cell"), self.hostname], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True, env=fabric.environment())
            line = self.cell.stdout.readline()
            assert line.startswith("ready "), line
            self.cell_pid = int(line.split()[1])
        fabric.partitions.append(self)

    # ---------------------------------------------------------------- running things in it

    def inside(self, *command, user=None):
        """The command, to be run in this partition, as this user (default: the partition's own)."""
        enter = []
        if self.cell_pid:
            enter = ["nsenter", "-t", str(self.cell_pid), "-i", "-p", "-m", "-n", "-u", "--"]
        return [*enter, *become(self.user if user is None else user), *map(str, command)]

    def environment(self, **more):
        """Of programs. Their leaks are not looked for: they end at any point, and the sanitizer's own search hangs where a
        process may not be traced (it changed its user, or is in a namespace)."""
        sanitizer = ":".join(filter(None, (os.environ.get("ASAN_OPTIONS"), "detect_leaks=0")))
        return self.fabric.environment(**{"CLSHM_SOCKET": self.socket, "CLSHM_DAEMON_UID": self.uid,
                                          "ASAN_OPTIONS": sanitizer, **more})

    def process(self, user=None, **env):
        """A program under test."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        popen = subprocess.Popen(self.inside(binary("xpt"), user=user), stdin=theirs, stdout=subprocess.DEVNULL,
                                 env=self.environment(**env))
        theirs.close()
        return Process(self, ours, popen)

    def program(self, name, *arguments, user=None, **env):
        """Another helper, with its output."""
        return Program(self, self.inside(binary(name), *arguments, user=user), env)

    def ctl(self, tool, *arguments, **kwargs):
        kwargs.setdefault("env", {})["CLSHM_DAEMON_UID"] = self.uid
        return self.fabric.run(tool, *arguments, "-s", self.socket, **kwargs)

    # ---------------------------------------------------------------- the daemon

    def start(self, check=True):
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        path = self.dir / "notify"
        path.unlink(missing_ok=True)
        notify.bind(str(path))
        path.chmod(0o777)
        command = self.inside(binary("clshmd", self.build), "--fabric", self.fabric.path, "--partition", self.name,
                              "--socket", self.socket, *self.arguments)
        with open(self.log_path, "ab") as log:
            self.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           env=self.fabric.environment(NOTIFY_SOCKET=path))
        try:
            if check:
                wait_until(lambda: self._ready(notify), what=f"partition {self.name} is ready")
        finally:
            notify.close()
        self.expected_restarts = 0
        return self

    def _ready(self, notify):
        assert self.daemon.poll() is None, f"clshmd ended with {self.daemon.returncode}:\n{self.log()}"
        readable, _, _ = select.select([notify], [], [], 0.02)
        return readable and b"READY=1" in notify.recv(4096)

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def pids(self):
        """The keeper and the daemon, as this process sees them."""
        if not self.daemon or self.daemon.poll() is not None:
            return []
        everything = [self.daemon.pid, *descendants(self.daemon.pid)]
        return [pid for pid in everything if exe_name(pid) == "clshmd" and state_of(pid) != "Z"]

    def keeper_pid(self):
        return self.pids()[0]

    def daemon_pid(self):
        return wait_until(lambda: self.pids()[1:], what="a daemon is there")[0]

    def status(self):
        result = self.ctl("clshmctl", "status", "--json")
        return json.loads(result.stdout) if result.returncode == 0 else None

    def state(self, other):
        """How this partition sees another one: alive, stalled, dead, or None."""
        status = self.status()
        name = other if isinstance(other, str) else other.name
        for part in status["partitions"] if status else ():
            if part["name"] == name:
                return part["state"]
        return None

    def sees(self, other, state, limit=LIMIT):
        wait_until(lambda: self.state(other) == state, limit, f"{self.name} sees {other} {state}")

    def segments(self):
        return self.status()["segments"]["hosted"]

    def kill_daemon(self, wait=True):
        """kill -9 of the daemon alone; the keeper starts another."""
        pid = self.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        self.expected_restarts += 1
        gone(pid)
        if wait:
            want = self.expected_restarts
            wait_until(lambda: (self.status() or {"daemon": {"restarts": -1}})["daemon"]["restarts"] >= want,
                       what="the daemon is back")

    def kill_all(self):
        """The partition dies at once: keeper, daemon and every program in it."""
        mine = [p for p in self.fabric.processes if p.partition is self]
        for program in [p for p in self.fabric.programs if p.partition is self]:
            mine.append(program)
        pids = self.pids()
        doomed = [*pids, *(p.pid for p in mine)]
        waiters = [pid for pid in map(waiting_for, doomed) if pid]
        for pid in doomed:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pid in waiters:
            os.kill(pid, signal.SIGCONT)
        for pid in pids:
            gone(pid)
        for process in mine:
            process.expect_death()
        self.daemon.wait()
        self.daemon = None

    def stop(self, pids=None):
        stop(pids or self.pids())

    def go_on(self, pids=None):
        go_on(pids or self.pids())

    def shutdown(self, *arguments):
        result = self.ctl("clshmctl", "shutdown", *arguments)
        if result.returncode == 0:
            self.daemon.wait(LIMIT)
            self.daemon = None
        return result

    def close(self):
        if self.daemon:
            self._check_restarts()
            pids = self.pids()
            go_on(pids)
            if pids:
                os.kill(pids[0], signal.SIGTERM)
            try:
                code = self.daemon.wait(LIMIT)
                if code != 0:
                    self.fabric.problem(f"clshmd of {self.name} ended with {code} when told to stop")
            except subprocess.TimeoutExpired:
                self.fabric.problem(f"clshmd of {self.name} does not stop")
                for pid in self.pids():
                    os.kill(pid, signal.SIGKILL)
                self.daemon.wait()
            self.daemon = None
        if self.cell:
            self.cell.stdin.close()
            self.cell.wait(LIMIT)
            self.cell.stdout.close()
            self.cell = None

    def _check_restarts(self):
        if self.daemon.poll() is not None:
            self.fabric.problem(f"clshmd of {self.name} has ended by itself: {self.daemon.returncode}")
            self.daemon = subprocess.Popen(["true"])
            return
        if any(state_of(pid) == "T" for pid in self.pids()):
            return
        status = self.status()
        if not status and self.build:  # of another major version: these tools do not talk to it
            return
        restarts = status["daemon"]["restarts"] if status else "unknown"
        if restarts != self.expected_restarts:
            self.fabric.problem(f"daemon of {self.name}: {restarts} restarts, {self.expected_restarts} expected")

    def report(self):
        """Show the log (pytest keeps it for tests that fail); look for what must never be there."""
        log = self.log()
        print(f"---- {self.name}\n{log}")
        if not self.quiet and NEVER_IN_LOG.search(log):
            self.fabric.problem(f"the daemon of {self.name} says: {NEVER_IN_LOG.search(log).group()}; see its log")


class Process:
    """helpers/xpt.c. Methods are its commands; they return values or raise XpError."""

    def __init__(self, partition, channel, popen=None):
        self.partition, self.channel, self.popen = partition, channel, popen
        self.pid = None  # as this process sees it
        self.receive("start")
        partition.fabric.processes.append(self)

    def receive(self, command, limit=LIMIT):
        readable, _, _ = select.select([self.channel], [], [], limit)
        assert readable, f"'{command}' hangs: no answer within {limit} s"
        data, ancillary, _, _ = self.channel.recvmsg(8192, 256)
        if not data:
            raise Died(command)
        self.fds = []
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                self.pid = struct.unpack("3i", payload)[0]
                assert self.pid > 0, "an answer without a sender"
            elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self.fds += struct.unpack(f"{len(payload) // 4}i", payload)
        words = data.decode().split(" ", 1)
        if words[0] != "OK":
            raise XpError(command, words[1].split()[0])
        return words[1] if len(words) > 1 else ""

    def send(self, *words):
        self.channel.send(" ".join(str(w) for w in words).encode())

    def call(self, *words, limit=LIMIT):
        self.send(*words)
        return self.receive(" ".join(str(w) for w in words), limit)

    def number(self, *words, **kwargs):
        return int(self.call(*words, **kwargs))

    # ---------------------------------------------------------------- the calls

    def get(self, key, size=4096, flags=IPC_CREAT | 0o666, **kwargs):
        return self.number("get", key, size, flags, **kwargs)

    def ftok(self, path="-", id=1):  # pylint: disable=redefined-builtin
        return self.number("ftok", path, id)

    def attach(self, shmid, flags=0, at=0, **kwargs):
        return self.number("attach", shmid, flags, at, **kwargs)

    def detach(self, at):
        return self.number("detach", at)

    def store(self, at, offset, value):
        self.call("store", at, offset, value)

    def load(self, at, offset):
        return self.number("load", at, offset)

    def add(self, at, offset, n):
        return self.number("add", at, offset, n)

    def fill(self, at, size, seed, **kwargs):
        self.call("fill", at, size, seed, **kwargs)

    def check(self, at, size, seed, **kwargs):
        self.call("check", at, size, seed, **kwargs)

    def zeros(self, at, size, **kwargs):
        self.call("zeros", at, size, **kwargs)

    def stat(self, shmid, command="stat", **kwargs):
        return {k: int(v) for k, v in (pair.split("=") for pair in self.call(command, shmid, **kwargs).split())}

    def nattch(self, shmid):
        return self.stat(shmid)["nattch"]

    def comes_to(self, shmid, nattch, limit=LIMIT):
        """nattch gets there: the daemon hears of a death a moment after the kernel."""
        wait_until(lambda: self.nattch(shmid) == nattch, limit, f"nattch of {shmid} comes to {nattch}")

    def is_removed(self, shmid, limit=LIMIT):
        def removed():
            try:
                self.stat(shmid)
                return False
            except XpError as error:
                assert error.name in ("EINVAL", "EIDRM"), error
                return True
        wait_until(removed, limit, f"{shmid} is removed")

    def ctl(self, shmid, command, **kwargs):
        return self.number("ctl", shmid, command, **kwargs)

    def rmid(self, shmid, **kwargs):
        return self.ctl(shmid, IPC_RMID, **kwargs)

    def autormid(self, shmid):
        return self.ctl(shmid, IPC_AUTORMID)

    def set(self, shmid, uid, gid, mode):
        return self.number("set", shmid, uid, gid, mode)

    def info(self):
        return {k: int(v) for k, v in (pair.split("=") for pair in self.call("info").split())}

    # ---------------------------------------------------------------- the process

    def fork(self, command="fork"):
        self.call(command)
        channel = socket.socket(fileno=self.fds[0])
        return Process(self.partition, channel)

    def exec(self):
        assert self.call("exec") == "exec"

    def kill(self, sig=signal.SIGKILL):
        os.kill(self.pid, sig)
        self.expect_death()

    def exit(self, status=0):
        self.send("exit", status)
        self.expect_death()

    def expect_death(self):
        """Wait until it has ended. Returns how, where this process is its parent."""
        gone(self.pid)
        return self.popen.wait(LIMIT) if self.popen else None

    def close(self):
        try:
            self.channel.close()
        except OSError:
            pass
        try:
            go_on([self.pid])
            os.waitpid(self.pid, os.WNOHANG)  # one that was left to this process
        except (ProcessLookupError, ChildProcessError):
            pass


class Program:
    """A helper that runs by itself and prints what it found."""

    def __init__(self, partition, command, env):
        self.partition = partition
        self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                      text=True, env=partition.environment(**env))
        partition.fabric.programs.append(self)

    @property
    def pid(self):
        """Of the program itself, not of nsenter."""
        below = children(self.popen.pid)
        return below[0] if below and exe_name(self.popen.pid) == "nsenter" else self.popen.pid

    def line(self, limit=LIMIT):
        readable, _, _ = select.select([self.popen.stdout], [], [], limit)
        assert readable, "the helper says nothing"
        return self.popen.stdout.readline().strip()

    def finish(self, limit=60):
        """Let it end (its standard input does); its last line, which begins with "ok"."""
        out, _ = self.popen.communicate(timeout=limit)
        lines = out.strip().splitlines() or [""]
        assert self.popen.returncode == 0 and lines[-1].startswith("ok"), f"{self.popen.args[-6:]}: {out}"
        return lines[-1]

    def expect_death(self):
        self.popen.wait(LIMIT)

    def close(self):
        if self.popen.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream and not stream.closed:
                try:
                    stream.close()
                except OSError:
                    pass
