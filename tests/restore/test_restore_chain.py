"""RestoreChain and build_restorers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeguard.config import RestoreConfig
from edgeguard.errors import ConfigError
from edgeguard.restore.chain import RestoreChain, build_restorers
from edgeguard.types import CAMERA, GNSS, LIDAR, GnssFix, Image, Restoration, Sample


class Brighten:
    """A user's restorer: adds one, and remembers its seeds."""

    sensor = CAMERA
    cost_ms_per_mpx = 1.0

    def __init__(self, name: str) -> None:
        self.name = name
        self.seeds: list[int] = []

    def apply(self, sample: Sample, seed: int) -> tuple[Sample, Restoration]:
        assert isinstance(sample, Image)
        self.seeds.append(seed)
        return replace(sample, pixels=sample.pixels + np.uint8(1)), Restoration(self.name, self.sensor, 1.0)


def samples() -> dict[str, Sample | None]:
    return {CAMERA: Image(np.full((8, 8, 3), 100, np.uint8), 1), LIDAR: None, GNSS: GnssFix(1, 48.0, 11.0)}


def test_restorers_run_in_order_each_on_what_the_one_before_made() -> None:
    """Two on one sensor; the other sensors' samples are the same objects."""
    chain = RestoreChain([Brighten("a"), Brighten("b")], seed=1)
    given = samples()

    restored, done = chain.apply(given, 0)

    image = restored[CAMERA]
    assert isinstance(image, Image)
    assert image.pixels.max() == 102
    assert [r.restorer for r in done] == ["a", "b"]
    assert restored[GNSS] is given[GNSS]
    assert given[CAMERA] is not image


def test_seeds_depend_on_root_frame_and_place_only() -> None:
    """Equal inputs give equal seeds; any other frame, place or root gives others."""
    a, b, c = Brighten("a"), Brighten("b"), Brighten("c")
    chain = RestoreChain([a, b], seed=1)
    for frame in (0, 1, 0):
        chain.apply(samples(), frame)
    RestoreChain([c], seed=2).apply(samples(), 0)

    assert a.seeds[0] == a.seeds[2]
    assert len({a.seeds[0], a.seeds[1], b.seeds[0], b.seeds[1], c.seeds[0]}) == 5


def test_nothing_to_repair_returns_the_very_mapping_that_was_given() -> None:
    """The default chain on clean samples, and on none at all."""
    chain = RestoreChain(build_restorers(RestoreConfig()), seed=0)

    for given in (samples(), {}, {CAMERA: None, LIDAR: None}):
        assert chain.apply(given, 0) == (given, ())
        assert chain.apply(given, 0)[0] is given


def test_the_default_chain_is_built_in_its_order() -> None:
    """Names in the configuration are names of restorers."""
    assert tuple(r.name for r in build_restorers(RestoreConfig())) == RestoreConfig().chain


@pytest.mark.parametrize("chain", [("no-such",), ("impulse-median", "impulse-median")])
def test_unknown_and_double_names_are_config_errors(chain: tuple[str, ...]) -> None:
    """With the known names in the hint."""
    with pytest.raises(ConfigError) as caught:
        build_restorers(RestoreConfig(chain=chain))
    assert caught.value.code == "EG-C052"
