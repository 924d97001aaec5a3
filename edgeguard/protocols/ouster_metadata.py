"""What an Ouster sensor says about itself: the JSON beside a capture, or from `GET /api/v1/sensor/metadata`.

Two layouts exist: flat (firmware before 3.0) and nested. Both become one `OusterMetadata`, checked field by field: the
file decides how bytes are read, so nothing in it is taken on trust.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

import msgspec

from edgeguard.errors import ConfigError

MAX_METADATA_BYTES = 4 * 1024 * 1024  # a real file is 7 to 40 kB; zone definitions can add some
MAX_PIXELS_PER_COLUMN = 256  # the tallest sensor has 128 beams
MAX_COLUMNS_PER_PACKET = 64
MAX_COLUMNS_PER_FRAME = 4096
MAX_UDP_PAYLOAD_BYTES = 65_507
MAX_ORIGIN_MM = 1000.0  # of a beam from the axis, of the axis from the housing; real ones are below 100 mm
ROTATION_TOLERANCE = 1e-3  # files print three to six digits

# Design values for what firmware 1.x did not print: lidar origin to beam origin per product line, and both transforms.
_DEFAULT_ORIGIN_MM = {"OS-0-": 27.67, "OS-1-": 15.806, "OS-2-": 13.762}
_DEFAULT_ORIGIN_GEN1_MM = 12.163
_DEFAULT_LIDAR = (-1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 36.18, 0.0, 0.0, 0.0, 1.0)
_DEFAULT_IMU = (1.0, 0.0, 0.0, 6.253, 0.0, 1.0, 0.0, -11.775, 0.0, 0.0, 1.0, 7.645, 0.0, 0.0, 0.0, 1.0)
_MODE = re.compile(r"(\d{3,4})x(\d{1,2})")
_VERSION = re.compile(r"v(\d{1,3})\.(\d{1,3})\.\d")
_HINT = "fetch it from the sensor: curl http://SENSOR/api/v1/sensor/metadata > metadata.json"


@dataclass(frozen=True, slots=True)
class ChannelField:
    """Where a channel sits in a pixel: value = ((word >> shift) & mask) << up. `word` counts 32-bit words."""

    word: int
    shift: int
    mask: int
    up: int = 0


@dataclass(frozen=True, slots=True)
class PacketLayout:
    """How a profile's packets are built. Sizes in bytes; `fusa` moves the header fields, `legacy` has no header."""

    profile: str
    pixel_bytes: int
    channels: Mapping[str, ChannelField]
    legacy: bool = False
    fusa: bool = False

    @property
    def returns(self) -> int:
        """Returns per pixel: 1 or 2."""
        return 2 if "range2" in self.channels else 1

    @property
    def header_bytes(self) -> int:
        return 0 if self.legacy else 32

    @property
    def has_crc(self) -> bool:
        """The footer has a place for a CRC; FUSA and LEGACY packets do not."""
        return not (self.legacy or self.fusa or self.profile.startswith("FUSA"))

    @property
    def frame_id_bits(self) -> int:
        return 32 if self.fusa else 16

    def column_bytes(self, pixels_per_column: int) -> int:
        return (20 if self.legacy else 12) + pixels_per_column * self.pixel_bytes

    def packet_bytes(self, pixels_per_column: int, columns_per_packet: int) -> int:
        return columns_per_packet * self.column_bytes(pixels_per_column) + (0 if self.legacy else 64)


_LOW_RATE = {
    "range": ChannelField(0, 0, 0x7FFF, 3),
    "flags": ChannelField(0, 15, 0x1),
    "reflectivity": ChannelField(0, 16, 0xFF),
    "near_ir": ChannelField(0, 24, 0xFF, 4),
}
_LOW_RATE_DUAL = {
    **_LOW_RATE,
    "range2": ChannelField(1, 0, 0x7FFF, 3),
    "flags2": ChannelField(1, 15, 0x1),
    "reflectivity2": ChannelField(1, 16, 0xFF),
}

LAYOUTS: Mapping[str, PacketLayout] = {
    layout.profile: layout
    for layout in (
        PacketLayout(
            "LEGACY",
            12,
            {
                "range": ChannelField(0, 0, 0xFFFFF),
                "flags": ChannelField(0, 28, 0xF),
                "reflectivity": ChannelField(1, 0, 0xFF),
                "signal": ChannelField(1, 16, 0xFFFF),
                "near_ir": ChannelField(2, 0, 0xFFFF),
            },
            legacy=True,
        ),
        PacketLayout("RNG15_RFL8_NIR8", 4, _LOW_RATE),
        PacketLayout("RNG15_RFL8_NIR8_DUAL", 8, _LOW_RATE_DUAL),
        PacketLayout("FUSA_RNG15_RFL8_NIR8_DUAL", 8, _LOW_RATE_DUAL, fusa=True),
        PacketLayout(
            "RNG19_RFL8_SIG16_NIR16",
            12,
            {
                "range": ChannelField(0, 0, 0x7FFFF),
                "flags": ChannelField(0, 19, 0x1F),
                "reflectivity": ChannelField(1, 0, 0xFF),
                "signal": ChannelField(1, 16, 0xFFFF),
                "near_ir": ChannelField(2, 0, 0xFFFF),
            },
        ),
        PacketLayout(
            "RNG19_RFL8_SIG16_NIR16_DUAL",
            16,
            {
                "range": ChannelField(0, 0, 0x7FFFF),
                "flags": ChannelField(0, 19, 0x1F),
                "reflectivity": ChannelField(0, 24, 0xFF),
                "range2": ChannelField(1, 0, 0x7FFFF),
                "flags2": ChannelField(1, 19, 0x1F),
                "reflectivity2": ChannelField(1, 24, 0xFF),
                "signal": ChannelField(2, 0, 0xFFFF),
                "signal2": ChannelField(2, 16, 0xFFFF),
                "near_ir": ChannelField(3, 0, 0xFFFF),
            },
        ),
    )
}


@dataclass(frozen=True, slots=True)
class OusterMetadata:
    """A sensor's description.

    Angles in degrees, one per beam, top beam first. `beam_to_lidar` and `lidar_to_sensor`: 16 numbers, 4x4 row by
    row, millimetres. `imu_to_sensor` likewise. `column_window`: first and last measurement id that the sensor sends;
    it may wrap. `serial` and `init_id` are 0 where the file does not tell. `firmware`: (major, minor), (0, 0) unknown.
    """

    layout: PacketLayout
    pixels_per_column: int
    columns_per_packet: int
    columns_per_frame: int
    column_window: tuple[int, int]
    pixel_shift_by_row: tuple[int, ...]
    beam_altitude_deg: tuple[float, ...]
    beam_azimuth_deg: tuple[float, ...]
    beam_to_lidar: tuple[float, ...]
    lidar_to_sensor: tuple[float, ...]
    imu_to_sensor: tuple[float, ...]
    imu_profile: str
    serial: int
    init_id: int
    product: str
    firmware: tuple[int, int]
    frames_per_s: int
    udp_port_lidar: int | None = None
    udp_port_imu: int | None = None
    packet_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        size = self.layout.packet_bytes(self.pixels_per_column, self.columns_per_packet)
        object.__setattr__(self, "packet_bytes", size)


def parse_metadata(data: bytes) -> OusterMetadata:
    """Return the checked description in a metadata file.

    Raises:
        ConfigError: EG-C130 when it is no such JSON; EG-C131 when a field is missing or outside its bounds (the
            message names it); EG-C132 when it describes a packet profile that is not supported.
    """
    if len(data) > MAX_METADATA_BYTES:
        raise ConfigError(f"the metadata is larger than {MAX_METADATA_BYTES} bytes", code="EG-C130", hint=_HINT)
    try:
        document = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise ConfigError("the metadata is not JSON", code="EG-C130", hint=_HINT) from None
    if not isinstance(document, dict):
        raise ConfigError("the metadata is not a JSON object", code="EG-C130", hint=_HINT)
    return _build(_Fields(document))


class _Fields:
    """A flat view of both layouts: each name is looked for in the sections that may hold it."""

    _SECTIONS = (
        "sensor_info", "beam_intrinsics", "lidar_intrinsics", "imu_intrinsics", "lidar_data_format", "data_format",
        "config_params",
    )  # fmt: skip

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._places: list[tuple[str, Mapping[str, Any]]] = [("", document)]
        for name in self._SECTIONS:
            section = document.get(name)
            if isinstance(section, dict):
                self._places.append((name + ".", section))

    def find(self, name: str) -> tuple[str, Any]:
        """Return the full name and the value; None where it is nowhere."""
        for prefix, place in self._places:
            if place.get(name) is not None:
                return prefix + name, place[name]
        return name, None

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        full, value = self.find(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
            value = int(value)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _refused(full, f"is not a whole number in {low}..{high}")
        return value

    def numbers(self, name: str, count: int, limit: float) -> tuple[float, ...]:
        full, value = self.find(name)
        if not isinstance(value, list) or len(value) != count:
            raise _refused(full, f"is not a list of {count} numbers")
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            raise _refused(full, "holds something else than numbers")
        if not all(isfinite(v) and abs(v) <= limit for v in value):
            raise _refused(full, f"holds a number outside +-{limit:g}")
        return tuple(float(v) for v in value)

    def text(self, name: str) -> str:
        full, value = self.find(name)
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > 200:
            raise _refused(full, "is not a short text")
        return value

    def transform(self, name: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        if default is not None and self.find(name)[1] is None:
            return default
        matrix = self.numbers(name, 16, MAX_ORIGIN_MM)
        if not _is_rigid(matrix):
            raise _refused(name, "is not a rigid 4x4 transform")
        return matrix


def _build(fields: _Fields) -> OusterMetadata:
    layout = _layout(fields)
    altitude = fields.find("beam_altitude_angles")[1]
    listed = len(altitude) if isinstance(altitude, list) else 0
    mode = _MODE.fullmatch(fields.text("lidar_mode"))
    pixels = fields.integer("pixels_per_column", 1, MAX_PIXELS_PER_COLUMN, listed or None)
    per_packet = fields.integer("columns_per_packet", 1, MAX_COLUMNS_PER_PACKET, 16)
    width = fields.integer("columns_per_frame", 1, MAX_COLUMNS_PER_FRAME, int(mode.group(1)) if mode else None)
    if width > MAX_COLUMNS_PER_FRAME:
        raise _refused("lidar_mode", f"means more than {MAX_COLUMNS_PER_FRAME} columns")
    if layout.packet_bytes(pixels, per_packet) > MAX_UDP_PAYLOAD_BYTES:
        raise _refused("columns_per_packet", "makes packets larger than a UDP datagram can be")
    product = fields.text("prod_line")
    return OusterMetadata(
        layout=layout,
        pixels_per_column=pixels,
        columns_per_packet=per_packet,
        columns_per_frame=width,
        column_window=_window(fields, width),
        pixel_shift_by_row=_shifts(fields, pixels, width),
        beam_altitude_deg=fields.numbers("beam_altitude_angles", pixels, 90.0),
        beam_azimuth_deg=fields.numbers("beam_azimuth_angles", pixels, 360.0),
        beam_to_lidar=_beam_to_lidar(fields, product),
        lidar_to_sensor=fields.transform("lidar_to_sensor_transform", _DEFAULT_LIDAR),
        imu_to_sensor=fields.transform("imu_to_sensor_transform", _DEFAULT_IMU),
        imu_profile=fields.text("udp_profile_imu") or "LEGACY",
        serial=_serial(fields),
        init_id=fields.integer("initialization_id", 0, 2**24 - 1, 0),
        product=product,
        firmware=_firmware(fields),
        frames_per_s=min(max(int(mode.group(2)), 1), 40) if mode else 10,
        udp_port_lidar=fields.integer("udp_port_lidar", 0, 65535, 0) or None,
        udp_port_imu=fields.integer("udp_port_imu", 0, 65535, 0) or None,
    )


def _layout(fields: _Fields) -> PacketLayout:
    profile = fields.text("udp_profile_lidar") or "LEGACY"
    layout = LAYOUTS.get(profile)
    if layout is None:
        shown = "".join(c for c in profile if c.isascii() and (c.isalnum() or c == "_"))[:60]
        raise ConfigError(
            f"packet profile {shown} is not supported",
            code="EG-C132",
            hint="set the sensor's udp_profile_lidar to one of " + ", ".join(LAYOUTS),
        )
    # Later firmware names the header apart from the profile; FUSA_... alone means the FUSA header, too.
    header = fields.text("header_type")
    if header not in {"", "STANDARD", "FUSA"}:
        raise _refused("header_type", "is neither STANDARD nor FUSA")
    return layout if layout.legacy or not header else replace(layout, fusa=header == "FUSA")


def _window(fields: _Fields, width: int) -> tuple[int, int]:
    full, value = fields.find("column_window")
    if value is None:
        return 0, width - 1
    if not (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < width for v in value)
    ):
        raise _refused(full, f"is not two column numbers below {width}")
    return int(value[0]), int(value[1])


def _shifts(fields: _Fields, pixels: int, width: int) -> tuple[int, ...]:
    full, value = fields.find("pixel_shift_by_row")
    if value is None:
        return (0,) * pixels
    if not (
        isinstance(value, list)
        and len(value) == pixels
        and all(isinstance(v, int) and not isinstance(v, bool) and abs(v) <= width for v in value)
    ):
        raise _refused(full, f"is not {pixels} whole numbers within +-{width}")
    return tuple(value)


def _beam_to_lidar(fields: _Fields, product: str) -> tuple[float, ...]:
    if fields.find("beam_to_lidar_transform")[1] is not None:
        return fields.transform("beam_to_lidar_transform")
    full, value = fields.find("lidar_origin_to_beam_origin_mm")
    if value is None:
        value = _DEFAULT_ORIGIN_MM.get(product[:5], _DEFAULT_ORIGIN_GEN1_MM)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MAX_ORIGIN_MM:
        raise _refused(full, f"is not a number within +-{MAX_ORIGIN_MM:g} mm")
    return 1.0, 0.0, 0.0, float(value), 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0


def _serial(fields: _Fields) -> int:
    full, value = fields.find("prod_sn")
    if value is None or value == "":
        return 0
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 13:
        value = int(value)
    elif isinstance(value, str):
        return 0  # the first sensors had letters in it; their packets carry none to compare with
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
        raise _refused(full, "is not a serial number")
    return value


def _firmware(fields: _Fields) -> tuple[int, int]:
    for name in ("image_rev", "build_rev"):
        found = _VERSION.search(fields.text(name))
        if found:
            return int(found.group(1)), int(found.group(2))
    return 0, 0


def _is_rigid(m: tuple[float, ...]) -> bool:
    """Whether rows of the rotation are unit vectors at right angles, right-handed, over a last row of 0 0 0 1."""
    a, b, c = m[0:3], m[4:7], m[8:11]
    cross = (b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0])
    residuals = [_dot(a, a) - 1, _dot(b, b) - 1, _dot(c, c) - 1, _dot(a, b), _dot(a, c), _dot(b, c)]
    return (
        all(abs(r) <= ROTATION_TOLERANCE for r in residuals) and _dot(a, cross) > 0.0 and m[12:] == (0.0, 0.0, 0.0, 1.0)
    )


def _dot(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _refused(name: str, why: str) -> ConfigError:
    return ConfigError(f"metadata field {name} {why}", code="EG-C131", hint=_HINT)
