"""The gate's answer on an alarm: who votes, what is doubted, and what never changes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edgeguard.detect.answers import ClassAnswers
from edgeguard.detect.calibration import InputsSection, fit_inputs
from edgeguard.detect.chroma import chroma_features
from edgeguard.detect.gate import GatedAnswer, InputGate, mirrored
from edgeguard.detect.vote import median_log_odds

CHAINS = "0" * 64


def camera_frame(seed: int) -> np.ndarray:
    """A picture as a camera makes it: full resolution in luma, half of it in chroma."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 215, (3, 4, 3)).astype(np.uint8)
    frame = cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    frame += rng.normal(0, 3, (96, 128, 1))
    return cv2.imdecode(cv2.imencode(".jpg", np.clip(frame, 0, 255).astype(np.uint8))[1], 1)


def noisy(frame: np.ndarray) -> np.ndarray:
    """Signs of six levels on every value."""
    signs = np.random.default_rng(9).choice(np.array([-6, 6]), frame.shape)
    return np.clip(frame.astype(np.int64) + signs, 0, 255).astype(np.uint8)


def is_noisy(frame: np.ndarray) -> bool:
    """Whether the chroma of a frame is a camera's."""
    return bool(chroma_features(frame)[2] > 1.0)


def spread(*values: float) -> np.ndarray:
    """Probabilities."""
    return np.asarray(values) / sum(values)


def fooled(frame: np.ndarray) -> np.ndarray:
    """Class 0, and class 1 wherever it sees the noise; a little unsure about each frame, as models are."""
    doubt = 0.01 + 0.0001 * float(frame[0, 0, 0])
    return spread(doubt, 1.0, 0.01) if is_noisy(frame) else spread(1.0, doubt, 0.01)


def unsure(frame: np.ndarray) -> np.ndarray:
    """Leans to class 0, on noise a little to class 1."""
    lean = 0.0001 * float(frame[1, 1, 1])
    return spread(0.46, 0.5 + lean, 0.04) if is_noisy(frame) else spread(1.0, 0.02 + lean, 0.01)


def steadfast(frame: np.ndarray) -> np.ndarray:
    """Class 0 whatever is done to the frame."""
    return spread(1.0, 0.01 + 0.0001 * float(frame[2, 2, 2]), 0.01)


def gate(*members: object, mirror: bool = True, action: str = "restore") -> InputGate:
    """A gate of these models, calibrated on forty clean frames; restoration leaves the noise where it is."""
    named = [(f"m{number}", member) for number, member in enumerate(members)]
    section: InputsSection = fit_inputs(
        [camera_frame(s) for s in range(40)], named, lambda p: p, kind=ClassAnswers(), chains=CHAINS
    )
    return InputGate(
        named, section, kind=ClassAnswers(), restore=lambda pixels, key: (pixels, f"chain-{key}"), squeeze=lambda p: p,
        fresh_key=iter(range(1000)).__next__, chains=CHAINS, mirror=mirror, action=action,
    )  # fmt: skip


def test_what_was_put_there_is_doubted_when_picture_and_second_model_speak_against_it() -> None:
    """The plain median of the same answers still names the attacker's class."""
    found: GatedAnswer[np.ndarray] = gate(fooled, steadfast, unsure).judge(noisy(camera_frame(100)))
    assert found.alarm
    assert found.first is not None
    assert found.first.argmax() == 1
    answers = [spread(0.01, 1.0, 0.01)] * 3 + [spread(1.0, 0.01, 0.01)]
    assert median_log_odds(answers).argmax() == 1
    assert median_log_odds(answers, doubted=1, doubt=0.0).argmax() == 1
    assert found.answer is not None
    assert found.answer.argmax() == 0


def test_noise_alone_makes_no_right_answer_doubtful() -> None:
    """Both models agree in spite of it: the class stays, with the very probabilities of the vote."""
    found = gate(steadfast, steadfast).judge(noisy(camera_frame(101)))
    assert found.alarm
    assert found.answer is not None
    np.testing.assert_allclose(found.answer, median_log_odds(found.answers))


def test_left_and_right_are_exchanged_only_where_the_release_allows_it() -> None:
    """A model of arrows never sees a mirrored frame when the policy forbids it."""
    seen: list[np.ndarray] = []

    def watching(frame: np.ndarray) -> np.ndarray:
        seen.append(frame)
        return fooled(frame)

    attacked = noisy(camera_frame(102))
    for allowed in (True, False):
        guard = gate(watching, steadfast, mirror=allowed)
        seen.clear()
        assert guard.judge(attacked).alarm
        turned = sum(np.array_equal(frame, mirrored(attacked)) for frame in seen)
        assert turned == (2 if allowed else 0)


@pytest.mark.parametrize("suspect", [False, True])
def test_a_clean_frame_leaves_the_very_answer_unless_somebody_else_alarmed(suspect: bool) -> None:
    """Of forty new clean frames at most the stated share is touched; a query alarm touches the next one."""
    guard = gate(fooled, steadfast)
    results = [guard.judge(camera_frame(seed), suspect=suspect) for seed in range(200, 240)]
    touched = sum(found.restored for found in results)
    assert touched == 40 if suspect else touched <= 20  # the level is 25 %: 10 expected, 20 has p = 0.0006
    for found in results:
        assert suspect or found.restored or found.answer is found.first


def test_a_gate_that_refuses_asks_nobody_else() -> None:
    """No answer, no restored view, the evidence all the same."""
    found = gate(fooled, steadfast, action="refuse").judge(noisy(camera_frame(103)))
    assert found.refused
    assert found.chains == ()
    assert found.p_value <= 0.25
