"""`edgeguard sim sweep`: detection, delay and ROC against attack size, on all cores or on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeguard.cli.options import config_option, format_option, progress_bar, say
from edgeguard.errors import EXIT_OK, ConfigError, ScenarioError

if TYPE_CHECKING:
    from edgeguard.config import Config
    from edgeguard.sim.sweep import Sweep


@click.command("sweep")
@click.argument("scenario_names", metavar="SCENARIO...", nargs=-1, required=True)
@click.option(
    "--values", required=True, help="Sizes, such as 0.1,0.2,0.5,1; 0.5x,1x,2x are multiples of the scenario's own."
)
@click.option("--parameter", default="", help="Parameter of the scenario's first attack; its size without this.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True, help="First seed.")
@click.option("--seeds", type=click.IntRange(1, 10_000), default=5, show_default=True, help="How many seeds in a row.")
@click.option(
    "--csv", "csv_path", type=click.Path(path_type=Path), default=Path("sweep.csv"), show_default=True,
    help="Rows go here as they are made; runs that it already holds are not repeated.",
)  # fmt: skip
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write curves and intervals as JSON.")
@click.option("--report", "report_path", type=click.Path(path_type=Path), help="Write the curves as an HTML page.")
@click.option(
    "--processes", type=click.IntRange(0, 64), default=1, show_default=True, help="Workers here; 0 for one per core."
)
@click.option(
    "--scheduler", metavar="ADDRESS", default="", envvar="EDGEGUARD_SCHEDULER",
    help="Run on this dask cluster instead, such as tcp://host:8786 (extra sweep).",
)  # fmt: skip
@config_option
@format_option
def sweep_command(
    scenario_names: tuple[str, ...], values: str, parameter: str, seed: int, seeds: int, csv_path: Path,
    json_path: Path | None, report_path: Path | None, processes: int, scheduler: str, config_path: Path | None,
    output: str,
) -> int:  # fmt: skip
    """Detection against attack size: run scenarios at many sizes and seeds; stop and start again at will.

    \b
    edgeguard sim sweep gnss_drift --values 0.1,0.2,0.5,1,2 --report drift.html
    edgeguard sim sweep gnss_jump wheel_scale --values 0.25x,0.5x,1x --seeds 20 --processes 0
    """
    import os

    import msgspec

    from edgeguard.config import load_config
    from edgeguard.report.curve import render_curves
    from edgeguard.sim.sweep import run_sweep
    from edgeguard.sim.sweep_curve import curves

    config = load_config(config_path)
    sweeps = [_sweep(name, values, parameter, range(seed, seed + seeds), config) for name in scenario_names]
    workers = processes or min(os.cpu_count() or 1, 64)
    with progress_bar() as bar:
        task = bar.add_task("sweep", total=sum(len(s.values) * len(s.seeds) for s in sweeps))
        rows = run_sweep(sweeps, csv_path, processes=workers, scheduler=scheduler, on_row=lambda _: bar.advance(task))
    found = curves(rows)
    for one in found:
        for p in one.points:
            name = {"scenario": one.scenario, "parameter": one.parameter}
            if output == "json":
                click.echo(json.dumps({**name, **msgspec.to_builtins(p)}))
                continue
            low, high = p.detected_interval
            click.echo(
                f"{one.scenario} {one.parameter} = {p.value:<8g}  detected {p.detected}/{p.runs} ({low:.0%} to "
                f"{high:.0%})  named {p.named}/{p.runs}  median delay {p.delay()}  ROC area {p.area:.2f}"
            )
    say(f"rows: {csv_path}")
    if json_path is not None:
        _write(json_path, msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n")
    if report_path is not None:
        knobs = f" --parameter {parameter}" if parameter else ""
        words = f"edgeguard sim sweep {' '.join(scenario_names)}{knobs} --values {values} --seed {seed} --seeds {seeds}"
        drawn = [(one.scenario, one.parameter, one.points) for one in found]
        _write(report_path, render_curves(f"sweep of {', '.join(scenario_names)}", drawn, words))
    return EXIT_OK


def _sweep(name: str, values: str, parameter: str, seeds: range, config: Config) -> Sweep:
    from edgeguard.sim.scenario import load_scenario
    from edgeguard.sim.sweep import Sweep

    scenario = load_scenario(name)
    knob = parameter or next((a.knob for a in scenario.sensor_attacks), "")
    sizes: list[float] = []
    try:
        for word in values.split(","):
            times = word.strip().endswith("x")
            number = float(word.strip().removesuffix("x"))
            own = getattr(scenario.sensor_attacks[0], knob, 1.0) if times and scenario.sensor_attacks else 1.0
            sizes.append(number * own)
    except (ValueError, TypeError):
        raise ScenarioError(f"--values {values!r} is no list of numbers", code="EG-X016", hint="0.1,0.5,1") from None
    return Sweep(scenario, knob, tuple(dict.fromkeys(sizes)), tuple(seeds), config)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", code="EG-C022", hint="choose another path"
        ) from None
    say(f"wrote {path}")
