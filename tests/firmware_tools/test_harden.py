"""A classical fleet becomes hybrid and cannot go back: devices, records, bundles, lists, and every older folder."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeguard.bundle.model import open_model
from edgeguard.errors import EdgeGuardError, ProvisioningError, SignatureError, TrustError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import TrustStore
from firmware_tools.enroll import device_records, enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.harden import harden
from firmware_tools.pack import Release, pack_model
from firmware_tools.resign import resign
from firmware_tools.rotate import rotate

NOW_NS = 1_790_000_000_000_000_000
LATER_NS = NOW_NS + 60 * 10**9


@dataclass(frozen=True)
class Field:
    """A classical fleet, one device in the field with its state, one bundle that it runs."""

    root: Path
    fleet: Fleet
    key: FileKeyProvider
    state: DeviceState

    @property
    def trust(self) -> TrustStore:
        return self.fleet.trust(LATER_NS)

    def open(self, trust: TrustStore | None = None) -> None:
        open_model(
            self.root / "b",
            trust=trust or self.trust,
            key=self.key,
            expect_model="m",
            wall_ns=LATER_NS,
            state=self.state,
        ).close()


@pytest.fixture
def field(tmp_path) -> Field:
    fleet = Fleet.create(tmp_path / "fleet", name="t", wall_ns=NOW_NS, roles={"revocation": (3, 2)})
    trust = fleet.trust(NOW_NS)
    key = FileKeyProvider.generate(tmp_path / "d.pem")
    (tmp_path / "r.json").write_bytes(make_request(key, trust, device_name="cam", board="rpi5"))
    enroll(fleet, tmp_path / "r.json", confirm=lambda _: True, wall_ns=NOW_NS)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, [1, 1024])],
        [info("y", TensorProto.FLOAT, [1, 1024])],
        [numpy_helper.from_array(np.ones((1, 1024), np.float32), "w")],
    )
    model = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), model)
    pack_model(fleet, model, tmp_path / "b", release=Release("m", "1"), wall_ns=NOW_NS)
    grant(fleet, tmp_path / "b", "cam", wall_ns=NOW_NS)
    state = DeviceState.create(tmp_path / "state", key=key, trust=trust)
    return Field(tmp_path, fleet, key, state)


def test_a_classical_fleet_becomes_hybrid_and_its_devices_go_on(field):
    """Same fleet, same device, same wrap; everything is now signed twice."""
    field.open()
    before = field.trust
    made = harden(field.fleet, wall_ns=LATER_NS)
    after = field.trust
    assert (made.root_version, made.targets_version, made.devices) == (2, 2, 1)
    assert (after.fleet_id, after.policy.signatures) == (before.fleet_id, "hybrid-required")
    assert [(g.scheme, g.threshold, len(g.keys)) for g in after.groups["revocation"]] == [
        ("ecdsa-sha2-nistp256", 2, 3),
        ("ml-dsa-65/1", 2, 3),
    ]
    assert after.revocation is not None
    assert [record.device_name for record in device_records(field.fleet, after)] == ["cam"]
    with pytest.raises(SignatureError):
        field.open()
    resign(field.fleet, field.root / "b", wall_ns=LATER_NS)
    field.open()
    with pytest.raises(ProvisioningError) as error:
        harden(field.fleet, wall_ns=LATER_NS)
    assert error.value.code == "EG-P063"


def test_older_metadata_does_not_lower_the_policy(field):
    """The whole old folder, the chain cut short, the old targets: genuine, classical, and refused."""
    old = Path(shutil.copytree(field.fleet.trust_folder, field.root / "old"))
    harden(field.fleet, wall_ns=LATER_NS)
    resign(field.fleet, field.root / "b", wall_ns=LATER_NS)
    field.open()
    classical = TrustStore.load(old, LATER_NS)
    with pytest.raises(TrustError) as error:
        field.open(classical)
    assert error.value.code == "EG-T032"
    with pytest.raises(TrustError) as error:
        TrustStore.load(old, LATER_NS, require_hybrid=True)
    assert error.value.code == "EG-T006"
    cut = Path(shutil.copytree(field.fleet.trust_folder, field.root / "cut"))
    (cut / "2.root.json").unlink()
    mixed = Path(shutil.copytree(field.fleet.trust_folder, field.root / "mixed"))
    for name in ("targets.json", "policy.json"):
        shutil.copy(old / name, mixed / name)
    for folder in (cut, mixed):
        with pytest.raises(TrustError) as error:
            TrustStore.load(folder, LATER_NS)
        assert error.value.code in ("EG-T003", "EG-T006")


def test_no_configuration_lowers_what_is_signed(field):
    """The policy object in memory says classical: the groups, which come from the keys, still ask for both."""
    harden(field.fleet, wall_ns=LATER_NS)
    from msgspec.structs import replace

    lowered = dataclasses.replace(field.trust, policy=replace(field.trust.policy, signatures="classical"))
    with pytest.raises(SignatureError):
        field.open(lowered)


@pytest.mark.parametrize("missing", ["root-1", "targets-1", "enrol-1", "revocation"])
def test_a_fleet_that_lacks_a_key_is_not_made_half_hybrid(field, missing):
    """Nothing changes: no key, no metadata, no record."""
    for path in (field.fleet.folder / "keys").glob(f"{missing}*.pem"):
        if path.name != "enrol-agreement.pem" and "agreement" not in path.name:
            path.unlink()
    before = {p: p.read_bytes() for p in field.fleet.folder.rglob("*") if p.is_file()}
    with pytest.raises(ProvisioningError) as error:
        harden(field.fleet, wall_ns=LATER_NS)
    assert error.value.code == "EG-P005"
    assert before == {p: p.read_bytes() for p in field.fleet.folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("role", ["enrol", "revocation"])
def test_a_rotated_role_signs_again_what_it_vouches_for(field, hybrid, role):
    """Records and the list live on under the new keys; a device in the field opens its model."""
    if hybrid:
        harden(field.fleet, wall_ns=LATER_NS)
        resign(field.fleet, field.root / "b", wall_ns=LATER_NS)
    rotate(field.fleet, role, wall_ns=LATER_NS)
    assert field.trust.revocation is not None
    assert [record.device_name for record in device_records(field.fleet, field.trust)] == ["cam"]
    field.open()
    grant(field.fleet, field.root / "b", "cam", wall_ns=LATER_NS)
    field.open()


def test_a_device_record_signed_by_a_retired_key_is_refused(field):
    """What a thief of the old enrol key adds afterwards."""
    stolen = {p: p.read_bytes() for p in field.fleet.devices_folder.iterdir()}
    rotate(field.fleet, "enrol", wall_ns=LATER_NS)
    for path, raw in stolen.items():
        path.write_bytes(raw)
    with pytest.raises(EdgeGuardError) as error:
        list(device_records(field.fleet, field.trust))
    assert error.value.code == "EG-P014"


@pytest.mark.parametrize("step", ["copied", "half-written", "old-moved", "old-left"])
def test_a_rotation_that_the_power_interrupts_leaves_a_fleet_that_works(field, step):
    """At each step: the old trust or the new one, and the rotation can be done again."""
    folder, trust = field.fleet.folder, field.fleet.trust_folder
    if step == "old-left":
        shutil.copytree(trust, folder / ".trust-old")
    else:
        shutil.copytree(trust, folder / ".trust-new")
    if step == "half-written":
        (folder / ".trust-new" / "targets.json").write_bytes(b"")
    if step == "old-moved":
        trust.rename(folder / ".trust-old")
    fleet = Fleet.open(folder)
    before = fleet.trust(LATER_NS).targets_version
    rotate(fleet, "release", wall_ns=LATER_NS)
    assert fleet.trust(LATER_NS).targets_version == before + 1
    assert [p.name for p in folder.iterdir() if p.name.startswith(".trust")] == []
