"""`InferenceSession`: onnxruntime's session, for protected models only.

The order is the point. The bundle is verified and decrypted into memory that can be wiped; the structural gate reads
the graph; only then does onnxruntime parse it. Weights are handed over from memory and never touch a disk; once the
session stands, they and the graph are wiped here. What onnxruntime itself holds stays in the process's memory in the
clear: whoever is root on the running device can read it. SECURITY.md says so too.

    with InferenceSession("bundle", trust=trust, key=key, expect_model="road-objects") as session:
        (grid,) = session.run(None, {"image": tensor})

What is here and what is not, and why: docs/inference.md.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self, TypeVar, get_args

from edgeguard.bundle.manifest import ModelIo
from edgeguard.bundle.model import VerifiedModel, open_model
from edgeguard.bundle.storage import refuse_plain_model
from edgeguard.errors import ConfigError, InferenceError, UnprotectedModelError
from edgeguard.infer.cache_binding import CacheBinding, bound_providers, machine_hardware, runtime_versions
from edgeguard.infer.cache_options import compiles_at_first_run, require_cacheable, with_cache
from edgeguard.infer.libraries import checked_libraries, registered
from edgeguard.infer.options import (
    CPU_PROVIDER,
    DEFAULT_THREADS,
    NamedProvider,
    Provider,
    bound_options,
    checked_providers,
    session_options,
)
from edgeguard.infer.runtime import make_session, onnxruntime, release_freed_memory
from edgeguard.infer.sealed_cache import CacheReport, OpenCache, SealedCache
from edgeguard.infer.shared_weights import LentWeights, Weights, borrow_weights
from edgeguard.keys.provider import KeyProvider, VerifiedStatement
from edgeguard.scan.onnx_gate import GraphSummary, check_model
from edgeguard.trust.state import DeviceState
from edgeguard.trust.store import TrustStore

T = TypeVar("T")

_ABOUT_INPUTS: Final = (ValueError, TypeError, RuntimeError)  # what the binding raises before the model runs
_NAMES_A_NODE: Final = re.compile(r"\bnode\b|Name:", re.IGNORECASE)

_NOT_OFFERED: Final[Mapping[str, str]] = {
    "enable_fallback": "a protected model never moves to another provider by itself",
    "end_profiling": "a profile holds the structure of the model",
    "get_session_options": "onnxruntime's options keep raw pointers to weights that have been wiped",
    "set_providers": "it would need the model again, which has been wiped; open the bundle again",
    "run_async": "errors in its callback would carry onnxruntime's own text; call run from a thread",
}


class InferenceSession:
    """A drop-in for `onnxruntime.InferenceSession` that takes a bundle instead of a model.

    Args:
        bundle: the bundle's directory, or a `VerifiedModel` from `open_model`. The latter is used up: it is closed and
            wiped, whether or not the session comes to be.
        trust, key, expect_model, board, state: as for `open_model`; needed with a path (the last two may be left out),
            refused with a `VerifiedModel`.
        providers: what must run the model, most wanted first, each a name or (name, options); the CPU by default.
            They are a requirement: one that onnxruntime leaves out is an error, not a slower run, and so is a list of
            accelerators of which none takes a single node.
        sess_options: onnxruntime options; see `edgeguard.infer.options` for those that carry over.
        threads: cores for one run, unless `sess_options` says otherwise.
        wall_ns: nanoseconds since 1970 UTC for the validity checks; None asks the machine.
        require_all_nodes: refuse a model of which the CPU would run a part. None: only when the CPU is not named.
        sealed_cache: keep what the providers compile, encrypted, for the next start.
        libraries: custom-operator libraries; their digests must be signed with the model.
        weights: "copied" by onnxruntime and wiped here, or "shared": used where they are, in memory that is locked and
            not dumped, and wiped by `close`. Shared needs onnxruntime 1.32 and half the memory, loads faster, and runs
            matrix products slower; see docs/inference.md.

    Attributes:
        model_id, release: what was signed. io: how frames go in and detections come out, or None. input_policy: chains
        and drift reference of the release as `InputPolicy.of` takes them, or None. summary: what the gate saw. cache:
        what became of the sealed cache, or None.

    Raises:
        UnprotectedModelError: EG-U001, EG-U002: a plain model.
        ModelError: the bundle, its graph (EG-G...) or a library (EG-S006) is refused.
        ConfigError: EG-C021, EG-C023, EG-C025: arguments that do not go together.
        InferenceError: EG-I001 onnxruntime refuses the model, EG-I002 a provider is missing, EG-I010 an option would
            expose the model, EG-I011 unusable thread count, EG-I012 an accelerator takes no node or a node is left to
            the CPU, EG-I013 unreadable provider list, EG-I014 nothing to cache, EG-I015 a library cannot be loaded,
            EG-I016 weights cannot be shared.
        EnvironmentMissingError: EG-E020: onnxruntime is missing or too old. EG-E021, EG-E022: see `SealedCache`.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | VerifiedModel,
        *,
        trust: TrustStore | None = None,
        key: KeyProvider | None = None,
        expect_model: str = "",
        board: str = "",
        state: DeviceState | None = None,
        providers: Sequence[Provider] | None = None,
        sess_options: Any = None,
        threads: int = DEFAULT_THREADS,
        wall_ns: int | None = None,
        require_all_nodes: bool | None = None,
        sealed_cache: SealedCache | None = None,
        libraries: Sequence[str | os.PathLike[str]] = (),
        weights: Weights = "copied",
    ) -> None:
        self._session: Any = None
        self._cache: OpenCache | None = None
        self._lent: LentWeights | None = None
        self._seal_after_run = False
        self._pid = os.getpid()
        with ExitStack() as used_up:
            model = used_up.enter_context(closing(_verified(bundle, trust, key, expect_model, board, wall_ns, state)))
            self.statement: VerifiedStatement = model.statement
            self.model_id: str = model.statement.model_id
            self.release: str = model.statement.release
            self.io: ModelIo | None = model.manifest.io
            self.input_policy: dict[str, Any] | None = model.manifest.input_policy
            self.summary: GraphSummary = check_model(
                model.graph,
                {name: len(w) for name, w in model.weights.items()},
                operator_domains=model.manifest.operator_domains,
            )
            code = checked_libraries([os.fspath(path) for path in libraries], signed_libraries(model))
            ort = onnxruntime()
            named = checked_providers(providers)
            options = session_options(ort, sess_options, threads, named, require_all_nodes=require_all_nodes)
            if weights not in get_args(Weights):
                raise ConfigError(f"weights are {' or '.join(get_args(Weights))}", code="EG-C025")
            if weights == "shared":
                borrow_weights(ort, options)
            _require_providers([name for name, _ in named], ort.get_available_providers())
            try:
                self._session = self._make(ort, model, options, named, code, sealed_cache)
                self._seal(at_first_run=compiles_at_first_run(named))
                if weights == "shared":
                    self._lent = LentWeights(model)
                    used_up.pop_all()
            finally:
                if self._session is None:
                    self.close()
        release_freed_memory()

    @property
    def cache(self) -> CacheReport | None:
        """What became of the sealed cache; None when there is none."""
        return self._cache.report if self._cache is not None else None

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """Run the model once; names and arrays as in onnxruntime.

        Raises:
            InferenceError: EG-I003, inputs do not fit the model or the run failed. EG-I004, the session is closed.
            EG-I005, the process has forked since.
        """
        session = self._open_session()
        answer = _guarded(lambda: list(session.run(output_names, dict(input_feed), run_options)))
        self._after_run()
        return answer

    def run_with_ort_values(
        self, output_names: Sequence[str] | None, input_dict_ort_values: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """Run the model on onnxruntime's `OrtValue`s and return its outputs as such; raises as `run`."""
        session = self._open_session()
        answer = _guarded(
            lambda: list(session.run_with_ort_values(output_names, dict(input_dict_ort_values), run_options))
        )
        self._after_run()
        return answer

    def io_binding(self) -> Any:
        """Return onnxruntime's own `IOBinding` for this session; what it raises is onnxruntime's."""
        return self._open_session().io_binding()

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        """Run the model on bound inputs and outputs; raises as `run`."""
        session = self._open_session()
        _guarded(lambda: session.run_with_iobinding(iobinding, run_options))
        self._after_run()

    def get_inputs(self) -> list[Any]:
        """Return name, type and shape of each input, without initializers."""
        return list(self._open_session().get_inputs())

    def get_outputs(self) -> list[Any]:
        """Return name, type and shape of each output."""
        return list(self._open_session().get_outputs())

    def get_overridable_initializers(self) -> list[Any]:
        """Return name, type and shape of each initializer that is also an input."""
        return list(self._open_session().get_overridable_initializers())

    def get_modelmeta(self) -> Any:
        """Return onnxruntime's description of the model: producer, graph name, version, custom metadata."""
        return self._open_session().get_modelmeta()

    def get_providers(self) -> list[str]:
        """Return the execution providers in use, most wanted first."""
        return [str(name) for name in self._open_session().get_providers()]

    def get_provider_options(self) -> dict[str, Any]:
        """Return the options of each provider in use."""
        return dict(self._open_session().get_provider_options())

    def close(self) -> None:
        """Let go of onnxruntime's session, wipe shared weights and the cache's plain files; again does nothing."""
        self._session = None
        if self._lent is not None:
            self._lent.take_back()
        if self._cache is not None:
            if self._seal_after_run:
                self._cache.finish()
            self._seal_after_run = False
            self._cache.close()

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

    def __getattr__(self, name: str) -> NoReturn:
        why = _NOT_OFFERED.get(name)
        raise AttributeError(f"{name} is not offered: {why}" if why else f"InferenceSession has no attribute {name}")

    def _make(
        self,
        ort: Any,
        model: VerifiedModel,
        options: Any,
        named: Sequence[NamedProvider],
        code: Sequence[bytes],
        sealed_cache: SealedCache | None,
    ) -> Any:
        """Make the session; one that a restored cache spoils is made again without it."""
        with registered(options, code):
            if sealed_cache is None:
                return _required(make_session(ort, model.graph, model.weights, options, named), named)
            require_cacheable(named)
            statement = model.statement
            binding = _binding(ort, model, options, named, sealed_cache.generation)
            self._cache = sealed_cache.open(statement.fleet_id, statement.model_id, binding)
            directed = with_cache(named, self._cache.path)
            try:
                return _required(make_session(ort, model.graph, model.weights, options, directed), named)
            except InferenceError:
                if self._cache.report.state != "restored":
                    raise
            # The same model, without what was restored: if it fails again, the cache was not to blame.
            self._cache.discard()
            directed = with_cache(named, self._cache.path)
            return _required(make_session(ort, model.graph, model.weights, options, directed), named)

    def _seal(self, *, at_first_run: bool) -> None:
        if self._cache is not None:
            self._seal_after_run = at_first_run
            if not at_first_run:
                self._cache.finish()

    def _after_run(self) -> None:
        if self._seal_after_run and self._cache is not None:
            self._seal_after_run = False
            self._cache.finish()

    def _open_session(self) -> Any:
        if self._session is None:
            raise InferenceError("the session is closed", code="EG-I004", hint="open the bundle again")
        if os.getpid() != self._pid:
            raise InferenceError(
                "the session was made before this process was forked",
                code="EG-I005",
                hint="open the bundle in the child; onnxruntime's threads do not survive a fork",
            )
        return self._session


def signed_libraries(model: VerifiedModel) -> dict[str, str]:
    """Return SHA-256 (hex) by file name of the libraries that the manifest signs."""
    return {library.name: library.sha256 for library in model.manifest.libraries}


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
        if trust is not None or key is not None or expect_model or board or wall_ns is not None or state is not None:
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


def _binding(
    ort: Any, model: VerifiedModel, options: Any, named: Sequence[NamedProvider], generation: int
) -> CacheBinding:
    from onnxruntime import capi

    return CacheBinding(
        statement=model.statement.identity.hex(),
        graph=model.manifest.graph.commitment,
        generation=generation,
        providers=bound_providers(named),
        session=tuple(sorted(bound_options(options).items())),
        runtime=str(ort.__version__),
        versions=runtime_versions(Path(capi.__path__[0])),
        hardware=machine_hardware(),
    )


def _required(session: Any, named: Sequence[NamedProvider]) -> Any:
    """Return the session when what was asked for is what runs it."""
    names = [name for name, _ in named]
    # Again: one that is installed may still not start, and is then left out without an error.
    _require_providers(names, session.get_providers())
    accelerators = [name for name in names if name != CPU_PROVIDER]
    taken = nodes_by_provider(session)
    if accelerators and taken and not any(taken[name] for name in accelerators):
        raise InferenceError(
            f"{' and '.join(accelerators)} would run none of the model's nodes; all are left to the CPU",
            code="EG-I012",
            hint=f"name {CPU_PROVIDER} alone, or use a model that the accelerator supports",
        )
    return session


def nodes_by_provider(session: Any) -> Counter[str]:
    """Return how many nodes each provider runs; empty where onnxruntime (before 1.24) cannot tell."""
    with suppress(Exception):
        info = session.get_provider_graph_assignment_info()
        return sum((Counter({str(part.ep_name): len(part.get_nodes())}) for part in info), Counter())
    return Counter()


def _require_providers(names: Sequence[str], present: Sequence[str]) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        raise InferenceError(
            f"the model would run without {', '.join(missing)}, which was asked for",
            code="EG-I002",
            hint="onnxruntime.get_available_providers() lists those of this machine",
        )


def _guarded(call: Callable[[], T]) -> T:
    """Return what `call` returns; onnxruntime's exceptions become ours."""
    try:
        return call()
    except Exception as error:
        failure = _told(error)
    raise InferenceError(
        f"the model could not be run: {failure}", code="EG-I003", hint="compare the feeds with get_inputs()"
    )


def _told(error: Exception) -> str:
    """Return the first line of what is wrong with the inputs; of anything else only its kind, since it names layers."""
    text = str(error).strip().splitlines()
    about_inputs = type(error) in _ABOUT_INPUTS or type(error).__name__ == "InvalidArgument"
    if about_inputs and text and not _NAMES_A_NODE.search(text[0]):
        return text[0][:300]
    return type(error).__name__
