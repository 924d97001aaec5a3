"""`edgeguard replay`: the same pipeline over a recording of real sensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeguard.cli.options import (
    LOG_SECRET,
    config_option,
    format_option,
    model_options,
    model_settings,
    open_device_key,
    print_result,
    progress_bar,
    say,
)
from edgeguard.errors import EXIT_FINDING, EXIT_OK, ConfigError

if TYPE_CHECKING:
    from edgeguard.audit.log import AuditLog
    from edgeguard.clock import Clock
    from edgeguard.report.model import ReportBuilder
    from edgeguard.sensors.recorded import Recording
    from edgeguard.sensors.recorder import Recorder
    from edgeguard.types import FrameResult, Source


@click.command("replay")
@click.argument("recording_path", metavar="[RECORDING]", required=False, type=click.Path(path_type=Path))
@click.option("--kitti", type=click.Path(path_type=Path), help="RECORDING, read as KITTI raw or flat layout.")
@click.option("--car", type=click.Path(path_type=Path), help="RECORDING, read as an npz with gnss, wheel speeds, imu.")
@model_options
@config_option
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many frames.")
@click.option("--report", "report_path", type=click.Path(path_type=Path), help="Write the HTML report here.")
@click.option(
    "--depth",
    "depth_dir",
    type=click.Path(path_type=Path),
    help="Write each depth-registered image here: 16-bit PNG, metres x 256, 0 where no return.",
)
@click.option("--audit", "audit_dir", type=click.Path(path_type=Path), help="Write the tamper-evident log here.")
@click.option(
    "--record",
    "record_path",
    type=click.Path(path_type=Path),
    help="Write samples and decisions to this new .mcap file (opens in Foxglove), or samples alone to an .npz.",
)
@click.option(
    "--record-images", type=click.Choice(["png", "raw", "jpeg"]), default="png", show_default=True,
    help="How --record keeps camera frames; jpeg loses detail.",
)  # fmt: skip
@format_option
def command(
    recording_path: Path | None,
    kitti: Path | None,
    car: Path | None,
    bundle: Path | None,
    trust_path: Path | None,
    key_path: str | None,
    state_path: Path | None,
    model_id: str,
    board: str,
    config_path: Path | None,
    limit: int | None,
    report_path: Path | None,
    depth_dir: Path | None,
    audit_dir: Path | None,
    record_path: Path | None,
    record_images: str,
    output: str,
) -> int:  # fmt: skip
    """Run the pipeline over a recording; exit 0 when it is clean, 1 when anything was found.

    RECORDING is a KITTI or EuRoC folder, an .mcap or .npz of `--record`, or a car drive in an .npz; which of them is
    told by its content.

    \b
    edgeguard replay drive/
    edgeguard replay drive.npz --report report.html
    """
    import msgspec

    from edgeguard.clock import ManualClock
    from edgeguard.config import load_config
    from edgeguard.report.model import ReportBuilder
    from edgeguard.runtime.pipeline import Pipeline

    config = load_config(config_path)
    settings = model_settings(config.model, bundle, trust_path, key_path, state_path, model_id, board)
    audit_dir = audit_dir or (Path(config.audit.directory) if config.audit.directory else None)
    recording, origin = _open_recording(recording_path, kitti, car)
    ticks = list(recording.ticks())[:limit]
    clock = ManualClock(start_ns=ticks[0].stamp_ns - 1 if ticks else 0)
    summary = Summary(origin)
    report = ReportBuilder(f"Replay of {origin}", {"recording": origin, "frames": str(len(ticks))})
    with ExitStack() as stack:
        opened = None
        if settings.bundle:
            from edgeguard.runtime.models import open_models

            opened = open_models(stack, msgspec.structs.replace(config, model=settings), open_key=open_device_key)
        audit = _open_audit(stack, audit_dir, clock, settings.key) if audit_dir else None
        sources: Mapping[str, Source] = recording.sources(clock)
        recorder = None
        if record_path is not None:
            from edgeguard.sensors.recorder import Recorder

            # A replay has time: it waits for the disk where a device would drop.
            recorder = Recorder(record_path, sources, clock, recording.calibration, images=record_images, wait=True)
            sources = stack.enter_context(recorder).sources
        pipeline = Pipeline(
            config,
            sources,
            clock,
            calibration=recording.calibration,
            model=opened.model if opened else None,
            audit=audit,
            recheck=opened.recheck if opened else None,
            limits=opened.limits if opened else None,
            extra_restorers=opened.policy.restorers() if opened else (),
        )
        stack.enter_context(pipeline)
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("replay", total=len(ticks))
        for frame in pipeline.run(ticks):
            summary.add(frame)
            report.add(frame)
            if recorder is not None:
                recorder.frame(frame)
            if depth_dir is not None:
                _write_depth(depth_dir, frame)
            print_result(_frame_line(frame, output), bar)
            bar.advance(task)
        if opened is not None and summary.frames and "STOP" not in summary.verdicts:
            opened.commit()
        if audit is not None:
            say(f"log: {audit_dir}, head {audit.head}; keep the head off this machine")
    summary.notes = [*recording.notes, *_lost(sources, recorder)]
    for note in summary.notes:
        report.add_note(json.dumps(note))
        say(f"note: {json.dumps(note)}")
    if report_path is not None:
        _write_report(report_path, report)
    _print_summary(summary, output)
    return EXIT_OK if summary.clean else EXIT_FINDING


def _lost(sources: Mapping[str, Source], recorder: Recorder | None) -> list[dict[str, Any]]:
    """Notes about samples that the recording could not give, and that `--record` could not write."""
    notes: list[dict[str, Any]] = [
        {"kind": "dropped", "sensor": name, "reason": reason, "count": count}
        for name, source in sources.items()
        for reason, count in source.drops.items()
    ]
    if recorder is not None:
        notes += [{"kind": "not_recorded", "reason": why, "count": n} for why, n in recorder.drops.items()]
        say(f"recording: {recorder.path}, {sum(recorder.written.values())} messages")
    return notes


class Summary:
    """Counts over a run."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.frames = 0
        self.verdicts: dict[str, int] = {}
        self.anomalies: dict[str, int] = {}
        self.blamed: set[str] = set()
        self.notes: Sequence[Mapping[str, Any]] = ()
        self._stage_ns: dict[str, list[int]] = {}

    def add(self, frame: FrameResult) -> None:
        from edgeguard.types import TrustState

        self.frames += 1
        self.verdicts[frame.verdict.value] = self.verdicts.get(frame.verdict.value, 0) + 1
        for result in frame.anomalies:
            self.anomalies[result.check] = self.anomalies.get(result.check, 0) + 1
        self.blamed |= {n for n, trust in frame.fused.trust.items() if trust.state is not TrustState.TRUSTED}
        for stage, spent_ns in frame.stage_ns.items():
            self._stage_ns.setdefault(stage, []).append(spent_ns)

    @property
    def clean(self) -> bool:
        return not self.anomalies and set(self.verdicts) <= {"PASS"}

    def record(self) -> dict[str, Any]:
        """Return the object behind the key `summary` of the last JSON line."""
        return {
            "recording": self.origin,
            "frames": self.frames,
            "clean": self.clean,
            "verdicts": self.verdicts,
            "anomalies": self.anomalies,
            "sensors_blamed": sorted(self.blamed),
            "notes": [dict(note) for note in self.notes],
            "stage_ms_median": {
                stage: round(sorted(spent)[len(spent) // 2] / 1e6, 3) for stage, spent in self._stage_ns.items()
            },
        }


def _open_recording(path: Path | None, kitti: Path | None, car: Path | None) -> tuple[Recording, str]:
    given = [p for p in (path, kitti, car) if p is not None]
    if len(given) != 1:
        raise ConfigError("give exactly one recording", code="EG-C020", hint="edgeguard replay RECORDING")
    origin = given[0].resolve().name
    if kitti is not None:
        from edgeguard.sensors.kitti import KittiRecording

        return KittiRecording(kitti), origin
    if car is not None:
        from edgeguard.sensors.car import CarRecording

        return CarRecording(car), origin
    from edgeguard.sensors.recording import open_recording

    return open_recording(given[0]), origin


def _open_audit(stack: ExitStack, directory: Path, clock: Clock, key: str) -> AuditLog:
    """Open the log; with a device key at hand its checkpoints are keyed, else only the chain protects it."""
    from edgeguard.audit.log import AuditLog

    mac_key = None
    if key:
        mac_key = stack.enter_context(open_device_key(key).derive_secret(LOG_SECRET)).view
    return stack.enter_context(AuditLog(directory, clock=clock, mac_key=mac_key))


def _frame_line(frame: FrameResult, output: str) -> str:
    from edgeguard.runtime.record import public_record

    if output == "json":
        return json.dumps(public_record(frame))
    registered = frame.fused.registered
    depth = f"{registered.points:6d} px" if registered is not None else "     -   "
    spent_ms = sum(spent for stage, spent in frame.stage_ns.items() if stage != "sensors") / 1e6
    found = ", ".join(f"{a.check} {'/'.join(a.sensors)}" for a in frame.anomalies) or "-"
    return f"frame {frame.synced.tick.frame:6d}  {frame.verdict.value:7s}  depth {depth}  {spent_ms:6.1f} ms  {found}"


def _print_summary(summary: Summary, output: str) -> None:
    record = summary.record()
    if output == "json":
        click.echo(json.dumps({"summary": record}))
        return
    verdicts = ", ".join(f"{count} {name}" for name, count in record["verdicts"].items())
    click.echo(f"{record['frames']} frames: {verdicts}; {'clean' if summary.clean else 'NOT clean'}")
    for check, count in record["anomalies"].items():
        click.echo(f"  {check}: {count} frames")


def _write_depth(directory: Path, frame: FrameResult) -> None:
    """Write one registered image the way KITTI's depth benchmark stores them."""
    import cv2
    import numpy as np

    if frame.fused.registered is None:
        return
    directory.mkdir(parents=True, exist_ok=True)
    depth = np.nan_to_num(frame.fused.registered.depth_m, nan=0.0) * 256.0
    cv2.imwrite(str(directory / f"{frame.synced.tick.frame:010d}.png"), np.clip(depth, 0, 65535).astype(np.uint16))


def _write_report(path: Path, report: ReportBuilder) -> None:
    from edgeguard.report.html import render_html

    try:
        path.write_text(render_html(report.build()), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}", code="EG-C022", hint="choose another path"
        ) from None
    say(f"report: {path}")
