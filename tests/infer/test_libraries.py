"""Native code beside a model runs only when it is the code that was signed with it, from the bytes that were hashed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from edgeguard.errors import InferenceError, ModelStructureError, ProvisioningError, SignatureError
from edgeguard.infer.libraries import checked_libraries
from edgeguard.infer.session import InferenceSession
from firmware_tools.cli import cli
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model, sign_libraries

if TYPE_CHECKING:
    from conftest import Device

NOW_NS = 1_790_000_000_000_000_000
IMAGE = np.random.default_rng(5).random((1, 3, 16, 24), dtype=np.float32)

# A library in the form onnxruntime asks for. It registers nothing and tells the test where it was loaded from.
SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

void *RegisterCustomOps(void *options, const void *api) {
    Dl_info self;
    const char *mark = getenv("EDGEGUARD_TEST_MARK");
    if (mark && dladdr((void *)RegisterCustomOps, &self)) {
        FILE *file = fopen(mark, "w");
        if (file) { fprintf(file, "%s", self.dli_fname); fclose(file); }
    }
    return NULL;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared library, compiled here."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("library")
    (folder / "ops.c").write_text(SOURCE)
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", folder / "libops.so", folder / "ops.c", "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return folder / "libops.so"


@pytest.fixture(scope="module")
def signed_bundle(device: Device, conv_path: Path, library: Path) -> Path:
    bundle = device.root / "bundle-with-library"
    pack_model(
        device.fleet, conv_path, bundle, release=Release("detector", "1"), wall_ns=NOW_NS, libraries=[library]
    )  # fmt: skip
    grant(device.fleet, bundle, "cam-1", wall_ns=NOW_NS)
    return bundle


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEGUARD_TEST_MARK", str(tmp_path / "mark"))
    return tmp_path / "mark"


def open_with(device: Device, bundle: Path, *libraries: Path) -> InferenceSession:
    return device.session(bundle, libraries=libraries)


def test_a_signed_library_is_loaded_from_the_bytes_that_were_hashed(
    device: Device, signed_bundle: Path, library: Path, mark: Path
) -> None:
    """Not from its path: from a sealed memory file, which is gone again afterwards."""
    with open_with(device, signed_bundle, library) as session:
        assert session.run(None, {"image": IMAGE})[0].any()

    assert mark.read_text().startswith("/proc/self/fd/")
    open_files = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [name for name in open_files if "memfd:edgeguard" in name]


def test_a_library_that_is_still_loaded_does_not_stand_in_for_another(
    device: Device, conv_path: Path, signed_bundle: Path, library: Path, mark: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The linker knows libraries by the names they were loaded under, and descriptor numbers come back."""
    (tmp_path / "other.c").write_text(SOURCE.replace("EDGEGUARD_TEST_MARK", "EDGEGUARD_OTHER_MARK"))
    other = tmp_path / "libother.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", other, tmp_path / "other.c", "-ldl"], check=True, timeout=60)
    bundle = tmp_path / "other.bundle"
    pack_model(device.fleet, conv_path, bundle, release=Release("detector", "1"), wall_ns=NOW_NS, libraries=[other])
    grant(device.fleet, bundle, "cam-1", wall_ns=NOW_NS)
    monkeypatch.setenv("EDGEGUARD_OTHER_MARK", str(tmp_path / "other-mark"))

    with open_with(device, signed_bundle, library):
        mark.unlink()
        with open_with(device, bundle, other):
            pass

    assert (tmp_path / "other-mark").exists()
    assert not mark.exists()


def test_an_altered_library_never_runs(
    device: Device, signed_bundle: Path, library: Path, mark: Path, tmp_path: Path
) -> None:
    """One bit, the same name, the same size."""
    altered = tmp_path / "libops.so"
    content = bytearray(library.read_bytes())
    content[-1] ^= 1
    altered.write_bytes(content)

    with pytest.raises(SignatureError) as caught:
        open_with(device, signed_bundle, altered)

    assert caught.value.code == "EG-S006"
    assert not mark.exists()


def test_an_unsigned_library_never_runs(
    device: Device, conv_bundle: Path, signed_bundle: Path, library: Path, mark: Path, tmp_path: Path
) -> None:
    """Neither with a bundle that signs none, nor under another name."""
    with pytest.raises(SignatureError):
        open_with(device, conv_bundle, library)
    other = tmp_path / "libother.so"
    shutil.copy(library, other)
    with pytest.raises(SignatureError):
        open_with(device, signed_bundle, library, other)

    assert not mark.exists()


def test_a_model_that_needs_a_library_says_which(device: Device, signed_bundle: Path) -> None:
    """Instead of an error of the runtime about an unknown operator."""
    with pytest.raises(SignatureError) as caught:
        open_with(device, signed_bundle)

    assert "libops.so" in caught.value.message
    assert "libraries=" in caught.value.hint


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "missing"])
def test_what_is_no_regular_file_is_no_library(kind: str, library: Path, tmp_path: Path) -> None:
    """A link is not followed even to the genuine library, and a pipe does not block."""
    path = tmp_path / "libops.so"
    if kind == "link":
        path.symlink_to(library)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    signed = {entry.name: entry.sha256 for entry in sign_libraries([library])}

    with pytest.raises(InferenceError) as caught:
        checked_libraries([path], signed)

    assert caught.value.code == "EG-I015"


def test_signed_bytes_that_are_no_library_are_our_error(device: Device, conv_path: Path, tmp_path: Path) -> None:
    """The runtime's own text does not come through."""
    text = tmp_path / "libtext.so"
    text.write_text("not an ELF file")
    bundle = device.root / "bundle-with-text"
    pack_model(device.fleet, conv_path, bundle, release=Release("detector", "1"), wall_ns=NOW_NS, libraries=[text])
    grant(device.fleet, bundle, "cam-1", wall_ns=NOW_NS)

    with pytest.raises(InferenceError) as caught:
        open_with(device, bundle, text)

    assert caught.value.code == "EG-I015"
    assert "ELF" not in str(caught.value)


def test_packing_refuses_two_libraries_of_one_name(library: Path, tmp_path: Path) -> None:
    """Names are how a device finds the digest."""
    (tmp_path / "libops.so").write_bytes(b"other")
    with pytest.raises(ProvisioningError) as caught:
        sign_libraries([library, tmp_path / "libops.so"])
    assert caught.value.code == "EG-P003"
    with pytest.raises(ProvisioningError) as caught:
        sign_libraries([tmp_path / "missing.so"])
    assert caught.value.code == "EG-P031"


def test_the_command_line_signs_libraries(device: Device, conv_path: Path, library: Path, tmp_path: Path) -> None:
    """`pack --library FILE`; the library itself does not become part of the bundle."""
    bundle = tmp_path / "bundle"
    arguments = ["pack", str(device.root / "fleet"), str(conv_path), "--model-id", "detector", "--release", "2"]

    result = CliRunner().invoke(cli, [*arguments, "--out", str(bundle), "--library", str(library)])

    assert result.exit_code == 0, result.output
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    assert manifest["libraries"] == [{"name": "libops.so", "sha256": digest}]
    assert not list(bundle.rglob("libops.so"))


def custom_model(path: Path, domain: str, operator: str) -> Path:
    """A model of one operator of another domain."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], domain=domain)],
        "custom",
        [info("x", TensorProto.FLOAT, [1, 3])],
        [info("y", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_a_model_with_operators_of_a_signed_library_runs(device: Device, tmp_path: Path) -> None:
    """With the operators that Microsoft publishes for onnxruntime, a real library of another hand."""
    found = find_spec("onnxruntime_extensions")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("onnxruntime-extensions is not installed: pip install onnxruntime-extensions")
    (folder,) = found.submodule_search_locations
    (operators,) = Path(folder).glob("_extensions_pydll*.so")
    model = custom_model(tmp_path / "custom.onnx", "ai.onnx.contrib", "NegPos")
    plain = onnx.load(model)
    plain.graph.node[0].output.append("negative")
    onnx.save(plain, model)
    bundle = tmp_path / "custom.bundle"
    pack_model(
        device.fleet, model, bundle, release=Release("detector", "2"), wall_ns=NOW_NS, libraries=[operators],
        operator_domains=["ai.onnx.contrib"],
    )  # fmt: skip
    grant(device.fleet, bundle, "cam-1", wall_ns=NOW_NS)
    with open_with(device, bundle, operators) as session:
        outputs = session.run(None, {"x": np.array([[1.0, -2.0, 3.0]], dtype=np.float32)})
    assert np.count_nonzero(outputs[0]) in {1, 2}


def test_operators_of_a_domain_that_no_library_brings_stay_refused(
    device: Device, tmp_path: Path, library: Path
) -> None:
    """Not named, not named with a library, of the runtime's own domains, or running Python."""
    model = custom_model(tmp_path / "custom.onnx", "acme", "Magic")
    with pytest.raises(ModelStructureError, match="EG-G006"):
        pack_model(
            device.fleet, model, tmp_path / "b1", release=Release("detector", "3"), wall_ns=NOW_NS, libraries=[library]
        )
    for number, domains in enumerate((["acme"], ["com.microsoft", "acme"])):
        with pytest.raises(ProvisioningError, match="EG-P003"):
            pack_model(
                device.fleet, model, tmp_path / f"b2{number}", release=Release("detector", "3"), wall_ns=NOW_NS,
                operator_domains=domains, libraries=[library] * number,
            )  # fmt: skip
    python = custom_model(tmp_path / "python.onnx", "acme", "PyOp")
    with pytest.raises(ModelStructureError, match="EG-G006"):
        pack_model(
            device.fleet, python, tmp_path / "b3", release=Release("detector", "3"), wall_ns=NOW_NS,
            libraries=[library], operator_domains=["acme"],
        )  # fmt: skip
