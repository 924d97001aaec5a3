"""The public surface: small, lazy, and complete."""

from __future__ import annotations

import json
import subprocess
import sys

import edgeguard

PUBLIC = {
    "AuditLog", "Check", "CheckResult", "EdgeGuardError", "Image", "InferenceSession", "KeyProvider", "Pipeline",
    "PointCloud", "Restorer", "Source", "SyncedSet", "TrustStore", "Verdict", "load_config", "open_model",
}  # fmt: skip
HEAVY = ("numba", "cv2", "onnxruntime")


def in_fresh_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def test_all_lists_exactly_the_promised_names() -> None:
    """Nothing slips into the public surface, nothing falls out."""
    assert set(edgeguard.__all__) == PUBLIC
    assert list(edgeguard.__all__) == sorted(edgeguard.__all__)


def test_every_public_name_resolves() -> None:
    """A lazy name that points nowhere would only fail in a user's hands."""
    for name in edgeguard.__all__:
        assert getattr(edgeguard, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Laziness does not swallow typing errors."""
    assert not hasattr(edgeguard, "InferenceSesion")


def test_import_loads_none_of_the_heavy_libraries() -> None:
    """`import edgeguard` must stay possible where numba, OpenCV or onnxruntime are slow or broken."""
    loaded = json.loads(in_fresh_python("import edgeguard, sys, json; print(json.dumps(sorted(sys.modules)))"))
    assert not set(HEAVY) & set(loaded)
    assert "numpy" not in loaded


def test_import_costs_less_than_a_tenth_of_a_second() -> None:
    """Best of five, measured inside the interpreter, so that process start does not count."""
    code = "import time; t=time.perf_counter(); import edgeguard; print(time.perf_counter()-t)"
    assert min(float(in_fresh_python(code)) for _ in range(5)) < 0.100


def test_command_help_loads_none_of_the_heavy_libraries() -> None:
    """`edgeguard --help` is the first thing a newcomer runs on a small board."""
    code = (
        "import sys, json\nfrom edgeguard.cli.main import cli, run\n"
        "run(cli, 'edgeguard', ['--help'])\nprint(json.dumps(sorted(sys.modules)))"
    )
    loaded = json.loads(in_fresh_python(code).splitlines()[-1])
    assert not set(HEAVY) & set(loaded)
