"""What a receiver says of the signals themselves: G3.signal, G4.raim and G5.flags. Self-checks of GNSS.

G3 needs carrier to noise, or at least how many satellites there are; G4 needs the residuals of the pseudoranges, which
UBX NAV-SAT and NAV-SVINFO carry and NMEA does not; G5 needs NAV-STATUS, MON-HW or MON-RF. Without, NOT_OBSERVABLE.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar

from edgeguard.clock import NS_PER_S
from edgeguard.types import GNSS, CheckResult, GnssFix, GnssSignal, Level

if TYPE_CHECKING:
    from edgeguard.types import SyncedSet

STALE_S = 2.5
HOLD_S = 1.0
# A jammer raises the noise under all satellites alike. A bridge or trees take 10 to 20 dB of some, nothing of others:
# three quarters fall by so much within `FALL_S`, and the middle half of them within `ALIKE_DB` of each other.
FALL_DB, ALIKE_DB = 8.0, 4.0
FALL_S = 3.0
# An earlier sky to compare with: from `FALL_S` to this ago.
SKY_S = 8.0
COMMON = 4
# Satellites lost at once while the receiver still claims a fix.
LOST_SHARE, LOST_LEAST = 0.5, 4
LOST_S = 0.7  # below a bridge of twenty metres at 100 km/h
# Through one antenna of a spoofer all come equally strong: 3 dB of spread or more in an open sky, as in every real one,
# where it has been seen; the share of that which is left.
EQUAL_SHARE, EQUAL_LEAST_DB, EQUAL_SATELLITES = 0.35, 2.0, 7
EQUAL_S = 2.0
LEARN_S = 20.0
# The amplifier's gain falls where power rises in the band; half of what it was is 6 dB. A real receiver's halves now
# and then by itself, so it is no more than half of an alarm.
AGC_SHARE = 0.5
# Post-fit residuals of a single-frequency receiver, metres: noise at the zenith, and multipath and ionosphere that grow
# to the horizon. Receivers list satellites as used to which they give hardly any weight, with residuals of tens of
# metres: one counts so many sigma at most, and the sum is held against what this receiver usually shows.
RAIM_ZENITH_M, RAIM_HORIZON_M = 3.0, 2.0
RAIM_CLIP = 10.0
RAIM_FALSE_ALARM = 1e-5
RAIM_UNKNOWNS = 4
RAIM_USUAL, RAIM_LEARN, RAIM_MEMORY = 3.0, 10, 60
# Multipath of one fix is no fault of the solution; one that stays is.
RAIM_FIXES = 3
MIN_ELEVATION_DEG = 5.0
# Both flags of receivers are noisy (PX4 25144, 27340): they count for half of an alarm and need another half.
FLAG_SHARE = 0.5
SUSPECTED = 2


class _ReceiverCheck(ABC):
    """A check on the fixes of one receiver: share of a limit, threshold 1, an alarm held for a second."""

    name: str
    quantity: ClassVar[str] = "signal"
    sensors: tuple[str, ...] = (GNSS,)
    blind: ClassVar[str]
    power: ClassVar[tuple[float, str]]

    def __init__(self) -> None:
        self.share = 0.0
        self._why = ""
        self._told_ns: int | None = None
        self._alarm_ns: int | None = None
        self._alarm = (0.0, "")

    def evaluate(self, synced: SyncedSet) -> CheckResult:
        """One result for this tick."""
        now_ns = synced.stamp_ns
        if synced.tick.discontinuity or GNSS in synced.tick.recording_gap:
            self._restart()
            self._told_ns = None
        for sample in synced.series.get(GNSS, ()):
            if isinstance(sample, GnssFix) and self._take(sample, sample.stamp_ns / NS_PER_S):
                self._told_ns = now_ns
        if self._told_ns is None or now_ns - self._told_ns > STALE_S * NS_PER_S:
            self.share = 0.0
            return self._result(Level.NOT_OBSERVABLE, 0.0, self.blind)
        share, why = self.share, self._why
        if share > 1.0:
            self._alarm_ns, self._alarm = now_ns, (share, why)
        elif self._alarm_ns is not None and now_ns - self._alarm_ns <= HOLD_S * NS_PER_S:
            share, why = self._alarm
        if share > 1.0:
            return self._result(Level.ANOMALY, share, f"gnss: {why}")
        return self._result(Level.OK, share, "")

    @abstractmethod
    def _take(self, fix: GnssFix, t: float) -> bool:
        """Judge a fix into `share` and `_why`; whether it said anything that can be judged."""

    @abstractmethod
    def _restart(self) -> None:
        """Forget what was before."""

    def _result(self, level: Level, share: float, reason: str) -> CheckResult:
        power, unit = self.power
        return CheckResult(
            check=self.name,
            sensors=self.sensors,
            level=level,
            statistic=share,
            threshold=1.0,
            power=power if level is not Level.NOT_OBSERVABLE else math.inf,
            power_unit=unit,
            quantity=self.quantity,
            reason=reason,
        )


class SignalCheck(_ReceiverCheck):
    """G3: carrier to noise of all satellites falling together or growing equal, half of them lost, the gain pressed."""

    name: str = "G3.signal"
    blind: ClassVar[str] = "the receiver tells neither satellites nor signal strengths"
    power: ClassVar[tuple[float, str]] = (FALL_DB, "dB")

    def __init__(self) -> None:
        super().__init__()
        self._restart()

    def _restart(self) -> None:
        self._sky: deque[tuple[float, dict[tuple[str, int], float]]] = deque()
        self._counts: deque[tuple[float, int]] = deque()
        self._few_since: float | None = None
        self._spread_db: float | None = None
        self._spread_since: float | None = None
        self._equal_since: float | None = None
        self._agc: deque[tuple[float, float]] = deque()
        self._last_signals: tuple[GnssSignal, ...] = ()
        self._signal_shares: list[tuple[float, str]] = []

    def _take(self, fix: GnssFix, t: float) -> bool:
        shares = [(self._lost(fix, t), "half of its satellites are gone at once")]
        told = fix.satellites is not None
        if fix.signals or fix.cn0_dbhz:
            told = True
            # Receivers list the sky once a second and give fixes ten times as often: the same list is no news.
            if not fix.signals or fix.signals != self._last_signals:
                self._last_signals = fix.signals
                self._signal_shares = self._strengths(fix, t)
            shares += self._signal_shares
        if fix.agc_share is not None:
            told = True
            shares.append((self._gain(fix.agc_share, t), "its amplifier is pressed down by power in the band"))
        self.share, self._why = max(shares)
        return told

    def _lost(self, fix: GnssFix, t: float) -> float:
        if fix.satellites is None or fix.fix_quality == 0:
            return 0.0
        counts = self._counts
        counts.append((t, fix.satellites))
        while counts[0][0] < t - SKY_S:
            counts.popleft()
        before = sorted(count for when, count in counts if when < t - 0.5)
        usual = before[len(before) // 2] if len(before) >= 3 else 0
        few = fix.satellites < usual * LOST_SHARE and usual - fix.satellites >= LOST_LEAST
        if not few:
            self._few_since = None
            return 0.0
        self._few_since = t if self._few_since is None else self._few_since
        return (t - self._few_since) / LOST_S

    def _strengths(self, fix: GnssFix, t: float) -> list[tuple[float, str]]:
        if fix.signals:
            now = {(s.system, s.number): s.cn0_dbhz for s in fix.signals if s.used or s.cn0_dbhz > 0.0}
        else:
            now = {("", i): value for i, value in enumerate(sorted(fix.cn0_dbhz, reverse=True))}
        falls = [0.0]
        for when, sky in self._sky:
            if when <= t - FALL_S:
                continue
            common = sorted(sky[key] - value for key, value in now.items() if key in sky)
            # Where satellites have no names the strongest are compared with the strongest.
            if len(common) >= COMMON:
                low, high = common[len(common) // 4], common[3 * len(common) // 4]
                falls.append(low if high - low <= ALIKE_DB else 0.0)
        self._sky.append((t, now))
        while self._sky[0][0] < t - SKY_S:
            self._sky.popleft()
        fall = max(falls) / FALL_DB
        return [
            (fall * 1.0000001, f"all satellites fall by {max(falls):.0f} dB at once"),
            (self._equal(list(now.values()), t), "all satellites are equally strong, as from one antenna"),
        ]

    def _equal(self, strengths: list[float], t: float) -> float:
        if len(strengths) < EQUAL_SATELLITES:
            self._equal_since = None
            return 0.0
        mean = sum(strengths) / len(strengths)
        spread = math.sqrt(sum((v - mean) ** 2 for v in strengths) / (len(strengths) - 1))
        if self._spread_since is None:
            self._spread_since = t
        usual = self._spread_db
        if usual is None or spread > EQUAL_SHARE * usual:
            self._spread_db = spread if usual is None else usual + 0.02 * (spread - usual)
            self._equal_since = None
            return 0.0
        if t - self._spread_since < LEARN_S or usual < EQUAL_LEAST_DB:
            return 0.0
        self._equal_since = t if self._equal_since is None else self._equal_since
        return (t - self._equal_since) / EQUAL_S

    def _gain(self, agc: float, t: float) -> float:
        past = self._agc
        past.append((t, agc))
        while past[0][0] < t - SKY_S:
            past.popleft()
        usual = max(value for _, value in past)
        if usual <= 0.05:
            return 0.0  # an amplifier that is not read
        return min(FLAG_SHARE, FLAG_SHARE * (1.0 - agc / usual) / (1.0 - AGC_SHARE))


class RaimCheck(_ReceiverCheck):
    """G4: do the pseudoranges fit one place and one time? ``sum (r / sigma)^2`` against chi-square of n - 4.

    Detects with five satellites. A coherent spoofer, all of whose ranges fit a wrong place, passes by principle.
    """

    name: str = "G4.raim"
    quantity: ClassVar[str] = "position"
    blind: ClassVar[str] = "the receiver tells no residuals, or of too few satellites"
    power: ClassVar[tuple[float, str]] = (RAIM_ZENITH_M * 5.0, "m")

    def __init__(self) -> None:
        super().__init__()
        self._restart()

    def _restart(self) -> None:
        self._last: deque[float] = deque(maxlen=RAIM_FIXES)
        self._usual: deque[float] = deque(maxlen=RAIM_MEMORY)
        self._seen: tuple[GnssSignal, ...] = ()

    def _take(self, fix: GnssFix, t: float) -> bool:
        del t
        usable = [s for s in fix.signals if s.used and s.residual_m is not None]
        # Every constellation beyond the first brings its own clock.
        freedom = len(usable) - RAIM_UNKNOWNS - max(0, len({s.system for s in usable}) - 1)
        if freedom < 1:
            return False
        if fix.signals != self._seen:
            self._seen = fix.signals
            total = sum(min(abs(s.residual_m or 0.0) / _range_sigma(s), RAIM_CLIP) ** 2 for s in usable)
            of_chance = total / chi_square_limit(freedom, RAIM_FALSE_ALARM)
            usual = sorted(self._usual)[len(self._usual) // 2] if self._usual else 0.0
            share = of_chance / max(1.0, RAIM_USUAL * usual)
            self._last.append(share)
            if share <= 1.0 or len(self._usual) < RAIM_LEARN:
                self._usual.append(of_chance)
        # Of the last fixes the best: what every one of them shows.
        ready = len(self._last) == RAIM_FIXES and len(self._usual) >= RAIM_LEARN
        self.share = min(self._last) if ready else 0.0
        self._why = f"pseudoranges of {len(usable)} satellites do not fit one place"
        return len(self._usual) >= RAIM_LEARN


def _range_sigma(signal: GnssSignal) -> float:
    elevation = max(signal.elevation_deg or MIN_ELEVATION_DEG, MIN_ELEVATION_DEG)
    return math.hypot(RAIM_ZENITH_M, RAIM_HORIZON_M / math.sin(math.radians(elevation)))


class FlagCheck(_ReceiverCheck):
    """G5: what the receiver itself suspects. A term of evidence: alone it stays below the threshold.

    Args:
        others: G3 and G4 of the same receiver, evaluated before; their share of their limits is added.
    """

    name: str = "G5.flags"
    blind: ClassVar[str] = "the receiver does not tell whether it suspects spoofing or jamming"
    power: ClassVar[tuple[float, str]] = (1.0, "flag")

    def __init__(self, others: tuple[_ReceiverCheck, ...]) -> None:
        super().__init__()
        self._others = others

    def _restart(self) -> None:
        self.share = 0.0

    def _take(self, fix: GnssFix, t: float) -> bool:
        del t
        if fix.spoof_state is None and not fix.jam_state:
            return False
        flagged = max(fix.spoof_state or 0, fix.jam_state or 0) >= SUSPECTED
        self.share = FLAG_SHARE + max(each.share for each in self._others) if flagged else 0.0
        self._why = "the receiver suspects spoofing or jamming, and its signals bear it out"
        return True


def chi_square_limit(freedom: int, chance: float) -> float:
    """Quantile of chi-square that is passed with `chance` (Wilson, Hilferty 1931: to 2 %)."""
    z = NormalDist().inv_cdf(1.0 - chance)
    part = 2.0 / (9.0 * freedom)
    return float(freedom * (1.0 - part + z * math.sqrt(part)) ** 3)


def build_receiver_checks() -> list[SignalCheck | RaimCheck | FlagCheck]:
    """G3, G4 and G5 of the rig's receiver; to be evaluated in this order."""
    signal, raim = SignalCheck(), RaimCheck()
    return [signal, raim, FlagCheck((signal, raim))]
