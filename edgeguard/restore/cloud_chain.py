"""Chains for point clouds, and the restorer that runs one."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edgeguard.restore.chain_digest import digest_of
from edgeguard.restore.cloud_cut import cut_within, without
from edgeguard.restore.cloud_steps import CloudStep, Snow
from edgeguard.types import LIDAR, PointCloud, Restoration, Sample

MAX_STEPS = 8  # milliseconds each, on every sweep


class CloudChain(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cloud", tag_field="kind"):
    """Named steps in order, for the sweeps of one sensor."""

    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    steps: Annotated[tuple[CloudStep, ...], Meta(min_length=1, max_length=MAX_STEPS)]
    sensor: Annotated[str, Meta(min_length=1, max_length=64)] = LIDAR


class CloudRestorer:
    """Runs one chain: each step takes out what it found within its caps, before the next one looks."""

    cost_ms_per_mpx = 60.0  # per million points and step

    def __init__(self, chain: CloudChain) -> None:
        self.chain, self.name, self.sensor = chain, chain.name, chain.sensor
        self._digest = digest_of(chain)

    def apply(self, sample: Sample, seed: int) -> tuple[Sample, Restoration]:  # noqa: ARG002 - nothing random here
        """Return the thinned sweep, or `sample` itself when nothing goes. Other kinds pass through."""
        if not isinstance(sample, PointCloud) or len(sample.xyz) == 0:
            return sample, Restoration(self.name, self.sensor, 0.0)
        cloud, notes = sample, []
        for step in self.chain.steps:
            cut = cut_within(cloud, step.find(cloud), step.cap)
            cloud = without(cloud, cut.removed)
            if cut.spared:
                notes.append(f"{step.__struct_config__.tag}: {cut.spared} spared, {cut.regions} directions kept whole")
        share = 1.0 - len(cloud.xyz) / len(sample.xyz)
        return cloud, Restoration(
            self.name, self.sensor, share, note="; ".join(notes), chain_sha256=self._digest if share else ""
        )


# What runs where a configuration says nothing else: it leaves a sweep alone in which nothing falls.
SCATTERED_RETURNS = CloudChain("scattered-returns", (Snow(),))
