"""From frames to the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.report.html import render_html
from edgeguard.report.model import MAX_RATIO, Report, ReportBuilder
from edgeguard.report.svg import nice_step, number, text, thin_out
from edgeguard.report.table import attack_table, summary_lines
from edgeguard.report.track import LocalPlane
from edgeguard.types import (
    CAMERA,
    GNSS,
    CheckResult,
    Detection,
    EgoState,
    FrameResult,
    GnssFix,
    Image,
    Level,
    RegisteredDepth,
    Restoration,
    TrustState,
    Truth,
    Verdict,
)

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Collects elements and text, and insists that every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def build(frames: list[FrameResult], truths: list[Truth], title: str = "Drive") -> Report:
    builder = ReportBuilder(title, {"seed": "7"})
    for frame in frames:
        builder.add(frame)
    builder.set_truths(truths)
    return builder.build()


@pytest.fixture(scope="module")
def report(demo_drive: tuple[list[FrameResult], list[Truth]]) -> Report:
    return build(*demo_drive)


def test_a_drive_with_four_attacks_is_told_as_it_happened(report: Report) -> None:
    """Delays, names, verdict shares and clean time of the made-up drive."""
    assert [(a.attack, a.delay_s, a.named) for a in report.attacks] == [
        ("gnss-walk", 0.6, ("gnss",)),
        ("camera-blinding", 0.6, ("camera",)),
        ("lidar-phantom", 0.6, ("lidar",)),
        ("wheel-scale", 0.6, ("wheels",)),
    ]
    assert report.passed
    assert report.clean_seconds_blamed == 0.0
    assert (report.final_verdict, report.worst_verdict) == ("PASS", "HOLD")
    assert sum(report.verdict_s.values()) == pytest.approx(report.duration_s) == pytest.approx(60.0)
    assert report.tick_timing.median_ms == pytest.approx(20.975, abs=0.1)


def test_pictures_are_one_clean_one_per_attack_and_the_last(report: Report) -> None:
    """Few, taken after the attack was noticed, and JPEG."""
    assert [p.caption for p in report.pictures] == [
        "Clean", "gnss-walk on gnss", "camera-blinding on camera", "lidar-phantom on lidar", "wheel-scale on wheels",
        "Last frame",
    ]  # fmt: skip
    assert all(p.data_uri.startswith("data:image/jpeg;base64,") for p in report.pictures)
    assert all(p.distrusted for p in report.pictures[1:5])


def test_the_page_is_whole_self_contained_and_without_script(report: Report) -> None:
    """Well-formed, nothing loaded from anywhere, every drawing named for a screen reader."""
    page = Page(render_html(report))

    tags = [tag for tag, _ in page.elements]
    assert "script" not in tags
    assert "link" not in tags
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert all(not (attributes.get(n) or "data:").startswith(("http", "//")) for n in ("src", "href"))
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
    words = " ".join(page.words)
    for expected in ("4 of 4 attacks detected", "gnss-walk", "X8.speed", "Never observable here: X1.stereo", "late 2"):
        assert expected in words


def test_equal_frames_give_equal_bytes(demo_drive: tuple[list[FrameResult], list[Truth]], report: Report) -> None:
    """No clock, no randomness, no set order."""
    again = build(*demo_drive)

    assert render_html(again) == render_html(report)
    assert again.to_json() == report.to_json()


def test_truths_may_be_told_before_or_after_the_frames(demo_drive: tuple[list[FrameResult], list[Truth]]) -> None:
    """The simulator knows them in advance, a labelled recording afterwards."""
    frames, truths = demo_drive
    early = ReportBuilder("Drive", {"seed": "7"})
    early.set_truths(truths)
    for frame in frames[:300]:
        early.add(frame)

    assert early.build().to_json() == build(frames[:300], truths).to_json()


def test_the_json_has_no_pictures_but_everything_else(report: Report) -> None:
    """For machines: numbers, not megabytes."""
    plain = json.loads(report.to_json())

    assert plain["passed"] is True
    assert len(plain["attacks"]) == 4
    assert plain["pictures"][0]["data_uri"] == ""
    assert len(report.to_json()) < 1_000_000


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\u202e'


def test_hostile_names_and_notes_cannot_inject(frame: object) -> None:
    """A sensor, check, attack, label, reason, note or title that is markup stays text."""
    assert callable(frame)
    builder = ReportBuilder(HOSTILE, {HOSTILE: HOSTILE})
    builder.add_note(HOSTILE)
    builder.set_truths([Truth(HOSTILE, HOSTILE, 5_000_000_000, 5_400_000_000, HOSTILE)])
    for index in range(8):
        builder.add(
            frame(
                index,
                trust={HOSTILE: TrustState.REJECTED if index > 1 else TrustState.TRUSTED},
                verdict=Verdict.STOP if index > 1 else Verdict.PASS,
                reason=HOSTILE,
                results=(CheckResult(HOSTILE, (HOSTILE,), Level.ANOMALY, 2.0, 1.0, reason=HOSTILE),),
                samples={CAMERA: Image(np.zeros((20, 30, 3), np.uint8), 0)},
                detections=(Detection(HOSTILE, 0.5, (1.0, 1.0, 9.0, 9.0)),),
                restorations=(Restoration(HOSTILE, CAMERA, 0.5),),
            )
        )
    page = Page(render_html(builder.build()))

    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    assert all((a.get("src") or "data:image").startswith("data:image") for t, a in page.elements if t == "img")
    assert all("onerror" not in attributes for _, attributes in page.elements)
    assert not any("\x1b" in word or "\u202e" in word for word in page.words)


@given(st.text())
def test_escaped_text_is_inert_in_content_and_attributes(value: str) -> None:
    """No character that could end an attribute or begin an element, none that reorders or hides text."""
    shown = text(value)

    assert not set(shown) & set("<>\"'")
    assert all(c.isprintable() or c == " " for c in shown)


def test_a_missed_attack_and_blamed_clean_time_are_said_plainly(frame: object) -> None:
    """A report must be able to look bad."""
    assert callable(frame)
    truth = Truth("walk", GNSS, 5_000_000_000, 7_000_000_000, "")
    frames = [frame(i, trust={"imu": TrustState.SUSPECT} if 60 <= i < 80 else {}) for i in range(100)]
    report = build(frames, [truth])

    words = " ".join(Page(render_html(report)).words)
    assert not report.passed
    assert "0 of 1 attacks detected" in words
    assert "missed" in words
    assert report.clean_seconds_blamed == pytest.approx(2.0)
    assert "2.0 s of 8 s clean time were blamed" in words


def test_runs_without_attacks_camera_fixes_or_even_ticks_have_a_page(frame: object) -> None:
    """Every part of the page is optional."""
    assert callable(frame)
    for frames in ([], [frame(0)], [frame(i, verdict=Verdict.HOLD, reason="x") for i in range(3)]):
        report = build(frames, [])
        page = Page(render_html(report))
        assert report.track is None
        assert report.pictures == ()
        assert page.words


def test_odd_statistics_are_drawn_on_the_side_their_level_says(frame: object) -> None:
    """Infinite, not a number, zero threshold: the level decides; blindness is a gap, never zero."""
    assert callable(frame)
    cases = [
        (Level.ANOMALY, float("inf"), 1.0, MAX_RATIO),
        (Level.ANOMALY, float("nan"), 1.0, MAX_RATIO),
        (Level.ANOMALY, 1.0, 0.0, MAX_RATIO),
        (Level.OK, float("nan"), 1.0, 0.0),
        (Level.OK, 0.0, 0.0, 0.0),
        (Level.OK, -3.0, 1.0, 0.0),
        (Level.NOT_OBSERVABLE, 5.0, 1.0, None),
        (Level.OK, 0.5, 1.0, 0.5),
    ]
    frames = [frame(i, results=(CheckResult("c", (GNSS,), c[0], c[1], c[2]),)) for i, c in enumerate(cases)]
    report = build(frames, [])

    assert report.checks[0].ratio == tuple(c[3] for c in cases)
    assert (report.checks[0].anomalies, report.checks[0].blind) == (3, 1)
    Page(render_html(report))


def test_a_jump_in_time_parts_the_path_and_is_not_time_spent(frame: object) -> None:
    """Ten ticks, a hole of 100 s, ten ticks: two seconds of verdicts and two stretches of path."""
    assert callable(frame)
    ego = EgoState(0.0, 0.0, 0.0, 1.0, 0.1, ())
    frames = [frame(i, ego=ego, time_s=i * 0.1 + (100 if i >= 10 else 0), discontinuity=i == 10) for i in range(20)]
    report = build(frames, [])

    assert sum(report.verdict_s.values()) == pytest.approx(2.0)
    assert report.track is not None
    assert [len(part) for part in report.track.fused] == [10, 10]


def test_fixes_are_placed_in_metres_and_flagged_by_trust(frame: object) -> None:
    """One arc minute of latitude is a nautical mile; the receiver's state at that tick colours the fix."""
    assert callable(frame)
    first, second = GnssFix(1, 45.0, 11.0), GnssFix(2, 45.0 + 1 / 60, 11.0)
    report = build(
        [frame(0, samples={GNSS: first}), frame(1, samples={GNSS: second}, trust={GNSS: TrustState.REJECTED})], []
    )

    assert report.track is not None
    places = [(f.east_m, f.north_m, f.trusted) for f in report.track.fixes]
    assert places[0] == (0.0, 0.0, True)
    assert places[1][1] == pytest.approx(1852, abs=1)
    assert places[1][2] is False
    assert LocalPlane(0.0, 179.999).to_local(0.0, -179.999)[0] == pytest.approx(222.6, abs=0.1)


def test_pictures_stay_bounded_on_a_long_run(frame: object) -> None:
    """Four hours at two pictures a second would be a gigabyte."""
    assert callable(frame)
    builder = ReportBuilder("long", {})
    image = Image(np.zeros((8, 8, 3), np.uint8), 0)
    for index in range(2000):
        builder.add(frame(index, samples={CAMERA: image}, time_s=index * 0.5))

    assert len(builder._album._kept) <= 240
    assert len(builder.build().pictures) == 2


def test_depth_of_another_size_or_hostile_boxes_do_not_break_a_picture(frame: object) -> None:
    """What was fused need not match what is drawn on."""
    assert callable(frame)
    image = Image(np.zeros((20, 30, 3), np.uint8), 0)
    boxes = tuple(Detection("x", float("nan"), (v, -v, float("nan"), v)) for v in (float("inf"), 1e30, -1e30))
    depth = RegisteredDepth(np.full((5, 5), 3.0, np.float32), 25)
    report = build([frame(0, samples={CAMERA: image}, registered=depth, detections=boxes)], [])

    assert len(report.pictures) == 1


def test_the_console_table_says_the_same(report: Report) -> None:
    """Four rows, and the headline in words."""
    from rich.console import Console

    console = Console(width=120, no_color=True)
    with console.capture() as captured:
        console.print(attack_table(report))

    shown = captured.get()
    assert shown.count("yes") == 4
    assert "camera-blinding" in shown
    assert summary_lines(report)[0] == "4 of 4 attacks detected, 4 with the right sensor named"


@given(st.lists(st.none() | st.floats(0, 100), max_size=300), st.integers(4, 50))
def test_thinning_keeps_the_peak_and_the_limit(values: list[float | None], limit: int) -> None:
    """A plot may lose points, never the peak, and never that the check was blind."""
    kept = thin_out(values, limit)

    assert len(kept) <= limit + 2
    assert kept == sorted(set(kept))
    seen = [v for v in values if v is not None]
    if seen:
        assert max(seen) in [values[i] for i in kept]
    assert (None in values) == (None in [values[i] for i in kept])


@given(st.floats(1e-6, 1e9), st.integers(1, 20))
def test_axis_steps_are_one_two_or_five(span: float, wanted: int) -> None:
    """And never more than about as many as were asked for."""
    step = nice_step(span, wanted)

    assert span / step <= wanted * 1.01
    assert f"{step:.0e}"[0] in "125"


def test_numbers_are_short_and_never_minus_zero() -> None:
    """Equal drawings, equal bytes."""
    assert [number(v) for v in (0.0, -0.001, 1.0, 1.234, 100.0, -2.5)] == ["0", "0", "1", "1.23", "100", "-2.5"]
