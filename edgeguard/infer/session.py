"""`InferenceSession`: onnxruntime's session, for protected models only.

The order is the point. The bundle is verified and decrypted into memory that can be wiped; the structural gate reads
the graph; only then does onnxruntime parse it. Weights are handed over from memory and never touch a disk; once the
session stands, they and the graph are wiped here. What onnxruntime itself holds stays in the process's memory in the
clear: whoever is root on the running device can read it. SECURITY.md says so too.

    with InferenceSession("bundle", trust=trust, key=key, expect_model="road-objects") as session:
        (grid,) = session.run(None, {"image": tensor})
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from edgeguard.bundle.manifest import ModelIo
from edgeguard.bundle.model import VerifiedModel, open_model
from edgeguard.bundle.storage import refuse_plain_model
from edgeguard.errors import ConfigError, EdgeGuardError, EnvironmentMissingError, InferenceError, UnprotectedModelError
from edgeguard.infer.options import (
    DEFAULT_THREADS,
    RUNTIME_CONFIG_VARIABLE,
    Provider,
    checked_providers,
    session_options,
)
from edgeguard.keys.provider import KeyProvider, VerifiedStatement
from edgeguard.scan.onnx_gate import GraphSummary, check_model
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import TrustStore


class InferenceSession:
    """A drop-in for `onnxruntime.InferenceSession` that takes a bundle instead of a model.

    Args:
        bundle: the bundle's directory, or a `VerifiedModel` from `open_model`. The latter is used up: it is closed and
            wiped, whether or not the session comes to be.
        trust, key, expect_model, board: as for `open_model`; needed with a path, refused with a `VerifiedModel`.
        providers: what must run the model, most wanted first, each a name or (name, options); the CPU by default.
            They are a requirement: one that onnxruntime leaves out is an error, not a slower run.
        sess_options: onnxruntime options; see `edgeguard.infer.options` for those that carry over.
        threads: cores for one run, unless `sess_options` says otherwise.
        wall_ns: nanoseconds since 1970 UTC for the validity checks; None asks the machine.
        state: what this device remembers, as for `open_model`; `state.commit(session.statement)` once it works.

    Attributes:
        model_id, release, statement: what was signed. io: how frames go in and detections come out, or None. summary:
        what the gate saw.

    Raises:
        UnprotectedModelError: EG-U001, EG-U002: a plain model.
        ModelError: the bundle or its graph is refused.
        ConfigError: EG-C021, EG-C023: arguments that do not go together.
        InferenceError: EG-I001 onnxruntime refuses the model, EG-I002 a provider is missing, EG-I010 an option would
            expose the model, EG-I011 unusable thread count.
        EnvironmentMissingError: EG-E020: onnxruntime is missing or too old.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | VerifiedModel,
        *,
        trust: TrustStore | None = None,
        key: KeyProvider | None = None,
        expect_model: str = "",
        board: str = "",
        providers: Sequence[Provider] | None = None,
        sess_options: Any = None,
        threads: int = DEFAULT_THREADS,
        wall_ns: int | None = None,
        state: DeviceState | None = None,
    ) -> None:
        self._session: Any = None
        with closing(_verified(bundle, trust, key, expect_model, board, wall_ns, state)) as model:
            self.statement: VerifiedStatement = model.statement
            self.model_id: str = model.statement.model_id
            self.release: str = model.statement.release
            self.io: ModelIo | None = model.manifest.io
            self.summary: GraphSummary = check_model(model.graph, {name: len(w) for name, w in model.weights.items()})
            self._session = _create(model, providers, sess_options, threads)

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """Run the model once; names and arrays as in onnxruntime.

        Raises:
            InferenceError: EG-I003, inputs do not fit the model or the run failed. EG-I004, the session is closed.
        """
        session = self._open_session()
        failure = ""
        try:
            return list(session.run(output_names, dict(input_feed), run_options))
        except Exception as error:
            failure = _first_line(error)
        raise InferenceError(
            f"the model could not be run: {failure}", code="EG-I003", hint="compare the feeds with get_inputs()"
        )

    def get_inputs(self) -> list[Any]:
        """Return name, type and shape of each input, without initializers."""
        return list(self._open_session().get_inputs())

    def get_outputs(self) -> list[Any]:
        """Return name, type and shape of each output."""
        return list(self._open_session().get_outputs())

    def get_providers(self) -> list[str]:
        """Return the execution providers in use, most wanted first."""
        return [str(name) for name in self._open_session().get_providers()]

    def close(self) -> None:
        """Let go of onnxruntime's session; calling it again does nothing."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<InferenceSession {self.model_id} {self.release}, {'open' if self._session else 'closed'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session of a protected model is not copied or pickled")

    def _open_session(self) -> Any:
        if self._session is None:
            raise InferenceError("the session is closed", code="EG-I004", hint="open the bundle again")
        return self._session


def _verified(
    bundle: str | os.PathLike[str] | VerifiedModel,
    trust: TrustStore | None,
    key: KeyProvider | None,
    expect_model: str,
    board: str,
    wall_ns: int | None,
    state: DeviceState | None,
) -> VerifiedModel:
    if isinstance(bundle, VerifiedModel):
        given = (trust, key, wall_ns, state)
        if any(argument is not None for argument in given) or expect_model or board:
            raise ConfigError("trust and key belong to opening the bundle, which has been done", code="EG-C023")
        return bundle
    if not isinstance(bundle, (str, os.PathLike)):
        raise UnprotectedModelError(
            f"a {type(bundle).__name__} is no bundle; models are not taken as bytes",
            code="EG-U002",
            hint="pass the bundle's directory",
        )
    path = Path(bundle)
    refuse_plain_model(path)
    if trust is None or key is None or not expect_model:
        raise ConfigError(
            "a bundle is opened with trust, key and expect_model: there is no default trust",
            code="EG-C021",
            hint="TrustStore.load, FileKeyProvider, and the model id that edgeguard inspect shows",
        )
    return open_model(path, trust=trust, key=key, expect_model=expect_model, board=board, wall_ns=wall_ns, state=state)


def _create(model: VerifiedModel, providers: Sequence[Provider] | None, wanted: Any, threads: int) -> Any:
    """Make the onnxruntime session from a model the gate has let through."""
    ort = _onnxruntime()
    named = checked_providers(providers)
    _require_providers([name for name, _ in named], ort.get_available_providers())
    options = session_options(ort, wanted, threads, named)
    # Metadata that would configure the runtime is refused by the gate; this closes the same door from outside.
    os.environ.pop(RUNTIME_CONFIG_VARIABLE, None)
    held = {name: weights for name, weights in model.weights.items() if len(weights)}
    failure = ""
    session = None
    try:
        if held:
            # The lengths must be the buffers' own: onnxruntime reads past the end of a shorter one.
            lengths = [len(weights) for weights in held.values()]
            options.add_external_initializers_from_files_in_memory(list(held), list(held.values()), lengths)
        session = ort.InferenceSession(
            bytes(model.graph),
            options,
            providers=named,
            enable_fallback=0,  # the CPU is never a silent replacement
            read_config_from_model=0,
        )
        session._model_bytes = None  # else kept, in the clear, as long as the session
    except EdgeGuardError:
        raise
    except Exception as error:
        failure = type(error).__name__  # its message may quote the graph
    if session is None:
        raise InferenceError(
            f"onnxruntime {ort.__version__} does not take the model ({failure})",
            code="EG-I001",
            hint="run the plain model with the same onnxruntime and provider on the host to see why",
        )
    # Again: one that is installed may still not start, and is then left out without an error.
    _require_providers([name for name, _ in named], session.get_providers())
    return session


def _require_providers(names: Sequence[str], present: Sequence[str]) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        raise InferenceError(
            f"the model would run without {', '.join(missing)}, which was asked for",
            code="EG-I002",
            hint="edgeguard doctor lists the providers of this machine",
        )


def _onnxruntime() -> Any:
    """Import onnxruntime, which takes a quarter of a second and is not needed to verify a model."""
    try:
        import onnxruntime
    except ImportError:
        onnxruntime = None
    if not hasattr(getattr(onnxruntime, "SessionOptions", None), "add_external_initializers_from_files_in_memory"):
        raise EnvironmentMissingError(
            "onnxruntime 1.24 or newer is needed to run protected models",
            code="EG-E020",
            hint="pip install onnxruntime",
        )
    return onnxruntime


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
