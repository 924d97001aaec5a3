"""`edgeguard bench`: what the checks find, measured on any recording."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeguard.cli.bench_restoration import command as restoration
from edgeguard.cli.options import config_option, print_result, progress_bar, say
from edgeguard.errors import EXIT_FINDING, EXIT_OK, ConfigError, ScenarioError

if TYPE_CHECKING:
    from edgeguard.checks.scores import SensorFits
    from edgeguard.config import Config
    from edgeguard.sim.detection.result import RecordingResult


@click.group("bench")
def command() -> None:
    """Measure detection on recordings, false alarms on a clean simulated day, and restoration on pictures.

    \b
    edgeguard bench detection --recording drive/
    edgeguard bench alarms --hours 24 --out alarms.jsonl
    edgeguard bench restoration --models a.onnx --models b.onnx --images photos/ --labels labels.csv
    """


command.add_command(restoration)


@command.command("detection")
@click.option(
    "--recording", "recordings", metavar="RECORDING", multiple=True, required=True,
    help="KITTI or EuRoC folder, car .npz, .mcap, Ouster .pcap beside its .json, sim:SCENARIO; repeat for several.",
)  # fmt: skip
@click.option("--attacks", multiple=True, metavar="NAME", help="Rows to run: a name or its beginning; all without it.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True, help="Of all randomness.")
@click.option(
    "--fit-share", type=click.FloatRange(0.1, 0.9), default=0.5, show_default=True,
    help="Share of each recording, its first part, that is fitted on and not attacked.",
)  # fmt: skip
@click.option(
    "--alarms-per-hour", type=click.FloatRange(0.001, 1000.0), default=1.0, show_default=True,
    help="False alarms that the calibration on the first part aims at.",
)  # fmt: skip
@click.option(
    "--calibration", type=click.Path(path_type=Path), help="Use this calibration instead of one on the first part."
)
@click.option("--key", "key_path", metavar="KEY", envvar="EDGEGUARD_KEY", help="The key that authenticates it.")
@click.option("--uncalibrated", is_flag=True, help="Fit nothing; the checks run on their shipped priors.")
@click.option(
    "--effort", type=click.FloatRange(0.05, 100.0), default=1.0, show_default=True,
    help="Factor on the number of trials; 1 takes some minutes a recording.",
)  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, 64), help="Trials at once; one per processor without it.")
@click.option("--stealth", "stealth_path", type=click.Path(path_type=Path),
              help="Lines of `edgeguard sim stealth --format json` to include.")  # fmt: skip
@click.option("--report", "report_path", type=click.Path(path_type=Path), help="Write the tables as an HTML page.")
@config_option
@click.option(
    "--format", "output", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True,
    envvar="EDGEGUARD_FORMAT", help="How the result is printed to stdout.",
)  # fmt: skip
def detection_command(
    recordings: tuple[str, ...],
    attacks: tuple[str, ...],
    seed: int,
    fit_share: float,
    alarms_per_hour: float,
    calibration: Path | None,
    key_path: str | None,
    uncalibrated: bool,
    effort: float,
    jobs: int | None,
    stealth_path: Path | None,
    report_path: Path | None,
    config_path: Path | None,
    output: str,
) -> int:  # fmt: skip
    """Inject attacks into recordings and report what was found, how soon, and at how many false alarms.

    Exit 0 when no row misses its goal, 1 when one does. docs/detection.md defines every figure.

    \b
    edgeguard bench detection --recording drive/ --format json
    edgeguard bench detection --recording drive.npz --attacks drift --attacks frozen
    edgeguard bench detection --recording sim:demo --report detection.html
    """
    from edgeguard.config import load_config
    from edgeguard.sim.detection.bench import Options, read_stealth, run_bench
    from edgeguard.sim.detection.rows import choose_rows
    from edgeguard.sim.detection.table import html, markdown, text_summary, text_table

    config = load_config(config_path)
    rows = choose_rows(attacks)
    stealth = read_stealth(_read(stealth_path)) if stealth_path is not None else []
    fits, fitted_by = _given_fits(config, calibration, key_path)
    options = Options(
        seed=seed, fit_share=fit_share, effort=effort, jobs=jobs or len(os.sched_getaffinity(0)),
        alarms_per_hour=alarms_per_hour, calibrate=not uncalibrated, fits=fits, fitted_by=fitted_by, config=config,
    )  # fmt: skip
    # No thread of the bar's own: trials are forked copies of this process.
    with progress_bar(threaded=False) as bar:
        task = bar.add_task("bench", total=1)

        def tick(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)
            bar.refresh()

        def finished(result: RecordingResult) -> None:
            if output == "text":
                print_result(text_table(result) + "\n", bar)
            else:
                say(f"{result.recording}: {result.spent_s:.0f} s")

        result = run_bench(recordings, rows, options, stealth=stealth, on_tick=tick, on_recording=finished)
    if output == "json":
        click.echo(json.dumps(result.as_json()))
    elif output == "markdown":
        click.echo(markdown(result))
    else:
        if result.pooled is not None:
            click.echo(text_table(result.pooled) + "\n")
        click.echo(text_summary(result))
    if report_path is not None:
        _write(report_path, html(result))
    everything = result.pooled or result.recordings[0]
    return EXIT_FINDING if any(row.verdict == "missed" for row in everything.rows) else EXIT_OK


def _given_fits(config: Config, path: Path | None, key: str | None) -> tuple[SensorFits | None, str]:
    """The calibration that the command line or the configuration names."""
    from edgeguard.checks.calibration_file import read_calibration
    from edgeguard.keys.open_key import open_key

    where = path or (Path(config.calibration.file) if config.calibration.file else None)
    if where is None:
        return None, ""
    key = key or config.calibration.key
    if not key:
        raise ConfigError("a calibration needs the key that authenticates it", code="EG-C070", hint="add --key KEY")
    sensors = read_calibration(where, key=open_key(key)).sensors
    return (sensors.fits() if sensors is not None else None), f"by {where.name}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"cannot read {path}", code="EG-C022", hint="check the path") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", code="EG-C022", hint="choose another path"
        ) from None
    say(f"wrote {path}")


@command.command("alarms")
@click.option("--hours", type=click.FloatRange(0.01, 240.0), default=24.0, show_default=True, help="Simulated, in all.")
@click.option(
    "--out", "out_path", type=click.Path(path_type=Path), default=Path("alarms.jsonl"), show_default=True,
    help="Finished drives go here; those it already holds are not driven again.",
)  # fmt: skip
@click.option(
    "--rate", type=click.FloatRange(0.01, 1000.0), default=4.0, show_default=True,
    help="False alarms per hour that each rig is calibrated for.",
)  # fmt: skip
@click.option("--uncalibrated", is_flag=True, help="Calibrate nothing; the checks run on their shipped priors.")
@click.option(
    "--margin", type=click.Choice(["mean", "sure"]), default="mean", show_default=True,
    help="Of the calibrations, as in `edgeguard calibrate sensors`.",
)  # fmt: skip
@click.option(
    "--calibration-hours", type=click.FloatRange(0.01, 80.0), default=2.0 / 3.0, show_default="0.67",
    help="Simulated, per rig; the rate's accuracy follows from it (docs/calibration.md).",
)  # fmt: skip
@click.option(
    "--preset", "presets", multiple=True, metavar="NAME", help="car, no-imu, no-gnss, frames; all without it."
)
@click.option("--seed", type=click.IntRange(0, 1000), default=1, show_default=True, help="Decides the streets.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Drives at once; one per processor without it.")
@click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True,
    envvar="EDGEGUARD_FORMAT", help="How the result is printed to stdout.",
)  # fmt: skip
def alarms_command(
    hours: float,
    out_path: Path,
    rate: float,
    uncalibrated: bool,
    margin: str,
    calibration_hours: float,
    presets: tuple[str, ...],
    seed: int,
    jobs: int | None,
    output: str,
) -> int:
    """Drive clean simulated hours and count false alarms; stop and start again at will.

    Exit 0 when the rate is within 30 % of the one that was calibrated for, 1 when not. What hard limits raise
    (protocols, physics) is counted apart.

    \b
    edgeguard bench alarms --hours 24 --rate 4 --out alarms.jsonl
    """
    import msgspec

    from edgeguard.sim.attacks.registry import nearest
    from edgeguard.sim.soak.lean import PRESETS
    from edgeguard.sim.soak.soak import Soak, run_soak
    from edgeguard.sim.soak.table import soak_text

    known = {preset.name: preset for preset in PRESETS}
    for name in presets:
        if name not in known:
            raise ScenarioError(f"no preset is called {name!r}", code="EG-X046", hint=nearest(name, list(known)))
    chosen = tuple(preset for preset in PRESETS if not presets or preset.name in presets)
    soak = Soak(
        hours, None if uncalibrated else rate, seed, chosen, sure=margin == "sure",
        calibration_s=round(calibration_hours * 3600.0),
    )  # fmt: skip
    with progress_bar() as bar:
        task = bar.add_task("alarms", total=len(soak.drives))
        result = run_soak(
            soak, out_path, jobs=jobs or len(os.sched_getaffinity(0)), on_drive=lambda _: bar.advance(task)
        )
    click.echo(json.dumps(msgspec.to_builtins(result)) if output == "json" else soak_text(result))
    say(f"drives: {out_path}")
    return EXIT_OK if result.within or uncalibrated else EXIT_FINDING
