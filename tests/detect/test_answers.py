"""Answers that are boxes: how far two sets differ, what several say together, and mirrors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.detect.answers import BoxAnswers, Boxes
from edgeguard.types import Detection

KIND = BoxAnswers()
WIDTH_PX = 640


@st.composite
def boxes(draw: st.DrawFn) -> Boxes:
    """Up to six boxes in a frame of 640 pixels."""
    found = []
    for _ in range(draw(st.integers(0, 6))):
        left, top = draw(st.integers(0, 500)), draw(st.integers(0, 300))
        right, bottom = left + draw(st.integers(1, 140)), top + draw(st.integers(1, 180))
        score = draw(st.floats(0.05, 1.0))
        found.append(Detection(draw(st.sampled_from(["car", "person"])), score, (left, top, right, bottom)))
    return tuple(found)


def car(left: float, score: float = 0.9, label: str = "car") -> Detection:
    """A box of 100 x 60 pixels."""
    return Detection(label, score, (left, 100.0, left + 100.0, 160.0))


@given(boxes(), boxes())
def test_a_difference_is_between_nothing_and_everything(one: Boxes, other: Boxes) -> None:
    """From 0 to 1, and nothing against nothing is no difference."""
    assert -1e-9 <= KIND.differ(one, other) <= 1.0 + 1e-9
    assert KIND.differ((), ()) == 0.0


@given(st.integers(0, 4))
def test_equal_answers_do_not_differ_and_disjoint_ones_wholly(count: int) -> None:
    """A hidden object, an invented one and a renamed one all count."""
    street = tuple(car(120.0 * k) for k in range(count))
    assert KIND.differ(street, street) == pytest.approx(0.0, abs=1e-12)
    assert KIND.differ((*street, car(500.0)), street) == pytest.approx(1.0 / (2 * count + 1))
    assert KIND.differ((car(0.0),), (car(0.0, label="person"),)) == 1.0
    assert KIND.differ((car(0.0),), (car(400.0),)) == 1.0


@given(boxes())
def test_a_mirror_of_a_mirror_is_the_frame(found: Boxes) -> None:
    """To the pixel."""
    assert KIND.turned(KIND.turned(found, WIDTH_PX), WIDTH_PX) == found


@given(st.lists(boxes(), min_size=1, max_size=5))
def test_what_leaves_was_seen_by_more_than_half(answers: list[Boxes]) -> None:
    """No box is invented by the vote, none is surer than the surest who saw it."""
    for box in KIND.merge(answers, answers[0], 3.0):
        supporters = [a for a in answers if any(b.label == box.label and b.score >= box.score - 1e-12 for b in a)]
        assert 2 * sum(any(b.label == box.label for b in a) for a in answers) > len(answers)
        assert supporters


def test_one_liar_neither_hides_nor_invents() -> None:
    """Two of three see one car, slightly apart; the third sees a person elsewhere."""
    (found,) = KIND.merge([(car(100.0, 0.8),), (car(104.0, 0.6),), (car(400.0, 0.99, "person"),)], (), 0.0)
    assert found.label == "car"
    assert found.score == pytest.approx(0.6)
    assert found.box_xyxy == (102.0, 100.0, 202.0, 160.0)
