# SPDX-License-Identifier: GPL-2.0-or-later
"""What users and strangers get wrong: a clear message each, nothing lost."""

import os
import random
import socket
import struct

import clshm
import pytest
from clshm import IPC_PRIVATE, fails, wait_until

PAGE = 4096


def refuses(part, *expected):
    """The daemon does not come up, and its log has all of this."""
    part.start(check=False)
    assert part.daemon.wait(clshm.LIMIT) in (1, 2)
    part.daemon = None
    for text in expected:
        assert text in part.log(), f"{text!r} is not in:\n{part.log()}"
    return part.log()


def another(fabric, name="late", **more):
    return clshm.Partition(fabric, name, clshm.default_kind(), **more)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("text, line, expected", [
    ("[limits]\nmaxpgs = many\n", 2, "number"),
    ("[limits]\n\n# a comment\nmax-size = 12X\n", 4, "size"),
    ("[fabric]\nuids = some\n", 2, "same or squash"),
    ("[fabric]\nid = 64\n", 2, "0 to 63"),
    ("[limits]\nmaxpages = 1\n", 2, "unknown key"),
    ("[limit]\nmaxpgs = 1\n", 2, "unknown section"),
    ("maxpgs = 1\n", 1, "section"),
    ("[limits\nmaxpgs = 1\n", 1, "]"),
    ("[limits]\nmaxpgs\n", 2, "key = value"),
    ("[log]\nlevel = loud\n", 2, "error, warning, info or debug"),
    ("[driver]\ntimeout = 1\n", 2, "milliseconds"),
    ("[driver]\nmaxdpgs = 0\n", 2, "pages"),
    ("[limits]\nmaxpgs = 1\nmaxpgs = 2\n", 3, "second time"),
    ("[limits]\n" + "x" * 5000 + " = 1\n", 2, "characters"),
])
def test_configuration(fabric, text, line, expected):
    refuses(another(fabric, config=text), f"conf:{line}: ", expected)


def test_configuration_all_mistakes_at_once(fabric):
    refuses(another(fabric, config="[limits]\nmaxpgs = x\nmax-size = y\n"), "conf:2: ", "conf:3: ")


def test_configuration_not_there(fabric):
    refuses(another(fabric, arguments=["--config", "/nonexistent/conf"]), "/nonexistent/conf", "ENOENT")


def test_options(fabric):
    for arguments in (["--id", "64"], ["--id", "x"], ["--log-level", "loud"], ["--partition", "a/b"], ["--nonsense"]):
        part = another(fabric, name="p" + str(abs(hash(tuple(arguments)))), arguments=arguments)
        refuses(part, arguments[-1])


# ---------------------------------------------------------------- the fabric


def control(fabric):
    return fabric.path / "control"


def test_no_fabric(fabric):
    fabric.path = fabric.dir / "nowhere"
    refuses(another(fabric), "nowhere")


def test_truncated_control_area(fabric):
    os.truncate(control(fabric), control(fabric).stat().st_size // 2)
    refuses(another(fabric), str(fabric.path), "truncated")


@pytest.mark.parametrize("size", [0, 1, 191, 4096])
def test_stub_of_a_control_area(fabric, size):
    os.truncate(control(fabric), size)
    refuses(another(fabric), str(fabric.path), "EINVAL")


def test_foreign_control_area(fabric):
    with open(control(fabric), "r+b") as f:
        f.write(random.Random(1).randbytes(4096))
    refuses(another(fabric), str(fabric.path), "not a fabric")


def test_damaged_superblock(fabric):
    with open(control(fabric), "r+b") as f:
        f.seek(100)
        f.write(b"\xff")
    refuses(another(fabric), str(fabric.path), "damaged")


FNV_BASIS, FNV_PRIME = 0xcbf29ce484222325, 0x100000001b3


def change_superblock(fabric, offset, fmt, value):
    """Change a field, and the checksum with it (FNV-1a of the first 184 bytes)."""
    with open(control(fabric), "r+b") as f:
        block = bytearray(f.read(192))
        assert fnv(block[:184]) == struct.unpack_from("<Q", block, 184)[0], "the checksum is another"
        struct.pack_into(fmt, block, offset, value)
        struct.pack_into("<Q", block, 184, fnv(block[:184]))
        f.seek(0)
        f.write(block)


def fnv(data):
    value = FNV_BASIS
    for byte in data:
        value = (value ^ byte) * FNV_PRIME & 0xffffffffffffffff
    return value


def test_fabric_of_another_major(fabric):
    change_superblock(fabric, 8, "<H", 2)
    refuses(another(fabric), str(fabric.path), "version 2.0", "version 1", "EPROTO")  # who has which


def test_fabric_of_unknown_capability(fabric):
    change_superblock(fabric, 88, "<Q", 1 << 40)
    refuses(another(fabric), str(fabric.path), "capability")


def test_granule_below_the_page_size(fabric):
    change_superblock(fabric, 68, "<I", 2048)
    refuses(another(fabric), "granule")


def test_granule(new_fabric):
    """Segments come in granules, and addresses too."""
    fabric = new_fabric("--granule", "64K")
    one = fabric.partition("one")
    a = one.process()
    shmid = a.get(1, 100)
    at = a.attach(shmid)
    assert at % 65536 == 0
    a.store(at, 65528, 1)
    fails("EINVAL", a.attach, shmid, 0, at + 4096)
    assert one.status()["memory"]["bytes"] in (100, 65536)


def test_a_peers_memory_is_garbage(two):
    """What another partition's daemon may write is checked: garbage in the control area kills nobody."""
    one, other = two
    a, b = one.process(), other.process()
    shmid = b.get(2, PAGE)
    other.stop()
    for p in two:
        p.quiet = False
    path = control(one.fabric)
    rng = random.Random(7)
    with open(path, "r+b") as f:
        head = f.read(192)
        blocks, block_size, records = (struct.unpack_from("<Q", head, o)[0] for o in (136, 144, 152))
        number = int(b.partition.fabric and 1)
        base = blocks + number * block_size
        for _ in range(64):  # rings and records of partition 1
            f.seek(base + rng.randrange(0, records // 4096) * 4096)
            f.write(rng.randbytes(256))
    assert a.get(3, PAGE) > 0
    other.go_on()
    a.number("self")
    assert one.status()
    assert shmid >= 0


# ---------------------------------------------------------------- ids and sockets


def test_id_taken(fabric):
    one = fabric.partition("one", arguments=["--id", "7"])
    assert one.process().number("self") == 7
    refuses(another(fabric, arguments=["--id", "7"]), "7", "one")


def test_name_taken(fabric):
    fabric.partition("one")
    late = another(fabric, name="other")
    late.name = "one"
    refuses(late, "one")


def test_socket_taken(fabric):
    one = fabric.partition("one")
    late = another(fabric)
    late.socket = one.socket
    refuses(late, "EADDRINUSE", str(one.socket))
    assert one.status()


def test_stale_socket_is_replaced(fabric):
    late = another(fabric)
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(str(late.socket))
    stale.close()
    late.start()
    late.process().get(1)


def test_file_in_the_sockets_place_is_not(fabric):
    late = another(fabric)
    late.socket.write_text("precious")
    refuses(late, str(late.socket))
    assert late.socket.read_text() == "precious"


@pytest.mark.skipif(not clshm.IS_ROOT, reason="needs several users: run as root")
def test_socket_of_somebody_else(fabric):
    """A fake daemon: the library talks only to root's, its own user's, or the one that CLSHM_DAEMON_UID names."""
    one = fabric.partition("one")
    fake = fabric.home / "fake"
    listener = one.program("impostor", fake, user=clshm.USER)
    assert listener.line() == "listening"
    fails("EIO", one.process(user=clshm.USER + 1, CLSHM_SOCKET=fake, CLSHM_DAEMON_UID=0).get, 1)
    fails("EIO", one.process(CLSHM_SOCKET=fake, CLSHM_DAEMON_UID=0).get, 1)
    listener.close()


def test_no_daemon(fabric):
    late = another(fabric)
    a = late.process()
    for call in (lambda: a.get(1), a.ftok, lambda: a.attach(1), lambda: a.stat(1), lambda: a.number("self"),
                 lambda: a.number("count"), lambda: a.call("hostname", 0), lambda: a.number("part", 1)):
        fails("EIO", call)
    fails("EINVAL", a.detach, 4096)
    late.start()
    a.get(1)  # it finds it as soon as it is there


# ---------------------------------------------------------------- garbage on the socket

HEADER = struct.Struct("<HHIIi")
HELLO, GET, OPEN, CTL, STATUS = 1, 2, 3, 5, 32


def connect(part):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(clshm.LIMIT)
    s.connect(str(part.socket))
    return s


def packet(op, payload=b"", flags=0, length=None, seq=1, error=0):
    return HEADER.pack(op, flags, HEADER.size + len(payload) if length is None else length, seq, error) + payload


def hello(major=1, minor=0, flags=1, token=0):
    return packet(HELLO, struct.pack("<HHIQ", major, minor, flags, token))


def answer(s):
    try:
        data = s.recv(8192)
    except ConnectionResetError:
        data = b""
    return HEADER.unpack_from(data) if data else None


def ended(s):
    """The conversation is over, perhaps after an answer with an error."""
    for _ in range(10):
        got = answer(s)
        if got is None:
            return True
        assert got[4] != 0
    return False


GARBAGE = {
    "empty header": b"\0" * 16,
    "one byte": b"x",
    "half a header": packet(HELLO)[:8],
    "length too long": packet(STATUS, length=8000),
    "length too short": packet(STATUS, length=4),
    "unknown opcode": packet(999),
    "opcode 0": packet(0),
    "unknown flag": packet(STATUS, flags=0x8000),
    "error in a request": packet(STATUS, error=5),
    "payload where there is none": packet(STATUS, b"\0" * 8),
    "payload missing": packet(GET),
    "reserved not 0": packet(OPEN, struct.pack("<iIII", 1, 1, 0, 7)),
    "unknown access": packet(OPEN, struct.pack("<iIII", 1, 0x80, 0, 0)),
    "unknown command": packet(CTL, struct.pack("<iIIIII", 1, 77, 0, 0, 0, 0)),
    "far too long": b"\xff" * 65536,
}


@pytest.mark.asan
@pytest.mark.parametrize("first", [True, False], ids=["at once", "after hello"])
def test_garbage(one, first):
    a = one.process()
    shmid = a.get(1, PAGE)
    at = a.attach(shmid)
    for name, data in GARBAGE.items():
        s = connect(one)
        if not first:
            s.send(hello())
            assert answer(s)[4] == 0
        s.send(data)
        assert ended(s), name
        s.close()
    assert a.nattch(shmid) == 1
    a.detach(at)
    wait_until(lambda: one.status()["clients"]["connections"] <= 2, what="all are disconnected")


@pytest.mark.asan
def test_random_garbage(one):
    """Packets that are almost right: real headers, random payloads, random sizes."""
    a = one.process()
    shmid = a.get(1, PAGE)
    rng = random.Random(20)
    sizes = [0, 8, 16, 24, 72]
    for _ in range(300):
        s = connect(one)
        s.settimeout(0.2)
        try:
            s.send(hello(flags=rng.choice([0, 1])))
            for _ in range(rng.randrange(1, 6)):
                payload = rng.randbytes(rng.choice(sizes))
                op = rng.choice([*range(0, 14), *range(32, 38)])  # not SHUTDOWN, which might be believed
                if op == 37 and payload:
                    continue
                s.send(packet(op, payload))
        except OSError:
            pass
        s.close()
    assert a.stat(shmid)["nattch"] == 0
    assert one.status()["daemon"]["restarts"] == 0


@pytest.mark.asan
def test_descriptors_that_nobody_asked_for(one):
    """What arrives is closed: the daemon's descriptors come back to what they were."""
    def count():
        return len(os.listdir(f"/proc/{one.daemon_pid()}/fd"))

    one.status()
    before = count()
    for _ in range(20):
        s = connect(one)
        s.send(hello())
        answer(s)
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(50)]
        try:
            socket.send_fds(s, [packet(STATUS)], fds)
            answer(s)
        except OSError:
            pass
        for fd in fds:
            os.close(fd)
        s.close()
    wait_until(lambda: count() <= before, what="the daemon's descriptors are back at the baseline")


def test_connections_that_say_nothing(one):
    """Many idle connections, and one that does not read its answers: others are served."""
    a = one.process()
    shmid = a.get(1, PAGE)
    idle = [connect(one) for _ in range(100)]
    deaf = connect(one)
    deaf.send(hello())
    deaf.setblocking(False)
    try:
        for _ in range(10000):
            deaf.send(packet(STATUS))
    except OSError:
        pass
    assert a.stat(shmid)["nattch"] == 0
    assert one.process().get(1, 0, 0) == shmid
    for s in (*idle, deaf):
        s.close()
    wait_until(lambda: one.status()["clients"]["connections"] <= 3, what="they are gone")


def test_a_client_page_that_lies(one):
    """Two connections cannot share one client's token, nor can a stranger guess one."""
    for token in (1, 0xdeadbeef, (1 << 64) - 1):
        s = connect(one)
        s.send(hello(flags=0, token=token))
        got = answer(s)
        assert got is None or got[4] != 0
        s.close()


# ---------------------------------------------------------------- tools


def test_tools_say_what_is_wrong(fabric):
    one = fabric.partition("one")
    for arguments, status, text in (
            (["status", "-s", "/nonexistent/sock"], 3, "/nonexistent/sock"),
            (["nonsense"], 2, "nonsense"),
            (["maxpgs"], 2, "maxpgs"),
            (["maxpgs", "1x", "-s", one.socket], 2, "1x"),
            (["timeout", "x", "-s", one.socket], 2, "x"),
            (["mkfabric", "--partitions", "65", fabric.dir / "more"], 2, "65"),
            (["mkfabric", "--slots", "100", fabric.dir / "more"], 2, "100"),
            (["mkfabric", "--granule", "5000", fabric.dir / "more"], 2, "5000"),
            (["mkfabric", fabric.path], 1, "EEXIST"),
            (["rmfabric", fabric.path], 1, "EBUSY"),
            (["rmfabric", fabric.dir / "more"], 1, "ENOENT"),
            (["evict", "nobody", "-s", one.socket], 1, "nobody"),
            (["evict", "one", "-s", one.socket], 1, "one"),
    ):
        result = fabric.run("clshmctl", *arguments)
        assert result.returncode == status, (arguments, result)
        assert text in result.stderr, (arguments, result.stderr)
    assert not (fabric.dir / "more").exists()


@pytest.mark.skipif(not clshm.IS_ROOT, reason="needs several users: run as root")
def test_strangers_may_not_administrate(fabric):
    one = fabric.partition("one")
    one.process().get(IPC_PRIVATE, PAGE)
    for arguments in (["maxpgs", "1"], ["evict", "one"], ["shutdown", "--force"], ["timeout", "50"]):
        result = fabric.run("clshmctl", *arguments, "-s", one.socket, user=clshm.USER)
        assert result.returncode == 1 and "EPERM" in result.stderr, (arguments, result)
    assert fabric.run("clshmctl", "status", "-s", one.socket, user=clshm.USER).returncode == 0
    assert one.segments() == 1
