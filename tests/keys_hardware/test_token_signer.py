"""Release and offline keys on a real PKCS#11 token: a fleet made, a model packed and signed, a role rotated."""

from __future__ import annotations

import gc
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key

from edgeguard.bundle.verify import verify_bundle
from edgeguard.cli.main import run
from edgeguard.errors import EdgeGuardError, SignatureError
from edgeguard.keys.public_key import of_p256
from firmware_tools.cli import cli
from firmware_tools.fleet import Fleet
from firmware_tools.pack import Release, pack_model
from firmware_tools.pkcs11_signer import Pkcs11Signer
from firmware_tools.rotate import rotate
from firmware_tools.sign import add_signature
from firmware_tools.signer import open_signer, open_token_signer

NOW_NS = 1_790_000_000_000_000_000


@pytest.fixture
def address(softhsm, tmp_path):
    """Makes signing keys on the token; gives their addresses."""

    def make(name: str, new: bool = True) -> str:
        uri = str(softhsm(label=f"{name}-{tmp_path.name}"))
        if new:
            open_token_signer(uri, new=True).close()
        return uri

    return make


def refused(code: str, call) -> EdgeGuardError:
    with pytest.raises(EdgeGuardError) as error:
        call()
    assert error.value.code == code, error.value
    return error.value


def test_signatures_verify_with_the_public_half_and_are_bound_to_the_message(address):
    """ECDSA P-256 with SHA-256 in DER, checked with cryptography's own verifier."""
    signer = open_signer(address("release"))
    public = serialization.load_pem_public_key(signer.public_pem())
    for message in (b"", b"DSSEv1 payload", b"x" * 100_000):
        signature = signer.sign(message)
        public.verify(signature, message, ECDSA(hashes.SHA256()))  # type: ignore[union-attr, call-arg]
        signer.public_key().verify(signature, message)
        with pytest.raises(SignatureError):
            signer.public_key().verify(signature, message + b"x")


def test_a_public_key_that_somebody_planted_is_not_taken_for_the_signer_s(softhsm, plant, tmp_path):
    """A root that names it would belong to the planter."""
    uri = softhsm(label=f"planted-{tmp_path.name}")
    before, *after = (of_p256(generate_private_key(SECP256R1()).public_key()) for _ in range(6))
    plant(uri, b"\x04\x41" + before.point)
    made = open_token_signer(str(uri), new=True)
    for key in after:
        plant(uri, b"\x04\x41" + key.point)
    again = open_signer(str(uri))
    assert made.public_key() == again.public_key()
    assert again.public_key().public_der not in {key.der for key in (before, *after)}
    again.public_key().verify(made.sign(b"message"), b"message")
    genuine = made._matching([before.key, made._public])  # the token lists its objects in any order
    assert genuine == made._public
    refused("EG-K015", lambda: made._matching([before.key]))


def test_a_signing_key_is_no_device_key_and_the_reverse(address):
    """One key, one use: the attributes on the token say which."""
    from edgeguard.keys.open_key import generate_key, open_key

    signing, device = address("one-use"), address("device-use", new=False)
    generate_key(device)
    refused("EG-K015", lambda: open_key(signing))
    refused("EG-K015", lambda: open_signer(device))
    refused("EG-K001", lambda: open_token_signer(signing, new=True))
    refused("EG-K001", lambda: open_signer(address("nothing", new=False)))


def test_a_fleet_with_keys_on_a_token_packs_what_devices_accept(address, site, tmp_path):
    """Release and root keys on the token: no private file of theirs, the address without the PIN, OMS verifies."""
    keys = {"release": [address("release")], "root": [address("root")]}
    fleet = Fleet.create(tmp_path / "f", name="t", wall_ns=NOW_NS - 10**9, token_keys=keys)
    names = {path.name for path in (fleet.folder / "keys").iterdir()}
    assert {"release-1.uri", "root-1.uri"} <= names
    assert not {"release-1.pem", "root-1.pem"} & names
    kept = (fleet.folder / "keys" / "release-1.uri").read_text()
    assert "4711-pin" not in kept
    pack_model(fleet, site / "m.onnx", tmp_path / "m.bundle", release=Release("m", "1"), wall_ns=NOW_NS)
    statement = verify_bundle(tmp_path / "m.bundle", fleet.trust(NOW_NS), wall_ns=NOW_NS).statement
    assert statement.signers == (open_signer(keys["release"][0]).public_key().keyid,)
    public = fleet.folder / "public" / "release-1.pem"
    assert run_edgeguard(["verify", str(tmp_path / "m.bundle"), "--public-key", str(public)]) == 0


def run_edgeguard(arguments: list[str]) -> int:
    from edgeguard.cli.main import cli as device

    return run(device, "edgeguard", arguments)


def test_somebody_with_a_token_adds_a_release_signature(address, site, tmp_path, capsys):
    """`sign --key pkcs11:...`; a key that targets does not name is refused before anything is signed."""
    keys = {"release": [address("first"), address("second")]}
    fleet = Fleet.create(
        tmp_path / "f", name="t", wall_ns=NOW_NS - 10**9, release_keys=2, release_threshold=2, token_keys=keys
    )
    bundle = tmp_path / "m.bundle"
    (fleet.folder / "keys" / "release-2.uri").unlink()
    pack_model(fleet, site / "m.onnx", bundle, release=Release("m", "1"), wall_ns=NOW_NS, partial=True)
    trust = fleet.trust(NOW_NS)
    with pytest.raises(SignatureError):
        verify_bundle(bundle, trust, wall_ns=NOW_NS)
    stranger = open_signer(address("stranger"))
    refused("EG-P060", lambda: add_signature(bundle, trust, stranger, confirm=lambda _: True, wall_ns=NOW_NS))
    arguments = ["sign", str(bundle), "--trust", str(fleet.trust_folder), "--key", keys["release"][1], "--yes"]
    assert run(cli, "edgeguard-provision", [*arguments, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == []
    assert len(verify_bundle(bundle, trust, wall_ns=NOW_NS).statement.signers) == 2


def test_a_role_on_a_token_is_rotated_to_a_token(address, tmp_path):
    """Never silently to a file; never to the same key; after an error the fleet is as before."""
    old = address("old")
    fleet = Fleet.create(tmp_path / "f", name="t", wall_ns=NOW_NS - 10**9, token_keys={"release": [old]})
    before = sorted(path.name for path in (fleet.folder / "keys").iterdir())
    refused("EG-P003", lambda: rotate(fleet, "release", wall_ns=NOW_NS))
    refused("EG-P003", lambda: rotate(fleet, "release", wall_ns=NOW_NS, token_keys=[old]))
    refused("EG-P003", lambda: rotate(fleet, "release", wall_ns=NOW_NS, token_keys=[old, old]))
    assert sorted(path.name for path in (fleet.folder / "keys").iterdir()) == before
    new = address("new")
    made = rotate(fleet, "release", wall_ns=NOW_NS, token_keys=[new])
    assert [path.name for path in made.keys] == ["release-2.uri"]
    assert [path.name for path in made.retired] == ["release-1.uri"]
    trust = fleet.trust(NOW_NS)
    assert fleet.signing_set("release", trust)[0].public_key().keyid == open_signer(new).public_key().keyid
    assert (fleet.folder / "public" / "release-2.pem").read_bytes() == open_signer(new).public_pem()


def test_root_on_a_token_signs_the_next_root(address, tmp_path):
    """The offline ceremony: targets get new keys under a root that only the token can sign."""
    fleet = Fleet.create(tmp_path / "f", name="t", wall_ns=NOW_NS - 10**9, token_keys={"root": [address("root")]})
    made = rotate(fleet, "targets", wall_ns=NOW_NS)
    assert made.root_version == 2
    assert fleet.trust(NOW_NS).root_version == 2


@pytest.mark.parametrize("wrong", ["role", "twice", "too many", "pq"])
def test_a_token_key_that_cannot_be_placed_makes_no_fleet(wrong, address, tmp_path):
    """No such role, one key for two roles, more keys than the role has, a family that tokens do not have."""
    one = address("one")
    given = {
        "role": {"nobody": [one]},
        "twice": {"release": [one], "root": [one]},
        "too many": {"release": [one, address("two")]},
        "pq": {"release-pq": [one]},
    }[wrong]
    signatures = "hybrid-required" if wrong == "pq" else "classical"
    refused(
        "EG-P003",
        lambda: Fleet.create(tmp_path / "f", name="t", wall_ns=NOW_NS, token_keys=given, signatures=signatures),
    )
    assert not (tmp_path / "f").exists()


def test_a_token_without_its_pin_or_module_signs_nothing(address, softhsm, tmp_path):
    """What device keys refuse, signers refuse."""
    gc.collect()  # signers of other tests that nobody holds any more, and their login
    uri = softhsm(label=f"release-{tmp_path.name}")
    open_token_signer(str(uri), new=True).close()
    refused("EG-K011", lambda: Pkcs11Signer(uri, lambda: b"0000"))
    wrong = replace(uri, module_sha256=hashlib.sha256(b"another").hexdigest())
    refused("EG-K016", lambda: Pkcs11Signer(wrong, lambda: b"4711-pin"))
    (tmp_path / "release-1.uri").write_text("pkcs11:token=eg\n")
    (tmp_path / "release-1.uri").chmod(0o600)
    refused("EG-C060", lambda: open_signer(tmp_path / "release-1.uri"))


def test_init_and_token_key_on_the_command_line(address, tmp_path, capsys):
    """The two commands of docs/keys.md."""
    release = address("cli", new=False)
    out = tmp_path / "release.pem"
    assert run(cli, "edgeguard-provision", ["token-key", release, "--out", str(out), "--format", "json"]) == 0
    keyid = json.loads(capsys.readouterr().out)["keyid"]
    assert keyid == hashlib.sha256(out.read_bytes()).hexdigest()
    arguments = ["init", str(tmp_path / "f"), "--name", "t", "--token-key", f"release={release}"]
    assert run(cli, "edgeguard-provision", arguments) == 0
    assert Path(tmp_path / "f" / "keys" / "release-1.uri").read_text().strip() == release
    assert run(cli, "edgeguard-provision", ["init", str(tmp_path / "g"), "--name", "t", "--token-key", "release"]) != 0
    assert "EG-P003" in capsys.readouterr().err
