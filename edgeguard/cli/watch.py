"""`edgeguard watch`: a rig in the terminal while it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from edgeguard.cli.options import config_option, format_option, say
from edgeguard.cli.watch_state import Snapshot
from edgeguard.errors import EXIT_FINDING, EXIT_OK, ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from edgeguard.cli.rerun_stream import RerunStream
    from edgeguard.types import FrameResult

PLAIN_EVERY_S = 1.0  # without a terminal one line a second of drive, and one at each change of verdict
SCREENS_PER_S = 10.0
_STYLES = {
    "TRUSTED": "green", "SUSPECT": "yellow", "REJECTED": "bold red",
    "PASS": "bold green", "DEGRADE": "bold yellow", "HOLD": "bold dark_orange", "STOP": "bold red",
}  # fmt: skip


@click.command("watch")
@click.argument("source", metavar="SOURCE")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=7, show_default=True, help="Of a simulated drive.")
@click.option(
    "--speed", type=click.FloatRange(0.0, 1000.0), default=None,
    help="Drive seconds per second, 0 as fast as it goes; 1 on a terminal and 0 elsewhere without it.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Of a log: show what is there and leave, do not wait for more.")
@click.option("--plain", is_flag=True, help="Lines of text, also on a terminal.")
@click.option("--rerun", is_flag=True, help="Stream to the rerun viewer too (extra viewer).")
@click.option("--rerun-file", metavar="FILE", default="", help="Write what the viewer would get to this new .rrd file.")
@config_option
@format_option
def command(
    source: str, seed: int, speed: float | None, once: bool, plain: bool, rerun: bool, rerun_file: str,
    config_path: Path | None, output: str,
) -> int:  # fmt: skip
    """Show a rig while it runs: verdict, trust, rates, drops and worst checks.

    SOURCE is sim:NAME (a simulated drive), a recording, or the audit log folder of a running process. Exit 1 when the
    last verdict was not PASS. Ctrl-C ends it.

    \b
    edgeguard watch sim:gnss_drift
    edgeguard watch drive.mcap --speed 4
    edgeguard watch /var/lib/edgeguard/log
    """
    from edgeguard.cli.watch_source import kind_of, watch_log, watch_recording, watch_simulated
    from edgeguard.clock import SystemClock
    from edgeguard.config import load_config

    config, kind, clock = load_config(config_path), kind_of(source), SystemClock()
    live = output == "text" and not plain and sys.stdout.isatty()
    last: Snapshot | None = None
    with ExitStack() as stack:
        viewer = _viewer(stack, kind, rerun, rerun_file)

        def on_frame(frame: FrameResult) -> None:
            if viewer is not None:
                viewer.add(frame)

        snapshots: Iterator[Snapshot | None]
        if kind == "sim":
            snapshots = watch_simulated(source.removeprefix("sim:"), seed, config, on_frame)
        elif kind == "recording":
            snapshots = watch_recording(Path(source), config, on_frame)
        else:
            snapshots = watch_log(Path(source), clock, follow=not once)
        pace = 0.0 if kind == "log" else speed if speed is not None else float(live)
        screen = stack.enter_context(_screen(source)) if live else Lines(output)
        started_ns = clock.now_ns()
        try:
            for snapshot in snapshots:
                if snapshot is None:
                    continue
                if pace > 0.0:
                    clock.wait_until_ns(started_ns + round(snapshot.time_s / pace * 1e9))
                screen.show(snapshot)
                last = snapshot
        except KeyboardInterrupt:
            say("watch ended")
    if last is None:
        say("nothing was shown: no tick, or no frame record")
        return EXIT_OK
    if live:
        click.echo(last.line())
    return EXIT_OK if last.verdict == "PASS" else EXIT_FINDING


def _viewer(stack: ExitStack, kind: str, rerun: bool, rerun_file: str) -> RerunStream | None:
    if not (rerun or rerun_file):
        return None
    if kind == "log":
        raise ConfigError(
            "a log holds decisions and no pictures: rerun has nothing to show", code="EG-C021",
            hint="watch a recording made with edgeguard replay --record",
        )  # fmt: skip
    from edgeguard.cli.rerun_stream import RerunStream

    viewer = RerunStream(rerun_file)
    stack.callback(viewer.close)
    return viewer


class Screen(Protocol):
    """Where snapshots are shown."""

    def show(self, snapshot: Snapshot) -> None: ...


class Lines:
    """Plain lines: one a second of drive and one at each change of verdict, or every tick as JSON."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._shown_s = -PLAIN_EVERY_S
        self._verdict = ""

    def show(self, snapshot: Snapshot) -> None:
        """Print it, when it is time."""
        if self._output == "json":
            click.echo(json.dumps(snapshot.record(), sort_keys=True))
            return
        due = snapshot.time_s - self._shown_s >= PLAIN_EVERY_S - 1e-6 or snapshot.time_s < self._shown_s
        if due or snapshot.verdict != self._verdict:
            self._shown_s, self._verdict = snapshot.time_s, snapshot.verdict
            click.echo(snapshot.line())


@contextmanager
def _screen(source: str) -> Iterator[Screen]:
    """Yield a screen that rich redraws in place; the cursor comes back whatever happens."""
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), refresh_per_second=SCREENS_PER_S, transient=True) as live:

        class Redrawn:
            def show(self, snapshot: Snapshot) -> None:
                live.update(picture(source, snapshot))

        yield Redrawn()


def picture(source: str, snapshot: Snapshot) -> Table:
    """Return one snapshot as a table of rich; every word of it is text, never markup."""
    from rich.table import Table
    from rich.text import Text

    def styled(word: str) -> Text:
        return Text(word, style=_STYLES.get(word, ""))

    sensors = Table("sensor", "trust", "Hz", "dropped", box=None, pad_edge=False)
    for s in snapshot.sensors:
        rate = "" if s.rate_hz is None else f"{s.rate_hz:.1f}"
        lost = ", ".join(f"{n} {why}" for why, n in sorted(s.dropped.items()))
        sensors.add_row(Text(s.sensor), styled(s.trust), Text(rate, justify="right"), Text(lost))
    checks = Table("worst checks", "sensors", "share of threshold", box=None, pad_edge=False)
    for c in snapshot.worst:
        bar = "█" * min(20, round(10 * c.ratio))
        style = "red" if c.ratio > 1.0 else "green"
        checks.add_row(Text(c.check), Text(", ".join(c.sensors)), Text(f"{c.ratio:6.2f} {bar}", style=style))
    whole = Table.grid(padding=(0, 4))
    model = "" if not snapshot.model_id else f"   {snapshot.model_id}: {snapshot.objects} objects"
    head = Text.assemble(
        f"{source}  {snapshot.time_s:.1f} s  ", styled(snapshot.verdict), f"  {snapshot.reason}{model}"
    )
    whole.add_row(head)
    body = Table.grid(padding=(0, 4))
    body.add_row(sensors, checks)
    whole.add_row(body)
    return whole
