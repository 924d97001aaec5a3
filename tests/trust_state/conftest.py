"""A fleet on a host and a device with its own trust folder and state, as they would be apart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeguard.bundle.model import open_model
from edgeguard.errors import SignatureError, TrustError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.provider import VerifiedStatement
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import TrustStore
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model
from firmware_tools.revocation_list import Entries
from firmware_tools.revoke import Revoked, revoke

NOW_NS = 1_790_000_000_000_000_000  # 2026-09-21
DAY_NS = 86_400 * 10**9
MODEL_ID = "road-objects"


def write_onnx(path: Path) -> Path:
    """Write the smallest model that has weights."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, [1, 8])],
        [info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(1, 8), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@dataclass(frozen=True)
class Device:
    """One device and the host that serves it. `trust_folder` and `state_folder` lie on the device."""

    root: Path
    fleet: Fleet
    key: FileKeyProvider
    name: str

    @property
    def trust_folder(self) -> Path:
        return self.root / f"{self.name}.trust"

    @property
    def state_folder(self) -> Path:
        return self.root / f"{self.name}.state"

    @property
    def trust(self) -> TrustStore:
        return TrustStore.load(self.trust_folder, 0)

    @property
    def state(self) -> DeviceState:
        return DeviceState.open(self.state_folder, key=self.key, fleet_id=self.fleet.fleet_id)

    def pack(self, release: str = "1", model_id: str = MODEL_ID, **facts: object) -> Path:
        """Pack on the host and grant to this device."""
        out = self.root / f"{model_id}-{release}.bundle"
        facts = {"model_id": model_id, "release": release} | facts
        pack_model(self.fleet, self.root / "m.onnx", out, release=Release(**facts), wall_ns=NOW_NS)  # type: ignore[arg-type]
        grant(self.fleet, out, self.key.kid, wall_ns=NOW_NS)
        return out

    def open(
        self, bundle: Path, wall_ns: int = NOW_NS, model_id: str = MODEL_ID, **changes: object
    ) -> VerifiedStatement:
        """Open a bundle as the device does, and close it again."""
        arguments = {"trust": self.trust, "key": self.key, "state": self.state, "expect_model": model_id} | changes
        with open_model(bundle, wall_ns=wall_ns, **arguments) as model:  # type: ignore[arg-type]
            return model.statement

    def install(self, bundle: Path, **how: object) -> VerifiedStatement:
        """Open and commit."""
        statement = self.open(bundle, **how)  # type: ignore[arg-type]
        self.state.commit(statement)
        return statement

    def refused(self, code: str, bundle: Path, **how: object) -> TrustError:
        """Open, expecting a refusal with this code."""
        with pytest.raises(TrustError) as error:
            self.open(bundle, **how)  # type: ignore[arg-type]
        assert error.value.code == code, error.value
        return error.value

    def refused_signature(self, bundle: Path) -> None:
        """Open, expecting that its signer counts no longer."""
        with pytest.raises(SignatureError) as error:
            self.open(bundle)
        assert error.value.code == "EG-S001", error.value

    def revoke(self, wall_ns: int = NOW_NS, **entries: object) -> Revoked:
        """Sign the next list on the host."""
        return revoke(self.fleet, Entries(**entries), wall_ns=wall_ns)  # type: ignore[arg-type]

    def bring_trust(self) -> None:
        """Carry the fleet's trust folder to the device, by hand."""
        shutil.rmtree(self.trust_folder)
        shutil.copytree(self.fleet.trust_folder, self.trust_folder)


def make_device(root: Path, name: str = "cam-1", fleet: Fleet | None = None, **facts: object) -> Device:
    """Make a fleet (or take one), enrol a device, and give it trust and state."""
    arguments = {"name": "test", "wall_ns": NOW_NS - 10**9} | facts
    fleet = fleet or Fleet.create(root / "fleet", **arguments)  # type: ignore[arg-type]
    if not (root / "m.onnx").exists():
        write_onnx(root / "m.onnx")
    key = FileKeyProvider.generate(root / f"{name}.pem")
    request = root / f"{name}.request"
    request.write_bytes(make_request(key, fleet.trust(NOW_NS), device_name=name, board="rpi5"))
    enroll(fleet, request, confirm=lambda _: True, wall_ns=NOW_NS)
    device = Device(root, fleet, key, name)
    shutil.copytree(fleet.trust_folder, device.trust_folder)
    DeviceState.create(device.state_folder, key=key, trust=device.trust)
    return device


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "site"
    root.mkdir()
    make_device(root)
    return root


@pytest.fixture
def device(template: Path, tmp_path: Path) -> Device:
    """A fresh copy of a fleet with one device, which a test may break."""
    root = Path(shutil.copytree(template, tmp_path / "site"))
    return Device(root, Fleet.open(root / "fleet"), FileKeyProvider(root / "cam-1.pem"), "cam-1")


@pytest.fixture(scope="session")
def device_maker() -> Callable[..., Device]:
    """`make_device`, for further devices and other fleets."""
    return make_device
