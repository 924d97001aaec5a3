"""Open a protected model into memory. docs/formats/bundle.md section 8; MITRE ATLAS AML.M0012, M0013, M0014.

Example::

    trust = TrustStore.load("trust", wall_ns)
    key = FileKeyProvider("device.pem")
    with open_model("bundle", trust=trust, key=key, expect_model="road-objects") as model:
        build_session(model.graph, model.weights)
"""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NoReturn, Self

from edgeguard.bundle.manifest import Manifest
from edgeguard.bundle.payload import decrypt_payloads
from edgeguard.bundle.storage import BundleStorage, DirectoryStorage
from edgeguard.bundle.verify import VerifiedBundle, verify_signed_parts
from edgeguard.errors import KeyUnavailableError
from edgeguard.harden.memory import wipe
from edgeguard.keys.context import WRAP_BYTES
from edgeguard.keys.provider import KeyProvider, VerifiedStatement
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import TrustStore


class VerifiedModel:
    """A decrypted model in private memory; every check has passed. Use as a context manager.

    statement, manifest: what was signed. graph: read-only view of the ONNX graph. weights: one mapping per external
    location, exactly as long as the data. golden: read-only view of the data of its health check (`parse_golden`), or
    None. After `close` (or when dropped) all of it is zero; a view that is still
    held then reads zeros.
    """

    def __init__(self, verified: VerifiedBundle, plaintexts: Mapping[str, mmap.mmap]) -> None:
        self.statement: VerifiedStatement = verified.statement
        self.manifest: Manifest = verified.manifest
        self.graph: memoryview = memoryview(plaintexts[self.manifest.graph.name]).toreadonly()
        self.weights: Mapping[str, mmap.mmap] = MappingProxyType(
            {p.location: plaintexts[p.name] for p in self.manifest.payloads if p.role == "weights"}
        )
        golden = self.manifest.golden
        self.golden: memoryview | None = memoryview(plaintexts[golden.name]).toreadonly() if golden else None
        self._wipe = weakref.finalize(self, _wipe_all, tuple(plaintexts.values()))

    def close(self) -> None:
        """Zero the model; calling it again does nothing."""
        self._wipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "open" if self._wipe.alive else "closed"
        return f"<VerifiedModel {self.statement.model_id} {self.statement.release}, {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a decrypted model is not copied or pickled")


def open_model(
    path: Path | str,
    *,
    trust: TrustStore,
    key: KeyProvider,
    expect_model: str,
    board: str = "",
    wall_ns: int | None = None,
    deep: bool = False,
    state: DeviceState | None = None,
) -> VerifiedModel:
    """Verify and decrypt a bundle for this device.

    Args:
        path: the bundle's directory.
        trust: whom this device believes.
        key: this device's private key.
        expect_model: the model id that belongs here; another genuine model is refused.
        board: what board this is, for models that are limited to some.
        wall_ns: nanoseconds since 1970 UTC; None asks the machine. Never judged earlier than a signed time.
        state: what this device remembers; the fleet's signed policy says whether it may be left out.
        deep: also check the plaintext HMACs of the manifest, for tools that examine a bundle; a load needs none.

    Raises:
        UnprotectedModelError: a plain model file was given.
        ModelError: any other refusal; section 9 of the format lists the codes.
        EnvironmentMissingError: memory is short, or cannot be locked as the policy asks.
    """
    with DirectoryStorage(path) as storage:
        return open_from_storage(
            storage, trust=trust, key=key, expect_model=expect_model, board=board, wall_ns=wall_ns, deep=deep,
            state=state,
        )  # fmt: skip


def open_from_storage(
    storage: BundleStorage,
    *,
    trust: TrustStore,
    key: KeyProvider,
    expect_model: str,
    board: str = "",
    wall_ns: int | None = None,
    deep: bool = False,
    state: DeviceState | None = None,
) -> VerifiedModel:
    """As `open_model`, from any storage."""
    verified = verify_signed_parts(storage, trust, expect_model=expect_model, board=board, wall_ns=wall_ns, state=state)
    verified.admission.require_device(key.kid)
    wrap = storage.read_optional(f"recipients/{key.kid}.hpke", WRAP_BYTES[key.suite])
    if wrap is None:
        raise KeyUnavailableError(
            "the bundle holds no wrap for this device",
            code="EG-K003",
            hint="on the provisioning host run: edgeguard-provision grant FLEET BUNDLE DEVICE",
        )
    plaintexts: dict[str, mmap.mmap] = {}
    model: VerifiedModel | None = None
    try:
        with key.open_wrap(verified.statement, wrap) as cek:
            plaintexts = decrypt_payloads(
                storage, verified.manifest, verified.digests, cek, trust.policy.unlocked_memory, deep=deep
            )
        model = VerifiedModel(verified, plaintexts)
    finally:
        if model is None:
            _wipe_all(tuple(plaintexts.values()))
    return model


def _wipe_all(mappings: tuple[mmap.mmap, ...]) -> None:
    for mapping in mappings:
        wipe(mapping)
