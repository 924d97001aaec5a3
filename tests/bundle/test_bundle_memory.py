"""What stays in memory: nothing of the weights after close or failure, and no page of them in a core dump."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgeguard.harden.memory import SecretBuffer, lock, private_mapping, wipe, wipe_bytes

NOW_NS = 1_790_000_000_000_000_000
MODEL_ID = "road-objects"

# Runs in a child. The needle is spelt backwards so that the program itself does not contain it, and what the search
# reads lands in a mapping that it passes over. Only the needle's own object may be left.
SCAN = r"""
import json, mmap, os, re, sys
from edgeguard.bundle.model import open_model
from edgeguard.errors import ModelError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import TrustStore

needle = "RAELC-EHT-NI-STHGIEW"[::-1].encode()
own = range(id(needle), id(needle) + 200)
window = mmap.mmap(-1, 1 << 20)
import ctypes
window_at = ctypes.addressof(ctypes.c_char.from_buffer(window))

def places():
    found, smaps = [], open("/proc/self/smaps").read()
    regions = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) .*?^VmFlags: (.*?)$", smaps, re.M | re.S)
    del smaps
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    for start, end, rights, flags in regions:
        start, end = int(start, 16), int(end, 16)
        if not rights.startswith("r") or start <= window_at < end or flags.split()[-1:] == ["io"]:
            continue
        at = start
        while at < end:
            try:
                got = os.preadv(memory, [memoryview(window)[: min(len(window), end - at)]], at)
            except OSError:
                break
            if got <= 0:
                break
            hit = window.find(needle, 0, got)
            while hit >= 0 and at + hit in own:
                hit = window.find(needle, hit + 1, got)
            if hit >= 0:
                found.append(flags.split())
                break
            at += got if got < len(window) or at + got >= end else got - len(needle)
        window[:] = bytes(len(window))
    os.close(memory)
    return found

trust_path, key_path, good, damaged, now_ns = sys.argv[1:]
trust, key = TrustStore.load(trust_path, int(now_ns)), FileKeyProvider(key_path)
arguments = {"trust": trust, "key": key, "expect_model": "road-objects", "wall_ns": int(now_ns)}
report = {"before": places()}
model = open_model(good, **arguments)
report["open"] = places()
model.close()
report["closed"] = places()
del model
report["dropped"] = places()
try:
    open_model(damaged, **arguments)
except ModelError as error:
    report["code"] = error.code
report["failed"] = places()
print(json.dumps(report))
"""


@pytest.mark.parametrize("place", [0.5, -1], ids=["middle", "last tag"])
@pytest.mark.parametrize("cipher", ["aes", "chacha"])
def test_a_search_of_all_memory_finds_the_weights_only_while_the_model_is_open(world, tmp_path, cipher, place):
    """And then only in mappings that core dumps and forked children do not get."""
    good = world.pack(tmp_path / "good", cipher=cipher)
    damaged = world.pack(tmp_path / "damaged", cipher=cipher)
    payload = damaged / "payload" / "001.egc"
    raw = bytearray(payload.read_bytes())
    raw[int(len(raw) * place) if place > 0 else place] ^= 1
    payload.write_bytes(raw)
    program = tmp_path / "scan.py"
    program.write_text(SCAN)
    arguments = [world.fleet.trust_folder, world.root / "device.pem", good, damaged, NOW_NS]
    ran = subprocess.run([sys.executable, program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert report["code"] == "EG-S004"
    assert report["open"], "the search itself must be able to find something"
    for flags in report["open"]:
        assert {"dd", "wf"} <= set(flags), "not dumped, wiped on fork"
    for moment in ("before", "closed", "dropped", "failed"):
        assert report[moment] == [], moment


def flags_of(mapping) -> set[str]:
    import ctypes

    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            start, end = (int(part, 16) for part in head.split("-"))
            found = start <= address < end
        elif found and head == "VmFlags:":
            return set(line.split()[1:])
    raise LookupError("no such mapping")


@pytest.mark.parametrize("size", [1, 4096, 5 << 20])
def test_a_private_mapping_is_left_out_of_core_dumps_and_forks(size):
    """Small and large alike; locked pages say so."""
    mapping = private_mapping(size)
    assert {"dd", "wf"} <= flags_of(mapping)
    if lock(mapping):
        assert "lo" in flags_of(mapping)
    wipe(mapping)


def test_locking_takes_no_page_before_it_is_written(tmp_path):
    """A large mapping costs its page faults where it is filled, and every page is locked then."""
    program = (
        "import sys\n"
        "from edgeguard.harden.memory import lock, private_mapping\n"
        "def locked():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return [int(l.split()[1]) for l in lines if l.startswith(('VmLck', 'VmRSS'))]\n"
        "before = locked()\n"
        "mapping = private_mapping(64 << 20)\n"
        "if not lock(mapping): sys.exit(3)\n"
        "after = locked()\n"
        "mapping[:] = bytes([1]) * len(mapping)\n"
        "print(after[0] - before[0], after[1] - before[1])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if ran.returncode == 3:
        pytest.skip("the lock limit of this user is below 64 MiB")
    locked_kib, resident_kib = map(int, ran.stdout.split())
    assert locked_kib == 64 * 1024
    assert resident_kib < 8 * 1024


def test_bytes_that_a_library_returned_are_zeroed_in_place():
    """The object itself; shared ones, empty or of one byte, are left alone."""
    secret = bytes(bytearray(b"secret of a library"))
    wipe_bytes(secret)
    assert secret == bytes(len(secret))
    for shared in (b"", b"a"):
        wipe_bytes(shared)
    assert bytes([97]) == b"a"


def test_a_secret_buffer_is_zero_after_close():
    """Also through a view of the mapping that outlives it."""
    buffer = SecretBuffer.copy_of(b"key material")
    mapping = memoryview(buffer._mapping)
    buffer.close()
    buffer.close()
    assert not any(mapping)


def test_the_wrong_limit_refuses_before_anything_is_decrypted(world, tmp_path, monkeypatch):
    """No memory to lock, swap on: the refusal comes before the first payload is opened."""
    import edgeguard.bundle.payload as payload_module
    from edgeguard.errors import EnvironmentMissingError

    monkeypatch.setattr(payload_module, "lock", lambda mapping: False)
    monkeypatch.setattr(payload_module, "swap_is_on", lambda: True)
    storage = world.storage
    with pytest.raises(EnvironmentMissingError) as error:
        world.open(storage)
    assert error.value.code == "EG-E010"
    assert not any(name.startswith("payload/") for name in storage.opens)
