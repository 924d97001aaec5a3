"""The host side: fleets, enrolment, packing and granting, and what an attacker on the host's disk can try."""

from __future__ import annotations

import base64
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeguard.bundle.dsse import pae
from edgeguard.bundle.model import open_model
from edgeguard.bundle.signature import encode_signed
from edgeguard.bundle.verify import verify_bundle
from edgeguard.errors import EdgeGuardError, ModelStructureError, ProvisioningError, TrustError
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import TrustStore
from edgeguard.trust.strict_json import canonical
from firmware_tools.enroll import DEVICE_TYPE, PendingDevice, enroll, find_device, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.io_toml import read_model_io
from firmware_tools.pack import Release, pack_model
from firmware_tools.status import fleet_status

NOW_NS = 1_790_000_000_000_000_000
WEIGHTS = b"PLAIN-WEIGHTS-OF-A-MODEL" * 600


def write_onnx(path: Path) -> Path:
    values = np.frombuffer(WEIGHTS, dtype=np.float32).reshape(1, -1)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, [1, values.shape[1]])],
        [info("y", TensorProto.FLOAT, [1, values.shape[1]])],
        [numpy_helper.from_array(values, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@dataclass(frozen=True)
class Site:
    """A provisioning host's disk: fleet, model, and a device's key and request."""

    root: Path
    fleet: Fleet
    model: Path
    key: FileKeyProvider
    request: Path

    @property
    def trust(self) -> TrustStore:
        return self.fleet.trust(NOW_NS)

    def enroll(self) -> None:
        enroll(self.fleet, self.request, confirm=lambda _: True, wall_ns=NOW_NS)

    def pack(self, name: str = "b", **facts: object) -> Path:
        release = Release(**({"model_id": "m", "release": "1"} | facts))  # type: ignore[arg-type]
        return pack_model(self.fleet, self.model, self.root / name, release=release, wall_ns=NOW_NS).path


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("template")
    fleet = Fleet.create(root / "fleet", name="test", wall_ns=NOW_NS, device_state="optional")
    key = FileKeyProvider.generate(root / "device.pem")
    request = make_request(key, fleet.trust(NOW_NS), device_name="cam-1", board="rpi5")
    (root / "request.json").write_bytes(request)
    write_onnx(root / "model.onnx")
    return root


@pytest.fixture
def site(template, tmp_path) -> Site:
    root = Path(shutil.copytree(template, tmp_path / "site"))
    fleet = Fleet.open(root / "fleet")
    return Site(root, fleet, root / "model.onnx", FileKeyProvider(root / "device.pem"), root / "request.json")


def test_from_nothing_to_an_open_model(site):
    """init, enroll, pack, grant, open: the weights come out at the device and nowhere else."""
    site.enroll()
    bundle = site.pack()
    grant(site.fleet, bundle, "cam-1", wall_ns=NOW_NS)
    trust = TrustStore.load(site.fleet.trust_folder, NOW_NS)
    with open_model(bundle, trust=trust, key=site.key, expect_model="m", wall_ns=NOW_NS) as model:
        assert bytes(model.weights["weights.bin"]) == WEIGHTS
    status = fleet_status(site.fleet, [bundle], wall_ns=NOW_NS)
    assert [d.name for d in status.devices] == ["cam-1"]
    assert status.bundles[0].granted == ("cam-1",)


def test_every_private_file_of_a_fleet_is_closed_to_others(site):
    """Keys 0600, folders 0700."""
    for path in (site.fleet.folder / "keys").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert site.fleet.folder.stat().st_mode & 0o077 == 0


def test_init_never_touches_an_existing_folder(site, tmp_path):
    """Neither a fleet nor anything else."""
    before = {p: p.read_bytes() for p in site.fleet.folder.rglob("*") if p.is_file()}
    (tmp_path / "empty").mkdir()
    for folder in (site.fleet.folder, tmp_path / "empty"):
        with pytest.raises(ProvisioningError) as error:
            Fleet.create(folder, name="again", wall_ns=NOW_NS)
        assert error.value.code == "EG-P001"
    assert before == {p: p.read_bytes() for p in site.fleet.folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "options",
    [
        {"name": "a/b"},
        {"name": ""},
        {"channels": ()},
        {"offline_threshold": 2},
        {"release_keys": 0},
        {"offline_keys": 17},
    ],
)
def test_an_init_that_fails_leaves_nothing(tmp_path, options):
    """No half-made fleet, and a clear error."""
    with pytest.raises(ProvisioningError) as error:
        Fleet.create(tmp_path / "fleet", **({"name": "x", "wall_ns": NOW_NS} | options))
    assert error.value.code == "EG-P003"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"schema":"edgeguard/fleet/v9"}'])
def test_a_folder_that_is_no_fleet_is_refused(tmp_path, content):
    """With the command that makes one."""
    if content is not None:
        (tmp_path / "fleet.json").write_bytes(content)
    with pytest.raises(ProvisioningError, match="not a fleet folder") as error:
        Fleet.open(tmp_path)
    assert "edgeguard-provision init" in error.value.hint


def test_the_fingerprint_is_shown_before_anything_is_signed(site):
    """And a person who says no ends it."""
    shown: list[PendingDevice] = []

    def refuse(pending: PendingDevice) -> bool:
        shown.append(pending)
        return False

    with pytest.raises(ProvisioningError) as error:
        enroll(site.fleet, site.request, confirm=refuse, wall_ns=NOW_NS)
    assert error.value.code == "EG-P011"
    assert shown[0].fingerprint.replace(" ", "")[:32] == site.key.kid
    assert list(site.fleet.devices_folder.iterdir()) == []


@pytest.mark.parametrize("field", ["public_key", "device_name", "board", "key_class", "fleet_id", "proof"])
def test_a_request_that_was_altered_on_the_way_is_refused(site, field):
    """An attacker's key, another board, a better key class: the proof covers all of it."""
    request = json.loads(site.request.read_bytes())
    other = FileKeyProvider.generate(site.root / "attacker.pem")
    values = {
        "public_key": other.public_key().hex(),
        "device_name": "cam-2",
        "board": "orin-nano",
        "key_class": "hardware",
        "fleet_id": "00" * 32,
    }
    if field == "proof":
        request["proof"] = "00" * 32
    else:
        request["request"][field] = values[field]
    site.request.write_bytes(canonical(request))
    with pytest.raises(ProvisioningError) as error:
        site.enroll()
    assert error.value.code == "EG-P010"
    assert list(site.fleet.devices_folder.iterdir()) == []


def test_a_public_key_without_its_private_part_cannot_be_enrolled(site):
    """Somebody else's key in one's own request: the proof needs the private key."""
    attacker = FileKeyProvider.generate(site.root / "attacker.pem")

    class Impostor:
        key_class, suite, kid = "file", attacker.suite, site.key.kid
        public_key = staticmethod(site.key.public_key)
        prove_possession = staticmethod(attacker.prove_possession)

    site.request.write_bytes(make_request(Impostor(), site.trust, device_name="cam-9", board="x"))  # type: ignore[arg-type]
    with pytest.raises(ProvisioningError) as error:
        site.enroll()
    assert error.value.code == "EG-P010"


@pytest.mark.parametrize("key", ["", "00", "30" * 44, "302a300506032b656e032100" + "00" * 32])
def test_a_request_with_a_hostile_key_is_refused(site, key):
    """No key, junk, and the all-zero point."""
    request = json.loads(site.request.read_bytes())
    request["request"]["public_key"] = key
    site.request.write_bytes(canonical(request))
    with pytest.raises(EdgeGuardError):
        site.enroll()


@given(content=st.binary(max_size=200), at=st.integers(0, 300))
def test_a_damaged_request_never_raises_a_foreign_error(template, tmp_path_factory, content, at):
    """Any file in place of a request."""
    raw = (template / "request.json").read_bytes()
    path = tmp_path_factory.mktemp("r") / "request.json"
    path.write_bytes(raw[:at] + content)
    with pytest.raises(ProvisioningError):
        enroll(Fleet.open(template / "fleet"), path, confirm=lambda _: True, wall_ns=NOW_NS)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "missing"])
def test_what_is_no_regular_file_is_no_request(site, kind):
    """A stick that somebody hands over: nothing blocks, no link leads to another file of the host."""
    site.request.rename(site.root / "real")
    if kind == "pipe":
        os.mkfifo(site.request)
    elif kind == "link":
        site.request.symlink_to(site.root / "real")
    elif kind == "folder":
        site.request.mkdir()
    with pytest.raises(ProvisioningError) as error:
        site.enroll()
    assert error.value.code == "EG-P010"


def test_a_replayed_request_and_a_second_device_of_the_same_name_are_refused(site):
    """One name, one key."""
    site.enroll()
    with pytest.raises(ProvisioningError) as error:
        site.enroll()
    assert error.value.code == "EG-P012"
    other = FileKeyProvider.generate(site.root / "other.pem")
    site.request.write_bytes(make_request(other, site.trust, device_name="cam-1", board="rpi5"))
    with pytest.raises(ProvisioningError) as error:
        site.enroll()
    assert error.value.code == "EG-P012"


@pytest.mark.parametrize("attack", ["edit-key", "release-signed", "rename", "junk", "link-to-nothing"])
def test_a_device_record_that_the_enrol_role_did_not_sign_gets_no_grant(site, attack):
    """Whoever can write the folder cannot add a device."""
    site.enroll()
    bundle = site.pack()
    record = site.fleet.devices_folder / f"{site.key.kid}.json"
    attacker = FileKeyProvider.generate(site.root / "attacker.pem")
    envelope = json.loads(record.read_bytes())
    payload = json.loads(base64.b64decode(envelope["dsseEnvelope"]["payload"]))
    forged = canonical(payload | {"public_key": attacker.public_key().hex(), "kid": attacker.kid})
    target = site.fleet.devices_folder / f"{attacker.kid}.json"
    if attack == "edit-key":
        envelope["dsseEnvelope"]["payload"] = base64.b64encode(forged).decode()
        target.write_bytes(canonical(envelope))
    elif attack == "release-signed":
        signer = site.fleet.signers("release", 1)[0]
        signature = signer.sign(pae(DEVICE_TYPE, forged))
        target.write_bytes(encode_signed(forged, DEVICE_TYPE, signer.public_key().keyid, signature))
    elif attack == "rename":
        record.rename(target)
    elif attack == "junk":
        target.write_bytes(b"junk")
    else:
        target.symlink_to(site.root / "nowhere")
    with pytest.raises(ProvisioningError) as error:
        grant(site.fleet, bundle, attacker.kid, wall_ns=NOW_NS)
    assert error.value.code == "EG-P014"
    assert not (bundle / "recipients").exists()


def test_an_unknown_device_gets_no_grant(site):
    """With the command that enrols it."""
    bundle = site.pack()
    with pytest.raises(ProvisioningError) as error:
        grant(site.fleet, bundle, "cam-1", wall_ns=NOW_NS)
    assert error.value.code == "EG-P013"
    assert "enroll" in error.value.hint


@pytest.mark.parametrize(
    "facts", [{"boards": ("orin-nano",)}, {"min_key_class": "hardware"}, {"confidentiality": "pq-required"}]
)
def test_a_device_that_the_statement_excludes_gets_no_grant(site, facts):
    """Board, key class, and post-quantum secrecy are signed."""
    site.enroll()
    bundle = site.pack(**facts)
    with pytest.raises(ProvisioningError) as error:
        grant(site.fleet, bundle, "cam-1", wall_ns=NOW_NS)
    assert error.value.code == "EG-P022"


def test_a_bundle_of_another_fleet_cannot_be_granted(site, tmp_path):
    """The bundle is verified first, and the key is not here."""
    other = Fleet.create(tmp_path / "other", name="other", wall_ns=NOW_NS)
    bundle = pack_model(other, site.model, tmp_path / "b", release=Release("m", "1"), wall_ns=NOW_NS).path
    site.enroll()
    with pytest.raises(EdgeGuardError):
        grant(site.fleet, bundle, "cam-1", wall_ns=NOW_NS)


def test_a_bundle_whose_key_is_not_here_cannot_be_granted(site):
    """The fleet's wrap is the only place of the CEK."""
    site.enroll()
    bundle = site.pack()
    for wrap in (site.fleet.folder / "wraps").iterdir():
        wrap.unlink()
    with pytest.raises(ProvisioningError) as error:
        grant(site.fleet, bundle, "cam-1", wall_ns=NOW_NS)
    assert error.value.code == "EG-P023"


def content_key(site: Site, bundle: Path) -> bytes:
    statement = verify_bundle(bundle, site.trust, wall_ns=NOW_NS).statement
    wrap = (bundle / "recipients" / f"{site.key.kid}.hpke").read_bytes()
    with site.key.open_wrap(statement, wrap) as cek:
        return bytes(cek.view)


def test_the_content_key_rests_nowhere_in_the_clear(site):
    """Neither raw nor as hex or base64, in no file of fleet and bundle; nor do the weights."""
    site.enroll()
    bundle = site.pack()
    grant(site.fleet, bundle, "cam-1", wall_ns=NOW_NS)
    cek = content_key(site, bundle)
    forms = (cek, cek.hex().encode(), base64.b64encode(cek).rstrip(b"="), base64.urlsafe_b64encode(cek).rstrip(b"="))
    for folder in (site.fleet.folder, bundle):
        for path in folder.rglob("*"):
            if path.is_file():
                raw = path.read_bytes()
                assert not any(form in raw for form in forms), path
                assert b"PLAIN-WEIGHTS" not in raw, path


def test_packing_twice_shares_nothing(site):
    """New key, new bundle id, new salt: a removed device keeps nothing of use."""
    site.enroll()
    bundles = [site.pack("b1"), site.pack("b2")]
    for bundle in bundles:
        grant(site.fleet, bundle, "cam-1", wall_ns=NOW_NS)
    assert content_key(site, bundles[0]) != content_key(site, bundles[1])
    one, two = (verify_bundle(b, site.trust, wall_ns=NOW_NS) for b in bundles)
    assert one.statement.bundle_id != two.statement.bundle_id
    assert one.manifest.payloads[0].salt != two.manifest.payloads[0].salt


def test_no_digest_of_the_plaintext_is_published(site):
    """A guess at the weights cannot be confirmed from the bundle."""
    import hashlib

    bundle = site.pack()
    digest = hashlib.sha256(WEIGHTS)
    for path in bundle.rglob("*"):
        if path.is_file():
            assert digest.hexdigest().encode() not in path.read_bytes()
            assert digest.digest() not in path.read_bytes()


def test_granting_again_replaces_the_wrap_and_keeps_the_rest(site):
    """Idempotent for the device, fresh on the wire."""
    site.enroll()
    bundle = site.pack()
    first = grant(site.fleet, bundle, "cam-1", wall_ns=NOW_NS).read_bytes()
    second = grant(site.fleet, bundle, site.key.kid, wall_ns=NOW_NS).read_bytes()
    assert first != second
    assert len(list((bundle / "recipients").iterdir())) == 1
    open_model(bundle, trust=site.trust, key=site.key, expect_model="m", wall_ns=NOW_NS).close()


def test_a_pack_that_is_interrupted_leaves_no_bundle(site):
    """It appears whole or not at all."""

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_model(
            site.fleet, site.model, site.root / "b", release=Release("m", "1"), wall_ns=NOW_NS, progress=interrupt
        )
    assert [p.name for p in site.root.iterdir() if "b" in p.name.split(".")] == []
    assert not any(p.name.startswith(".") for p in site.root.iterdir())


@pytest.mark.parametrize(
    "facts",
    [
        {"model_id": "a/b"},
        {"release": ""},
        {"counter": (0, -1)},
        {"counter": (0, 2**63)},
        {"boards": ("a b",)},
        {"min_runtime": "new"},
        {"expires_ns": 0},
    ],
)
def test_a_release_that_cannot_be_said_is_refused(site, facts):
    """Before anything is written under the final name."""
    with pytest.raises(ProvisioningError) as error:
        site.pack(**facts)
    assert error.value.code == "EG-P003"
    assert not (site.root / "b").exists()


def test_a_release_that_devices_would_refuse_is_not_made(site):
    """The packer verifies its own work as a device would: an unknown channel is found here."""
    with pytest.raises(TrustError):
        site.pack(channel="debug")
    assert not (site.root / "b").exists()


def test_pack_never_overwrites(site):
    """An existing output is kept."""
    site.pack()
    with pytest.raises(ProvisioningError) as error:
        site.pack()
    assert error.value.code == "EG-P020"


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08\x3a\x02\x0a\x00"])
def test_what_is_no_model_is_not_packed(site, content):
    """The structural gate comes before encryption."""
    site.model.write_bytes(content)
    with pytest.raises((ModelStructureError, ProvisioningError)):
        site.pack()
    assert not (site.root / "b").exists()


def test_missing_release_keys_are_named(site):
    """Offline keys are brought for as long as it takes."""
    (site.fleet.folder / "keys" / "release-1.pem").unlink()
    with pytest.raises(ProvisioningError) as error:
        site.pack()
    assert error.value.code == "EG-P005"


def test_an_expired_fleet_signs_and_grants_nothing(site):
    """The host obeys the same dates as the devices."""
    with pytest.raises(TrustError):
        pack_model(
            site.fleet,
            site.model,
            site.root / "b",
            release=Release("m", "1"),
            wall_ns=NOW_NS + 6 * 365 * 86_400 * 10**9,
        )


def test_devices_are_found_by_name_and_by_key_id(site):
    """Both lead to the one signed record."""
    site.enroll()
    assert find_device(site.fleet, site.trust, "cam-1") == find_device(site.fleet, site.trust, site.key.kid)


IO = """
[input]
name = "x"
layout = "NCHW"
size_px = [320, 160]
color = "RGB"
scale = 0.0039
mean = [0, 0, 0]
std = [1, 1, 1]
resize = "letterbox"
[decoder]
kind = "grid-detector/v1"
labels = ["car"]
stride_px = 8
score_threshold = 0.5
iou_threshold = 0.5
"""


def test_the_io_file_becomes_part_of_what_is_signed(site):
    """What runs is what was evaluated."""
    (site.root / "io.toml").write_text(IO)
    io = read_model_io(site.root / "io.toml")
    packed = pack_model(site.fleet, site.model, site.root / "b", release=Release("m", "1"), wall_ns=NOW_NS, io=io)
    assert verify_bundle(packed.path, site.trust, wall_ns=NOW_NS).manifest.io == io


@pytest.mark.parametrize(
    ("old", "new"),
    [("NCHW", "NHCW"), ("[1, 1, 1]", "[1, 0, 1]"), ("320", "0"), ("0.5", "1.5"), ("scale", "scael"), ("[input]", "[")],
)
def test_an_io_file_with_a_mistake_is_refused(tmp_path, old, new):
    """Typos do not become silent defaults."""
    (tmp_path / "io.toml").write_text(IO.replace(old, new, 1))
    with pytest.raises(ProvisioningError) as error:
        read_model_io(tmp_path / "io.toml")
    assert error.value.code == "EG-P021"
