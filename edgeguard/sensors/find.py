"""What is attached to this machine: serial ports, cameras, TPM, UDP ports of lidars. Read from sysfs, nothing opened.

Every function takes the root of the file system, so that a test can give it a tree of its own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeguard.sensors.find_ids import KnownDevice, known_device

# A machine has a handful; a tree with more is not a machine.
MAX_ENTRIES = 4096
MAX_ATTRIBUTE_BYTES = 4096
_UART_TYPE_ABSENT = "0"  # PORT_UNKNOWN: the board reserves the name, nothing is soldered there

LIDAR_UDP_PORTS: Mapping[int, str] = {
    2368: "Velodyne and Hesai data",
    7502: "Ouster lidar",
    7503: "Ouster IMU",
    8308: "Velodyne position",
}


@dataclass(frozen=True, slots=True)
class Access:
    """Whether this process may use a device node, and who may. `exists` is False for a sysfs entry without a node."""

    exists: bool
    readable: bool
    writable: bool
    owner: str = ""
    group: str = ""
    mode: str = ""


@dataclass(frozen=True, slots=True)
class SerialPort:
    """One serial port. `stable_path` is its name in /dev/serial/by-id, empty when it has none. `users`: (pid, name) of
    processes that hold it open, as far as this user may see."""

    path: str
    stable_path: str
    vendor_id: int | None
    product_id: int | None
    product: str
    serial_number: str
    driver: str
    known: KnownDevice | None
    access: Access
    users: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Camera:
    """One V4L2 node. `index` 0 is the one that gives pictures; others carry metadata."""

    path: str
    name: str
    driver: str
    index: int
    access: Access
    users: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class UdpPort:
    """A port that lidars send to. `bound`: somebody on this machine listens there already."""

    port: int
    what: str
    bound: bool


@dataclass(frozen=True, slots=True)
class Inventory:
    """All that was found."""

    serial: tuple[SerialPort, ...]
    cameras: tuple[Camera, ...]
    tpm: tuple[tuple[str, Access], ...]
    udp: tuple[UdpPort, ...]


def take_inventory(root: Path = Path("/")) -> Inventory:
    """Return what is attached; a part of sysfs that is missing or forbidden counts as empty."""
    users = open_devices(root)
    return Inventory(
        tuple(serial_ports(root, users)),
        tuple(cameras(root, users)),
        tuple((f"/dev/{name}", access(root, f"/dev/{name}")) for name in ("tpmrm0", "tpm0") if _there(root, name)),
        tuple(udp_ports(root)),
    )


def serial_ports(root: Path, users: Mapping[str, tuple[tuple[int, str], ...]]) -> Iterator[SerialPort]:
    """Yield the serial ports that have hardware behind them, by name."""
    stable = stable_names(root)
    for entry in _entries(root / "sys/class/tty"):
        device = entry / "device"
        if not device.exists() or _text(entry / "type") == _UART_TYPE_ABSENT:
            continue
        path = f"/dev/{entry.name}"
        usb = _usb_parent(device, root)
        vendor, product = _hexadecimal(usb, "idVendor"), _hexadecimal(usb, "idProduct")
        known = None if vendor is None or product is None else known_device(vendor, product)
        yield SerialPort(
            path,
            stable.get(path, ""),
            vendor,
            product,
            " ".join(filter(None, (_text(usb / "manufacturer"), _text(usb / "product")))) if usb else "",
            _text(usb / "serial") if usb else "",
            _link_name(device / "driver"),
            known,
            access(root, path),
            users.get(path, ()),
        )


def cameras(root: Path, users: Mapping[str, tuple[tuple[int, str], ...]]) -> Iterator[Camera]:
    """Yield V4L2 nodes, by name."""
    for entry in _entries(root / "sys/class/video4linux"):
        path = f"/dev/{entry.name}"
        index = _text(entry / "index")
        yield Camera(
            path,
            _text(entry / "name"),
            _link_name(entry / "device/driver"),
            int(index) if index.isascii() and index.isdigit() else 0,
            access(root, path),
            users.get(path, ()),
        )


def udp_ports(root: Path) -> Iterator[UdpPort]:
    """Yield the ports lidars send to, and whether one of them is taken here."""
    bound = set()
    for table in ("proc/net/udp", "proc/net/udp6"):
        for line in _lines(root / table)[1:]:
            fields = line.split()
            if len(fields) > 1 and ":" in fields[1]:
                bound.add(fields[1].rsplit(":", 1)[1].upper())
    for port, what in LIDAR_UDP_PORTS.items():
        yield UdpPort(port, what, f"{port:04X}" in bound)


def stable_names(root: Path) -> dict[str, str]:
    """Return /dev/tty... -> /dev/serial/by-id/...; where there is none, by-path."""
    names: dict[str, str] = {}
    for folder in ("by-path", "by-id"):  # the later one wins: an identity survives another socket
        for link in _entries(root / "dev/serial" / folder):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            names[f"/dev/{Path(target).name}"] = f"/dev/serial/{folder}/{link.name}"
    return names


def open_devices(root: Path) -> dict[str, tuple[tuple[int, str], ...]]:
    """Return /dev path -> processes that hold it open; other users' processes show only to root."""
    found: dict[str, list[tuple[int, str]]] = {}
    for process in _entries(root / "proc"):
        if not (process.name.isascii() and process.name.isdigit()):
            continue
        for descriptor in _entries(process / "fd"):
            try:
                target = os.readlink(descriptor)
            except OSError:
                continue
            if target.startswith(("/dev/tty", "/dev/video")):
                holder = (int(process.name), _text(process / "comm"))
                if holder not in found.setdefault(target, []):
                    found[target].append(holder)
    return {path: tuple(holders) for path, holders in found.items()}


def access(root: Path, path: str) -> Access:
    """Return who may use a device node."""
    node = root / path.lstrip("/")
    try:
        status = node.stat()
    except OSError:
        return Access(False, False, False)
    return Access(
        True,
        os.access(node, os.R_OK),
        os.access(node, os.W_OK),
        _user_name(status.st_uid),
        _group_name(status.st_gid),
        stat.filemode(status.st_mode),
    )


def _there(root: Path, name: str) -> bool:
    return (root / "dev" / name).exists()


def _user_name(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _usb_parent(device: Path, root: Path) -> Path | None:
    """Return the USB device that a port belongs to: the nearest folder above it with an identity."""
    top = (root / "sys").resolve()
    here = device.resolve()
    while here != top and top in here.parents:
        if (here / "idVendor").is_file():
            return here
        here = here.parent
    return None


def _hexadecimal(folder: Path | None, name: str) -> int | None:
    text = _text(folder / name) if folder else ""
    try:
        return int(text, 16)
    except ValueError:
        return None


def _link_name(link: Path) -> str:
    try:
        return Path(os.readlink(link)).name
    except OSError:
        return ""


def _text(path: Path) -> str:
    """Return a sysfs attribute: what a device says about itself, so nothing but printable characters is kept."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_ATTRIBUTE_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    return "".join(c for c in text.strip() if c.isprintable())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()[:MAX_ENTRIES]
    except OSError:
        return []


def _entries(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in sorted(os.listdir(folder))[:MAX_ENTRIES]]
    except OSError:
        return []
