"""`edgeguard calibrate`: learn from clean data what this rig's checks, and its model's gate, are held against."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeguard.cli.options import (
    config_option,
    format_option,
    model_options,
    model_settings,
    open_device_key,
    print_facts,
    progress_bar,
    say,
)
from edgeguard.errors import EXIT_OK, ConfigError

if TYPE_CHECKING:
    from edgeguard.runtime.calibrate import Fitted, Observed, SensorCalibration

DEFAULT_HOURS = 24.0


@click.group("calibrate")
def command() -> None:
    """Learn from clean data what checks and gate are held against."""


@command.command("sensors")
@click.argument("recording_paths", metavar="RECORDING...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--hours-between-alarms", "hours", type=click.FloatRange(0.01, 100_000.0), default=DEFAULT_HOURS,
    show_default=True, help="Mean time between false alarms of the whole system.",
)  # fmt: skip
@click.option(
    "--margin", type=click.Choice(["mean", "sure"]), default="mean", show_default=True,
    help="mean: on average over calibrations that is the time; sure: each statistic keeps its part of it with 95 %.",
)  # fmt: skip
@click.option(
    "--out", "out_path", type=click.Path(path_type=Path), default=Path("calibration.json"), show_default=True,
    help="File to write; the section for inputs in a file that is there stays.",
)  # fmt: skip
@click.option(
    "--key", "key_path", required=True, metavar="KEY", envvar="EDGEGUARD_KEY",
    help="The device's private key, which authenticates the file.",
)  # fmt: skip
@click.option("--from", "from_s", type=click.FloatRange(0.0), default=0.0, help="Begin so many seconds in.")
@click.option("--to", "to_s", type=click.FloatRange(0.0), default=float("inf"), help="End so many seconds in.")
@click.option("--allow-anomalies", is_flag=True, help="Fit although a check found something: an attack may hide in it.")
@click.option(
    "--report", "report_path", type=click.Path(path_type=Path), help="Write scores, priors and fits as an HTML page."
)
@config_option
@format_option
def sensors_command(
    recording_paths: tuple[Path, ...],
    hours: float,
    margin: str,
    out_path: Path,
    key_path: str,
    from_s: float,
    to_s: float,
    allow_anomalies: bool,
    report_path: Path | None,
    config_path: Path | None,
    output: str,
) -> int:
    """Fit every statistical check on clean recordings of this rig, and write calibration.json.

    The first 70 % of each are fitted on; the rest says how often the rig would have alarmed. The more hours, the nearer
    is the rate to the stated one: docs/calibration.md. Exit 1 when a recording is not clean.

    \b
    edgeguard calibrate sensors monday.mcap tuesday.mcap --key device.pem
    edgeguard calibrate sensors drive/ --key device.pem --hours-between-alarms 8 --out rig7.json
    """
    from edgeguard.checks.calibration_file import write_section
    from edgeguard.config import load_config
    from edgeguard.runtime.calibrate_rate import calibrate
    from edgeguard.sensors.recording import open_recording

    config = load_config(config_path)
    key = open_device_key(key_path)
    recordings = [open_recording(path) for path in recording_paths]
    with progress_bar() as bar:
        task = bar.add_task("calibrate", total=None)
        result, observed = calibrate(
            recordings, config, hours, names=", ".join(path.resolve().name for path in recording_paths), from_s=from_s,
            to_s=to_s, allow_anomalies=allow_anomalies, sure=margin == "sure",
            on_tick=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    write_section(out_path, key, sensors=result.section)
    if report_path is not None:
        _write_report(report_path, result, observed)
    _print_result(result, observed.fit_s, out_path, output)
    return EXIT_OK


def _rate(per_hour: float) -> str:
    return f"{per_hour:.0f}" if per_hour >= 10.0 else f"{per_hour:.2g}"


def _table(result: SensorCalibration) -> list[tuple[str, ...]]:
    head = ("monitor", "speed m/s", "scores", "location", "sigma", "of prior", "h", "found in 2 s", "basis")
    return [head, *(_row(one) for one in result.rows)]


def _write_report(path: Path, result: SensorCalibration, observed: Observed) -> None:
    from edgeguard.report.calibration import MonitorScores, render_calibration

    made, held = result.section.made, result.section.held_out
    facts = {
        "monitors": str(len(result.section.monitors)),
        "fitted on": f"{observed.fit_s:.0f} s",
        "held out": f"{held.seconds:.0f} s",
        "alarms in it": str(held.alarms),
        "alarms an hour, 95 %": f"at most {_rate(held.per_hour_upper)}",
        "asked for": f"one in {made.hours_between_alarms:g} h",
    }
    widest = {one.monitor: one.fitted.bin.fit for one in sorted(result.rows, key=lambda one: one.fitted.bin.fit.sigma)}
    plots = []
    for scores, tail in zip(observed.scores, observed.tail, strict=True):
        fit, prior = widest.get(scores.name), scores.prior
        begin_s = scores.t_s[0] if scores.t_s else 0.0
        if scores.score:
            plots.append(
                MonitorScores(
                    scores.name, prior.unit, [t_s - begin_s for t_s in scores.t_s], scores.score,
                    scores.t_s[tail[0]] - begin_s if tail else float("inf"),
                    (prior.location - 3.0 * prior.sigma, prior.location + 3.0 * prior.sigma),
                    (fit.location - 3.0 * fit.sigma, fit.location + 3.0 * fit.sigma) if fit else None,
                )
            )  # fmt: skip
    page = render_calibration(f"Calibration from {made.recording}", facts, _table(result), plots)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", code="EG-C022", hint="choose another path"
        ) from None
    say(f"report: {path}")


def _print_result(result: SensorCalibration, fit_s: float, path: Path, output: str) -> None:
    if output == "json":
        click.echo(json.dumps(_record(result, fit_s, path), indent=2))
        return
    rows = _table(result)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for name in result.unseen:
        click.echo(f"{name}: too few scores, keeps its shipped prior")
    held, made = result.section.held_out, result.section.made
    click.echo(_rate_table(result))
    click.echo(
        f"held out: {held.alarms} alarms in {held.seconds:.0f} s, so at most {_rate(held.per_hour_upper)} an hour "
        f"(95 %); asked for one in {made.hours_between_alarms:g} h"
    )
    if made.anomalies:
        say(f"warning: {made.anomalies} anomalies were allowed; an attack may hide in these fits")
    say(f"written: {path}; name it in the configuration: [calibration] file")


def _rate_table(result: SensorCalibration) -> str:
    """Thresholds that were moved, and what is expected of all of them together."""
    from edgeguard.checks.thresholds import total

    lines = [
        f"{name}: threshold {each.scale:.2f} of the shipped one, {each.per_hour * 24:.2g} alarms a day expected, "
        f"from {each.peaks} peaks"
        for name, each in result.thresholds.items()
        if each.peaks
    ]
    untold = len(result.thresholds) - len(lines)
    if untold:
        lines.append(f"{untold} statistics showed too little for that and keep their shipped thresholds")
    per_hour, log_sd = total(result.thresholds)
    made = result.section.made
    asked = 24.0 / made.hours_between_alarms
    lines.append(
        f"expected of the whole system: {_rate(24 * per_hour)} alarms a day (asked for {asked:g}, margin "
        f"{made.margin}); known to a factor of {math.exp(log_sd):.2g} from {made.seconds / 3600:.2g} h"
    )
    return "\n".join(lines)


def _row(one: Fitted) -> tuple[str, ...]:
    bin_, fit = one.fitted.bin, one.fitted.bin.fit
    speed = "any" if bin_.to_m_s == float("inf") else f"{bin_.from_m_s:.3g}-{bin_.to_m_s:.3g}"
    return (
        one.monitor, speed, str(fit.samples), f"{fit.location:.3g}", f"{fit.sigma:.3g} {one.unit}".rstrip(),
        f"{fit.sigma / one.prior_sigma:.2f}", f"{fit.cusum_h:.1f}", f"{one.detectable:.3g} {one.unit}".rstrip(),
        one.fitted.basis,
    )  # fmt: skip


def _record(result: SensorCalibration, fit_s: float, path: Path) -> dict[str, Any]:
    """The object of `--format json`."""
    import msgspec

    section = msgspec.to_builtins(result.section)
    return {
        "file": str(path),
        "fit_s": fit_s,
        "made": section["made"],
        "held_out": section["held_out"],
        "thresholds": section["thresholds"],
        "rig": section["rig"],
        "monitors": [
            {
                "monitor": one.monitor,
                "unit": one.unit,
                "from_m_s": one.fitted.bin.from_m_s,
                "to_m_s": None if one.fitted.bin.to_m_s == float("inf") else one.fitted.bin.to_m_s,
                "samples": one.fitted.bin.fit.samples,
                "clean_s": one.fitted.bin.fit.clean_s,
                "location": one.fitted.bin.fit.location,
                "sigma": one.fitted.bin.fit.sigma,
                "prior_sigma": one.prior_sigma,
                "cusum_h": one.fitted.bin.fit.cusum_h,
                "decorrelation_samples": one.fitted.bin.fit.decorrelation_samples,
                "detectable_in_2_s": one.detectable,
                "basis": one.fitted.basis,
            }
            for one in result.rows
        ],
        "unseen": list(result.unseen),
    }


@command.command("inputs")
@click.argument("frames_path", metavar="FRAMES", type=click.Path(path_type=Path))
@model_options
@config_option
@click.option(
    "--out", "out_path", type=click.Path(path_type=Path), default=Path("calibration.json"), show_default=True,
    help="File to write; the section for sensors in a file that is there stays.",
)  # fmt: skip
@click.option("--level", type=click.FloatRange(0.0001, 0.5), help="Share of clean frames that may alarm; the lowest "
              "that the frames support without it.")  # fmt: skip
@click.option("--every", "every_s", type=click.FloatRange(0.0), default=1.0, show_default=True,
              help="Of a recording: seconds from one frame to the next; neighbours are one observation.")  # fmt: skip
@format_option
def inputs_command(
    frames_path: Path,
    bundle: Path | None,
    trust_path: Path | None,
    key_path: str | None,
    state_path: Path | None,
    model_id: str,
    board: str,
    config_path: Path | None,
    out_path: Path,
    level: float | None,
    every_s: float,
    output: str,
) -> int:
    """Learn from clean FRAMES what the model's inputs look like, and write it into calibration.json.

    FRAMES is a folder of pictures or a recording with a camera. Models and chains are those of the configuration. With
    n independent frames the lowest level is 10 / n: 1 % takes a thousand.

    \b
    edgeguard calibrate inputs clean-frames/ --bundle model.bundle --trust trust/ --key device.pem --model-id signs
    edgeguard calibrate inputs drive.mcap --config edgeguard.toml --level 0.02
    """
    import msgspec

    from edgeguard.checks.calibration_file import write_section
    from edgeguard.config import load_config
    from edgeguard.detect.calibration import MAX_FRAMES
    from edgeguard.detect.conformal import lowest_level
    from edgeguard.runtime.calibrate_inputs import calibrate_inputs
    from edgeguard.runtime.models import open_models
    from edgeguard.sensors.frames import FrameReader

    config = load_config(config_path)
    settings = model_settings(config.model, bundle, trust_path, key_path, state_path, model_id, board)
    frames = FrameReader(frames_path, every_s)
    open_once = cache(open_device_key)  # a token asks for its PIN each time
    with ExitStack() as stack:
        opened = open_models(stack, msgspec.structs.replace(config, model=settings), open_key=open_once, gated=False)
        bar = stack.enter_context(progress_bar())
        count = frames.count()
        task = bar.add_task("calibrate", total=None if count is None else min(count, MAX_FRAMES))
        found = calibrate_inputs(frames, opened, level=level, on_frame=lambda: bar.advance(task))
        write_section(out_path, open_once(settings.key), inputs=msgspec.to_builtins(found))
    alarms, judged = found.held_out()
    facts = {
        "models": list(found.models),
        "frames": found.frames,
        "level": round(found.level, 6),
        "lowest_level": round(lowest_level(found.frames), 6),
        "held_out_frames": judged,
        "held_out_alarms": alarms,
        "chains_sha256": found.chains,
        "written": str(out_path),
    }
    print_facts(output, facts)
    say('to use it: [inputs] gate = "restore" and [calibration] file in the configuration')
    return EXIT_OK
