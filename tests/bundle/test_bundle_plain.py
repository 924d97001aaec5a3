"""Plain folders signed by the public tool: what it signs we verify, and nothing that is not covered passes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import model_signing
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeguard.bundle.plain import verify_plain
from edgeguard.bundle.plain_tree import MAX_DEPTH
from edgeguard.cli.main import cli, run
from edgeguard.errors import BundleFormatError, EdgeGuardError, KeyUnavailableError, SignatureError

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
HASHES = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
STATEMENT_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class Plain:
    """A folder, a key pair, and a signature of our own making for what the public tool would not sign."""

    folder: Path
    private_key: ec.EllipticCurvePrivateKey
    private_pem: Path
    public_pem: Path

    def sign_publicly(self, **config: object) -> None:
        """Sign with the released tool's API."""
        hashing = model_signing.hashing.Config()
        if "shard_size" in config:
            hashing.use_shard_serialization(hashing_algorithm="sha256", shard_size=config["shard_size"])
        elif "hashing_algorithm" in config:
            hashing.use_file_serialization(hashing_algorithm=config["hashing_algorithm"])
        hashing.set_ignored_paths(
            paths=[self.folder / "model.sig", *config.get("ignored", [])],
            ignore_git_paths=config.get("ignore_git_paths", True),
        )
        signing = model_signing.signing.Config().use_elliptic_key_signer(private_key=self.private_pem)
        signing.set_hashing_config(hashing).sign(self.folder, self.folder / "model.sig")

    def statement(self) -> dict:
        envelope = json.loads((self.folder / "model.sig").read_bytes())["dsseEnvelope"]
        return json.loads(base64.b64decode(envelope["payload"]))

    def sign_payload(self, payload: bytes, *, kind: str = STATEMENT_TYPE, message: bytes | None = None) -> None:
        """Write model.sig over any payload, correctly signed."""
        if message is None:
            message = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
        signature = self.private_key.sign(message, ec.ECDSA(HASHES[self.private_key.key_size]))
        bundle = json.loads((self.folder / "model.sig").read_bytes())
        bundle["dsseEnvelope"] |= {"payload": base64.b64encode(payload).decode(), "payloadType": kind}
        bundle["dsseEnvelope"]["signatures"] = [{"sig": base64.b64encode(signature).decode(), "keyid": ""}]
        (self.folder / "model.sig").write_text(json.dumps(bundle))

    def resign(self, change: Callable[[dict], object]) -> None:
        statement = self.statement()
        change(statement)
        digests = b"".join(bytes.fromhex(r["digest"]) for r in statement["predicate"]["resources"])
        for subject in statement["subject"]:
            subject["digest"]["sha256"] = hashlib.sha256(digests).hexdigest()
        self.sign_payload(json.dumps(statement).encode())


def make(folder: Path, curve: ec.EllipticCurve) -> Plain:
    model = folder / "detector"
    (model / "variables" / "deep").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "variables" / "weights.bin").write_bytes(os.urandom(70_000))
    (model / "variables" / "deep" / "größe ☃.bin").write_bytes(b"x" * 3000)
    key = ec.generate_private_key(curve)
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return Plain(model, key, private, public)


@pytest.fixture
def plain(tmp_path: Path) -> Plain:
    """A folder signed by the public tool with its defaults."""
    made = make(tmp_path, CURVES["P-256"])
    made.sign_publicly()
    return made


def refused(plain: Plain, kind: type[EdgeGuardError] = EdgeGuardError, code: str = "", **arguments: object) -> None:
    with pytest.raises(kind) as error:
        verify_plain(plain.folder, plain.public_pem, **arguments)
    assert not code or error.value.code == code, error.value


def test_the_command_of_the_public_tool_and_ours_agree(plain, tmp_path, capsys):
    """Signed by its command line with its defaults, verified by ours, in both formats of output."""
    (plain.folder / "model.sig").unlink()
    (plain.folder / ".gitattributes").write_text("*.bin -diff")
    elsewhere = tmp_path / "elsewhere.sig"
    for signature in (elsewhere, plain.folder / "model.sig"):
        arguments = ["sign", "key", str(plain.folder), "--private_key", str(plain.private_pem)]
        subprocess.run(
            [sys.executable, "-m", "model_signing", *arguments, "--signature", str(signature)],
            check=True,
            capture_output=True,
        )
    base = ["verify", str(plain.folder), "--public-key", str(plain.public_pem)]
    assert run(cli, "edgeguard", [*base, "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["verified"] is True
    assert facts["files"] == 3
    assert facts["uncovered"] == [".gitattributes", "model.sig"]
    assert "no policy" in facts["scope"]
    assert run(cli, "edgeguard", base) == 0
    assert "not covered  '.gitattributes', 'model.sig'" in capsys.readouterr().out
    (plain.folder / "model.sig").unlink()
    assert run(cli, "edgeguard", [*base, "--signature", str(elsewhere)]) == 0
    assert run(cli, "edgeguard", base) == 4
    assert "--signature" in capsys.readouterr().err


def test_options_of_bundles_do_not_go_with_a_public_key(plain, capsys, monkeypatch):
    """Nobody should think that trust or counters were looked at; what the environment sets does not matter."""
    base = ["verify", str(plain.folder), "--public-key", str(plain.public_pem)]
    assert run(cli, "edgeguard", [*base, "--trust", str(plain.folder)]) == 2
    assert run(cli, "edgeguard", ["verify", str(plain.folder)]) == 2
    assert run(cli, "edgeguard", ["verify", str(plain.folder), "--trust", "x", "--signature", "y"]) == 2
    monkeypatch.setenv("EDGEGUARD_TRUST", "/nowhere")
    assert run(cli, "edgeguard", base) == 0
    capsys.readouterr()


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize(
    "config", [{}, {"shard_size": 1000}, {"shard_size": 10**9}, {"hashing_algorithm": "blake2"}], ids=str
)
def test_what_the_public_tool_signs_is_verified_for_every_curve_and_serialization(tmp_path, curve, config):
    """Whole files, shards, BLAKE2; and an altered byte is refused for each."""
    plain = make(tmp_path, CURVES[curve])
    plain.sign_publicly(**config)
    verified = verify_plain(plain.folder, plain.public_pem)
    assert (verified.files, verified.size_bytes) == (3, 73_002)
    assert verified.method == ("shards" if "shard_size" in config else "files")
    weights = plain.folder / "variables" / "weights.bin"
    raw = bytearray(weights.read_bytes())
    raw[69_999] ^= 1
    weights.write_bytes(raw)
    refused(plain, SignatureError, "EG-S004")


def test_blake3_is_refused_by_name(plain):
    """Not a wrong digest but an unsupported one, and the message says so."""
    (plain.folder / "model.sig").unlink()
    plain.sign_publicly(hashing_algorithm="blake3")
    with pytest.raises(BundleFormatError, match="blake3"):
        verify_plain(plain.folder, plain.public_pem)


def test_our_own_bundles_verify_as_plain_folders_too(world):
    """The ignore set of the bundle format is known; the result says what it leaves out."""
    verified = verify_plain(world.bundle, world.fleet.folder / "public" / "release-1.pem")
    assert {"model.sig", "recipients"} <= set(verified.uncovered) <= {"model.sig", "recipients", "signatures"}


def _symlink(plain):
    (plain.folder / "link").symlink_to("config.json")


def _symlink_for_a_file(plain):
    path = plain.folder / "config.json"
    path.rename(plain.folder.parent / "moved")
    path.symlink_to(plain.folder.parent / "moved")


def _symlink_for_a_folder(plain):
    path = plain.folder / "variables"
    path.rename(plain.folder.parent / "moved")
    path.symlink_to(plain.folder.parent / "moved")


def _fifo(plain):
    os.mkfifo(plain.folder / "variables" / "pipe")


def _too_deep(plain):
    (plain.folder / "/".join(["d"] * MAX_DEPTH)).mkdir(parents=True)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda p: (p.folder / "extra").write_bytes(b""), "EG-B005"),
        (lambda p: (p.folder / "variables" / ".hidden").write_bytes(b"x"), "EG-B005"),
        (lambda p: (p.folder / "variables" / "model.sig").write_bytes(b"x"), "EG-B005"),
        (lambda p: (p.folder / "config.json").unlink(), "EG-B005"),
        (lambda p: (p.folder / "config.json").rename(p.folder / "Config.json"), "EG-B005"),
        (lambda p: (p.folder / "config.json").write_text("{ }"), "EG-S004"),
        (_symlink, "EG-B002"),
        (_symlink_for_a_file, "EG-B002"),
        (_symlink_for_a_folder, "EG-B002"),
        (_fifo, "EG-B002"),
        (_too_deep, "EG-B005"),
    ],
)
def test_a_folder_that_is_not_what_was_signed_is_refused(plain, change, code):
    """Extra, hidden, missing, renamed, changed; links, pipes, depth."""
    verify_plain(plain.folder, plain.public_pem)
    change(plain)
    refused(plain, EdgeGuardError, code)


@pytest.mark.parametrize("ignored", [["variables"], ["."], [""], ["config.json"], ["/etc"], [".."], ["recipients"]])
def test_a_wider_ignore_set_is_refused_although_the_key_signed_it(plain, ignored):
    """What is ignored can be replaced by anybody."""
    plain.resign(lambda s: s["predicate"]["serialization"]["ignore_paths"].extend(ignored))
    refused(plain, BundleFormatError, "EG-B007")


def test_links_that_were_signed_to_be_followed_are_refused(plain):
    """allow_symlinks says that what lies elsewhere counts."""
    plain.resign(lambda s: s["predicate"]["serialization"].update(allow_symlinks=True))
    refused(plain, BundleFormatError, "EG-B007")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda s: s["subject"].append(s["subject"][0]), "EG-B004"),
        (lambda s: s["subject"].clear(), "EG-B004"),
        (lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"), "EG-B004"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"), "EG-B004"),
        (lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]), "EG-B006"),
        (lambda s: s["predicate"]["resources"].clear(), "EG-B004"),
        (lambda s: s["predicate"]["resources"][0].update(name="../config.json"), "EG-B005"),
        (lambda s: s["predicate"]["resources"][0].update(name="./config.json"), "EG-B005"),
        (lambda s: s["predicate"]["resources"][0].update(name="a\0b"), "EG-B005"),
        (lambda s: s["predicate"]["resources"][0].update(algorithm="blake2b"), "EG-B007"),
        (lambda s: s["predicate"]["serialization"].update(hash_type="md5"), "EG-B007"),
        (lambda s: s["predicate"]["serialization"].update(method="shards"), "EG-B004"),
        (lambda s: s["predicate"]["serialization"].update(method="shards", shard_size=0), "EG-B004"),
        (lambda s: s["predicate"]["serialization"].update(method="other"), "EG-B004"),
    ],
)
def test_a_signed_statement_that_says_something_else_is_refused(plain, change, code):
    """Each is correctly signed by the right key."""
    plain.resign(change)
    refused(plain, BundleFormatError, code)


@pytest.mark.parametrize(
    "cut",
    [
        lambda r: r[1:],
        lambda r: r[:-1],
        lambda r: [r[0], *r[2:]],
        lambda r: [{**r[0], "name": r[0]["name"].replace(":0:", ":5:")}, *r[1:]],
        lambda r: [{**r[0], "name": r[0]["name"].replace(":1000", ":0")}, *r[1:]],
    ],
)
def test_shards_with_a_gap_are_refused(tmp_path, cut):
    """Every byte of every file must be covered."""
    plain = make(tmp_path, CURVES["P-256"])
    (plain.folder / "config.json").unlink()
    plain.sign_publicly(shard_size=1000)

    def change(statement):
        statement["predicate"]["resources"] = cut(statement["predicate"]["resources"])

    plain.resign(change)
    refused(plain)


def test_a_root_digest_that_does_not_fit_is_refused(plain):
    """The subject is the digest of the digests."""
    statement = plain.statement()
    statement["subject"][0]["digest"]["sha256"] = "00" * 32
    plain.sign_payload(json.dumps(statement).encode())
    refused(plain, BundleFormatError, "EG-B006")


def test_the_old_encoding_and_another_payload_type_are_refused(plain):
    """The public tool still takes the encoding of its version 0.2; a signature of another kind is not ours."""
    payload = json.dumps(plain.statement()).encode()
    old = f"DSSEV1 {len(STATEMENT_TYPE)} {STATEMENT_TYPE} {len(payload)} {payload!r}".encode()
    plain.sign_payload(payload, message=old)
    refused(plain, SignatureError, "EG-S002")
    plain.sign_payload(payload, kind="text/plain")
    refused(plain, BundleFormatError, "EG-B004")


@pytest.mark.parametrize("payload", [b'{"a":1,"a":1}', b"[" * 100_000, b"\xff", b"null", b'{"a":NaN}', b""])
def test_signed_json_that_could_be_read_two_ways_is_refused(plain, payload):
    """Duplicate keys, depth, encodings; in the payload and around it."""
    plain.sign_payload(payload)
    refused(plain, BundleFormatError)
    (plain.folder / "model.sig").write_bytes(payload)
    refused(plain, BundleFormatError)


def test_duplicate_keys_in_the_envelope_are_refused(plain):
    """Two readers could see two payloads."""
    raw = (plain.folder / "model.sig").read_text()
    (plain.folder / "model.sig").write_text(raw.replace('"mediaType":', '"mediaType":"x","mediaType":', 1))
    refused(plain, BundleFormatError, "EG-B003")


def test_two_signatures_or_none_are_refused(plain):
    """Which one would count?"""
    bundle = json.loads((plain.folder / "model.sig").read_text())
    one = bundle["dsseEnvelope"]["signatures"][0]
    for signatures in ([], [one, one]):
        bundle["dsseEnvelope"]["signatures"] = signatures
        (plain.folder / "model.sig").write_text(json.dumps(bundle))
        refused(plain, BundleFormatError, "EG-B004")


def test_another_key_is_named_and_a_forged_hint_does_not_help(plain, tmp_path):
    """The hint only makes the message better."""
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other", CURVES["P-256"])
    with pytest.raises(SignatureError) as error:
        verify_plain(plain.folder, other.public_pem)
    assert error.value.code == "EG-S001"
    other.sign_publicly()
    bundle = json.loads((plain.folder / "model.sig").read_text())
    theirs = json.loads((other.folder / "model.sig").read_text())
    bundle["verificationMaterial"] = theirs["verificationMaterial"]
    (plain.folder / "model.sig").write_text(json.dumps(bundle))
    with pytest.raises(SignatureError) as error:
        verify_plain(plain.folder, other.public_pem)
    assert error.value.code == "EG-S002"


def test_a_certificate_is_not_taken_for_a_key(plain):
    """The message names the tool that reads those."""
    bundle = json.loads((plain.folder / "model.sig").read_text())
    bundle["verificationMaterial"] = {"x509CertificateChain": {"certificates": []}, "tlogEntries": []}
    (plain.folder / "model.sig").write_text(json.dumps(bundle))
    refused(plain, SignatureError, "EG-S001")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\n", b"\0" * 70_000, None, "private", "ed25519"])
def test_what_is_no_usable_public_key_is_refused(plain, tmp_path, content):
    """Empty, cut, huge, missing, private, another kind."""
    path = tmp_path / "key.pem"
    if content == "private":
        content = plain.private_pem.read_bytes()
    elif content == "ed25519":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        content = (
            Ed25519PrivateKey.generate()
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyUnavailableError) as error:
        verify_plain(plain.folder, path)
    assert error.value.code == "EG-K010"


def test_what_is_no_folder_or_no_signature_is_refused(plain, tmp_path):
    """Missing, a file, a link to a folder; a signature that is a pipe does not block."""
    refused(plain, BundleFormatError, "EG-B002", signature=tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    refused(plain, BundleFormatError, "EG-B002", signature=tmp_path / "pipe")
    (tmp_path / "link").symlink_to(plain.folder)
    for folder in (tmp_path / "link", plain.public_pem):
        with pytest.raises(BundleFormatError) as error:
            verify_plain(folder, plain.public_pem, signature=plain.folder / "model.sig")
        assert error.value.code == "EG-B001"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_a_mutated_signature_file_never_verifies_and_never_raises_a_foreign_error(plain, data):
    """Cut, replaced and inserted bytes."""
    path = plain.folder / "model.sig"
    raw = path.read_bytes()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 40)))
    changed = raw[:start] + data.draw(st.binary(max_size=40)) + raw[end:]
    mutated = plain.folder.parent / "mutated.sig"
    mutated.write_bytes(changed)
    try:
        verify_plain(plain.folder, plain.public_pem, signature=mutated)
    except EdgeGuardError:
        return
    # The envelope is not signed: other spellings of the same values are the same signature.
    assert json.loads(changed)["dsseEnvelope"]["payload"] == json.loads(raw)["dsseEnvelope"]["payload"]
