"""Every option of the installed onnxruntime is carried over, refused, or known to be left out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgeguard.errors import InferenceError
from edgeguard.infer.cache_options import CACHE_OPTIONS, require_cacheable, with_cache
from edgeguard.infer.options import COPIED_ENTRIES, REFUSED_ENTRIES, checked_providers, session_options
from edgeguard.infer.runtime import sealed_memory_file
from edgeguard.infer.sealed_cache import SealedCache
from edgeguard.infer.session import InferenceSession

if TYPE_CHECKING:
    from conftest import Device

IMAGE = np.random.default_rng(5).random((1, 3, 16, 24), dtype=np.float32)

# Session entries of onnxruntime 1.32.0 that neither expose a model nor are carried over: they have no use here, or
# `threads`, `sess_options` attributes and the session itself set them.
_LEFT_OUT_TEXT = """
mlas.kleidiai.conv_igemm_max_work mlas.nchwc_depthwise_sliding mlas.nchwc_pointwise_conv_max_input_channel_batch
mlas.qnbit.force_fp32 optimization.constant_folding_max_output_size_in_bytes
optimization.disable_specified_optimizers session.disable_cpu_ep_fallback session.disable_model_compile
session.enable_cpu_mem_arena session.enable_mem_pattern session.enable_moe_expert_counting
session.enable_moe_expert_statistics session.enable_saved_runtime_optimizations session.execution_mode
session.external_data_loader.chunk_bytes session.external_data_loader.min_size_bytes
session.external_data_loader.pinned_memory_bytes session.external_data_loader.threads
session.fail_on_suboptimal_compiled_model session.function_expansion_byte_limit
session.function_expansion_node_limit session.gqa_value_layout session.graph_optimization_level
session.inter_op_num_threads session.intra_op_num_threads session.kernel_dispatch_policy session.log_id
session.log_severity_level session.log_verbosity_level session.max_shape_override
session.moe_expert_counter_alpha session.moe_expert_counter_beta session.name_based_layer_assignment
session.record_ep_graph_assignment_info session.strict_workspace_verification session.use_deterministic_compute
session.use_per_session_threads
"""
LEFT_OUT = frozenset(_LEFT_OUT_TEXT.split())
_KEY = re.compile(rb"\0((?:session|ep|optimization|mlas)\.[a-z0-9_]+(?:\.[a-z0-9_]+)*)(?=\0)")
_NAMESPACES = ("ep.cpu.", "ep.cuda.", "session.moe.offload.")


def known_to_the_runtime() -> set[str]:
    """Return the session keys that stand as strings in onnxruntime's library."""
    found: set[str] = set()
    for path in (Path(onnxruntime.__file__).parent / "capi").glob("onnxruntime_pybind11_state*"):
        found |= {match.decode() for match in _KEY.findall(path.read_bytes())}
    return found


def test_no_option_of_the_installed_runtime_is_unknown_to_us() -> None:
    """A release with new keys makes this fail, so that somebody looks whether one of them writes the model."""
    keys = known_to_the_runtime()
    assert len(keys) > 50

    unknown = {k for k in keys if not k.startswith(_NAMESPACES)} - set(COPIED_ENTRIES) - set(REFUSED_ENTRIES) - LEFT_OUT

    assert unknown == set()
    assert not set(COPIED_ENTRIES) & set(REFUSED_ENTRIES)


@pytest.mark.parametrize("key", REFUSED_ENTRIES)
def test_every_refused_entry_is_refused(key: str) -> None:
    """And passes when it is switched off."""
    wanted = onnxruntime.SessionOptions()
    wanted.add_session_config_entry(key, "1")

    with pytest.raises(InferenceError) as caught:
        session_options(onnxruntime, wanted, 2, [("CPUExecutionProvider", {})])

    assert caught.value.code == "EG-I010"
    assert key in caught.value.message
    off = onnxruntime.SessionOptions()
    off.add_session_config_entry(key, "0")
    session_options(onnxruntime, off, 2, [("CPUExecutionProvider", {})])


# Documented provider options that write the model, read something unsigned, load code or take a pointer.
EXPOSING = {
    "CANNExecutionProvider": ["dump_graphs", "dump_om_model"],
    "CoreMLExecutionProvider": ["ModelCacheDirectory"],
    "MIGraphXExecutionProvider": [
        "migraphx_int8_calibration_table_name", "migraphx_load_compiled_model", "migraphx_load_model_name",
        "migraphx_model_cache_dir", "migraphx_save_compiled_model", "migraphx_save_model_name",
    ],
    "NvTensorRTRTXExecutionProvider": ["nv_dump_subgraphs", "nv_runtime_cache_path", "nv_onnx_bytestream"],
    "OpenVINOExecutionProvider": ["cache_dir", "context", "load_config"],
    "QNNExecutionProvider": [
        "backend_path", "dump_json_qnn_graph", "json_qnn_graph_dir", "op_packages", "profiling_file_path",
        "profiling_level", "qnn_context_cache_enable", "qnn_context_cache_path", "qnn_saver_path",
    ],
    "TensorrtExecutionProvider": [
        "trt_dump_ep_context_model", "trt_dump_subgraphs", "trt_engine_cache_enable", "trt_engine_cache_path",
        "trt_engine_cache_prefix", "trt_engine_decryption_enable", "trt_engine_decryption_lib_path",
        "trt_ep_context_file_path", "trt_extra_plugin_lib_paths", "trt_int8_calibration_table_name",
        "trt_int8_use_native_calibration_table", "trt_onnx_bytestream", "trt_onnx_model_folder_path",
        "trt_timing_cache_enable", "trt_timing_cache_path",
    ],
    "VitisAIExecutionProvider": ["cache_dir", "cache_key", "config_file", "xclbin"],
}  # fmt: skip
HARMLESS = {
    "CUDAExecutionProvider": ["arena_extend_strategy", "cudnn_conv_algo_search", "device_id", "gpu_mem_limit"],
    "OpenVINOExecutionProvider": ["device_type", "num_of_threads", "num_streams", "precision"],
    "TensorrtExecutionProvider": [
        "trt_builder_optimization_level", "trt_context_memory_sharing_enable", "trt_fp16_enable", "trt_int8_enable",
        "trt_max_workspace_size", "trt_profile_max_shapes", "trt_profile_min_shapes", "trt_profile_opt_shapes",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("provider", "option"), [(p, o) for p, options in EXPOSING.items() for o in options])
def test_options_that_expose_the_model_are_refused(provider: str, option: str) -> None:
    """Each by its documented name."""
    with pytest.raises(InferenceError) as caught:
        checked_providers([(provider, {option: "1"})])

    assert caught.value.code == "EG-I010"


@pytest.mark.parametrize(("provider", "option"), [(p, o) for p, options in HARMLESS.items() for o in options])
def test_options_that_tune_a_provider_pass(provider: str, option: str) -> None:
    """Shapes, precision and memory are the caller's."""
    assert checked_providers([(provider, {option: "1"})]) == [(provider, {option: "1"})]


def test_what_a_provider_writes_unasked_is_switched_off() -> None:
    """CANN keeps the model it built in the working directory unless it is told not to."""
    assert checked_providers(["CANNExecutionProvider"]) == [("CANNExecutionProvider", {"dump_om_model": "0"})]


@pytest.mark.parametrize(
    "variable",
    ["ORT_TENSORRT_DUMP_SUBGRAPHS", "ORT_MIGRAPHX_SAVE_COMPILED_MODEL", "ORT_MIGRAPHX_MODEL_CACHE_PATH"],
)
def test_the_environment_is_no_way_around(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a session with an accelerator; the CPU knows none of them."""
    monkeypatch.setenv(variable, "1")

    with pytest.raises(InferenceError):
        checked_providers(["MIGraphXExecutionProvider"])
    assert checked_providers(None) == [("CPUExecutionProvider", {})]


@pytest.mark.parametrize("wrong", [[3], [("A",)], [("A", 1)], [None], [("A", {}, {})], ["A", "A"]])
def test_a_provider_list_that_cannot_be_read_is_our_error(wrong: list[object]) -> None:
    """With an example in the hint."""
    with pytest.raises(InferenceError) as caught:
        checked_providers(wrong)  # type: ignore[arg-type]

    assert caught.value.code == "EG-I013"


def test_every_node_can_be_required_of_the_accelerators() -> None:
    """Then the CPU must not be named; and it is what happens when it is not."""
    named = [("TensorrtExecutionProvider", {}), ("CUDAExecutionProvider", {})]
    with pytest.raises(InferenceError) as caught:
        session_options(onnxruntime, None, 2, [*named, ("CPUExecutionProvider", {})], require_all_nodes=True)
    assert caught.value.code == "EG-I012"

    for required in (None, True):
        options = session_options(onnxruntime, None, 2, named, require_all_nodes=required)
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    options = session_options(onnxruntime, None, 2, named, require_all_nodes=False)
    with pytest.raises(RuntimeError):
        options.get_session_config_entry("session.disable_cpu_ep_fallback")


# -- sealed cache options ----------------------------------------------------------------------------------------------


def test_each_provider_s_cache_goes_to_its_own_private_directory(tmp_path: Path) -> None:
    """By options that would be refused from a caller."""
    named = [(name, {"device_id": "0"}) for name in CACHE_OPTIONS]

    directed = dict(with_cache([*named, ("CPUExecutionProvider", {})], tmp_path))

    assert directed.pop("CPUExecutionProvider") == {}
    for name, options in directed.items():
        assert str(tmp_path / name) in options.values()
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700
        del options["device_id"]
        for option, value in options.items():
            with pytest.raises(InferenceError):
                checked_providers([(name, {option: value})])


def test_a_cache_without_a_provider_that_caches_is_an_error(device: Device, conv_bundle: Path, tmp_path: Path) -> None:
    """Rather than a folder that stays empty for ever; and no folder is made."""
    cache = SealedCache(tmp_path / "cache", key=device.key, allow_swap=True)

    with pytest.raises(InferenceError) as caught:
        device.session(conv_bundle, sealed_cache=cache)

    assert caught.value.code == "EG-I014"
    assert "OpenVINOExecutionProvider" in caught.value.hint
    assert not (tmp_path / "cache").exists()
    with pytest.raises(InferenceError):
        require_cacheable([("CUDAExecutionProvider", {})])


# -- the drop-in -------------------------------------------------------------------------------------------------------


def test_onnxruntime_s_other_ways_to_run_give_the_same(device: Device, conv_bundle: Path) -> None:
    """I/O binding and OrtValues."""
    with device.session(conv_bundle) as session:
        expected = session.run(None, {"image": IMAGE})[0]
        binding = session.io_binding()
        binding.bind_cpu_input("image", IMAGE)
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        value = onnxruntime.OrtValue.ortvalue_from_numpy(IMAGE)
        (answer,) = session.run_with_ort_values(["y"], {"image": value})

        assert binding.copy_outputs_to_cpu()[0].tobytes() == expected.tobytes()
        assert answer.numpy().tobytes() == expected.tobytes()
        assert session.get_modelmeta().graph_name
        assert [port.name for port in session.get_overridable_initializers()] == ["w"]
        assert list(session.get_provider_options()) == ["CPUExecutionProvider"]
        assert session.cache is None

    for call in (lambda: session.run_with_iobinding(binding), session.io_binding, session.get_modelmeta):
        with pytest.raises(InferenceError) as caught:
            call()
        assert caught.value.code == "EG-I004"


@pytest.mark.parametrize("name", ["get_session_options", "set_providers", "end_profiling", "enable_fallback"])
def test_what_would_expose_the_model_is_not_offered_and_says_why(device: Device, conv_bundle: Path, name: str) -> None:
    """As an AttributeError, so that hasattr tells."""
    with device.session(conv_bundle) as session:
        assert not hasattr(session, name)
        with pytest.raises(AttributeError, match="is not offered: "):
            getattr(session, name)
        with pytest.raises(AttributeError, match="has no attribute"):
            session.no_such_thing  # noqa: B018


def test_a_forked_child_is_told_to_open_the_bundle_itself(device: Device, conv_bundle: Path) -> None:
    """onnxruntime's threads stay behind in the parent: a run in the child would wait for them for ever."""
    with device.session(conv_bundle) as session:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover  (another process)
            code = b"ran"
            try:
                session.run(None, {"image": IMAGE})
            except InferenceError as error:
                code = error.code.encode()
            finally:
                os.write(write_end, code)
                os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end, "rb") as answer:
            assert answer.read() == b"EG-I005"
        os.waitpid(child, 0)
        assert session.run(None, {"image": IMAGE})[0].any()


def test_the_options_object_keeps_no_way_to_the_weights(device: Device, conv_bundle: Path) -> None:
    """Runtime configuration by environment is gone before the model is parsed."""
    os.environ["ORT_LOAD_CONFIG_FROM_MODEL"] = "1"
    with device.session(conv_bundle):
        assert "ORT_LOAD_CONFIG_FROM_MODEL" not in os.environ


def test_refusals_do_not_quote_the_graph(
    device: Device,
    conv_model: Callable[..., onnx.ModelProto],
    evil_bundle: Callable[[onnx.ModelProto, pytest.MonkeyPatch], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A model that onnxruntime refuses after the gate let it through: names of nodes and tensors stay inside."""
    model = conv_model()
    model.graph.node.append(helper.make_node("Add", ["h", "image"], ["SECRET_LAYER"], name="SECRET_NODE"))
    model.graph.output.append(helper.make_tensor_value_info("SECRET_LAYER", TensorProto.FLOAT, None))

    with pytest.raises(InferenceError) as caught:
        device.session(evil_bundle(model, monkeypatch))

    assert caught.value.code == "EG-I001"
    assert "SECRET" not in str(caught.value) + caught.value.hint
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "SECRET" not in "".join(capfd.readouterr())


def test_a_run_that_fails_inside_does_not_quote_the_graph(
    device: Device, conv_model: Callable[..., onnx.ModelProto], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is wrong with an input is told; which layer failed is not."""
    model = conv_model()
    shape = helper.make_node("Reshape", ["image", "shape"], ["SECRET_LAYER"], name="SECRET_NODE")
    model.graph.node.append(shape)
    model.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [1]))
    model.graph.output.append(helper.make_tensor_value_info("SECRET_LAYER", TensorProto.FLOAT, ["n"]))
    path = tmp_path / "reshape.onnx"
    onnx.save(model, path)

    with device.session(device.protect(path)) as session:
        with pytest.raises(InferenceError) as caught:
            session.run(None, {"image": IMAGE, "shape": np.array([7], np.int64)})
        assert "SECRET" not in str(caught.value)
        with pytest.raises(InferenceError, match="image"):
            session.run(None, {"image": IMAGE[:, :, 1:], "shape": np.array([-1], np.int64)})
    assert "SECRET" not in "".join(capfd.readouterr())


def test_a_memory_file_is_sealed() -> None:
    """Nobody who finds the descriptor can change what was hashed."""
    with sealed_memory_file(b"code") as fd:
        for change in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 0), lambda: os.ftruncate(fd, 9)):
            with pytest.raises(PermissionError):
                change()
        assert os.pread(fd, 9, 0) == b"code"
    with pytest.raises(OSError, match=r"[Bb]ad file descriptor"):
        os.fstat(fd)


def test_a_session_is_not_made_from_nothing() -> None:
    """Arguments are checked before anything is opened."""
    with pytest.raises(Exception, match="no bundle"):
        InferenceSession(None)  # type: ignore[arg-type]
