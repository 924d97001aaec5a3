"""A sweep gives the same numbers whoever computes them, goes on after any cut, and says how sure its curves are."""

from __future__ import annotations

import fcntl
import json
import math
import os
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.cli.main import cli, run
from edgeguard.config import Config
from edgeguard.errors import ConfigError, EnvironmentMissingError, ScenarioError
from edgeguard.report.curve import render_curves
from edgeguard.sim.detection.metrics import auroc
from edgeguard.sim.scenario import load_scenario
from edgeguard.sim.sweep import Sweep, SweepRow, read_rows, run_sweep
from edgeguard.sim.sweep_curve import curve, curves, median_interval, roc
from edgeguard.sim.sweep_workers import run_jobs

SHORT = """
name = "{name}"
summary = "a jump"
duration_s = 5.0
sensors = ["gnss", "imu", "wheels"]
[[attacks]]
type = "{kind}"
start_s = 3.0
end_s = 5.0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenarios of five seconds."""
    folder = tmp_path_factory.mktemp("sweep")
    for name, kind in (("jump", "gnss_jump"), ("scale", "wheel_scale")):
        (folder / f"{name}.egsim.toml").write_text(SHORT.format(name=name, kind=kind))
    return folder


def sweep_of(folder: Path, seeds: tuple[int, ...] = (3, 4)) -> Sweep:
    """Two sizes of a jump."""
    return Sweep(load_scenario(folder / "jump.egsim.toml"), "offset_m", (0.01, 40.0), seeds, Config())


@pytest.fixture(scope="module")
def serial(folder: Path) -> tuple[SweepRow, ...]:
    """What one worker finds."""
    return run_sweep(sweep_of(folder), folder / "serial.csv")


# ---- workers ---------------------------------------------------------------------------------------------------------


def test_two_processes_give_the_same_numbers_as_one(folder: Path, serial: tuple[SweepRow, ...], tmp_path: Path) -> None:
    """Rows in the same order, and the same lines in the file, in whatever order they were done."""
    path = tmp_path / "rows.csv"
    assert run_sweep(sweep_of(folder), path, processes=2) == serial
    assert sorted(path.read_text().splitlines()) == sorted((folder / "serial.csv").read_text().splitlines())


@pytest.mark.skipif(find_spec("distributed") is None, reason="the extra sweep is not installed: no distributed")
def test_a_cluster_gives_the_same_numbers_and_goes_on_where_it_was_cut(
    folder: Path, serial: tuple[SweepRow, ...], tmp_path: Path
) -> None:
    """Two workers in processes of their own, found by their scheduler's address; two rows are there already."""
    import distributed

    path, fresh = tmp_path / "rows.csv", []
    path.write_text("\n".join((folder / "serial.csv").read_text().splitlines()[:3]) + "\njust half a li")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1", silence_logs=50
    ) as cluster:
        assert cluster.scheduler_address.startswith("tcp://")
        rows = run_sweep(sweep_of(folder), path, scheduler=cluster.scheduler_address, on_row=fresh.append)
    assert rows == serial
    assert len(fresh) == 2


@pytest.mark.skipif(find_spec("distributed") is None, reason="the extra sweep is not installed: no distributed")
def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong address must not look like a long run."""
    monkeypatch.setattr("edgeguard.sim.sweep_workers.CLUSTER_TIMEOUT", "1s")
    with pytest.raises(EnvironmentMissingError) as caught:
        list(run_jobs(math.sqrt, [(1.0,)], scheduler="tcp://127.0.0.1:9"))
    assert caught.value.code == "EG-E059"


def test_without_the_package_a_cluster_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a missing part of the environment."""
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(EnvironmentMissingError) as caught:
        list(run_jobs(math.sqrt, [(1.0,)], scheduler="tcp://127.0.0.1:9"))
    assert caught.value.code == "EG-E058"
    assert "edgeguard[sweep]" in caught.value.hint


def test_a_worker_that_dies_ends_the_sweep_in_words_of_ours() -> None:
    """Killed for lack of memory, for example; what was yielded before stays yielded."""
    with pytest.raises(ScenarioError) as caught:
        list(run_jobs(os._exit, [(3,), (3,)], processes=2))
    assert caught.value.code == "EG-X048"


def test_what_fails_in_a_worker_comes_out_as_it_is() -> None:
    """And the others are not waited for."""
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        list(run_jobs(math.sqrt, [(-1.0,), (4.0,)], processes=2))


# ---- the file --------------------------------------------------------------------------------------------------------


def test_a_row_after_a_torn_line_is_whole(folder: Path, serial: tuple[SweepRow, ...], tmp_path: Path) -> None:
    """The half line is taken out, its run is repeated, and the file reads as if nothing had happened."""
    path, fresh = tmp_path / "rows.csv", []
    path.write_text((folder / "serial.csv").read_text()[:-9])
    assert run_sweep(sweep_of(folder), path, on_row=fresh.append) == serial
    assert len(fresh) == 1
    assert path.read_text() == (folder / "serial.csv").read_text()


@given(st.data())
def test_a_file_cut_anywhere_gives_a_beginning_of_its_rows(
    folder: Path, serial: tuple[SweepRow, ...], data: st.DataObject
) -> None:
    """Never a row that was not written, never an error, wherever the power went."""
    whole = (folder / "serial.csv").read_bytes()
    path = folder / "cut.csv"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    rows = read_rows(path)
    assert rows == read_rows(folder / "serial.csv")[: len(rows)]
    assert len(serial) == 4


@given(st.text(max_size=80))
def test_a_strange_file_is_refused_or_has_no_rows(folder: Path, text: str) -> None:
    """Nothing that a sweep has not written is taken for one, below its own heading neither."""
    path = folder / "strange.csv"
    heading = (folder / "serial.csv").read_text().splitlines()[0] if (folder / "serial.csv").exists() else ""
    for content in (text + "\n", f"{heading}\n{text}\n"):
        path.write_text(content, encoding="utf-8", errors="replace", newline="")
        rows: tuple[SweepRow, ...] = ()
        with suppress(ConfigError):
            rows = read_rows(path)
        assert rows == ()


def test_two_sweeps_do_not_write_to_one_file(folder: Path, tmp_path: Path) -> None:
    """The second is told, and nothing is run twice."""
    path = tmp_path / "rows.csv"
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError) as caught:
            run_sweep(sweep_of(folder), path)
    assert caught.value.code == "EG-C056"


# ---- curves ----------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_median_covers_it_as_often_as_it_says() -> None:
    """At least 95 % of samples of a skewed distribution, and not by being endless: from six values on it is bounded."""
    rng, true = np.random.default_rng(1), math.log(2.0)
    for count in (6, 9, 20):
        covered = 0
        for _ in range(2000):
            _, low, high = median_interval(rng.exponential(1.0, count).tolist())
            assert high is not None
            assert low is not None
            covered += low <= true <= high
        assert covered / 2000 > 0.94
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 0.0, None)
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == (3.5, 1.0, 6.0)
    assert median_interval([1.0, math.inf, math.inf]) == (None, 0.0, None)


def test_an_attack_that_is_missed_makes_the_median_later_not_earlier(serial: tuple[SweepRow, ...]) -> None:
    """Three of five found at once: the median is found; two of five: never."""
    found, missed = replace(serial[-1], detected=True, delay_s=0.5), replace(serial[-1], detected=False, delay_s=None)
    mostly = [replace(row, seed=n) for n, row in enumerate([found] * 3 + [missed] * 2)]
    rarely = [replace(row, seed=n) for n, row in enumerate([found] * 2 + [missed] * 3)]
    assert curve(mostly)[0].median_delay_s == 0.5
    assert curve(rarely)[0].median_delay_s is None


@given(
    st.lists(st.floats(0, 10).map(lambda v: round(v, 1)), min_size=1, max_size=20),
    st.lists(st.floats(0, 10).map(lambda v: round(v, 1)), min_size=1, max_size=20),
)
def test_the_area_under_the_drawn_curve_is_the_one_that_is_told(clean: list[float], attacked: list[float]) -> None:
    """Trapezes under the points, ties included, equal the rank statistic; the curve never falls."""
    points = roc(np.array(clean), np.array(attacked))
    x = np.array([p.false / p.clean for p in points])
    y = np.array([p.true / p.attacked for p in points])
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum()) == pytest.approx(auroc(np.array(clean), np.array(attacked)))


def test_curves_do_not_hang_on_the_order_of_rows(serial: tuple[SweepRow, ...]) -> None:
    """Workers finish as they like."""
    assert curve(serial) == curve(serial[::-1])
    small, large = curve(serial)
    assert (small.detected, large.detected) == (0, 2)
    assert small.detected_interval[1] < 1.0
    assert large.area >= small.area
    assert all(row.peak_attacked > 1.0 for row in serial if row.value == 40.0)
    assert all(row.peak_clean < 1.0 for row in serial)


def test_the_page_holds_every_curve_and_loads_nothing(serial: tuple[SweepRow, ...]) -> None:
    """Detection, delay and one ROC per size, hostile names escaped."""
    (one,) = curves(serial)
    page = render_curves("<script>x", [(one.scenario, one.parameter, one.points)], "edgeguard sim sweep")
    assert page.count("<svg") == 2 + len(one.points)
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_the_verb_sweeps_scenarios_by_multiples_and_writes_what_it_found(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two scenarios with knobs of their own share one file; JSON and page hold both; a second call runs nothing."""
    names = [str(folder / f"{name}.egsim.toml") for name in ("jump", "scale")]
    files = {kind: tmp_path / f"out.{kind}" for kind in ("csv", "json", "html")}
    arguments = ["sim", "sweep", *names, "--values", "1x", "--seeds", "1", "--csv", str(files["csv"])]
    arguments += ["--json", str(files["json"]), "--report", str(files["html"])]
    assert run(cli, "edgeguard", arguments) == 0
    first = capsys.readouterr().out
    assert first.count("detected") == 2
    told = json.loads(files["json"].read_text())
    assert [(c["scenario"], c["parameter"]) for c in told] == [("jump", "offset_m"), ("scale", "scale")]
    assert told[0]["points"][0]["value"] == 30.0
    assert files["html"].read_text().count("<svg") == 6
    before = files["csv"].stat().st_mtime_ns
    assert run(cli, "edgeguard", arguments) == 0
    assert capsys.readouterr().out == first
    assert files["csv"].stat().st_mtime_ns == before
    assert run(cli, "edgeguard", ["sim", "sweep", names[0], "--values", "1y"]) == 2
