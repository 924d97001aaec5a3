"""One file of chains for all kinds of input: pictures, point clouds and serial series.

    [[chains]]
    kind = "cloud"                      # or "series", or "image", which is meant where nothing is said
    name = "winter"
    steps = [{ op = "snow" }, { op = "isolated" }]

What ran is what was evaluated only when it is the same chain: its digest is what the evidence names, and a release
carries its chains in its signed manifest (`edgeguard.infer.input_policy`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from edgeguard.config import read_toml
from edgeguard.errors import ConfigError
from edgeguard.restore.chain_digest import digest_of
from edgeguard.restore.cloud_chain import CloudChain, CloudRestorer
from edgeguard.restore.draw import Draw
from edgeguard.restore.image_chain import MAX_CHAINS, ImageChain
from edgeguard.restore.series_chain import SeriesChain, SeriesRestorer
from edgeguard.types import CAMERA, Image, Restoration, Restorer, Sample

SensorChain = CloudChain | SeriesChain
Chain = ImageChain | CloudChain | SeriesChain

_KINDS: Mapping[str, type[Chain]] = MappingProxyType({"image": ImageChain, "cloud": CloudChain, "series": SeriesChain})


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    chains: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1, max_length=MAX_CHAINS)]


def read_chain_file(path: Path) -> tuple[Chain, ...]:
    """Read a TOML file of chains of any kind, in its order.

    Raises:
        ConfigError: EG-C001 unreadable, EG-C002 not TOML, EG-C003 unknown key, EG-C004 an unknown kind or step, a bad
            value, or two chains of one name.
    """
    chains = tuple(_convert(fields, path) for fields in read_toml(path, _File).chains)
    if len({chain.name for chain in chains}) != len(chains):
        raise ConfigError(f"{path}: two chains have the same name", code="EG-C004", hint="name each differently")
    return chains


def images_of(chains: Iterable[Chain]) -> tuple[ImageChain, ...]:
    """Return the chains for pictures, in order."""
    return tuple(chain for chain in chains if isinstance(chain, ImageChain))


def sensors_of(chains: Iterable[Chain]) -> tuple[SensorChain, ...]:
    """Return the chains for point clouds and series, in order."""
    return tuple(chain for chain in chains if not isinstance(chain, ImageChain))


def restorer_of(chain: Chain) -> Restorer:
    """Return what runs a chain on every sample of its sensor."""
    if isinstance(chain, CloudChain):
        return CloudRestorer(chain)
    return SeriesRestorer(chain) if isinstance(chain, SeriesChain) else ImageChainRestorer(chain)


class ImageChainRestorer:
    """Runs one image chain on every frame, without a diagnosis: for a camera whose flaw is known and lasting."""

    sensor = CAMERA
    cost_ms_per_mpx = 30.0

    def __init__(self, chain: ImageChain) -> None:
        self.chain, self.name = chain, chain.name
        self._digest = digest_of(chain)

    def apply(self, sample: Sample, seed: int) -> tuple[Sample, Restoration]:
        """Return the frame after the chain; its draws come from `seed`. Other kinds pass through."""
        if not isinstance(sample, Image):
            return sample, Restoration(self.name, self.sensor, 0.0)
        pixels = self.chain.apply(sample.pixels, Draw(seed))
        share = np.count_nonzero((pixels != sample.pixels).any(axis=2)) / (pixels.shape[0] * pixels.shape[1])
        return replace(sample, pixels=pixels), Restoration(self.name, self.sensor, share, chain_sha256=self._digest)


def _convert(fields: dict[str, Any], path: Path) -> Chain:
    kind = fields.get("kind", "image")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError(
            f"{path}: no kind of chain is called {kind!r}", code="EG-C004", hint=f"kinds: {', '.join(_KINDS)}"
        )
    plain = {key: value for key, value in fields.items() if key != "kind" or kind != "image"}
    try:
        return msgspec.convert(plain, _KINDS[kind])
    except msgspec.ValidationError as error:
        reason = str(error)
    raise ConfigError(f"{path}: {kind} chain: {reason}", code="EG-C004", hint="see docs/restoration.md")
