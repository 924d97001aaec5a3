"""`edgeguard-provision`, `edgeguard verify` and `edgeguard inspect` as a person meets them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeguard.cli.inspect import command as inspect_command
from edgeguard.cli.main import run
from edgeguard.cli.verify import command as verify_command
from firmware_tools.cli import cli


def provision(*arguments: object) -> int:
    return run(cli, "edgeguard-provision", [str(a) for a in arguments])


def verify(*arguments: object) -> int:
    return run(verify_command, "edgeguard", [str(a) for a in arguments])


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
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


def test_the_whole_road_by_commands(place, capsys):
    """Six commands from an empty folder to a verified and decrypted model; JSON is JSON."""
    assert provision("init", "fleet", "--name", "demo", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["trust"] == "fleet/trust"
    keygen = ["keygen", "--trust", "fleet/trust", "--key", "device.pem", "--request", "request.json", "--name", "cam-1"]
    keygen += ["--state", "state"]
    assert provision(*keygen, "--format", "json") == 0
    fingerprint = json.loads(capsys.readouterr().out)["fingerprint"]
    assert provision("enroll", "fleet", "request.json", "--fingerprint", fingerprint) == 0
    assert provision("pack", "fleet", "model.onnx", "--model-id", "m", "--release", "1.0") == 0
    assert provision("grant", "fleet", "m-1.0.bundle", "cam-1") == 0
    capsys.readouterr()
    assert provision("status", "fleet", "m-1.0.bundle", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["bundles"][0]["granted"] == ["cam-1"]
    device = ["--key", "device.pem", "--state", "state"]
    assert verify("m-1.0.bundle", "--trust", "fleet/trust", *device, "--format", "json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["verified"] is True
    assert facts["decrypted"] is True
    assert run(inspect_command, "edgeguard", ["m-1.0.bundle"]) == 0
    assert "NOT VERIFIED" in capsys.readouterr().out


def test_errors_go_to_stderr_with_a_hint_and_an_exit_code(place, capsys):
    """One shape for every refusal: error, code, hint; nothing on stdout."""
    provision("init", "fleet", "--name", "demo")
    provision("pack", "fleet", "model.onnx", "--model-id", "m", "--release", "1.0")
    capsys.readouterr()
    for outcome, code, text in (
        (lambda: provision("init", "fleet", "--name", "demo"), 2, "EG-P001"),
        (lambda: provision("status", "nowhere"), 2, "EG-P002"),
        (lambda: provision("grant", "fleet", "m-1.0.bundle", "cam-1"), 2, "EG-P013"),
        (lambda: verify("model.onnx", "--trust", "fleet/trust"), 4, "EG-U001"),
        (lambda: verify("m-1.0.bundle", "--trust", "nowhere"), 4, "EG-T001"),
        (lambda: verify("m-1.0.bundle", "--trust", "fleet/trust", "--model-id", "other"), 4, "EG-T011"),
        (lambda: run(inspect_command, "edgeguard", ["fleet"]), 4, "EG-B002"),
        (lambda: provision("pack", "fleet", "model.onnx", "--model-id", "m"), 2, "--release"),
        (
            lambda: provision("pack", "fleet", "model.onnx", "--model-id", "m", "--release", "2", "--counter", "x"),
            2,
            "P003",
        ),
        (
            lambda: provision("pack", "fleet", "model.onnx", "--model-id", "m", "--release", "2", "--expires", "x"),
            2,
            "P003",
        ),
    ):
        assert outcome() == code, text
        printed = capsys.readouterr()
        assert printed.out == ""
        assert text in printed.err


def test_enroll_asks_nobody_when_nobody_is_there(place, capsys, monkeypatch):
    """Without a terminal and without --fingerprint the answer is no."""
    provision("init", "fleet", "--name", "demo")
    provision("keygen", "--trust", "fleet/trust", "--key", "k.pem", "--request", "r.json", "--name", "cam-1")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert provision("enroll", "fleet", "r.json") == 2
    assert "EG-P011" in capsys.readouterr().err
    assert provision("enroll", "fleet", "r.json", "--fingerprint", "00" * 32) == 2


def test_a_damaged_bundle_is_named_with_exit_code_four(place, capsys):
    """verify says which file and which bytes."""
    provision("init", "fleet", "--name", "demo")
    provision("pack", "fleet", "model.onnx", "--model-id", "m", "--release", "1.0")
    payload = place / "m-1.0.bundle" / "payload" / "001.egc"
    raw = bytearray(payload.read_bytes())
    raw[100] ^= 1
    payload.write_bytes(raw)
    assert verify("m-1.0.bundle", "--trust", "fleet/trust") == 4
    assert "payload/001.egc is damaged or altered between bytes 0 and" in capsys.readouterr().err


def test_a_keygen_that_fails_leaves_nothing(place, capsys):
    """No key that nobody has seen, no request without its key; whoever calls again finds the place as it was."""
    assert provision("init", "fleet", "--name", "demo") == 0
    made = ["keygen", "--trust", "fleet/trust", "--key", "device.pem", "--request", "request.json"]
    (place / "taken").mkdir()
    (place / "taken" / "device.state").write_bytes(b"")
    before = sorted(place.rglob("*"))
    for further in (
        ["--name", "not a name"],
        ["--name", "cam-1", "--state", "taken"],
        ["--name", "cam-1", "--board", ""],
        ["--name", "cam-1", "--state", "model.onnx"],
    ):
        assert provision(*made, *further) != 0, further
        assert [path for path in sorted(place.rglob("*")) if path.name != "lock"] == before, further
    capsys.readouterr()
    assert provision(*made, "--name", "cam-1", "--state", "state") == 0
    assert "edgeguard-provision enroll FLEET request.json" in capsys.readouterr().err
    key = (place / "device.pem").read_bytes()
    assert provision(*made, "--name", "cam-2") != 0
    assert "never overwritten" in capsys.readouterr().err
    assert (place / "device.pem").read_bytes() == key


def test_a_folder_that_another_tool_signed_is_told_how_to_be_checked(place, capsys):
    """The public tool's signature in the place of a bundle's: the refusal names the option for it."""
    assert provision("init", "fleet", "--name", "demo") == 0
    (place / "plain").mkdir()
    (place / "plain" / "model.sig").write_text('{"mediaType": "x"}')
    capsys.readouterr()
    assert verify("plain", "--trust", "fleet/trust") == 4
    assert "--public-key" in capsys.readouterr().err


def test_a_name_that_cannot_be_used_is_said_in_words(place, capsys):
    """No pattern of a schema, and nothing is encrypted first."""
    assert provision("init", "fleet", "--name", "demo") == 0
    for words in (["--model-id", "a b", "--release", "1"], ["--model-id", "m", "--release", "../1"],
                  ["--model-id", "m", "--release", "1", "--board", "x" * 65]):  # fmt: skip
        capsys.readouterr()
        assert provision("pack", "fleet", "model.onnx", *words, "--out", "b") == 2
        error = capsys.readouterr().err
        assert "EG-P003" in error
        assert "letters, digits" in error
        assert "regex" not in error
