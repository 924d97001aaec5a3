"""The folder that `publish` writes: files put in place one by one, and what the fleet remembers of it.

docs/formats/repository.md sections 1 and 3.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from edgeguard.errors import BundleFormatError, ProvisioningError
from edgeguard.harden.durable import sync_folder
from edgeguard.keys.regular_file import open_regular, read_up_to
from edgeguard.trust.policy import Hex64
from edgeguard.trust.strict_json import canonical, convert, parse
from edgeguard.update.catalogue import Offer, OfferFacts
from firmware_tools.files import write_atomic
from firmware_tools.fleet import Fleet

PUBLISHED_FILE: Final = "published.json"
MAX_PUBLISHED_BYTES: Final = 16 * 1024 * 1024  # a thousand offers of some kilobytes
_PIECE_BYTES: Final = 1024 * 1024
_PARTIAL: Final = ".partial-"

Version = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class PublishedOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One bundle on offer, as `Offer`."""

    identity: Hex64
    length: int
    sha256: Hex64
    facts: OfferFacts


class PublishedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """published.json: what this fleet has on offer, and the highest version of each role ever signed.

    It is the fleet's own memory, so that whoever can write the repository cannot have anything signed.
    `snapshot_keys`: digest of the snapshot keys under which `listed` was last published; `listed`: the version of each
    role that a snapshot has named.
    """

    schema: Literal["edgeguard/published/v1"] = "edgeguard/published/v1"
    versions: dict[str, Version] = {}
    snapshot_keys: str = ""
    listed: dict[str, Version] = {}
    offers: tuple[PublishedOffer, ...] = ()

    @property
    def as_offers(self) -> tuple[Offer, ...]:
        """What is on offer, as the catalogue says it."""
        return tuple(Offer(o.identity, o.length, o.sha256, o.facts) for o in self.offers)


def read_published(fleet: Fleet) -> PublishedFile:
    """Return the fleet's memory; an empty one where nothing was published yet.

    Raises:
        ProvisioningError: EG-P070, it is unreadable.
    """
    reason = ""
    try:
        with open_regular(fleet.folder / PUBLISHED_FILE) as file:
            raw = read_up_to(file, MAX_PUBLISHED_BYTES)
        return convert(parse(raw, what=PUBLISHED_FILE), PublishedFile, what=PUBLISHED_FILE)
    except FileNotFoundError:
        return PublishedFile()
    except OSError as error:
        reason = (error.strerror or "unknown").lower()
    except BundleFormatError as error:
        reason = error.message
    raise ProvisioningError(f"{PUBLISHED_FILE} cannot be used: {reason}", code="EG-P070")


def write_published(fleet: Fleet, published: PublishedFile) -> None:
    """Replace the fleet's memory; ProvisioningError (EG-P030)."""
    write_atomic(fleet.folder / PUBLISHED_FILE, canonical(msgspec.to_builtins(published)), 0o600)


class RepositoryFolder:
    """The files of a repository; one that is there with the right content is left alone.

    Attributes:
        written, kept, bytes_written: what has been done, or in a dry run would be.
    """

    def __init__(self, folder: Path | str, *, dry_run: bool = False) -> None:
        self.folder = Path(folder)
        self.dry_run = dry_run
        self.written = 0
        self.kept = 0
        self.bytes_written = 0
        self._unsynced = False

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file of at most `limit` bytes, None when it is missing or cannot be read."""
        try:
            with open_regular(self.folder / name) as file:
                content = read_up_to(file, limit + 1)
        except (OSError, ValueError):
            return None
        return content if len(content) <= limit else None

    def names(self, folder: str) -> list[str]:
        """Return the names in a folder."""
        path = self.folder / folder
        return sorted(entry.name for entry in os.scandir(path)) if path.is_dir() else []

    def put(self, name: str, content: bytes) -> None:
        """Put a file in place, flushed; ProvisioningError (EG-P030)."""
        if self.read(name, len(content)) == content:
            self.kept += 1
            return
        self._count(len(content))
        if not self.dry_run:
            write_atomic(self.folder / name, content)

    def put_small(self, name: str, content: bytes) -> None:
        """As `put`, but flushed together with others by `sync`: a hundred thousand flushes take hours."""
        if self.read(name, len(content)) == content:
            self.kept += 1
            return
        self._count(len(content))
        if self.dry_run:
            return
        path = self.folder / name
        partial = path.with_name(f".{path.name}{_PARTIAL}{secrets.token_hex(4)}")
        reason = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
        except OSError as error:
            reason = (error.strerror or "unknown").lower()
        if reason:
            raise ProvisioningError(f"cannot write {path}: {reason}", code="EG-P030")
        self._unsynced = True

    def put_blob(self, source: Path, digest: str) -> None:
        """Copy a file to the place that its SHA-256 names; one that is there and hashes right is left.

        Raises:
            ProvisioningError: EG-P030 cannot be read or written, or it changed since it was verified.
        """
        path = self.folder / blob_name(digest)
        size = source.stat().st_size
        if path.is_file() and path.stat().st_size == size and _digest(path) == digest:
            self.kept += 1
            return
        self._count(size)
        if self.dry_run:
            return
        partial = path.with_name(f".{path.name}{_PARTIAL}{secrets.token_hex(4)}")
        reason = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            copied = hashlib.sha256()
            with partial.open("xb") as out:
                for piece in _pieces(source):
                    copied.update(piece)
                    out.write(piece)
                out.flush()
                os.fsync(out.fileno())
            if copied.hexdigest() == digest:
                partial.replace(path)
                sync_folder(path.parent)
            else:
                reason = f"{source.name} changed while it was read"
        except OSError as error:
            reason = (error.strerror or "unknown").lower()
        finally:
            partial.unlink(missing_ok=True)
        if reason:
            raise ProvisioningError(f"cannot write {path}: {reason}", code="EG-P030")

    def sync(self) -> None:
        """Flush what `put_small` has written."""
        if self._unsynced:
            os.sync()
            self._unsynced = False

    def drop_partials(self) -> None:
        """Remove what a cut-off run has left beside the files."""
        if not self.dry_run and self.folder.is_dir():
            for path in self.folder.rglob(f".*{_PARTIAL}*"):
                path.unlink(missing_ok=True)

    def _count(self, size: int) -> None:
        self.written += 1
        self.bytes_written += size


def blob_name(digest: str) -> str:
    """Return where a signed file lies."""
    return f"blobs/{digest[:2]}/{digest}"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(path):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
