"""Whom a device believes: chain, roles, thresholds, expiry, hostile metadata."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from edgeguard.errors import EdgeGuardError, SignatureError, TrustError
from edgeguard.trust.dates import date_to_ns, ns_to_date
from edgeguard.trust.store import KeySignature, TrustStore
from edgeguard.trust.strict_json import canonical, parse
from firmware_tools.fleet import Fleet

NOW_NS = 1_790_000_000_000_000_000
DAY_NS = 86_400 * 10**9


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Fleet:
    root = tmp_path_factory.mktemp("fleet")
    return Fleet.create(
        root / "fleet", name="test", wall_ns=NOW_NS, offline_keys=3, offline_threshold=2, valid_days=100
    )


@pytest.fixture
def folder(fleet, tmp_path) -> Path:
    return Path(shutil.copytree(fleet.trust_folder, tmp_path / "trust"))


def signer(fleet: Fleet, role: str, index: int = 0) -> CryptoSigner:
    return CryptoSigner(fleet.signers(role, index + 1)[index].private_key)


def resign(fleet: Fleet, path: Path, change, role: str, count: int = 2, by: str = "") -> None:
    """Edit metadata and sign it again with `count` keys of `by` (default: the role's own)."""
    metadata = Metadata.from_bytes(path.read_bytes())
    change(metadata.signed)
    metadata.signatures.clear()
    for index in range(count):
        metadata.sign(signer(fleet, by or role, index), append=True)
    path.write_bytes(metadata.to_bytes())


def refused(folder: Path, code: str, wall_ns: int = NOW_NS, **options) -> None:
    with pytest.raises(TrustError) as error:
        TrustStore.load(folder, wall_ns, **options)
    assert error.value.code == code


def test_the_fleet_id_is_the_digest_of_the_first_root(fleet, folder):
    """Pinned by its exact bytes."""
    store = TrustStore.load(folder, NOW_NS)
    assert store.fleet_id == hashlib.sha256((folder / "1.root.json").read_bytes()).hexdigest() == fleet.fleet_id
    assert [k.scheme for k in store.release_keys] == ["ecdsa-sha2-nistp256"]
    refused(folder, "EG-T010", expect_fleet="00" * 32)


@pytest.mark.parametrize(("offset_ns", "valid"), [(-1, True), (0, False), (1, False)])
def test_metadata_expires_to_the_nanosecond(folder, offset_ns, valid):
    """Valid while now is before the moment it names."""
    moment = NOW_NS + 100 * DAY_NS + offset_ns
    if valid:
        TrustStore.load(folder, moment)
    else:
        refused(folder, "EG-T004", moment)


@pytest.mark.parametrize("wall_ns", [0, -(2**62), NOW_NS - 10 * 365 * DAY_NS])
def test_a_clock_before_the_signed_time_counts_as_the_signed_time(folder, wall_ns):
    """A board without a battery starts in 1970 and still judges by a date that was signed."""
    store = TrustStore.load(folder, wall_ns)
    assert store.effective_ns(wall_ns) == NOW_NS


@pytest.mark.parametrize("name", ["1.root.json", "targets.json", "policy.json"])
@pytest.mark.parametrize("kind", ["missing", "link", "fifo", "folder", "huge", "empty", "text"])
def test_a_file_that_is_not_what_it_should_be_is_refused(folder, name, kind):
    """Bounded, regular, present, and metadata."""
    path = folder / name
    real = path.read_bytes()
    path.unlink()
    if kind == "link":
        (folder / "real").write_bytes(real)
        path.symlink_to(folder / "real")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(6_000_000)
    elif kind in ("empty", "text"):
        path.write_bytes(b"" if kind == "empty" else b"{}")
    with pytest.raises(TrustError):
        TrustStore.load(folder, NOW_NS)


@given(data=st.data())
def test_mutated_metadata_is_refused_or_equivalent_and_never_a_foreign_error(fleet, tmp_path_factory, data):
    """Flip, cut and insert anywhere in the folder: the fleet id changes, or the signature fails, or nothing did."""
    folder = Path(shutil.copytree(fleet.trust_folder, tmp_path_factory.mktemp("m") / "trust"))
    path = folder / data.draw(st.sampled_from(["1.root.json", "targets.json", "policy.json"]))
    raw = path.read_bytes()
    start = data.draw(st.integers(0, len(raw) - 1))
    path.write_bytes(raw[:start] + data.draw(st.binary(max_size=5)) + raw[start + data.draw(st.integers(0, 5)) :])
    try:
        store = TrustStore.load(folder, NOW_NS, expect_fleet=fleet.fleet_id)
    except EdgeGuardError:
        return
    assert store == fleet.trust(NOW_NS)


def test_duplicate_keys_in_metadata_are_refused(folder):
    """The TUF library lets the last one win; we do not."""
    path = folder / "targets.json"
    path.write_bytes(path.read_bytes().replace(b'"signed":{', b'"signed":{},"signed":{', 1))
    refused(folder, "EG-T002")


def test_fewer_signatures_than_the_threshold_are_refused(fleet, folder):
    """Two of three must sign targets, and the same key does not count twice."""
    resign(fleet, folder / "targets.json", lambda s: None, "targets", count=2)
    TrustStore.load(folder, NOW_NS)
    resign(fleet, folder / "targets.json", lambda s: None, "targets", count=1)
    refused(folder, "EG-T003")


@pytest.mark.parametrize("role", ["root", "release", "enrol", "snapshot", "timestamp"])
def test_no_other_role_signs_targets(fleet, folder, role):
    """All online and delegated keys stolen: the policy still stands."""
    count = 2 if role == "root" else 1
    resign(fleet, folder / "targets.json", lambda s: None, "targets", count=count, by=role)
    refused(folder, "EG-T003")


@pytest.mark.parametrize("role", ["targets", "release", "enrol", "snapshot", "timestamp"])
def test_no_other_role_signs_a_new_root(fleet, folder, role):
    """Only the keys of the old root name a new one."""
    shutil.copy(folder / "1.root.json", folder / "2.root.json")
    count = 2 if role == "targets" else 1
    resign(fleet, folder / "2.root.json", lambda s: setattr(s, "version", 2), "root", count=count, by=role)
    refused(folder, "EG-T003")


def rotate(fleet: Fleet, folder: Path, version: int, *, sign_old: bool = True, sign_new: bool = True) -> None:
    """Write N.root.json with fresh root keys."""
    old = Metadata.from_bytes((folder / f"{version - 1}.root.json").read_bytes())
    assert isinstance(old.signed, Root)
    fresh = [CryptoSigner.generate_ecdsa() for _ in range(2)]
    for keyid in list(old.signed.roles["root"].keyids):
        old.signed.revoke_key(keyid, "root")
    for new in fresh:
        old.signed.add_key(new.public_key, "root")
    old.signed.version = version
    old.signatures.clear()
    old_signers = [signer(fleet, "root", i) for i in range(2)] if sign_old else []
    for one in [*old_signers, *(fresh if sign_new else [])]:
        old.sign(one, append=True)
    (folder / f"{version}.root.json").write_bytes(old.to_bytes())


def test_a_root_rotation_signed_by_old_and_new_keys_is_followed(fleet, folder):
    """The fleet stays the same fleet."""
    rotate(fleet, folder, 2)
    store = TrustStore.load(folder, NOW_NS, expect_fleet=fleet.fleet_id)
    assert store.root_version == 2


@pytest.mark.parametrize(("old", "new"), [(True, False), (False, True), (False, False)])
def test_a_root_rotation_that_one_side_did_not_sign_is_refused(fleet, folder, old, new):
    """N+1 needs N's keys and its own."""
    rotate(fleet, folder, 2, sign_old=old, sign_new=new)
    refused(folder, "EG-T003")


def test_a_root_of_the_wrong_version_is_refused(fleet, folder):
    """File name and content say the same number."""
    shutil.copy(folder / "1.root.json", folder / "2.root.json")
    refused(folder, "EG-T002")


def test_a_changed_policy_is_refused(folder):
    """policy.json is what targets lists, byte for byte."""
    path = folder / "policy.json"
    path.write_bytes(path.read_bytes().replace(b"refuse-with-swap", b"allow"))
    refused(folder, "EG-T003")


def list_policy(fleet: Fleet, folder: Path, policy: dict) -> None:
    raw = canonical(policy)
    (folder / "policy.json").write_bytes(raw)

    def change(signed: Targets) -> None:
        signed.targets["policy.json"].length = len(raw)
        signed.targets["policy.json"].hashes = {"sha256": hashlib.sha256(raw).hexdigest()}

    resign(fleet, folder / "targets.json", change, "targets")


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("schema", "edgeguard/fleet-policy/v2", "EG-T002"),
        ("fleet_id", "00" * 32, "EG-T010"),
        ("unlocked_memory", "whatever", "EG-T002"),
        ("issued", "yesterday", "EG-T002"),
        ("issued", "2026-02-30T00:00:00Z", "EG-T002"),
        ("channels", [], "EG-T002"),
        ("signatures", "none", "EG-T002"),
        ("signatures", "hybrid-required", "EG-T006"),
        ("floors", {"m": {"epoch": "0", "number": "01"}}, "EG-T002"),
        ("extra", 1, "EG-T002"),
    ],
)
def test_a_signed_policy_that_cannot_be_obeyed_in_full_is_refused(fleet, folder, field, value, code):
    """Never half-obeyed: unknown schemes, fields and numbers stop the load."""
    policy = json.loads((folder / "policy.json").read_bytes()) | {field: value}
    list_policy(fleet, folder, policy)
    refused(folder, code)


def test_a_signed_time_in_the_policy_is_a_floor_for_the_clock(fleet, folder):
    """Metadata that had expired at the signed time has expired, whatever the clock says."""
    policy = json.loads((folder / "policy.json").read_bytes()) | {"issued": ns_to_date(NOW_NS + 101 * DAY_NS)}
    list_policy(fleet, folder, policy)
    refused(folder, "EG-T004", NOW_NS)


@pytest.mark.parametrize("role", ["targets", "enrol", "snapshot", "timestamp", "root"])
def test_a_key_that_serves_two_roles_is_refused(fleet, folder, role):
    """Also when only the release role's own signatures would ever be checked."""
    shared = signer(fleet, role).public_key

    def change(signed: Targets) -> None:
        signed.add_key(shared, "release")

    resign(fleet, folder / "targets.json", change, "targets")
    refused(folder, "EG-T005")


def test_one_key_under_two_ids_is_refused(fleet, folder):
    """Otherwise one person would meet a threshold of two."""

    def change(signed: Targets) -> None:
        key = signer(fleet, "release").public_key
        again = type(key)("f" * 64, key.keytype, key.scheme, key.keyval)
        signed.add_key(again, "release")

    resign(fleet, folder / "targets.json", change, "targets")
    refused(folder, "EG-T005")


@pytest.mark.parametrize("change", ["not-terminating", "paths", "missing", "ed25519"])
def test_a_delegation_of_another_shape_is_refused(fleet, folder, change):
    """Terminating, its own path, P-256 keys, present."""

    def edit(signed: Targets) -> None:
        release = signed.delegations.roles["release"]
        if change == "not-terminating":
            release.terminating = False
        elif change == "paths":
            release.paths = ["*"]
        elif change == "missing":
            del signed.delegations.roles["release"]
        else:
            signed.add_key(CryptoSigner.generate_ed25519().public_key, "release")

    resign(fleet, folder / "targets.json", edit, "targets")
    refused(folder, "EG-T005")


@pytest.mark.parametrize("role", ["release", "enrol"])
def test_a_message_needs_a_correct_signature_by_a_key_of_the_role(fleet, role):
    """Unknown key, wrong bytes, no signature at all."""
    store = fleet.trust(NOW_NS)
    own = fleet.signers(role, 1)[0]
    good = KeySignature(own.public_key().keyid, own.sign(b"message"))
    assert [k.keyid for k in store.verify(role, b"message", [good, good])] == [good.keyid]
    other = fleet.signers({"release": "enrol", "enrol": "release"}[role], 1)[0]
    for message, signatures, code in (
        (b"other", [good], "EG-S002"),
        (b"message", [KeySignature(good.keyid, b"junk")], "EG-S002"),
        (b"message", [KeySignature(other.public_key().keyid, other.sign(b"message"))], "EG-S001"),
        (b"message", [], "EG-S003"),
    ):
        with pytest.raises(SignatureError) as error:
            store.verify(role, message, signatures)
        assert error.value.code == code


@given(st.integers(0, 253_402_300_799))
def test_dates_survive_the_round_trip(seconds):
    """Whole seconds of years 1970 to 9999."""
    assert date_to_ns(ns_to_date(seconds * 10**9), what="d") == seconds * 10**9


@given(st.binary(max_size=200))
def test_the_strict_parser_raises_only_its_own_error(raw):
    """Any bytes: a value in canonical form, or EG-B003."""
    try:
        value = parse(raw, what="x")
    except EdgeGuardError:
        return
    assert canonical(value) == raw


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=8
    )
)
def test_the_strict_parser_agrees_with_json(value):
    """What is canonical is read as the standard library reads it."""
    try:
        raw = canonical(value)
    except UnicodeEncodeError:
        return
    assert parse(raw, what="x") == json.loads(raw) == value


def test_expired_means_expired_for_roots_of_any_age(fleet, folder):
    """An old root with a late date in targets is still an old root."""

    def change(signed: Targets) -> None:
        signed.expires = datetime(2026, 9, 21, tzinfo=UTC) + timedelta(days=5000)

    resign(fleet, folder / "targets.json", change, "targets")
    refused(folder, "EG-T004", NOW_NS + 101 * DAY_NS)


@pytest.mark.parametrize(("version", "believed"), [(2**53, True), (2**53 + 1, False), (2**200, False)])
def test_a_version_that_no_state_can_remember_is_refused(fleet, folder, version, believed):
    """Signed by the offline keys all the same: a device that took it over could never read its own state again."""

    def change(signed: Targets) -> None:
        signed.version = version

    resign(fleet, folder / "targets.json", change, "targets")
    if believed:
        assert TrustStore.load(folder, NOW_NS).targets_version == version
    else:
        refused(folder, "EG-T002", NOW_NS)
