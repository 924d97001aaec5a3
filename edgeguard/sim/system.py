"""Carries out attacks on the device itself: real bundles, real files, a real process; says what stopped them.

Everything happens in one folder. The throw-away fleet is made by the `edgeguard-provision` command in a process of its
own: code that can sign models is never loaded here.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeguard.audit.log import AuditLog
from edgeguard.audit.verify import verify_log
from edgeguard.clock import NS_PER_S, ManualClock, SystemClock
from edgeguard.config import Config
from edgeguard.errors import EdgeGuardError, EnvironmentMissingError
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.ticks import periodic_ticks
from edgeguard.sim.attacks.base import AttackBase
from edgeguard.sim.attacks.system import (
    DiskFull,
    HostClockJump,
    ModelRollback,
    ModelTamper,
    ModelWrongDevice,
    ProcessKill,
)
from edgeguard.sim.run import Expectation, Outcome, run_scenario
from edgeguard.sim.scenario import Scenario
from edgeguard.types import FrameResult

if TYPE_CHECKING:
    from collections.abc import Iterator

Provision = Callable[[Sequence[str]], dict[str, Any]]

MODEL_ID = "obstacle-detector"
BOARD = "x86-64"
VICTIM, STRANGER = "victim", "stranger"
PROVISION_TIMEOUT_S = 120.0
VICTIM_TIMEOUT_S = 600.0
# A killed process leaves at most the records of its last flush unwritten.
_PARTS = {"manifest": "manifest.json", "signature": "model.sig"}


def provision_in_subprocess(arguments: Sequence[str]) -> dict[str, Any]:
    """Run one `edgeguard-provision` command and return what it printed.

    Raises:
        EnvironmentMissingError: EG-E030 when the command is not installed or fails.
    """
    command = [sys.executable, "-m", "firmware_tools.cli", *arguments, "--format", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROVISION_TIMEOUT_S, check=True)  # noqa: S603 - our own command, no shell
        result: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise EnvironmentMissingError(
            "a throw-away fleet could not be made", code="EG-E030", hint="edgeguard-provision --help must work here"
        ) from error
    return result


class Fleet:
    """A throw-away fleet with two devices and two releases of the example model, made when first asked for."""

    def __init__(self, folder: Path, provision: Provision = provision_in_subprocess) -> None:
        self.folder = folder
        self._provision = provision
        self._copies = 0

    @property
    def trust(self) -> Path:
        return self.folder / "fleet" / "trust"

    def key(self, device: str) -> Path:
        return self.folder / f"{device}.pem"

    def state(self, device: str) -> Path:
        return self.folder / f"{device}.state"

    @cached_property
    def releases(self) -> tuple[Path, Path]:
        """Bundles of the older and the newer release, both granted to the victim."""
        fleet = str(self.folder / "fleet")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._provision(["init", fleet, "--name", "sim", "--allow-unlocked-memory"])
        for device in (VICTIM, STRANGER):
            request = str(self.folder / f"{device}.request")
            made = self._provision([
                "keygen", "--trust", str(self.trust), "--key", str(self.key(device)), "--state",
                str(self.state(device)), "--request", request, "--name", device, "--board", BOARD,
            ])  # fmt: skip
            self._provision(["enroll", fleet, request, "--fingerprint", made["fingerprint"]])
        older, newer = (self._release(fleet, number) for number in (1, 2))
        return older, newer

    def _release(self, fleet: str, number: int) -> Path:
        out = self.folder / f"{MODEL_ID}-{number}.bundle"
        models = files("edgeguard.sim") / "models"
        with as_file(models / "obstacle_detector.onnx") as onnx, as_file(models / "obstacle_detector.toml") as model_io:
            self._provision([
                "pack", fleet, str(onnx), "--model-id", MODEL_ID, "--release", f"{number}.0.0", "--out", str(out),
                "--io", str(model_io), "--board", BOARD, "--counter", str(number),
            ])  # fmt: skip
        self._provision(["grant", fleet, str(out), VICTIM])
        return out

    def copy(self, bundle: Path) -> Path:
        """Return a copy of a bundle that may be spoilt."""
        self._copies += 1
        target = self.folder / f"copy-{self._copies}.bundle"
        shutil.copytree(bundle, target)
        return target

    def refusal(self, bundle: Path, device: str, *, commit: bool = False) -> str:
        """Open a bundle as a device does; return the code of the error that stopped it, "" when it opened."""
        from edgeguard.infer.session import InferenceSession
        from edgeguard.keys.file import FileKeyProvider
        from edgeguard.trust.state import DeviceState
        from edgeguard.trust.store import TrustStore

        trust = TrustStore.load(self.trust, SystemClock().wall_ns())
        key = FileKeyProvider(self.key(device))
        state = DeviceState.open(self.state(device), key=key, fleet_id=trust.fleet_id)
        try:
            with InferenceSession(
                bundle, trust=trust, key=key, expect_model=MODEL_ID, board=BOARD, state=state
            ) as session:
                if commit:
                    state.commit(session.statement)
        except EdgeGuardError as error:
            return error.code
        return ""


def run_system_attacks(scenario: Scenario, seed: int, folder: Path, fleet: Fleet | None = None) -> list[Expectation]:
    """Carry out the scenario's attacks on the device, and hold what stopped them against what it expects.

    Args:
        folder: everything is written below it. fleet: reused where given; made below `folder` otherwise.
    """
    found: list[Expectation] = []
    for number, attack in enumerate(scenario.system_attacks):
        expect = scenario.expected_of(attack)
        where = folder / f"attack-{number}"
        where.mkdir(parents=True, exist_ok=True)
        if isinstance(attack, ModelTamper | ModelRollback | ModelWrongDevice):
            fleet = fleet or Fleet(folder / "fleet")
            code = _attack_model(attack, fleet)
            wanted = f"refused {expect.refused}".strip()
            met = bool(code) and (not expect.refused or code == expect.refused)
            found.append(Expectation(f"{attack.name}: model", wanted, f"refused {code}" if code else "opened", met))
        elif isinstance(attack, DiskFull):
            found += _fill_disk(scenario, attack, seed, where)
        elif isinstance(attack, ProcessKill):
            found += _kill(scenario, attack, seed, where)
        elif isinstance(attack, HostClockJump):
            found += _jump(scenario, attack, seed, where)
    return found


# ---- the model -----------------------------------------------------------------------------------------------------


def _attack_model(attack: AttackBase, fleet: Fleet) -> str:
    older, newer = fleet.releases
    if isinstance(attack, ModelRollback):
        opened = fleet.refusal(newer, VICTIM, commit=True)
        if opened:
            return ""  # the newer release itself did not open: nothing is shown about rolling back
        return fleet.refusal(older, VICTIM)
    bundle = fleet.copy(newer)
    if isinstance(attack, ModelTamper):
        _flip_bit(_part(bundle, attack.part), attack.place)
        return fleet.refusal(bundle, VICTIM)
    from edgeguard.keys.file import FileKeyProvider

    (wrap,) = (bundle / "recipients").iterdir()
    wrap.rename(wrap.with_stem(FileKeyProvider(fleet.key(STRANGER)).kid))
    return fleet.refusal(bundle, STRANGER)


def _part(bundle: Path, part: str) -> Path:
    if part in _PARTS:
        return bundle / _PARTS[part]
    folder = bundle / ("recipients" if part == "wrap" else "payload")
    return max(folder.iterdir(), key=lambda path: path.stat().st_size)


def _flip_bit(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


# ---- the log, the process, the clock -------------------------------------------------------------------------------


class JumpingClock(ManualClock):
    """A manual clock whose wall time can be set while monotonic time goes on."""

    def set_wall(self, by_ns: int) -> None:
        """Move the wall clock."""
        self._wall_offset_ns += by_ns


def drive(
    scenario: Scenario,
    seed: int,
    clock: ManualClock,
    audit: AuditLog | None,
    on_frame: Callable[[FrameResult], None],
) -> None:
    """Drive the scenario's rig with a log; `on_frame` is called after each tick."""
    config = Config()
    period_ns = config.pipeline.tick_ms * 1_000_000
    count = round(scenario.duration_s * NS_PER_S) // period_ns
    with scenario.rig(clock, seed) as rig:
        ticks = periodic_ticks(clock.now_ns(), period_ns, count)
        with Pipeline(config, rig.sources, clock, calibration=rig.calibration, audit=audit) as pipeline:
            for frame in pipeline.run(ticks):
                on_frame(frame)


@contextmanager
def no_room_to_write() -> Iterator[None]:
    """Let no file of this process grow: what a full medium does, with the kernel's own refusal (EFBIG for ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _fill_disk(scenario: Scenario, attack: DiskFull, seed: int, folder: Path) -> list[Expectation]:
    clock = ManualClock()
    begin, end = round(attack.start_s * NS_PER_S), round(attack.end_s * NS_PER_S)
    verdicts: list[tuple[int, str]] = []
    full = no_room_to_write()
    state = {"full": False}
    with AuditLog(folder / "audit", clock=clock) as audit:

        def on_frame(frame: FrameResult) -> None:
            now = frame.synced.stamp_ns
            verdicts.append((now, frame.verdict.value))
            if not state["full"] and begin <= now < end:
                full.__enter__()
                state["full"] = True
            elif state["full"] and now >= end:
                full.__exit__(None, None, None)
                state["full"] = False

        try:
            drive(scenario, seed, clock, audit, on_frame)
        finally:
            if state["full"]:
                full.__exit__(None, None, None)
    during = {v for at, v in verdicts if begin + NS_PER_S <= at < end}
    result = verify_log(folder / "audit")
    return [
        Expectation("disk_full: verdict while nothing can be logged", "STOP", ", ".join(sorted(during)),
                    during == {"STOP"}),
        Expectation("disk_full: log afterwards", "verifies", f"verifies, {result.records} records", True),
    ]  # fmt: skip


def _jump(scenario: Scenario, attack: HostClockJump, seed: int, folder: Path) -> list[Expectation]:
    verdicts: list[list[str]] = []
    for jumps in (False, True):
        clock, done = JumpingClock(), [not jumps]
        seen: list[str] = []
        with AuditLog(folder / f"audit-{jumps}", clock=clock) as audit:

            def on_frame(
                frame: FrameResult, clock: JumpingClock = clock, seen: list[str] = seen, done: list[bool] = done
            ) -> None:
                seen.append(frame.verdict.value)
                if not done[0] and frame.synced.stamp_ns >= round(attack.start_s * NS_PER_S):
                    clock.set_wall(round(attack.jump_s * NS_PER_S))
                    done[0] = True

            drive(scenario, seed, clock, audit, on_frame)
        verdicts.append(seen)
    result = verify_log(folder / "audit-True")
    same = verdicts[0] == verdicts[1]
    return [
        Expectation("host_clock_jump: verdicts", "as without it", "as without it" if same else "different", same),
        Expectation("host_clock_jump: log", "verifies", f"verifies, {result.records} records", True),
    ]


def _kill(scenario: Scenario, attack: ProcessKill, seed: int, folder: Path) -> list[Expectation]:
    """Drive in a process of its own that dies by SIGKILL at the tick, then open the log again and go on."""
    source = folder / "scenario.json"
    source.write_text(json.dumps({"duration_s": scenario.duration_s, "sensors": list(scenario.sensors)}))
    audit = folder / "audit"
    command = [sys.executable, "-m", "edgeguard.sim.victim", str(source), str(seed), str(attack.start_s), str(audit)]
    died = subprocess.run(command, capture_output=True, check=False, timeout=VICTIM_TIMEOUT_S).returncode  # noqa: S603 - our own module, no shell
    before = verify_log(audit).records
    with AuditLog(audit, clock=ManualClock()) as log:
        log.append("restart", {"verdict": "PASS"})
    after = verify_log(audit).records
    return [
        Expectation("process_kill: process", "killed by signal 9", f"exit {died}", died == -9),
        Expectation("process_kill: log after the kill", "holds records", f"{before} records, chain unbroken",
                    before > 0),
        Expectation("process_kill: log goes on", "grows", f"{after} records, chain unbroken", after > before),
    ]  # fmt: skip


def run_completely(
    scenario: Scenario, seed: int, folder: Path, *, fleet: Fleet | None = None, **options: Any
) -> Outcome:
    """Run a scenario's drive, and then its attacks on the device below `folder`.

    Args:
        options: those of `edgeguard.sim.run.run_scenario`.
    """
    outcome = run_scenario(scenario, seed, **options)
    if not scenario.system_attacks:
        return outcome
    found = run_system_attacks(scenario, seed, folder, fleet)
    return replace(outcome, expectations=(*outcome.expectations, *found))
