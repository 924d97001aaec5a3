"""What a provider compiled comes back only for the same bundle, slot, options, versions and machine, and whole."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeguard.errors import ConfigError
from edgeguard.harden.memory import SecretBuffer
from edgeguard.infer.cache_binding import CacheBinding, machine_hardware, runtime_versions
from edgeguard.infer.cache_object import (
    CacheRefusedError,
    _Sink,
    is_safe_name,
    seal_directory,
    snapshot,
    unseal_into,
)
from edgeguard.infer.sealed_cache import CacheReport, OpenCache, SealedCache
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.strict_json import canonical

FLEET, MODEL = "ab" * 32, "detector"
BINDING = CacheBinding(
    statement="11" * 32,
    graph="22" * 32,
    generation=7,
    providers=(("TensorrtExecutionProvider", (("trt_fp16_enable", "1"),)),),
    session=(("graph_optimization_level", "ORT_ENABLE_ALL"),),
    runtime="1.32.0",
    versions=(("driver/nvidia", "580.1"), ("onnxruntime/libonnxruntime.so", "1 2")),
    hardware=(("gpu/0", "Orin GPU-1"), ("machine", "aarch64")),
)
CONTENTS = {
    "TensorrtExecutionProvider/a.engine": bytes(range(256)) * 700,
    "TensorrtExecutionProvider/b.timing": b"",
    "TensorrtExecutionProvider/deep/er/c.bin": b"weights " * 600_000,  # 4.6 MiB: crosses a step
}


@pytest.fixture
def key(tmp_path: Path) -> FileKeyProvider:
    return FileKeyProvider.generate(tmp_path / "device.pem")


@pytest.fixture
def cache(tmp_path: Path, key: FileKeyProvider) -> SealedCache:
    return SealedCache(tmp_path / "cache", key=key, generation=7, allow_swap=True)


def fill(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def read(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def build(cache: SealedCache, binding: CacheBinding = BINDING, contents: dict[str, bytes] = CONTENTS) -> Path:
    """One start of a provider that compiles; returns the object."""
    opened = cache.open(FLEET, MODEL, binding)
    assert opened.report.state == "empty"
    fill(opened.path, contents)
    assert opened.finish().state == "built"
    opened.close()
    return cache.object_path(FLEET, MODEL)


def reopen(cache: SealedCache, binding: CacheBinding = BINDING) -> OpenCache:
    return cache.open(FLEET, MODEL, binding)


def test_the_second_start_finds_what_the_first_compiled(cache: SealedCache) -> None:
    """Names, folders and bytes; and an unchanged directory is not written again."""
    target = build(cache)
    before = (target.stat().st_ino, target.stat().st_mtime_ns)

    opened = reopen(cache)

    assert opened.report.state == "restored"
    assert read(opened.path) == CONTENTS
    assert stat.S_IMODE(opened.path.stat().st_mode) == 0o700
    assert opened.finish().state == "restored"
    opened.close()
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == before
    assert not opened.path.exists()


def test_a_changed_directory_replaces_the_object(cache: SealedCache) -> None:
    """As when a provider adds an engine for another shape."""
    build(cache)
    opened = reopen(cache)
    (opened.path / "new.engine").write_bytes(b"another")

    report = opened.finish()

    assert report.state == "built"
    assert "written again" in report.reason
    opened.close()
    again = reopen(cache)
    assert read(again.path) == CONTENTS | {"new.engine": b"another"}
    again.close()


def test_the_object_is_private_and_tells_nothing(cache: SealedCache) -> None:
    """Mode 0600, one file, no partial left, and neither names nor content in it."""
    target = build(cache)

    sealed = target.read_bytes()

    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert stat.S_IMODE(target.parent.stat().st_mode) == 0o700
    assert list(target.parent.iterdir()) == [target]
    assert b"weights weights" not in sealed
    assert b"engine" not in sealed
    assert MODEL not in target.name


@pytest.mark.parametrize(
    "change",
    [
        {"statement": "12" * 32},
        {"graph": "23" * 32},
        {"generation": 6},
        {"generation": 8},
        {"providers": (("TensorrtExecutionProvider", (("trt_fp16_enable", "0"),)),)},
        {"providers": (("CUDAExecutionProvider", (("trt_fp16_enable", "1"),)),)},
        {"providers": (*BINDING.providers, ("CPUExecutionProvider", ()))},
        {"session": (("graph_optimization_level", "ORT_DISABLE_ALL"),)},
        {"runtime": "1.32.1"},
        {"versions": (("driver/nvidia", "580.2"), BINDING.versions[1])},
        {"versions": BINDING.versions[:1]},
        {"hardware": (("gpu/0", "Orin GPU-2"), BINDING.hardware[1])},
    ],
    ids="-".join,
)
def test_one_different_field_and_the_object_is_thrown_away(cache: SealedCache, change: dict[str, object]) -> None:
    """It is deleted, not kept for a better day, and the directory is empty for the provider to fill."""
    target = build(cache)

    opened = reopen(cache, replace(BINDING, **change))

    assert opened.report.state == "empty"
    assert "another bundle" in opened.report.reason
    assert read(opened.path) == {}
    assert not target.exists()
    opened.close()


def test_two_bundles_objects_cannot_be_swapped(tmp_path: Path, key: FileKeyProvider) -> None:
    """Slots A and B, each with a genuine object of this device, exchanged by somebody with the disk."""
    other = replace(BINDING, statement="33" * 32)
    slot_a = SealedCache(tmp_path / "a", key=key, generation=7, allow_swap=True)
    slot_b = SealedCache(tmp_path / "b", key=key, generation=7, allow_swap=True)
    object_a, object_b = build(slot_a), build(slot_b, other, {"evil.engine": b"other code"})
    genuine_a = object_a.read_bytes()
    object_a.write_bytes(object_b.read_bytes())
    object_b.write_bytes(genuine_a)

    for slot, binding in ((slot_a, BINDING), (slot_b, other)):
        opened = reopen(slot, binding)
        assert opened.report.state == "empty"
        assert read(opened.path) == {}
        opened.close()


def test_an_older_slot_generation_is_not_replayed(tmp_path: Path, key: FileKeyProvider) -> None:
    """The object of generation 7 comes back after the slot moved on."""
    old = SealedCache(tmp_path / "cache", key=key, generation=7, allow_swap=True)
    kept = build(old).read_bytes()
    new = SealedCache(tmp_path / "cache", key=key, generation=8, allow_swap=True)
    new.object_path(FLEET, MODEL).write_bytes(kept)

    opened = reopen(new, replace(BINDING, generation=8))

    assert opened.report.state == "empty"
    opened.close()


def test_another_devices_object_is_refused(cache: SealedCache, tmp_path: Path) -> None:
    """Also of one whose public key is known: the secret needs the private part."""
    target = build(cache)
    stranger = SealedCache(
        target.parent, key=FileKeyProvider.generate(tmp_path / "other.pem"), generation=7, allow_swap=True
    )

    opened = reopen(stranger)

    assert opened.report.state == "empty"
    assert not target.exists()
    opened.close()


@pytest.mark.parametrize("place", [0, 23, 24, 55, 56, 60, 5000, 56 + 16400, -17, -1])
def test_a_flipped_bit_anywhere_is_refused(cache: SealedCache, place: int) -> None:
    """Header, index, contents, last chunk; what was written before the damage was seen is gone too."""
    target = build(cache)
    sealed = bytearray(target.read_bytes())
    sealed[place] ^= 1
    target.write_bytes(sealed)

    opened = reopen(cache)

    assert opened.report.state == "empty"
    assert read(opened.path) == {}
    assert not target.exists()
    opened.close()


@pytest.mark.parametrize("length", [0, 1, 55, 56, 57, 72, 56 + 16400, 56 + 2 * 16400, -16400, -1])
def test_a_truncated_object_is_refused(cache: SealedCache, length: int) -> None:
    """Also at the edges of chunks."""
    target = build(cache)
    target.write_bytes(target.read_bytes()[:length])

    opened = reopen(cache)

    assert opened.report.state == "empty"
    assert read(opened.path) == {}
    opened.close()


def test_an_extended_object_is_refused(cache: SealedCache) -> None:
    """By a byte, a chunk, or itself."""
    target = build(cache)
    sealed = target.read_bytes()
    for more in (b"\0", sealed[56 : 56 + 16400], sealed):
        target.write_bytes(sealed + more)
        opened = reopen(cache)
        assert opened.report.state == "empty"
        opened.close()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_regular_file_is_no_object(cache: SealedCache, tmp_path: Path, kind: str) -> None:
    """Nothing is followed and nothing blocks."""
    target = build(cache)
    elsewhere = tmp_path / "elsewhere"
    target.rename(elsewhere)
    if kind == "link":
        target.symlink_to(elsewhere)
    elif kind == "pipe":
        os.mkfifo(target)
    else:
        target.mkdir()

    opened = reopen(cache)

    assert opened.report.state == "empty"
    assert opened.report.reason
    assert read(opened.path) == {}
    assert elsewhere.exists()
    opened.close()


def test_half_written_objects_of_killed_processes_are_removed(cache: SealedCache) -> None:
    """They are encrypted, and still take room."""
    target = build(cache)
    left = target.with_name(f".{target.name}.0badcafe.new")
    left.write_bytes(b"half")
    opened = reopen(cache)
    (opened.path / "more").write_bytes(b"x")

    opened.finish()

    assert list(target.parent.iterdir()) == [target]
    opened.close()


def test_links_in_the_directory_are_never_sealed(cache: SealedCache, tmp_path: Path) -> None:
    """Neither what they point to nor anything beside them; the model runs all the same."""
    (tmp_path / "secret").write_bytes(b"not for the cache")
    opened = reopen(cache)
    fill(opened.path, CONTENTS)
    (opened.path / "link").symlink_to(tmp_path / "secret")

    report = opened.finish()

    assert report.state == "not kept"
    assert not cache.object_path(FLEET, MODEL).exists()
    assert (tmp_path / "secret").read_bytes() == b"not for the cache"
    opened.close()


def test_a_directory_over_the_limit_is_not_kept(tmp_path: Path, key: FileKeyProvider) -> None:
    """Nor is an object opened that would be."""
    small = SealedCache(tmp_path / "cache", key=key, generation=7, allow_swap=True, max_bytes=1000)
    opened = reopen(small)
    fill(opened.path, {"big": bytes(1001)})
    assert opened.finish().state == "not kept"
    opened.close()

    build(SealedCache(tmp_path / "cache", key=key, generation=7, allow_swap=True), contents={"big": bytes(1001)})
    opened = reopen(small)
    assert opened.report.state == "empty"
    assert "1000 bytes" in opened.report.reason
    opened.close()


def test_a_disk_that_cannot_be_written_costs_the_cache_and_nothing_else(tmp_path: Path, key: FileKeyProvider) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "cache").write_text("in the way")
    cache = SealedCache(tmp_path / "cache", key=key, generation=7, allow_swap=True)

    opened = reopen(cache)
    fill(opened.path, CONTENTS)
    report = opened.finish()

    assert report.state == "not kept"
    assert read(opened.path) == {}
    opened.close()


def test_plain_files_are_zeroed_unless_they_are_in_use(cache: SealedCache) -> None:
    """A provider that maps its cache runs from those pages; every other one reads zeros after sealing."""
    opened = reopen(cache)
    fill(opened.path, {"engine": b"secret" * 1000, "mapped": b"in use" * 1000})
    with (opened.path / "engine").open("rb") as held, (opened.path / "mapped").open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

        opened.finish()

        assert not any(held.read())
        assert mapping[:6] == b"in use"
        assert read(opened.path) == {}
        assert opened.path.is_dir()
    opened.close()
    assert not opened.path.exists()


def test_a_refused_restoration_can_be_discarded(cache: SealedCache) -> None:
    """As when the provider itself does not accept what was restored."""
    target = build(cache)
    opened = reopen(cache)

    opened.discard()

    assert read(opened.path) == {}
    assert not target.exists()
    fill(opened.path, {"fresh": b"compiled again"})
    assert opened.finish().state == "built"
    opened.close()


def test_arguments_out_of_range_are_refused(tmp_path: Path, key: FileKeyProvider) -> None:
    """A generation is a count, a limit is above zero."""
    for wrong in ({"generation": -1}, {"generation": 2**63}, {"max_bytes": 0}):
        with pytest.raises(ConfigError) as caught:
            SealedCache(tmp_path, key=key, **wrong)
        assert caught.value.code == "EG-C024"


# -- the object itself -------------------------------------------------------------------------------------------------

NAMES = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=8).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
    max_size=3,
).map("/".join)


def without_clashes(contents: dict[str, bytes]) -> dict[str, bytes]:
    """Drop names that are folders of others; some file systems also fold case or spelling, tmpfs does not."""
    return {n: c for n, c in contents.items() if not any(o.startswith(n + "/") for o in contents)}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.dictionaries(NAMES, st.binary(max_size=70_000), min_size=1, max_size=5).map(without_clashes))
def test_any_directory_comes_back_as_it_was(contents: dict[str, bytes], tmp_path: Path) -> None:
    """Whatever names and sizes a provider chooses."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    fill(one, contents)
    one_fd, two_fd = (os.open(folder, os.O_RDONLY) for folder in (one, two))
    try:
        with SecretBuffer.copy_of(bytes(32)) as key:
            seal_directory(one_fd, snapshot(one_fd, 2**30), tmp_path / "object", key, b"context")
            unseal_into(two_fd, tmp_path / "object", key, b"context", 2**30)
    finally:
        os.close(one_fd)
        os.close(two_fd)
    assert read(two) == contents


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plaintext=st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
            max_leaves=6,
        )
        .map(canonical)
        .map(lambda raw: len(raw).to_bytes(4, "big") + raw),
    )
)
def test_no_plaintext_makes_the_reader_do_more_than_refuse(plaintext: bytes, tmp_path: Path) -> None:
    """Even one that carries our own AEAD: it is refused as such, and nothing is written outside the directory."""
    inside = tmp_path / "inside"
    inside.mkdir(exist_ok=True)
    fd = os.open(inside, os.O_RDONLY)
    sink = _Sink(fd, 2**20)

    def consume() -> None:
        sink.take(memoryview(plaintext))
        sink.require_whole()

    try:
        with pytest.raises(CacheRefusedError):
            consume()
    finally:
        sink.close()
        os.close(fd)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


@pytest.mark.parametrize(
    "names",
    [
        ["../up"],
        ["/absolute"],
        ["a/../b"],
        ["a//b"],
        ["."],
        [".."],
        [""],
        ["nul\0"],
        ["a/b/c/d/e/f/g/h/i"],
        ["x" * 256],
        ["b", "a"],
        ["a", "a"],
        ["a", "a/b"],
    ],
    ids=lambda names: "+".join(names)[:20] or "empty",
)
def test_an_index_with_unsafe_names_is_refused(names: list[str], tmp_path: Path) -> None:
    """By a device key holder who makes objects with a program of their own."""
    files = [{"name": name, "size": "0", "sha256": "e3b0c442" + "0" * 56} for name in names]
    head = canonical({"schema": "edgeguard/ep-cache/v1", "files": files})
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(CacheRefusedError):
            _Sink(fd, 2**20).take(memoryview(len(head).to_bytes(4, "big") + head))
    finally:
        os.close(fd)
    assert list(tmp_path.iterdir()) == []


def test_a_content_that_is_not_the_index_s_is_refused(tmp_path: Path) -> None:
    """Sizes and digests are checked although the AEAD has passed."""
    files = [{"name": "a", "size": "3", "sha256": "0" * 64}]
    head = canonical({"schema": "edgeguard/ep-cache/v1", "files": files})
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(CacheRefusedError, match="not the one of the index"):
            _Sink(fd, 2**20).take(memoryview(len(head).to_bytes(4, "big") + head + b"abc"))
    finally:
        os.close(fd)


def test_names_that_are_safe_are_taken() -> None:
    """What providers really use."""
    for name in ("TensorrtExecutionProvider_TRTKernel_graph_0_0_fp16_sm87.engine", "cl_cache/1234.cl_cache", "ä b.mxr"):
        assert is_safe_name(name)


def test_this_machine_is_described() -> None:
    """The binding holds something on every machine, and the same thing twice."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    assert dict(machine_hardware())["machine"]
    assert machine_hardware() == machine_hardware()
    assert any("onnxruntime" in name for name, _ in runtime_versions(folder))
    assert runtime_versions(folder) == runtime_versions(folder)


SEAL_FOR_EVER = """
import sys
from edgeguard.infer.cache_binding import CacheBinding
from edgeguard.infer.sealed_cache import SealedCache
from edgeguard.keys.file import FileKeyProvider
folder, key, memory = sys.argv[1:]
cache = SealedCache(folder, key=FileKeyProvider(key), allow_swap=True, memory_folder=memory)
binding = CacheBinding("11" * 32, "22" * 32, 0, (), (), "1", (), ())
turn = 0
while True:
    opened = cache.open("fleet", "model", binding)
    (opened.path / "engine").write_bytes(bytes([turn % 256]) * 3_000_000)
    opened.finish()
    opened.close()
    turn += 1
    print(turn, flush=True)
"""


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_a_whole_object_or_none(tmp_path: Path, key: FileKeyProvider) -> None:
    """kill -9 while it seals, over and over: never a damaged object, and never a plain file after the next start."""
    memory = Path("/dev/shm") / f"edgeguard-test-kill-{os.getpid()}"
    memory.mkdir(mode=0o700)
    cache = SealedCache(tmp_path / "cache", key=key, allow_swap=True, memory_folder=memory)
    binding = CacheBinding("11" * 32, "22" * 32, 0, (), (), "1", (), ())
    delays = random.Random(4)
    seen = set()
    try:
        for _ in range(12):
            arguments = [sys.executable, "-c", SEAL_FOR_EVER, cache.folder, tmp_path / "device.pem", memory]
            with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
                process.stdout.readline()
                time.sleep(delays.uniform(0.0, 0.1))
                process.kill()
            opened = cache.open("fleet", "model", binding)
            assert opened.report == CacheReport("restored")
            (content,) = read(opened.path).values()
            assert content == content[:1] * 3_000_000
            seen.add(content[0])
            opened.close()
            assert list(memory.iterdir()) == []
    finally:
        shutil.rmtree(memory)
    assert len(seen) > 1
