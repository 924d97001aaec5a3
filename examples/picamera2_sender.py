"""Send frames of a Raspberry Pi camera to EdgeGuard over the frame socket.

Run as the user that EdgeGuard runs as, after EdgeGuard listens: python picamera2_sender.py /run/edgeguard/camera.sock
Needs `apt install python3-picamera2`; EdgeGuard's side is `FrameSocket(path, 30.0, clock)`.
"""

from __future__ import annotations

import sys

from edgeguard.sensors.frame_sender import FrameSender
from edgeguard.sensors.frame_wire import PixelFormat

WIDTH, HEIGHT = 1280, 720


def main(path: str) -> None:
    try:
        from picamera2 import Picamera2
    except ImportError:
        sys.exit("picamera2 is not installed: this runs on a Raspberry Pi with `apt install python3-picamera2`")
    camera = Picamera2()
    # libcamera names formats by their order in a register: its RGB888 is blue, green, red in memory.
    camera.configure(camera.create_video_configuration({"size": (WIDTH, HEIGHT), "format": "RGB888"}))
    camera.start()
    with FrameSender(path) as sender:
        while True:
            request = camera.capture_request()
            metadata, pixels = request.get_metadata(), request.make_array("main")
            request.release()
            sender.send(
                pixels[:, :WIDTH],
                PixelFormat.BGR,
                (WIDTH, HEIGHT),
                stamp_ns=int(metadata["SensorTimestamp"]),  # CLOCK_MONOTONIC at the start of the exposure
                exposure_ns=1000 * int(metadata.get("ExposureTime", 0)),
            )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: picamera2_sender.py SOCKET")
    main(sys.argv[1])
