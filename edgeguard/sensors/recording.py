"""`open_recording`: which of the layouts we read a file or folder is, by its content."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgeguard.errors import RecordingError
from edgeguard.sensors.recorded import Recording

READABLE = (
    "a KITTI drive (folder with image_02 and velodyne or velodyne_points)",
    "a EuRoC sequence (folder with cam0 or imu0)",
    "an EdgeGuard recording (.mcap or .npz)",
    "a car drive (.npz with gnss_t and gnss_value)",
)
_MCAP_MAGIC = b"\x89MCAP0\r\n"
_ZIP_MAGIC = b"PK\x03\x04"


_ONE_SENSOR = ". Raw bytes of one sensor, and pcap: edgeguard decode --help"


def open_recording(path: Path) -> Recording:
    """Open a recording of any layout we read.

    Raises:
        RecordingError: EG-N073 when it is none of them; the errors of the layout it is.
    """
    kind = recording_kind(path)
    if kind == "kitti":
        from edgeguard.sensors.kitti import KittiRecording

        return KittiRecording(path)
    if kind == "euroc":
        from edgeguard.sensors.euroc import EurocRecording

        return EurocRecording(path)
    if kind == "car":
        from edgeguard.sensors.car import CarRecording

        return CarRecording(path)
    if kind == "npz":
        from edgeguard.sensors.npz import NpzRecording

        return NpzRecording(path)
    if kind == "mcap":
        from edgeguard.sensors.mcap_replay import McapRecording

        return McapRecording(path)
    what = "is neither a file nor a folder" if not path.exists() else "is no recording we read"
    raise RecordingError(f"{path} {what}", code="EG-N073", hint="readable: " + "; ".join(READABLE) + _ONE_SENSOR)


def recording_kind(path: Path) -> str:
    """`kitti`, `euroc`, `mcap`, `npz`, `car`, or an empty string."""
    from edgeguard.sensors.euroc import euroc_root

    if path.is_dir():
        if (path / "image_02").is_dir():
            return "kitti"
        return "euroc" if euroc_root(path) is not None else ""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return ""
    if head.startswith(_MCAP_MAGIC):
        return "mcap"
    if head.startswith(_ZIP_MAGIC):
        return "car" if _holds_gnss_table(path, head) else "npz"
    return ""


def _holds_gnss_table(path: Path, head: bytes) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "gnss_t.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError):
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        return name.endswith((b"_t.npy", b"_value.npy"))  # a cut car drive: its reader says so
