"""`edgeguard decode`: every protocol, both formats, stdin, limits, and files that mean harm."""

from __future__ import annotations

import io
import json
import math
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import ouster.sdk.core as sdk
import pytest

from edgeguard.cli import decode
from edgeguard.cli.main import cli, run
from edgeguard.protocols.link import ImuReading, LinkEncoder, WheelReading

RMC = b"$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A\r\n"
SUMMARY_KEYS = {"frames", "checksum_failures", "bytes_skipped", "gaps"}
KEY = bytes(range(32))


def nan_refused(text: str) -> float:
    raise AssertionError(f"{text} in JSON")


def rows(out: str) -> tuple[list[dict], dict]:
    """Return records and summary; every line must be one strict JSON object."""
    lines = [json.loads(line, parse_constant=nan_refused) for line in out.splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    assert lines[-1].keys() >= SUMMARY_KEYS
    assert all(isinstance(lines[-1][key], int) for key in SUMMARY_KEYS)
    return lines[:-1], lines[-1]


def pcap(payloads: list[bytes], source: str = "10.0.0.1") -> bytes:
    out = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 101)
    for number, payload in enumerate(payloads):
        body = struct.pack(">4H", 2368, 2368, 8 + len(payload), 0) + payload
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), number % 65536, 0, 64, 17, 0)
        ip += socket.inet_aton(source) + socket.inet_aton("10.0.0.9") + body
        out += struct.pack("<4I", 1_700_000_000, number, len(ip), len(ip)) + ip
    return out


def link_bytes() -> bytes:
    encoder = LinkEncoder(1, KEY, boot=1)
    imu = ImuReading((0.0, 0.0, 0.25), (0.0, 0.0, 9.81))
    wheels = WheelReading((1.0, 1.0, 1.0, 1.0), None)
    return b"".join(encoder.frame(n * 10_000, reading) for n, reading in enumerate([imu, wheels, imu]))


def ld06_bytes(packets: int = 3) -> bytes:
    out = b""
    for number in range(packets):
        start = 1000 * number
        body = struct.pack("<BBHH", 0x54, 0x2C, 3600, start)
        body += b"".join(struct.pack("<HB", 1000 + k, 200) for k in range(12))
        body += struct.pack("<HH", start + 917, round(2.78 * number))
        crc = 0
        for byte in body:
            crc ^= byte
            for _ in range(8):
                crc = (crc << 1 ^ (0x4D if crc & 0x80 else 0)) & 0xFF
        out += body + bytes([crc])
    return out


def vlp16_packet(number: int) -> bytes:
    body = b""
    for block in range(12):
        body += struct.pack("<HH", 0xEEFF, (35_000 + 40 * (12 * number + block)) % 36_000)
        body += struct.pack("<HB", 5000, 100) * 32
    return body + struct.pack("<IBB", round(1327.104 * number), 0x37, 0x22)


@pytest.fixture
def ouster_files(tmp_path: Path) -> tuple[Path, Path]:
    """A capture of two sweeps and an IMU packet, and the metadata."""
    document = json.loads(sdk.SensorInfo.from_default(sdk.LidarMode._512x10).to_json_string())
    document["lidar_data_format"]["udp_profile_lidar"] = "RNG19_RFL8_SIG16_NIR16_DUAL"
    document["config_params"] |= {"udp_port_lidar": 7502, "udp_port_imu": 7503}
    document["sensor_info"] |= {"prod_sn": "122201000998", "initialization_id": 77}
    info = sdk.SensorInfo(json.dumps(document))
    payloads = []
    for frame_id in (1, 2):
        frame = sdk.LidarFrame(info)
        frame.field("RANGE")[:] = 2000 + np.arange(512)
        frame.timestamp[:] = 10**12 + frame_id * 10**8 + np.arange(512)
        frame.measurement_id[:], frame.status[:], frame.frame_id = np.arange(512), 1, frame_id
        payloads += [bytes(p.buf) for p in sdk.frame_to_packets(frame, sdk.PacketFormat(info), 77, 122201000998)]
    payloads.append(struct.pack("<3Q6f", 1, 2, 3, 0, 0, 1, 0, 0, 0))
    (tmp_path / "o.pcap").write_bytes(pcap(payloads))
    (tmp_path / "o.json").write_text(json.dumps(document))
    return tmp_path / "o.pcap", tmp_path / "o.json"


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def test_nmea_is_printed_epoch_by_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers are numbers; units are in the names."""
    log = write(
        tmp_path / "a.log",
        RMC + RMC.replace(b"*6A", b"*6B") + b"noise" + RMC.replace(b"123519", b"123520").replace(b"*6A", b"*60"),
    )
    assert run(cli, "edgeguard", ["decode", "nmea", log, "--format", "json"]) == 0
    records, summary = rows(capsys.readouterr().out)
    assert records[0]["latitude_deg"] == pytest.approx(48.1173)
    assert isinstance(records[0]["speed_m_s"], float)
    assert summary["frames"] == 2
    assert summary["checksum_failures"] == 1
    assert summary["bytes_skipped"] > 0


def test_text_has_a_line_per_record_and_the_summary_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same totals, for people."""
    assert run(cli, "edgeguard", ["decode", "nmea", write(tmp_path / "a.log", RMC * 3)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "latitude_deg=48.1173" in lines[0]
    assert lines[-1].startswith("summary  frames=3  checksum_failures=0  bytes_skipped=0  gaps=0")


def test_protocols_on_one_line_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A receiver that speaks NMEA and UBX: each is decoded alone, the other one counted."""
    body = struct.pack("<BBHI", 0x01, 0x61, 4, 1000)
    a = b = 0
    for byte in body:
        a = (a + byte) & 0xFF
        b = (b + a) & 0xFF
    log = write(tmp_path / "a.log", RMC + (b"\xb5\x62" + body + bytes([a, b])) * 3)
    for protocol, frames, other in (("nmea", 1, {"UBX": 3}), ("ubx", 3, {"NMEA": 1})):
        assert run(cli, "edgeguard", ["decode", protocol, log, "--format", "json"]) == 0
        _, summary = rows(capsys.readouterr().out)
        assert summary["frames"] == frames
        assert summary["drops"] == other


def test_link_frames_are_checked_with_the_nodes_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Readings in SI units; with a wrong key every frame is a checksum failure and nothing is printed."""
    data = write(tmp_path / "a.bin", link_bytes())
    key, wrong = write(tmp_path / "k", KEY.hex().encode() + b"\n"), write(tmp_path / "w", bytes(32))
    assert run(cli, "edgeguard", ["decode", "link", data, "--key", f"1={key}", "--format", "json"]) == 0
    records, summary = rows(capsys.readouterr().out)
    assert [r["counter"] for r in records] == [0, 1, 2]
    assert records[0]["reading"]["gyro_rad_s"] == [0.0, 0.0, 0.25]
    assert records[1]["reading"]["steering_rad"] is None
    assert summary["frames"] == 3
    assert run(cli, "edgeguard", ["decode", "link", data, "--key", wrong, "--format", "json"]) == 1
    records, summary = rows(capsys.readouterr().out)
    assert records == []
    assert summary["checksum_failures"] == 3


def test_ld06_packets_are_printed_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve ranges each; a damaged packet is a checksum failure and a gap."""
    good = ld06_bytes()
    bad = bytearray(good)
    bad[50] ^= 1
    assert run(cli, "edgeguard", ["decode", "ld06", write(tmp_path / "a", bytes(bad)), "--format", "json"]) == 0
    records, summary = rows(capsys.readouterr().out)
    assert [r["start_angle_deg"] for r in records] == [0.0, 20.0]
    assert records[0]["range_m"] == [1.0 + k / 1000 for k in range(12)]
    assert summary["frames"] == 2
    assert summary["checksum_failures"] == 1
    assert summary["gaps"] == 1


def test_rplidar_nodes_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A legacy scan: response descriptor, then five-byte nodes."""
    nodes = b"".join(struct.pack("<BHH", 40 << 2 | (1 if k == 0 else 2), (k * 64) << 1 | 1, 4000) for k in range(100))
    data = bytes.fromhex("a55a0500004081") + nodes
    assert run(cli, "edgeguard", ["decode", "rplidar", write(tmp_path / "a", data), "--format", "json"]) == 0
    records, summary = rows(capsys.readouterr().out)
    assert summary["frames"] >= 90
    assert any(r.get("range_m") == [1.0] for r in records)


@pytest.mark.parametrize("container", ["pcap", "bare"])
def test_vlp16_sweeps_are_told_in_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str], container: str) -> None:
    """From a capture, and from packets written one after the other."""
    packets = [vlp16_packet(n) for n in range(160)]
    del packets[50]
    data = pcap(packets) if container == "pcap" else b"".join(packets) + b"rest"
    assert run(cli, "edgeguard", ["decode", "vlp16", write(tmp_path / "a", data), "--format", "json"]) == 0
    records, summary = rows(capsys.readouterr().out)
    assert [r["partial"] for r in records] == [True, False, False, True]
    assert records[1]["range_mean_m"] == pytest.approx(10.0, abs=0.02)
    assert summary["frames"] == 159
    assert summary["gaps"] == 1
    assert summary["bytes_skipped"] == (0 if container == "pcap" else 4)
    assert ("stamp_ns" in records[0]) == (container == "pcap")


def test_ouster_sweeps_and_imu_are_told(ouster_files, capsys: pytest.CaptureFixture[str]) -> None:
    """Both returns of a dual profile, the IMU beside."""
    capture, metadata = map(str, ouster_files)
    assert run(cli, "edgeguard", ["decode", "ouster", capture, "--metadata", metadata, "--format", "json"]) == 0
    records, summary = rows(capsys.readouterr().out)
    assert [r["record"] for r in records] == ["OusterSweep", "OusterSweep", "OusterImu"]
    assert records[0]["points"] == 512 * 64
    assert records[0]["points2"] == 0
    assert 1.9 < records[0]["range_min_m"] < records[0]["range_max_m"] < 2.6
    assert records[0]["missing_columns"] == 0
    assert summary["frames"] == 65


def test_every_point_is_printed_when_asked_for(ouster_files, capsys: pytest.CaptureFixture[str]) -> None:
    """As parallel lists in JSON, as lines in text."""
    capture, metadata = map(str, ouster_files)
    common = ["decode", "ouster", capture, "--metadata", metadata, "--points", "--limit", "1"]
    assert run(cli, "edgeguard", [*common, "--format", "json"]) == 0
    (record,), _ = rows(capsys.readouterr().out)
    assert len(record["xyz_m"]) == len(record["ring"]) == len(record["time_offset_ns"]) == 512 * 64
    assert all(math.isfinite(v) for v in record["xyz_m"][0])
    assert run(cli, "edgeguard", common) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 512 * 64 + 1


def test_a_limit_stops_after_so_many_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says so on stderr."""
    log = write(tmp_path / "a", ld06_bytes(20))
    assert run(cli, "edgeguard", ["decode", "ld06", log, "--limit", "4", "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert len(rows(captured.out)[0]) == 4
    assert "stopped after 4 records" in captured.err


def test_a_dash_reads_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """For pipes."""

    class Stdin:
        buffer = io.BytesIO(ld06_bytes())

    monkeypatch.setattr("sys.stdin", Stdin())
    assert run(cli, "edgeguard", ["decode", "ld06", "-", "--format", "json"]) == 0
    assert rows(capsys.readouterr().out)[1]["frames"] == 3


def test_a_capture_of_two_senders_is_the_first_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is named on stderr."""
    first, second = pcap([vlp16_packet(n) for n in range(5)]), pcap([vlp16_packet(n) for n in range(9)], "10.6.6.6")
    assert (
        run(cli, "edgeguard", ["decode", "vlp16", write(tmp_path / "a", first + second[24:]), "--format", "json"]) == 0
    )
    captured = capsys.readouterr()
    assert rows(captured.out)[1]["frames"] == 5
    assert "9 packets from 10.6.6.6 were not decoded: the sensor is 10.0.0.1" in captured.err


def test_a_cut_capture_plays_up_to_the_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says so on stderr."""
    data = pcap([vlp16_packet(n) for n in range(5)])[:-3]
    assert run(cli, "edgeguard", ["decode", "vlp16", write(tmp_path / "a", data), "--format", "json"]) == 0
    captured = capsys.readouterr()
    assert rows(captured.out)[1]["frames"] == 4
    assert "cut in the middle of a packet after 4 packets" in captured.err


@pytest.mark.parametrize("output", ["json", "text"])
@pytest.mark.parametrize("protocol", sorted(decode.PROTOCOLS))
def test_a_file_with_nothing_in_it_is_a_finding(
    protocol: str, output: str, tmp_path: Path, ouster_files, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and a summary of zeros; empty, noise, or an escape sequence for the terminal."""
    key, metadata = write(tmp_path / "k", KEY), str(ouster_files[1])
    noise = np.random.default_rng(8).bytes(3000)
    for content in (b"", b"\x1b]0;owned\x07" * 40, b"\xd4\xc3\xb2\xa1" + noise, b"\x0a\x0d\x0d\x0a" + noise):
        path = write(tmp_path / "a", content)
        code = run(
            cli, "edgeguard", ["decode", protocol, path, "--key", key, "--metadata", metadata, "--format", output]
        )
        captured = capsys.readouterr()
        assert "internal error" not in captured.err
        assert "\x1b" not in captured.out + captured.err
        assert code in {1, 3}
        if code == 1:
            assert ("frames=0" in captured.out) if output == "text" else rows(captured.out)[1]["frames"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ouster", "a.pcap"], 2, "EG-C134"),
        (["link", "a.bin"], 2, "EG-C134"),
        (["link", "a.bin", "--key", "x=a.bin"], 2, "EG-C135"),
        (["link", "a.bin", "--key", "missing"], 2, "EG-C135"),
        (["ouster", "a.bin", "--metadata", "missing.json"], 2, "EG-C135"),
        (["nmea", "missing.log"], 3, "EG-N001"),
        (["nmea", "."], 3, "EG-N001"),
        (["vlp32", "a.bin"], 2, ""),
        (["nmea", "a.bin", "--limit", "0"], 2, ""),
    ],
)
def test_wrong_calls_say_what_is_missing(
    arguments: list[str], code: int, says: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 for the call, 3 for the file; nothing on stdout."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"short")
    assert run(cli, "edgeguard", ["decode", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert "internal error" not in captured.err


def test_every_protocol_of_the_verb_exists() -> None:
    """An entry whose module is not there would print that it is not available."""
    from importlib.util import find_spec

    assert [name for name, entry in decode.PROTOCOLS.items() if find_spec(entry.module) is None] == []


@pytest.mark.parametrize(
    ("asked", "content", "says"),
    [
        ("ubx", RMC * 5, "edgeguard decode nmea"),
        ("nmea", ld06_bytes(40), "edgeguard decode ld06"),
        ("ld06", link_bytes() * 3, "edgeguard decode link"),
        ("vlp16", RMC * 5, "edgeguard decode nmea"),
        ("rplidar", b"", "no bytes"),
        ("nmea", np.random.default_rng(1).bytes(5000), "wrong baud rate"),
    ],
)
def test_the_wrong_protocol_is_told_together_with_the_right_one(
    asked: str, content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr; the summary stays the last line of stdout."""
    assert run(cli, "edgeguard", ["decode", asked, write(tmp_path / "a", content), "--format", "json"]) == 1
    captured = capsys.readouterr()
    assert says in captured.err
    assert rows(captured.out)[1]["bytes_received"] == len(content)


def test_a_live_pipe_is_decoded_as_it_comes_and_interrupted_with_a_summary() -> None:
    """The first record is printed while the sender still holds the pipe open."""
    command = [sys.executable, "-m", "edgeguard.cli.main", "decode", "ld06", "-", "--format", "json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(ld06_bytes(2))
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        lines += process.stdout.readlines()
        said = process.stderr.read().decode()
        process.stdin.close()
    assert process.returncode == 0
    assert [json.loads(line).get("frames") for line in lines] == [None, None, 2]
    assert "note: interrupted" in said


@pytest.mark.slow
def test_two_hundred_megabytes_are_read_in_the_memory_of_two(tmp_path: Path) -> None:
    """Whatever the size; every line of the output is JSON, the last one the summary."""
    small, large = tmp_path / "small", tmp_path / "large"
    packets = ld06_bytes(3) + bytes(60_000)
    small.write_bytes(packets * 35)
    with large.open("wb") as file:
        for _ in range(100):
            file.write(packets * 35)
    peaks = []
    for path, count in ((small, 105), (large, 10_500)):
        script = (
            "import resource, sys; from edgeguard.cli.main import cli, run;"
            f"code = run(cli, 'edgeguard', ['decode', 'ld06', {str(path)!r}, '--format', 'json']);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert rows(done.stdout)[1]["frames"] == count
        peaks.append(int(done.stderr.split()[-1]))
    assert peaks[1] - peaks[0] < 32 * 1024
