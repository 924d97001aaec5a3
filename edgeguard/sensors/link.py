"""The authenticated link as a `Source`, and the memory that keeps old frames refused over a restart.

docs/formats/serial-link.md, sections "Order" and "Changing a key without a gap".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgeguard.clock import NS_PER_S, Clock
from edgeguard.errors import SensorOpenError
from edgeguard.harden.durable import sync_folder, write_synced
from edgeguard.keys.regular_file import open_regular, read_up_to
from edgeguard.protocols.link import MAX_COUNTER, MAX_NODES, LinkDecoder
from edgeguard.sensors.serial import SerialSource
from edgeguard.types import Sample, SourceInfo

MAX_FLOOR_BYTES = 16 * 1024  # 64 nodes of some 120 bytes
SAVE_EVERY_NS = 5 * NS_PER_S  # what a replay after a power cut can reach back, against wear of a memory card
_CONTEXT = b"edgeguard link floor v1\0"


class _Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    boot: int
    counter: int
    tag: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: str
    nodes: dict[str, _Node]


class LinkFloor:
    """The last accepted (boot, counter) per node, in a file authenticated under each node's own key.

    Args:
        path: the file; made by the first `save`. keys: node id to the keys it may be under (current and next).
    """

    def __init__(self, path: Path | str, keys: Mapping[int, tuple[bytes, ...]]) -> None:
        self._path = Path(path)
        self._keys = dict(keys)

    def load(self) -> dict[int, tuple[int, int]]:
        """Return the floors; empty when there is no file yet. Nodes that are no longer known are left out.

        Raises:
            SensorOpenError: EG-N036, the file is damaged, or was not written under these keys.
        """
        try:
            with open_regular(self._path) as file:
                raw = read_up_to(file, MAX_FLOOR_BYTES + 1)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            raw = b""
        floors: dict[int, tuple[int, int]] = {}
        try:
            content = msgspec.json.decode(raw if len(raw) <= MAX_FLOOR_BYTES else b"", type=_File)
            for name, node in content.nodes.items():
                keys = self._keys.get(int(name), ())
                tags = [self._tag(key, int(name), node.boot, node.counter) for key in keys]
                if keys and not any(hmac.compare_digest(node.tag, tag) for tag in tags):
                    raise ValueError("tag")
                if keys:
                    floors[int(name)] = (node.boot, node.counter)
        except (msgspec.MsgspecError, ValueError, OverflowError):
            floors = {-1: (0, 0)}
        if -1 in floors:
            raise SensorOpenError(
                f"the link's memory {self._path} is damaged or was not written under these keys",
                code="EG-N036",
                hint="find out why; deleting it lets recorded frames of the nodes be replayed once",
            )
        return floors

    def save(self, floors: Mapping[int, tuple[int, int]], keys: Mapping[int, bytes]) -> None:
        """Replace the file. keys: the key each node uses now.

        Raises:
            OSError: as the system says.
        """
        nodes = {
            str(node): {"boot": boot, "counter": counter, "tag": self._tag(keys[node], node, boot, counter)}
            for node, (boot, counter) in sorted(floors.items())
        }
        temporary = self._path.with_name(self._path.name + ".new")
        temporary.unlink(missing_ok=True)  # left by a process that was killed
        write_synced(temporary, msgspec.json.encode({"schema": "edgeguard/link-floor/v1", "nodes": nodes}))
        temporary.replace(self._path)
        sync_folder(self._path.parent)

    @staticmethod
    def _tag(key: bytes, node: int, boot: int, counter: int) -> str:
        if not (0 < node <= 0xFFFF and 0 <= boot <= MAX_COUNTER and 0 <= counter <= MAX_COUNTER):
            raise ValueError("out of range")
        message = _CONTEXT + node.to_bytes(2, "little") + boot.to_bytes(4, "little") + counter.to_bytes(4, "little")
        return hmac.new(key, message, hashlib.sha256).hexdigest()


class LinkSource(SerialSource):
    """A serial line on which nodes speak the authenticated link.

    Args:
        port, baud, info, clock: as for `SerialSource`. keys, next_keys: as for `LinkDecoder`.
        memory: file that keeps old frames refused over a restart; None keeps that only while the process lives.

    Raises:
        ConfigError: EG-C030. SensorOpenError: EG-N036, the memory is damaged.
    """

    def __init__(
        self,
        port: str,
        baud: int,
        keys: Mapping[int, bytes],
        info: SourceInfo,
        clock: Clock,
        *,
        memory: Path | str | None = None,
        next_keys: Mapping[int, bytes] | None = None,
    ) -> None:
        following = dict(next_keys or {})
        both = {node: (key, *([following[node]] if node in following else [])) for node, key in keys.items()}
        self._floor = LinkFloor(memory, both) if memory is not None and len(both) <= MAX_NODES else None
        floors = self._floor.load() if self._floor is not None else {}
        self._link = LinkDecoder(keys, floor=floors, next_keys=following)
        self._saved = dict(floors)
        self._saved_ns = clock.now_ns()
        self._clock_for_saving = clock
        self.memory_failures = 0
        super().__init__(port, baud, self._link, info, clock)

    @property
    def changed_keys(self) -> frozenset[int]:
        """Nodes whose old key can be forgotten; see `LinkDecoder.changed_keys`."""
        return self._link.changed_keys

    def read(self, timeout_s: float) -> Sample | None:
        """As `SerialSource.read`; now and then the memory is written."""
        sample = super().read(timeout_s)
        if self._clock_for_saving.now_ns() - self._saved_ns >= SAVE_EVERY_NS:
            self._save()
        return sample

    def close(self) -> None:
        """As `SerialSource.close`, after the memory is written."""
        self._save()
        super().close()

    def _save(self) -> None:
        """Write what changed. A full disk must not stop the sensor: it is counted, and tried again."""
        self._saved_ns = self._clock_for_saving.now_ns()
        floors = dict(self._link.last_accepted)
        if self._floor is None or floors == self._saved:
            return
        try:
            self._floor.save(floors, self._link.keys_in_use)
            self._saved = floors
        except OSError:
            self.memory_failures += 1
