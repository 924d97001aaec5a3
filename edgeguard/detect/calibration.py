"""What `edgeguard calibrate inputs` fits: the scores of the user's clean frames, and the level they support."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgeguard.detect.answers import AnswerKind
from edgeguard.detect.chroma import (
    TAUGHT_LEVELS,
    ChromaModel,
    chroma_features,
    left_out_scores,
    teach,
    with_random_signs,
)
from edgeguard.detect.conformal import Combined, Reference, lowest_level
from edgeguard.detect.patch import verify_patch
from edgeguard.errors import CalibrationError

SCHEMA = "edgeguard/inputs/v1"
MAX_FRAMES = 4096  # their scores are kept: a hundred kilobytes; more frames lower no level anybody states
MAX_MEMBERS = 8
FOLDS = 5
SCREEN_SHARE = 0.8  # of clean frames agree better than this: they are not asked about patches, which costs passes
PATCH_BUDGET = 0.2  # of the level: patches are one attack among several, and the score is a sharp one
SIGNS_SEED = 20_241_123  # of the random signs; any number does, a fixed one makes calibration repeatable

Pixels = NDArray[np.uint8]
T = TypeVar("T")
Score = Annotated[float, Meta(ge=-1e9, le=1e9)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
ScoreName = Literal["chroma", "disagreement", "patch"]


class InputsSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `inputs` of calibration.json. docs/formats/calibration.md.

    models: identifiers of the members in order, the one whose answers leave first. scores: one per clean frame, all
    of the same frames in the same order. screen_bit: disagreement above which places are covered in search of a patch.
    level: share of clean frames that alarm. limits: of the restorer `diagnosed` for this camera, by name; the room of
    restorers knows what they are.
    """

    schema: Literal["edgeguard/inputs/v1"]
    models: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_MEMBERS)]
    chains: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    level: Annotated[float, Meta(gt=0.0, le=1.0)]
    screen_bit: Annotated[float, Meta(ge=0.0, le=1.0)]
    chroma: ChromaModel
    limits: Annotated[dict[Name, Score], Meta(max_length=16)]
    scores: dict[ScoreName, Annotated[tuple[Score, ...], Meta(min_length=1, max_length=MAX_FRAMES)]]

    def __post_init__(self) -> None:
        if len({len(values) for values in self.scores.values()}) != 1 or "disagreement" not in self.scores:
            raise ValueError("the scores must be of the same frames, disagreement among them")

    @property
    def frames(self) -> int:
        """How many clean frames it rests on."""
        return len(self.scores["disagreement"])

    def held_out(self) -> tuple[int, int]:
        """Return how many of the later half of the frames would have alarmed on the earlier half alone, and how many
        there are. Raises CalibrationError EG-L020: the half is too few."""
        half = self.frames // 2
        level = max(self.level, lowest_level(half))
        early = msgspec.structs.replace(self, scores={name: values[:half] for name, values in self.scores.items()})
        combined, patch = early.combined(), early.patch()
        later = range(half, self.frames)
        rows = ({name: values[k] for name, values in self.scores.items()} for k in later)
        return sum(judged(combined, patch, row)[0] <= level for row in rows), len(later)

    def combined(self) -> Combined:
        """Return the references of chroma and disagreement. Raises CalibrationError EG-L020 for too few frames."""
        return Combined({name: np.asarray(values) for name, values in self.scores.items() if name != "patch"})

    def patch(self) -> Reference | None:
        """Return the reference of the patch score, None for one model. Raises as `combined`.

        It is not summed with the others: it is zero for most clean frames and large for some, which would raise the
        threshold for every attack that is no patch.
        """
        return Reference(self.scores["patch"]) if "patch" in self.scores else None


def judged(
    combined: Combined, patch: Reference | None, scores: Mapping[ScoreName, float]
) -> tuple[float, dict[str, float]]:
    """Return the p-value of a frame and that of each of its scores: chroma and disagreement together, the patch apart.

    Bonferroni with weights: the level is shared between two ways to alarm.
    """
    p_value, parts = combined.judge({str(name): score for name, score in scores.items() if name != "patch"})
    if patch is not None:
        parts["patch"] = patch.p_value(scores["patch"])
        p_value = min(1.0, p_value / (1.0 - PATCH_BUDGET), parts["patch"] / PATCH_BUDGET)
    return p_value, parts


def fit_inputs(
    frames: Iterable[Pixels],
    members: Sequence[tuple[str, Callable[[Pixels], T]]],
    squeeze: Callable[[Pixels], Pixels],
    *,
    kind: AnswerKind[T],
    chains: str,
    level: float | None = None,
    limits: Callable[[float], Mapping[str, float]] = lambda level: {},  # noqa: ARG005
    on_frame: Callable[[], None] | None = None,
) -> InputsSection:
    """Fit on clean, independent frames.

    Args:
        frames: (H, W, 3) uint8 BGR each, as the models will get them; at most 4,096 are used. Iterated twice, so that
            no more than one of them has to be in memory.
        members: identifier of each model and how it is asked, the one whose answers leave first.
        squeeze: stands in for a second model when there is one model only: its answer to the squeezed frame.
        kind: of the models' answers. chains: digest of the restoration chains that the gate uses.
        level: share of clean frames that may alarm; None takes the lowest that the frames support.
        limits: given the level, the limits of diagnosis for these frames; asked after the first pass over them.
        on_frame: called after each frame.

    Raises:
        CalibrationError: EG-L020: too few frames; EG-L024: the level is lower than the frames support.
        ConfigError: EG-C140: something is not a frame.
    """
    rng = np.random.default_rng(SIGNS_SEED)
    first = members[0][1]
    clean, disturbed, disagreement, answers = [], [], [], []
    for pixels in islice(frames, MAX_FRAMES):
        clean.append(chroma_features(pixels))
        disturbed.append(chroma_features(with_random_signs(pixels, TAUGHT_LEVELS, rng)))
        answer = first(pixels)
        second = members[1][1](pixels) if len(members) > 1 else first(squeeze(pixels))
        disagreement.append(kind.differ(answer, second))
        answers.append((answer, second))
        if on_frame is not None:
            on_frame()
    supported = lowest_level(len(clean))
    wanted = supported if level is None else level
    if wanted < supported:
        raise CalibrationError(
            f"{len(clean)} clean frames support a level of {supported:.2%} at the lowest, not {wanted:.2%}",
            code="EG-L024",
            hint=f"give {int(np.ceil(len(clean) * supported / wanted))} independent frames, or leave the level out",
        )
    features, signs = np.asarray(clean), np.asarray(disturbed)
    chroma = teach(features, signs)
    screen = float(np.quantile(disagreement, SCREEN_SHARE))
    columns: dict[ScoreName, tuple[float, ...]] = {
        "chroma": tuple(left_out_scores(features, signs, np.arange(len(clean)) % FOLDS).tolist()),
        "disagreement": tuple(disagreement),
    }
    if len(members) > 1:
        columns["patch"] = tuple(
            verify_patch(pixels, first, answer, second, differ=kind.differ, min_disagreement_bit=screen).score
            for pixels, (answer, second) in zip(frames, answers, strict=False)
        )
    return InputsSection(
        schema="edgeguard/inputs/v1",
        models=tuple(name for name, _ in members),
        chains=chains,
        level=wanted,
        screen_bit=screen,
        chroma=chroma,
        limits=dict(limits(wanted)),
        scores=columns,
    )
