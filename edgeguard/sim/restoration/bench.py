"""`edgeguard bench restoration`: rows of attacks, corruptions and clean frames, each with its interval and its twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeguard.errors import ConfigError
from edgeguard.restore.diagnosed import DiagnosedFrames
from edgeguard.restore.impulse import ImpulseMedian
from edgeguard.sim.attacks.corruptions import CORRUPTIONS, corrupt
from edgeguard.sim.restoration.attacked import RECIPES, attacked_set
from edgeguard.sim.restoration.measure import CrossFit, Judged, Share, alarm_share, right_share, separation
from edgeguard.sim.restoration.members import Member
from edgeguard.sim.restoration.pictures import Pictures
from edgeguard.sim.restoration.queries import Asking, ask_through_the_gate
from edgeguard.types import Image, Sample

MIN_ATTACKED: Final = 100  # with fewer the interval is wider than what it should tell apart
SEVERITY: Final = 3
Pixels = NDArray[np.uint8]
Step = Callable[[str], None]  # called with what has just gone one frame forward


def _silent(what: str) -> None:
    """Take a step and say nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result. twin: name of the adaptive row that stands beside an unaware one."""

    name: str
    knowledge: str
    right: Share
    undefended: Share
    alarms: Share
    auc: float | None = None
    twin: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "name": self.name,
            "knowledge": self.knowledge,
            "frames": self.right.trials,
            "right": self.right.value,
            "right_interval": list(self.right.interval),
            "undefended": self.undefended.value,
            "alarms": self.alarms.value,
            "alarms_interval": list(self.alarms.interval),
            "auc": self.auc,
            "twin": self.twin,
        }


@dataclass(frozen=True, slots=True)
class RestorationResult:
    """What the bench found. level: stated share of clean frames that alarm, the largest over the folds."""

    level: float
    photographs: int
    models: tuple[str, ...]
    rows: tuple[Row, ...]
    asking: Asking | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "schema": "edgeguard/bench-restoration/v1",
            "level": self.level,
            "photographs": self.photographs,
            "models": list(self.models),
            "rows": [row.to_json() for row in self.rows],
            "asking": None if self.asking is None else self.asking.to_json(),
        }


def run_bench(
    pictures: Pictures,
    members: Sequence[Member],
    *,
    attacks: Sequence[str],
    attacked_count: int,
    cache: Path,
    level: float | None = None,
    corruptions: bool = True,
    queries: int = 0,
    seed: int = 0,
    on_step: Step = _silent,
) -> RestorationResult:
    """Measure on the first photographs, in their drawn order, that the first model has right.

    queries: questions per photograph of an attacker who may only ask; 0 leaves him out.

    Raises:
        ConfigError: EG-C145: an attack is not known, or no photograph is classified right. What calibration raises.
    """
    unknown = [name for name in attacks if name not in RECIPES]
    if unknown:
        raise ConfigError(f"no attack is called {unknown[0]!r}", code="EG-C145", hint=f"known: {', '.join(RECIPES)}")
    fit = CrossFit(pictures, members, level=level, seed=seed, on_fold=partial(on_step, "calibrate"))
    clean = fit.judge(pictures.frames, range(len(pictures.names)), partial(on_step, "clean"))
    chosen = [row for row, judged in enumerate(clean) if judged.undefended][:attacked_count]
    if not chosen:
        raise ConfigError(
            "the first model classifies no photograph right", code="EG-C145", hint="check its .toml and --labels"
        )
    selected = [clean[row] for row in chosen]
    rows = [_row("clean", "-", selected, None), _row("clean, all", "-", clean, None)]
    for name in attacks:
        recipe = RECIPES[name]
        frames = attacked_set(
            recipe,
            pictures.only(chosen),
            members,
            cache=cache,
            seed=seed,
            on_frame=partial(on_step, name),
        )
        judged = fit.judge(frames, chosen)
        rows.append(_row(name, recipe.knowledge, judged, separation(selected, judged), recipe.twin))
    if corruptions:
        rows.append(_mended("clean, mended", pictures, range(len(pictures.names)), fit, members[0], None))
        corrupted = [_corrupted(number, pictures, chosen, fit, members[0], seed) for number in _each(on_step)]
        rows += [*corrupted, _mean(corrupted)]
    asking = None
    if queries:
        asking = ask_through_the_gate(
            pictures, chosen, fit, queries=queries, seed=seed, on_frame=partial(on_step, "questions")
        )
    return RestorationResult(
        max(section.level for section in fit.sections),
        len(pictures.names),
        tuple(member.name for member in members),
        tuple(rows),
        asking,
    )


def _row(name: str, knowledge: str, judged: Sequence[Judged], auc: float | None, twin: str = "") -> Row:
    undefended = Share(sum(one.undefended for one in judged), len(judged))
    return Row(name, knowledge, right_share(judged), undefended, alarm_share(judged), auc, twin)


def _each(on_step: Step) -> Iterator[int]:
    for number, name in enumerate(CORRUPTIONS):
        on_step(name)
        yield number


def _corrupted(number: int, pictures: Pictures, chosen: Sequence[int], fit: CrossFit, first: Member, seed: int) -> Row:
    """One natural corruption, untreated and with what the diagnosis chooses without being told which it is."""
    name = tuple(CORRUPTIONS)[number]

    def spoil(frame: Pixels, row: int) -> Pixels:
        return corrupt(name, frame, SEVERITY, np.random.default_rng([seed, 4, number, row]))

    return _mended(name, pictures, chosen, fit, first, spoil)


def _mended(
    name: str,
    pictures: Pictures,
    rows: Sequence[int],
    fit: CrossFit,
    first: Member,
    spoil: Callable[[Pixels, int], Pixels] | None,
) -> Row:
    """Frames through the restorers as a pipeline runs them, with limits fitted on other photographs."""
    impulses, before, after, touched = ImpulseMedian(), 0, 0, 0
    for row in rows:
        frame = pictures.frames[row] if spoil is None else spoil(pictures.frames[row], row)
        truth = int(pictures.labels[row])
        sample: Sample = Image(frame, 0)
        for restorer in (impulses, DiagnosedFrames(fit.limits(row))):
            sample, _ = restorer.apply(sample, 0)
        pixels = sample.pixels if isinstance(sample, Image) else frame
        right = int(first.classify(frame).argmax()) == truth
        before += right
        touched += pixels is not frame
        after += right if pixels is frame else int(first.classify(pixels).argmax()) == truth
    n = len(rows)
    return Row(name, "natural", Share(after, n), Share(before, n), Share(touched, n))


def _mean(rows: Sequence[Row]) -> Row:
    """All corruptions together: each has as many frames, so pooling them is their mean."""

    def pooled(shares: Sequence[Share]) -> Share:
        return Share(sum(share.hits for share in shares), sum(share.trials for share in shares))

    right, before, touched = ([getattr(row, name) for row in rows] for name in ("right", "undefended", "alarms"))
    return Row(f"mean of {len(rows)} corruptions", "natural", pooled(right), pooled(before), pooled(touched))
