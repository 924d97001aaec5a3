"""Hybrid fleets, device suites, joint signing and passphrases as a person meets them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeguard.cli.main import run
from firmware_tools.cli import cli


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEGUARD_PROVISION_PASSPHRASE", raising=False)
    values = np.arange(1024, dtype=np.float32).reshape(1, -1)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, [1, 1024])],
        [info("y", TensorProto.FLOAT, [1, 1024])],
        [numpy_helper.from_array(values, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "model.onnx")
    return tmp_path


@pytest.fixture
def provision(capsys):
    """Run one command; return (exit code, JSON on stdout or its text, stderr)."""

    def call(*arguments: object) -> tuple[int, object, str]:
        capsys.readouterr()
        code = run(cli, "edgeguard-provision", [str(a) for a in arguments])
        printed = capsys.readouterr()
        try:
            return code, json.loads(printed.out), printed.err
        except ValueError:
            return code, printed.out, printed.err

    return call


JSON = ("--format", "json")


def test_a_hybrid_fleet_by_commands(place, provision):
    """One flag at init; a post-quantum device answers its challenge; a second person signs; everybody is granted."""
    hybrid = ("--signatures", "hybrid-required")
    assert provision("init", "fleet", "--name", "f", *hybrid, "--role", "revocation=2/3")[0] == 0
    keygen = ("keygen", "--trust", "fleet/trust", "--board", "rpi5", *JSON)
    for name, suite in (("pq", "mlkem768-x25519"), ("tpm", "p256"), ("old", "x25519")):
        files = ("--key", f"{name}.pem", "--request", f"{name}.json", "--name", name, "--suite", suite)
        code, made, _ = provision(*keygen, *files)
        assert code == 0
        enroll = ("enroll", "fleet", f"{name}.json", "--fingerprint", made["fingerprint"])
        if name == "pq":
            code, _, err = provision(*enroll)
            assert code == 2
            assert "EG-P015" in err
            assert "edgeguard-provision challenge" in err
            assert provision("challenge", "fleet", "pq.json", "--out", "c.json")[0] == 0
            answer = ("answer", "c.json", "--trust", "fleet/trust", "--key", "pq.pem", "--out", "a.json")
            assert provision(*answer)[0] == 0
            enroll += ("--answer", "a.json")
        assert provision(*enroll)[0] == 0
    Path("fleet/keys/release-pq-1.pem").rename("second.pem")
    pack = ("pack", "fleet", "model.onnx", "--model-id", "m", "--release", "1.0", "--pq-required")
    code, _, err = provision(*pack)
    assert code == 2
    assert "1 release-pq keys must sign" in err
    code, _, err = provision(*pack, "--partial")
    assert code == 0
    assert "edgeguard-provision sign m-1.0.bundle" in err
    code, _, err = provision("grant", "fleet", "m-1.0.bundle", "--all")
    assert code == 4
    assert "edgeguard-provision sign" in err
    sign = ("sign", "m-1.0.bundle", "--trust", "fleet/trust", "--key", "second.pem")
    code, signed, err = provision(*sign, "--yes", *JSON)
    assert code == 0
    assert signed["missing"] == []
    assert "m 1.0, channel production" in err
    code, granted, err = provision("grant", "fleet", "m-1.0.bundle", "--all", *JSON)
    assert (code, granted["granted"], granted["refused"]) == (0, 1, 2)
    assert "tpm is not granted: the model asks for a post-quantum wrap" in err
    code, status, _ = provision("status", "fleet", "m-1.0.bundle", *JSON)
    assert code == 0
    assert status["signatures"] == "hybrid-required"
    assert set(status["expires"]) >= {"root", "targets"}
    roles = {(r["role"], r["family"]): (r["threshold"], r["keys"], r["here"]) for r in status["roles"]}
    assert roles["revocation", "ML-DSA-65"] == (2, 3, 3)
    assert roles["release-pq", "ML-DSA-65"] == (1, 1, 0)
    assert status["bundles"][0]["granted"] == ["pq"]
    code, text, _ = provision("status", "fleet")
    assert code == 0
    assert "role     root        ML-DSA-65  1 of 1, 1 here" in text


def test_signing_needs_a_person_or_yes(place, provision, monkeypatch):
    """Nobody signs because a script was piped into nothing."""
    provision("init", "fleet", "--name", "f", "--release-keys", 2)
    provision("pack", "fleet", "model.onnx", "--model-id", "m", "--release", "1.0")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    sign = ("sign", "m-1.0.bundle", "--trust", "fleet/trust", "--key")
    assert "EG-P061" in provision(*sign, "fleet/keys/release-2.pem")[2]
    assert "EG-P060" in provision(*sign, "fleet/keys/enrol-1.pem", "--yes")[2]
    assert "EG-P004" in provision(*sign, "fleet/keys/grant.pem", "--yes")[2]
    code, made, _ = provision(*sign, "fleet/keys/release-1.pem", "--yes", *JSON)
    assert (code, made["signature"]) == (0, "m-1.0.bundle/model.sig")
    assert not list(Path("m-1.0.bundle/signatures").glob("*.sig"))


def test_rotation_and_the_drill_by_commands(place, provision):
    """rotate, resign, revoke: the bundle keeps its identity, and mistakes are named."""
    provision("init", "fleet", "--name", "f")
    _, packed, _ = provision("pack", "fleet", "model.onnx", "--model-id", "m", "--release", "1.0", *JSON)
    code, made, err = provision("rotate", "fleet", "release", *JSON)
    assert (code, made["targets"], made["keys"]) == (0, 2, ["fleet/keys/release-2.pem"])
    assert "copy fleet/trust to each device again" in err
    assert "EG-S001" in provision("status", "fleet", "m-1.0.bundle")[2]
    code, again, _ = provision("resign", "fleet", "m-1.0.bundle", *JSON)
    assert (code, again["m-1.0.bundle"]) == (0, packed["identity"])
    assert provision("revoke", "fleet", "--signer", "fleet/public/release-1.pem")[0] == 0
    assert provision("status", "fleet", "m-1.0.bundle")[0] == 0
    code, _, err = provision("rotate", "fleet", "nobody")
    assert code == 2
    assert "roles: root, targets" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--role", "revocation=3/2"),
        ("--role", "revocation"),
        ("--role", "release-pq=1/1"),
        ("--role", "king=1/1"),
        ("--role", "enrol=1/17"),
        ("--signatures", "none"),
    ],
)
def test_an_init_that_makes_no_sense_makes_nothing(place, provision, arguments):
    """Named, with exit code 2, and no folder is left."""
    code, out, err = provision("init", "fleet", "--name", "f", *arguments)
    assert (code, out) == (2, "")
    assert "error" in err.lower()
    assert not Path("fleet").exists()


@pytest.mark.parametrize("source", ["file", "environment"])
def test_a_passphrase_closes_every_key_and_opens_them_again(place, provision, monkeypatch, source):
    """From a file or the environment; without it the fleet signs nothing and says what to check."""
    options: tuple[str, ...] = ()
    if source == "file":
        Path("pass").write_text("correct horse\n")
        Path("pass").chmod(0o600)
        options = ("--passphrase-file", "pass")
    else:
        monkeypatch.setenv("EDGEGUARD_PROVISION_PASSPHRASE", "correct horse")
    assert provision(*options, "init", "fleet", "--name", "f")[0] == 0
    assert all(b"ENCRYPTED" in path.read_bytes() for path in Path("fleet/keys").iterdir())
    keygen = ("keygen", "--trust", "fleet/trust", "--key", "d.pem", "--request", "d.json", "--name", "d", *JSON)
    _, made, _ = provision(*options, *keygen)
    assert b"ENCRYPTED" in Path("d.pem").read_bytes()
    assert provision(*options, "enroll", "fleet", "d.json", "--fingerprint", made["fingerprint"])[0] == 0
    pack = ("pack", "fleet", "model.onnx", "--model-id", "m", "--release", "1.0")
    assert provision(*options, *pack)[0] == 0
    assert provision(*options, "grant", "fleet", "m-1.0.bundle", "d")[0] == 0
    monkeypatch.delenv("EDGEGUARD_PROVISION_PASSPHRASE", raising=False)
    code, _, err = provision("pack", "fleet", "model.onnx", "--model-id", "m", "--release", "2.0")
    assert code == 2
    assert "EG-P004" in err
    assert "passphrase" in err


def test_a_passphrase_is_asked_for_and_never_an_argument(place, provision, monkeypatch):
    """Twice where it will encrypt keys; two different answers make nothing; the value appears nowhere."""
    answers = iter(["correct horse", "correct horse"])
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda prompt: next(answers))
    code, out, err = provision("--ask-passphrase", "init", "fleet", "--name", "f")
    assert code == 0
    assert "horse" not in str(out) + err
    assert b"ENCRYPTED" in Path("fleet/keys/release-1.pem").read_bytes()
    assert not any("passphrase" in p.name for p in cli.commands["init"].params)


@pytest.mark.parametrize(
    ("content", "mode", "code"), [("short\n", 0o600, "K007"), ("\n", 0o600, "K007"), ("good enough", 0o644, "K002")]
)
def test_a_careless_passphrase_file_is_refused(place, provision, content, mode, code):
    """Too short, empty, or readable by others; nothing is made."""
    Path("pass").write_text(content)
    Path("pass").chmod(mode)
    result, _, err = provision("--passphrase-file", "pass", "init", "fleet", "--name", "f")
    assert result == 4
    assert code in err
    assert not Path("fleet").exists()


def test_grant_wants_names_or_all(place, provision):
    """Neither nor both."""
    provision("init", "fleet", "--name", "f")
    provision("pack", "fleet", "model.onnx", "--model-id", "m", "--release", "1.0")
    for names in ((), ("d", "--all")):
        code, _, err = provision("grant", "fleet", "m-1.0.bundle", *names)
        assert code == 2
        assert "EG-P003" in err
