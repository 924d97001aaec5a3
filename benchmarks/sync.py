"""Pairing and clock model: five streams at 20 to 200 Hz, microseconds per sample."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from benchmarks.timing import best_s
from edgeguard.sync.approximate import ApproximateTime
from edgeguard.sync.stream_clock import StreamClock

MS = 1_000_000
RATES_HZ = {"camera": 20, "lidar": 20, "gnss": 50, "wheels": 100, "imu": 200}
SECONDS = 60


@dataclass(frozen=True, slots=True)
class Stamp:
    stamp_ns: int
    sensor: str
    device_ns: int


def main() -> None:
    samples = _streams()
    count = len(samples)
    made = 0

    def pair() -> None:
        nonlocal made
        pairing: ApproximateTime[Stamp] = ApproximateTime(list(RATES_HZ), max_interval_ns=50 * MS, queue=40)
        made = sum(len(pairing.push(sample)) for sample in samples)

    def follow() -> None:
        clocks = {name: StreamClock() for name in RATES_HZ}
        for sample in samples:
            clocks[sample.sensor].observe(sample.device_ns, sample.stamp_ns)

    pair_us, follow_us = best_s(pair) / count * 1e6, best_s(follow) / count * 1e6
    print(f"{count} samples of {len(RATES_HZ)} streams at 20 to 200 Hz, {made} sets of {20 * SECONDS} possible")
    print(f"pairing {pair_us:.1f} us, clock model {follow_us:.1f} us, both {pair_us + follow_us:.1f} us per sample")


def _streams() -> list[Stamp]:
    rng = np.random.default_rng(0)
    streams = []
    for name, rate_hz in RATES_HZ.items():
        host_ns = np.arange(rate_hz * SECONDS) / rate_hz * 1e9 + 1e9
        device_ns = (host_ns * (1.0 + rng.normal(0.0, 40e-6))).astype(np.int64)
        arrival_ns = np.maximum.accumulate((host_ns + rng.exponential(2 * MS, host_ns.size)).astype(np.int64))
        arrival_ns += np.arange(host_ns.size)  # a stream never repeats a stamp
        pairs = zip(arrival_ns.tolist(), device_ns.tolist(), strict=True)
        streams.append([Stamp(arrival, name, device) for arrival, device in pairs])
    return list(heapq.merge(*streams, key=lambda s: s.stamp_ns))
