"""A fleet that publishes and a device that updates: the host's disk, the repository, and the device's disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeguard.bundle.model import VerifiedModel, open_model
from edgeguard.bundle.verify import verify_bundle
from edgeguard.clock import ManualClock
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.provider import VerifiedStatement
from edgeguard.trust.state import DeviceState
from edgeguard.trust.state_files import StateFiles
from edgeguard.trust.store import TrustStore
from edgeguard.update.client import Index, UpdateClient, current_trust_folder
from edgeguard.update.install import Installed, ModelInstaller
from edgeguard.update.slots import ModelSlots, Started
from edgeguard.update.source import FolderSource, Source
from edgeguard.update.store_files import FolderStore, StoreFiles
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model
from firmware_tools.publish import Published, publish
from firmware_tools.revocation_list import Entries
from firmware_tools.revoke import revoke

# Later than any machine that runs the tests: python-tuf reads the machine's clock, and must never be what refuses.
NOW_NS = 4_000_000_000 * 10**9  # 2096
DAY_NS = 86_400 * 10**9
MODEL_ID = "road-objects"


def write_onnx(path: Path, floats: int = 8) -> Path:
    """Write a model with this many weights."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, [1, floats])],
        [info("y", TensorProto.FLOAT, [1, floats])],
        [numpy_helper.from_array(np.arange(floats, dtype=np.float32).reshape(1, floats), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@dataclass
class Site:
    """One fleet, its repository, one device. `now_ns` is everybody's clock."""

    root: Path
    now_ns: int = NOW_NS
    files: StateFiles | None = None
    store: StoreFiles | None = None
    key: FileKeyProvider = field(init=False)

    def __post_init__(self) -> None:
        self.key = FileKeyProvider(self.root / "device.pem")
        self.store = self.store or FolderStore(self.root / "store")

    @property
    def fleet(self) -> Fleet:
        return Fleet.open(self.root / "fleet")

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    @property
    def pinned(self) -> Path:
        return self.root / "pinned"

    @property
    def clock(self) -> ManualClock:
        return ManualClock(wall_start_ns=self.now_ns)

    @property
    def state(self) -> DeviceState:
        folder = self.files or (self.root / "state")
        return DeviceState.open(folder, key=self.key, fleet_id=self.fleet.fleet_id)

    @property
    def slots(self) -> ModelSlots:
        return ModelSlots(self.store, self.state, MODEL_ID)

    @property
    def trust(self) -> TrustStore:
        return TrustStore.load(current_trust_folder(self.store, self.pinned, self.fleet.fleet_id), self.now_ns)

    # host

    def pack(self, release: str, *, floats: int = 8, grant_it: bool = True, **facts: object) -> Path:
        model = self.root / f"m{floats}.onnx"
        if not model.exists():
            write_onnx(model, floats)
        out = self.root / f"{release}.bundle"
        facts = {"model_id": MODEL_ID, "release": release} | facts
        pack_model(self.fleet, model, out, release=Release(**facts), wall_ns=self.now_ns)  # type: ignore[arg-type]
        if grant_it:
            grant(self.fleet, out, self.key.kid, wall_ns=self.now_ns)
        return out

    def publish(self, *bundles: Path, **how: object) -> Published:
        return publish(self.fleet, self.repository, bundles, wall_ns=self.now_ns, **how)  # type: ignore[arg-type]

    def revoke(self, **entries: object) -> None:
        revoke(self.fleet, Entries(**entries), wall_ns=self.now_ns)  # type: ignore[arg-type]

    # device

    def source(self) -> Source:
        return FolderSource(self.repository)

    def client(self, source: Source | None = None) -> UpdateClient:
        return UpdateClient(self.store, source or self.source(), pinned=self.pinned, state=self.state, clock=self.clock)

    def refresh(self, source: Source | None = None) -> Index:
        return self.client(source).refresh()

    def install(self, source: Source | None = None, **how: object) -> Installed:
        index = self.refresh(source)
        installer = ModelInstaller(
            self.store, source or self.source(), index, key=self.key, state=self.state, clock=self.clock
        )
        return installer.install(MODEL_ID, **how)  # type: ignore[arg-type]

    def open(self, folder: Path) -> VerifiedModel:
        return open_model(
            folder, trust=self.trust, key=self.key, expect_model=MODEL_ID, wall_ns=self.now_ns, state=self.state
        )

    def verify(self, folder: Path) -> VerifiedStatement:
        return verify_bundle(folder, self.trust, expect_model=MODEL_ID, wall_ns=self.now_ns, state=self.state).statement

    def start(self) -> Started[VerifiedStatement]:
        """Start as the runtime does; the model is closed again at once."""

        def opening(folder: Path) -> VerifiedStatement:
            with self.open(folder) as model:
                return model.statement

        return self.slots.start(opening)

    def upgrade(self, source: Source | None = None) -> VerifiedStatement:
        """Install, start the trial, and mark it good."""
        self.install(source)
        started = self.start()
        assert started.on_trial
        self.slots.mark_good(started.value)
        return started.value


def make_site(root: Path, **facts: object) -> Site:
    """Make fleet, device and an empty repository."""
    root.mkdir(parents=True, exist_ok=True)
    arguments = {"name": "test", "wall_ns": NOW_NS - 10**9} | facts
    fleet = Fleet.create(root / "fleet", **arguments)  # type: ignore[arg-type]
    key = FileKeyProvider.generate(root / "device.pem")
    (root / "request").write_bytes(make_request(key, fleet.trust(NOW_NS), device_name="cam-1", board="rpi5"))
    enroll(fleet, root / "request", confirm=lambda _: True, wall_ns=NOW_NS)
    shutil.copytree(fleet.trust_folder, root / "pinned")
    DeviceState.create(root / "state", key=key, trust=TrustStore.load(root / "pinned", NOW_NS))
    return Site(root)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet with release 1 published, and a device that has nothing."""
    site = make_site(tmp_path_factory.mktemp("template") / "site")
    site.publish(site.pack("1"))
    return site.root


@pytest.fixture
def site(template: Path, tmp_path: Path) -> Site:
    """A copy that a test may break."""
    return Site(Path(shutil.copytree(template, tmp_path / "site")))


@pytest.fixture(scope="session")
def site_maker() -> Callable[..., Site]:
    """`make_site`, for fleets with other settings."""
    return make_site
