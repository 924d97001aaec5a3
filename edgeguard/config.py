"""One TOML file -> frozen structs. An unknown key is an error that names the nearest known one.

Example::

    [pipeline]
    tick_ms = 100

    [guard]
    relax_after_clean_ticks = 10

Every section is optional; what is absent has the default written here. Local settings may make the guard stricter;
what may run at all (signers, boards, validity) is signed policy and cannot be set here.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import msgspec

from edgeguard.errors import ConfigError

# A configuration is written by hand; anything larger is a wrong file.
MAX_CONFIG_BYTES = 1024 * 1024
MAX_ENSEMBLE = 7  # with the first one eight: each costs two passes on an alarm, whose time has to stay bounded

T = TypeVar("T")


class PipelineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How time is cut into decisions."""

    tick_ms: int = 100
    poll_ms: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.poll_ms <= self.tick_ms <= 10_000:
            raise ValueError("needs 1 <= poll_ms <= tick_ms <= 10000")


class GuardPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a verdict worsens and when it may relax again; read by `edgeguard.guard`."""

    relax_after_clean_ticks: int = 10
    stop_after_hold_ticks: int = 100
    min_trusted_positioning: int = 1

    def __post_init__(self) -> None:
        if self.relax_after_clean_ticks < 1 or self.stop_after_hold_ticks < 1 or self.min_trusted_positioning < 0:
            raise ValueError("tick counts start at 1, sensor counts at 0")


class RestoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which restorers run, in this order: impulse-median, scattered-returns, isolated-returns, and those of `chains`.

    chains: TOML file of chains for pictures, point clouds and series (docs/restoration.md), or empty.
    """

    chain: tuple[str, ...] = ("impulse-median", "scattered-returns", "isolated-returns")
    chains: str = ""
    max_removed_share: float = 0.05

    def __post_init__(self) -> None:
        if not 0.0 <= self.max_removed_share <= 0.5:
            raise ValueError("max_removed_share must lie in 0..0.5: a filter must not delete a pedestrian")


class ChecksConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Checks that are left out, by name; for a rig on which a check cannot apply."""

    disabled: tuple[str, ...] = ()


class CalibrationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What clean data of this rig look like (docs/calibration.md); empty means shipped priors.

    key authenticates a device's own file, trust a fleet's; where empty, those of `[model]` are taken.
    """

    file: str = ""
    key: str = ""
    trust: str = ""


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which protected model runs, whom it must be signed by, and how it runs. All paths may be empty."""

    bundle: str = ""
    model_id: str = ""
    trust: str = ""
    key: str = ""
    state: str = ""
    tpm_counter: str = ""
    board: str = ""
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = 2


class EnsembleMember(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A further classifier that the gate asks; trust, key and state are those of `[model]`."""

    bundle: str
    model_id: str


class InputsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What stands between frames and the model (docs/restoration.md).

    gate: `off`; or what an alarm leads to: `restore` answers from restored views and the ensemble and says so,
    `refuse` answers nothing. frames_between_alarms: 0 judges each frame alone; else also an alarm over the stream, not
    oftener than that on clean frames, of which every `every`-th counts. query_detector: alarm on many requests about
    one picture; for endpoints, a video repeats itself.
    """

    gate: Literal["off", "restore", "refuse"] = "off"
    ensemble: tuple[EnsembleMember, ...] = ()
    frames_between_alarms: int = 0
    every: int = 10
    query_detector: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.frames_between_alarms <= 10**9 or not 1 <= self.every <= 10_000:
            raise ValueError("frames_between_alarms must lie in 0..1e9 and every in 1..10000")
        if len(self.ensemble) > MAX_ENSEMBLE:
            raise ValueError(f"at most {MAX_ENSEMBLE} further models can be asked")


class AuditConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the tamper-evident log goes; empty means none is written."""

    directory: str = ""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    pipeline: PipelineConfig = PipelineConfig()
    checks: ChecksConfig = ChecksConfig()
    guard: GuardPolicy = GuardPolicy()
    restore: RestoreConfig = RestoreConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    model: ModelConfig = ModelConfig()
    inputs: InputsConfig = InputsConfig()
    audit: AuditConfig = AuditConfig()


def load_config(path: str | Path | None = None) -> Config:
    """Read `path`, or return the defaults when it is None.

    Raises:
        ConfigError: EG-C001 unreadable, EG-C002 not TOML, EG-C003 unknown key, EG-C004 wrong type or value.
    """
    return Config() if path is None else read_toml(Path(path), Config)


def read_toml(path: Path, kind: type[T]) -> T:
    """Read one TOML file into a frozen struct of type `kind`; errors as in `load_config`."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", code="EG-C001", hint="check the path") from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes", code="EG-C001", hint="is this the file?")
    return parse_toml(raw, kind, origin=str(path))


def parse_toml(raw: bytes, kind: type[T], *, origin: str) -> T:
    """Parse TOML bytes into `kind`; `origin` names them in errors."""
    try:
        tree = tomllib.loads(raw.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}", code="EG-C002", hint="see docs/config.md") from None
    _refuse_unknown_keys(tree, kind, origin, "")
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {error}", code="EG-C004", hint="see docs/config.md") from None


def _refuse_unknown_keys(tree: dict[str, Any], kind: Any, origin: str, prefix: str) -> None:
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return
    hints = get_type_hints(kind)
    known = {f.encode_name: hints[f.name] for f in msgspec.structs.fields(kind)}
    for key, value in tree.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
            raise ConfigError(f"{origin}: unknown key {prefix}{key}", code="EG-C003", hint=hint)
        if isinstance(value, dict):
            _refuse_unknown_keys(value, known[key], origin, f"{prefix}{key}.")
