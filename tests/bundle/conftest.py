"""A small fleet with one device and one bundle, and ways to damage a copy of it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeguard.bundle.dsse import STATEMENT_TYPE, pae
from edgeguard.bundle.manifest import DecoderSpec, InputSpec, ModelIo
from edgeguard.bundle.model import VerifiedModel, open_from_storage
from edgeguard.bundle.signature import encode_signed
from edgeguard.errors import BundleFormatError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import TrustStore
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model

NOW_NS = 1_790_000_000_000_000_000  # 2026-09-21
MODEL_ID = "road-objects"
MARKER = b"WEIGHTS-IN-THE-CLEAR"
IO = ModelIo(
    InputSpec("x", "NCHW", (8, 4), "RGB", 1 / 255, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "stretch"),
    DecoderSpec("grid-detector/v1", ("car", "person"), 8, 0.5, 0.4),
)


def write_onnx(path: Path, weights: bytes) -> None:
    """Write a model whose one initializer is `weights`, viewed as float32."""
    values = np.frombuffer(weights, dtype=np.float32).reshape(1, -1)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, [1, values.shape[1]])],
        [info("y", TensorProto.FLOAT, [1, values.shape[1]])],
        [numpy_helper.from_array(values, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@dataclass
class MemoryStorage:
    """A bundle in memory: the same interface, and it counts what is read."""

    files: dict[str, bytes]
    bytes_read: dict[str, int] = field(default_factory=dict)
    opens: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> MemoryStorage:
        return cls({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})

    def changed(self, changes: Mapping[str, bytes | None]) -> MemoryStorage:
        files = {k: v for k, v in (self.files | dict(changes)).items() if v is not None}
        return MemoryStorage(files)

    def read_small(self, name: str, limit: int) -> bytes:
        content = self.read_optional(name, limit)
        if content is None:
            raise BundleFormatError(f"{name} is missing", code="EG-B002")
        return content

    def read_optional(self, name: str, limit: int) -> bytes | None:
        content = self.files.get(name)
        if content is None:
            return None
        self._count(name, len(content))
        if len(content) > limit:
            raise BundleFormatError(f"{name} is too large", code="EG-B002")
        return content

    @contextmanager
    def open_stream(self, name: str) -> Iterator[io.RawIOBase]:
        if name not in self.files:
            raise BundleFormatError(f"{name} is missing", code="EG-B002")
        self._count(name, 0)
        yield _CountingStream(self, name)

    def entries(self, folder: str, limit: int) -> frozenset[str] | None:
        prefix = f"{folder}/" if folder else ""
        below = [n[len(prefix) :] for n in self.files if n.startswith(prefix)]
        names = frozenset(n.partition("/")[0] + ("/" if "/" in n else "") for n in below)
        if len(names) > limit:
            raise BundleFormatError("too many files", code="EG-B005")
        return names or None

    def _count(self, name: str, size: int) -> None:
        self.opens[name] = self.opens.get(name, 0) + 1
        self.bytes_read[name] = self.bytes_read.get(name, 0) + size


class _CountingStream(io.RawIOBase):
    def __init__(self, storage: MemoryStorage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        piece = self._storage.files[self._name][self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        self._storage.bytes_read[self._name] += len(piece)
        return len(piece)


@dataclass(frozen=True)
class World:
    """One fleet, one granted device, one bundle."""

    root: Path
    fleet: Fleet
    trust: TrustStore
    key: FileKeyProvider
    bundle: Path
    weights: bytes

    @property
    def storage(self) -> MemoryStorage:
        return MemoryStorage.of(self.bundle)

    def open(self, storage: MemoryStorage, **changes: object) -> VerifiedModel:
        arguments = {"trust": self.trust, "key": self.key, "expect_model": MODEL_ID, "wall_ns": NOW_NS} | changes
        return open_from_storage(storage, **arguments)  # type: ignore[arg-type]

    def sign(self, payload: bytes, *, role: str = "release", message: bytes | None = None) -> bytes:
        """Return a model.sig over any payload, by a key of any role."""
        signer = self.fleet.signers(role, 1)[0]
        signature = signer.sign(message if message is not None else pae(STATEMENT_TYPE, payload))
        return encode_signed(payload, STATEMENT_TYPE, signer.public_key().keyid, signature)

    def pack(self, out: Path, weights: bytes | None = None, **release: object) -> Path:
        """Pack and grant another bundle of this fleet."""
        model = out.with_suffix(".onnx")
        write_onnx(model, self.weights if weights is None else weights)
        facts = {"model_id": MODEL_ID, "release": "1.0.0"} | release
        pack_model(self.fleet, model, out, release=Release(**facts), wall_ns=NOW_NS)  # type: ignore[arg-type]
        if facts["model_id"] == MODEL_ID and "min_key_class" not in release and "confidentiality" not in release:
            grant(self.fleet, out, self.key.kid, wall_ns=NOW_NS)
        return out


def make_world(root: Path, **fleet: object) -> World:
    """Make a fleet with one enrolled device and one bundle, through the public functions."""
    facts = {"name": "test", "wall_ns": NOW_NS - 10**9, "device_state": "optional"} | fleet
    made = Fleet.create(root / "fleet", **facts)  # type: ignore[arg-type]
    trust = made.trust(NOW_NS)
    key = FileKeyProvider.generate(root / "device.pem")
    (root / "request.json").write_bytes(make_request(key, trust, device_name="cam-1", board="rpi5"))
    enroll(made, root / "request.json", confirm=lambda _: True, wall_ns=NOW_NS)
    weights = (MARKER * 3000)[: 4 * 14_000]
    write_onnx(root / "model.onnx", weights)
    pack_model(made, root / "model.onnx", root / "bundle", release=Release(MODEL_ID, "1.0.0"), wall_ns=NOW_NS, io=IO)
    grant(made, root / "bundle", "cam-1", wall_ns=NOW_NS)
    return World(root, made, trust, key, root / "bundle", weights)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A shared world; tests that write take `bundle_copy` or their own `tmp_path`."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def other_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Another fleet."""
    return make_world(tmp_path_factory.mktemp("other"))


@pytest.fixture
def bundle_copy(world: World, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may change."""
    return Path(shutil.copytree(world.bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def world_maker() -> object:
    """`make_world`, for fleets with other settings."""
    return make_world
