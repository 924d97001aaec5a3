"""The model that an attack is made against: a plain ONNX file on onnxruntime, asked with 8-bit images and counted.

Attacks are made and judged here with unprotected models, on a developer's machine; nothing of this runs on a device,
whose sessions accept bundles alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgeguard.bundle.manifest import DecoderSpec, InputSpec, ModelIo
from edgeguard.errors import EdgeGuardError, ScenarioError
from edgeguard.infer.adapter import derive_input
from edgeguard.infer.preprocess import image_tensor

MAX_MODEL_BYTES: Final = 1 << 30  # nobody computes gradients of more on the machines that this is for
MAX_IO_BYTES: Final = 1 << 16
_ELEMENT_TYPES: Final[Mapping[str, type[np.generic]]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


class Victim:
    """A plain model with the description of its input.

    Args:
        content: the ONNX file. io: how frames go in and what comes out; None derives the input (RGB in 0..1,
            stretched). threads: of onnxruntime; results of one count repeat exactly on one machine.

    `asked` counts the images that it was asked about: what a query attack pays. `session` is onnxruntime's own.

    Raises:
        ScenarioError: EG-X018, onnxruntime does not accept the file, or it does not take one image.
    """

    def __init__(self, content: bytes, io: ModelIo | None = None, *, name: str = "model", threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # real exports list initializers as inputs: one warning for each otherwise
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self.io = io or ModelIo(derive_input(session.get_inputs()), DecoderSpec("raw"))
            port = next(p for p in session.get_inputs() if p.name == self.io.input.name)
            self._element_type: type[np.generic] = _ELEMENT_TYPES[port.type]
        except (EdgeGuardError, StopIteration, KeyError) as error:
            why = error.message if isinstance(error, EdgeGuardError) else "its input is not the one described"
            raise ScenarioError(f"{name}: {why}", code="EG-X018", hint="describe it in a .toml beside it") from None
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise ScenarioError(
                f"{name}: onnxruntime does not accept this model", code="EG-X018", hint="edgeguard scan FILE"
            ) from error
        self.name, self.content = name, content
        # A batch at once only where the file says that any number of images may go in.
        self.batched = not isinstance(port.shape[0], int)
        self.session = session
        self.outputs = tuple(p.name for p in session.get_outputs())
        self.asked = 0

    @property
    def spec(self) -> InputSpec:
        """How a frame becomes its input."""
        return self.io.input

    def tensor(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the input tensor of (N, H, W, 3) uint8 BGR images, made by the very code that runs on a device."""
        parts = [image_tensor(np.ascontiguousarray(image), self.spec) for image in images]
        return np.concatenate(parts).astype(self._element_type, copy=False)

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], ...]:
        """Return the output tensors, float32, of (N, H, W, 3) uint8 BGR images; counts N."""
        self.asked += len(images)
        fed = self.tensor(images)
        chunks = [fed] if self.batched else [fed[i : i + 1] for i in range(len(fed))]
        got = [self.session.run(self.outputs, {self.spec.name: chunk}) for chunk in chunks]
        return tuple(np.concatenate(parts).astype(np.float32) for parts in zip(*got, strict=True))


def open_victim(where: str | Path, io: ModelIo | None = None, *, threads: int = 1) -> Victim:
    """Return the model of an ONNX file, or `"obstacle_detector"`, the simulator's own.

    A file of the same name that ends in .toml, in the form of `obstacle_detector.toml`, describes input and output
    where `io` is not given.

    Raises:
        ScenarioError: EG-X018, the model or its description cannot be read or used.
    """
    with ExitStack() as stack:
        path = Path(where)
        if str(where) == "obstacle_detector":
            models = files("edgeguard.sim") / "models"
            path = stack.enter_context(as_file(models / "obstacle_detector.onnx"))
            described = stack.enter_context(as_file(models / "obstacle_detector.toml"))
        else:
            described = path.with_suffix(".toml")
        content = _read(path, MAX_MODEL_BYTES)
        if io is None and described.exists():
            try:
                io = msgspec.toml.decode(_read(described, MAX_IO_BYTES), type=ModelIo)
            except msgspec.MsgspecError as error:
                raise ScenarioError(f"{described.name}: {error}", code="EG-X018") from error
    return Victim(content, io, name=path.stem, threads=threads)


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ScenarioError(f"cannot read {path}: {error.strerror}", code="EG-X018") from None
    if len(content) > limit:
        raise ScenarioError(f"{path} is larger than {limit} bytes", code="EG-X018")
    return content
