"""Which boards get ChaCha20: those without AES instructions, however their name is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firmware_tools.boards import cipher_for, has_aes_instructions

AES, CHACHA = "aes-256-gcm-c2sp", "chacha20-poly1305-c2sp"


@pytest.mark.parametrize(
    "board",
    ["rpi4", "rpi-4b", "RPi3", "raspberry-pi-4", "raspberrypi3", "raspberry_pi_2", "rpi-zero2w", "rpi400", "rpi-cm4"],
)
def test_a_raspberry_pi_before_the_5_has_no_aes_instructions(board):
    """Separators, case and model letters do not matter."""
    assert not has_aes_instructions(board)


@pytest.mark.parametrize(
    "board", ["rpi5", "raspberry-pi-5", "rpi-cm5", "rpi500", "orin-nano", "generic", "rpi40", "my-rpi4-clone", ""]
)
def test_other_and_unknown_boards_count_as_having_them(board):
    """Also those whose names only look alike."""
    assert has_aes_instructions(board)


@pytest.mark.parametrize(
    ("choice", "boards", "cipher"),
    [
        ("auto", (), AES),
        ("auto", ("rpi5", "orin-nano"), AES),
        ("auto", ("rpi5", "rpi4"), CHACHA),
        ("aes", ("rpi4",), AES),
        ("chacha", ("rpi5",), CHACHA),
    ],
)
def test_one_board_without_them_decides_unless_told_otherwise(choice, boards, cipher):
    """Every board must be able to open the bundle at a fair speed."""
    assert cipher_for(choice, boards) == cipher


@pytest.mark.parametrize(
    ("options", "cipher"), [(["--board", "rpi4"], CHACHA), ([], AES), (["--board", "rpi4", "--cipher", "aes"], AES)]
)
def test_the_pack_command_signs_the_cipher_it_chose(tmp_path: Path, capsys, options, cipher):
    """From the option to the manifest."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgeguard.bundle.inspect import inspect_bundle
    from edgeguard.cli.main import run
    from firmware_tools.cli import cli

    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 500])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 500])],
        [numpy_helper.from_array(np.ones((1, 500), np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    assert run(cli, "edgeguard-provision", ["init", str(tmp_path / "fleet"), "--name", "f"]) == 0
    capsys.readouterr()
    arguments = ["pack", str(tmp_path / "fleet"), str(tmp_path / "m.onnx"), "--model-id", "m", "--release", "1"]
    out = tmp_path / "m.bundle"
    assert run(cli, "edgeguard-provision", [*arguments, "--out", str(out), "--format", "json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"] == str(out)
    assert inspect_bundle(out).manifest.cipher.name == cipher
