"""What is attached, read from a tree that looks like sysfs, and what is said on real pseudo-terminals."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeguard.cli.find import command
from edgeguard.cli.main import cli, run
from edgeguard.clock import SystemClock
from edgeguard.protocols.ld06 import Ld06Packet, encode_packet
from edgeguard.protocols.link import ImuReading, LinkEncoder
from edgeguard.protocols.nmea_write import NmeaFix, epoch
from edgeguard.sensors.find import take_inventory
from edgeguard.sensors.find_ids import KNOWN, known_device
from edgeguard.sensors.listen import listen_serial, listen_udp
from edgeguard.sensors.recognise import foreign_protocols, recognise

T0 = 1_767_225_600_000_000_000
NMEA = b"".join(epoch(NmeaFix(T0 + k * 10**9, 48.1, 11.5, 500.0, 3.0, 90.0, 10, 0.9)) for k in range(8))


class Tree:
    """A file system root with devices in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("sys/class/tty", "sys/class/video4linux", "dev/serial/by-id", "proc/net", "sys/devices"):
            (root / folder).mkdir(parents=True)

    def write(self, path: str, text: str) -> None:
        """Make a file."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def usb_port(self, name: str, vendor: str, product: str, title: str, stable: str = "", mode: int = 0o660) -> None:
        """Add a USB serial port."""
        device = f"sys/devices/usb1/1-{name}"
        self.write(f"{device}/idVendor", vendor + "\n")
        self.write(f"{device}/idProduct", product + "\n")
        self.write(f"{device}/product", title + "\n")
        interface = self.root / device / "1.0"
        (interface / "tty" / name).mkdir(parents=True)
        (self.root / "sys/bus/drivers/cdc_acm").mkdir(parents=True, exist_ok=True)
        (interface / "driver").symlink_to(self.root / "sys/bus/drivers/cdc_acm")
        (interface / "tty" / name / "device").symlink_to(interface)
        (self.root / "sys/class/tty" / name).symlink_to(interface / "tty" / name)
        self.write(f"dev/{name}", "")
        (self.root / "dev" / name).chmod(mode)
        if stable:
            (self.root / "dev/serial/by-id" / stable).symlink_to(f"../../{name}")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A machine with nothing attached."""
    return Tree(tmp_path)


@pytest.fixture
def talker() -> Iterator[tuple[str, threading.Event, list[bytes]]]:
    """A pseudo-terminal that says the same bytes again and again until told to stop: (path, stop, [bytes])."""
    master, slave = os.openpty()
    tty.setraw(slave)
    stop, says = threading.Event(), [b""]

    def speak() -> None:
        while not stop.is_set():
            if says[0]:
                os.write(master, says[0][:2000])
            time.sleep(0.02)

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    yield os.ttyname(slave), stop, says
    stop.set()
    thread.join(5.0)
    os.close(master)
    os.close(slave)


def test_a_receiver_is_listed_with_its_stable_name_and_settings(tree: Tree) -> None:
    """Identity, driver, stable name and what a serial source needs."""
    tree.usb_port("ttyACM0", "1546", "01a9", "u-blox GNSS receiver", "usb-u-blox_AG-if00")
    (port,) = take_inventory(tree.root).serial
    assert (port.path, port.stable_path) == ("/dev/ttyACM0", "/dev/serial/by-id/usb-u-blox_AG-if00")
    assert (port.vendor_id, port.product_id, port.driver) == (0x1546, 0x01A9, "cdc_acm")
    assert port.known is not None
    assert port.known.protocol == "gnss"
    outcome = CliRunner().invoke(command, ["--sysroot", str(tree.root), "--format", "json"])
    assert outcome.exit_code == 0
    row = json.loads(outcome.stdout)["serial"][0]
    assert row["settings"] == {"port": "/dev/serial/by-id/usb-u-blox_AG-if00", "decoder": "gnss", "baud": 9600}
    text = CliRunner().invoke(command, ["--sysroot", str(tree.root)]).stdout
    assert 'port = "/dev/serial/by-id/usb-u-blox_AG-if00"  decoder = "gnss"  baud = 9600' in text
    assert "1546:01a9" in text


def test_a_bridge_promises_no_protocol(tree: Tree) -> None:
    """Behind a CP2102 may be anything: no decoder is guessed; a missing stable name is a hint."""
    tree.usb_port("ttyUSB0", "10c4", "ea60", "CP2102")
    row = json.loads(CliRunner().invoke(command, ["--sysroot", str(tree.root), "--format", "json"]).stdout)["serial"][0]
    assert "decoder" not in row["settings"]
    assert any("stable name" in hint for hint in row["hints"])
    assert "CP210x" in row["device"]


def test_names_without_hardware_are_left_out(tree: Tree) -> None:
    """Virtual consoles have no device; a UART that is not soldered in has type 0; a real one has not."""
    (tree.root / "sys/class/tty/tty0").mkdir()
    for name, kind in (("ttyS0", "0"), ("ttyS1", "4")):
        tree.write(f"sys/class/tty/{name}/type", kind)
        (tree.root / f"sys/class/tty/{name}/device").mkdir()
    assert [port.path for port in take_inventory(tree.root).serial] == ["/dev/ttyS1"]


def test_who_holds_a_port_is_told(tree: Tree) -> None:
    """From the open files of processes."""
    tree.usb_port("ttyUSB0", "1a86", "7523", "USB Serial")
    tree.write("proc/321/comm", "gpsd\n")
    (tree.root / "proc/321/fd").mkdir()
    (tree.root / "proc/321/fd/5").symlink_to("/dev/ttyUSB0")
    (port,) = take_inventory(tree.root).serial
    assert port.users == ((321, "gpsd"),)
    assert "gpsd (pid 321)" in CliRunner().invoke(command, ["--sysroot", str(tree.root)]).stdout


def test_cameras_tpm_and_udp_ports_are_listed(tree: Tree) -> None:
    """Names from sysfs, taken ports from the kernel's table."""
    tree.write("sys/class/video4linux/video0/name", "C920 HD\n")
    tree.write("sys/class/video4linux/video0/index", "0\n")
    tree.write("sys/class/video4linux/video1/name", "C920 HD\n")
    tree.write("sys/class/video4linux/video1/index", "1\n")
    tree.write("dev/video0", "")
    tree.write("dev/tpmrm0", "")
    tree.write("proc/net/udp", "  sl  local_address\n   1: 00000000:0940 00000000:0000 07\n")
    found = take_inventory(tree.root)
    assert [(c.path, c.name, c.index, c.access.exists) for c in found.cameras] == [
        ("/dev/video0", "C920 HD", 0, True),
        ("/dev/video1", "C920 HD", 1, False),
    ]
    assert [path for path, _ in found.tpm] == ["/dev/tpmrm0"]
    assert {one.port: one.bound for one in found.udp}[2368] is True
    assert {one.port: one.bound for one in found.udp}[7502] is False
    text = CliRunner().invoke(command, ["--sysroot", str(tree.root)]).stdout
    assert "metadata" in text
    assert "no device node" in text


def test_an_empty_machine_is_no_error(tmp_path: Path) -> None:
    """No sysfs at all, as in some containers."""
    outcome = CliRunner().invoke(command, ["--sysroot", str(tmp_path)])
    assert outcome.exit_code == 0
    assert outcome.stdout.count("none") == 3


@settings(max_examples=20)
@given(st.binary(max_size=40), st.binary(max_size=20))
def test_what_a_device_says_about_itself_is_only_text(title: bytes, vendor: bytes) -> None:
    """Descriptors come from the device: control characters and wrong numbers change nothing but their own field."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        tree.usb_port("ttyUSB0", "0403", "6001", "x")
        (tree.root / "sys/devices/usb1/1-ttyUSB0/product").write_bytes(title)
        (tree.root / "sys/devices/usb1/1-ttyUSB0/idVendor").write_bytes(vendor)
        (port,) = take_inventory(tree.root).serial
        assert port.product.isprintable()
        assert CliRunner().invoke(command, ["--sysroot", folder]).exit_code == 0


def test_known_devices_fall_back_to_their_vendor() -> None:
    """An unknown product of u-blox is still a receiver; an unknown vendor is nothing."""
    assert known_device(0x1546, 0xFFFF) is KNOWN[0x1546, None]
    assert known_device(0xDEAD, 0xBEEF) is None


def test_what_speaks_on_a_line_is_recognised(talker: tuple[str, threading.Event, list[bytes]]) -> None:
    """NMEA at whatever rate comes first; the answer has the decoder."""
    path, _, says = talker
    says[0] = NMEA
    heard = listen_serial(path, 2.0, SystemClock())
    assert [r.name for r in heard.recognised] == ["NMEA 0183"]
    assert heard.recognised[0].decoder == "gnss"
    assert heard.diagnosis is None


def test_a_silent_line_is_tried_once(talker: tuple[str, threading.Event, list[bytes]]) -> None:
    """Silence has no rate."""
    start = time.monotonic()
    heard = listen_serial(talker[0], 0.2, SystemClock())
    assert (heard.received, heard.recognised, heard.trouble) == (0, (), "")
    assert time.monotonic() - start < 3.0
    assert listen_serial("/dev/edgeguard-none", 0.1, SystemClock()).trouble


def test_the_verb_listens_and_gives_settings(
    talker: tuple[str, threading.Event, list[bytes]], tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    """End to end on a real pseudo-terminal; news goes to stderr, the result to stdout."""
    path, _, says = talker
    says[0] = NMEA
    arguments = ["find", "--sysroot", str(tree.root), "--listen", "1", "--port", path, "--format"]
    assert run(cli, "edgeguard", [*arguments, "json"]) == 0
    row = json.loads(capsys.readouterr().out)["serial"][0]
    assert row["settings"]["decoder"] == "gnss"
    assert row["heard"]["recognised"][0]["name"] == "NMEA 0183"
    assert run(cli, "edgeguard", [*arguments, "text"]) == 0
    assert "heard    NMEA 0183" in capsys.readouterr().out


def test_every_recogniser_knows_its_own_and_none_knows_noise() -> None:
    """Our link is recognised without its key; random bytes are nothing."""
    import random

    encoder = LinkEncoder(1, bytes(32))
    link = b"".join(encoder.frame(k, ImuReading((0.0, 0.0, 0.1), (0.0, 0.0, 9.8))) for k in range(8))
    assert [r.name for r in recognise(link)] == ["EdgeGuard link"]
    assert [r.name for r in recognise(NMEA)] == ["NMEA 0183"]
    assert recognise(random.Random(4).randbytes(20_000)) == []
    assert foreign_protocols(random.Random(4).randbytes(20_000)) == {}


def test_ld06_is_recognised() -> None:
    """By the packets that its own encoder makes."""
    packets = [Ld06Packet(3600, 10.0 * k, 10.0 * k + 8.8, 3 * k, (1.0,) * 12, (9,) * 12) for k in range(20)]
    assert [r.name for r in recognise(b"".join(encode_packet(p) for p in packets))] == ["LD06 lidar"]


def test_a_turning_rplidar_is_recognised() -> None:
    """Five-byte nodes: start flag and its complement, check bit, angle in 1/64 degree, distance in 1/4 mm."""
    turn = b"".join(
        bytes((15 << 2 | (1 if k == 0 else 2), (64 * k << 1 & 0xFF) | 1)) + struct.pack("<BH", 64 * k >> 7, 4000)
        for k in range(360)
    )
    assert [r.name for r in recognise(turn * 4)] == ["RPLIDAR"]


def test_udp_senders_are_counted() -> None:
    """A real socket; a port that is taken says so."""
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("127.0.0.1", 0))
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probe.bind(("127.0.0.1", 0))
    free = probe.getsockname()[1]
    probe.close()
    stop = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not stop.is_set():
                sender.sendto(bytes(1206), ("127.0.0.1", free))
                time.sleep(0.02)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        busy, heard = listen_udp([taken.getsockname()[1], free], 0.5, SystemClock(), "127.0.0.1")
    finally:
        stop.set()
        thread.join()
        taken.close()
    assert busy.trouble
    ((who, packets, size),) = heard.senders
    assert (who, size) == ("127.0.0.1", 1206)
    assert packets >= 2


@pytest.mark.parametrize(
    "arguments", [["find", "--listen", "0"], ["find", "--listen", "1e9"], ["find", "--port", "/dev/x"]]
)
def test_wrong_arguments_are_usage_errors(arguments: list[str]) -> None:
    """Exit code 2 with a hint."""
    assert run(cli, "edgeguard", arguments) == 2
