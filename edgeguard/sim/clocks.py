"""What a sensor's own clock and its way to the host do to samples: offset, drift, jitter, loss, order, line rate.

A sample's device stamp is of the sensor's clock; when it arrives is of the host's. Everything is drawn by (seed,
sensor, index), so that a run repeats whatever is asked first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeguard.clock import NS_PER_S

BITS_PER_BYTE = 10  # start, eight, stop


@dataclass(frozen=True, slots=True)
class ClockModel:
    """offset_s, drift_ppm: of the sensor's clock against the host's. jitter_s: mean of the exponential extra delay.

    loss, duplication, reorder: shares of samples that never come, come twice, or come `reorder_s` late. baud: of the
    line, 0: as fast as it likes.
    """

    offset_s: float = 0.0
    drift_ppm: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reorder: float = 0.0
    reorder_s: float = 0.1
    baud: int = 0

    @property
    def perfect(self) -> bool:
        """Whether nothing is changed."""
        return self == ClockModel()


class SensorClock:
    """One sensor's clock and link."""

    def __init__(self, model: ClockModel, seed: int, sensor: str) -> None:
        self.model = model
        self._key = [seed, 0xC10C, *sensor.encode()]
        self._busy_until_ns = 0
        self._last_ns = 0

    def device_ns(self, true_ns: int) -> int:
        """Return what the sensor's clock shows at `true_ns` after the start."""
        return true_ns + round(self.model.offset_s * NS_PER_S + true_ns * self.model.drift_ppm * 1e-6)

    def arrivals(self, index: int, sent_ns: int, size: int = 0) -> tuple[int, ...]:
        """Return when sample `index` arrives, once, twice or never.

        `size`: bytes on a line. It keeps their order, whatever the jitter, and makes them wait while it is still busy
        with what came before, so samples must then be asked for in the order they are sent.
        """
        m = self.model
        if m.perfect:
            return (sent_ns,)
        rng = np.random.default_rng([*self._key, index])
        lost, twice, late, wait, again = rng.random(), rng.random(), rng.random(), rng.exponential(), rng.exponential()
        if m.baud > 0 and size > 0:
            begin = max(sent_ns, self._busy_until_ns)
            self._busy_until_ns = begin + size * BITS_PER_BYTE * NS_PER_S // m.baud
            sent_ns = self._busy_until_ns
        if lost < m.loss:
            return ()
        arrival = sent_ns + round(wait * m.jitter_s * NS_PER_S)
        if size > 0:
            arrival = self._last_ns = max(arrival, self._last_ns)
        if late < m.reorder:
            arrival += round(m.reorder_s * NS_PER_S)
        if twice < m.duplication:
            return arrival, arrival + round((again * m.jitter_s + 1e-4) * NS_PER_S)
        return (arrival,)
