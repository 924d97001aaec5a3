"""The link as a source: its memory over restarts, its keys, and what damages either."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgeguard.clock import ManualClock
from edgeguard.errors import ConfigError, SensorOpenError
from edgeguard.protocols.link import ImuReading, LinkDecoder, LinkEncoder
from edgeguard.sensors.link import SAVE_EVERY_NS, LinkFloor, LinkSource
from edgeguard.sim.pty_line import PtyLine
from edgeguard.types import IMU, ImuSample, SourceInfo

KEY, NEXT_KEY = bytes(range(32)), bytes(range(50, 82))
REST = ImuReading((0.0, 0.0, 0.0), (0.0, 0.0, 9.81))
INFO = SourceInfo(IMU, ImuSample, 10_000_000, "test")


def source(line: PtyLine, clock: ManualClock, memory: Path, **more: object) -> LinkSource:
    return LinkSource(line.port, 115_200, {7: KEY}, INFO, clock, memory=memory, **more)  # type: ignore[arg-type]


def received(line: PtyLine, link: LinkSource, frames: list[bytes]) -> int:
    for frame in frames:
        line.write(frame)
    count = 0
    while link.read(0.05) is not None:
        count += 1
    return count


def test_frames_from_before_a_restart_stay_refused_after_it(tmp_path: Path) -> None:
    """The whole recording of the first run is played to the second."""
    memory, clock = tmp_path / "imu.floor", ManualClock(start_ns=10**9)
    encoder = LinkEncoder(7, KEY, boot=3)
    recorded = [encoder.frame(k, REST) for k in range(20)]
    line = PtyLine()
    with source(line, clock, memory) as link:
        assert received(line, link, recorded) == 20
    assert memory.stat().st_mode & 0o777 == 0o600
    line = PtyLine()
    with source(line, clock, memory) as link:
        assert received(line, link, recorded) == 0
        assert received(line, link, [encoder.frame(99, REST)]) == 1


def test_the_memory_is_written_every_few_seconds_and_not_with_every_frame(tmp_path: Path) -> None:
    """A power cut then costs at most that much."""
    memory, clock = tmp_path / "imu.floor", ManualClock(start_ns=10**9)
    encoder = LinkEncoder(7, KEY)
    line = PtyLine()
    with source(line, clock, memory) as link:
        received(line, link, [encoder.frame(k, REST) for k in range(5)])
        assert not memory.exists()
        clock.wait_until_ns(10**9 + SAVE_EVERY_NS)
        received(line, link, [encoder.frame(5, REST)])
        assert LinkFloor(memory, {7: (KEY,)}).load() == {7: (1, 5)}


def test_a_key_change_is_remembered_and_the_old_key_is_dead_after_a_restart(tmp_path: Path) -> None:
    """The floor is then authenticated under the new key."""
    memory, clock = tmp_path / "imu.floor", ManualClock(start_ns=10**9)
    old, new = LinkEncoder(7, KEY, boot=1), LinkEncoder(7, NEXT_KEY, boot=2)
    line = PtyLine()
    with source(line, clock, memory, next_keys={7: NEXT_KEY}) as link:
        assert received(line, link, [old.frame(0, REST), new.frame(0, REST), old.frame(1, REST)]) == 2
        assert link.changed_keys == {7}
    assert LinkFloor(memory, {7: (NEXT_KEY,)}).load() == {7: (2, 0)}
    with pytest.raises(SensorOpenError, match="EG-N036"):
        LinkFloor(memory, {7: (KEY,)}).load()


@pytest.mark.parametrize("damage", ["lower", "cut", "empty", "huge", "text", "link", "folder"])
def test_a_memory_that_was_tampered_with_is_refused(damage: str, tmp_path: Path) -> None:
    """Fail closed, with the file named; no foreign exception."""
    memory = tmp_path / "imu.floor"
    floor = LinkFloor(memory, {7: (KEY,)})
    floor.save({7: (4, 1000)}, {7: KEY})
    raw = memory.read_bytes()
    memory.unlink()
    if damage == "lower":
        content = json.loads(raw)
        content["nodes"]["7"]["counter"] = 1
        memory.write_text(json.dumps(content))
    elif damage == "link":
        memory.symlink_to(tmp_path / "elsewhere")
    elif damage == "folder":
        memory.mkdir()
    else:
        memory.write_bytes({"cut": raw[:-9], "empty": b"", "huge": raw * 1000, "text": b"\xff{"}[damage])
    with pytest.raises(SensorOpenError, match="EG-N036"):
        floor.load()


def test_a_full_disk_is_counted_and_does_not_stop_the_sensor(tmp_path: Path) -> None:
    """The folder of the memory is gone when it is to be written."""
    folder = tmp_path / "gone"
    folder.mkdir()
    line, clock = PtyLine(), ManualClock(start_ns=10**9)
    with source(line, clock, folder / "imu.floor") as link:
        os.rmdir(folder)
        assert received(line, link, [LinkEncoder(7, KEY).frame(0, REST)]) == 1
    assert link.memory_failures == 1


def test_a_key_change_for_a_node_that_is_not_there_is_refused() -> None:
    """A typing mistake in the configuration."""
    with pytest.raises(ConfigError, match="EG-C030"):
        LinkDecoder({7: KEY}, next_keys={8: NEXT_KEY})
