"""Typed groups: what a hybrid fleet asks of root, targets and every delegated role, and every way to get round it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from edgeguard.errors import SignatureError, TrustError
from edgeguard.trust.metadata import DELEGATED_PATHS, require_signed
from edgeguard.trust.role_keys import role_key
from edgeguard.trust.store import KeySignature, TrustStore
from edgeguard.trust.strict_json import canonical
from firmware_tools.fleet import ROLES, Fleet
from firmware_tools.rotate import rotate
from firmware_tools.signer import FileSigner
from firmware_tools.trust_metadata import signed_metadata

NOW_NS = 1_790_000_000_000_000_000
HYBRID = "hybrid-required"
SIGNERS = [(k, r) for k in ("classical", "hybrid") for r in ROLES if k == "hybrid" or r != "release-pq"]
COUNTS = list(itertools.product(range(4), range(4)))
DELEGATED = ("revocation", "enrol", "attest")


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory) -> Fleet:
    """Two of three in each family for what is offline and for revocation."""
    return Fleet.create(
        tmp_path_factory.mktemp("hybrid") / "fleet",
        name="test",
        wall_ns=NOW_NS,
        signatures=HYBRID,
        offline_keys=3,
        offline_threshold=2,
        roles={"revocation": (3, 2)},
    )


@pytest.fixture(scope="module")
def classical(tmp_path_factory) -> Fleet:
    return Fleet.create(tmp_path_factory.mktemp("classical") / "fleet", name="test", wall_ns=NOW_NS)


@pytest.fixture
def folder(hybrid, tmp_path) -> Path:
    return Path(shutil.copytree(hybrid.trust_folder, tmp_path / "trust"))


def keys_of(fleet: Fleet, role: str) -> list[FileSigner]:
    """Return all keys of a role in this folder, of both families."""
    stems = {role, f"{role}-pq"} if role != "release" else {role}
    paths = sorted((fleet.folder / "keys").glob("*.pem"))
    return [FileSigner(p) for p in paths if p.stem.rpartition("-")[0] in stems]


def family(signers: Sequence[FileSigner], scheme: str) -> list[FileSigner]:
    return [s for s in signers if s.public_key().scheme == scheme]


def p256(signers: Sequence[FileSigner]) -> list[FileSigner]:
    return family(signers, "ecdsa-sha2-nistp256")


def mldsa(signers: Sequence[FileSigner]) -> list[FileSigner]:
    return family(signers, "ml-dsa-65/1")


def resign(path: Path, signers: Sequence[FileSigner], change=lambda signed: None) -> None:
    """Edit metadata and sign it again with exactly these keys."""
    signed = Metadata.from_bytes(path.read_bytes()).signed
    change(signed)
    path.write_bytes(signed_metadata(signed, signers))


def refused(folder: Path, code: str, **options) -> None:
    with pytest.raises(TrustError) as error:
        TrustStore.load(folder, NOW_NS, **options)
    assert error.value.code == code


def listing(role: str, name: str = "x.json") -> Targets:
    path = DELEGATED_PATHS[role].replace("*", name)
    target = TargetFile(1, {"sha256": "00" * 32}, path)
    return Targets(version=1, expires=datetime(2030, 1, 1, tzinfo=UTC), targets={path: target})


def test_a_hybrid_fleet_loads_and_says_what_it_asks(hybrid):
    """Two of three in each family; release and release-pq are two roles with their own thresholds."""
    store = hybrid.trust(NOW_NS)
    numbers = {name: [(g.role, g.threshold, len(g.keys)) for g in found] for name, found in store.groups.items()}
    assert numbers == {
        "release": [("release", 1, 1), ("release-pq", 1, 1)],
        "revocation": [("revocation", 2, 3), ("revocation", 2, 3)],
        "enrol": [("enrol", 1, 1), ("enrol", 1, 1)],
        "attest": [("attest", 1, 1), ("attest", 1, 1)],
    }
    assert all(len({g.scheme for g in found}) == 2 for found in (*store.groups.values(), *store.top_groups.values()))
    TrustStore.load(hybrid.trust_folder, NOW_NS, require_hybrid=True)


@pytest.mark.parametrize("role", ["root", "targets"])
@pytest.mark.parametrize(("classical_keys", "pq_keys"), COUNTS)
def test_top_level_metadata_needs_two_of_each_family(hybrid, folder, role, classical_keys, pq_keys):
    """All sixteen counts; the untyped threshold of four would let three and one pass."""
    signers = keys_of(hybrid, role)
    path = folder / "targets.json"
    if role == "root":
        path = Path(shutil.copy(folder / "1.root.json", folder / "2.root.json"))
    change = (lambda signed: setattr(signed, "version", 2)) if role == "root" else (lambda signed: None)
    resign(path, [*p256(signers)[:classical_keys], *mldsa(signers)[:pq_keys]], change)
    if classical_keys >= 2 and pq_keys >= 2:
        TrustStore.load(folder, NOW_NS)
    else:
        refused(folder, "EG-T003")


@pytest.mark.parametrize(("classical_keys", "pq_keys"), COUNTS)
def test_delegated_metadata_needs_two_of_each_family(hybrid, classical_keys, pq_keys):
    """The revocation list cannot be signed by whoever breaks one family."""
    store = hybrid.trust(NOW_NS)
    signers = keys_of(hybrid, "revocation")
    raw = signed_metadata(listing("revocation"), [*p256(signers)[:classical_keys], *mldsa(signers)[:pq_keys]])
    if classical_keys >= 2 and pq_keys >= 2:
        assert store.verify_delegated("revocation", raw).version == 1
        return
    with pytest.raises(TrustError) as error:
        store.verify_delegated("revocation", raw)
    assert error.value.code == "EG-T003"


def test_the_tuf_library_alone_would_let_one_family_pass(hybrid):
    """Why the count is ours: with four classical signatures its threshold of four is met."""
    fleet = hybrid
    signed = Metadata[Targets].from_bytes((fleet.trust_folder / "targets.json").read_bytes()).signed
    extra = [CryptoSigner(generate_private_key(SECP256R1())) for _ in range(1)]
    for one in extra:
        signed.add_key(one.public_key, "revocation")
    metadata = Metadata(listing("revocation"))
    for signer in [*(CryptoSigner(s.private_key) for s in p256(keys_of(fleet, "revocation"))), *extra]:
        metadata.sign(signer, append=True)
    signed.verify_delegate("revocation", metadata.signed_bytes, metadata.signatures)
    with pytest.raises(TrustError) as error:
        require_signed(signed, "revocation", metadata, "the list")
    assert error.value.code == "EG-T003"


@pytest.mark.parametrize(("fleet_kind", "signing"), SIGNERS)
@pytest.mark.parametrize("judged", DELEGATED)
def test_no_role_signs_for_another(request, fleet_kind, signing, judged):
    """The full matrix for delegated metadata: only a role's own keys count, in both kinds of fleet."""
    fleet = request.getfixturevalue(fleet_kind)
    signers = keys_of(fleet, signing)
    assert signers
    raw = signed_metadata(listing(judged), signers)
    store = fleet.trust(NOW_NS)
    if signing == judged:
        assert store.verify_delegated(judged, raw)
        return
    with pytest.raises(TrustError) as error:
        store.verify_delegated(judged, raw)
    assert error.value.code == "EG-T003"


@pytest.mark.parametrize(("fleet_kind", "signing"), SIGNERS)
@pytest.mark.parametrize("judged", ["root", "targets"])
def test_no_role_signs_root_or_targets_for_another(request, fleet_kind, signing, judged, tmp_path):
    """The same for what is offline: all other keys together sign nothing here."""
    fleet = request.getfixturevalue(fleet_kind)
    signers = keys_of(fleet, signing)
    assert signers
    trust = Path(shutil.copytree(fleet.trust_folder, tmp_path / "trust"))
    if judged == "root":
        shutil.copy(trust / "1.root.json", trust / "2.root.json")
        resign(trust / "2.root.json", signers, lambda signed: setattr(signed, "version", 2))
    else:
        resign(trust / "targets.json", signers)
    if signing == judged:
        TrustStore.load(trust, NOW_NS)
    else:
        refused(trust, "EG-T003")


@pytest.mark.parametrize(("fleet_kind", "signing"), SIGNERS)
@pytest.mark.parametrize("judged", ["release", *DELEGATED])
def test_no_role_signs_a_message_for_another(request, fleet_kind, signing, judged):
    """Bundles and device records: the full matrix; release and release-pq only together."""
    fleet = request.getfixturevalue(fleet_kind)
    store = fleet.trust(NOW_NS)
    signatures = [KeySignature(s.public_key().keyid, s.sign(b"message")) for s in keys_of(fleet, signing)]
    if signing == judged and not (fleet_kind == "hybrid" and judged == "release"):
        assert store.verify(judged, b"message", signatures)
        return
    with pytest.raises(SignatureError) as error:
        store.verify(judged, b"message", signatures)
    own = {signing, judged} <= {"release", "release-pq"}
    assert error.value.code == ("EG-S003" if own else "EG-S001")


def test_a_model_needs_both_families_over_the_same_bytes(hybrid):
    """One of each is enough; the same one twice, or one over other bytes, is not."""
    store = hybrid.trust(NOW_NS)
    one, two = keys_of(hybrid, "release")[0], keys_of(hybrid, "release-pq")[0]
    good = [KeySignature(s.public_key().keyid, s.sign(b"message")) for s in (one, two)]
    assert {k.scheme for k in store.verify("release", b"message", good)} == {"ecdsa-sha2-nistp256", "ml-dsa-65/1"}
    mixed = [good[0], KeySignature(two.public_key().keyid, two.sign(b"other"))]
    swapped = [KeySignature(good[0].keyid, good[1].signature), KeySignature(good[1].keyid, good[0].signature)]
    for signatures, code in (
        ([good[0], good[0]], "EG-S003"),
        ([good[1], good[1]], "EG-S003"),
        (mixed, "EG-S002"),
        (swapped, "EG-S002"),
    ):
        with pytest.raises(SignatureError) as error:
            store.verify("release", b"message", signatures)
        assert error.value.code == code


def list_policy(hybrid: Fleet, folder: Path, change: dict, edit=lambda signed: None) -> None:
    """Sign another policy, and other delegations, with the genuine targets keys."""
    raw = canonical(json.loads((folder / "policy.json").read_bytes()) | change)
    (folder / "policy.json").write_bytes(raw)

    def apply(signed: Targets) -> None:
        signed.targets["policy.json"].length = len(raw)
        signed.targets["policy.json"].hashes = {"sha256": hashlib.sha256(raw).hexdigest()}
        edit(signed)

    resign(folder / "targets.json", keys_of(hybrid, "targets"), apply)


def drop_release_pq(signed: Targets) -> None:
    assert signed.delegations is not None
    assert signed.delegations.roles is not None
    for keyid in list(signed.delegations.roles["release-pq"].keyids):
        signed.revoke_key(keyid, "release-pq")
    del signed.delegations.roles["release-pq"]


def drop_family(role: str, scheme: str, threshold: int):
    def change(signed: Targets | Root) -> None:
        delegated = signed.roles[role] if isinstance(signed, Root) else signed.get_delegated_role(role)
        for keyid in [k for k in delegated.keyids if signed.get_key(k).scheme == scheme]:
            signed.revoke_key(keyid, role)
        delegated.threshold = threshold

    return change


def test_a_policy_that_is_weaker_than_the_keys_is_refused(hybrid, folder):
    """Whoever gets a classical policy signed for a hybrid root has not made the fleet classical."""
    list_policy(hybrid, folder, {"signatures": "classical"})
    refused(folder, "EG-T006")
    list_policy(hybrid, folder, {"signatures": "classical"}, drop_release_pq)
    refused(folder, "EG-T006")


@pytest.mark.parametrize("role", DELEGATED)
@pytest.mark.parametrize("scheme", ["ecdsa-sha2-nistp256", "ml-dsa-65/1"])
def test_a_delegation_that_lost_a_family_is_refused(hybrid, folder, role, scheme):
    """Half hybrid is not hybrid."""
    list_policy(hybrid, folder, {}, drop_family(role, scheme, 1))
    refused(folder, "EG-T006")


@pytest.mark.parametrize("scheme", ["ecdsa-sha2-nistp256", "ml-dsa-65/1"])
@pytest.mark.parametrize("role", ["root", "targets", "snapshot", "timestamp"])
def test_a_root_that_drops_a_family_is_refused_although_its_owners_signed_it(hybrid, folder, role, scheme):
    """The chain never gets weaker, for any role."""
    shutil.copy(folder / "1.root.json", folder / "2.root.json")

    def change(signed: Root) -> None:
        signed.version = 2
        drop_family(role, scheme, 1)(signed)

    resign(folder / "2.root.json", keys_of(hybrid, "root"), change)
    refused(folder, "EG-T006")


@pytest.mark.parametrize("threshold", [0, 1, 3, 8])
def test_a_threshold_that_two_families_cannot_share_is_refused(hybrid, folder, threshold):
    """Odd, nothing, or more than one family has."""

    def edit(signed: Targets) -> None:
        signed.get_delegated_role("revocation").threshold = threshold

    if threshold == 0:
        raw = json.loads((folder / "targets.json").read_bytes())
        roles = {r["name"]: r for r in raw["signed"]["delegations"]["roles"]}
        roles["revocation"]["threshold"] = 0
        (folder / "targets.json").write_bytes(json.dumps(raw).encode())
        refused(folder, "EG-T002")
        return
    list_policy(hybrid, folder, {}, edit)
    refused(folder, "EG-T005")


@pytest.mark.parametrize("encoding", ["another-id", "compressed", "spaced-pem"])
def test_one_key_in_two_spellings_counts_once(classical, tmp_path, encoding):
    """Under another id, as a compressed point, with white space in its PEM: the folder is invalid."""
    trust = Path(shutil.copytree(classical.trust_folder, tmp_path / "trust"))
    public = keys_of(classical, "revocation")[0].public_pem().decode()
    if encoding == "compressed":
        key = load_pem_public_key(public.encode())
        assert isinstance(key, EllipticCurvePublicKey)
        point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        der = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
        body = base64.encodebytes(der).decode().strip()
        public = f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"
        assert load_pem_public_key(public.encode()) == key
    elif encoding == "spaced-pem":
        public = f"\n{public}\n"

    def change(signed: Targets) -> None:
        again = SSlibKey("e" * 64, "ecdsa", "ecdsa-sha2-nistp256", {"public": public})
        signed.add_key(again, "revocation")
        signed.get_delegated_role("revocation").threshold = 2

    resign(trust / "targets.json", keys_of(classical, "targets"), change)
    refused(trust, "EG-T005")


def test_the_same_key_in_another_encoding_has_the_same_id():
    """PEM text from a re-encoded key; nothing of how it was written survives."""
    key = MLDSA65PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert pem
    public = key.public_key()
    text = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert role_key(public).keyid == hashlib.sha256(text).hexdigest()
    assert role_key(load_pem_public_key(b"\n\n" + text)) == role_key(public)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keytype", "scheme"),
    [
        ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256"),
        ("ecdsa", "ecdsa-sha2-nistp384"),
        ("ml-dsa", "ml-dsa-44/1"),
        ("ml-dsa", "ecdsa-sha2-nistp256"),
        ("ecdsa", "ml-dsa-65/1"),
        ("ed25519", "ed25519"),
    ],
)
def test_a_key_fixes_its_scheme(classical, tmp_path, keytype, scheme):
    """Deprecated names, other sizes, and a key of one family under the name of the other."""
    trust = Path(shutil.copytree(classical.trust_folder, tmp_path / "trust"))
    raw = json.loads((trust / "targets.json").read_bytes())
    (keyid,) = next(r["keyids"] for r in raw["signed"]["delegations"]["roles"] if r["name"] == "attest")
    raw["signed"]["delegations"]["keys"][keyid] |= {"keytype": keytype, "scheme": scheme}
    (trust / "targets.json").write_bytes(json.dumps(raw).encode())
    metadata = None
    try:
        metadata = Metadata.from_bytes((trust / "targets.json").read_bytes())
    except Exception:
        refused(trust, "EG-T002")
        return
    (trust / "targets.json").write_bytes(signed_metadata(metadata.signed, keys_of(classical, "targets")))
    refused(trust, "EG-T005")


def test_a_key_in_two_roles_is_refused_in_either_family(hybrid, folder):
    """A release-pq key that also signs revocations is one theft instead of two."""
    shared = CryptoSigner(keys_of(hybrid, "release-pq")[0].private_key).public_key
    list_policy(hybrid, folder, {}, lambda signed: signed.add_key(shared, "revocation"))
    refused(folder, "EG-T005")


def test_a_device_may_insist_on_hybrid_and_nothing_can_insist_on_less(classical):
    """Local configuration tightens; there is no option that loosens."""
    refused(classical.trust_folder, "EG-T006", require_hybrid=True)


@pytest.mark.parametrize("reach", ["path", "parent", "delegates", "root", "huge"])
def test_delegated_metadata_speaks_for_its_own_role_alone(classical, reach):
    """Its own path, nothing further delegated, of the right type and size."""
    signed: Targets | Root = listing("enrol") if reach == "path" else listing("attest", "../bundles/x")
    code = "EG-T005"
    if reach == "delegates":
        signed = listing("attest")
        signed.delegations = (
            Metadata[Targets].from_bytes((classical.trust_folder / "targets.json").read_bytes()).signed.delegations
        )
    elif reach == "root":
        signed = Metadata[Root].from_bytes((classical.trust_folder / "1.root.json").read_bytes()).signed
        code = "EG-T002"
    raw = signed_metadata(signed, keys_of(classical, "attest"))
    if reach == "huge":
        raw, code = raw + b" " * 5_000_001, "EG-T002"
    with pytest.raises(TrustError) as error:
        classical.trust(NOW_NS).verify_delegated("attest", raw)
    assert error.value.code == code


@pytest.mark.parametrize("role", ["root", "targets", "release-pq", "unknown"])
def test_roles_without_metadata_of_their_own_are_refused(hybrid, role):
    """A hybrid release index would carry one family; the top level is not delegated."""
    for name in (role, "release"):
        with pytest.raises(TrustError) as error:
            hybrid.trust(NOW_NS).verify_delegated(name, b"{}")
        assert error.value.code == "EG-T005"


@pytest.mark.parametrize("kind", ["classical", HYBRID])
def test_the_tuf_library_itself_accepts_all_metadata(kind, tmp_path):
    """Its own verify_delegate, both families: root, targets, and a delegated role."""
    fleet = Fleet.create(tmp_path / "fleet", name="t", wall_ns=NOW_NS, signatures=kind)
    root = Metadata[Root].from_bytes((fleet.trust_folder / "1.root.json").read_bytes())
    targets = Metadata[Targets].from_bytes((fleet.trust_folder / "targets.json").read_bytes())
    root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    root.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
    revocation = Metadata[Targets].from_bytes(
        signed_metadata(listing("revocation"), fleet.signing_set("revocation", fleet.trust(NOW_NS)))
    )
    targets.signed.verify_delegate("revocation", revocation.signed_bytes, revocation.signatures)
    assert len(root.signatures) == (2 if kind == HYBRID else 1)


@pytest.mark.parametrize("kind", ["classical", HYBRID])
@pytest.mark.parametrize("role", ["root", "targets", "timestamp", "release", "revocation", "enrol"])
def test_a_rotated_role_has_new_keys_and_the_fleet_stays_the_same(kind, role, tmp_path):
    """Old keys sign nothing any more; the chain is signed by old and new in every family."""
    fleet = Fleet.create(tmp_path / "fleet", name="t", wall_ns=NOW_NS, signatures=kind)
    before = fleet.trust(NOW_NS)
    old = {k.keyid for groups in (before.top_groups | dict(before.groups)).values() for g in groups for k in g.keys}
    made = rotate(fleet, role, wall_ns=NOW_NS + 10**9)
    after = fleet.trust(NOW_NS + 10**9)
    top = role in ("root", "targets", "timestamp")
    assert (made.root_version, made.targets_version) == (2 if top else 1, 1 if role in ("root", "timestamp") else 2)
    groups = after.top_groups[role] if top else after.groups[role]
    fresh = [k for g in groups if g.role == role for k in g.keys]
    assert fresh
    assert not {k.keyid for k in fresh} & old
    assert all(path.parent.name == "retired" and path.stat().st_mode & 0o077 == 0 for path in made.retired)
    assert after.fleet_id == before.fleet_id
    assert fleet.trust_folder.joinpath("1.root.json").read_bytes()
    if role == "root" and kind == HYBRID:
        second = Metadata[Root].from_bytes((fleet.trust_folder / "2.root.json").read_bytes())
        assert len(second.signatures) == 4


@pytest.mark.parametrize("missing", ["old classical", "old ml-dsa", "new classical", "new ml-dsa"])
def test_a_root_rotation_needs_old_and_new_in_both_families(missing, tmp_path):
    """Whoever broke one family cannot rotate, nor can the new keys alone."""
    fleet = Fleet.create(tmp_path / "fleet", name="t", wall_ns=NOW_NS, signatures=HYBRID)
    old = {f"old {k}": f for k, f in zip(("classical", "ml-dsa"), keys_of(fleet, "root"), strict=True)}
    rotate(fleet, "root", wall_ns=NOW_NS)
    new = {f"new {k}": f for k, f in zip(("classical", "ml-dsa"), keys_of(fleet, "root"), strict=True)}
    signers = [signer for who, signer in (old | new).items() if who != missing]
    resign(fleet.trust_folder / "2.root.json", signers)
    refused(fleet.trust_folder, "EG-T003")


def test_a_rotation_that_cannot_be_signed_changes_nothing(tmp_path):
    """Without the offline keys: the folder is as it was, no stray key is left."""
    from edgeguard.errors import ProvisioningError

    fleet = Fleet.create(tmp_path / "fleet", name="t", wall_ns=NOW_NS)
    for name in ("root-1.pem", "targets-1.pem"):
        (fleet.folder / "keys" / name).unlink()
    before = {p: p.read_bytes() for p in fleet.folder.rglob("*") if p.is_file()}
    for role in ("root", "release", "enrol", "nobody"):
        with pytest.raises(ProvisioningError):
            rotate(fleet, role, wall_ns=NOW_NS)
    assert before == {p: p.read_bytes() for p in fleet.folder.rglob("*") if p.is_file()}


def test_the_largest_fleet_fits_the_limits_of_the_metadata(tmp_path):
    """Sixteen of sixteen in both families in every role, root and targets rotated: still read by every device."""
    roles = dict.fromkeys(ROLES, (16, 16))
    fleet = Fleet.create(tmp_path / "fleet", name="t", wall_ns=NOW_NS, signatures=HYBRID, roles=roles)
    rotate(fleet, "root", wall_ns=NOW_NS)
    rotate(fleet, "targets", wall_ns=NOW_NS)
    store = fleet.trust(NOW_NS)
    assert (store.root_version, store.targets_version) == (3, 2)
    assert (fleet.trust_folder / "2.root.json").stat().st_size < 512_000


@given(data=st.data())
def test_hostile_hybrid_metadata_is_one_class_of_error_or_means_the_same(hybrid, tmp_path_factory, data):
    """Flip, cut and insert anywhere in the folder and in delegated metadata."""
    folder = Path(shutil.copytree(hybrid.trust_folder, tmp_path_factory.mktemp("m") / "trust"))
    path = folder / data.draw(st.sampled_from(["1.root.json", "targets.json"]))
    raw = path.read_bytes()
    start = data.draw(st.integers(0, len(raw) - 1))
    path.write_bytes(raw[:start] + data.draw(st.binary(max_size=5)) + raw[start + data.draw(st.integers(0, 5)) :])
    store = hybrid.trust(NOW_NS)
    with suppress(TrustError):
        assert TrustStore.load(folder, NOW_NS, expect_fleet=hybrid.fleet_id).groups == store.groups
    listed = signed_metadata(listing("attest"), keys_of(hybrid, "attest"))
    at = data.draw(st.integers(0, 7000))
    changed = listed[:at] + data.draw(st.binary(max_size=4)) + listed[at + 1 :]
    for mutated in (changed, data.draw(st.binary(max_size=99))):
        with suppress(TrustError):
            assert store.verify_delegated("attest", mutated) == listing("attest")
