"""examples/picamera2_sender.py end to end, with a stand-in for the Raspberry Pi's library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from edgeguard.clock import SystemClock
from edgeguard.sensors.frame_socket import FrameSocket
from edgeguard.types import Image

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "picamera2_sender.py"

# The calls of picamera2 that the example makes, giving rows with the padding that the Pi's camera gives.
_PICAMERA2 = """
import time
import numpy as np
class Request:
    def get_metadata(self):
        return {"SensorTimestamp": time.monotonic_ns() - 1000, "ExposureTime": 5000}
    def make_array(self, name):
        assert name == "main"
        frame = np.zeros((720, 1280 + 32, 3), np.uint8)
        frame[:, :1280] = (10, 20, 30)
        return frame
    def release(self):
        time.sleep(0.02)
class Picamera2:
    def create_video_configuration(self, main):
        assert main == {"size": (1280, 720), "format": "RGB888"}
        return main
    def configure(self, configuration):
        pass
    def start(self):
        pass
    def capture_request(self):
        return Request()
"""


def test_the_script_of_the_pi_feeds_a_frame_socket(tmp_path: Path) -> None:
    """Frames arrive without padding, in BGR, with the sensor's own stamp."""
    (tmp_path / "picamera2.py").write_text(_PICAMERA2)
    clock = SystemClock()
    with FrameSocket(tmp_path / "cam.sock", 30.0, clock) as source:
        child = subprocess.Popen(
            [sys.executable, str(EXAMPLE), str(tmp_path / "cam.sock")], env={**os.environ, "PYTHONPATH": str(tmp_path)}
        )
        try:
            images = [image for _ in range(3) if (image := source.read(10.0)) is not None]
        finally:
            child.kill()
            child.wait()
    assert len(images) == 3
    assert all(isinstance(image, Image) and image.pixels.shape == (720, 1280, 3) for image in images)
    assert images[0].pixels[5, 5].tolist() == [10, 20, 30]
    assert images[0].stamp_ns < images[1].stamp_ns < clock.now_ns()


def test_the_script_says_what_it_needs(tmp_path: Path) -> None:
    """Without arguments a usage line, without picamera2 the package to install."""
    usage = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=False)
    missing = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path / "x")], capture_output=True, text=True, check=False
    )
    assert usage.returncode == missing.returncode == 1
    assert "usage" in usage.stderr
    assert "python3-picamera2" in missing.stderr
