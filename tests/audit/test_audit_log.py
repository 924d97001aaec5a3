"""Writing, verifying, damaging and resuming a log."""

from __future__ import annotations

import hashlib
import hmac
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.audit.chain import HEADER_BYTES, MAGIC, MacKey, Torn, frame_bytes, iter_frames, record_hash
from edgeguard.audit.log import CHECKPOINT_RECORDS, FLUSH_RECORDS, AuditLog
from edgeguard.audit.record import Record, decode_record, encode_record
from edgeguard.audit.verify import read_log, verify_log
from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.errors import AuditError, ConfigError

KEY = bytes(range(32))
MIN_SEGMENT = 512 * 1024


def write_log(directory: Path, records: int = 5, *, key: bytes | None = KEY, start: int = 0, **options: int) -> None:
    clock = ManualClock(1_000, 1_700_000_000 * NS_PER_S)
    with AuditLog(directory, clock=clock, mac_key=key, boot_id="boot-1", **options) as log:
        for index in range(start, start + records):
            clock.wait_until_ns(1_000 + index * 100_000_000)
            log.append("frame", {"verdict": "PASS" if index % 3 else "HOLD", "frame": index, "trust": {}})


def only_segment(directory: Path) -> Path:
    (path,) = directory.glob("audit-*.egl")
    return path


def payloads(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [f[1] for f in iter_frames(data, len(MAGIC), may_be_torn=False) if not isinstance(f, Torn)]


def rewrite(path: Path, kept: list[bytes]) -> None:
    path.write_bytes(MAGIC + b"".join(frame_bytes(p) for p in kept))


def test_an_untouched_log_verifies_and_says_what_it_holds(tmp_path: Path) -> None:
    """Counts, verdicts, head and seal of a small log."""
    write_log(tmp_path, 5)

    summary = verify_log(tmp_path, KEY)

    assert (summary.records, summary.first_seq, summary.last_seq) == (7, 0, 6)
    assert summary.kinds == {"audit.checkpoint": 1, "audit.open": 1, "frame": 5}
    assert summary.verdicts == {"HOLD": 2, "PASS": 3}
    assert summary.macs_checked
    assert summary.unsealed_records == 0
    assert summary.head == record_hash(payloads(only_segment(tmp_path))[-1])


def test_two_runs_with_equal_clock_and_boot_id_write_equal_bytes(tmp_path: Path) -> None:
    """The log is a function of its inputs."""
    write_log(tmp_path / "a", 40)
    write_log(tmp_path / "b", 40)

    assert only_segment(tmp_path / "a").read_bytes() == only_segment(tmp_path / "b").read_bytes()


def test_the_chain_and_the_mac_are_those_of_the_format_document(tmp_path: Path) -> None:
    """An independent reader, written from the document with hashlib and hmac alone."""
    write_log(tmp_path, 2)
    data = only_segment(tmp_path).read_bytes()
    assert data[:8] == bytes.fromhex("4547415544495401")

    prev = hashlib.sha256(b"edgeguard/audit/genesis/v1\0").hexdigest()
    offset, last = 8, {}
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + 4], "little")
        payload = data[offset + 12 : offset + 12 + length]
        last = json.loads(payload)
        assert last["prev"] == prev
        prev = hashlib.sha256(b"edgeguard/audit/record/v1\0" + payload).hexdigest()
        offset += 12 + length

    unsigned = last | {"body": {"mac": "", "segment": 0}}
    message = json.dumps(unsigned, sort_keys=True, separators=(",", ":")).encode()
    expected = hmac.new(KEY, b"edgeguard/audit/checkpoint/v1\0" + message, "sha256").hexdigest()
    assert last["kind"] == "audit.checkpoint"
    assert last["body"]["mac"] == expected


def test_any_flipped_bit_is_found_and_only_the_last_record_may_look_torn(tmp_path: Path) -> None:
    """Every bit of a whole log: an error, or a torn tail that is exactly the last frame."""
    write_log(tmp_path, 3)
    path = only_segment(tmp_path)
    good = path.read_bytes()
    last_frame = len(good) - HEADER_BYTES - len(payloads(path)[-1])

    named: set[bool] = set()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            summary = verify_log(tmp_path, KEY)
        except AuditError as error:
            named.add("audit-00000000.egl" in error.message or "segment 0, record" in error.message)
            continue
        assert position >= last_frame + HEADER_BYTES
        assert summary.torn_bytes == len(good) - last_frame
        assert summary.unsealed_records == summary.records == 4
    assert named == {True}


@given(position=st.integers(8, 3000), value=st.integers(1, 255), length=st.integers(1, 6))
def test_damage_of_several_bytes_in_a_closed_segment_is_always_an_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, length: int
) -> None:
    """Closed segments have no torn tail: every change there is an error."""
    directory = tmp_path_factory.mktemp("closed")
    write_log(directory, 2)
    first = only_segment(directory)
    good = first.read_bytes()
    tail = decode_record(payloads(first)[-1])
    following = Record(tail.seq + 1, "boot-1", 9, 9, "audit.open", {}, record_hash(payloads(first)[-1]))
    (directory / "audit-00000001.egl").write_bytes(MAGIC + frame_bytes(encode_record(following)))
    assert verify_log(directory, KEY).segments == 2

    position %= len(good)
    end = min(len(good), position + length)
    first.write_bytes(good[:position] + bytes(b ^ value for b in good[position:end]) + good[end:])

    with pytest.raises(AuditError):
        verify_log(directory, KEY)


def test_a_cut_at_any_byte_of_the_last_record_is_resumed_and_recorded(tmp_path: Path) -> None:
    """The process dies after writing any prefix of a record: nothing before it is lost, and the cut is on record."""
    write_log(tmp_path / "log", 3)
    path = only_segment(tmp_path / "log")
    good = path.read_bytes()
    last_frame = len(good) - HEADER_BYTES - len(payloads(path)[-1])

    for cut in range(last_frame, len(good)):
        for padding in (b"", bytes(700)) if cut % 16 == 0 else (b"",):
            path.write_bytes(good[:cut] + padding)
            write_log(tmp_path / "log", 1)
            opened = [r for r in read_log(tmp_path / "log") if r.kind == "audit.open"][-1]
            assert opened.body == {"torn_bytes": cut - last_frame + len(padding), "unsealed": 4}
            assert opened.seq == 4
            assert verify_log(tmp_path / "log", KEY).unsealed_records == 0


def test_a_cut_below_the_first_record_or_in_the_magic_is_resumed(tmp_path: Path) -> None:
    """Power fails while the very first segment is made."""
    for size in range(len(MAGIC) + 1):
        directory = tmp_path / str(size)
        directory.mkdir()
        (directory / "audit-00000000.egl").write_bytes(MAGIC[:size])
        write_log(directory, 1)
        assert verify_log(directory, KEY).records == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda p: [p[0], p[2], p[1], *p[3:]],
        lambda p: p[:2] + p[3:],
        lambda p: p[:3] + p[2:],
        lambda p: p[1:],
    ],
    ids=["reordered", "deleted", "duplicated", "beginning removed"],
)
def test_reordered_deleted_or_duplicated_records_are_found(tmp_path: Path, change: object) -> None:
    """With valid checksums everywhere: it is the chain that finds these, with or without the key."""
    write_log(tmp_path, 6)
    path = only_segment(tmp_path)
    rewrite(path, change(payloads(path)))  # type: ignore[operator]

    for key in (None, KEY):
        with pytest.raises(AuditError) as caught:
            verify_log(tmp_path, key)
        assert caught.value.code == "EG-A010"


def forge(path: Path) -> None:
    """Change one verdict and recompute the whole chain, as an attacker without the key can."""
    kept: list[bytes] = []
    prev = decode_record(payloads(path)[0]).prev
    for payload in payloads(path):
        record = decode_record(payload)
        body = {**record.body, "verdict": "PASS"} if record.kind == "frame" else record.body
        forged = Record(record.seq, record.boot_id, record.mono_ns, record.wall_ns, record.kind, body, prev)
        kept.append(encode_record(forged))
        prev = record_hash(kept[-1])
    rewrite(path, kept)


def test_a_rewrite_without_the_key_passes_the_chain_but_fails_the_checkpoint(tmp_path: Path) -> None:
    """What the MAC adds, and what a log without one does not show."""
    write_log(tmp_path, 6)
    forge(only_segment(tmp_path))

    assert verify_log(tmp_path).verdicts == {"PASS": 6}
    with pytest.raises(AuditError) as caught:
        verify_log(tmp_path, KEY)
    assert caught.value.code == "EG-A006"


def test_the_writer_refuses_to_seal_a_rewritten_past(tmp_path: Path) -> None:
    """Opening checks the last segment's MACs: the device must not lend its key to a forgery."""
    write_log(tmp_path, 6)
    forge(only_segment(tmp_path))

    with pytest.raises(AuditError, match="mac"):
        write_log(tmp_path, 1)


def test_a_wrong_key_is_refused(tmp_path: Path) -> None:
    """Another device's key does not verify this device's log, and a short key is no key."""
    write_log(tmp_path, 1)

    with pytest.raises(AuditError, match="mac"):
        verify_log(tmp_path, bytes(32))
    with pytest.raises(ConfigError):
        verify_log(tmp_path, b"short")


def test_truncation_after_a_checkpoint_is_shown_only_by_a_head_kept_elsewhere(tmp_path: Path) -> None:
    """The honest limit of a lone chain, and its remedy."""
    write_log(tmp_path, 3)
    kept_size = only_segment(tmp_path).stat().st_size
    write_log(tmp_path, 3)
    head = verify_log(tmp_path, KEY).head
    assert verify_log(tmp_path, KEY, expected_head=head).records == 10

    path = only_segment(tmp_path)
    path.write_bytes(path.read_bytes()[:kept_size])

    assert verify_log(tmp_path, KEY).records == 5
    with pytest.raises(AuditError, match="expected head"):
        verify_log(tmp_path, KEY, expected_head=head)


def fill(directory: Path, megabytes: float, **options: int) -> None:
    clock = ManualClock()
    with AuditLog(directory, clock=clock, mac_key=KEY, boot_id="b", segment_bytes=MIN_SEGMENT, **options) as log:
        for _ in range(int(megabytes * 10)):
            log.append("blob", {"x": "y" * 100_000})


def test_segments_roll_and_each_is_sealed_under_its_own_key(tmp_path: Path) -> None:
    """Closed segments end in a checkpoint; the key of segment 0 does not verify segment 1."""
    fill(tmp_path, 1.6)

    summary = verify_log(tmp_path, KEY)
    assert summary.segments == summary.checkpoints == 3
    key = MacKey(KEY)
    key.evolve_to(1)
    with pytest.raises(AuditError, match="gone"):
        key.evolve_to(0)


def test_the_ring_keeps_its_cap_and_explains_where_the_log_begins(tmp_path: Path) -> None:
    """Old segments go, the log stays verifiable, and removing one more by hand is found."""
    fill(tmp_path, 4, max_bytes=3 * MIN_SEGMENT)

    assert sum(p.stat().st_size for p in tmp_path.glob("*.egl")) <= 3 * MIN_SEGMENT + 110_000
    summary = verify_log(tmp_path, KEY)
    assert summary.first_seq > 0
    assert summary.kinds["audit.dropped"] >= 1
    fill(tmp_path, 0.1, max_bytes=3 * MIN_SEGMENT)
    assert verify_log(tmp_path, KEY).unsealed_records == 0

    min(tmp_path.glob("*.egl")).unlink()
    with pytest.raises(AuditError, match="no record says"):
        verify_log(tmp_path, KEY)


def test_a_missing_middle_segment_is_found(tmp_path: Path) -> None:
    """Indices are contiguous."""
    fill(tmp_path, 1.6)
    (tmp_path / "audit-00000001.egl").unlink()

    with pytest.raises(AuditError, match="segment 1 is missing"):
        verify_log(tmp_path, KEY)


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to let files grow past this: a full disk without a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_raises_and_costs_records_but_never_the_chain(tmp_path: Path) -> None:
    """Half a record fits: it is cut off again, the loss is counted, and the next record that fits says so."""
    clock = ManualClock()
    log = AuditLog(tmp_path, clock=clock, mac_key=KEY, boot_id="b")
    log.append("frame", {"verdict": "PASS"})
    path = only_segment(tmp_path)
    before = path.read_bytes()

    with file_size_limit(len(before) + 100):
        for _ in range(3):
            clock.wait_until_ns(clock.now_ns() + 5)
            with pytest.raises(AuditError) as caught:
                log.append("frame", {"verdict": "STOP"})
            assert caught.value.code == "EG-A012"
    assert path.read_bytes() == before
    assert log.lost_records == 3

    log.append("frame", {"verdict": "PASS"})
    log.close()
    lost = [r for r in read_log(tmp_path) if r.kind == "audit.lost"]
    assert [r.body for r in lost] == [{"count": 3, "first_mono_ns": 5}]
    assert verify_log(tmp_path, KEY).records == 5


def test_checkpoints_come_by_count_and_by_time(tmp_path: Path) -> None:
    """No more than so many records, and no more than a minute, stay unsealed."""
    clock = ManualClock()
    with AuditLog(tmp_path, clock=clock, boot_id="b") as log:
        for _ in range(CHECKPOINT_RECORDS + 10):
            log.append("frame", {"verdict": "PASS"})
        clock.wait_until_ns(61 * NS_PER_S)
        log.append("frame", {"verdict": "PASS"})

        assert verify_log(tmp_path).checkpoints == 2
        assert verify_log(tmp_path).unsealed_records == 0


def test_urgent_records_are_flushed_at_once_and_others_in_batches(tmp_path: Path) -> None:
    """Counts the kernel's own fdatasync calls, seen by strace-free means: the log's flush bookkeeping."""
    clock = ManualClock()
    with AuditLog(tmp_path, clock=clock, boot_id="b") as log:

        def pending_after(kind: str, body: dict[str, object], *, urgent: bool = False) -> int:
            log.append(kind, body, urgent=urgent)
            return log._unflushed

        assert pending_after("frame", {"verdict": "PASS"}) == 1
        assert pending_after("frame", {"verdict": "PASS"}) == 2
        assert pending_after("frame", {"verdict": "DEGRADE"}) == 0
        assert pending_after("frame", {"verdict": "DEGRADE"}) == 1
        assert pending_after("frame", {"verdict": "PASS"}) == 0
        assert pending_after("security.model_refused", {}) == 0
        assert pending_after("note", {}) == 1
        assert pending_after("note", {}, urgent=True) == 0
        assert [pending_after("note", {}) for _ in range(FLUSH_RECORDS)][-2:] == [FLUSH_RECORDS - 1, 0]
        assert pending_after("note", {}) == 1
        clock.wait_until_ns(NS_PER_S)
        assert pending_after("note", {}) == 0


def test_a_killed_writer_leaves_every_appended_record(tmp_path: Path) -> None:
    """SIGKILL between appends: what append returned is in the file, and the next start resumes."""
    program = (
        "import os, signal, sys; from edgeguard.audit.log import AuditLog; from edgeguard.clock import ManualClock\n"
        "log = AuditLog(sys.argv[1], clock=ManualClock(), mac_key=bytes(range(32)), boot_id='b')\n"
        "for i in range(20): log.append('frame', {'verdict': 'PASS', 'i': i})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL

    write_log(tmp_path, 1)
    kinds = verify_log(tmp_path, KEY).kinds
    assert kinds["frame"] == 21
    assert [r.body["unsealed"] for r in read_log(tmp_path) if r.kind == "audit.open"] == [0, 21]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """Two writers would fork the chain."""
    with (
        AuditLog(tmp_path, clock=ManualClock(), boot_id="b"),
        pytest.raises(AuditError, match="another process"),
    ):
        AuditLog(tmp_path, clock=ManualClock(), boot_id="b")


def test_a_malformed_body_writes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    """A caller's mistake is not the disk's."""
    with AuditLog(tmp_path, clock=ManualClock(), boot_id="b") as log:
        for kind, body in (("frame", {"x": float("nan")}), ("audit.open", {}), ("No Kind", {})):
            with pytest.raises(AuditError):
                log.append(kind, body)
        assert (log.next_seq, log.lost_records) == (1, 0)
    assert verify_log(tmp_path).records == 1 + 1


def test_a_closed_log_refuses_and_closing_twice_is_harmless(tmp_path: Path) -> None:
    """Fail closed."""
    log = AuditLog(tmp_path, clock=ManualClock(), boot_id="b")
    log.close()
    log.close()

    with pytest.raises(AuditError) as caught:
        log.append("frame", {})
    assert caught.value.code == "EG-A013"


def test_symbolic_links_and_foreign_files_are_not_followed(tmp_path: Path) -> None:
    """A link in the folder must not make the log write or read elsewhere."""
    target = tmp_path / "target"
    target.write_bytes(MAGIC)
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "audit-00000000.egl").symlink_to(target)

    with pytest.raises(AuditError):
        verify_log(folder)
    with pytest.raises(AuditError):
        AuditLog(folder, clock=ManualClock(), boot_id="b")
    assert target.read_bytes() == MAGIC


def test_an_empty_or_absent_folder_is_no_log(tmp_path: Path) -> None:
    """Nothing is not an intact log."""
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(AuditError):
            verify_log(folder)


@given(st.binary(max_size=400), st.booleans())
def test_arbitrary_segment_bytes_raise_nothing_but_audit_errors(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, with_magic: bool
) -> None:
    """A hostile folder cannot crash the verifier."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "audit-00000000.egl").write_bytes((MAGIC if with_magic else b"") + data)

    with pytest.raises(AuditError):
        verify_log(folder, KEY)
