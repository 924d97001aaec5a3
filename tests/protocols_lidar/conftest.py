"""Ouster packets made by Ouster's own SDK from synthetic frames; Velodyne packets made from the manual's layout."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ouster.sdk.core as sdk
import pytest

from edgeguard.protocols.ouster_metadata import OusterMetadata, parse_metadata

SERIAL, INIT_ID = 122201000998, 7109750
CHANNEL_NAMES = {
    "range": "RANGE",
    "range2": "RANGE2",
    "reflectivity": "REFLECTIVITY",
    "reflectivity2": "REFLECTIVITY2",
    "signal": "SIGNAL",
    "signal2": "SIGNAL2",
    "near_ir": "NEAR_IR",
    "flags": "FLAGS",
    "flags2": "FLAGS2",
}


@dataclass(frozen=True)
class Sensor:
    """A synthetic sensor: its metadata as text, ours and the SDK's reading of it."""

    text: str
    metadata: OusterMetadata
    info: sdk.SensorInfo

    def frame(self, seed: int, frame_id: int) -> sdk.LidarFrame:
        """Return a frame with random channels within the profile's bits, a tenth of the pixels without return."""
        rng = np.random.default_rng(seed)
        pf, frame = sdk.PacketFormat(self.info), sdk.LidarFrame(self.info)
        for name in frame.fields:
            field = frame.field(name)
            mask = int(pf.field_value_mask(name)) if name in CHANNEL_NAMES.values() else 0
            values = rng.integers(0, 2**31, field.shape) & mask
            field[:] = np.where(rng.random(field.shape) < 0.1, 0, values).astype(field.dtype)
        width = frame.w
        frame.timestamp[:] = 10**12 + frame_id * 10**8 + np.arange(width) * (10**8 // width)
        frame.measurement_id[:] = np.arange(width)
        low, high = self.info.format.column_window
        columns = np.arange(width)
        inside = (columns >= low) & (columns <= high) if low <= high else (columns >= low) | (columns <= high)
        frame.status[:] = inside.astype(frame.status.dtype)
        for name in frame.fields:
            frame.field(name)[:, ~inside] = 0
        frame.frame_id = frame_id
        return frame

    def packets(self, frame: sdk.LidarFrame, *, init_id: int = INIT_ID, serial: int = SERIAL) -> list[bytes]:
        """Return the frame as the SDK writes it to packets; those wholly outside the window are not sent."""
        made = sdk.frame_to_packets(frame, sdk.PacketFormat(self.info), init_id, serial)
        return [bytes(packet.buf) for packet in made if isinstance(packet, sdk.LidarPacket)]


MakeSensor = Callable[..., Sensor]


@pytest.fixture(scope="session")
def make_sensor() -> MakeSensor:
    """Return a function that makes a sensor of a profile; keyword arguments change lidar_data_format."""

    def make(profile: str, mode: sdk.LidarMode = sdk.LidarMode._512x10, firmware: str = "", **changes: Any) -> Sensor:
        document = json.loads(sdk.SensorInfo.from_default(mode).to_json_string())
        document["lidar_data_format"]["udp_profile_lidar"] = profile
        if profile.startswith("FUSA"):
            document["lidar_data_format"].pop("header_type")
        document["lidar_data_format"] |= changes
        document["config_params"] |= {"udp_port_lidar": 7502, "udp_port_imu": 7503}
        document["sensor_info"] |= {"prod_sn": str(SERIAL), "initialization_id": INIT_ID, "image_rev": firmware}
        text = json.dumps(document)
        return Sensor(text, parse_metadata(text.encode()), sdk.SensorInfo(text))

    return make


MakePackets = Callable[..., list[bytes]]


@pytest.fixture(scope="session")
def velodyne_packets() -> MakePackets:
    """Return a function that writes data packets of a turning sensor."""

    def make(
        product: int, mode: int, count: int, *, seed: int = 1, rpm: float = 600.0, azimuth: float = 35000.0,
        start_us: float = 1000.0,
    ) -> list[bytes]:  # fmt: skip
        rng = np.random.default_rng(seed)
        dual = mode == 0x39
        period_ns = (46_080.0 if product == 0x21 else 55_296.0) * (2 if product in {0x22, 0x24} else 1)
        rate = rpm * 6.0 * 100.0 * 1e-9
        packets, time_ns = [], 0.0
        for _ in range(count):
            stamp_us, body = start_us + time_ns / 1000.0, b""
            for _ in range(6 if dual else 12):
                head = struct.pack("<HH", 0xEEFF, int(azimuth + rate * time_ns) % 36000)
                distance = rng.integers(1, 60000, 32) * (rng.random(32) > 0.1)
                loud = rng.integers(0, 256, 32)
                body += head + _cells(distance, loud)
                if dual:
                    same = rng.random(32) > 0.5
                    body += head + _cells(
                        np.where(same, distance, rng.integers(0, 60000, 32)),
                        np.where(same, loud, rng.integers(0, 256, 32)),
                    )
                time_ns += period_ns
            packets.append(body + struct.pack("<IBB", round(stamp_us) % 3_600_000_000, mode, product))
        return packets

    return make


def _cells(distance: np.ndarray, loud: np.ndarray) -> bytes:
    return b"".join(struct.pack("<HB", int(d), int(i)) for d, i in zip(distance, loud, strict=True))
