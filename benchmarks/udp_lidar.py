"""Lidar datagrams to clouds on one core, against Ouster's SDK and against the line.

Both sides are one thread and neither waits, so what is compared is CPU time of the process: it means the same on a busy
machine. Ours checks the packet's CRC-64 where the profile has one, leaves out pixels without return, and gives
intensity, ring and time per point; the SDK fills its frame and multiplies its table.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgeguard.protocols.ouster import OusterDecoder
from edgeguard.protocols.ouster_metadata import parse_metadata
from edgeguard.protocols.ouster_sweep import OusterSweep
from edgeguard.protocols.velodyne import VelodyneDecoder, VelodyneSweep

LINE_POINTS_S = 2_621_440  # OS-1-128 at 1024x20 or 2048x10: 128 beams x 20480 columns a second
VLP16_POINTS_S = 300_000
SWEEPS = 4
ROUNDS = 15  # of some ten milliseconds each
SERIAL, INIT_ID = 122201000998, 7109750
PROFILES = ("RNG15_RFL8_NIR8", "RNG19_RFL8_SIG16_NIR16", "RNG19_RFL8_SIG16_NIR16_DUAL", "LEGACY")


@dataclass(frozen=True)
class Recording:
    """Packets of a few sweeps, and the metadata to read them by."""

    text: str
    packets: list[bytes]
    pixels: int


def main() -> None:
    """Print millions of pixels per second and ratios; a tenth of the pixels has no return."""
    try:
        import ouster.sdk.core  # noqa: F401
    except ImportError:
        print("ouster-sdk is not installed: no peer to compare with (pip install -e '.[dev]')")
        return
    print("million pixels/s; XYZLut is the SDK's table in double precision, XYZLutFloat the one in single")
    print(
        f"{'OS-1-128, 2048x10':<30} {'ours':>7} {'line':>7} {'XYZLut':>8} {'ratio':>7} {'XYZLutFloat':>12} {'ratio':>7}"
    )
    for profile in PROFILES:
        recording = _record(profile)
        ours, double = _paired_cpu_s(_ours(recording), _sdk(recording, "XYZLut"))
        again, single = _paired_cpu_s(_ours(recording), _sdk(recording, "XYZLutFloat"))
        ours = min(ours, again)
        rates = [recording.pixels / seconds / 1e6 for seconds in (ours, double, single)]
        print(
            f"{profile:<30} {rates[0]:7.1f} {rates[0] * 1e6 / LINE_POINTS_S:6.1f}x {rates[1]:8.1f} "
            f"{double / ours:6.2f}x {rates[2]:12.1f} {single / ours:6.2f}x"
        )
    _velodyne()


def _paired_cpu_s(ours: Callable[[], object], peer: Callable[[], object]) -> tuple[float, float]:
    """Return the least CPU time of each; they run in turns, so that a slow spell hits both."""
    ours()
    peer()
    pairs = [(_cpu_s(ours), _cpu_s(peer)) for _ in range(ROUNDS)]
    return min(a for a, _ in pairs), min(b for _, b in pairs)


def _cpu_s(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _record(profile: str) -> Recording:
    from ouster.sdk import core

    document = json.loads(core.SensorInfo.from_default(core.LidarMode._2048x10).to_json_string())
    beams = document["beam_intrinsics"]
    beams["beam_altitude_angles"] = np.linspace(21.0, -21.0, 128).tolist()
    beams["beam_azimuth_angles"] = [4.2, 1.4, -1.4, -4.2] * 32
    layout = document["lidar_data_format"]
    layout |= {"udp_profile_lidar": profile, "pixels_per_column": 128, "pixel_shift_by_row": [24, 16, 8, 0] * 32}
    document["config_params"] |= {"udp_port_lidar": 7502, "udp_port_imu": 7503}
    document["sensor_info"] |= {"prod_sn": str(SERIAL), "initialization_id": INIT_ID, "prod_line": "OS-1-128"}
    text = json.dumps(document)
    info = core.SensorInfo(text)
    pf, rng, packets = core.PacketFormat(info), np.random.default_rng(1), []
    for frame_id in range(1, SWEEPS + 1):
        frame = core.LidarFrame(info)
        for name in frame.fields:
            field = frame.field(name)
            if field.ndim == 2:
                values = rng.integers(0, 2**31, field.shape) & int(pf.field_value_mask(name))
                field[:] = np.where(rng.random(field.shape) < 0.1, 0, values)
        frame.timestamp[:] = 10**12 + frame_id * 10**8 + np.arange(frame.w) * 48_828
        frame.measurement_id[:], frame.status[:], frame.frame_id = np.arange(frame.w), 1, frame_id
        packets += [bytes(p.buf) for p in core.frame_to_packets(frame, pf, INIT_ID, SERIAL)]
    return Recording(text, packets, SWEEPS * frame.w * frame.h)


def _ours(recording: Recording) -> Callable[[], object]:
    metadata = parse_metadata(recording.text.encode())

    def decode() -> int:
        decoder, points = OusterDecoder(metadata), 0
        for packet in recording.packets:
            for record in decoder.feed(packet):
                assert isinstance(record, OusterSweep)
                points += len(record.sample(0, "lidar").xyz)
        assert points > 0.85 * recording.pixels
        return points

    return decode


def _sdk(recording: Recording, table: str) -> Callable[[], object]:
    """The SDK's batcher and one of its tables; packets are built before the clock starts."""
    from ouster.sdk import core

    info = core.SensorInfo(recording.text)
    pf, lut = core.PacketFormat(info), getattr(core, table)(info, False)
    packets = []
    for data in recording.packets:
        packet = core.LidarPacket(pf)
        packet.buf[:] = np.frombuffer(data, np.uint8)
        packets.append(packet)

    def decode() -> int:
        batcher, frame, sweeps = core.FrameBatcher(info), core.LidarFrame(info), 0
        for packet in packets:
            if batcher.batch(packet, frame):
                lut(frame.field("RANGE"))
                sweeps += 1
        lut(frame.field("RANGE"))  # the last sweep is whole, but no packet of a next one says so
        assert sweeps >= SWEEPS - 1
        return sweeps

    return decode


def _velodyne() -> None:
    rng, packets = np.random.default_rng(2), []
    for number in range(760):
        body = b"".join(
            struct.pack("<HH", 0xEEFF, (40 * (12 * number + block)) % 36_000) + rng.bytes(96) for block in range(12)
        )
        packets.append(body + struct.pack("<IBB", round(1327.104 * number), 0x37, 0x22))
    pixels = len(packets) * 384

    def ours() -> int:
        decoder = VelodyneDecoder()
        records = [r for p in packets for r in decoder.feed(p)] + decoder.flush()
        return sum(len(r.xyz) for r in records if isinstance(r, VelodyneSweep))

    try:
        import velodyne_decoder as vd
    except ImportError:
        print("velodyne-decoder is not installed: VLP-16 has no peer here")
        return

    def theirs() -> int:
        stream = vd.StreamDecoder(vd.Config(min_range=0.0))
        return sum(1 for n, p in enumerate(packets) if stream.decode(n * 0.001327104, p, False) is not None)

    a, b = _paired_cpu_s(ours, theirs)
    print(
        f"{'VLP-16, velodyne-decoder':<30} {pixels / a / 1e6:7.1f} {pixels / a / VLP16_POINTS_S:6.1f}x "
        f"{pixels / b / 1e6:8.1f} {b / a:6.2f}x"
    )


if __name__ == "__main__":
    main()
