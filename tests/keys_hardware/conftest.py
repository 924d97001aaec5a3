"""Real back ends: a TPM 2.0 (swtpm), a PKCS#11 token (SoftHSM2), a mailbox program; and a fleet to enrol in."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeguard.keys.context import wrap_info
from edgeguard.keys.open_key import generate_key, open_key
from edgeguard.keys.pkcs11_uri import Pkcs11Uri
from edgeguard.keys.provider import PROVEN, EnrollingKey, VerifiedStatement
from edgeguard.keys.public_key import parse_public_key
from firmware_tools.fleet import Fleet

NOW_NS = 1_790_000_000_000_000_000  # 2026-09-21
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4711-pin"
TOKEN = "eg"
OTP_WORDS = [0xF8DBC7B0, 0xA4FCFB1D, 0x706E298A, 0xC9D0485C, 0x2226CE8D, 0xF7F7596A, 0xC77337BD, 0x09FBE160]


class Swtpm:
    """One software TPM with its state in a folder; may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.port = _free_port()
        self.process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder}", "--flags", "not-need-init,startup-clear",
             "--server", f"type=tcp,port={self.port},bindaddr=127.0.0.1",
             "--ctrl", f"type=tcp,port={self.port + 1},bindaddr=127.0.0.1"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(300):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", self.port + 1)) == 0:
                    return
            time.sleep(0.02)
        pytest.fail("swtpm does not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    @property
    def tcti(self) -> str:
        return f"swtpm:host=127.0.0.1,port={self.port}"


def _free_port() -> int:
    """A port whose neighbour is free too: swtpm's control channel is expected there."""
    for _ in range(50):
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    pytest.skip("no two free ports next to each other")


@pytest.fixture
def tpm_maker(tmp_path: Path) -> Iterator[Callable[[str], Swtpm]]:
    """Makes software TPMs, each another chip."""
    pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed: pip install edgeguard[tpm]")
    if not shutil.which("swtpm"):
        pytest.skip("swtpm is not installed: apt-get install swtpm libtss2-tcti-swtpm0")
    made: list[Swtpm] = []

    def make(name: str) -> Swtpm:
        made.append(Swtpm(tmp_path / name))
        return made[-1]

    yield make
    for tpm in made:
        tpm.stop()


@pytest.fixture
def tpm(tpm_maker: Callable[[str], Swtpm]) -> Swtpm:
    """A fresh TPM."""
    return tpm_maker("tpm")


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Pkcs11Uri]]:
    """Initialises SoftHSM tokens in a folder of this test run, two of one name, and gives addresses on them."""
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: pip install edgeguard[pkcs11]")
    if not MODULE.exists() or not shutil.which("softhsm2-util"):
        pytest.skip("SoftHSM is not installed: apt-get install softhsm2")
    root = tmp_path_factory.mktemp("softhsm")
    (root / "tokens").mkdir()
    conf = root / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {root}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(conf)
    digest = hashlib.sha256(MODULE.read_bytes()).hexdigest()
    pin_file = root / "pin"
    pin_file.write_text(PIN + "\n")
    pin_file.chmod(0o600)
    # All of them before the module is loaded: SoftHSM lists the tokens that were there when it was initialised.
    for token, code in ((TOKEN, PIN), ("twice", PIN), ("twice", "an-attackers-pin")):
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", token, "--pin", code, "--so-pin", "12345678"],
            check=True, capture_output=True,
        )  # fmt: skip

    def address(token: str = TOKEN, label: str = "device") -> Pkcs11Uri:
        return Pkcs11Uri(token, label, MODULE, digest, pin_source=str(pin_file))

    yield address
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture
def plant() -> Callable[[Pkcs11Uri, bytes], None]:
    """Puts a public key on a token, under any label, as everybody can without a PIN."""

    def put(uri: Pkcs11Uri, point: bytes) -> None:
        import pkcs11

        attribute = pkcs11.Attribute
        with pkcs11.lib(str(MODULE.resolve())).get_token(token_label=uri.token).open(rw=True) as stranger:
            stranger.create_object({
                attribute.LABEL: uri.object, attribute.TOKEN: True, attribute.PRIVATE: False,
                attribute.CLASS: pkcs11.ObjectClass.PUBLIC_KEY, attribute.KEY_TYPE: pkcs11.KeyType.EC,
                attribute.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107"), attribute.EC_POINT: point,
            })  # fmt: skip

    return put


def write_mailbox(path: Path, words: list[int] = OTP_WORDS, status: int = 0x80000000, code: int = 0) -> Path:
    """Write a program that answers like `vcmailbox`, and notes with what arguments it was called."""
    answer = [0x40, status, 0x30081, 0x28, 0x80000028, 0, 8, *words, 0]
    text = " ".join(f"0x{word:08x}" for word in answer)
    path.write_text(f'#!/bin/sh\nprintf "%s " "$@" > "{path}.called"\necho "{text}"\nexit {code}\n')
    path.chmod(0o755)
    return path


@dataclass
class Backend:
    """A way to keep a key. address: where its key is; folder: where its files are."""

    name: str
    address: str
    key_class: str
    suite: str
    folder: Path

    def generate(self) -> EnrollingKey:
        """Make the key."""
        return generate_key(self.address)

    def reopen(self) -> EnrollingKey:
        """Open the key as a device does; PCRs are chosen when it is made."""
        return open_key(self.address.partition("&pcrs=")[0])


@pytest.fixture(params=["tpm", "tpm-pcr", "pkcs11", "rpi-otp", "file"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Each real back end, with nothing made in it yet."""
    folder = tmp_path / "device"
    folder.mkdir()
    p256, x25519 = (f"hpke-base/{curve}/hkdf-sha256/aes-256-gcm" for curve in ("p256", "x25519"))
    match request.param:
        case "tpm" | "tpm-pcr":
            tpm = request.getfixturevalue("tpm")
            extra = "&pcrs=16" if request.param == "tpm-pcr" else ""
            address = f"tpm:{folder}/device.tpm?auth={folder}/device.auth&tcti={tpm.tcti}{extra}"
            return Backend("tpm", address, "hardware", p256, folder)
        case "pkcs11":
            uri = request.getfixturevalue("softhsm")(label=f"device-{tmp_path.name}")
            return Backend("pkcs11", str(uri), "file", p256, folder)
        case "rpi-otp":
            program = write_mailbox(tmp_path / "vcmailbox")
            return Backend("rpi-otp", f"rpi-otp:{folder}/device.otp?program={program}", "device-bound", x25519, folder)
    return Backend("file", f"file:{folder}/device.pem", "file", x25519, folder)


def make_statement(min_key_class: str = "file", confidentiality: str = "classical") -> VerifiedStatement:
    """What the verifier would hand out, for tests of keys alone."""
    return VerifiedStatement(
        identity=b"\x11" * 32, bundle_id="b" * 32, fleet_id="ab" * 32, model_id="m", release="1", channel="production",
        boards=(), counter=(0, 1), min_revocation_version=(0, 0), confidentiality=confidentiality,
        min_key_class=min_key_class, valid_from_ns=0, expires_ns=1, signers=("s",), proof=PROVEN,
    )  # fmt: skip


def seal_for(key: EnrollingKey, cek: bytes = b"\x07" * 32) -> bytes:
    """A wrap as the fleet makes it, with the public key alone and the library's own HPKE."""
    info = wrap_info(identity=b"\x11" * 32, fleet_id="ab" * 32, model_id="m", kid=key.kid, suite=key.suite)
    return parse_public_key(key.public_key()).seal(cek, info)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """`_free_port`."""
    return _free_port


@pytest.fixture
def statement() -> Callable[..., VerifiedStatement]:
    """`make_statement`."""
    return make_statement


@pytest.fixture
def wrap_for() -> Callable[..., bytes]:
    """`seal_for`."""
    return seal_for


@pytest.fixture
def mailbox() -> Callable[..., Path]:
    """`write_mailbox`."""
    return write_mailbox


@pytest.fixture(scope="session")
def fleet_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fleet") / "site"
    root.mkdir()
    Fleet.create(root / "fleet", name="test", wall_ns=NOW_NS - 10**9)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, [1, 8])],
        [info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(1, 8), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, root / "m.onnx")
    return root


@pytest.fixture
def site(fleet_template: Path, tmp_path: Path) -> Path:
    """A folder with a fresh copy of a fleet and a model."""
    return Path(shutil.copytree(fleet_template, tmp_path / "site"))
