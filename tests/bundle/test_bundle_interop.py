"""The public `model_signing` command accepts our bundles, whatever is added that may be added."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def public_tool(bundle: Path, public_key: Path, signature: Path | None = None) -> subprocess.CompletedProcess[str]:
    arguments = ["verify", "key", str(bundle), "--signature", str(signature or bundle / "model.sig")]
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *arguments, "--public_key", str(public_key)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_public_verifier_accepts_a_bundle_as_packed_and_as_granted(world_maker, tmp_path):
    """No wraps, wraps, further signatures: verified each time; an altered payload: refused."""
    world = world_maker(tmp_path / "w", release_keys=2, release_threshold=2)
    first, second = (world.fleet.folder / "public" / f"release-{number}.pem" for number in (1, 2))
    granted = public_tool(world.bundle, first)
    assert granted.returncode == 0, granted.stdout + granted.stderr
    further = next((world.bundle / "signatures").glob("*.sig"))
    assert public_tool(world.bundle, second, further).returncode == 0
    for path in [*(world.bundle / "recipients").iterdir(), *(world.bundle / "signatures").iterdir()]:
        path.unlink()
    (world.bundle / "recipients").rmdir()
    (world.bundle / "signatures").rmdir()
    assert public_tool(world.bundle, first).returncode == 0
    payload = world.bundle / "payload" / "001.egc"
    payload.write_bytes(payload.read_bytes() + b"\0")
    assert public_tool(world.bundle, first).returncode != 0
