"""`edgeguard watch` shows what is decided, from any source, with and without a terminal, and ends cleanly."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgeguard.audit.log import AuditLog
from edgeguard.cli.main import cli, run
from edgeguard.cli.watch import Lines, picture
from edgeguard.cli.watch_source import watch_log
from edgeguard.cli.watch_state import CheckLine, SensorLine, Snapshot, of_record
from edgeguard.clock import ManualClock
from edgeguard.errors import AuditError, EnvironmentMissingError

SHORT = """
name = "short"
summary = "a jump"
duration_s = 5.0
sensors = ["gnss", "imu", "wheels"]
[[attacks]]
type = "gnss_jump"
start_s = 3.0
end_s = 5.0
"""
WATCH = [sys.executable, "-m", "edgeguard.cli.main", "watch"]


@pytest.fixture
def short(tmp_path: Path) -> str:
    """A scenario of five seconds whose GNSS jumps."""
    path = tmp_path / "short.egsim.toml"
    path.write_text(SHORT)
    return f"sim:{path}"


def frame_body(stamp_ns: int, verdict: str = "PASS") -> dict[str, object]:
    """Return the body of a frame record as the pipeline writes it."""
    return {
        "frame": stamp_ns // 10**8, "stamp_ns": stamp_ns, "verdict": verdict, "reason": "as told", "model_id": "",
        "trust": {"gnss": "SUSPECT", "imu": "TRUSTED"}, "detections": 0, "seen_sha256": {},
        "anomalies": [{"check": "X9.x", "sensors": ["gnss"], "statistic": 6.0, "threshold": 2.0}],
    }  # fmt: skip


def test_a_simulated_drive_is_shown_line_by_line(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: a line a second and one at each change of verdict; exit 1 for a drive that ends badly."""
    assert run(cli, "edgeguard", ["watch", short]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(re.match(r" +\d+\.\d s \| gnss[+?!] \d", line) for line in lines)
    assert 5 <= len(lines) < 50
    assert lines[0].endswith("PASS")
    assert not lines[-1].endswith("PASS")
    assert "gnss!" in lines[-1] or "gnss?" in lines[-1]


def test_every_tick_is_there_as_json(short: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fifty ticks, rates, and never more than six checks, worst first."""
    run(cli, "edgeguard", ["watch", short, "--format", "json"])
    ticks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(ticks) == 50
    assert ticks[-1]["sensors"]["imu"]["rate_hz"] == pytest.approx(100.0, rel=0.1)
    ratios = [[c["ratio"] for c in tick["worst"]] for tick in ticks]
    assert all(r == sorted(r, reverse=True) and len(r) <= 6 for r in ratios)
    assert max(r[0] for r in ratios if r) > 1.0


def test_a_recording_is_shown(kitti_drive: object, capsys: pytest.CaptureFixture[str]) -> None:
    """The same pipeline over what was recorded."""
    folder = kitti_drive([0, 1, 2, 3])  # type: ignore[operator]
    run(cli, "edgeguard", ["watch", str(folder), "--format", "json"])
    ticks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(ticks) == 4
    assert set(ticks[0]["sensors"]) == {"camera", "lidar"}


def test_a_log_is_shown_and_followed_while_it_grows(tmp_path: Path) -> None:
    """Records that come later are shown when they come, once each, also across segments; others are passed over."""
    clock = ManualClock()
    with AuditLog(tmp_path, clock=clock, segment_bytes=524_288) as audit:
        audit.append("frame", frame_body(10**9))
        audit.append("note", {"text": "no frame"})
        seen = watch_log(tmp_path, clock, follow=True)
        first = next(seen)
        assert first is not None
        assert (first.time_s, first.verdict, first.worst[0]) == (0.0, "PASS", CheckLine("X9.x", ("gnss",), 3.0))
        assert next(seen) is None
        for number in range(2, 42):
            audit.append("frame", {**frame_body(number * 10**9, "HOLD"), "reason": "x" * 20_000})
        later = [next(seen) for _ in range(40)]
        assert [s.time_s for s in later if s is not None] == [float(n) for n in range(1, 41)]
        assert next(seen) is None
    assert len(list(tmp_path.glob("audit-*.egl"))) > 1


def test_a_log_once_ends_and_its_last_verdict_is_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 for PASS, 1 for anything else; an empty folder of a log says so."""
    for verdict, code in (("PASS", 0), ("STOP", 1)):
        folder = tmp_path / verdict
        with AuditLog(folder, clock=ManualClock()) as audit:
            audit.append("frame", frame_body(10**9, verdict))
        assert run(cli, "edgeguard", ["watch", str(folder), "--once"]) == code
        assert verdict in capsys.readouterr().out


def test_a_bad_log_is_refused(tmp_path: Path) -> None:
    """A changed byte ends the watch with the log's own error."""
    with AuditLog(tmp_path, clock=ManualClock()) as audit:
        for number in range(3):
            audit.append("frame", frame_body(number))
    (segment,) = tmp_path.glob("audit-*.egl")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(bytes(data))
    with pytest.raises(AuditError):
        list(watch_log(tmp_path, ManualClock(), follow=False))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"trust": 3, "anomalies": "x", "stamp_ns": "y"},
        {"trust": {"a\x1b[2J": None}, "anomalies": [3, {"check": []}]},
    ],
)
def test_a_strange_record_is_shown_as_empty_and_drives_no_terminal(body: dict[str, object]) -> None:
    """A log may come from anywhere."""
    shown = of_record(body, 0)
    assert "\x1b" not in shown.line()
    assert shown.time_s == 0.0


def test_nothing_at_a_path_is_said_with_what_could_be(capsys: pytest.CaptureFixture[str]) -> None:
    """Usage error with the three kinds of source."""
    assert run(cli, "edgeguard", ["watch", "no/such/place"]) == 2
    assert "sim:NAME" in capsys.readouterr().err


def test_plain_lines_come_once_a_second_and_at_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten ticks a second: of thirty with one change of verdict, four lines."""
    lines = Lines("text")
    for tick in range(30):
        lines.show(Snapshot(tick / 10, "PASS" if tick < 15 else "HOLD", "", (), ()))
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(" s")[0].strip() for line in shown] == ["0.0", "1.0", "1.5", "2.5"]


def test_the_picture_shows_markup_as_text() -> None:
    """A sensor's name and a reason are hostile input."""
    from rich.console import Console

    line = SensorLine("[red]x[/red]", "REJECTED", 9.96, {"EG-N010": 3})
    shown = Snapshot(1.0, "HOLD", "[blink]why[/blink]", (line,), (CheckLine("T1", ("x",), 2.5),), "model", 4)
    console = Console(width=160, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    console.print(picture("sim:x", shown))
    console.file.close()
    text = console.export_text()
    for word in ("[red]x[/red]", "REJECTED", "10.0", "3 EG-N010", "[blink]why[/blink]", "T1", "2.50", "4 objects"):
        assert word in text


def test_a_terminal_is_redrawn_and_left_as_it_was(short: str) -> None:
    """On a pseudo-terminal: a table, one last line, and the cursor is shown again."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        [*WATCH, short, "--speed", "50"],
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(child)
        parts = []
        while True:
            try:
                got = os.read(parent, 65536)
            except OSError:  # how a pseudo-terminal says that the other end is closed
                break
            if not got:
                break
            parts.append(got)
        assert process.wait(60) == 1
    os.close(parent)
    text = b"".join(parts).decode()
    assert "worst checks" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "5.0 s | gnss" in text


def test_ctrl_c_ends_a_watch_without_a_traceback(tmp_path: Path) -> None:
    """A log that is followed for ever, interrupted; its last verdict decides the exit code."""
    with AuditLog(tmp_path, clock=ManualClock()) as audit:
        audit.append("frame", frame_body(10**9, "PASS"))
    with subprocess.Popen(
        [*WATCH, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            time.sleep(3.0)
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "Traceback" not in err
    assert "watch ended" in err
    assert "PASS" in out


def test_without_the_viewer_it_says_what_to_install(short: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing part of the environment: exit 3 with the extra's name."""
    monkeypatch.setitem(sys.modules, "rerun", None)
    from edgeguard.cli.rerun_stream import RerunStream

    with pytest.raises(EnvironmentMissingError) as caught:
        RerunStream("x.rrd")
    assert caught.value.code == "EG-E056"
    assert "edgeguard[viewer]" in caught.value.hint
    assert run(cli, "edgeguard", ["watch", short, "--rerun"]) == 3


@pytest.mark.skipif(find_spec("rerun") is None, reason="the extra viewer is not installed: no rerun-sdk")
def test_the_viewer_gets_images_points_trust_and_checks(kitti_drive: object, tmp_path: Path) -> None:
    """Written by rerun's own stream and read back by rerun's own tool; a second run needs a new file."""
    folder, file = kitti_drive([0, 1, 2, 3]), tmp_path / "run.rrd"  # type: ignore[operator]
    run(cli, "edgeguard", ["watch", str(folder), "--rerun-file", str(file)])
    told = subprocess.run(
        [sys.executable, "-m", "rerun", "rrd", "print", "-v", str(file)], capture_output=True, text=True, check=True
    ).stdout
    for path in ("/camera/image", "/lidar/points", "/trust/camera", "/trust/lidar", "/verdict", "/checks/"):
        assert path in told
    assert run(cli, "edgeguard", ["watch", str(folder), "--rerun-file", str(file)]) == 3
