"""A camera whose library fails in a way nobody foresaw is an error with a name, not a camera that is silent."""

from __future__ import annotations

import pytest

from edgeguard.clock import SystemClock
from edgeguard.errors import SensorDisconnectedError
from edgeguard.sensors.camera import ThreadedCamera
from edgeguard.types import Image, SourceInfo


class Crashing(ThreadedCamera):
    """A driver that raises what its manual does not mention."""

    let_go = False

    def _connect(self) -> None:
        pass

    def _next(self) -> Image | str | None:
        raise ZeroDivisionError("in a vendor's library")

    def _disconnect(self) -> None:
        self.let_go = True


def test_a_fault_in_the_cameras_thread_reaches_the_reader() -> None:
    """With a code of its own; the device is let go, and the source can be opened again."""
    camera = Crashing(SourceInfo("camera", Image, 10**8, "test"), SystemClock())
    for _ in range(2):
        camera.open()
        with pytest.raises(SensorDisconnectedError, match="ZeroDivisionError") as caught:
            camera.read(5.0)
        assert caught.value.code == "EG-N023"
        camera.close()
    assert camera.let_go
