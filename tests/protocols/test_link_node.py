"""The microcontroller's C against the receiver's Python: compiled with every warning an error, byte for byte."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeguard.protocols.link import ImuReading, LinkDecoder, LinkEncoder, WheelReading

NODE = Path(__file__).parents[2] / "hardware" / "node"
KEY, NEXT_KEY = bytes(range(32)), bytes(range(100, 132))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow", "-Wcast-qual"]
WARNINGS += ["-Wstrict-prototypes", "-Wmissing-prototypes", "-Werror"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
int32 = st.integers(-(2**31) + 1, 2**31 - 1)


def compiler() -> str:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        pytest.skip("no C compiler on this machine: the node's code is not compiled here")
    return found


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The line driver, with the address and undefined-behaviour sanitizers where the compiler brings them."""
    program = tmp_path_factory.mktemp("node") / "line_test"
    sources = [str(NODE / "edgeguard_link.c"), str(NODE / "line_test.c")]
    command = [compiler(), "-std=c99", "-O1", "-g", *WARNINGS, "-o", str(program), *sources]
    sanitized = subprocess.run([*command, *SANITIZERS], capture_output=True, text=True, check=False)
    if sanitized.returncode:
        plain = subprocess.run(command, capture_output=True, text=True, check=False)
        assert plain.returncode == 0, plain.stderr
    return program


def drive(node: Path, *commands: str) -> bytes:
    """What the node puts on the line."""
    ran = subprocess.run([str(node)], input="\n".join(commands).encode(), capture_output=True, check=True, timeout=60)
    assert ran.stderr == b"", ran.stderr.decode()
    return ran.stdout


def start(key: bytes = KEY, boot: int = 1) -> str:
    return f"start 7 {boot} {key.hex()}"


@pytest.mark.parametrize("standard", ["c99", "c11", "c17"])
@pytest.mark.parametrize("level", ["-O0", "-Os", "-O3"])
def test_the_node_compiles_without_a_warning(standard: str, level: str, tmp_path: Path) -> None:
    """Every standard a microcontroller tool chain offers, freestanding as far as the headers allow."""
    command = [compiler(), f"-std={standard}", level, *WARNINGS, "-c", str(NODE / "edgeguard_link.c")]
    ran = subprocess.run([*command, "-o", str(tmp_path / "link.o")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_header_is_good_for_cpp(tmp_path: Path) -> None:
    """Arduino sketches are C++."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler on this machine")
    sketch = tmp_path / "sketch.cpp"
    sketch.write_text(
        '#include "edgeguard_link.h"\nint main() { eg_link link; return eg_link_init(&link, 0, 0, 0) != 1; }'
    )
    ran = subprocess.run(
        ["g++", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{NODE}", str(sketch)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.lists(int32, min_size=6, max_size=6)), min_size=1, max_size=20),
    st.integers(1, 2**32 - 1),
)
def test_the_node_sends_what_the_reference_encoder_sends(
    node: Path, readings: list[tuple[int, list[int]]], boot: int
) -> None:
    """IMU and wheel frames, any values, alternating; the receiver accepts them all."""
    encoder = LinkEncoder(7, KEY, boot=boot)
    commands, expected = [start(boot=boot)], bytearray(1)
    for k, (time_us, v) in enumerate(readings):
        if k % 2 == 0:
            commands.append(f"imu {time_us} " + " ".join(map(str, v)))
            gyro, accel = (x * 1e-7 for x in v[:3]), (x * 1e-6 for x in v[3:])
            expected += encoder.frame(time_us, ImuReading(tuple(gyro), tuple(accel)))  # type: ignore[arg-type]
        else:
            commands.append(f"wheels {time_us} " + " ".join(map(str, v[:5])))
            speeds = tuple(x * 1e-6 for x in v[:4])
            expected += encoder.frame(time_us, WheelReading(speeds, v[4] * 1e-7))  # type: ignore[arg-type]
    line = drive(node, *commands)
    assert line == bytes(expected)
    records = LinkDecoder({7: KEY}).feed(line)
    assert [r.device_time_us for r in records] == [time_us for time_us, _ in readings]


def test_a_steering_angle_that_is_not_known_arrives_as_none(node: Path) -> None:
    """INT32_MIN is its code."""
    (record,) = LinkDecoder({7: KEY}).feed(drive(node, start(), f"wheels 5 1 2 3 4 {-(2**31)}"))
    assert isinstance(record.reading, WheelReading)
    assert record.reading.steering_rad is None


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=222))
def test_payloads_of_any_bytes_and_any_size_are_framed(node: Path, payload: bytes) -> None:
    """Unknown types are well-formed frames that the receiver does not understand: no noise, no forgery."""
    line = drive(node, start(), f"raw 1 80 {payload.hex() or 'x'}", "imu 2 0 0 0 0 0 0")
    decoder = LinkDecoder({7: KEY})
    assert len(decoder.feed(line)) == 1
    assert (decoder.stats.malformed, decoder.stats.checksum_failures, decoder.stats.forged) == (1, 0, 0)


def test_a_node_changes_its_key_in_the_middle_of_a_boot_and_loses_no_frame(node: Path) -> None:
    """Old key, new key; the receiver forgets the old one with the first new frame."""
    imu = "imu {} 0 0 0 0 0 9810000"
    before, after = ([imu.format(t) for t in times] for times in (range(5), range(5, 9)))
    line = drive(node, start(), *before, f"key {NEXT_KEY.hex()}", *after)
    decoder = LinkDecoder({7: KEY}, next_keys={7: NEXT_KEY})
    assert [r.counter for r in decoder.feed(line)] == list(range(9))
    assert decoder.stats.sequence_gaps == 0
    assert decoder.changed_keys == {7}
    old = LinkEncoder(7, KEY, boot=2).frame(0, ImuReading((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
    assert decoder.feed(old) == []
    assert decoder.stats.forged == 1


def test_the_last_counter_is_sent_and_then_the_node_asks_for_a_restart(node: Path) -> None:
    """Numbers never wrap around."""
    script = "\n".join([start(), f"counter {2**32 - 1}", "imu 1 0 0 0 0 0 0", "imu 2 0 0 0 0 0 0"]).encode()
    ran = subprocess.run([str(node)], input=script, capture_output=True, check=True, timeout=60)
    assert [r.counter for r in LinkDecoder({7: KEY}).feed(ran.stdout)] == [2**32 - 1]
    assert ran.stderr == b"status 2\n"
