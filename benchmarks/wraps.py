"""Content-key wraps for ten thousand devices: ours beside the library's bare HPKE loop, and a whole `grant`.

python -m benchmarks wraps
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from pathlib import Path

from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

import edgeguard.sim
from benchmarks.timing import paired_s
from edgeguard.bundle.dsse import pae
from edgeguard.bundle.signature import encode_signed
from edgeguard.harden.memory import SecretBuffer
from edgeguard.keys.context import SUITE_HYBRID, SUITE_P256, SUITE_X25519, WRAP_BYTES
from edgeguard.keys.private_key import generate
from edgeguard.trust.dates import ns_to_date
from edgeguard.trust.store import ENROL
from edgeguard.trust.strict_json import canonical
from firmware_tools.enroll import DEVICE_TYPE
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant_many, seal_cek
from firmware_tools.pack import Release, pack_model

DEVICES = 10_000
NOW_NS = 1_790_000_000_000_000_000
MODEL = Path(edgeguard.sim.__file__).parent / "models" / "obstacle_detector.onnx"
KEMS = {SUITE_X25519: KEM.X25519, SUITE_P256: KEM.P256, SUITE_HYBRID: KEM.MLKEM768_X25519}


def main() -> None:
    """Print time and size per suite, then one grant to ten thousand enrolled devices."""
    print("wraps of one content key, one thread, best of 5 in turns with the peer")
    for suite, kem in KEMS.items():
        _print_suite(suite, kem, DEVICES if suite == SUITE_X25519 else DEVICES // 5)
    with tempfile.TemporaryDirectory() as folder:
        _print_grant(Path(folder))


def _print_suite(suite: str, kem: KEM, count: int) -> None:
    """Ours parses the device's public key and binds the wrap; the peer only encrypts, for a key object at hand."""
    publics = [generate(suite).public() for _ in range(100)]
    hpke = Suite(kem, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    identity, fleet_id = b"\x11" * 32, "ab" * 32
    with SecretBuffer.copy_of(b"\x07" * 32) as cek:
        ours_s, peer_s = paired_s(
            lambda: [
                seal_cek(cek, publics[i % 100].der, identity=identity, fleet_id=fleet_id, model_id="m")
                for i in range(count)
            ],
            lambda: [hpke.encrypt(cek.view, publics[i % 100].key, info=identity) for i in range(count)],
        )
    name = suite.split("/")[1]
    print(
        f"  {count:6} x {name:16} {WRAP_BYTES[suite]:5} B  {ours_s:6.2f} s  Suite.encrypt alone {peer_s:6.2f} s  "
        f"ratio {ours_s / peer_s:.2f}"
    )


def _print_grant(folder: Path) -> None:
    """Ten thousand signed records, one bundle, one call: records verified, one unwrap, wraps on disk."""
    fleet = Fleet.create(folder / "fleet", name="bench", wall_ns=NOW_NS, device_state="optional")
    enrol_many(fleet, DEVICES)
    bundle = pack_model(fleet, MODEL, folder / "b", release=Release("m", "1"), wall_ns=NOW_NS).path
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    granted = grant_many(fleet, bundle, None, wall_ns=NOW_NS)
    taken_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    size = sum(path.stat().st_size for path in (bundle / "recipients").iterdir())
    tracemalloc.start()
    grant_many(fleet, bundle, None, wall_ns=NOW_NS)
    peak = tracemalloc.get_traced_memory()[1]
    print(
        f"  grant to {granted.count} enrolled devices: {taken_s:.2f} s ({cpu_s:.2f} s of CPU), "
        f"{size / granted.count:.0f} B each, peak of Python memory {peak / 1e6:.1f} MB"
    )


def enrol_many(fleet: Fleet, count: int) -> None:
    """Write the records that `enroll` writes, without its checks for doubles, which are quadratic here."""
    signer = fleet.signing_set(ENROL, fleet.trust(NOW_NS))[0]
    keyid = signer.public_key().keyid
    for number in range(count):
        public = generate(SUITE_X25519).public()
        record = {
            "schema": "edgeguard/device/v1",
            "fleet_id": fleet.fleet_id,
            "device_name": f"device-{number}",
            "board": "generic",
            "key_class": "file",
            "suite": public.suite,
            "public_key": public.der.hex(),
            "kid": public.kid,
            "enrolled": ns_to_date(NOW_NS),
            "request": "00" * 32,
        }
        payload = canonical(record)
        content = encode_signed(payload, DEVICE_TYPE, keyid, signer.sign(pae(DEVICE_TYPE, payload)))
        (fleet.devices_folder / f"{public.kid}.json").write_bytes(content)
