"""The real OpenVINO provider: its cache holds the weights in the clear, and with a sealed cache no file does.

The environment is made by the test (onnxruntime-openvino 1.24.1, about 20 s once). The wheels of that package on PyPI
lack OpenVINO's IR front end, without which its CPU plugin writes a cache and cannot read it back: it compiles again,
with a plain cache just the same. So this shows what is written and that nothing breaks; that a provider finds its
files again, byte for byte, is shown in test_sealed_cache.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from firmware_tools.revocation_list import Entries
from firmware_tools.revoke import identity_of, revoke

if TYPE_CHECKING:
    from conftest import Device

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENT = "onnxruntime-openvino==1.24.1"
PROVIDERS = [["OpenVINOExecutionProvider", {"device_type": "CPU"}]]
NOW_NS = 1_790_000_000_000_000_000

PROTECTED = """
import json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from edgeguard.errors import EdgeGuardError
from edgeguard.infer import cache_options
from edgeguard.infer.sealed_cache import SealedCache
from edgeguard.infer.session import InferenceSession, nodes_by_provider
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import TrustStore

device, bundle, cache, now_ns, generation, providers, late = sys.argv[1:]
if late:  # as for providers that compile in the first run
    table = cache_options.CACHE_OPTIONS
    late_one = replace(table["OpenVINOExecutionProvider"], at_first_run=True)
    cache_options.CACHE_OPTIONS = {**table, "OpenVINOExecutionProvider": late_one}
trust = TrustStore.load(Path(device) / "fleet" / "trust", int(now_ns))
key = FileKeyProvider(Path(device) / "device.pem")
sealed = SealedCache(cache, key=key, generation=int(generation), allow_swap=True) if cache else None
answer = {}
try:
    with InferenceSession(
        bundle, trust=trust, key=key, expect_model="detector", wall_ns=int(now_ns), sealed_cache=sealed,
        providers=[tuple(p) for p in json.loads(providers)],
    ) as session:
        answer["before_run"] = session.cache.state
        answer["nodes"] = dict(nodes_by_provider(session._session))
        image = np.random.default_rng(5).random((1, 3, 32, 32), dtype=np.float32)
        answer["output"] = session.run(None, {"image": image})[0].ravel()[:64].tolist()
        answer["state"] = session.cache.state
        answer["plain"] = [str(p) for p in Path("/dev/shm").glob("edgeguard-ep-*/**/*") if p.is_file()]
except EdgeGuardError as error:
    answer["error"] = error.code
print(json.dumps(answer))
"""

PLAIN = """
import sys
import onnxruntime
onnxruntime.InferenceSession(
    sys.argv[1], providers=[("OpenVINOExecutionProvider", {"device_type": "CPU", "cache_dir": sys.argv[2]})]
)
"""


def weighty_model() -> tuple[onnx.ModelProto, list[bytes]]:
    """Return a network of convolutions and, of each weight, 64 bytes that occur nowhere by chance."""
    rng = np.random.default_rng(17)
    weights = [
        numpy_helper.from_array((rng.normal(size=(32, 32 if i else 3, 3, 3)) / 17).astype(np.float32), f"w{i}")
        for i in range(6)
    ]
    names = ["image", *(f"x{i}" for i in range(6))]
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[1] * 4, name=f"conv{i}") for i in range(6)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("x5", TensorProto.FLOAT, [1, 32, 32, 32])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, [tensor.raw_data[1000:1064] for tensor in weights]


class Place:
    """A home, a temporary folder, a cache and a working directory of their own, all of which are searched."""

    def __init__(self, root: Path, python: Path) -> None:
        self.root = root
        self._python = python
        for name in ("home", "tmp", "cwd", "plain", "sealed"):
            (root / name).mkdir(exist_ok=True)

    def run(self, program: str, *arguments: object) -> str:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "XDG_CACHE_HOME": str(self.root / "home" / ".cache"),
        }
        done = subprocess.run(
            [self._python, "-c", program, *map(str, arguments)],
            check=False, capture_output=True, text=True, timeout=120, cwd=self.root / "cwd", env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def files_with(self, patterns: list[bytes]) -> list[str]:
        """Return the files below the root, and on the memory file system, that hold one of the patterns."""
        found = []
        for top in (self.root, Path("/dev/shm")):
            for path in top.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    content = path.read_bytes()
                    if any(pattern in content for pattern in patterns):
                        found.append(path.name)
        return found


@pytest.fixture
def place(tmp_path: Path, other_runtime: Callable[[str], Path]) -> Place:
    return Place(tmp_path, other_runtime(REQUIREMENT))


@pytest.fixture(scope="module")
def protected(device: Device) -> tuple[Path, Path, list[bytes]]:
    """The plain model, its bundle, and the patterns of its weights."""
    model, patterns = weighty_model()
    path = device.root / "weighty.onnx"
    onnx.save(model, path)
    return path, device.protect(path), patterns


def start(
    place: Place,
    device: Device,
    bundle: Path,
    *,
    generation: int = 1,
    providers: Any = PROVIDERS,
    late: bool = False,
) -> dict[str, Any]:
    cache = place.root / "sealed"
    answer = place.run(
        PROTECTED, device.root, bundle, cache, NOW_NS, generation, json.dumps(providers), "late" if late else ""
    )
    return dict(json.loads(answer.splitlines()[-1]))


def test_a_plain_provider_cache_holds_the_weights(place: Place, protected: tuple[Path, Path, list[bytes]]) -> None:
    """The control: the search finds them where they are."""
    model, _, patterns = protected

    place.run(PLAIN, model, place.root / "plain")

    (blob,) = place.files_with(patterns)
    content = next((place.root / "plain").rglob(blob)).read_bytes()
    assert all(pattern in content for pattern in patterns)


def test_with_a_sealed_cache_no_file_holds_the_weights(
    place: Place, device: Device, protected: tuple[Path, Path, list[bytes]]
) -> None:
    """Neither after the first start nor after the second, anywhere the process may write; the answers are the same."""
    _, bundle, patterns = protected

    first = start(place, device, bundle)
    after_first = place.files_with(patterns)
    second = start(place, device, bundle)

    assert first["state"] == "built"
    assert second["state"] in {"built", "restored"}  # "built": see the note at the top
    assert first["nodes"] == second["nodes"] == {"OpenVINOExecutionProvider": 6}
    assert np.allclose(first["output"], second["output"], atol=1e-5)
    assert first["plain"] == second["plain"] == []
    assert after_first == place.files_with(patterns) == []
    (sealed,) = (place.root / "sealed").iterdir()
    assert sealed.stat().st_size > 6 * 4 * 32 * 3 * 9
    written = {p for p in place.root.rglob("*") if p.is_file()}
    assert written == {sealed}


def test_an_object_of_another_slot_is_replaced(
    place: Place, device: Device, protected: tuple[Path, Path, list[bytes]]
) -> None:
    """The provider starts with an empty directory, compiles, and the new object takes the old one's place."""
    _, bundle, _ = protected
    start(place, device, bundle, generation=1)
    (sealed,) = (place.root / "sealed").iterdir()
    before = sealed.read_bytes()

    answer = start(place, device, bundle, generation=2)

    assert answer["state"] == "built"
    assert sealed.read_bytes() != before
    assert list((place.root / "sealed").iterdir()) == [sealed]


def test_a_missing_cache_folder_option_is_not_left_to_the_caller(
    place: Place, device: Device, protected: tuple[Path, Path, list[bytes]]
) -> None:
    """A cache_dir of the caller's own is refused, beside a sealed cache too."""
    _, bundle, _ = protected
    providers = [["OpenVINOExecutionProvider", {"device_type": "CPU", "cache_dir": str(place.root / "plain")}]]

    assert start(place, device, bundle, providers=providers) == {"error": "EG-I010"}
    assert list((place.root / "plain").iterdir()) == []


def test_what_is_compiled_in_the_first_run_is_sealed_after_it(
    place: Place, device: Device, protected: tuple[Path, Path, list[bytes]]
) -> None:
    """As TensorRT does for shapes that vary: the plain files stay in memory until the run is over."""
    _, bundle, patterns = protected

    answer = start(place, device, bundle, late=True)

    assert answer["before_run"] == "empty"
    assert answer["state"] == "built"
    assert answer["plain"] == []
    assert place.files_with(patterns) == []


def test_a_revoked_bundle_does_not_get_at_its_cache(place: Place, device: Device, tmp_path: Path) -> None:
    """It is refused before the cache is touched, although the object is valid."""
    model, patterns = weighty_model()
    onnx.save(model, device.root / "doomed.onnx")
    bundle = device.protect(device.root / "doomed.onnx")
    assert start(place, device, bundle)["state"] == "built"
    (sealed,) = (place.root / "sealed").iterdir()
    before = (sealed.stat().st_mtime_ns, sealed.read_bytes())

    revoke(device.fleet, Entries(bundles=frozenset({identity_of(bundle)})), wall_ns=NOW_NS)
    answer = start(place, device, bundle)

    assert answer == {"error": "EG-T023"}
    assert (sealed.stat().st_mtime_ns, sealed.read_bytes()) == before
    assert place.files_with(patterns) == []
