"""Adversarial images keep their budget to the level and the query, and do what their strength says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeguard.bundle.manifest import DecoderSpec, InputSpec, ModelIo
from edgeguard.errors import EnvironmentMissingError, ScenarioError
from edgeguard.sim.attacks.adversarial import CameraLabels, CameraPgd, CameraSquare
from edgeguard.sim.attacks.base import Injector
from edgeguard.sim.attacks.goals import Misclassify, Objects, as_scores
from edgeguard.sim.attacks.gradient import WhiteBox
from edgeguard.sim.attacks.perturb import attack_images, judge_images
from edgeguard.sim.attacks.rays import NOT_REACHED, rays_attack
from edgeguard.sim.attacks.square import square_attack
from edgeguard.sim.attacks.victims import Victim, open_victim
from edgeguard.sim.camera import render
from edgeguard.sim.world import World
from edgeguard.types import Image

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

NEEDS_TORCH = pytest.mark.skipif(torch is None, reason="white-box attacks need the extra eval: torch is not installed")
SIDE = 32


def tiny_model(seed: int = 0) -> bytes:
    """A classifier of four classes: two convolutions, a mean, a matrix; random weights, smooth and not linear."""
    onnx = pytest.importorskip("onnx", reason="onnx writes the small models of these tests")
    rng, helper = np.random.default_rng(seed), onnx.helper
    held = {
        "w1": rng.normal(0, 0.4, (8, 3, 5, 5)),
        "w2": rng.normal(0, 0.25, (12, 8, 3, 3)),
        "w3": rng.normal(0, 1, (12, 4)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], strides=[2, 2]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], strides=[2, 2]), helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]), helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w3"], ["logits"]),
    ]  # fmt: skip
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("image", kind, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", kind, ["N", 4])],
        [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in held.items()],
    )  # fmt: skip
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


SPEC = InputSpec("image", "NCHW", (SIDE, SIDE), "RGB", 1 / 255, (0.5,) * 3, (0.25,) * 3, "stretch")


@pytest.fixture(scope="module")
def victim() -> Victim:
    """The small model."""
    return Victim(tiny_model(), ModelIo(SPEC, DecoderSpec("raw")), name="tiny")


@pytest.fixture(scope="module")
def images() -> np.ndarray[Any, Any]:
    """Twelve images of blocks with noise, (12, 32, 32, 3)."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(20, 236, (12, 4, 4, 3)).astype(np.uint8)
    blocks = coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.int16)
    return np.clip(blocks + rng.normal(0, 6, blocks.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def labels(victim: Victim, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the model says of them: all are right, so what is left after an attack is its doing."""
    return np.asarray(as_scores(victim.run(images)).argmax(axis=1))


def far(attacked: np.ndarray[Any, Any], images: np.ndarray[Any, Any]) -> int:
    """Return the largest change of a channel, in levels."""
    return int(np.abs(attacked.astype(int) - images.astype(int)).max())


# ---- the query attack: without torch -------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [1, 7, 64])
def test_a_query_attack_keeps_its_budget_exactly(
    eps: int, victim: Victim, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """No channel beyond eps, no image asked about more often than allowed, and every question is counted."""
    before = victim.asked
    out = attack_images(images, labels, victim, method="square", how=WhiteBox(eps), queries=23)
    assert out.images.dtype == np.uint8
    assert 0 < far(out.images, images) <= eps
    assert out.queries.min() >= 1
    assert out.queries.max() <= 23
    assert victim.asked - before == out.queries.sum() + len(images)
    assert (out.queries[~out.fooled] == 23).all()


def test_a_query_attack_repeats_with_its_seed_and_not_with_the_batch(
    victim: Victim, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """What comes of the first image is the same alone and among others; another seed searches elsewhere."""
    first, again, other = (
        attack_images(images[:3], labels[:3], victim, method="square", how=WhiteBox(2), queries=20, seed=s)
        for s in (1, 1, 2)
    )
    alone = attack_images(images[:1], labels[:1], victim, method="square", how=WhiteBox(2), queries=20, seed=1)
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.images[:1], alone.images)
    assert not np.array_equal(first.images, other.images)


def test_more_queries_never_leave_a_worse_image(
    victim: Victim, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """The search keeps only what helps: no score above the stripes' it began with, and 300 questions fool more."""
    scores = []
    for queries in (1, 300):
        rng = np.random.default_rng(0)
        found, used = square_attack([victim], Misclassify(), images, labels, eps=16, queries=queries, rng=rng)
        assert used.max() <= queries
        scores.append(judge_images(found, labels, [victim]))
    assert (scores[1] <= scores[0] + 1e-6).all()
    assert (scores[1] < 0).sum() > (scores[0] < 0).sum()


def test_a_targeted_goal_is_reached_only_at_its_target(victim: Victim, images: np.ndarray[Any, Any]) -> None:
    """The score is negative exactly where the model answers the target."""
    answers = as_scores(victim.run(images)).argmax(axis=1)
    for target in range(4):
        score = judge_images(images, np.full(12, target), [victim], goal=Misclassify(targeted=True))
        assert ((score < 0) == (answers == target)).all()


def test_a_defence_with_fresh_randomness_stands_between(
    victim: Victim, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """Each question meets the defence with another seed, and the last one with one that the search has not seen."""
    seeds: list[int] = []

    def grey(image: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
        seeds.append(seed)
        return np.full_like(image, 128)

    out = attack_images(images[:2], labels[:2], victim, method="square", how=WhiteBox(8, defence=grey), queries=5)
    assert len(set(seeds)) == len(seeds) == int(out.queries.sum()) + 2
    assert out.fooled.tolist() == (judge_images(np.full_like(images[:2], 128), labels[:2], [victim]) < 0).tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"images": np.zeros((1, 8, 8), np.uint8)}, {"images": np.zeros((1, 8, 8, 3), np.float32)}, {"labels": [0, 1]},
        {"queries": 0}, {"method": "guess"},
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(change: dict[str, Any], victim: Victim) -> None:
    """With the library's own error."""
    given: dict[str, Any] = {"images": np.zeros((1, 8, 8, 3), np.uint8), "labels": [0], "method": "square", **change}
    with pytest.raises(ScenarioError) as caught:
        attack_images(given.pop("images"), given.pop("labels"), victim, **given)
    assert caught.value.code == "EG-X016"


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    """Missing, no ONNX, and a description that does not fit."""
    (tmp_path / "bad.onnx").write_bytes(b"\x00\xffnothing")
    for name in ("missing.onnx", "bad.onnx"):
        with pytest.raises(ScenarioError) as caught:
            open_victim(tmp_path / name)
        assert caught.value.code == "EG-X018"
    (tmp_path / "good.onnx").write_bytes(tiny_model())
    assert open_victim(tmp_path / "good.onnx").spec.size_px == (SIDE, SIDE)
    (tmp_path / "good.toml").write_text("[input]\nname = 3\n")
    with pytest.raises(ScenarioError) as caught:
        open_victim(tmp_path / "good.onnx")
    assert caught.value.code == "EG-X018"


@pytest.fixture(scope="module")
def frame() -> Image:
    """A frame of the street in which the detector finds something."""
    return render(World(8, 12.0), 1.5)


def test_asking_lowers_what_the_detector_finds_in_a_frame(frame: Image) -> None:
    """Within the budget, on the frame as the camera gives it, twice the resolution of the model's input."""
    attack = CameraSquare(start_s=1.0, end_s=2.0, eps=16, queries=40)
    injector = Injector([attack], 3)
    changed = injector.apply(frame)
    assert isinstance(changed, Image)
    assert 0 < far(changed.pixels, frame.pixels) <= 16
    goal, victim = Objects("hide", 0.6), open_victim("obstacle_detector")
    none = np.zeros(1, dtype=np.intp)
    assert goal.score(victim.run(changed.pixels[None]), none)[0] < goal.score(victim.run(frame.pixels[None]), none)[0]


# ---- by labels alone -------------------------------------------------------------------------------------------------


class Counting:
    """Answers with a score of one bit: whether the mean brightness has moved by more than so many levels."""

    def __init__(self, clean: np.ndarray[Any, Any], levels: float) -> None:
        self.clean, self.levels, self.asked = clean.astype(float), levels, 0

    def run(self, images: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
        self.asked += len(images)
        moved = np.abs(images.astype(float).mean(axis=(1, 2, 3)) - self.clean.mean()) > self.levels
        return (np.stack([~moved, moved], axis=1).astype(np.float32),)


def test_a_label_attack_finds_the_nearest_image_along_the_right_direction() -> None:
    """Brightness must move by 20.5 levels: all channels up by 21 does it, and nothing nearer can."""
    image = np.full((1, 8, 8, 3), 100, np.uint8)
    oracle, rng = Counting(image, 20.5), np.random.default_rng(0)
    near = rays_attack([oracle], Misclassify(), image, np.zeros(1, np.intp), queries=60, rng=rng)
    assert near.radius.tolist() == [21]
    assert oracle.asked == near.queries[0] <= 60
    assert np.abs(near.images.astype(int) - image).max() == 21


def test_a_label_attack_flips_what_pulls_the_wrong_way() -> None:
    """A model that compares two halves: all up never reaches the goal, one half flipped does at 11 levels."""

    class Halves(Counting):
        def run(self, images: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
            self.asked += len(images)
            each = images.astype(float)[..., 0]
            apart = np.abs(each[:, :4].mean(axis=(1, 2)) - each[:, 4:].mean(axis=(1, 2))) > 21.5
            return (np.stack([~apart, apart], axis=1).astype(np.float32),)

    image = np.full((1, 8, 8, 3), 100, np.uint8)
    rng = np.random.default_rng(0)
    near = rays_attack([Halves(image, 0)], Misclassify(), image, np.zeros(1, np.intp), queries=200, rng=rng)
    assert 11 <= near.radius[0] <= 13


def test_a_label_attack_that_reaches_nothing_says_so() -> None:
    """An oracle that never gives in: the image comes back as it was, the budget is spent, the radius is none."""
    image = np.full((1, 8, 8, 3), 100, np.uint8)
    oracle, rng = Counting(image, 300.0), np.random.default_rng(0)
    near = rays_attack([oracle], Misclassify(), image, np.zeros(1, np.intp), queries=37, rng=rng)
    assert near.radius.tolist() == [NOT_REACHED]
    assert near.queries.tolist() == [37] == [oracle.asked]
    assert np.array_equal(near.images, image)


def test_a_label_attack_needs_no_scores_and_more_questions_bring_it_nearer(
    victim: Victim, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """On the small model: each image it returns reaches the goal, and the median distance falls with the budget."""
    medians = []
    for queries in (20, 400):
        rng = np.random.default_rng(1)
        near = rays_attack([victim], Misclassify(), images, labels, queries=queries, rng=rng)
        done = near.radius < NOT_REACHED
        assert near.queries.max() <= queries
        assert (judge_images(near.images[done], labels[done], [victim]) < 0).all()
        far_each = np.abs(near.images.astype(int) - images).reshape(len(images), -1).max(axis=1)
        assert (far_each[done] <= near.radius[done]).all()
        medians.append(float(np.median(near.radius)))
    assert medians[1] < medians[0]


def test_a_label_attack_keeps_its_budget_and_leaves_what_is_out_of_reach(
    victim: Victim, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """As a method on batches: fooled within eps, or the image itself; every question counted; repeats with its seed."""
    before = victim.asked
    out, again = (
        attack_images(images, labels, victim, method="rays", how=WhiteBox(12), queries=150, seed=3) for _ in range(2)
    )
    assert victim.asked - before == 2 * (out.queries.sum() + len(images))
    assert np.array_equal(out.images, again.images)
    assert far(out.images, images) <= 12
    assert out.fooled.sum() > 0
    assert np.array_equal(out.images[~out.fooled], images[~out.fooled])


def test_labels_alone_hide_what_the_detector_finds(frame: Image) -> None:
    """On a frame of the street, within the budget or not at all."""
    attack = CameraLabels(start_s=1.0, end_s=2.0, eps=255, queries=60)
    changed = Injector([attack], 3).apply(frame)
    assert isinstance(changed, Image)
    goal, victim, none = Objects("hide", 0.6), open_victim("obstacle_detector"), np.zeros(1, dtype=np.intp)
    assert goal.score(victim.run(frame.pixels[None]), none)[0] > 0
    assert goal.score(victim.run(changed.pixels[None]), none)[0] < 0
    tight = Injector([CameraLabels(start_s=1.0, end_s=2.0, eps=1, queries=20)], 3).apply(frame)
    assert isinstance(tight, Image)
    assert np.array_equal(tight.pixels, frame.pixels)


def test_a_goal_that_a_model_does_not_know_is_refused(frame: Image) -> None:
    """A detector cannot be made to misclassify."""
    with pytest.raises(ScenarioError) as caught:
        Injector([CameraSquare(start_s=1.0, end_s=2.0, want="misclassify")], 3).apply(frame)
    assert caught.value.code == "EG-X018"


def test_without_torch_a_white_box_attack_says_what_to_install(
    victim: Victim, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a missing part of the environment, with the extra's name."""
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(EnvironmentMissingError) as caught:
        attack_images(images[:1], labels[:1], victim)
    assert caught.value.code == "EG-E055"
    assert "edgeguard[eval]" in caught.value.hint


# ---- by gradients ----------------------------------------------------------------------------------------------------


@NEEDS_TORCH
def test_accuracy_falls_with_eps_and_is_gone_at_64(
    victim: Victim, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """Monotonically; every image within its eps after rounding; the last one leaves nothing."""
    left = []
    for eps in (0, 1, 2, 4, 16, 64):
        out = attack_images(images, labels, victim, how=WhiteBox(eps, steps=8))
        assert far(out.images, images) <= eps
        left.append(float((~out.fooled).mean()))
    assert left[0] == 1.0
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0.0


@NEEDS_TORCH
def test_gradients_are_no_weaker_than_questions_and_many_steps_than_one(
    victim: Victim, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """At every eps: PGD fools at least as many images as FGSM, and as the query attack with ten times the effort."""
    for eps in (1, 2, 4):
        pgd = attack_images(images, labels, victim, how=WhiteBox(eps, steps=10, restarts=2)).fooled.sum()
        fgsm = attack_images(images, labels, victim, method="fgsm", how=WhiteBox(eps)).fooled.sum()
        square = attack_images(images, labels, victim, method="square", how=WhiteBox(eps), queries=100).fooled.sum()
        assert pgd >= fgsm
        assert pgd >= square


@NEEDS_TORCH
def test_means_keep_to_their_shape(victim: Victim, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    """Luma alone changes all channels alike, blocks change alike, a patch leaves the rest as it was."""
    luma = attack_images(images, labels, victim, how=WhiteBox(6, steps=3, luma_only=True)).images
    delta = luma.astype(int) - images
    assert np.array_equal(delta.min(axis=3), delta.max(axis=3))
    assert 0 < np.abs(delta).max() <= 6
    middle = np.clip(images, 20, 235)  # no clipping, so that a block's change shows as it is
    blocks = attack_images(middle, labels, victim, how=WhiteBox(6, steps=3, block_px=8)).images.astype(int) - middle
    assert np.array_equal(blocks, blocks[:, ::8, ::8].repeat(8, axis=1).repeat(8, axis=2))
    patched = attack_images(images, labels, victim, how=WhiteBox(steps=3, patch=(4, 6, 12, 10))).images
    outside = np.ones((SIDE, SIDE), bool)
    outside[6:10, 4:12] = False
    assert np.array_equal(patched[:, outside], images[:, outside])
    assert not np.array_equal(patched, images)


@NEEDS_TORCH
def test_an_attacker_who_knows_the_defence_does_better_than_one_who_does_not(
    victim: Victim, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]
) -> None:
    """BPDA through fewer levels, at random offsets (EOT): more fall than with images made without knowing of it."""

    def levels(image: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
        shift = seed % 8
        return np.asarray((image.astype(np.int16) + shift) // 32 * 32 + 16 - shift).clip(0, 255).astype(np.uint8)

    still = judge_images(images, labels, [victim], defence=levels) > 0
    unaware = attack_images(images, labels, victim, how=WhiteBox(4))
    aware = attack_images(images, labels, victim, how=WhiteBox(4, steps=20, defence=levels, draws=3))
    through = judge_images(unaware.images, labels, [victim], defence=levels) < 0
    assert still.sum() >= 6
    assert aware.fooled[still].sum() >= through[still].sum()
    assert aware.fooled[still].sum() > 0


@NEEDS_TORCH
def test_several_models_fall_together_or_do_not_count(images: np.ndarray[Any, Any], victim: Victim) -> None:
    """The joint attack is judged by the model that is fooled least, and the penalty weighs in."""
    other = Victim(tiny_model(3), ModelIo(SPEC, DecoderSpec("raw")), name="other")
    truth = as_scores(victim.run(images)).argmax(axis=1)
    same = as_scores(other.run(images)).argmax(axis=1) == truth
    out = attack_images(images, truth, [victim, other], how=WhiteBox(24, steps=10))
    one_by_one = [judge_images(out.images, truth, [v]) for v in (victim, other)]
    assert np.allclose(out.score, np.max(one_by_one, axis=0))
    assert same.sum() == 0 or out.fooled[same].mean() >= 0.5
    heavy = WhiteBox(8, steps=6, penalty=lambda pixels: 1e6 * pixels.mean(dim=(1, 2, 3)))
    bright = attack_images(images, truth, victim, how=heavy).images
    assert bright.mean() > attack_images(images, truth, victim, how=WhiteBox(8, steps=6)).images.mean()


@NEEDS_TORCH
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "shorter-side-crop"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (20, 24)])
def test_the_differentiable_input_is_the_devices_own(resize: Any, size: tuple[int, int]) -> None:
    """Up to one level of rounding, for every way of resizing, shrinking and growing."""
    from edgeguard.infer.preprocess import image_tensor
    from edgeguard.sim.attacks.torch_input import TorchInput

    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
    pixels = np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))
    spec = InputSpec("image", "NCHW", (SIDE, SIDE), "RGB", 1.0, (103.0, 110.0, 120.0), (2.0, 3.0, 4.0), resize)
    wanted = image_tensor(pixels, spec)
    got = TorchInput(torch, spec, size)(torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))).numpy()
    assert got.shape == wanted.shape
    off = np.abs(got - wanted) * np.array([2.0, 3.0, 4.0])[:, None, None]
    assert off.max() <= 1.001


@NEEDS_TORCH
def test_thermometer_codes_are_exact_and_let_the_gradient_through() -> None:
    """An attack sees the device's own planes, and every pixel between black and white has a way to change them."""
    from edgeguard.infer.preprocess import image_tensor
    from edgeguard.sim.attacks.torch_input import TorchInput

    pixels = np.random.default_rng(3).integers(1, 255, (SIDE, SIDE, 3)).astype(np.uint8)
    plain = InputSpec("image", "NCHW", (SIDE, SIDE), "RGB", 1.0, (0.0,) * 3, (1.0,) * 3, "stretch", 16)
    x = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)).requires_grad_()
    got = TorchInput(torch, plain, (SIDE, SIDE))(x)
    assert np.array_equal(got.detach().numpy(), image_tensor(pixels, plain))
    got.sum().backward()
    assert (x.grad > 0).all()


@NEEDS_TORCH
def test_gradients_hide_what_the_detector_finds(frame: Image) -> None:
    """Eight levels of 255 hide every object in a frame of the street; six make more appear."""
    victim = open_victim("obstacle_detector")
    hide, appear, none = Objects("hide", 0.6), Objects("appear", 0.6), np.zeros(1, dtype=np.intp)
    assert hide.score(victim.run(frame.pixels[None]), none)[0] > 0
    hidden = Injector([CameraPgd(start_s=1.0, end_s=2.0, eps=8, steps=10)], 3).apply(frame)
    assert isinstance(hidden, Image)
    assert far(hidden.pixels, frame.pixels) <= 8
    assert hide.score(victim.run(hidden.pixels[None]), none)[0] < 0
    ghosts = Injector([CameraPgd(start_s=1.0, end_s=2.0, eps=6, steps=3, want="appear")], 3).apply(frame)
    assert isinstance(ghosts, Image)
    before, after = (appear.score(victim.run(p[None]), none)[0] for p in (frame.pixels, ghosts.pixels))
    assert after < before - 5.0
