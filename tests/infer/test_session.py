"""A protected model answers as the plain one does, and leaves nothing in the clear that is ours to clear."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from edgeguard.errors import (
    ConfigError,
    InferenceError,
    ModelStructureError,
    TrustError,
    UnprotectedModelError,
)
from edgeguard.infer.session import InferenceSession

if TYPE_CHECKING:
    from conftest import Device

MakeModel = Callable[..., onnx.ModelProto]
IMAGE = np.random.default_rng(5).random((1, 3, 16, 24), dtype=np.float32)
REAL_MODELS = [
    "mobilenet_v1_075_192.onnx",
    "mobilenet_v2.onnx",
    "nanodet_m.onnx",
    "squeezenet_fp16.onnx",
    "version-RFB-320.onnx",
]


def plain_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def test_answers_are_those_of_the_plain_model(device: Device, conv_path: Path, conv_bundle: Path) -> None:
    """Same ports, same bytes out."""
    plain = plain_session(conv_path)

    with device.session(conv_bundle) as session:
        (expected,), (answer,) = plain.run(None, {"image": IMAGE}), session.run(["y"], {"image": IMAGE})
        assert answer.tobytes() == expected.tobytes()
        assert [(p.name, p.type, p.shape) for p in session.get_inputs()] == [
            (p.name, p.type, p.shape) for p in plain.get_inputs()
        ]
        assert [p.name for p in session.get_outputs()] == ["y"]
        assert session.get_providers() == ["CPUExecutionProvider"]
        assert session.model_id == "detector"
        assert session.summary.external_locations == ("weights.bin",)


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL_MODELS)
def test_real_models_answer_the_same_when_protected(device: Device, realdata: Path, name: str) -> None:
    """The whole way: pack, grant, verify, decrypt, gate, run; outputs equal onnxruntime's on the plain file."""
    path = realdata / "vision" / name
    plain = plain_session(path)
    (port,) = plain.get_inputs()
    dtype = np.float16 if port.type == "tensor(float16)" else np.float32
    shape = [d if isinstance(d, int) else 1 for d in port.shape]
    feeds = {port.name: np.random.default_rng(1).random(shape).astype(dtype)}

    with device.session(device.protect(path)) as session:
        for expected, answer in zip(plain.run(None, feeds), session.run(None, feeds), strict=True):
            assert answer.tobytes() == expected.tobytes()


def test_plaintext_is_wiped_once_the_session_stands(device: Device, conv_bundle: Path) -> None:
    """Weights and graph read zero, the wrapper's copy of the graph is gone, and the session still works."""
    model = device.open(conv_bundle)
    weights, graph = memoryview(model.weights["weights.bin"]), model.graph
    assert any(weights)
    assert any(graph)

    session = InferenceSession(model)

    assert not any(weights)
    assert not any(graph)
    assert session._session._model_bytes is None
    assert session.run(None, {"image": IMAGE})[0].any()


def test_plaintext_is_wiped_when_the_session_fails(device: Device, conv_bundle: Path) -> None:
    """A refusal half way leaves nothing behind either."""
    model = device.open(conv_bundle)
    weights = memoryview(model.weights["weights.bin"])

    with pytest.raises(InferenceError):
        InferenceSession(model, providers=["CUDAExecutionProvider"])

    assert not any(weights)


@pytest.mark.parametrize("works", [True, False])
def test_the_copy_of_the_graph_that_onnxruntime_was_given_is_zeroed(
    device: Device, conv_bundle: Path, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    """onnxruntime takes bytes, which cannot be wiped in the usual way; whether or not it takes the model."""
    given: list[bytes] = []

    class Watched(onnxruntime.InferenceSession):
        def __init__(self, model: bytes, *arguments: object, **named: object) -> None:
            given.append(model)
            assert any(model)
            if not works:
                raise ValueError
            super().__init__(model, *arguments, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Watched)
    if works:
        with InferenceSession(device.open(conv_bundle)) as session:
            assert session.run(None, {"image": IMAGE})[0].any()
    else:
        with pytest.raises(InferenceError):
            InferenceSession(device.open(conv_bundle))

    assert len(given) == 1
    assert not any(given[0])


def test_a_planted_file_is_not_read(
    device: Device, conv_path: Path, conv_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime looks in the current directory for external data of models given as bytes; ours is registered."""
    (tmp_path / "weights.bin").write_bytes(bytes(32 * 3 * 25 * 4))
    monkeypatch.chdir(tmp_path)

    with device.session(conv_bundle) as session:
        answer = session.run(None, {"image": IMAGE})[0]

    assert answer.tobytes() == plain_session(conv_path).run(None, {"image": IMAGE})[0].tobytes()


def test_two_sessions_do_not_share_weights(
    device: Device, conv_bundle: Path, conv_model: MakeModel, tmp_path: Path
) -> None:
    """One options object for both: it keeps no pointer into the first one's wiped memory."""
    other = tmp_path / "other.onnx"
    onnx.save(conv_model(seed=4), other)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL

    first = device.session(conv_bundle, sess_options=options)
    second = device.session(device.protect(other), sess_options=options)

    expected = plain_session(other).run(None, {"image": IMAGE})[0]
    assert np.allclose(second.run(None, {"image": IMAGE})[0], expected, atol=1e-4)
    assert not np.allclose(first.run(None, {"image": IMAGE})[0], expected, atol=1e-2)


def test_the_gate_stands_before_onnxruntime(
    device: Device,
    conv_model: MakeModel,
    evil_bundle: Callable[[onnx.ModelProto, pytest.MonkeyPatch], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Signed by the right keys on a compromised machine, and still refused: custom code, runtime configuration."""
    configured = conv_model()
    configured.metadata_props.add(key="ort_config", value='{"session_options": {"enable_profiling": true}}')

    for model, code in ((conv_model(op=("PyOp", "custom")), "EG-G006"), (configured, "EG-G008")):
        if code == "EG-G006":
            model.opset_import.append(helper.make_opsetid("custom", 1))
        with pytest.raises(ModelStructureError) as caught:
            device.session(evil_bundle(model, monkeypatch))
        assert caught.value.code == code


def test_the_gate_holds_the_graph_to_the_bundles_weights(
    device: Device,
    conv_model: MakeModel,
    evil_bundle: Callable[[onnx.ModelProto, pytest.MonkeyPatch], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A recursive function crashes old runtimes; it does not get there."""
    model = conv_model(op=("F", "local"))
    body = helper.make_node("F", ["a"], ["c"], domain="local")
    model.functions.append(helper.make_function("local", "F", ["a"], ["c"], [body], [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("local", 1))

    with pytest.raises(ModelStructureError) as caught:
        device.session(evil_bundle(model, monkeypatch))

    assert caught.value.code == "EG-G007"


# -- what is not accepted ----------------------------------------------------------------------------------------------


def test_plain_models_are_refused(conv_path: Path) -> None:
    """Neither as a file nor as bytes, with or without trust."""
    with pytest.raises(UnprotectedModelError) as caught:
        InferenceSession(conv_path)
    assert caught.value.code == "EG-U001"
    with pytest.raises(UnprotectedModelError):
        InferenceSession(str(conv_path))
    with pytest.raises(UnprotectedModelError) as caught:
        InferenceSession(conv_path.read_bytes())  # type: ignore[arg-type]
    assert caught.value.code == "EG-U002"


def test_there_is_no_default_trust(device: Device, conv_bundle: Path) -> None:
    """Each of trust, key and model id must be said; and none of them twice."""
    every = {"trust": device.trust, "key": device.key, "expect_model": "detector"}
    for left_out in every:
        with pytest.raises(ConfigError):
            InferenceSession(conv_bundle, **{k: v for k, v in every.items() if k != left_out})  # type: ignore[arg-type]
    with device.open(conv_bundle) as model, pytest.raises(ConfigError):
        InferenceSession(model, trust=device.trust)


def test_another_genuine_model_is_refused(device: Device, conv_bundle: Path) -> None:
    """The bundle's own check reaches the caller."""
    with pytest.raises(TrustError):
        InferenceSession(conv_bundle, trust=device.trust, key=device.key, expect_model="other")


def test_a_missing_provider_is_an_error(device: Device, conv_bundle: Path) -> None:
    """Where onnxruntime would warn and run on the CPU."""
    with pytest.raises(InferenceError) as caught:
        device.session(conv_bundle, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])

    assert caught.value.code == "EG-I002"
    assert "CUDAExecutionProvider" in caught.value.message


def test_the_cpu_does_not_stand_in_silently(device: Device, conv_bundle: Path) -> None:
    """A provider that is there but takes no node: without the CPU on the list that is an error."""
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no second provider")

    with pytest.raises(InferenceError) as caught:
        device.session(conv_bundle, providers=["AzureExecutionProvider"])

    assert caught.value.code == "EG-I001"
    assert "CPUExecutionProvider" in caught.value.hint


def test_an_accelerator_that_takes_no_node_is_an_error_even_beside_the_cpu(device: Device, conv_bundle: Path) -> None:
    """It was asked for and would do nothing; onnxruntime says so nowhere."""
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no second provider")

    with pytest.raises(InferenceError) as caught:
        device.session(conv_bundle, providers=["AzureExecutionProvider", "CPUExecutionProvider"])

    assert caught.value.code == "EG-I012"
    assert "AzureExecutionProvider" in caught.value.message


def with_attribute(name: str, value: object) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    setattr(options, name, value)
    return options


def with_entry(key: str, value: str = "1") -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(key, value)
    return options


@pytest.mark.parametrize(
    "options",
    [
        with_attribute("optimized_model_filepath", "/tmp/leak.onnx"),
        with_attribute("enable_profiling", True),
        with_entry("ep.context_enable"),
        with_entry("ep.context_file_path", "/tmp/leak"),
        with_entry("session.load_model_format", "ORT"),
        with_entry("session.save_model_format", "ORT"),
        with_entry("session.optimized_model_external_initializers_file_name", "leak"),
        with_entry("session.model_external_initializers_file_folder_path", "/tmp"),
    ],
)
def test_options_that_write_the_model_are_refused(
    device: Device, conv_bundle: Path, options: onnxruntime.SessionOptions
) -> None:
    """Optimized models, profiles and caches hold weights or structure in the clear."""
    with pytest.raises(InferenceError) as caught:
        device.session(conv_bundle, sess_options=options)

    assert caught.value.code == "EG-I010"


@pytest.mark.parametrize(
    "option",
    ["trt_engine_cache_enable", "trt_dump_subgraphs", "trt_ep_context_file_path", "trt_timing_cache_path", "cache_dir"],
)
def test_provider_caches_are_refused(device: Device, conv_bundle: Path, option: str) -> None:
    """Before onnxruntime is asked whether it even has the provider; switched off they pass."""
    with pytest.raises(InferenceError) as caught:
        device.session(conv_bundle, providers=[("TensorrtExecutionProvider", {option: "1"})])
    assert caught.value.code == "EG-I010"

    with pytest.raises(InferenceError) as caught:
        device.session(conv_bundle, providers=[("TensorrtExecutionProvider", {option: "0"})])
    assert caught.value.code == "EG-I002"


def test_provider_caches_by_environment_are_refused(
    device: Device, conv_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same options by the back door."""
    monkeypatch.setenv("ORT_TENSORRT_ENGINE_CACHE_ENABLE", "1")

    with pytest.raises(InferenceError) as caught:
        device.session(conv_bundle, providers=["TensorrtExecutionProvider"])

    assert caught.value.code == "EG-I010"


def test_harmless_options_carry_over(device: Device, conv_bundle: Path) -> None:
    """Threads, optimization level and a config entry of the allow-list reach onnxruntime."""
    options = with_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC

    used = device.session(conv_bundle, sess_options=options)._session.get_session_options()

    assert used.intra_op_num_threads == 1
    assert used.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert used.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(InferenceError):
        device.session(conv_bundle, threads=0)


# -- use ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"picture": IMAGE},
        {"image": IMAGE[0]},
        {"image": IMAGE.astype(np.float64)},
        {"image": "text"},
        {"image": None},
    ],
)
def test_wrong_feeds_give_our_error(device: Device, conv_bundle: Path, feeds: dict[str, object]) -> None:
    """No exception of onnxruntime crosses the border."""
    with device.session(conv_bundle) as session, pytest.raises(InferenceError) as caught:
        session.run(None, feeds)

    assert caught.value.code == "EG-I003"


def test_a_closed_session_says_so(device: Device, conv_bundle: Path) -> None:
    """After the with block, and after closing twice."""
    with device.session(conv_bundle) as session:
        pass
    session.close()

    for call in (session.get_inputs, session.get_outputs, session.get_providers, lambda: session.run(None, {})):
        with pytest.raises(InferenceError) as caught:
            call()
        assert caught.value.code == "EG-I004"


def test_sessions_are_not_copied(device: Device, conv_bundle: Path) -> None:
    """A pickle of a session would be a model in the clear."""
    with device.session(conv_bundle) as session:
        for way in (copy.copy, copy.deepcopy, lambda s: s.__reduce_ex__(5)):
            with pytest.raises(TypeError):
                way(session)


def test_threads_may_share_a_session(device: Device, conv_bundle: Path) -> None:
    """Every answer is the same, whoever asks."""
    with device.session(conv_bundle) as session, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: session.run(None, {"image": IMAGE})[0].tobytes(), range(16)))

    assert len(set(answers)) == 1


def test_importing_the_session_does_not_load_onnxruntime() -> None:
    """Verifying a model must not cost the quarter second that onnxruntime takes to import."""
    program = "import sys, edgeguard.infer.session; sys.exit('onnxruntime' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
