"""The bench of restoration: pictures read safely, gates that have not seen what they judge, rows that add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeguard.errors import ConfigError
from edgeguard.sim.restoration.measure import CrossFit, Share, alarm_share, right_share, separation
from edgeguard.sim.restoration.members import open_member
from edgeguard.sim.restoration.pictures import Pictures, read_pictures
from edgeguard.sim.restoration.queries import ask_through_the_gate


def photograph(kind: int, seed: int) -> np.ndarray:
    """A camera-like frame that is bluish for class 0 and reddish for class 1."""
    rng = np.random.default_rng(seed)
    frame = cv2.resize(rng.integers(60, 190, (4, 4, 3)).astype(np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
    frame = np.clip(frame.astype(float) + (np.array([40, 0, -40]) if kind == 0 else np.array([-40, 0, 40])), 0, 255)
    done, coded = cv2.imencode(".jpg", (frame + rng.normal(0, 2, (64, 64, 1))).clip(0, 255).astype(np.uint8))
    assert done
    return cv2.imdecode(coded, cv2.IMREAD_COLOR)


class Colour:
    """A member that looks at the mean colour; `fooled_by` makes the first one fall for a fine pattern."""

    def __init__(self, name: str, fooled_by: Callable[[np.ndarray], bool] | None = None) -> None:
        self.name, self._fooled = name, fooled_by

    def classify(self, pixels: np.ndarray) -> np.ndarray:
        """Return the two probabilities."""
        blue, _, red = pixels.reshape(-1, 3).mean(axis=0)
        p = 1.0 / (1.0 + np.exp(-(red - blue) / 10.0))
        answer = np.array([1.0 - p, p])
        return answer[::-1].copy() if self._fooled and self._fooled(pixels) else answer


def rough(pixels: np.ndarray) -> bool:
    """Whether neighbouring columns differ as they never do in a photograph."""
    return bool(np.abs(np.diff(pixels[:, :, 1].astype(float), axis=1)).mean() > 8.0)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Sixty photographs of two classes."""
    frames = np.stack([photograph(k % 2, k) for k in range(60)])
    return Pictures(tuple(f"{k}.jpg" for k in range(60)), frames, np.arange(60) % 2)


def test_the_gate_brings_back_what_an_attack_on_one_model_took(pictures: Pictures) -> None:
    """The first model alone is wrong on every attacked frame; behind the gate most are right, and clean ones stay."""
    members = [Colour("first", rough), Colour("second"), Colour("third")]
    fit = CrossFit(pictures, members)  # type: ignore[arg-type]
    clean = fit.judge(pictures.frames, range(60))
    pattern = np.where(np.arange(64) % 2, 6, -6)[None, :, None]
    attacked = np.clip(pictures.frames.astype(int) + pattern, 0, 255).astype(np.uint8)
    judged = fit.judge(attacked, range(60))
    assert right_share(clean).value > 0.95
    assert not any(one.undefended for one in judged)
    assert right_share(judged).value > 0.8
    assert separation(clean, judged) > 0.95
    assert alarm_share(clean).value <= max(section.level for section in fit.sections) + 0.12


def test_no_gate_has_seen_the_photograph_it_judges(pictures: Pictures) -> None:
    """Folds part the photographs; every gate rests on the others alone, at the level that they support."""
    fit = CrossFit(pictures, [Colour("first"), Colour("second")], folds=4)  # type: ignore[list-item]
    assert sorted(np.bincount(fit.fold)) == [15, 15, 15, 15]
    assert {section.frames for section in fit.sections} == {45}
    assert all(section.level == pytest.approx(10 / 45) for section in fit.sections)


def test_pictures_are_read_in_a_drawn_order_that_repeats(tmp_path: Path) -> None:
    """Any of the label columns; small and wide pictures become squares."""
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), cv2.resize(photograph(0, number), (90 + number, 40)))
    labels = tmp_path / "labels.csv"
    labels.write_text("file,imagenet_class,name\n" + "".join(f"{k}.png,{k * 10},x\n" for k in range(4)))
    first, again = (read_pictures(tmp_path, labels, 32, seed=5) for _ in range(2))
    assert first.names == again.names
    assert first.frames.shape == (4, 32, 32, 3)
    assert [int(name[0]) * 10 for name in first.names] == list(first.labels)
    assert first.digest == again.digest != first.only([0, 1]).digest
    assert len(read_pictures(tmp_path, labels, 32, limit=2).names) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file,name\na.png,x\n",
        "file,label\n../../etc/passwd,1\n",
        "file,label\n/etc/passwd,1\n",
        "file,label\na.png,one\n",
        "file,label\nmissing.png,1\n",
        "file,label\n",
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, text: str) -> None:
    """Missing columns, numbers and files, and names that lead out of the folder."""
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_pictures(tmp_path, labels, 32)
    assert refused.value.code == "EG-C143"


def test_a_model_needs_a_description_of_a_classifier(tmp_path: Path) -> None:
    """None beside it, or one of a detector."""
    model = tmp_path / "m.onnx"
    model.write_bytes(b"x")
    with pytest.raises(ConfigError, match="no description"):
        open_member(model)
    (tmp_path / "m.toml").write_text(
        '[input]\nname="i"\nlayout="NCHW"\nsize_px=[8,8]\ncolor="RGB"\nscale=1.0\nmean=[0.0,0.0,0.0]\nstd=[1.0,1.0,1.0]\n'
        'resize="stretch"\n[decoder]\nkind="raw"\n'
    )
    with pytest.raises(ConfigError, match="classifier"):
        open_member(model)


def test_shares_carry_their_interval() -> None:
    """Wilson's."""
    assert Share(9, 10).value == pytest.approx(0.9)
    assert Share(9, 10).interval == pytest.approx((0.596, 0.982), abs=1e-3)


def test_who_may_only_ask_is_noticed_and_gets_less_from_the_gate_than_from_the_model(pictures: Pictures) -> None:
    """The bare model falls for stripes at once; behind the gate the questions are counted and answers restored."""

    def striped(pixels: np.ndarray) -> bool:
        return bool(np.abs(np.diff(pixels.astype(float).mean(axis=0), axis=0)).mean() > 7.0)

    fit = CrossFit(pictures, [Colour("first", striped), Colour("second"), Colour("third")])  # type: ignore[list-item]
    found = ask_through_the_gate(pictures, range(12), fit, queries=30)
    assert found.undefended.value <= 0.2
    assert found.right.value >= 0.8
    assert found.to_json()["queries"] == 30
    if found.noticed.hits:
        assert found.questions is not None
        assert found.questions <= 25
