"""V4L2, RTSP, GStreamer and other programs as cameras: with the real thing where this machine has it."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeguard.clock import ManualClock, SystemClock
from edgeguard.errors import ConfigError, EnvironmentMissingError, SensorDisconnectedError, SensorOpenError
from edgeguard.sensors.camera_capture import CaptureCamera, RtspCamera, V4l2Camera
from edgeguard.sensors.camera_pipe import GstPipeCamera, ProgramCamera
from edgeguard.types import CAMERA, Image, SourceInfo

CLOCK = SystemClock()
needs_gstreamer = pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="gst-launch-1.0 is not installed")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames of rising brightness, 64 x 48 at 20 fps."""
    path = tmp_path_factory.mktemp("video") / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    assert writer.isOpened()
    for k in range(6):
        writer.write(np.full((48, 64, 3), 40 * k + 20, np.uint8))
    writer.release()
    return path


def _capture(video: Path, **options: object) -> CaptureCamera:
    info = SourceInfo(CAMERA, Image, 50_000_000, "test")
    return CaptureCamera(str(video), cv2.CAP_FFMPEG, info, ManualClock(start_ns=77), **options)  # type: ignore[arg-type]


def _read_all(source: CaptureCamera) -> tuple[list[Image], SensorDisconnectedError | None]:
    images: list[Image] = []
    for _ in range(200):
        try:
            image = source.read(0.1)
        except SensorDisconnectedError as error:
            return images, error
        if isinstance(image, Image):
            images.append(image)
    return images, None


def test_a_capture_gives_frames_stamped_at_grab_until_it_goes_away(video: Path) -> None:
    """OpenCV's own loop on a real file: stamps are the injected clock's, the end of the device is a disconnect."""
    with _capture(video, size_px=(64, 48)) as source:
        images, error = _read_all(source)

    assert error is not None
    assert error.code == "EG-N002"
    assert {image.stamp_ns for image in images} == {77}
    # The file is read faster than the reader comes: what is not here is counted.
    assert len(images) + source.drops.get("overflow", 0) == 6
    assert abs(int(images[-1].pixels.mean()) - 220) < 12
    assert source.line_stats.frames == 6


def test_a_source_can_be_opened_again_after_its_device_went_away(video: Path) -> None:
    """A disconnect ends the thread, not the object."""
    source = _capture(video)
    for _ in range(2):
        with source:
            images, error = _read_all(source)
        assert images
        assert error is not None
    with pytest.raises(SensorDisconnectedError):
        source.read(0)


@pytest.mark.parametrize("options", [{"size_px": (128, 96)}, {"fps": 60.0}, {"fourcc": "YUYV"}])
def test_a_device_that_does_not_take_a_setting_is_refused(video: Path, options: dict[str, object]) -> None:
    """What reads back must be what was asked."""
    with pytest.raises(SensorOpenError) as caught:
        _capture(video, **options).open()

    assert caught.value.code == "EG-N051"


def test_a_device_that_opens_but_gives_nothing_is_refused(tmp_path: Path, video: Path) -> None:
    """A video without frames opens in OpenCV or not; either way it is no camera."""
    empty = tmp_path / "cut.avi"
    empty.write_bytes(video.read_bytes()[:300])

    with pytest.raises(SensorOpenError) as caught:
        _capture(empty).open()

    assert caught.value.code in {"EG-N050", "EG-N052"}


@pytest.mark.parametrize("device", [250, "/dev/v4l/by-id/usb-none-video-index0", "/dev/null"])
def test_a_v4l2_camera_that_is_not_there_is_a_typed_error_with_a_hint(device: int | str) -> None:
    """Number, by-id path, or a device that is no camera."""
    with pytest.raises(SensorOpenError) as caught:
        V4l2Camera(device, CLOCK, size_px=(640, 480)).open()

    assert caught.value.code == "EG-N050"
    assert caught.value.hint


def test_a_v4l2_camera_outside_dev_is_refused() -> None:
    """A URL or a file is never opened as a device."""
    for path in ("/tmp/video", "/dev/../etc/passwd", "rtsp://host/x"):
        with pytest.raises(ConfigError):
            V4l2Camera(path, CLOCK)


@pytest.mark.skipif(not Path("/dev/video0").exists(), reason="this machine has no /dev/video0")
def test_the_first_camera_of_this_machine_gives_a_frame() -> None:
    """Where there is a camera, it works."""
    with V4l2Camera(0, CLOCK) as source:
        assert isinstance(source.read(5.0), Image)


# ---- RTSP ----------------------------------------------------------------------------------------------------------


_NONSENSE = """
import socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
peer, _ = listener.accept()
peer.recv(999)
peer.sendall(b"HTTP/1.0 200 hello\\r\\n\\r\\n" * 9)
peer.close()
"""


@pytest.mark.parametrize("kind", ["refused", "silent", "nonsense"])
def test_an_rtsp_server_that_does_not_answer_ends_in_time_and_tells_no_secret(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Refused, silent or talking nonsense: EG-N050 within the timeout; the password is nowhere."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    if kind != "refused":
        server.listen()
    port = server.getsockname()[1]
    if kind == "nonsense":
        server.settimeout(5)
        client = subprocess.Popen([sys.executable, "-c", _NONSENSE, str(server.fileno())], pass_fds=[server.fileno()])
    source = RtspCamera(
        f"rtsp://admin:hunter2secret@127.0.0.1:{port}/cam?token=topsecret",
        CLOCK,
        open_timeout_ms=1000,
        read_timeout_ms=1000,
    )
    started = time.monotonic()

    with pytest.raises(SensorOpenError) as caught:
        source.open()

    assert time.monotonic() - started < 8
    assert caught.value.code == "EG-N050"
    said = str(caught.value) + caught.value.hint + source.info.origin + repr(source.info) + "".join(capfd.readouterr())
    assert "secret" not in said
    assert "admin" not in said
    assert source.info.origin == f"rtsp://127.0.0.1:{port}/cam"
    server.close()
    if kind == "nonsense":
        client.wait(5)


def test_an_address_that_is_no_rtsp_url_is_refused_without_repeating_it() -> None:
    """The URL may hold a password, so the message holds no URL."""
    for url in ("http://u:hunter2@h/", "rtsp://", "rtsp://u:hunter2@h:99999/", "rtsp://u:hunter2@h/a b", "/etc/passwd"):
        with pytest.raises(ConfigError) as caught:
            RtspCamera(url, CLOCK)
        assert "hunter2" not in str(caught.value)


@pytest.fixture
def rtsp_server() -> Iterator[Callable[..., int]]:
    """Starts GStreamer's RTSP server and returns its port; skips where it is not installed."""
    started: list[subprocess.Popen[str]] = []

    def start(*credentials: str) -> int:
        probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
        system = "/usr/bin/python3"
        if (
            not Path(system).exists()
            or subprocess.run([system, "-c", probe], capture_output=True, check=False).returncode
        ):
            pytest.skip("no GStreamer RTSP server: apt install python3-gi gir1.2-gst-rtsp-server-1.0")
        server = subprocess.Popen(
            [system, str(Path(__file__).parent / "rtsp_server.py"), *credentials], stdout=subprocess.PIPE, text=True
        )
        started.append(server)
        assert server.stdout is not None
        return int(server.stdout.readline())

    yield start
    for server in started:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def test_a_real_rtsp_stream_plays_with_its_password_and_ends_as_a_disconnect(
    rtsp_server: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    """Blue frames arrive; the wrong password does not open; nothing prints the right one."""
    port = rtsp_server("admin", "hunter2secret")
    with pytest.raises(SensorOpenError):
        RtspCamera(f"rtsp://admin:wrongsecret@127.0.0.1:{port}/cam", CLOCK).open()

    url = f"rtsp://admin:hunter2secret@127.0.0.1:{port}/cam"
    with RtspCamera(url, CLOCK, fps=15.0, size_px=(320, 240), read_timeout_ms=2000) as source:
        images = [image for _ in range(5) if (image := source.read(3.0)) is not None]

    assert len(images) == 5
    assert images[0].pixels.shape == (240, 320, 3)
    assert images[0].pixels[..., 0].mean() > 200
    assert images[0].pixels[..., 2].mean() < 60
    assert all(a.stamp_ns < b.stamp_ns for a, b in itertools.pairwise(images))
    assert "secret" not in "".join(capfd.readouterr())


# ---- programs ------------------------------------------------------------------------------------------------------


@needs_gstreamer
def test_a_gstreamer_pipeline_is_a_camera() -> None:
    """videotestsrc in solid red; a width whose rows GStreamer pads; live rate."""
    elements = ["videotestsrc", "is-live=true", "pattern=red", "!", "videoconvert"]
    with GstPipeCamera(elements, (318, 240), 20, CLOCK) as source:
        images = [image for _ in range(5) if (image := source.read(3.0)) is not None]

    assert len(images) == 5
    assert images[0].pixels.shape == (240, 318, 3)
    np.testing.assert_array_equal(np.unique(images[0].pixels.reshape(-1, 3), axis=0), [[0, 0, 255]])
    steps = np.diff([image.stamp_ns for image in images])
    assert (steps > 0).all()


@needs_gstreamer
def test_a_pipeline_that_ends_is_a_disconnect_and_one_that_cannot_be_built_does_not_open() -> None:
    """Ten buffers, then EG-N002; a misspelt element is EG-N053."""
    with GstPipeCamera(["videotestsrc", "num-buffers=10"], (64, 48), 30, CLOCK) as source:
        with pytest.raises(SensorDisconnectedError):
            _drain(source)
        assert source.line_stats.frames == 10
    with pytest.raises(SensorOpenError) as caught:
        GstPipeCamera(["nosuchsrc"], (64, 48), 30, CLOCK).open()
    assert caught.value.code == "EG-N053"


def _drain(source: GstPipeCamera | ProgramCamera) -> None:
    for _ in range(200):
        source.read(0.1)


_PROGRAM = """
import sys, time
import numpy as np
from edgeguard.sensors.frame_sender import FrameSender
from edgeguard.sensors.frame_wire import PixelFormat
sender = FrameSender(sys.stdout.buffer)
for k in range(3):
    sender.send(np.full((48, 64), 10 * k, np.uint8), PixelFormat.GRAY8, (64, 48), stamp_ns=time.monotonic_ns())
    time.sleep(0.02)
sys.stdout.buffer.write(b"oops")
"""


def test_a_program_that_writes_our_frames_is_a_camera() -> None:
    """Three grey frames with their own stamps, then the program ends."""
    with ProgramCamera([sys.executable, "-c", _PROGRAM], 30.0, CLOCK) as source:
        images = [image for _ in range(3) if (image := source.read(5.0)) is not None]
        with pytest.raises(SensorDisconnectedError):
            _drain(source)

    assert [int(image.pixels[0, 0, 1]) for image in images] == [0, 10, 20]
    assert dict(source.drops) == {"bad_header": 1}  # its last word was no frame
    assert source.line_stats.frames == 3


def test_a_program_that_is_missing_silent_or_strange_does_not_open() -> None:
    """Missing: the environment's fault; ending at once: EG-N053; no list of words: the configuration's."""
    with pytest.raises(EnvironmentMissingError) as missing:
        ProgramCamera(["edgeguard-no-such-program"], 30.0, CLOCK).open()
    assert missing.value.code == "EG-E051"
    with pytest.raises(SensorOpenError) as ended:
        ProgramCamera([sys.executable, "-c", "print('hello')"], 30.0, CLOCK).open()
    assert ended.value.code == "EG-N053"
    with pytest.raises(ConfigError):
        ProgramCamera([], 30.0, CLOCK)
    with pytest.raises(ConfigError):
        GstPipeCamera(["videotestsrc"], (0, 48), 30, CLOCK)


def test_closing_a_camera_ends_its_program(tmp_path: Path) -> None:
    """No child is left behind, not even one that ignores the polite signal."""
    script = "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    script += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
    script += _PROGRAM.replace("range(3)", "range(10000)")
    source = ProgramCamera([sys.executable, "-c", script], 30.0, CLOCK)
    source.open()
    pid = int((tmp_path / "pid").read_text())

    source.close()

    deadline = time.monotonic() + 6
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()
