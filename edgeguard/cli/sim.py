"""`edgeguard sim`: attack scenarios against the real pipeline, for people and for CI."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeguard.cli.options import config_option, format_option, progress_bar, say
from edgeguard.cli.sim_sweep import sweep_command
from edgeguard.errors import EXIT_FINDING, EXIT_OK, ConfigError, ScenarioError

if TYPE_CHECKING:
    from edgeguard.sensors.recorded import Recording
    from edgeguard.sim.run import Outcome

DEFAULT_SEED = 7


@click.group("sim")
def command() -> None:
    """Run attack and fault scenarios against the real pipeline.

    \b
    edgeguard sim list
    edgeguard sim run gnss_drift --seed 3 --report report.html
    edgeguard sim new mine && edgeguard sim run mine.egsim.toml
    """


@command.command("list")
@click.argument("attack", required=False)
@click.option("--presets", is_flag=True, help="Show the named worlds, boards and sensors instead.")
@format_option
def list_command(attack: str | None, presets: bool, output: str) -> int:
    """Show the attacks and scenarios, or all parameters of one ATTACK."""
    if presets:
        _show_presets(output)
        return EXIT_OK
    from edgeguard.sim.attacks.registry import ATTACKS, attack_info
    from edgeguard.sim.scenario import builtin_scenarios, load_scenario

    if attack is not None:
        _show_attack(attack, output)
        return EXIT_OK
    infos = [attack_info(name) for name in ATTACKS]
    scenarios = [load_scenario(name) for name in builtin_scenarios()]
    if output == "json":
        import msgspec

        rows = [
            {"name": s.name, "summary": s.summary, "duration_s": s.duration_s, "twin_of": list(s.twin_of)}
            for s in scenarios
        ]
        click.echo(json.dumps({"attacks": msgspec.to_builtins(infos), "scenarios": rows}, indent=2))
        return EXIT_OK
    click.echo("attacks (edgeguard sim list ATTACK shows its parameters)")
    for info in infos:
        ids = " ".join(info.atlas)
        click.echo(f"  {info.name:18}  {info.sensor or 'any':10}  {info.summary}" + (f"  [{ids}]" if ids else ""))
    click.echo("scenarios (edgeguard sim run SCENARIO)")
    for scenario in scenarios:
        if scenario.attacks:
            click.echo(f"  {scenario.name:20}  {scenario.duration_s:4.0f} s    {scenario.summary}")
    click.echo("scenarios in which nobody attacks")
    for scenario in scenarios:
        if not scenario.attacks:
            click.echo(f"  {scenario.name:20}  {scenario.duration_s:4.0f} s    {scenario.summary}")
    click.echo("worlds, boards and sensors: edgeguard sim list --presets")
    return EXIT_OK


def _show_presets(output: str) -> None:
    from edgeguard.sim.presets import every_preset

    tables = every_preset()
    if output == "json":
        click.echo(json.dumps(tables, indent=2))
        return
    for kind, rows in tables.items():
        click.echo(kind)
        for name, words in rows.items():
            click.echo(f"  {name:18}  {words}")


def _show_attack(name: str, output: str) -> None:
    import msgspec

    from edgeguard.sim.attacks.registry import attack_info

    info = attack_info(name)
    if output == "json":
        click.echo(json.dumps(msgspec.to_builtins(info), indent=2))
        return
    click.echo(f"{info.name}: {info.summary}")
    if info.source:
        click.echo(f"source: {info.source}")
    if info.atlas:
        click.echo(f"MITRE ATLAS: {' '.join(info.atlas)}")
    for p in info.parameters:
        default = "required" if p.required else f"default {p.default}"
        facts = ", ".join(filter(None, [p.kind, default, p.limits, p.meaning]))
        click.echo(f"  {p.name:16}  {facts}")


@command.command("run")
@click.argument("scenario_names", metavar="SCENARIO...", nargs=-1, required=True)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=DEFAULT_SEED,
    show_default=True,
    help="Seed of street, noise and attacks; the first of --seeds.",
)
@click.option("--seeds", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many seeds in a row.")
@click.option(
    "--on",
    "recording_path",
    type=click.Path(path_type=Path),
    help="Attack this recording instead of a simulated drive.",
)
@click.option(
    "--report", "report_path", type=click.Path(path_type=Path), help="Write the HTML report of the first run."
)
@click.option("--junit", "junit_path", type=click.Path(path_type=Path), help="Write JUnit XML.")
@click.option(
    "--labels",
    "labels_path",
    type=click.Path(path_type=Path),
    help="Write the ground truth of every attacked sample as CSV.",
)
@config_option
@format_option
def run_command(
    scenario_names: tuple[str, ...],
    seed: int,
    seeds: int,
    recording_path: Path | None,
    report_path: Path | None,
    junit_path: Path | None,
    labels_path: Path | None,
    config_path: Path | None,
    output: str,
) -> int:  # fmt: skip
    """Run scenarios by name or file; exit 0 when all their expectations hold, 1 when one does not.

    \b
    edgeguard sim run demo
    edgeguard sim run gnss_drift ghost_points --seeds 5 --junit sim.xml
    edgeguard sim run wheel_scale --on drive.npz
    """
    from edgeguard.config import load_config
    from edgeguard.sim.scenario import load_scenario
    from edgeguard.sim.system import run_completely

    config = load_config(config_path)
    scenarios = [load_scenario(name) for name in scenario_names]
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="edgeguard-sim-") as folder, progress_bar() as bar:
        task = bar.add_task("sim", total=len(scenarios) * seeds)
        for scenario in scenarios:
            for number in range(seed, seed + seeds):
                recording = _recording(recording_path) if recording_path else None
                where = Path(folder) / str(len(outcomes))
                outcomes.append(run_completely(scenario, number, where, config=config, recording=recording))
                _show_outcome(outcomes[-1], output)
                bar.advance(task)
    if report_path is not None:
        from edgeguard.report.html import render_html

        _write(report_path, render_html(outcomes[0].report))
    if junit_path is not None:
        _write(junit_path, _junit(outcomes))
    if labels_path is not None:
        _write(labels_path, _labels(outcomes))
    passed = all(outcome.passed for outcome in outcomes)
    say(f"{sum(o.passed for o in outcomes)} of {len(outcomes)} runs as expected")
    return EXIT_OK if passed else EXIT_FINDING


def _recording(path: Path) -> Recording:
    from edgeguard.sensors.recording import open_recording

    return open_recording(path)


def _show_outcome(outcome: Outcome, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(outcome.record(), sort_keys=True))
        return
    click.echo(f"{outcome.scenario.name} seed {outcome.seed}: {'as expected' if outcome.passed else 'NOT as expected'}")
    for e in outcome.expectations:
        click.echo(f"  {'ok  ' if e.met else 'FAIL'}  {e.subject:44}  {e.found}" + ("" if e.met else f"; {e.expected}"))


def _junit(outcomes: list[Outcome]) -> str:
    from edgeguard.report.junit import JunitCase, render_junit

    cases = []
    for outcome in outcomes:
        wrong = [f"{e.subject}: expected {e.expected}, found {e.found}" for e in outcome.expectations if not e.met]
        told = "\n".join(f"{e.subject}: {e.found}" for e in outcome.expectations)
        name = f"seed {outcome.seed}"
        cases.append(JunitCase(outcome.scenario.name, name, outcome.report.duration_s, "\n".join(wrong), told))
    return render_junit("edgeguard sim", cases)


def _labels(outcomes: list[Outcome]) -> str:
    lines = ["scenario,seed,sensor,stamp_ns,attack,effect,amount"]
    for o in outcomes:
        prefix = f"{o.scenario.name},{o.seed}"
        lines += [f"{prefix},{t.sensor},{t.stamp_ns},{t.attack},{t.effect},{t.amount:.9g}" for t in o.labels]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", code="EG-C022", hint="choose another path"
        ) from None
    say(f"wrote {path}")


NEW_SCENARIO = """\
# {name}: run it with   edgeguard sim run {name}.egsim.toml --seed 1 --report report.html
# pytest collects it too (one test per seed): files that end in .egsim.toml.
name = "{name}"
summary = "what this drive shows, in one line"
duration_s = 24.0

# What the drive meets: a preset (`edgeguard sim list --presets` shows all: tunnel, rain, night, hills ...), or a table
# with what is different from one, at the end of this file:
#   [world]
#   preset = "night"
#   rain_mm_h = 5.0
world = "clear"

# Which sensors the rig has; camera, lidar, gnss, imu and wheels without this line. Fewer run faster.
sensors = ["gnss", "imu", "wheels"]

# Which models they are: a board names one for each sensor ("kitti_car", "pi5_rover", "jetson_shuttle").
board = "street"

# Or sensor by sensor, in tables instead of the line `sensors = ...` above:
#   [sensors.gnss]
#   preset = "neo_m8"
#   [sensors.imu]
#   preset = "mpu6050"
#   clock = "crystal"                               # of the sensor and its line: offset, drift, jitter, loss
#   [sensors.wheels]
#   clock = {{ preset = "usb", jitter_s = 0.002 }}
#   [sensors.lidar]
#   preset = "os1_64"
#   [sensors.scan2d]                                # a planar lidar on a serial line
#   preset = "ld06"

# One table per attack; `edgeguard sim list` shows all, `edgeguard sim list gnss_drift` the parameters of one.
# The first seconds are best left clean: checks learn the rig's own lag and scale.
[[attacks]]
type = "gnss_drift"
start_s = 8.0       # seconds from the start of the drive
end_s = 16.0        # exclusive
rate_m_s = 1.0
bearing_deg = 70.0  # clockwise from north

# What must come of the attack above. detected = false states a known gap: the run then fails if it IS detected;
# detected = "varies" judges nothing.
[attacks.expect]
detected = true
within_s = 3.0
named = true

# What must come of the whole drive.
[expect]
clean = true  # nobody is blamed outside attacks and the recovery after them
"""


@command.command("new")
@click.argument("name")
def new_command(name: str) -> int:
    """Write NAME.egsim.toml: a commented scenario to start from."""
    import re

    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
        raise ScenarioError(
            f"{name!r} is no scenario name", code="EG-X015", hint="lower-case letters, digits, - and _, at most 64"
        )
    path = Path(f"{name}.egsim.toml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(NEW_SCENARIO.format(name=name))
    except FileExistsError:
        raise ScenarioError(f"{path} exists", code="EG-X015", hint="choose another name") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", code="EG-C022") from None
    click.echo(str(path))
    return EXIT_OK


@command.command("stealth")
@click.option(
    "--goal",
    "goals",
    type=click.Choice(["gnss_cross_track", "gnss_along_track", "gnss_position", "wheel_scale", "gyro_bias"]),
    multiple=True,
    help="Repeat for several; all without it.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True, help="First seed.")
@click.option("--seeds", type=click.IntRange(1, 100), default=1, show_default=True, help="How many seeds in a row.")
@click.option("--sensor", "sensors", multiple=True, help="Sensors of the rig; gnss, imu and wheels without it.")
@config_option
@format_option
def stealth_command(
    goals: tuple[str, ...], seed: int, seeds: int, sensors: tuple[str, ...], config_path: Path | None, output: str
) -> int:  # fmt: skip
    """How far an attacker gets in 60 s who sees every statistic and keeps it below its threshold."""
    from edgeguard.config import load_config
    from edgeguard.sim.rig import KNOWN_SENSORS
    from edgeguard.sim.stealth import BRISKNESS, DARINGS, GOALS, attempt, best_attempt

    config, rig = load_config(config_path), sensors or ("gnss", "imu", "wheels")
    unknown = [sensor for sensor in rig if sensor not in KNOWN_SENSORS]
    if unknown:
        raise ScenarioError(
            f"no sensor is called {unknown[0]!r}", code="EG-X012", hint="known: " + ", ".join(KNOWN_SENSORS)
        )
    wanted = [goal for goal in GOALS if not goals or goal in goals]
    with progress_bar() as bar:
        task = bar.add_task("stealth", total=len(wanted) * seeds * len(DARINGS) * len(BRISKNESS))
        for goal in wanted:
            for number in range(seed, seed + seeds):
                tried = []
                for daring in DARINGS:
                    for briskness in BRISKNESS:
                        tried.append(attempt(goal, number, daring, briskness, sensors=rig, config=config))
                        bar.advance(task)
                best, caught = best_attempt(tried), sum(r.caught_s is not None for r in tried)
                facts = {
                    "goal": goal, "seed": number, "sensors": list(rig), "attempts": len(tried), "caught": caught,
                    "unseen_m": None if best is None else round(best.deviation_m, 2),
                    "peak_rate": None if best is None else round(best.peak_rate, 4),
                }  # fmt: skip
                if output == "json":
                    click.echo(json.dumps(facts))
                else:
                    reached = "always caught" if best is None else f"{best.deviation_m:7.2f} m unseen in 60 s"
                    click.echo(f"{goal:18} seed {number}: {reached}; caught in {caught} of {len(tried)} attempts")
    return EXIT_OK


command.add_command(sweep_command)
