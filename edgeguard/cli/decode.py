"""`edgeguard decode`: what a raw capture of a sensor says, record by record."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import click

from edgeguard.cli.options import format_option, progress_bar, say
from edgeguard.errors import EXIT_FINDING, EXIT_OK, ConfigError, EnvironmentMissingError, SensorOpenError
from edgeguard.types import LineStats

MAX_KEY_FILE_BYTES = 256
BAR_FROM_BYTES = 16 * 1024 * 1024  # below, it is done before a person has read the bar
LOOKED_AT_BYTES = 1 << 16
ANY_NODE = 0  # no node has this number


class Decoder(Protocol):
    """What the verb needs of every protocol: bytes in, records out, totals."""

    @property
    def line_stats(self) -> LineStats: ...

    def feed(self, data: bytes) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about how to decode."""

    metadata: Path | None
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One protocol: where it lives and how its decoder is made. `datagrams`: it comes as UDP, so a file of bare bytes
    is cut into packets of the decoder's `packet_bytes`."""

    module: str
    make: Callable[[Any, Options], Decoder]
    about: str
    datagrams: bool = False


class _Epochs:
    """One protocol of a GNSS receiver's line, every epoch, with or without a fix. Frames of the others are counted as
    drops, by name."""

    def __init__(self, framer: Any, epochs: Any, kind: str, also: str = "") -> None:
        self._framer, self._epochs, self._kind, self._also = framer, epochs, kind, also
        self._frames = 0
        self._others: Counter[str] = Counter()

    @property
    def line_stats(self) -> LineStats:
        f = self._framer
        frames = self._frames + f.foreign.get(self._also, 0)
        return LineStats(f.bytes_received, frames, f.checksum_failures, f.bytes_skipped, 0)

    @property
    def drops(self) -> Mapping[str, int]:
        other = {name: count for name, count in self._framer.foreign.items() if name != self._also}
        return {**other, **self._others, **({"malformed": n} if (n := self._epochs.malformed) else {})}

    def feed(self, data: bytes) -> list[Any]:
        return self._take(self._framer.feed(data))

    def flush(self) -> list[Any]:
        return [*self._take(self._framer.finish()), *self._epochs.finish()]

    def _take(self, frames: Sequence[Any]) -> list[Any]:
        records = []
        for frame in frames:
            if frame.kind == self._kind:
                self._frames += 1
                records += self._epochs.take(frame.data)
            else:
                self._others[frame.kind] += 1
        return records


def _nmea(module: Any, _: Options) -> Decoder:
    from edgeguard.protocols.gnss_frames import AIS, NMEA, GnssFramer

    return _Epochs(GnssFramer(), module.NmeaEpochs(), NMEA, AIS)


def _ubx(module: Any, _: Options) -> Decoder:
    from edgeguard.protocols.gnss_frames import UBX, GnssFramer

    return _Epochs(GnssFramer(), module.UbxEpochs(), UBX)


def _link(module: Any, options: Options) -> Decoder:
    if not options.keys:
        raise ConfigError("link frames are checked with the nodes' keys", code="EG-C134", hint="add --key FILE")
    keys = dict(_link_key(text) for text in options.keys)
    decoder: Decoder = module.LinkDecoder({n: k for n, k in keys.items() if n}, any_node_key=keys.get(ANY_NODE))
    return decoder


def _ouster(module: Any, options: Options) -> Decoder:
    from edgeguard.protocols.ouster_metadata import MAX_METADATA_BYTES, parse_metadata

    if options.metadata is None:
        raise ConfigError(
            "an Ouster capture is read with the sensor's metadata",
            code="EG-C134",
            hint="add --metadata FILE.json, from http://SENSOR/api/v1/sensor/metadata",
        )
    data = _read(options.metadata, MAX_METADATA_BYTES + 1)
    decoder: Decoder = module.OusterDecoder(parse_metadata(data))
    return decoder


PROTOCOLS: Mapping[str, Entry] = {
    "nmea": Entry("edgeguard.protocols.gnss_nmea", _nmea, "NMEA 0183 of a GNSS receiver, one record per epoch"),
    "ubx": Entry("edgeguard.protocols.ubx", _ubx, "u-blox binary, one record per epoch"),
    "ld06": Entry("edgeguard.protocols.ld06", lambda m, _: m.Ld06PacketDecoder(), "LD06 / LD19 packets"),
    "rplidar": Entry("edgeguard.protocols.rplidar", lambda m, _: m.RplidarPacketDecoder(), "RPLIDAR answers"),
    "link": Entry("edgeguard.protocols.link", _link, "our sensor nodes' authenticated link"),
    "vlp16": Entry(
        "edgeguard.protocols.velodyne",
        lambda m, _: m.VelodyneDecoder(returns="both"),
        "Velodyne VLP-16, Puck Hi-Res, VLP-32C, HDL-32E",
        datagrams=True,
    ),
    "ouster": Entry("edgeguard.protocols.ouster", _ouster, "Ouster lidar and IMU packets", datagrams=True),
}


@click.command("decode")
@click.argument("protocol", type=click.Choice(list(PROTOCOLS)))
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--metadata", type=click.Path(path_type=Path), envvar="EDGEGUARD_METADATA", help="The sensor's JSON; for ouster."
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="[NODE=]FILE",
    envvar="EDGEGUARD_LINK_KEY",
    help="A node's key, 32 bytes or 64 hex digits; for link. Without NODE it is every other node's. May be repeated.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many records.")
@click.option("--points", is_flag=True, help="Print every point of a sweep, not only its summary.")
@format_option
def command(
    protocol: str,
    file: Path,
    metadata: Path | None,
    keys: tuple[str, ...],
    limit: int | None,
    points: bool,
    output: str,
) -> int:
    """Print the records in FILE (- reads stdin), then a summary.

    FILE holds the raw bytes of a line, or is a pcap or pcapng capture. The last line is the summary; with --format
    json every line is one JSON object. Exit code 1 when FILE holds nothing of the protocol.

    \b
    edgeguard decode nmea receiver.log
    edgeguard decode ouster sweep.pcap --metadata sensor.json --format json
    """
    from edgeguard.cli.decode_rows import Printer

    decoder = _decoder(protocol, Options(metadata, keys))
    printer = Printer(output == "json", points)
    records = 0
    notes: list[str] = []
    with ExitStack() as stack:
        try:
            for record, stamp_ns in _records(stack, protocol, file, decoder, notes.append):
                printer.record(record, stamp_ns)
                records += 1
                if records == limit:
                    notes.append(f"stopped after {limit} records, as asked")
                    break
        except KeyboardInterrupt:  # the way to end a live line: its summary is still wanted
            notes.append("interrupted")
    for note in notes:
        say(f"note: {note}")
    stats = decoder.line_stats
    printer.summary(
        {
            "frames": stats.frames,
            "checksum_failures": stats.checksum_failures,
            "bytes_skipped": stats.bytes_skipped,
            "gaps": stats.sequence_gaps,
            "records": records,
            "bytes_received": stats.bytes_received,
            "drops": dict(getattr(decoder, "drops", {})),
        }
    )
    return EXIT_OK if stats.frames else EXIT_FINDING


def _decoder(protocol: str, options: Options) -> Decoder:
    entry = PROTOCOLS[protocol]
    if find_spec(entry.module) is None:
        raise EnvironmentMissingError(
            f"{protocol} is not available in this version", code="EG-E130", hint="update edgeguard"
        )
    return entry.make(import_module(entry.module), options)


def _records(
    stack: ExitStack, protocol: str, path: Path, decoder: Decoder, note: Callable[[str], None]
) -> Iterator[tuple[Any, int | None]]:
    """Yield every record with the capture's stamp, where there is one."""
    from edgeguard.protocols.pcap import is_capture
    from edgeguard.sensors.capture_lidar import file_pieces, read_capture
    from edgeguard.sensors.lidar_source import SenderGuard

    file, size = _open(stack, path)
    pieces = file_pieces(file, _progress(stack, size))
    head = b""
    while len(head) < 4 and (piece := next(pieces, b"")):
        head += piece
    stamp_ns: int | None = None
    kept: _Kept | None = None
    if is_capture(head):
        guard = SenderGuard()
        for datagram in read_capture(_again(head, pieces), note):
            if not guard.admits(datagram.source):
                continue
            stamp_ns, before = datagram.stamp_ns, decoder.line_stats.frames
            yield from ((record, stamp_ns) for record in decoder.feed(datagram.payload))
            if decoder.line_stats.frames > before:
                guard.learn(datagram.source)
        for address, count in guard.refused.items():
            note(f"{count} packets from {address} were not decoded: the sensor is {guard.sender}")
    else:
        size = getattr(decoder, "packet_bytes", 0) if PROTOCOLS[protocol].datagrams else 0
        kept = _Kept(_again(head, pieces))
        for piece in _cut(kept, size) if size else kept:
            yield from ((record, None) for record in decoder.feed(piece))
    flush = getattr(decoder, "flush", None)
    if flush is not None:
        yield from ((record, stamp_ns) for record in flush())
    if kept is not None and not decoder.line_stats.frames:
        note(_instead(kept.first, protocol, path))


class _Kept:
    """The pieces, and what the first of them held: to say what it is, when it is not what was asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self.first = pieces, b""

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if len(self.first) < LOOKED_AT_BYTES:
                self.first += piece[: LOOKED_AT_BYTES - len(self.first)]
            yield piece


def _instead(data: bytes, protocol: str, path: Path) -> str:
    """Why nothing was found, and the command that finds more."""
    from edgeguard.sensors.recognise import foreign_protocols, recognise

    if not data:
        return "there are no bytes in it"
    names = {"NMEA 0183": "nmea", "UBX": "ubx"}
    for found in recognise(data):
        verb = names.get(found.name, found.decoder)
        if verb in PROTOCOLS and verb != protocol:
            return f"the bytes look like {found.name}; try: edgeguard decode {verb} {path}"
    foreign = foreign_protocols(data)
    if foreign:
        return f"the bytes look like {', '.join(foreign)}, which is named but not decoded"
    return f"nothing of {protocol} in it: another protocol, a wrong baud rate, or bytes that a program has changed"


def _again(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from pieces


def _cut(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Cut bare bytes into packets of one size, the way they were written one after the other."""
    rest = b""
    for piece in pieces:
        rest += piece
        whole = len(rest) - len(rest) % size
        yield from (rest[at : at + size] for at in range(0, whole, size))
        rest = rest[whole:]
    if rest:
        yield rest


def _open(stack: ExitStack, path: Path) -> tuple[BinaryIO, int]:
    if str(path) == "-":
        return sys.stdin.buffer, 0
    try:
        file = stack.enter_context(path.open("rb"))
        return file, path.stat().st_size
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise SensorOpenError(f"cannot open {path}: {reason}", hint="give a file, or - for stdin") from None


def _progress(stack: ExitStack, size: int) -> Callable[[int], None] | None:
    if size < BAR_FROM_BYTES:
        return None
    bar = stack.enter_context(progress_bar())
    task = bar.add_task("decode", total=size)
    return lambda step: bar.advance(task, step)


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(f"cannot read {path}: {reason}", code="EG-C135") from None


def _link_key(text: str) -> tuple[int, bytes]:
    node, equals, name = text.partition("=")
    if not equals:
        node, name = str(ANY_NODE), text
    if not (node.isascii() and node.isdigit() and len(node) <= 5):
        raise ConfigError(f"{node} is no node number", code="EG-C135", hint="--key NODE=FILE")
    data = _read(Path(name), MAX_KEY_FILE_BYTES)
    if len(data) != 32:
        try:
            data = bytes.fromhex(data.decode("ascii").strip())
        except ValueError:
            raise ConfigError(f"{name} is neither 32 bytes nor 64 hex digits", code="EG-C135") from None
    return int(node), data
