"""Arrays of an ``.npz`` that nobody vouches for: bounded, lazy, without pickle, and readable when the file is cut.

Sans evaluation: the header of each ``.npy`` is matched against one pattern (NumPy's own reader parses Python literals).
Reference: numpy.lib.format (NEP 1), versions 1.0 and 2.0; zip: APPNOTE 6.3 sections 4.3.7 and 4.5.3.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import RecordingError
from edgeguard.sensors.read_file import ReadFile

MAX_MEMBERS = 256
MAX_NAME_BYTES = 128
MAX_HEADER_BYTES = 4096  # NumPy pads headers to 64 or 128 bytes; this is the most its own reader accepts
MAX_DIMENSION = 2**40
MAX_UNPACKED_BYTES = 1 << 30  # of all deflated members together: they are held in memory
STORED, DEFLATED = 0, 8
_INFLATE_STEP = 1 << 16  # deflate grows at most 1032-fold: 68 MB at once
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_LOCAL_MAGIC = b"PK\x03\x04"
_HAS_DESCRIPTOR = 0x08
_ENCRYPTED = 0x01
_NPY_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    rb"\{'descr': '([<>|](?:f[248]|[iu][1248]))', 'fortran_order': (True|False), "
    rb"'shape': \(([\d, ]{0,200})\),? ?\}[ \n]*"
)
_HINT = "docs/formats/npz-recording.md lists what is read"


@dataclass(slots=True)
class NpzArray:
    """One member. shape: as stored; rows: how many of shape[0] are really in the file (1 for a scalar)."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    rows: int
    whole: bool
    _file: ReadFile | None
    _offset: int
    _memory: bytes | None

    def read(self, start: int, stop: int) -> NDArray[np.generic]:
        """Rows `start` to `stop` as a fresh array in native byte order; must lie within `rows`.

        Raises:
            RecordingError: EG-N075 when the file shrank or its disk fails.
        """
        row_shape = self.shape[1:]
        row_bytes = self.dtype.itemsize * math.prod(row_shape)
        size, at = (stop - start) * row_bytes, start * row_bytes
        if self._file is None:
            data = (self._memory or b"")[at : at + size]
        elif self._memory is not None:
            data = self._memory[at : at + size]
        else:
            data = self._file.read_at(self._offset + at, size)
        if len(data) != size:
            raise RecordingError("the recording changed while it was read", code="EG-N075", hint="copy it first")
        array = np.frombuffer(data, self.dtype).reshape((stop - start, *row_shape))
        return array.astype(self.dtype.newbyteorder("="), copy=True)

    def all(self) -> NDArray[np.generic]:
        """Every row that is there; a scalar as shape (1,)."""
        return self.read(0, self.rows)


class NpzFile:
    """The arrays of one file by name (without ``.npy``).

    Raises:
        RecordingError: EG-N074 no npz, EG-N075 a member is oversized, damaged, or of a kind that is not read.

    Attributes:
        truncated: whether the file is cut: it then holds what comes before the cut.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            self._file = ReadFile(path)
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {error.strerror}", code="EG-N074", hint=_HINT) from None
        self._budget = MAX_UNPACKED_BYTES
        self.arrays: dict[str, NpzArray] = {}
        self.truncated = False
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _read(self) -> None:
        size = self._file.size_bytes
        for offset, claimed in self._members(size):
            if len(self.arrays) >= MAX_MEMBERS:
                raise self._bad(f"holds more than {MAX_MEMBERS} arrays")
            self._member(offset, claimed, size)

    def _members(self, size: int) -> list[tuple[int, int | None]]:
        """(offset of local header, packed size or None): from the directory, or by walking a cut file."""
        try:
            with open(self._file.descriptor, "rb", closefd=False) as file, zipfile.ZipFile(file) as archive:
                return [(info.header_offset, info.compress_size) for info in archive.infolist()[: MAX_MEMBERS + 1]]
        except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, OSError, EOFError):
            self.truncated = True
        found: list[tuple[int, int | None]] = []
        at = 0
        while at + _LOCAL.size <= size and len(found) <= MAX_MEMBERS:
            header = self._local(at)
            if header is None:
                break
            _, flags, packed, _, data_at = header
            if flags & _HAS_DESCRIPTOR and packed == 0:
                found.append((at, None))
                break  # its size stands after its data: nothing can be found behind it
            found.append((at, packed))
            at = data_at + packed
        if not found:
            raise RecordingError(f"{self.name} is no npz", code="EG-N074", hint=_HINT)
        return found

    def _local(self, at: int) -> tuple[str, int, int, int, int] | None:
        """Name, flags, packed size, method and data offset of a local header, or None when there is none."""
        raw = self._file.read_at(at, _LOCAL.size)
        if len(raw) < _LOCAL.size:
            return None
        magic, _, flags, method, _, _, _, packed, _, name_len, extra_len = _LOCAL.unpack(raw)
        if magic != _LOCAL_MAGIC or name_len > MAX_NAME_BYTES:
            return None
        tail = self._file.read_at(at + _LOCAL.size, name_len + extra_len)
        if len(tail) < name_len + extra_len:
            return None
        if packed == 0xFFFFFFFF:
            packed = _zip64_packed(tail[name_len:])
        return tail[:name_len].decode("utf-8", "replace"), flags, packed, method, at + _LOCAL.size + len(tail)

    def _member(self, at: int, claimed: int | None, file_size: int) -> None:
        header = self._local(at)
        if header is None:
            raise self._bad("has a damaged member")
        name, flags, _, method, data_at = header
        if not name.endswith(".npy"):
            return
        key = name.removesuffix(".npy")
        if flags & _ENCRYPTED or key in self.arrays or method not in (STORED, DEFLATED):
            raise self._bad(f"member {key!r} is encrypted, there twice, or packed in a way that is not read")
        there = max(0, file_size - data_at)
        packed = there if claimed is None else min(claimed, there)
        memory = self._unpack(data_at, packed) if method == DEFLATED else None
        head = (
            memory[:MAX_HEADER_BYTES]
            if memory is not None
            else self._file.read_at(data_at, min(packed, MAX_HEADER_BYTES))
        )
        size = len(memory) if memory is not None else packed
        cut = self.truncated and (claimed is None or claimed > there)
        if cut and len(head) < 10:
            return
        array = self._array(key, head, data_at, size, memory, cut)
        if array is not None:
            self.arrays[key] = array

    def _array(
        self, key: str, head: bytes, data_at: int, size: int, memory: bytes | None, cut: bool
    ) -> NpzArray | None:
        start, dtype, fortran, shape = parse_npy_header(head) or (0, np.dtype("u1"), False, ())
        if start == 0:
            if cut and len(head) < MAX_HEADER_BYTES:
                return None
            raise self._bad(f"member {key!r} is no plain array")
        if fortran and len(shape) > 1:
            raise self._bad(f"array {key!r} is in column order; save np.ascontiguousarray of it")
        total = dtype.itemsize * math.prod(shape)
        row_bytes = dtype.itemsize * math.prod(shape[1:])
        wanted_rows = shape[0] if shape else 1
        payload = size - start
        if payload != total and not (cut and payload < total):
            raise self._bad(f"array {key!r} does not match its size")
        rows = wanted_rows if row_bytes == 0 else min(wanted_rows, payload // row_bytes)
        if row_bytes == 0 and wanted_rows > 0:
            raise self._bad(f"array {key!r} has rows without a size")
        body = memory[start:] if memory is not None else None
        whole = rows == wanted_rows
        return NpzArray(dtype, shape or (1,), rows, whole, self._file, data_at + start, body)

    def _unpack(self, at: int, packed: int) -> bytes:
        """Inflate one member within the file's budget; a cut one gives what is there."""
        inflate = zlib.decompressobj(-15)
        parts: list[bytes] = []
        end = at + packed
        while at < end and not inflate.eof and (data := self._file.read_at(at, min(_INFLATE_STEP, end - at))):
            at += len(data)
            try:
                part = inflate.decompress(data)
            except zlib.error:
                raise self._bad("has a member that does not unpack") from None
            self._budget -= len(part)
            if self._budget < 0:
                raise self._bad(f"unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            parts.append(part)
        return b"".join(parts)

    def _bad(self, what: str) -> RecordingError:
        return RecordingError(f"{self.name} {what}", code="EG-N075", hint=_HINT)


def parse_npy_header(head: bytes) -> tuple[int, np.dtype[np.generic], bool, tuple[int, ...]] | None:
    """(offset of the data, type, column order, shape) of the first bytes of an ``.npy``, or None. Never raises."""
    if len(head) < 12 or not head.startswith(_NPY_MAGIC) or head[7] != 0 or head[6] not in (1, 2):
        return None
    width = 2 if head[6] == 1 else 4
    start = 8 + width
    length = int.from_bytes(head[8:start], "little")
    if length > MAX_HEADER_BYTES - start or len(head) < start + length:
        return None
    found = _HEADER.fullmatch(head[start : start + length])
    if found is None:
        return None
    dtype: np.dtype[np.generic] = np.dtype(found.group(1).decode())
    words = [w.strip() for w in found.group(3).split(b",")]
    if words and not words[-1]:
        words.pop()
    if not all(w.isdigit() and len(w) <= 13 for w in words) or len(words) > 8:
        return None
    shape = tuple(int(w) for w in words)
    if math.prod(max(n, 1) for n in shape) > MAX_DIMENSION:
        return None
    return start + length, dtype, found.group(2) == b"True", shape


def _zip64_packed(extra: bytes) -> int:
    """The packed size from a zip64 extra field; 2^63 where it is missing, which no file has."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        if tag == 1 and length >= 16 and at + 20 <= len(extra):
            return int(struct.unpack_from("<Q", extra, at + 12)[0])
        at += 4 + length
    return 2**63
