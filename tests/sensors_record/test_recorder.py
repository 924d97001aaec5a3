"""The recorder beside a pipeline: it loses what it must, says so, and never stands in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeguard.clock import ManualClock
from edgeguard.config import Config
from edgeguard.errors import ConfigError, EnvironmentMissingError, RecordingError
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sensors.fake import fake_rig
from edgeguard.sensors.mcap_replay import McapRecording
from edgeguard.sensors.recorder import Recorder
from edgeguard.sensors.recording import open_recording, recording_kind
from edgeguard.types import Image


def _record(path: Path, ticks: int = 20, **options: Any) -> Recorder:
    """A fake rig through a pipeline, recorded."""
    clock = ManualClock(start_ns=10**9)
    with (
        Recorder(path, fake_rig(clock), clock, **options) as recorder,
        Pipeline(Config(), recorder.sources, clock) as pipeline,
    ):
        for frame in pipeline.run(periodic_ticks(clock.now_ns(), 10**8, ticks)):
            recorder.frame(frame)
    return recorder


@pytest.mark.parametrize("suffix", [".mcap", ".npz"])
def test_a_recording_opens_by_its_content_and_holds_what_was_written(tmp_path: Path, suffix: str) -> None:
    """Both formats, found without a word about which it is; counts agree with `written`."""
    recorder = _record(tmp_path / f"d{suffix}", wait=True)
    os.rename(tmp_path / f"d{suffix}", tmp_path / "unnamed")

    recording = open_recording(tmp_path / "unnamed")
    clock = ManualClock(start_ns=2**61)
    counts = {}
    for name, source in recording.sources(clock).items():
        counts[name] = 0
        while source.read(0) is not None:
            counts[name] += 1

    assert recording_kind(tmp_path / "unnamed") == suffix[1:]
    assert (tmp_path / "unnamed").stat().st_mode & 0o777 == 0o600
    assert dict(recorder.drops) == {}
    assert {n: c for n, c in recorder.written.items() if n != "frames"} == counts
    assert recorder.written["frames"] == 20
    assert counts["imu"] == 201


def test_a_full_queue_drops_and_counts_and_returns_at_once(tmp_path: Path) -> None:
    """A writer that is not even started takes nothing: the pipeline's thread never waits."""
    clock = ManualClock()
    recorder = Recorder(tmp_path / "d.mcap", fake_rig(clock), clock, queue_bytes=5_000_000)
    image = Image(np.zeros((1000, 1000, 3), np.uint8), 1)
    started = time.perf_counter()

    for _ in range(100):
        recorder.sample(image)

    assert time.perf_counter() - started < 1.0
    assert dict(recorder.drops) == {"queue_full": 99}


def test_a_disk_that_is_full_costs_the_recording_and_not_the_pipeline() -> None:
    """/dev/full refuses every byte: the run ends normally, everything is counted as write_failed."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this machine")
    import edgeguard.sensors.recorder as module

    class Full(module.McapSink):
        """The real sink, its file exchanged for one without room."""

        def __init__(self, path: Path, *arguments: Any, **options: Any) -> None:
            super().__init__(path, *arguments, **options)
            os.dup2(os.open("/dev/full", os.O_WRONLY), self._file.fileno())

    path = Path("/tmp") / f"edgeguard-full-{os.getpid()}.mcap"
    original, module.McapSink = module.McapSink, Full  # type: ignore[misc]
    try:
        recorder = _record(path, wait=True)
    finally:
        module.McapSink = original  # type: ignore[misc]
        path.unlink(missing_ok=True)

    assert recorder.drops["write_failed"] > 100
    assert set(recorder.drops) == {"write_failed"}


def test_a_recording_stops_at_its_size_and_says_so(tmp_path: Path) -> None:
    """The file stays near the cap, is whole, and the rest is counted."""
    recorder = _record(tmp_path / "d.mcap", ticks=40, wait=True, max_bytes=2_000_000)

    assert (tmp_path / "d.mcap").stat().st_size < 3_500_000
    assert recorder.drops["file_full"] > 0
    assert McapRecording(tmp_path / "d.mcap").notes == []


def test_what_cannot_be_written_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    """An empty picture has no PNG."""
    clock = ManualClock(start_ns=10**9)
    with Recorder(tmp_path / "d.mcap", fake_rig(clock), clock) as recorder:
        recorder.sample(Image(np.zeros((0, 0, 3), np.uint8), 1))
        recorder.sample(Image(np.zeros((4, 4, 3), np.uint8), 2))
    assert dict(recorder.drops) == {"not_encodable": 1}
    assert dict(recorder.written) == {"camera": 1}


_KILLED = """
import os, sys, time
from pathlib import Path
from edgeguard.clock import SystemClock
from edgeguard.sensors.fake import fake_rig
from edgeguard.sensors.recorder import Recorder
clock = SystemClock()
with Recorder(Path(sys.argv[1]), fake_rig(clock), clock) as recorder:
    for source in recorder.sources.values():
        source.open()
    while True:
        for source in recorder.sources.values():
            source.read(0)
        time.sleep(0.005)
        print(sum(recorder.written.values()), flush=True)
"""


def test_a_process_that_is_killed_leaves_a_recording_up_to_the_last_chunk(tmp_path: Path) -> None:
    """SIGKILL in the middle: all but the last 64 KiB of messages of the running chunk replay."""
    path = tmp_path / "killed.mcap"
    child = subprocess.Popen([sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    written = 0
    while written < 300:
        written = int(child.stdout.readline())
    child.kill()
    child.wait()
    child.stdout.close()

    recording = McapRecording(path)

    assert [n["kind"] for n in recording.notes] == ["truncated"]
    clock = ManualClock(start_ns=2**61)
    played = 0
    for source in recording.sources(clock).values():
        while source.read(0) is not None:
            played += 1
    assert played > written - 80  # a chunk holds one cloud and the readings of its 0.1 s, or a second of readings
    assert len(recording.ticks()) > 3


def test_wrong_arguments_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    """Suffix, image coding, an existing file, a folder that is not there."""
    clock = ManualClock()
    for path, options in ((tmp_path / "d.bag", {}), (tmp_path / "d.mcap", {"images": "gif"})):
        with pytest.raises(ConfigError) as caught:
            Recorder(path, {}, clock, **options)
        assert caught.value.code == "EG-C120"
    (tmp_path / "old.mcap").write_text("precious")
    (tmp_path / "old.npz").write_text("precious")
    for path in (tmp_path / "old.mcap", tmp_path / "old.npz", tmp_path / "no" / "d.mcap"):
        with pytest.raises(RecordingError) as refused, Recorder(path, {}, clock):
            pass
        assert refused.value.code == "EG-N078"
    assert (tmp_path / "old.mcap").read_text() == "precious"


def test_without_the_package_recording_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EG-E050 with the extra's name; nothing is created."""
    monkeypatch.setitem(sys.modules, "mcap.writer", None)
    clock = ManualClock()
    with pytest.raises(EnvironmentMissingError) as caught, Recorder(tmp_path / "d.mcap", {}, clock):
        pass
    assert caught.value.code == "EG-E050"
    assert "edgeguard[record]" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["missing", "text", "empty folder", "zip"])
def test_what_is_no_recording_is_told_with_the_list_of_what_is(tmp_path: Path, kind: str) -> None:
    """EG-N073 lists the readable layouts; a zip of something else is refused by its reader."""
    path = tmp_path / "thing"
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty folder":
        path.mkdir()
    elif kind == "zip":
        np.savez(path.with_suffix(".npz"), other=np.zeros(3))
        path = path.with_suffix(".npz")
    with pytest.raises(RecordingError) as caught:
        open_recording(path)
    assert caught.value.code == ("EG-N074" if kind == "zip" else "EG-N073")
    assert kind == "zip" or "EuRoC" in caught.value.hint
