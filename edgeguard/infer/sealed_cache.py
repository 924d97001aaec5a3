"""What an execution provider compiled, kept between starts as one encrypted object. docs/formats/sealed-cache.md.

    cache = SealedCache("/var/lib/edgeguard/cache", key=key, generation=7)
    session = InferenceSession(bundle, ..., providers=["OpenVINOExecutionProvider"], sealed_cache=cache)
    session.cache.state       # "built" at the first start, "restored" at the next

The plain files exist in memory only. On any doubt about the object it is deleted and the provider compiles again, so
nothing that goes wrong here keeps a model from running.

ATLAS: AML.M0012 (encrypt sensitive information), AML.M0014 (verify AI artifacts).
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgeguard.errors import ConfigError
from edgeguard.harden.memory import SecretBuffer
from edgeguard.infer.cache_binding import CacheBinding
from edgeguard.infer.cache_object import (
    DEFAULT_MAX_BYTES,
    CacheRefusedError,
    Snapshot,
    seal_directory,
    snapshot,
    unseal_into,
)
from edgeguard.infer.memory_folder import DEFAULT_MEMORY_FOLDER, MemoryFolder
from edgeguard.keys.context import length_prefixed
from edgeguard.keys.provider import KeyProvider

CACHE_LABEL: Final = "edgeguard/v1/ep-cache"
_NAME_LABEL: Final = "edgeguard/v1/ep-cache-name"
_WRITTEN_AGAIN: Final = "what was restored was changed or written again"
MAX_GENERATION: Final = 2**63 - 1

CacheState = Literal["empty", "restored", "built", "not kept"]


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What became of the cache.

    state: `empty`, nothing compiled yet; `restored`, the object was opened; `built`, the provider compiled and the
    result was sealed; `not kept`, it compiled and the result could not be sealed. reason: why an object was thrown
    away or the result not kept; may be empty.
    """

    state: CacheState
    reason: str = ""


class SealedCache:
    """Where and how to keep what providers compile.

    Args:
        folder: directory for the encrypted objects; created with mode 0700 where it is missing.
        key: the device's key.
        generation: number of the model slot's generation; an object of another one is thrown away.
        memory_folder: a directory on tmpfs or ramfs for the plain files while they are needed.
        allow_swap: accept that those may be swapped out.
        max_bytes: largest directory that is kept or opened.

    Raises:
        ConfigError: EG-C024, an argument is out of range.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        key: KeyProvider,
        generation: int = 0,
        memory_folder: Path | str = DEFAULT_MEMORY_FOLDER,
        allow_swap: bool = False,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> None:
        if not 0 <= generation <= MAX_GENERATION or max_bytes < 1:
            raise ConfigError("the cache's generation or size limit is out of range", code="EG-C024")
        self.folder = Path(folder)
        self.generation = generation
        self.max_bytes = max_bytes
        self._key = key
        self._memory_folder = Path(memory_folder)
        self._allow_swap = allow_swap

    def object_path(self, fleet_id: str, model_id: str) -> Path:
        """Return where the object of a model lies."""
        digest = hashlib.sha256(length_prefixed(_NAME_LABEL, fleet_id, model_id)).digest()
        return self.folder / f"{digest[:16].hex()}.egcache"

    def open(self, fleet_id: str, model_id: str, binding: CacheBinding) -> OpenCache:
        """Return a private directory with what this machine compiled for exactly this binding, or an empty one.

        To be called only with a bundle that has passed verification in this process.

        Raises:
            EnvironmentMissingError: EG-E021, EG-E022, the memory folder is not in memory.
        """
        plain = MemoryFolder(self._memory_folder, allow_swap=self._allow_swap)
        done = False
        try:
            opened = OpenCache(self, self.object_path(fleet_id, model_id), plain, binding.canonical())
            done = True
        finally:
            if not done:
                plain.close()
        return opened

    def sealing_key(self) -> SecretBuffer:
        """Return the key of every object here; it needs the private part of the device key."""
        return self._key.derive_secret(CACHE_LABEL)

    def __repr__(self) -> str:
        return f"<SealedCache {self.folder}, generation {self.generation}>"


class OpenCache:
    """The cache of one session: the provider works in `path` until `finish`, and the directory goes with `close`."""

    def __init__(self, owner: SealedCache, object_path: Path, plain: MemoryFolder, binding: bytes) -> None:
        self._owner = owner
        self._object = object_path
        self._plain = plain
        self._context = length_prefixed(CACHE_LABEL, binding)
        self._restored: Snapshot | None = None
        self._finished = False
        self.report = CacheReport("empty")
        self._restore()

    @property
    def path(self) -> Path:
        """The directory to name in the provider's options."""
        return self._plain.path

    def finish(self) -> CacheReport:
        """Seal what the provider wrote, if anything is new, and wipe the plain files; never raises."""
        if self._finished:
            return self.report
        self._finished = True
        try:
            self.report = self._sealed_report()
        except (CacheRefusedError, OSError) as error:
            self.report = CacheReport("not kept", _reason(error))
        finally:
            self._plain.clear()
        return self.report

    def discard(self) -> None:
        """Delete the object and everything in the directory: the provider refused what it found."""
        self._plain.clear()
        with suppress(OSError):
            self._object.unlink()
        self._restored = None
        self.report = CacheReport("empty", "the provider did not accept it")

    def close(self) -> None:
        """Wipe and remove the directory; calling it again does nothing."""
        self._plain.close()

    def _restore(self) -> None:
        """Open the object into the directory; on any doubt delete it and leave the directory empty."""
        reason = ""
        try:
            with self._owner.sealing_key() as key:
                unseal_into(self._plain.descriptor, self._object, key, self._context, self._owner.max_bytes)
            self._restored = snapshot(self._plain.descriptor, self._owner.max_bytes)
        except FileNotFoundError:
            return
        except (CacheRefusedError, OSError) as error:
            reason = _reason(error)
        if reason:
            self._plain.clear()
            with suppress(OSError):
                self._object.unlink()
            self.report = CacheReport("empty", reason)
        else:
            self.report = CacheReport("restored")

    def _sealed_report(self) -> CacheReport:
        now = snapshot(self._plain.descriptor, self._owner.max_bytes)
        if not now.files:
            return CacheReport("empty", self.report.reason)
        if self._restored == now:
            return self.report
        self._owner.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._owner.sealing_key() as key:
            seal_directory(self._plain.descriptor, now, self._object, key, self._context)
        return CacheReport("built", _WRITTEN_AGAIN if self._restored is not None else self.report.reason)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or "unknown").lower()
    return str(error)
