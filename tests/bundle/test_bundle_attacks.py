"""Attacks on meaning rather than bytes: genuine parts in the wrong place, signed nonsense, planted files."""

from __future__ import annotations

import base64
import json
import os
import shutil

import pytest

from edgeguard.bundle.dsse import STATEMENT_TYPE
from edgeguard.bundle.model import open_model
from edgeguard.bundle.signature import encode_signed
from edgeguard.errors import (
    BundleFormatError,
    DecryptionError,
    EdgeGuardError,
    KeyUnavailableError,
    SignatureError,
    TrustError,
)
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import TrustStore
from edgeguard.trust.strict_json import canonical
from firmware_tools.enroll import enroll, make_request
from firmware_tools.grant import grant

NOW_NS = 1_790_000_000_000_000_000
MODEL_ID = "road-objects"
YEAR_NS = 365 * 86_400 * 10**9


def statement_of(world) -> dict:
    envelope = json.loads(world.storage.files["model.sig"])
    return json.loads(base64.b64decode(envelope["dsseEnvelope"]["payload"]))


def refused(world, storage, kind=EdgeGuardError, code="", **changes):
    with pytest.raises(kind) as error:
        world.open(storage, **changes).close()
    assert not code or error.value.code == code
    return error.value


def resigned(world, change) -> object:
    """Return the storage with a statement that `change` edited and the release key signed again."""
    statement = statement_of(world)
    change(statement)
    return world.storage.changed({"model.sig": world.sign(canonical(statement))})


def test_another_genuine_model_is_refused(world):
    """The caller says what belongs in this place."""
    refused(world, world.storage, TrustError, "EG-T011", expect_model="lane-marks")


def test_a_model_for_other_boards_is_refused(world, tmp_path):
    """Also when the board is not stated: fail closed."""
    bundle = world.pack(tmp_path / "b", boards=("rpi5", "orin-nano"))
    for board, allowed in (("rpi5", True), ("rpi4", False), ("", False)):
        arguments = {"trust": world.trust, "key": world.key, "expect_model": MODEL_ID, "wall_ns": NOW_NS}
        if allowed:
            open_model(bundle, board=board, **arguments).close()
            continue
        with pytest.raises(TrustError) as error:
            open_model(bundle, board=board, **arguments)
        assert error.value.code == "EG-T013"


def test_a_debug_channel_is_refused_on_a_production_fleet(world):
    """The channel is signed, and the fleet's policy says which are accepted."""

    def debug(statement):
        statement["predicate"]["edgeguard"]["channel"] = "debug"

    refused(world, resigned(world, debug), TrustError, "EG-T012")


def test_a_model_is_valid_only_in_its_time(world):
    """Not before, not after, and a clock in 1970 counts as the newest signed time."""
    refused(world, world.storage, TrustError, wall_ns=NOW_NS + 6 * YEAR_NS)
    world.open(world.storage, wall_ns=0).close()

    def later(statement):
        statement["predicate"]["edgeguard"]["valid_from"] = "2029-01-01T00:00:00Z"

    refused(world, resigned(world, later), TrustError, "EG-T014")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("min_revocation_version", {"epoch": "0", "number": "2"}, "EG-T016"),
        ("min_runtime", "999.0.0", "EG-T017"),
        ("fleet_id", "00" * 32, "EG-T010"),
        ("manifest", "00" * 32, "EG-B006"),
        ("bundle_id", "00" * 16, "EG-B006"),
        ("expires", "2026-09-20T00:00:00Z", ""),
        ("schema", "edgeguard/policy/v2", "EG-B004"),
        ("confidentiality", "pq-required", "EG-K004"),
        ("security_counter", {"epoch": "0", "number": "9223372036854775808"}, "EG-B004"),
        ("security_counter", {"epoch": "0", "number": 1}, "EG-B004"),
        ("boards", ["b", "a"], "EG-B004"),
        ("expires", "2026-13-45T00:00:00Z", "EG-B004"),
    ],
)
def test_a_signed_policy_that_does_not_fit_is_refused(world, field, value, code):
    """The release key alone does not make a statement acceptable."""

    def change(statement):
        statement["predicate"]["edgeguard"][field] = value

    refused(world, resigned(world, change), EdgeGuardError, code)


def test_a_counter_below_the_signed_floor_is_refused(world):
    """Floors come from the offline targets keys; the epoch counts first."""
    from dataclasses import replace

    from msgspec.structs import replace as changed

    from edgeguard.trust.policy import Counter

    for epoch, number, allowed in (("0", "1", True), ("0", "2", False), ("1", "0", False)):
        policy = changed(world.trust.policy, floors={MODEL_ID: Counter(epoch, number)})
        trust = replace(world.trust, policy=policy)
        if allowed:
            world.open(world.storage, trust=trust).close()
        else:
            refused(world, world.storage, TrustError, "EG-T015", trust=trust)


@pytest.mark.parametrize(
    ("ours", "opens"),
    [
        ("0.1.0", True),
        ("0.1.0rc1", True),
        ("0.1.0.dev3+g12", True),
        ("1.0b2", True),
        ("0.0.9", False),
        ("0.0.9rc1", False),
    ],
)
def test_the_runtime_s_own_version_may_be_any_release_or_one_before_it(world, monkeypatch, ours, opens):
    """A release candidate on a device is no reason for an error that nobody understands."""
    monkeypatch.setattr("edgeguard.__version__", ours)
    if opens:
        world.open(world.storage).close()
    else:
        refused(world, world.storage, TrustError, "EG-T017")


@pytest.mark.parametrize(
    "ignored",
    [
        ["model.sig", "recipients", "signatures", "payload"],
        ["model.sig", "recipients", "signatures", ".git"],
        ["recipients", "signatures"],
        ["signatures", "recipients", "model.sig"],
        [],
    ],
)
def test_any_other_ignore_set_is_refused(world, ignored):
    """What a signature leaves out is a constant of the format."""

    def change(statement):
        statement["predicate"]["serialization"]["ignore_paths"] = ignored

    refused(world, resigned(world, change), BundleFormatError, "EG-B007")


def test_a_second_subject_is_refused(world):
    """One statement, one subject."""

    def change(statement):
        statement["subject"].append(statement["subject"][0])

    refused(world, resigned(world, change), BundleFormatError, "EG-B004")


def test_the_old_predicate_and_the_old_encoding_are_refused(world):
    """The public tool still accepts signatures of its version 0.2; this reader does not."""

    def change(statement):
        statement["predicateType"] = "https://model_signing/Digests/v0.1"

    refused(world, resigned(world, change), BundleFormatError, "EG-B004")
    payload = canonical(statement_of(world))
    old = f"DSSEV1 {len(STATEMENT_TYPE)} {STATEMENT_TYPE} {len(payload)} {payload!r}".encode()
    signed = world.sign(payload, message=old)
    refused(world, world.storage.changed({"model.sig": signed}), SignatureError, "EG-S002")


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":1,"a":1}',
        b"[" * 100_000,
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a": 1}',
        b"\xff\xfe",
        b'"\\ud800"',
        b"null",
    ],
)
def test_signed_json_that_could_be_read_two_ways_is_refused(world, payload):
    """Duplicate keys, depth, numbers that are none, white space, encodings."""
    refused(world, world.storage.changed({"model.sig": world.sign(payload)}), BundleFormatError)
    refused(world, world.storage.changed({"model.sig": payload}), BundleFormatError)


def test_no_signature_two_signatures_and_a_keyid_are_refused(world):
    """The envelope has one spelling."""
    envelope = json.loads(world.storage.files["model.sig"])
    one = envelope["dsseEnvelope"]["signatures"][0]
    for signatures in ([], [one, one], [one | {"keyid": "x"}]):
        envelope["dsseEnvelope"]["signatures"] = signatures
        refused(world, world.storage.changed({"model.sig": canonical(envelope)}), BundleFormatError, "EG-B004")


def test_a_signature_by_a_stranger_is_refused(world, other_world):
    """The signer must be a release key of this fleet."""
    signed = other_world.sign(canonical(statement_of(world)))
    refused(world, world.storage.changed({"model.sig": signed}), SignatureError, "EG-S001")


@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp", "enrol", "revocation", "attest"])
def test_no_other_role_can_sign_a_model(world, role):
    """Roles are disjoint; a stolen online key releases nothing."""
    signed = world.sign(canonical(statement_of(world)), role=role)
    refused(world, world.storage.changed({"model.sig": signed}), SignatureError, "EG-S001")


def test_a_hint_that_names_another_key_does_not_help(world):
    """The signature is checked with the key that the hint names, whoever made it."""
    payload = canonical(statement_of(world))
    release = world.fleet.signers("release", 1)[0].public_key().keyid
    enrol = world.fleet.signers("enrol", 1)[0]
    forged = encode_signed(payload, STATEMENT_TYPE, release, enrol.sign(payload))
    refused(world, world.storage.changed({"model.sig": forged}), SignatureError, "EG-S002")


def test_a_bundle_of_another_fleet_is_refused_although_the_device_key_is_the_same(world, other_world, tmp_path):
    """One device enrolled in two fleets: neither fleet's model opens under the other's trust."""
    request = make_request(world.key, other_world.trust, device_name="cam-shared", board="rpi5")
    (tmp_path / "request.json").write_bytes(request)
    enroll(other_world.fleet, tmp_path / "request.json", confirm=lambda _: True, wall_ns=NOW_NS)
    bundle = shutil.copytree(other_world.bundle, tmp_path / "bundle")
    grant(other_world.fleet, bundle, "cam-shared", wall_ns=NOW_NS)
    arguments = {"key": world.key, "expect_model": MODEL_ID, "wall_ns": NOW_NS}
    open_model(bundle, trust=other_world.trust, **arguments).close()
    with pytest.raises(SignatureError):
        open_model(bundle, trust=world.trust, **arguments)


def test_a_device_without_a_wrap_is_told_how_to_get_one(world, tmp_path):
    """Missing is not the same as wrong."""
    stranger = FileKeyProvider.generate(tmp_path / "stranger.pem")
    error = refused(world, world.storage, KeyUnavailableError, "EG-K003", key=stranger)
    assert "edgeguard-provision grant" in error.hint


def test_a_wrap_for_another_device_does_not_open(world, tmp_path):
    """Renaming somebody else's wrap is of no use."""
    stranger = FileKeyProvider.generate(tmp_path / "stranger.pem")
    wrap = world.storage.files[f"recipients/{world.key.kid}.hpke"]
    storage = world.storage.changed({f"recipients/{stranger.kid}.hpke": wrap})
    refused(world, storage, DecryptionError, key=stranger)


@pytest.mark.parametrize("size", [0, 1, 79, 81])
def test_a_wrap_of_another_length_does_not_open(world, size):
    """Exactly 80 bytes."""
    name = f"recipients/{world.key.kid}.hpke"
    refused(world, world.storage.changed({name: b"\1" * size}))


def test_a_wrap_with_another_content_key_fails_before_any_plaintext(world):
    """Anybody can wrap a key of their own; the signed commitment refuses it."""
    from edgeguard.harden.memory import SecretBuffer
    from firmware_tools.grant import seal_cek

    statement = world.open(world.storage).statement
    with SecretBuffer.copy_of(b"\7" * 32) as foreign:
        wrap = seal_cek(
            foreign,
            world.key.public_key(),
            identity=statement.identity,
            fleet_id=statement.fleet_id,
            model_id=statement.model_id,
        )
    refused(world, world.storage.changed({f"recipients/{world.key.kid}.hpke": wrap}), DecryptionError)


def test_a_wrap_from_another_bundle_does_not_open(world, tmp_path):
    """The statement's identity is part of what the wrap is bound to."""
    other = world.pack(tmp_path / "b", release="1.0.1")
    name = f"recipients/{world.key.kid}.hpke"
    refused(world, world.storage.changed({name: (other / name).read_bytes()}), DecryptionError)


def test_payloads_that_change_places_are_refused(world):
    """Equal names, other content."""
    files = world.storage.files
    swapped = {"payload/000.egc": files["payload/001.egc"], "payload/001.egc": files["payload/000.egc"]}
    refused(world, world.storage.changed(swapped))


def test_a_payload_of_another_bundle_is_refused(world, tmp_path):
    """Same model, same weights, other encryption."""
    other = world.pack(tmp_path / "b")
    foreign = (other / "payload" / "001.egc").read_bytes()
    refused(world, world.storage.changed({"payload/001.egc": foreign}), SignatureError, "EG-S004")


@pytest.mark.parametrize(
    "planted",
    [".gitattributes", "README.md", "payload/002.egc", "payload/.hidden", "attestations/x.json", ".git/config"],
)
def test_a_planted_file_is_refused(world, bundle_copy, planted):
    """Also those that the public tool ignores."""
    path = bundle_copy / planted
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(BundleFormatError) as error:
        open_model(bundle_copy, trust=world.trust, key=world.key, expect_model=MODEL_ID, wall_ns=NOW_NS)
    assert error.value.code == "EG-B005"


def test_files_beside_the_own_wrap_are_never_looked_at(world, bundle_copy):
    """Ten thousand wraps, FIFOs and links in recipients/ cost nothing and break nothing."""
    for i in range(2000):
        (bundle_copy / "recipients" / f"{i:032x}.hpke").write_bytes(b"")
    os.mkfifo(bundle_copy / "recipients" / "fifo")
    os.symlink("/etc/passwd", bundle_copy / "recipients" / "link")
    open_model(bundle_copy, trust=world.trust, key=world.key, expect_model=MODEL_ID, wall_ns=NOW_NS).close()


@pytest.mark.parametrize(
    "name", ["model.sig", "manifest.json", "payload/001.egc", "recipients/WRAP", "payload", "recipients"]
)
@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_links_pipes_and_folders_in_place_of_files_are_refused(world, bundle_copy, tmp_path, name, kind):
    """Nothing is followed, nothing blocks."""
    path = bundle_copy / name.replace("WRAP", f"{world.key.kid}.hpke")
    moved = tmp_path / "moved"
    path.rename(moved)
    if kind == "symlink":
        path.symlink_to(moved)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(EdgeGuardError):
        open_model(bundle_copy, trust=world.trust, key=world.key, expect_model=MODEL_ID, wall_ns=NOW_NS)


def test_the_bundle_itself_may_not_be_a_link(world, tmp_path):
    """The path that was configured is the path that is opened."""
    (tmp_path / "link").symlink_to(world.bundle)
    with pytest.raises(BundleFormatError) as error:
        open_model(tmp_path / "link", trust=world.trust, key=world.key, expect_model=MODEL_ID, wall_ns=NOW_NS)
    assert error.value.code == "EG-B001"


def test_a_huge_small_file_is_refused_without_being_read(world, bundle_copy):
    """A sparse gigabyte costs no memory."""
    with (bundle_copy / "manifest.json").open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(BundleFormatError) as error:
        open_model(bundle_copy, trust=world.trust, key=world.key, expect_model=MODEL_ID, wall_ns=NOW_NS)
    assert error.value.code == "EG-B002"


def test_two_of_three_release_keys_must_sign_the_same_bytes(world_maker, tmp_path):
    """Stripped, repeated, and mixed signatures do not add up."""
    world = world_maker(tmp_path, release_keys=3, release_threshold=2)
    storage = world.storage
    world.open(storage).close()
    further = next(n for n in storage.files if n.startswith("signatures/") and n.endswith(".sig"))
    refused(world, storage.changed({further: None}), SignatureError, "EG-S003")
    refused(world, storage.changed({further: storage.files["model.sig"]}), SignatureError)
    own = json.loads(storage.files["model.sig"])["verificationMaterial"]["publicKey"]["hint"]
    again = {further: None, f"signatures/{own}.sig": storage.files["model.sig"]}
    refused(world, storage.changed(again), SignatureError, "EG-S003")
    other = world.pack(tmp_path / "b2", release="2.0.0")
    mixed = {further: (other / further).read_bytes()}
    refused(world, storage.changed(mixed), SignatureError, "EG-S003")


def test_expired_trust_opens_nothing(world):
    """Expiry of root and targets is checked at every load, not only when the store was read."""
    assert isinstance(world.trust, TrustStore)
    refused(world, world.storage, TrustError, "EG-T004", wall_ns=NOW_NS + 6 * YEAR_NS)
