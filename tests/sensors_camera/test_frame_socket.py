"""The frame socket end to end, over a real Unix socket."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeguard.clock import SystemClock
from edgeguard.errors import SensorDisconnectedError, SensorOpenError
from edgeguard.sensors.frame_sender import FrameSender
from edgeguard.sensors.frame_socket import FrameSocket
from edgeguard.sensors.frame_wire import PixelFormat
from edgeguard.types import Image

CLOCK = SystemClock()


def _until(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def _picture(value: int) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


def _send_many(sender: FrameSender) -> None:
    """More than a socket buffers, so that a closed peer is noticed."""
    for _ in range(2000):
        sender.send(_picture(1), PixelFormat.BGR, (64, 48))


def test_what_is_sent_arrives_with_the_senders_stamp_and_over_a_reconnect(tmp_path: Path) -> None:
    """Pixels are equal, stamps are those of the exposure, a sender that comes back is welcome."""
    with FrameSocket(tmp_path / "cam.sock", 30.0, CLOCK) as source:
        assert source.read(0) is None
        for value in (10, 20):
            with FrameSender(tmp_path / "cam.sock") as sender:
                stamp_ns = CLOCK.now_ns()
                sender.send(_picture(value), PixelFormat.BGR, (64, 48), stamp_ns=stamp_ns, device_stamp_ns=5)
                image = source.read(5.0)
            assert isinstance(image, Image)
            assert (image.stamp_ns, image.device_stamp_ns) == (stamp_ns, 5)
            np.testing.assert_array_equal(image.pixels, _picture(value))
        assert dict(source.drops) == {}
        assert source.line_stats.frames == 2
        assert not source.exhausted


def test_the_socket_is_its_owners_alone_and_goes_with_the_source(tmp_path: Path) -> None:
    """Mode 0600 while open, nothing left afterwards."""
    path = tmp_path / "cam.sock"
    with FrameSocket(path, 30.0, CLOCK):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert _until(lambda: not path.exists())
    with pytest.raises(SensorDisconnectedError) as caught:
        FrameSender(path)
    assert caught.value.code == "EG-N002"


def test_a_user_who_is_not_on_the_list_is_turned_away(tmp_path: Path) -> None:
    """The kernel says who connects; nobody on an empty list means nobody."""
    with FrameSocket(tmp_path / "cam.sock", 30.0, CLOCK, allowed_uids={os.getuid() + 1}) as source:
        with FrameSender(tmp_path / "cam.sock") as sender:
            with pytest.raises(SensorDisconnectedError):
                _send_many(sender)
            assert _until(lambda: source.drops.get("refused_peer") == 1)
        assert source.read(0) is None


def test_a_second_sender_is_refused_while_the_first_is_there(tmp_path: Path) -> None:
    """One at a time: the second one is counted and the first one goes on."""
    with (
        FrameSocket(tmp_path / "cam.sock", 30.0, CLOCK) as source,
        FrameSender(tmp_path / "cam.sock") as first,
    ):
        first.send(_picture(1), PixelFormat.BGR, (64, 48))
        assert source.read(5.0) is not None
        with FrameSender(tmp_path / "cam.sock"):
            assert _until(lambda: source.drops.get("second_peer") == 1)
        first.send(_picture(2), PixelFormat.BGR, (64, 48))
        assert source.read(5.0) is not None


def test_a_slow_reader_loses_the_oldest_frames_by_count(tmp_path: Path) -> None:
    """Memory stays bounded; what was lost is told."""
    with (
        FrameSocket(tmp_path / "cam.sock", 30.0, CLOCK) as source,
        FrameSender(tmp_path / "cam.sock") as sender,
    ):
        for value in range(12):
            sender.send(_picture(value), PixelFormat.BGR, (64, 48))
        assert _until(lambda: source.line_stats.frames == 12)
        assert _until(lambda: source.drops.get("overflow") == 8)
        kept = [image.pixels[0, 0, 0] for _ in range(4) if (image := source.read(1.0)) is not None]
        assert kept == [8, 9, 10, 11]
        assert source.line_stats.checksum_failures == 0


class _HurriedClock(SystemClock):
    """Real time, a hundred times as fast: five seconds of patience end after a twentieth."""

    def now_ns(self) -> int:
        return super().now_ns() * 100


def test_a_sender_that_stops_inside_a_frame_loses_its_place(tmp_path: Path) -> None:
    """After five seconds without a whole frame it is disconnected, and another one can come."""
    with FrameSocket(tmp_path / "cam.sock", 30.0, _HurriedClock()) as source:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(tmp_path / "cam.sock"))
            peer.sendall(b"EGF1" + bytes(20))
            # The source's own thread counts the one after the other.
            assert _until(lambda: source.drops.get("stalled") == 1 and source.drops.get("cut") == 1)
        with FrameSender(tmp_path / "cam.sock") as sender:
            sender.send(_picture(3), PixelFormat.BGR, (64, 48))
            assert source.read(5.0) is not None


@pytest.mark.parametrize("kind", ["file", "open_folder", "no_folder", "taken", "long"])
def test_a_path_that_is_not_safe_is_refused(tmp_path: Path, kind: str) -> None:
    """A file is not overwritten, a folder others can write is not trusted, a living socket is not taken over."""
    path = tmp_path / "cam.sock"
    holder: FrameSocket | None = None
    if kind == "file":
        path.write_text("precious")
    elif kind == "open_folder":
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared").chmod(0o777)
        path = tmp_path / "shared" / "cam.sock"
    elif kind == "no_folder":
        path = tmp_path / "missing" / "cam.sock"
    elif kind == "long":
        path = tmp_path / ("x" * 120)
    else:
        holder = FrameSocket(path, 30.0, CLOCK)
        holder.open()

    with pytest.raises(SensorOpenError) as caught:
        FrameSocket(path, 30.0, CLOCK).open()

    assert caught.value.code == "EG-N054"
    assert kind != "file" or path.read_text() == "precious"
    if holder is not None:
        assert path.exists()
        holder.close()


def test_a_socket_left_by_a_crash_is_replaced(tmp_path: Path) -> None:
    """Nobody listens on it any more, so it is in nobody's use."""
    path = tmp_path / "cam.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()

    with FrameSocket(path, 30.0, CLOCK), FrameSender(path):
        assert path.exists()
