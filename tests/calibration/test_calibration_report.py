"""The page of a calibration: complete, self-contained, and safe with hostile names."""

from __future__ import annotations

import math
from html.parser import HTMLParser

from edgeguard.report.calibration import MAX_POINTS, MonitorScores, render_calibration

HOSTILE = "<script>alert(1)</script>\"'&\x00"
VOID = {"meta", "br"}


class Balanced(HTMLParser):
    """Collects tags, and holds that each that opens also closes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page(name: str = "X8.speed", samples: int = 50) -> str:
    """A page with one monitor."""
    times = [0.1 * i for i in range(samples)]
    scores = [math.sin(i) for i in range(samples)]
    plot = MonitorScores(name, "m/s", times, scores, 3.0, (-2.0, 2.0), (-1.0, 1.0))
    bare = MonitorScores("bare", "", [0.0], [1.0], math.inf, (0.0, 1.0), None)
    return render_calibration(f"of {name}", {"held out": name}, [("monitor", "sigma"), (name, "0.1")], [plot, bare])


def test_names_of_a_recording_cannot_put_anything_into_the_page() -> None:
    """Title, facts, table and plots escape them; nothing may be loaded or run."""
    made = page(HOSTILE)
    assert "<script" not in made
    assert "default-src 'none'" in made
    assert "http-equiv" in made


def test_the_page_is_well_formed_and_shows_every_monitor() -> None:
    """Every tag closes; a plot each, with both bands and the line where the held-out part begins."""
    parser = Balanced()
    made = page()
    parser.feed(made)
    assert parser.open == []
    assert parser.seen.count("svg") == 2
    assert made.count('class="b-prior"') == 2
    assert made.count('class="b-fit"') == 1
    assert made.count('class="limit"') == 1


def test_a_long_recording_does_not_make_a_long_page() -> None:
    """Dots are thinned out to about what can be seen."""
    assert page(samples=100_000).count("<circle") <= 2 * MAX_POINTS
