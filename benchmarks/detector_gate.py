"""The gate in front of an object detector: what an attack that hides objects leaves, without and with it.

    python -m benchmarks detector_gate [--calibrate 200] [--attacked 60]

Frames are of simulated streets, one of each, so that they are independent; calibration and test share no street. The
detector is the one that is shipped. Needs torch (extra `eval`). The second look is the squeezed frame: there is one
model. The last row's attacker knows the squeezer and goes through it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgeguard.detect.answers import BoxAnswers, Boxes
from edgeguard.detect.calibration import fit_inputs
from edgeguard.detect.gate import GatedAnswer, InputGate
from edgeguard.infer.adapter import ImageModel
from edgeguard.restore.image_chain import ChainChoice
from edgeguard.sim.attacks.goals import Objects
from edgeguard.sim.attacks.gradient import WhiteBox
from edgeguard.sim.attacks.perturb import attack_images
from edgeguard.sim.attacks.victims import Victim, open_victim
from edgeguard.sim.camera import render
from edgeguard.sim.detection.metrics import auroc, wilson
from edgeguard.sim.world import World

FIRST_STREET = 40_000  # no test and no training has seen these
Pixels = NDArray[np.uint8]


def frames(first: int, count: int, model: ImageModel) -> list[Pixels]:
    """One frame of each street, at a moment drawn from its number, where the detector finds something."""
    found: list[Pixels] = []
    for street in range(first, first + 10 * count):
        time_s = float(np.random.default_rng(street).uniform(1.0, 11.0))
        pixels = render(World(street, 12.0), time_s).pixels
        if model.detect_pixels(pixels):
            found.append(pixels)
        if len(found) == count:
            break
    return found


def kept(clean: Boxes, now: Boxes | None) -> tuple[int, int, int]:
    """How many boxes of the clean answer are still there, how many there were, and how many are new."""
    kind, same = BoxAnswers(), 0
    left = list(now or ())
    for box in clean:
        near = next((other for other in left if kind.differ((box,), (other,)) < 1.0), None)
        if near is not None:
            left.remove(near)
            same += 1
    return same, len(clean), len(left)


def row(name: str, model: ImageModel, clean: Sequence[Boxes], gate: InputGate[Boxes], test: Sequence[Pixels],
        quiet: NDArray[np.float64] | None) -> NDArray[np.float64]:  # fmt: skip
    """Print one line; return the suspicion of each frame."""
    judged: list[GatedAnswer[Boxes]] = [gate.judge(pixels) for pixels in test]
    bare = np.sum([kept(c, model.detect_pixels(p)) for c, p in zip(clean, test, strict=True)], axis=0)
    gated = np.sum([kept(c, j.answer) for c, j in zip(clean, judged, strict=True)], axis=0)
    alarms = sum(j.alarm for j in judged)
    suspicion = -np.log([j.p_value for j in judged])
    low, high = wilson(alarms, len(judged))
    apart = "" if quiet is None else f"  AUC {auroc(quiet, suspicion):.3f}"
    print(
        f"{name:28s} objects kept {bare[0] / bare[1]:5.2f} bare, {gated[0] / gated[1]:5.2f} gated;"
        f" new {bare[2]:4d} bare, {gated[2]:4d} gated; alarms {alarms / len(judged):.2f} ({low:.2f}-{high:.2f}){apart}"
    )
    return suspicion


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks detector_gate")
    parser.add_argument("--calibrate", type=int, default=200)
    parser.add_argument("--attacked", type=int, default=60)
    given = parser.parse_args(arguments)
    victim: Victim = open_victim("obstacle_detector")
    model = ImageModel(victim.session, victim.io, model_id="obstacle-detector")
    choice, kind = ChainChoice(), BoxAnswers()
    members = [("obstacle-detector", model.detect_pixels)]
    calibration = fit_inputs(
        frames(FIRST_STREET, given.calibrate, model), members, choice.squeeze, kind=kind, chains=choice.digest
    )
    keys = iter(range(10**9))
    gate = InputGate(
        members, calibration, kind=kind, squeeze=choice.squeeze, fresh_key=lambda: next(keys), chains=choice.digest,
        restore=choice.restore,
    )  # fmt: skip
    test = frames(FIRST_STREET + 5_000, given.attacked, model)
    clean = [model.detect_pixels(pixels) for pixels in test]
    print(
        f"{calibration.frames} frames calibrated, level {calibration.level:.2%}; {len(test)} frames, shipped detector"
    )
    quiet = row("clean", model, clean, gate, test, None)
    none = np.zeros(1, dtype=np.intp)
    recipes = {
        "hide 2/255, unaware": WhiteBox(2, steps=10),
        "hide 4/255, unaware": WhiteBox(4, steps=10),
        "hide 4/255, through squeezer": WhiteBox(4, steps=10, defence=lambda pixels, seed: choice.squeeze(pixels)),
    }
    for name, how in recipes.items():
        goal = Objects("hide", victim.io.decoder.score_threshold)
        made = [attack_images(p[None], none, victim, how=how, goal=goal, seed=k).images[0] for k, p in enumerate(test)]
        row(name, model, clean, gate, made, quiet)
