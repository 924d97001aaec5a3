"""Scenarios say what must come of them, refuse what makes no sense, and repeat to the byte."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.cli.main import cli, run
from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.config import Config
from edgeguard.errors import ConfigError, ScenarioError, SensorDisconnectedError
from edgeguard.report.junit import JunitCase, render_junit
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.sensors.recorded import RecordedStream, recorded_ticks
from edgeguard.sim.attacked import AttackedRecording
from edgeguard.sim.attacks.faults import Unplug
from edgeguard.sim.attacks.link import BitFlips, LinkDelay, Loss
from edgeguard.sim.attacks.registry import ATTACKS
from edgeguard.sim.run import run_scenario
from edgeguard.sim.scenario import AttackExpect, Scenario, builtin_scenarios, load_scenario, parse_scenario
from edgeguard.sim.stealth import StealthResult, attempt, best_attempt
from edgeguard.sim.sweep import Sweep, read_rows, run_sweep
from edgeguard.sim.sweep_curve import curve
from edgeguard.sim.system import run_completely
from edgeguard.types import GNSS, GnssFix, Sample, SourceInfo

SHORT = """
name = "short"
summary = "a jump"
duration_s = 10.0
sensors = ["gnss", "imu", "wheels"]
[[attacks]]
type = "gnss_jump"
start_s = 6.0
end_s = 9.0
[attacks.expect]
detected = {detected}
"""


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """A scenario of ten seconds that comes out as it says."""
    path = tmp_path / "short.egsim.toml"
    path.write_text(SHORT.format(detected="true"))
    return path


# ---- files ---------------------------------------------------------------------------------------------------------


def test_every_attack_of_the_library_has_a_scenario_that_comes_with_the_package() -> None:
    """And every file loads, says what it shows, and carries its own name."""
    scenarios = [load_scenario(name) for name in builtin_scenarios()]
    assert {attack.name for scenario in scenarios for attack in scenario.attacks} == set(ATTACKS)
    assert [scenario.name for scenario in scenarios] == list(builtin_scenarios())
    assert all(scenario.summary for scenario in scenarios)


@pytest.mark.parametrize(
    ("change", "code", "hint"),
    [
        (("gnss_jump", "gnss_jmp"), "EG-X012", "did you mean gnss_jump?"),
        (("end_s", "ende_s"), "EG-X012", "did you mean end_s?"),
        (("summary", "sumary"), "EG-X012", "did you mean summary?"),
        (("detected", "detectd"), "EG-X012", "did you mean detected?"),
        (('"wheels"', '"wheel"'), "EG-X012", "did you mean wheels?"),
        (('"gnss", ', ""), "EG-X012", "add it to `sensors`"),
        (("end_s = 9.0", "end_s = 5.0"), "EG-X012", ""),
        (("end_s = 9.0", 'end_s = "9"'), "EG-X012", ""),
        (("end_s = 9.0", "end_s = 9.0\noffset_m = -1.0"), "EG-X012", ""),
        (("[[attacks]]", "[attacks]"), "EG-X012", "write [[attacks]]"),
        (("name =", "name"), "EG-X011", ""),
    ],
)
def test_a_typing_error_is_named_with_the_nearest_word(change: tuple[str, str], code: str, hint: str) -> None:
    """Every table and every level."""
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(SHORT.format(detected="true").replace(*change, 1), "mine.toml")
    assert caught.value.code == code
    assert caught.value.hint == hint


def code_of(text: str) -> str:
    """Return the code with which a scenario is refused, "" when it is taken."""
    try:
        parse_scenario(text, "hostile")
    except ScenarioError as error:
        return error.code
    return ""


@given(st.text(max_size=200))
def test_hostile_text_is_refused_in_words_of_ours(text: str) -> None:
    """No foreign exception crosses the border."""
    assert code_of(text) in {"EG-X011", "EG-X012"}


VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(VALUES, st.sampled_from(["attacks", "expect", "duration_s", "sensors", "summary"]))
def test_hostile_values_are_refused_or_fit(value: object, key: str) -> None:
    """Whatever stands behind a key of a scenario that is otherwise sound."""
    table = {"name": '"x"', "summary": '"y"', "duration_s": "10.0"}
    table[key] = json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")
    assert code_of("\n".join(f"{name} = {said}" for name, said in table.items())) in {"", "EG-X011", "EG-X012"}


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_repeats_to_the_byte_and_another_seed_does_not(short: Path) -> None:
    """Record, digest and labels."""
    scenario = load_scenario(short)
    first, second, other = (run_scenario(scenario, seed) for seed in (3, 3, 4))
    assert json.dumps(first.record()) == json.dumps(second.record())
    assert first.labels == second.labels
    assert first.digest != other.digest
    assert first.passed
    assert {(label.sensor, label.attack, label.effect) for label in first.labels} == {("gnss", "gnss_jump", "changed")}
    assert len(first.labels) == 30
    assert all(label.amount == 30.0 for label in first.labels)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in {"rogue_wheels", "clock_step"} else pytest.mark.slow)
        for name in builtin_scenarios()
    ],
)
def test_every_scenario_comes_out_as_it_says(name: str, tmp_path: Path) -> None:
    """One of the seeds that its statements were measured with; all in the slow suite."""
    if name == "camera_pgd" and find_spec("torch") is None:
        pytest.skip("the extra eval is not installed: no torch")
    outcome = run_completely(load_scenario(name), 7 if name == "demo" else 1, tmp_path)
    assert outcome.passed, [e for e in outcome.expectations if not e.met]


def test_an_attack_that_is_found_although_it_was_called_a_gap_fails_the_run() -> None:
    """A statement that is no longer true must be corrected; and the other way round."""
    scenario = parse_scenario(SHORT.format(detected="false"), "x")
    outcome = run_scenario(scenario, 3)
    assert not outcome.passed
    (wrong,) = [e for e in outcome.expectations if not e.met]
    assert wrong.expected == "not detected (known gap)"
    (attack,) = scenario.attacks
    tiny = msgspec.structs.replace(attack, offset_m=0.001)
    gap = msgspec.structs.replace(scenario, attacks=(tiny,), attack_expect=(AttackExpect(detected=True),))
    assert not run_scenario(gap, 3).passed


def test_the_command_exits_by_expectation_and_writes_junit_labels_and_a_page(short: Path, tmp_path: Path) -> None:
    """Zero when all holds, one when not; the files are well-formed and say the same."""
    junit, labels, page = tmp_path / "out.xml", tmp_path / "labels.csv", tmp_path / "page.html"
    arguments = ["sim", "run", str(short), "--seed", "3", "--junit", str(junit), "--labels", str(labels)]
    assert run(cli, "edgeguard", [*arguments, "--report", str(page)]) == 0
    suite = ElementTree.parse(junit).getroot()  # noqa: S314 - our own file
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0")
    assert len(labels.read_text().splitlines()) == 31
    assert "gnss_jump" in page.read_text()
    short.write_text(SHORT.format(detected="false"))
    assert run(cli, "edgeguard", [*arguments, "--format", "json"]) == 1
    suite = ElementTree.parse(junit).getroot()  # noqa: S314
    assert suite.get("failures") == "1"
    assert suite.find(".//failure") is not None


def test_list_shows_every_attack_and_new_writes_a_scenario_that_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newcomer's first two commands."""
    assert run(cli, "edgeguard", ["sim", "list", "--format", "json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)["attacks"]} == set(ATTACKS)
    assert run(cli, "edgeguard", ["sim", "list", "lidar_hfr"]) == 0
    assert "pulse_mhz" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert run(cli, "edgeguard", ["sim", "new", "mine"]) == 0
    assert load_scenario(tmp_path / "mine.egsim.toml").name == "mine"
    assert run(cli, "edgeguard", ["sim", "new", "mine"]) == 2
    assert run(cli, "edgeguard", ["sim", "new", "../mine"]) == 2
    assert run(cli, "edgeguard", ["sim", "run", "demoo"]) == 2
    assert "did you mean demo?" in capsys.readouterr().err


def test_junit_escapes_whatever_it_is_given() -> None:
    """Control characters, quotes and brackets come back as text."""
    nasty = 'a<b>&"\x00\x1b\udc80'
    text = render_junit(nasty, [JunitCase(nasty, nasty, 1.0, nasty, nasty), JunitCase("s", "ok", 2.0)])
    suites = ElementTree.fromstring(text.encode())  # noqa: S314
    assert suites.get("failures") == "1"
    failure = suites.find(".//failure")
    assert failure is not None
    assert failure.text is not None
    assert failure.text.startswith('a<b>&"')


# ---- recordings ----------------------------------------------------------------------------------------------------


class FixRecording:
    """A recording of honest fixes at 10 Hz."""

    calibration = None
    notes = ()

    def __init__(self, count: int) -> None:
        stamps = (np.arange(count, dtype=np.int64) + 10) * 10**8

        def load(index: int) -> Sample | str:
            return GnssFix(int(stamps[index]), 48.0 + index * 1e-5, 11.0, speed_m_s=11.1, course_deg=0.0)

        self._stream = RecordedStream(SourceInfo(GNSS, GnssFix, 10**8, "test"), stamps, load)

    def ticks(self) -> list:
        return recorded_ticks([self._stream])

    def sources(self, clock: ManualClock) -> dict:
        return {GNSS: self._stream.source(clock)}


def test_attacks_work_on_a_recording_behind_the_source_interface() -> None:
    """Loss, damage, delay and unplugging: counted and timed as on a live line, with labels for all of it."""
    attacks = [
        Loss(1.0, 2.0, GNSS, share=1.0),
        BitFlips(3.0, 4.0, GNSS, share=1.0),
        LinkDelay(5.0, 6.0, GNSS, delay_s=0.25),
        Unplug(8.0, GNSS),
    ]
    attacked = AttackedRecording(FixRecording(120), attacks, seed=1)
    origin_ns = next(iter(attacked.ticks())).stamp_ns
    clock = ManualClock(origin_ns - 1)
    source = attacked.sources(clock)[GNSS]
    source.open()
    arrived: dict[int, int] = {}

    def read_on() -> None:
        while True:
            clock.wait_until_ns(clock.now_ns() + 5_000_000)
            while (sample := source.read(0.0)) is not None:
                arrived[sample.stamp_ns - origin_ns] = clock.now_ns() - sample.stamp_ns

    with pytest.raises(SensorDisconnectedError):
        read_on()
    assert clock.now_ns() - origin_ns == pytest.approx(8 * NS_PER_S, abs=10**8)
    seconds = {stamp / NS_PER_S for stamp in arrived}
    assert not any(1.0 <= at < 2.0 or 3.0 <= at < 4.0 for at in seconds)
    assert all(250_000_000 <= late < 260_000_000 for at, late in arrived.items() if 5 * NS_PER_S <= at < 6 * NS_PER_S)
    assert source.line_stats.checksum_failures == 10
    assert sum(source.drops.values()) == 10
    assert len(attacked.labels) == 30


def test_a_scenario_attacks_a_recording_instead_of_a_drive() -> None:
    """Times count from its first tick; the honest recording is clean."""
    scenario = Scenario("on-recording", "", 12.0, attacks=parse_scenario(SHORT.format(detected="true"), "x").attacks)
    outcome = run_scenario(scenario, 1, recording=FixRecording(120))
    (attack,) = outcome.report.attacks
    assert attack.detected
    assert attack.delay_s is not None
    assert outcome.report.clean_seconds_blamed == 0.0
    clean = FixRecording(120)
    clock = ManualClock(clean.ticks()[0].stamp_ns - 1)
    with Pipeline(Config(), clean.sources(clock), clock) as pipeline:
        assert not any(frame.anomalies for frame in pipeline.run(clean.ticks()))


# ---- sweeps and the stealthy adversary -----------------------------------------------------------------------------


def test_a_sweep_goes_on_where_it_was_stopped(short: Path, tmp_path: Path) -> None:
    """Rows on disk are not run again, a torn last line is, and the curve has the shape that physics gives."""
    sweep = Sweep(load_scenario(short), "offset_m", (0.01, 40.0), (3, 4), Config())
    path, fresh = tmp_path / "sweep.csv", []
    rows = run_sweep(sweep, path, on_row=fresh.append)
    assert len(fresh) == 4
    text = path.read_text()
    assert run_sweep(sweep, path, on_row=fresh.append) == rows
    assert len(fresh) == 4
    path.write_text(text[:-9])
    assert len(read_rows(path)) == 3
    small, large = curve(rows)
    assert (small.value, small.detected, small.median_delay_s) == (0.01, 0, None)
    assert (large.detected, large.named) == (2, 2)
    other = Sweep(load_scenario(short), "bearing_deg", (0.0,), (3,), Config())
    assert other.key != sweep.key
    path.write_text("some,other\n1,2\n")
    with pytest.raises(ConfigError):
        read_rows(path)
    for parameter, values in (("ofset_m", (1.0,)), ("offset_m", (-1.0,)), ("offset_m", ())):
        with pytest.raises(ScenarioError):
            Sweep(load_scenario(short), parameter, values, (1,), Config())


def test_the_stealthy_adversary_is_slower_than_one_who_does_not_look() -> None:
    """Held below half its threshold by his own eyes he is never caught, and gets less far than 1 m/s would."""
    rig = ("gnss", "imu", "wheels")
    result = attempt("gnss_along_track", 1, 0.8, 0.1, sensors=rig, attack_s=8.0)
    assert result.caught_s is None
    assert 0.0 < result.deviation_m < 8.0
    reckless = attempt("gnss_along_track", 1, 1e9, 1e9, sensors=rig, attack_s=8.0)
    assert reckless.caught_s is not None
    assert best_attempt([reckless]) is None
    assert best_attempt([reckless, result]) is result
    assert isinstance(result, StealthResult)


# ---- pytest plugin -------------------------------------------------------------------------------------------------


def test_the_pytest_plugin_collects_scenarios_and_gives_a_fixture(short: Path, tmp_path: Path) -> None:
    """A user's CI: one file that holds, one that does not, one test with the fixture."""
    (tmp_path / "wrong.egsim.toml").write_text(SHORT.format(detected="false"))
    (tmp_path / "test_mine.py").write_text(
        "def test_mine(edgeguard_sim):\n"
        "    outcome = edgeguard_sim('short.egsim.toml', 3)\n"
        "    assert outcome.passed and outcome.report.attacks[0].named == ('gnss',)\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\negsim_seeds = 3\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "edgeguard.sim.pytest_plugin", "-p", "no:cacheprovider", "-q"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        env={"PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert "1 failed, 2 passed" in done.stdout, done.stdout + done.stderr
    assert "expected not detected (known gap), found detected" in done.stdout
    assert done.returncode == 1
