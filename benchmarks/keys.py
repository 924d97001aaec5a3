"""Opening one wrap with each kind of device key: file, TPM, token, OTP. Simulators stand in for chips.

python -m benchmarks keys

A software TPM (swtpm) and SoftHSM are started in a temporary folder where they are installed; others are passed over.
What is measured is our part, the client library and the simulator. A real TPM computes slower: its own data sheet, or
this benchmark on the device (EDGEGUARD_BENCH_KEY=tpm:... opens a key that is there), tells by how much.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from benchmarks.timing import paired_s
from edgeguard.keys.context import SUITE_HYBRID, SUITE_P256, SUITE_X25519, wrap_info
from edgeguard.keys.file import FileKeyProvider
from edgeguard.keys.open_key import generate_key, open_key
from edgeguard.keys.provider import PROVEN, EnrollingKey, VerifiedStatement
from edgeguard.keys.public_key import parse_public_key
from edgeguard.keys.rpi_otp import OtpKeyProvider

IDENTITY = b"\x11" * 32
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4711-bench"
ROUNDS = 20  # best of: simulators answer over sockets, which a busy machine delays


def main() -> None:
    """Print open_wrap and derive_secret per back end, beside a P-256 key file in the same run."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peer = FileKeyProvider.generate(folder / "peer.pem", suite=SUITE_P256)
        found: dict[str, EnrollingKey] = {
            "file x25519": FileKeyProvider.generate(folder / "x.pem", suite=SUITE_X25519),
            "file p256": FileKeyProvider.generate(folder / "p.pem", suite=SUITE_P256),
            "file mlkem768-x25519": FileKeyProvider.generate(folder / "h.pem", suite=SUITE_HYBRID),
            "rpi-otp x25519": OtpKeyProvider.generate(folder / "o.otp", read_otp=lambda: bytes(range(32))),
        }
        if shutil.which("swtpm"):
            tcti = stack.enter_context(_swtpm(folder))
            for name, pcrs in (("tpm p256 (swtpm)", ""), ("tpm p256, PCRs (swtpm)", "&pcrs=16")):
                stem = f"tpm:{folder}/{len(found)}.tpm?auth={folder}/auth&tcti={tcti}"
                found[name] = generate_key(stem + pcrs)
        if SOFTHSM.exists():
            found["pkcs11 p256 (SoftHSM)"] = generate_key(_softhsm(folder))
        if address := os.environ.get("EDGEGUARD_BENCH_KEY"):
            found["EDGEGUARD_BENCH_KEY"] = open_key(address)
        print(f"best of {ROUNDS}, in turns with open_wrap of a P-256 key file")
        for name, key in found.items():
            _print(name, key, peer)


def _print(name: str, key: EnrollingKey, peer: EnrollingKey) -> None:
    statement = _statement()
    ours, theirs = _wrap(key), _wrap(peer)
    open_s, peer_s = paired_s(
        lambda: key.open_wrap(statement, ours).close(), lambda: peer.open_wrap(statement, theirs).close(), ROUNDS
    )
    derive_s, _ = paired_s(lambda: key.derive_secret("bench").close(), lambda: None, ROUNDS)
    print(
        f"  {name:24} open_wrap {open_s * 1e3:7.2f} ms  ratio {open_s / peer_s:6.1f}  derive_secret "
        f"{derive_s * 1e3:7.2f} ms  class {key.key_class}"
    )


def _statement() -> VerifiedStatement:
    return VerifiedStatement(
        identity=IDENTITY, bundle_id="b" * 32, fleet_id="ab" * 32, model_id="m", release="1", channel="production",
        boards=(), counter=(0, 1), min_revocation_version=(0, 0), confidentiality="classical", min_key_class="file",
        valid_from_ns=0, expires_ns=1, signers=("s",), proof=PROVEN,
    )  # fmt: skip


def _wrap(key: EnrollingKey) -> bytes:
    info = wrap_info(identity=IDENTITY, fleet_id="ab" * 32, model_id="m", kid=key.kid, suite=key.suite)
    return parse_public_key(key.public_key()).seal(b"\x07" * 32, info)


@contextmanager
def _swtpm(folder: Path) -> Iterator[str]:
    (folder / "tpm").mkdir()
    port = _free_port()
    process = subprocess.Popen(
        ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}/tpm", "--flags", "not-need-init,startup-clear",
         "--server", f"type=tcp,port={port},bindaddr=127.0.0.1",
         "--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(300):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port + 1)) == 0:
                    break
            time.sleep(0.02)
        yield f"swtpm:host=127.0.0.1,port={port}"
    finally:
        process.terminate()
        process.wait(10)


def _free_port() -> int:
    for _ in range(50):
        with closing(socket.socket()) as first, closing(socket.socket()) as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise SystemExit("no two free ports next to each other")


def _softhsm(folder: Path) -> str:
    (folder / "tokens").mkdir()
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(conf)
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "bench", "--pin", PIN, "--so-pin", "12345678"],
        check=True, capture_output=True,
    )  # fmt: skip
    pin_file = folder / "pin"
    pin_file.touch(0o600)
    pin_file.write_text(PIN)
    digest = hashlib.sha256(SOFTHSM.read_bytes()).hexdigest()
    return f"pkcs11:token=bench;object=device?module-path={SOFTHSM}&module-sha256={digest}&pin-source={pin_file}"


if __name__ == "__main__":
    main()
