"""A hybrid fleet from end to end: signatures that cannot be stripped, keys that prove themselves, the drill."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import shutil
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeguard.bundle.dsse import STATEMENT_TYPE, pae
from edgeguard.bundle.model import open_model
from edgeguard.bundle.signature import encode_signed
from edgeguard.bundle.verify import verify_bundle
from edgeguard.errors import EdgeGuardError, KeyUnavailableError, ProvisioningError, SignatureError
from edgeguard.harden.memory import SecretBuffer
from edgeguard.keys.context import SUITE_HYBRID, SUITE_P256, SUITE_X25519, SUITES
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.hpke_provider import challenge_answer
from edgeguard.trust.store import TrustStore
from edgeguard.trust.strict_json import canonical
from firmware_tools.enroll import (
    DEVICE_TYPE,
    answer_challenge,
    device_records,
    enroll,
    make_challenge,
    make_request,
    read_record,
)
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant, grant_many, seal_cek
from firmware_tools.pack import Release, pack_model
from firmware_tools.resign import resign
from firmware_tools.rotate import rotate
from firmware_tools.sign import add_signature
from firmware_tools.signer import FileSigner

NOW_NS = 1_790_000_000_000_000_000
LATER_NS = NOW_NS + 10**9
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
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@dataclass(frozen=True)
class Site:
    """A hybrid fleet with one device of each suite, named after it, and a bundle granted to all three."""

    root: Path
    fleet: Fleet

    @property
    def trust(self) -> TrustStore:
        return self.fleet.trust(LATER_NS)

    @property
    def bundle(self) -> Path:
        return self.root / "bundle"

    def key(self, suite: str) -> FileKeyProvider:
        return FileKeyProvider(self.root / f"{suite.split('/')[1]}.pem")

    def open(self, suite: str = SUITE_HYBRID, bundle: Path | None = None) -> bytes:
        with open_model(
            bundle or self.bundle, trust=self.trust, key=self.key(suite), expect_model="m", wall_ns=LATER_NS
        ) as model:
            return b"".join(bytes(blob) for blob in model.weights.values())

    def pack(self, name: str, **facts: object) -> Path:
        release = Release(**({"model_id": "m", "release": "1"} | facts))  # type: ignore[arg-type]
        return pack_model(
            self.fleet, self.root / "model.onnx", self.root / name, release=release, wall_ns=LATER_NS
        ).path


def enrol_one(fleet: Fleet, folder: Path, suite: str, name: str) -> FileKeyProvider:
    """Make a key and enrol it, answering the challenge where one is asked."""
    trust = fleet.trust(NOW_NS)
    key = FileKeyProvider.generate(folder / f"{name}.pem", suite=suite)
    request = folder / f"{name}.request.json"
    request.write_bytes(make_request(key, trust, device_name=name, board="rpi5"))
    answer = answer_challenge(key, trust, make_challenge(fleet, request)) if suite == SUITE_HYBRID else None
    enroll(fleet, request, confirm=lambda _: True, wall_ns=NOW_NS, answer=answer)
    return key


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("template")
    fleet = Fleet.create(
        root / "fleet", name="t", wall_ns=NOW_NS, signatures="hybrid-required", device_state="optional"
    )
    for suite in SUITES:
        enrol_one(fleet, root, suite, suite.split("/")[1])
    write_onnx(root / "model.onnx")
    release = Release("m", "1")
    pack_model(fleet, root / "model.onnx", root / "bundle", release=release, wall_ns=LATER_NS)
    grant_many(fleet, root / "bundle", None, wall_ns=LATER_NS)
    return root


@pytest.fixture
def site(template, tmp_path) -> Site:
    root = Path(shutil.copytree(template, tmp_path / "site"))
    return Site(root, Fleet.open(root / "fleet"))


def further(bundle: Path) -> Path:
    return next((bundle / "signatures").glob("*.sig"))


def refused(site: Site, code: str, kind: type[EdgeGuardError] = SignatureError) -> None:
    with pytest.raises(kind) as error:
        site.open()
    assert error.value.code == code


@pytest.mark.parametrize("suite", SUITES)
def test_a_hybrid_bundle_opens_on_devices_of_every_suite(site, suite):
    """Signed by both families, wrapped for X25519, P-256 and ML-KEM-768 with X25519."""
    assert site.open(suite) == WEIGHTS
    wrap = site.bundle / "recipients" / f"{site.key(suite).kid}.hpke"
    assert wrap.stat().st_size == {SUITE_X25519: 80, SUITE_P256: 113, SUITE_HYBRID: 1168}[suite]


def test_the_public_tool_verifies_a_hybrid_bundle(site):
    """model.sig stays P-256; the ML-DSA signature lies where that tool does not look."""
    arguments = ["verify", "key", str(site.bundle), "--signature", str(site.bundle / "model.sig")]
    public = str(site.fleet.folder / "public" / "release-1.pem")
    done = subprocess.run(
        [sys.executable, "-m", "model_signing", *arguments, "--public_key", public], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_stripped_ml_dsa_signature_is_refused(site):
    """What remains verifies under the public tool, and not on a device."""
    further(site.bundle).unlink()
    refused(site, "EG-S003")


def test_signatures_of_two_releases_do_not_add_up(site):
    """Signer one over A, signer two over B."""
    other = site.pack("other", release="2")
    shutil.copy(further(other), further(site.bundle))
    refused(site, "EG-S003")


def test_the_ml_dsa_signature_cannot_stand_in_for_model_sig(site):
    """Alone, or with the classical one moved aside: model.sig is by a P-256 key."""
    first, second = site.bundle / "model.sig", further(site.bundle)
    classical = json.loads(first.read_bytes())["verificationMaterial"]["publicKey"]["hint"]
    raw = first.read_bytes()
    first.write_bytes(second.read_bytes())
    refused(site, "EG-S001")
    (site.bundle / "signatures" / f"{classical}.sig").write_bytes(raw)
    refused(site, "EG-S001")


@pytest.mark.parametrize("damage", ["flip", "empty", "classical-bytes", "renamed-key"])
def test_a_damaged_ml_dsa_signature_is_refused(site, damage):
    """Present is not correct."""
    path = further(site.bundle)
    envelope = json.loads(path.read_bytes())
    signature = envelope["dsseEnvelope"]["signatures"][0]
    raw = bytearray(base64.b64decode(signature["sig"]))
    if damage == "flip":
        raw[1000] ^= 1
    elif damage == "classical-bytes":
        own = json.loads((site.bundle / "model.sig").read_bytes())
        raw = bytearray(base64.b64decode(own["dsseEnvelope"]["signatures"][0]["sig"]))
    signature["sig"] = "" if damage == "empty" else base64.b64encode(raw).decode()
    if damage == "renamed-key":
        envelope["verificationMaterial"]["publicKey"]["hint"] = "00" * 32
    path.write_bytes(canonical(envelope))
    with pytest.raises(EdgeGuardError):
        site.open()


def test_two_classical_keys_are_not_two_families(site, tmp_path):
    """A second P-256 signature under the name of the ML-DSA key, by a genuine release key."""
    fleet = Fleet.create(
        tmp_path / "two", name="t", wall_ns=NOW_NS, signatures="hybrid-required", release_keys=2, release_threshold=1
    )
    bundle = pack_model(
        fleet, site.root / "model.onnx", tmp_path / "b", release=Release("m", "1"), wall_ns=LATER_NS
    ).path
    verify_bundle(bundle, fleet.trust(LATER_NS), wall_ns=LATER_NS)
    payload = base64.b64decode(json.loads((bundle / "model.sig").read_bytes())["dsseEnvelope"]["payload"])
    second = fleet.signers("release", 2)[1]
    keyid = second.public_key().keyid
    forged = encode_signed(payload, STATEMENT_TYPE, keyid, second.sign(pae(STATEMENT_TYPE, payload)))
    pq = further(bundle)
    for name in (pq.name, f"{keyid}.sig"):
        pq.unlink(missing_ok=True)
        (bundle / "signatures" / name).write_bytes(forged)
        with pytest.raises(SignatureError):
            verify_bundle(bundle, fleet.trust(LATER_NS), wall_ns=LATER_NS)
        (bundle / "signatures" / name).unlink()


def test_the_drill_rotate_sign_again_keeps_identity_wraps_and_devices(site):
    """Both families rotated, the same bytes signed again: what was granted still opens, old keys do not count."""
    before = verify_bundle(site.bundle, site.trust, wall_ns=LATER_NS).statement
    old = {p: p.read_bytes() for p in (site.bundle / "model.sig", further(site.bundle))}
    wraps = {p.name: p.read_bytes() for p in (site.bundle / "recipients").iterdir()}
    rotate(site.fleet, "release", wall_ns=LATER_NS)
    rotate(site.fleet, "release-pq", wall_ns=LATER_NS)
    refused(site, "EG-S001")
    assert resign(site.fleet, site.bundle, wall_ns=LATER_NS) == before.identity.hex()
    after = verify_bundle(site.bundle, site.trust, wall_ns=LATER_NS).statement
    assert after.identity == before.identity
    assert not set(after.signers) & set(before.signers)
    assert wraps == {p.name: p.read_bytes() for p in (site.bundle / "recipients").iterdir()}
    assert site.open() == WEIGHTS
    for path, raw in old.items():
        path.write_bytes(raw)
    refused(site, "EG-S001")


def test_a_second_person_signs_what_the_first_packed(site, tmp_path):
    """Partial pack, parsed statement shown, same bytes, then accepted; in between neither opened nor granted."""
    away = tmp_path / "release-pq-1.pem"
    (site.fleet.folder / "keys" / "release-pq-1.pem").rename(away)
    with pytest.raises(ProvisioningError) as error:
        site.pack("whole")
    assert error.value.code == "EG-P005"
    release = Release("m", "3")
    packed = pack_model(
        site.fleet, site.root / "model.onnx", site.root / "part", release=release, wall_ns=LATER_NS, partial=True
    )
    assert [(m.role, m.count) for m in packed.missing] == [("release-pq", 1)]
    with pytest.raises(SignatureError):
        grant(site.fleet, packed.path, "x25519", wall_ns=LATER_NS)
    shown = []
    signer = FileSigner(away)
    with pytest.raises(ProvisioningError) as error:
        add_signature(packed.path, site.trust, signer, confirm=lambda s: bool(shown.append(s)), wall_ns=LATER_NS)
    assert error.value.code == "EG-P061"
    assert not list((packed.path / "signatures").glob("*.sig"))
    signed = add_signature(packed.path, site.trust, signer, confirm=lambda _: True, wall_ns=LATER_NS)
    assert shown[0].release == "3"
    assert (signed.identity, signed.missing) == (packed.identity, ())
    grant(site.fleet, packed.path, "x25519", wall_ns=LATER_NS)
    assert site.open(SUITE_X25519, packed.path) == WEIGHTS


@pytest.mark.parametrize("role", ["root", "targets", "enrol", "enrol-pq", "revocation"])
def test_a_key_of_another_role_adds_no_signature(site, role):
    """Refused before anything is shown or signed."""
    with pytest.raises(ProvisioningError) as error:
        add_signature(site.bundle, site.trust, site.fleet.signers(role, 1)[0], confirm=lambda _: True, wall_ns=LATER_NS)
    assert error.value.code == "EG-P060"


def test_nobody_signs_a_bundle_whose_content_does_not_match(site):
    """A payload changed after packing: the second signer finds it."""
    payload = site.bundle / "payload" / "000.egc"
    raw = bytearray(payload.read_bytes())
    raw[-1] ^= 1
    payload.write_bytes(raw)
    signer = site.fleet.signers("release-pq", 1)[0]
    with pytest.raises(SignatureError):
        add_signature(site.bundle, site.trust, signer, confirm=lambda _: True, wall_ns=LATER_NS)


# Enrolment


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("field", ["public_key", "device_name", "board", "key_class", "suite", "proof"])
def test_an_altered_request_is_refused_for_every_suite(site, suite, field):
    """The key column edited, a better key class claimed, another suite: the proof covers all of it."""
    key = FileKeyProvider.generate(site.root / "new.pem", suite=suite)
    request = json.loads(make_request(key, site.trust, device_name="new", board="rpi5"))
    other = FileKeyProvider.generate(site.root / "attacker.pem", suite=suite)
    values = {
        "public_key": other.public_key().hex(),
        "device_name": "cam",
        "board": "b",
        "key_class": "hardware",
        "suite": next(s for s in SUITES if s != suite),
    }
    if field == "proof":
        request["proof"] = "00" * 32
    else:
        request["request"][field] = values[field]
    path = site.root / "r.json"
    path.write_bytes(canonical(request))
    with pytest.raises(ProvisioningError) as error:
        enroll(site.fleet, path, confirm=lambda _: True, wall_ns=NOW_NS)
    assert error.value.code == "EG-P010"


def test_a_hybrid_key_is_not_enrolled_on_its_classical_half(site):
    """Somebody who holds the X25519 half, or has broken it, puts in an ML-KEM key that is not the device's."""
    mine = FileKeyProvider.generate(site.root / "mine.pem", suite=SUITE_HYBRID)
    path = site.root / "r.json"
    path.write_bytes(make_request(mine, site.trust, device_name="new", board="b"))
    with pytest.raises(ProvisioningError) as error:
        enroll(site.fleet, path, confirm=lambda _: True, wall_ns=NOW_NS)
    assert error.value.code == "EG-P015"

    victim = site.key(SUITE_HYBRID)
    der = victim.public_key()[:-32] + mine.public_key()[-32:]

    class Impostor:
        """The victim's ML-KEM key under an X25519 key of the impostor's own."""

        key_class, suite, kid = "file", SUITE_HYBRID, "00" * 16
        prove_possession = staticmethod(mine.prove_possession)

        def public_key(self) -> bytes:
            return der

    path.write_bytes(make_request(Impostor(), site.trust, device_name="new", board="b"))  # type: ignore[arg-type]
    challenge = make_challenge(site.fleet, path)
    for key in (mine, victim):
        with pytest.raises(EdgeGuardError):
            answer_challenge(key, site.trust, challenge)


def test_an_answer_belongs_to_one_request_one_fleet_and_is_no_other_ones(site, tmp_path):
    """Replayed for another request, for another fleet, edited, or made from the challenge alone: refused."""
    key = FileKeyProvider.generate(site.root / "k.pem", suite=SUITE_HYBRID)
    requests = []
    for name in ("one", "two"):
        requests.append(site.root / f"{name}.json")
        requests[-1].write_bytes(make_request(key, site.trust, device_name=name, board="b"))
    one = answer_challenge(key, site.trust, make_challenge(site.fleet, requests[0]))
    edited = canonical(json.loads(one) | {"answer": "00" * 32})
    challenge_itself = make_challenge(site.fleet, requests[1])
    for answer in (one, edited, challenge_itself, b"", b"{}", b"\xff"):
        with pytest.raises(ProvisioningError) as error:
            enroll(site.fleet, requests[1], confirm=lambda _: True, wall_ns=NOW_NS, answer=answer)
        assert error.value.code == "EG-P010"
    other = Fleet.create(tmp_path / "other", name="o", wall_ns=NOW_NS)
    with pytest.raises(ProvisioningError):
        answer_challenge(key, other.trust(NOW_NS), make_challenge(site.fleet, requests[0]))
    enroll(site.fleet, requests[0], confirm=lambda _: True, wall_ns=NOW_NS, answer=one)
    with pytest.raises(ProvisioningError) as error:
        enroll(site.fleet, requests[0], confirm=lambda _: True, wall_ns=NOW_NS, answer=one)
    assert error.value.code == "EG-P012"


def test_a_challenge_shows_nothing_of_its_answer(site):
    """Fresh each time, the same answer: the nonce never leaves the two holders of keys."""
    request = site.root / "mlkem768-x25519.request.json"
    one, two = make_challenge(site.fleet, request), make_challenge(site.fleet, request)
    assert one != two
    key = site.key(SUITE_HYBRID)
    answers = {answer_challenge(key, site.trust, raw) for raw in (one, two)}
    assert len(answers) == 1
    assert json.loads(answers.pop())["answer"] not in one.decode() + two.decode()


def test_the_challenge_does_not_rest_on_the_classical_enrolment_key(site):
    """Somebody who has computed its private half from the public one, which every device has, cannot answer."""
    request = site.root / "new.json"
    key = FileKeyProvider.generate(site.root / "new.pem", suite=SUITE_HYBRID)
    request.write_bytes(make_request(key, site.trust, device_name="new", board="b"))
    digest = hashlib.sha256(request.read_bytes()).digest()
    for broken in (site.fleet.enrol_key(), site.fleet.enrol_key(SUITE_P256)):
        with broken.derive_secret("enrol-challenge") as secret:
            nonce = hmac.digest(secret.view, digest, "sha256")
        answer = challenge_answer(nonce, fleet_id=site.fleet.fleet_id, request_digest=digest, kid=key.kid)
        forged = {
            "schema": "edgeguard/enrol-answer/v1",
            "fleet_id": site.fleet.fleet_id,
            "request": digest.hex(),
            "answer": answer.hex(),
        }
        with pytest.raises(ProvisioningError) as error:
            enroll(site.fleet, request, confirm=lambda _: True, wall_ns=NOW_NS, answer=canonical(forged))
        assert error.value.code == "EG-P010"


@given(data=st.data())
def test_hostile_enrolment_files_never_raise_a_foreign_error(template, tmp_path_factory, data):
    """Requests, challenges and answers with any bytes changed, cut or added."""
    fleet = Fleet.open(template / "fleet")
    key = FileKeyProvider(template / "mlkem768-x25519.pem")
    path = tmp_path_factory.mktemp("r") / "r.json"
    genuine = (template / "mlkem768-x25519.request.json").read_bytes()
    challenge = make_challenge(fleet, template / "mlkem768-x25519.request.json")

    def damaged(raw: bytes) -> bytes:
        at = data.draw(st.integers(0, len(raw) - 1))
        return raw[:at] + data.draw(st.binary(max_size=4)) + raw[at + data.draw(st.integers(0, 4)) :]

    path.write_bytes(damaged(genuine))
    with suppress(EdgeGuardError):
        assert make_challenge(fleet, path)
    with suppress(EdgeGuardError):
        answer = answer_challenge(key, fleet.trust(NOW_NS), damaged(challenge))
        assert answer == answer_challenge(key, fleet.trust(NOW_NS), challenge)
    path.write_bytes(genuine)
    with pytest.raises(ProvisioningError):
        enroll(fleet, path, confirm=lambda _: True, wall_ns=NOW_NS, answer=damaged(challenge))


def test_a_device_record_carries_both_families(site):
    """Two enrol signatures over the same bytes; stripping, mixing or a classical thief is refused."""
    path = site.fleet.devices_folder / f"{site.key(SUITE_X25519).kid}.json"
    assert read_record(path, site.trust).device_name == "x25519"
    (beside,) = site.fleet.devices_folder.glob(f"{path.stem}.*.sig")
    raw = beside.read_bytes()
    beside.unlink()
    with pytest.raises(ProvisioningError) as error:
        read_record(path, site.trust)
    assert error.value.code == "EG-P014"
    beside.write_bytes(raw)
    record = json.loads(base64.b64decode(json.loads(path.read_bytes())["dsseEnvelope"]["payload"]))
    forged = canonical(record | {"board": "orin-nano"})
    thief = site.fleet.signers("enrol", 1)[0]
    path.write_bytes(encode_signed(forged, DEVICE_TYPE, thief.public_key().keyid, thief.sign(pae(DEVICE_TYPE, forged))))
    with pytest.raises(ProvisioningError) as error:
        read_record(path, site.trust)
    assert error.value.code == "EG-P014"


# Grants


def test_pq_required_reaches_post_quantum_devices_alone(site):
    """`grant` refuses the others by name, passes them over with --all, and the device refuses a wrap it was given."""
    bundle = site.pack("pq", confidentiality="pq-required")
    for suite in (SUITE_X25519, SUITE_P256):
        with pytest.raises(ProvisioningError) as error:
            grant(site.fleet, bundle, suite.split("/")[1], wall_ns=LATER_NS)
        assert error.value.code == "EG-P022"
        with pytest.raises(ProvisioningError):
            grant_many(site.fleet, bundle, [suite.split("/")[1], "mlkem768-x25519"], wall_ns=LATER_NS)
    assert not (bundle / "recipients").exists() or not list((bundle / "recipients").iterdir())
    granted = grant_many(site.fleet, bundle, None, wall_ns=LATER_NS)
    assert granted.count == 1
    assert sorted(name for name, _ in granted.refused) == ["p256", "x25519"]
    assert site.open(SUITE_HYBRID, bundle) == WEIGHTS
    statement = verify_bundle(bundle, site.trust, wall_ns=LATER_NS).statement
    victim = site.key(SUITE_X25519)
    with SecretBuffer.copy_of(b"\7" * 32) as cek:
        wrap = seal_cek(
            cek, victim.public_key(), identity=statement.identity, fleet_id=statement.fleet_id, model_id="m"
        )
    (bundle / "recipients" / f"{victim.kid}.hpke").write_bytes(wrap)
    with pytest.raises(KeyUnavailableError) as error:
        site.open(SUITE_X25519, bundle)
    assert error.value.code == "EG-K004"


def test_the_fleets_own_wrap_is_post_quantum(site):
    """All content keys rest behind the grant key; what is copied today must not open later."""
    (wrap,) = (site.fleet.folder / "wraps").iterdir()
    assert wrap.stat().st_size == 1168
    assert site.fleet.grant_key().suite == SUITE_HYBRID


def test_a_model_for_hardware_keys_is_packed_and_reaches_no_file_key(site):
    """The fleet can pack it although its own keys are files; no device here may open it."""
    bundle = site.pack("hw", min_key_class="hardware")
    granted = grant_many(site.fleet, bundle, None, wall_ns=LATER_NS)
    assert granted.count == 0
    assert len(granted.refused) == 3


def test_granting_many_opens_the_content_key_once_and_is_all_or_nothing(site, monkeypatch):
    """One unwrap for all devices; an unknown name at the end leaves no wrap behind."""
    bundle = site.pack("many")
    opened = []
    original = FileKeyProvider.open_wrap
    monkeypatch.setattr(FileKeyProvider, "open_wrap", lambda *a: opened.append(1) or original(*a))
    with pytest.raises(ProvisioningError) as error:
        grant_many(site.fleet, bundle, ["x25519", "p256", "nobody"], wall_ns=LATER_NS)
    assert error.value.code == "EG-P013"
    assert list((bundle / "recipients").iterdir()) == []
    opened.clear()
    seen = []
    names = [record.device_name for record in device_records(site.fleet, site.trust)]
    granted = grant_many(site.fleet, bundle, names, wall_ns=LATER_NS, progress=lambda *a: seen.append(a))
    assert (granted.count, len(opened)) == (3, 1)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert len(list((bundle / "recipients").iterdir())) == 3


def test_the_memory_of_a_grant_does_not_grow_with_the_fleet(site, tmp_path):
    """Forty post-quantum devices more cost less memory than a tenth of their wraps."""
    fleet = Fleet.create(tmp_path / "f", name="t", wall_ns=NOW_NS, device_state="optional")
    names = [f"d{i}" for i in range(50)]
    for name in names:
        enrol_one(fleet, tmp_path, SUITE_HYBRID, name)
    bundle = pack_model(
        fleet, site.root / "model.onnx", tmp_path / "b", release=Release("m", "1"), wall_ns=LATER_NS
    ).path
    peaks = []
    for wanted in (names[:10], names[:10], names):
        tracemalloc.start()
        assert grant_many(fleet, bundle, wanted, wall_ns=LATER_NS).count == len(wanted)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 40 * 1168 / 10 + 40 * 300  # 300: a name and a path


# Passphrases


def test_a_fleet_with_a_passphrase_signs_only_with_it(tmp_path):
    """Every private key of the folder is encrypted; without the passphrase nothing is signed or granted."""
    fleet = Fleet.create(
        tmp_path / "f", name="t", wall_ns=NOW_NS, passphrase=b"correct horse", signatures="hybrid-required"
    )
    for path in (fleet.folder / "keys").iterdir():
        assert b"ENCRYPTED" in path.read_bytes()
    model = write_onnx(tmp_path / "m.onnx")
    bundle = pack_model(fleet, model, tmp_path / "b", release=Release("m", "1"), wall_ns=LATER_NS).path
    verify_bundle(bundle, fleet.trust(LATER_NS), wall_ns=LATER_NS)
    for wrong in (None, b"wrong"):
        closed = dataclasses.replace(fleet, passphrase=wrong)
        with pytest.raises(ProvisioningError) as error:
            closed.signers("release", 1)
        assert error.value.code == "EG-P004"
        with pytest.raises(KeyUnavailableError):
            closed.grant_key()
    assert "horse" not in repr(fleet)
