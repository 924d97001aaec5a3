"""A repository in memory behind the client's own fetching interface, and a thief with whatever keys a test hands out.

It starts from what `publish` wrote, so that what is attacked is what is shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import Metadata, MetaFile

from edgeguard.update.source import NotThereError
from firmware_tools.fleet import Fleet
from firmware_tools.signer import FileSigner
from firmware_tools.trust_metadata import signed_metadata

Answer = Callable[[bytes, int, int | None], Iterator[bytes]]


class RepositorySimulator:
    """`edgeguard.update.source.Source` over a dict.

    files: by path. answers: per path, what is sent instead of the file. fetched: bytes by path.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.answers: dict[str, Answer] = {}
        self.fetched: dict[str, int] = {}

    @classmethod
    def of(cls, folder: Path) -> RepositorySimulator:
        return cls({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})

    def stream(self, path: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        if path not in self.files and path not in self.answers:
            raise NotThereError(f"no {path}")
        return self._counted(path, start, length)

    def _counted(self, path: str, start: int, length: int | None) -> Iterator[bytes]:
        content = self.files.get(path, b"")
        answer = self.answers.get(path, _as_it_is)
        for piece in answer(content, start, length):
            self.fetched[path] = self.fetched.get(path, 0) + len(piece)
            yield piece

    @property
    def total_fetched(self) -> int:
        return sum(self.fetched.values())

    # what a thief of keys does

    def signed(self, name: str) -> Any:
        """Return the signed part of a metadata file, to be changed and signed again."""
        return Metadata.from_bytes(self.files[f"metadata/{name}"]).signed

    def resign(self, name: str, signed: Any, signers: list[FileSigner]) -> None:
        """Put metadata in place, signed by these keys."""
        self.files[f"metadata/{name}"] = signed_metadata(signed, signers)

    @property
    def snapshot_version(self) -> int:
        version: int = self.signed("timestamp.json").snapshot_meta.version
        return version

    def forge_online(
        self,
        fleet: Fleet,
        change: Callable[[dict[str, MetaFile]], None] = lambda _: None,
        *,
        version: int | None = None,
        expires: datetime | None = None,
    ) -> None:
        """Sign snapshot and timestamp with the stolen online keys, whatever they say."""
        snapshot = self.signed(f"{self.snapshot_version}.snapshot.json")
        timestamp = self.signed("timestamp.json")
        snapshot.version = timestamp.version = version or max(snapshot.version, timestamp.version) + 1
        change(snapshot.meta)
        snapshot.expires = timestamp.expires = expires or datetime(2099, 1, 1, tzinfo=UTC)
        self.resign(f"{snapshot.version}.snapshot.json", snapshot, fleet.signers("snapshot", 1))
        timestamp.snapshot_meta = MetaFile(snapshot.version)
        self.resign("timestamp.json", timestamp, fleet.signers("timestamp", 1))


def endless(_: bytes, __: int, ___: int | None) -> Iterator[bytes]:
    """Never stops sending."""
    while True:
        yield bytes(65536)


def damaged_once() -> Answer:
    """Flips a byte the first time, and sends the truth from then on."""
    times = [0]

    def answer(content: bytes, start: int, length: int | None) -> Iterator[bytes]:
        times[0] += 1
        piece = bytearray(content[start:][:length])
        if times[0] == 1:
            piece[len(piece) // 2] ^= 1
        yield bytes(piece)

    return answer


def _as_it_is(content: bytes, start: int, length: int | None) -> Iterator[bytes]:
    yield content[start:][:length]
