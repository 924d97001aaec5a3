"""MCAP files that nobody vouches for and that may be cut: every record in file order, bounded.

The summary at the end is not used: a crash leaves none, and what it claims would have to be checked against the data
anyway. Reference: mcap.dev/spec (version 0); the package mcap is the oracle in the tests.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgeguard.errors import EnvironmentMissingError, RecordingError
from edgeguard.sensors.read_file import ReadFile

MAGIC = b"\x89MCAP0\r\n"
# The largest message is a lidar sweep or a raw picture; a chunk holds one of those at most in our files.
MAX_RECORD_BYTES = 256 << 20
MAX_CHUNK_BYTES = 256 << 20
MAX_CHANNELS = 1024
MAX_METADATA = 64
MAX_MESSAGES = 50_000_000  # a day of 500 messages a second
CACHED_CHUNKS = 8

_HEAD = struct.Struct("<BQ")
_CHUNK_HEAD = struct.Struct("<QQQI")
_MESSAGE_HEAD = struct.Struct("<HIQQ")
_FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _METADATA, _DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x0F
_OUTSIDE = -1  # chunk number of messages that are in no chunk
_HINT = "a recording of edgeguard, or a copy of one that was stopped at any byte"


class CutError(Exception):
    """Internal: the bytes end, or stop making sense, here."""


@dataclass(slots=True)
class Channel:
    """One channel and where its messages are, in file order."""

    topic: str
    schema: str
    metadata: dict[str, str]
    log_ns: array[int] = field(default_factory=lambda: array("Q"))
    _chunk: array[int] = field(default_factory=lambda: array("q"))
    _offset: array[int] = field(default_factory=lambda: array("Q"))
    _length: array[int] = field(default_factory=lambda: array("I"))


class McapFile:
    """Reads the whole file once to find the messages, then each message when asked.

    Raises:
        RecordingError: EG-N079 when it is no MCAP file or has more of something than a recording can.
        EnvironmentMissingError: EG-E050 when it is compressed and the package zstandard is missing.

    Attributes:
        channels: by id. metadata: name -> entries, the first of each name.
        cut_at: offset at which the file ends or stops making sense, or None for a whole one.
        damaged_chunks: how many chunks did not match their checksum or did not unpack; their messages are lost.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.channels: dict[int, Channel] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.cut_at: int | None = None
        self.damaged_chunks = 0
        self._schemas: dict[int, str] = {}
        self._chunks: list[tuple[int, int]] = []
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._messages = 0
        try:
            self._file = ReadFile(path)
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {error.strerror}", code="EG-N079", hint=_HINT) from None
        try:
            self._index()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def message(self, channel: Channel, index: int) -> bytes | None:
        """The data of one message, or None when the file changed under us."""
        number, offset, length = channel._chunk[index], channel._offset[index], channel._length[index]
        if number == _OUTSIDE:
            data = self._file.read_at(offset, length)
        else:
            chunk = self._unpacked(number)
            data = b"" if chunk is None else chunk[offset : offset + length]
        return data if len(data) == length else None

    # ---- one pass ---------------------------------------------------------------------------------------------

    def _index(self) -> None:
        if self._file.read_at(0, len(MAGIC)) != MAGIC:
            raise self._bad("is no MCAP file")
        at, ended = len(MAGIC), False
        while not ended:
            head = self._file.read_at(at, _HEAD.size)
            if len(head) < _HEAD.size:
                break
            opcode, length = _HEAD.unpack(head)
            body = at + _HEAD.size
            if length > MAX_RECORD_BYTES:
                break
            if opcode in (_FOOTER, _DATA_END):
                ended = True
            elif not self._record(opcode, body, length):
                break
            at = body + length
        if not ended:
            self.cut_at = at

    def _record(self, opcode: int, body: int, length: int) -> bool:
        """Take one record; False when it is not all there."""
        data = self._file.read_at(body, length)
        if len(data) < length:
            return False
        try:
            if opcode == _CHUNK:
                self._chunk(body, length, data)
            elif opcode == _METADATA:
                self._metadata_record(data)
            else:
                self._inner(opcode, data, _OUTSIDE, body)
        except CutError:
            return False
        return True

    def _chunk(self, body: int, length: int, data: bytes) -> None:
        number = len(self._chunks)
        self._chunks.append((body, length))
        plain = _unpack(data)
        if plain is None:
            self.damaged_chunks += 1
            return
        self._keep(number, plain)
        at = 0
        while at + _HEAD.size <= len(plain):
            opcode, size = _HEAD.unpack_from(plain, at)
            at += _HEAD.size
            if size > len(plain) - at:
                self.damaged_chunks += 1
                return
            try:
                self._inner(opcode, memoryview(plain)[at : at + size], number, at)
            except CutError:
                self.damaged_chunks += 1
                return
            at += size

    def _inner(self, opcode: int, data: bytes | memoryview, chunk: int, offset: int) -> None:
        if opcode == _MESSAGE:
            self._message(data, chunk, offset)
        elif opcode == _CHANNEL:
            self._channel(bytes(data))
        elif opcode == _SCHEMA and len(data) >= 2:
            number, rest = int.from_bytes(data[:2], "little"), bytes(data[2:])
            self._schemas[number] = _text(rest, 0)[0]
            if len(self._schemas) > MAX_CHANNELS:
                raise self._bad("has too many schemas")

    def _channel(self, data: bytes) -> None:
        if len(data) < 4:
            raise CutError
        number, schema = struct.unpack_from("<HH", data)
        topic, at = _text(data, 4)
        _, at = _text(data, at)
        if number not in self.channels:
            self.channels[number] = Channel(topic, self._schemas.get(schema, ""), _map(data, at))
        if len(self.channels) > MAX_CHANNELS:
            raise self._bad("has too many channels")

    def _message(self, data: bytes | memoryview, chunk: int, offset: int) -> None:
        if len(data) < _MESSAGE_HEAD.size:
            raise CutError
        number, _, log_ns, _ = _MESSAGE_HEAD.unpack_from(data)
        channel = self.channels.get(number)
        if channel is None:
            raise CutError
        self._messages += 1
        if self._messages > MAX_MESSAGES:
            raise self._bad("has too many messages")
        channel.log_ns.append(log_ns)
        channel._chunk.append(chunk)
        channel._offset.append(offset + _MESSAGE_HEAD.size)
        channel._length.append(len(data) - _MESSAGE_HEAD.size)

    def _metadata_record(self, data: bytes) -> None:
        name, at = _text(data, 0)
        if len(self.metadata) < MAX_METADATA and name not in self.metadata:
            self.metadata[name] = _map(data, at)

    # ---- bytes ------------------------------------------------------------------------------------------------

    def _unpacked(self, number: int) -> bytes | None:
        if number in self._cache:
            self._cache.move_to_end(number)
            return self._cache[number]
        plain = _unpack(self._file.read_at(*self._chunks[number]))
        if plain is not None:
            self._keep(number, plain)
        return plain

    def _keep(self, number: int, plain: bytes) -> None:
        self._cache[number] = plain
        while len(self._cache) > CACHED_CHUNKS:
            self._cache.popitem(last=False)

    def _bad(self, what: str) -> RecordingError:
        return RecordingError(f"{self.name} {what}", code="EG-N079", hint=_HINT)


def _unpack(data: bytes) -> bytes | None:
    """The records of a chunk, or None when it does not unpack, is too large, or fails its checksum."""
    try:
        _, _, size, crc = _CHUNK_HEAD.unpack_from(data)
        compression, at = _text(data, _CHUNK_HEAD.size)
        length = int.from_bytes(data[at : at + 8], "little")
    except (struct.error, CutError):
        return None
    packed = memoryview(data)[at + 8 :]
    if len(packed) != length or size > MAX_CHUNK_BYTES:
        return None
    plain = _decompress(compression, packed, size)
    if plain is None or len(plain) != size or (crc and zlib.crc32(plain) != crc):
        return None
    return plain


def _decompress(compression: str, packed: memoryview, size: int) -> bytes | None:
    if compression == "":
        return bytes(packed)
    if compression != "zstd":
        return None  # our recordings have no other
    try:
        import zstandard
    except ImportError:
        raise EnvironmentMissingError(
            "this recording needs the package zstandard", code="EG-E050", hint="pip install 'edgeguard[record]'"
        ) from None
    try:
        # A frame may claim any size in its own header, and the library would allocate it.
        if not 0 <= zstandard.frame_content_size(packed) <= size:
            return None
        return zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
    except (zstandard.ZstdError, MemoryError):
        return None


def _text(data: bytes, at: int) -> tuple[str, int]:
    """A string with its length before it, and the offset behind it."""
    length = int.from_bytes(data[at : at + 4], "little")
    end = at + 4 + length
    if end > len(data):
        raise CutError
    return data[at + 4 : end].decode("utf-8", "replace"), end


def _map(data: bytes, at: int) -> dict[str, str]:
    """A map of strings with its byte length before it."""
    end = at + 4 + int.from_bytes(data[at : at + 4], "little")
    if end > len(data):
        raise CutError
    return dict(_pairs(data[:end], at + 4))


def _pairs(data: bytes, at: int) -> Iterator[tuple[str, str]]:
    while at < len(data):
        key, at = _text(data, at)
        value, at = _text(data, at)
        yield key, value
