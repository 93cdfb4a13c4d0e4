# SPDX-License-Identifier: GPL-2.0-or-later
"""Huge pages: of the pool, and those that the kernel joins. What needs to change the machine puts it back."""

import contextlib
import json
from pathlib import Path

import clshm
import pytest
from clshm import IPC_CREAT, IPC_PRIVATE, SHM_HUGETLB, SHM_NORESERVE, SHM_RDONLY, SHM_RND, fails

PAGE = 4096
HUGE = 2 << 20
POOL = 16  # pages that the tests reserve
NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
SHMEM_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
ALWAYS = "[driver]\nhuge = always\n"
NEVER = "[driver]\nhuge = never\n"


def meminfo(name):
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


def free_pages():
    return meminfo("HugePages_Free") - meminfo("HugePages_Rsvd")


@pytest.fixture
def pool():
    """Reserved huge pages of 2 MiB; skips where there are none to be had."""
    if not clshm.IS_ROOT or meminfo("Hugepagesize") * 1024 != HUGE:
        pytest.skip("needs root and huge pages of 2 MiB")
    before = int(NR_HUGEPAGES.read_text())
    try:
        NR_HUGEPAGES.write_text(str(before + POOL))
    except OSError as error:
        pytest.skip(f"vm.nr_hugepages cannot be changed here: {error}")
    try:
        if free_pages() < POOL:
            pytest.skip("the kernel has no huge pages to give")
        yield
    finally:
        NR_HUGEPAGES.write_text(str(before))


@contextlib.contextmanager
def shmem_enabled(value):
    text = SHMEM_ENABLED.read_text()
    before = text[text.index("[") + 1:text.index("]")]
    SHMEM_ENABLED.write_text(value)
    try:
        yield
    finally:
        SHMEM_ENABLED.write_text(before)


@pytest.fixture
def joining():
    """A function: with it, the kernel joins pages of shared memory as its argument says."""
    if not clshm.IS_ROOT or not SHMEM_ENABLED.exists():
        pytest.skip("needs root and transparent huge pages")
    try:
        with shmem_enabled("advise"):
            pass
    except OSError as error:
        pytest.skip(f"shmem_enabled cannot be changed here: {error}")
    return shmem_enabled


def joined(process, at):
    """KiB of the mapping at this address that are mapped as huge pages."""
    inside, kib = False, 0
    for line in Path(f"/proc/{process.pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            inside = int(words[0].split("-")[0], 16) == at
        elif inside and words[0] in ("ShmemPmdMapped:", "FilePmdMapped:"):
            kib += int(words[1])
    return kib


def of_pool(part, shmid):
    """What xpipcs says in its column HUGE."""
    result = part.ctl("xpipcs", "-o", "ID,HUGE", "--json")
    assert result.returncode == 0, result.stderr
    (segments,) = json.loads(result.stdout).values()
    return next(segment["huge"] for segment in segments if segment["id"] == shmid)


@pytest.mark.parametrize("n", [1, 3])
def test_hugetlb(fabric, pool, n):
    """SHM_HUGETLB from creation to its end, on both partitions."""
    one, two = fabric.partition("one"), fabric.partition("two")
    one.sees(two, "alive")
    two.sees(one, "alive")
    a, b = one.process(), two.process()
    free = free_pages()
    shmid = a.get(0x31, (n - 1) * HUGE + 1, IPC_CREAT | SHM_HUGETLB | 0o666)
    assert free_pages() == free - n  # rounded up, and reserved at once
    assert a.stat(shmid)["size"] == (n - 1) * HUGE + 1
    at, at_b = a.attach(shmid), b.attach(shmid, SHM_RDONLY)
    assert at % HUGE == at_b % HUGE == 0
    a.zeros(at, n * HUGE)
    a.fill(at, n * HUGE, 5)
    b.check(at_b, n * HUGE, 5)
    assert of_pool(one, shmid) and of_pool(two, shmid)
    assert a.call("node", shmid) == "/sys/devices/system/node/node0"
    one.kill_daemon()
    assert a.nattch(shmid) == 2
    assert a.call("node", shmid) == "/sys/devices/system/node/node0"
    a.ctl(shmid, clshm.SHM_LOCK)
    a.ctl(shmid, clshm.SHM_UNLOCK)
    a.rmid(shmid)
    a.detach(at)
    b.detach(at_b)
    a.is_removed(shmid)
    clshm.wait_until(lambda: free_pages() == free, what="the huge pages are given back")


def test_hugetlb_addresses(fabric, pool):
    """shmat(2) takes any multiple of SHMLBA, but these pages lie only at multiples of themselves."""
    a = fabric.partition("one").process()
    shmid = a.get(IPC_PRIVATE, HUGE, SHM_HUGETLB | 0o600)
    at = a.attach(shmid)
    a.detach(at)
    assert a.attach(shmid, 0, at) == at
    fails("EINVAL", a.attach, shmid, 0, at)  # in use
    a.detach(at)
    for flags in (0, SHM_RND):
        fails("EINVAL", a.attach, shmid, flags, at + PAGE)
    assert a.attach(shmid, SHM_RND, at + 5) == at
    a.detach(at)
    assert a.nattch(shmid) == 0


def test_hugetlb_with_a_granule(new_fabric, pool):
    """A fabric whose segments begin at multiples of 64 KiB."""
    part = new_fabric("--granule", "64K").partition("one")
    a = part.process()
    shmid = a.get(IPC_PRIVATE, HUGE, SHM_HUGETLB | 0o600)
    at = a.attach(shmid)
    assert at % HUGE == 0
    a.fill(at, HUGE, 1)


def test_hugetlb_is_refused(fabric, pool):
    part = fabric.partition("one")
    a, other = part.process(), part.process(user=12346)
    free = free_pages()
    fails("ENOMEM", a.get, IPC_PRIVATE, (free + 1) * HUGE, SHM_HUGETLB | 0o600)
    fails("EPERM", other.get, IPC_PRIVATE, HUGE, SHM_HUGETLB | 0o600)
    fails("EINVAL", a.get, IPC_PRIVATE, HUGE, SHM_HUGETLB | 3 << 26 | 0o600)  # no such page size
    fails("EINVAL", a.get, IPC_PRIVATE, 0, SHM_HUGETLB | 0o600)
    clshm.wait_until(lambda: free_pages() == free, what="what failed gave everything back")
    assert a.get(IPC_PRIVATE, HUGE, SHM_HUGETLB | 21 << 26 | 0o600) >= 0


def test_hugetlb_without_any(fabric):
    if free_pages():
        pytest.skip("this machine has huge pages reserved")
    a = fabric.partition("one").process()
    fails("ENOMEM" if clshm.IS_ROOT else "EPERM", a.get, IPC_PRIVATE, HUGE, SHM_HUGETLB | 0o600)


def test_configured(fabric, pool):
    """huge = always: the pool is used where the size fits and it has enough, else ordinary pages."""
    part = fabric.partition("one", config=ALWAYS)
    a = part.process(user=12346)  # it was configured: no privilege is needed
    free = free_pages()
    shmid = a.get(IPC_PRIVATE, 2 * HUGE, 0o600)
    assert of_pool(part, shmid)
    assert free_pages() == free - 2
    at = a.attach(shmid)
    assert at % HUGE == 0
    a.zeros(at, 2 * HUGE)
    for size in (PAGE, HUGE + PAGE, (free - 1) * HUGE):
        other = a.get(IPC_PRIVATE, size, 0o600)
        assert not of_pool(part, other)
        a.zeros(a.attach(other), size)
    a.rmid(shmid)
    a.detach(at)
    clshm.wait_until(lambda: free_pages() == free, what="the huge pages are given back")
    sparse = a.get(IPC_PRIVATE, HUGE, SHM_NORESERVE | 0o600)
    assert not of_pool(part, sparse)


def test_not_unless_configured(fabric, pool):
    part = fabric.partition("one")
    a = part.process()
    assert not of_pool(part, a.get(IPC_PRIVATE, HUGE, 0o600))
    assert free_pages() >= POOL


@pytest.mark.parametrize("how", ["advise", "always", "within_size"])
def test_joined(fabric, joining, how):
    """The kernel joins pages: laid out for it, a segment is mapped by them on both partitions."""
    one, two = fabric.partition("one"), fabric.partition("two")
    one.sees(two, "alive")
    two.sees(one, "alive")
    a, b = one.process(), two.process()
    with joining(how):
        shmid = a.get(0x32, 8 * HUGE + PAGE)
        at, at_b = a.attach(shmid), b.attach(shmid)
        small = a.attach(a.get(IPC_PRIVATE, HUGE - PAGE))
        assert at % HUGE == at_b % HUGE == 0
        a.zeros(at, 8 * HUGE + PAGE)
        a.fill(at, 8 * HUGE + PAGE, 9)
        b.check(at_b, 8 * HUGE + PAGE, 9)
        assert joined(a, at) > 0 and joined(b, at_b) > 0
        assert not of_pool(one, shmid)
        a.zeros(small, HUGE - PAGE)
        if how == "advise":  # nobody asked for that one
            assert joined(a, small) == 0
        status = one.status()["huge_pages"]
        assert status["shmem_enabled"] == how and status["transparent"]


def test_never_joined(fabric, joining):
    """huge = never: nothing is asked for."""
    a = fabric.partition("one", config=NEVER).process()
    with joining("advise"):
        at = a.attach(a.get(IPC_PRIVATE, 8 * HUGE))
        a.fill(at, 8 * HUGE, 9)
        assert joined(a, at) == 0


def test_status(one, pool):
    """What there is, and what it would take."""
    status = one.status()["huge_pages"]
    assert status["size"] == HUGE and status["reserved"] >= POOL and status["free"] >= POOL
    assert status["shmem_enabled"] in SHMEM_ENABLED.read_text()
    text = one.ctl("clshmctl", "status").stdout
    assert "huge pages" in text and "free, of 2M each" in text


def test_status_without_any(one):
    if meminfo("HugePages_Total"):
        pytest.skip("this machine has huge pages reserved")
    assert one.status()["huge_pages"]["reserved"] == 0
    assert "none reserved (vm.nr_hugepages)" in one.ctl("clshmctl", "status").stdout
