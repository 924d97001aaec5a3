"""`edgeguard demo`: the whole product once, on a simulated road, in one command.

A throw-away fleet is made, the example model is packed for one device, opened as the device opens it, and drives a
simulated road on which two attacks come. The one module under `edgeguard/` that calls `firmware_tools`.
"""

from __future__ import annotations

import io
import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeguard.cli.options import LOG_SECRET, config_option, format_option, print_result, progress_bar, say
from edgeguard.errors import EXIT_FINDING, EXIT_OK, ConfigError, EdgeGuardError

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgeguard.config import Config
    from edgeguard.report.model import Report
    from edgeguard.trust.store import TrustStore
    from edgeguard.types import FrameResult

MODEL_ID = "obstacle-detector"
RELEASE = "1.0.0"
BOARD = "x86-64"
DEVICE = "demo-robot"
STRANGER = "another-robot"

# Wide enough for the table; fixed, so that two runs print the same wherever they run.
CONSOLE_COLUMNS = 110

# A folder that holds this file was made by a demo and may be replaced by the next one.
MARKER = ".edgeguard-demo"


@dataclass(frozen=True, slots=True)
class DemoPaths:
    """Where the demo puts what it makes."""

    out: Path

    @property
    def fleet(self) -> Path:
        return self.out / "fleet"

    @property
    def trust(self) -> Path:
        return self.fleet / "trust"

    @property
    def bundle(self) -> Path:
        return self.out / f"{MODEL_ID}-{RELEASE}.bundle"

    @property
    def audit(self) -> Path:
        return self.out / "audit"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    def key(self, device: str) -> Path:
        return self.out / f"{device}.pem"

    def state(self, device: str) -> Path:
        return self.out / f"{device}.state"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that must not open, and the error that stopped it; `code` is empty when it opened."""

    case: str
    code: str
    message: str


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("edgeguard-demo"),
    show_default=True,
    help="Folder for the fleet, the bundle, the log and the report.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31), default=7, show_default=True, help="Seed of the simulated world."
)
@config_option
@format_option
def command(out: Path, seed: int, config_path: Path | None, output: str) -> int:
    """Pack, protect and run the example model on a simulated road under attack.

    Exit 0 only if all three forgeries were refused, both attacks were found and no clean second was blamed.
    """
    from edgeguard.config import load_config

    config = load_config(config_path)
    paths = DemoPaths(out)
    _make_folder(paths.out)
    _protect(paths)
    refusals = _try_forgeries(paths)
    report = _drive(paths, config, seed, output)
    return _conclude(paths, refusals, report, output)


def _make_folder(out: Path) -> None:
    if out.exists() and not (out / MARKER).exists() and (not out.is_dir() or any(out.iterdir())):
        message = f"{out} exists and was not made by a demo"
        raise ConfigError(message, code="EG-C030", hint="choose another folder with --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).touch()


def _protect(paths: DemoPaths) -> None:
    """Make fleet and devices, pack the model and grant it to one device: the commands a release engineer types."""
    say("1. a throw-away fleet and its device")
    # A laptop's usual lock limit is 8 MiB and its swap is on; a throw-away key may be paged out.
    _provision("init", paths.fleet, "--name", "demo", "--allow-unlocked-memory")
    for device in (DEVICE, STRANGER):
        request = paths.out / f"{device}.request"
        made = _provision(
            "keygen", "--trust", paths.trust, "--key", paths.key(device), "--state", paths.state(device),
            "--request", request, "--name", device, "--board", BOARD,
        )  # fmt: skip
        _provision("enroll", paths.fleet, request, "--fingerprint", made["fingerprint"])
    say("2. the example model, signed, encrypted, and granted to one device")
    models = files("edgeguard.sim") / "models"
    with as_file(models / "obstacle_detector.onnx") as onnx, as_file(models / "obstacle_detector.toml") as model_io:
        _provision(
            "pack", paths.fleet, onnx, "--model-id", MODEL_ID, "--release", RELEASE, "--out", paths.bundle,
            "--io", model_io, "--board", BOARD,
        )  # fmt: skip
        shutil.copyfile(onnx, paths.out / "plain.onnx")
    _provision("grant", paths.fleet, paths.bundle, DEVICE)


def _provision(*arguments: str | Path) -> dict[str, Any]:
    """Run one `edgeguard-provision` command in this process, show it, and return what it printed as JSON."""
    from firmware_tools.cli import cli

    words = [str(argument) for argument in arguments]
    say(f"   $ edgeguard-provision {shlex.join(words)}")
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(io.StringIO()):
        cli.main(args=[*words, "--format", "json"], prog_name="edgeguard-provision", standalone_mode=False)
    result: dict[str, Any] = json.loads(printed.getvalue())
    return result


def _try_forgeries(paths: DemoPaths) -> list[Refusal]:
    """Try to open what must not open: a tampered bundle, another device's wrap, a plain model."""
    from edgeguard.clock import SystemClock
    from edgeguard.trust.store import TrustStore

    say("3. what the device refuses")
    trust = TrustStore.load(paths.trust, SystemClock().wall_ns())
    refusals = [
        _refusal("one byte changed", _tampered(paths), DEVICE, paths, trust),
        _refusal("another device's wrap", _with_stolen_wrap(paths), STRANGER, paths, trust),
        _refusal("a plain .onnx", paths.out / "plain.onnx", DEVICE, paths, trust),
    ]
    for refusal in refusals:
        say(f"   {refusal.case:22s} {'refused' if refusal.code else 'OPENED'}  {refusal.message}")
    return refusals


def _refusal(case: str, bundle: Path, device: str, paths: DemoPaths, trust: TrustStore) -> Refusal:
    from edgeguard.infer.session import InferenceSession
    from edgeguard.keys.file import FileKeyProvider
    from edgeguard.trust.state import DeviceState

    key = FileKeyProvider(paths.key(device))
    state = DeviceState.open(paths.state(device), key=key, fleet_id=trust.fleet_id)
    try:
        with InferenceSession(bundle, trust=trust, key=key, expect_model=MODEL_ID, board=BOARD, state=state):
            return Refusal(case, "", "the model opened")
    except EdgeGuardError as error:
        return Refusal(case, error.code, str(error))


def _tampered(paths: DemoPaths) -> Path:
    """Copy the bundle and flip one bit in the middle of its largest payload."""
    copy = paths.out / "tampered.bundle"
    shutil.copytree(paths.bundle, copy)
    payload = max((copy / "payload").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    return copy


def _with_stolen_wrap(paths: DemoPaths) -> Path:
    """Copy the bundle and give the granted device's wrap the name under which the stranger looks for its own."""
    from edgeguard.keys.file import FileKeyProvider

    copy = paths.out / "stolen.bundle"
    shutil.copytree(paths.bundle, copy)
    (wrap,) = (copy / "recipients").iterdir()
    wrap.rename(wrap.with_stem(FileKeyProvider(paths.key(STRANGER)).kid))
    return copy


def _drive(paths: DemoPaths, config: Config, seed: int, output: str) -> Report:
    """Run the whole pipeline over the simulated road and its two attacks."""
    from edgeguard.audit.log import AuditLog
    from edgeguard.bundle.recheck import ModelWatch
    from edgeguard.cli.live import LEGEND
    from edgeguard.clock import ManualClock, SystemClock
    from edgeguard.infer.adapter import ImageModel
    from edgeguard.infer.session import InferenceSession
    from edgeguard.keys.file import FileKeyProvider
    from edgeguard.report.model import ReportBuilder
    from edgeguard.runtime.pipeline import Pipeline
    from edgeguard.runtime.ticks import periodic_ticks
    from edgeguard.sim.scenario import load_scenario
    from edgeguard.trust.state import DeviceState
    from edgeguard.trust.store import TrustStore

    say(f"4. the road: {LEGEND}")
    scenario = load_scenario("demo")
    clock = ManualClock()
    wall_ns = SystemClock().wall_ns()
    key = FileKeyProvider(paths.key(DEVICE))
    report = ReportBuilder("EdgeGuard demo", {"seed": str(seed), "scenario": scenario.name}, start_ns=clock.now_ns())
    trust = TrustStore.load(paths.trust, wall_ns)
    state = DeviceState.open(paths.state(DEVICE), key=key, fleet_id=trust.fleet_id)
    with ExitStack() as stack:
        session = InferenceSession(paths.bundle, trust=trust, key=key, expect_model=MODEL_ID, board=BOARD, state=state)
        stack.enter_context(session)
        model = ImageModel.of(session)
        watch = ModelWatch(paths.trust, trust, session.statement, kid=key.kid, clock=SystemClock(), state=state)
        mac_key = stack.enter_context(key.derive_secret(LOG_SECRET))
        audit = stack.enter_context(AuditLog(paths.audit, clock=clock, mac_key=mac_key.view))
        rig = stack.enter_context(scenario.rig(clock, seed))
        pipeline = stack.enter_context(
            Pipeline(
                config, rig.sources, clock, calibration=rig.calibration, model=model, audit=audit, recheck=watch.recheck
            )
        )
        period_ns = config.pipeline.tick_ms * 1_000_000
        count = round(scenario.duration_s * 1e9) // period_ns
        report.set_truths(rig.truths)
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("drive", total=count)
        for frame in _narrated(pipeline.run(periodic_ticks(clock.now_ns(), period_ns, count)), output, bar):
            report.add(frame)
            bar.advance(task)
        state.commit(session.statement)
    return report.build()


def _narrated(frames: Iterator[FrameResult], output: str, bar: Progress) -> Iterator[FrameResult]:
    """Pass frames on; print each as JSON, or one line per second of drive."""
    from edgeguard.cli.live import live_line
    from edgeguard.runtime.record import public_record

    shown_s = 0
    for frame in frames:
        if output == "json":
            print_result(json.dumps(public_record(frame)), bar)
        elif frame.synced.stamp_ns // 1_000_000_000 > shown_s:
            shown_s = frame.synced.stamp_ns // 1_000_000_000
            print_result(live_line(frame), bar)
        yield frame


def _conclude(paths: DemoPaths, refusals: list[Refusal], report: Report, output: str) -> int:
    from rich.console import Console

    from edgeguard.audit.verify import verify_log
    from edgeguard.keys.file import FileKeyProvider
    from edgeguard.report.html import render_html
    from edgeguard.report.table import attack_table

    paths.report.write_text(render_html(report), encoding="utf-8")
    with FileKeyProvider(paths.key(DEVICE)).derive_secret(LOG_SECRET) as mac_key:
        log = verify_log(paths.audit, mac_key=mac_key.view)
    passed = report.passed and all(refusal.code for refusal in refusals)
    if output == "json":
        summary = {
            "passed": passed,
            "refused": {refusal.case: refusal.code for refusal in refusals},
            "report": json.loads(report.to_json()),
        }
        click.echo(json.dumps({"summary": summary}))
    else:
        Console(width=CONSOLE_COLUMNS).print(attack_table(report))
    say(f"log     {paths.audit}: {log.records} records, chain unbroken")
    say(f"report  {paths.report}")
    say("both attacks found, no clean second blamed" if passed else "NOT as it should be: see the table and the report")
    return EXIT_OK if passed else EXIT_FINDING
