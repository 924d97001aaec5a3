"""From trials and clean ticks to the numbers of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgeguard.sim.detection.metrics import auroc, auroc_interval, percentile, rate_per_hour, wilson
from edgeguard.sim.detection.result import (
    MEASURED,
    MET,
    MISSED,
    NOT_APPLICABLE,
    OPEN,
    AttributionResult,
    CleanResult,
    RowResult,
)
from edgeguard.sim.detection.rows import Goal, Row
from edgeguard.sim.detection.run import CleanTick, Measured
from edgeguard.sim.detection.trial import Trial
from edgeguard.types import SourceInfo

# Fewer trials than this say nothing about a share of a hundred.
LEAST_TRIALS = 5
# Clean time is resampled in blocks of this length: statistics of neighbouring ticks are not independent.
BLOCK_S = 1.0
NAMED_GOAL = 0.99
_BLAMES = ("right", "ambiguous", "wrong", "nobody")


def summarise_clean(runs: Sequence[Sequence[CleanTick]]) -> CleanResult:
    """Count alarms over the clean ticks of one or several recordings. One alarm lasts as long as anything accuses
    anybody; what was so at the first tick counts too."""
    alarms, ticks, seconds = 0, 0, 0.0
    checks: Counter[str] = Counter()
    sensors: Counter[str] = Counter()
    for clean in runs:
        active = False
        known: set[tuple[str, tuple[str, ...]]] = set()
        blamed: frozenset[str] = frozenset()
        for tick in clean:
            now = bool(tick.anomalies or tick.blamed)
            alarms += now and not active
            active = now
            checks.update(check for check, members in tick.anomalies if (check, members) not in known)
            sensors.update(tick.blamed - blamed)
            known, blamed = set(tick.anomalies), tick.blamed
        ticks += len(clean)
        seconds += clean[-1].time_s - clean[0].time_s if clean else 0.0
    rate, low, high = rate_per_hour(alarms, seconds)
    bound = round(high, 3) if isfinite(high) else None
    return CleanResult(
        round(seconds, 3), ticks, alarms, round(rate, 3), round(low, 3), bound, dict(checks), dict(sensors)
    )


def summarise_row(row: Row, runs: Sequence[Measured], seed: int) -> RowResult:
    """Return one line over one recording or several."""
    trials = [trial for run in runs for trial in run.trials.get(row.name, [])]
    good = [t for t in trials if t.status == "run"]
    in_time = [t for t in good if _in_time(t, row.goal)]
    counted = (
        in_time if row.goal is not None and row.goal.judged == "rate" else [t for t in good if t.delay_s is not None]
    )
    found = [t for t in good if t.delay_s is not None]
    low, high = wilson(len(counted), len(good))
    area, area_low, area_high, frame_area = _areas(row, runs, seed)
    delays = [t.delay_s for t in good]
    frames = [None if t.frames is None else float(t.frames) for t in good]
    targets = {_target(run, row) for run in runs} - {""}
    missing = {run.missing[row.name] for run in runs if row.name in run.missing}
    verdict, certain, why = _judge(row, good, len(counted), (low, high), (area, area_low, area_high), runs, missing)
    reasons = Counter(t.why for t in trials if t.status == "no")
    return RowResult(
        name=row.name,
        title=row.title,
        target=", ".join(sorted(targets)),
        goal=row.goal.text if row.goal is not None else "",
        verdict=verdict,
        certain=certain,
        why=why,
        trials=len(good),
        onsets=len({(id(run), t.onset_s) for run in runs for t in run.trials.get(row.name, []) if t.status == "run"}),
        found=len(counted),
        rate=round(len(counted) / len(good), 4) if good else None,
        low=round(low, 4),
        high=round(high, 4),
        delay_median_s=percentile(delays, 0.5),
        delay_p90_s=percentile(delays, 0.9),
        delay_p95_s=percentile(delays, 0.95),
        frames_median=percentile(frames, 0.5),
        frames_p95=percentile(frames, 0.95),
        damage_median_m=_middle(t.damage_m for t in good),
        damage_p95_m=percentile([t.damage_m for t in good], 0.95),
        damage_median_deg=_middle(t.damage_deg for t in good),
        observable_share=_observable(runs, row),
        area=area,
        area_low=area_low,
        area_high=area_high,
        frame_area=frame_area,
        attribution=dict(Counter(t.attribution for t in found)),
        checks=dict(Counter(t.check or "trust" for t in found).most_common()),
        not_possible=dict(reasons),
        void=sum(t.status == "void" for t in trials),
        failed=sum(t.status == "error" for t in trials),
        spent_s=round(sum(t.spent_s for t in trials), 2),
    )


def _in_time(trial: Trial, goal: Goal | None) -> bool:
    if trial.delay_s is None:
        return False
    if goal is None or goal.judged != "rate":
        return True
    if goal.frames is not None:
        return trial.frames is not None and trial.frames <= goal.frames
    return goal.seconds is None or trial.delay_s <= goal.seconds + 1e-6


def _judge(
    row: Row,
    good: Sequence[Trial],
    counted: int,
    interval: tuple[float, float],
    area: tuple[float | None, float | None, float | None],
    runs: Sequence[Measured],
    missing: set[str],
) -> tuple[str, bool, str]:
    """Return the verdict, whether the interval says so too, and why there is none."""
    if not good:
        if missing and all(row.name in run.missing for run in runs):
            return NOT_APPLICABLE, False, "; ".join(sorted(missing))
        reasons = Counter(t.why for run in runs for t in run.trials.get(row.name, []))
        if not reasons and row.least_speed_m_s > 0.0 and all(t.speed_m_s is None for run in runs for t in run.clean):
            return OPEN, False, "no sensor tells the speed"
        return OPEN, False, _most(reasons) or "at no moment of the test part was it possible (too slow, or too short)"
    goal = row.goal
    if goal is None:
        return MEASURED, False, ""
    lacking = [kind.__name__ for kind in goal.needs if not any(_has(run.infos, kind) for run in runs)]
    if lacking:
        return OPEN, False, f"the goal is about a rig with {', '.join(lacking)}; measured without"
    if len(good) < LEAST_TRIALS:
        return OPEN, False, f"{len(good)} trials"
    if goal.judged == "auroc":
        value, low, high = area
        if value is None or low is None or high is None:
            return OPEN, False, "no clean windows of that length to compare with"
        if (low, high) == (0.0, 1.0):
            return OPEN, False, f"less than {2 * BLOCK_S + (goal.seconds or 0.0):g} s of clean time to compare with"
        return (MET, low >= goal.share, "") if value >= goal.share else (MISSED, high < goal.share, "")
    if goal.judged == "percentile":
        return _judge_percentile(good, goal)
    low, high = interval
    rate = counted / len(good)
    # Of "all" no number of trials makes sure; that they are more than 95 % is what the interval can say.
    sure = min(goal.share, 0.95)
    return (MET, low >= sure, "") if rate >= goal.share else (MISSED, high < goal.share, "")


def _judge_percentile(good: Sequence[Trial], goal: Goal) -> tuple[str, bool, str]:
    limit = goal.seconds if goal.seconds is not None else float("inf")
    within = sum(t.delay_s is not None and t.delay_s <= limit + 1e-6 for t in good)
    low, high = wilson(within, len(good))
    reached = percentile([t.delay_s for t in good], goal.share)
    if reached is not None and reached <= limit + 1e-6:
        return MET, low >= goal.share, ""
    return MISSED, high < goal.share, ""


def _most(reasons: Counter[str]) -> str:
    return reasons.most_common(1)[0][0] if reasons else ""


def _has(infos: Mapping[str, SourceInfo], kind: type) -> bool:
    return any(info.kind is kind for info in infos.values())


def _target(run: Measured, row: Row) -> str:
    return next((name for name, info in run.infos.items() if info.kind is row.kind), "")


def _middle(values: Iterable[float]) -> float | None:
    known = list(values)
    return round(median(known), 4) if known else None


def _observable(runs: Sequence[Measured], row: Row) -> float | None:
    seen = [_target(run, row) in tick.observable for run in runs if _target(run, row) for tick in run.clean]
    return round(sum(seen) / len(seen), 4) if seen else None


# ---- scores --------------------------------------------------------------------------------------------------------


def _areas(
    row: Row, runs: Sequence[Measured], seed: int
) -> tuple[float | None, float | None, float | None, float | None]:
    """AUROC over windows with its interval, and over single ticks."""
    if row.goal is None or row.goal.judged != "auroc" or row.goal.seconds is None:
        return None, None, None, None
    window_s = row.goal.seconds
    clean_windows, clean_ticks = [], []
    attacked_windows, attacked_ticks = [], []
    for run in runs:
        target = _target(run, row)
        ticks = [t for t in run.clean if _fast_enough(t, row)]
        times = np.array([t.time_s for t in ticks])
        scores = np.array([t.scores.get(target, 0.0) for t in ticks])
        peaks, ends = _peaks(times, scores, window_s)
        clean_windows += _blocks(ends, peaks)
        clean_ticks += _blocks(times, scores)
        for trial in run.trials.get(row.name, []):
            own = np.array(trial.scores, dtype=np.float64).reshape(-1, 2)
            inside = own[own[:, 0] <= window_s + 1e-6]
            if trial.status == "run" and len(inside):
                attacked_windows.append(np.array([inside[:, 1].max()]))
                attacked_ticks.append(inside[:, 1])
    area = auroc(_joined(clean_windows), _joined(attacked_windows))
    if not isfinite(area):
        return None, None, None, None
    rng = np.random.default_rng([seed, *row.name.encode()])
    low, high = auroc_interval(clean_windows, attacked_windows, rng)
    frame_area = auroc(_joined(clean_ticks), _joined(attacked_ticks))
    return round(area, 4), round(low, 4), round(high, 4), round(frame_area, 4)


def _fast_enough(tick: CleanTick, row: Row) -> bool:
    return row.least_speed_m_s <= 0.0 or (tick.speed_m_s is not None and abs(tick.speed_m_s) >= row.least_speed_m_s)


def _peaks(
    times: NDArray[np.float64], scores: NDArray[np.float64], window_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest score of every whole window, one ending at each tick, and where they end."""
    peaks, ends = [], []
    for i, end in enumerate(times):
        first = int(np.searchsorted(times, end - window_s - 1e-6))
        step = float(np.median(np.diff(times))) if len(times) > 1 else window_s
        if end - times[0] >= window_s - 1e-6 and times[first] - (end - window_s) <= 1.5 * step:
            peaks.append(float(scores[first : i + 1].max()))
            ends.append(float(end))
    return np.array(peaks), np.array(ends)


def _blocks(times: NDArray[np.float64], values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    if len(times) == 0:
        return []
    block = np.floor(times / BLOCK_S).astype(np.int64)
    return [values[block == b] for b in np.unique(block)]


def _joined(groups: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate(groups) if groups else np.zeros(0)


# ---- whom the blame settles on -------------------------------------------------------------------------------------


def summarise_attribution(runs: Sequence[Measured]) -> list[AttributionResult]:
    """Return the attribution of all detected trials, by the number of sources that compared what was attacked."""
    trials = [t for run in runs for each in run.trials.values() for t in each if t.status == "run" and t.attribution]
    found = []
    for label, least, most in (("3 or more", 3, 99), ("2", 2, 2), ("1", 0, 1)):
        same = [t for t in trials if least <= t.sources <= most]
        counts = Counter(t.attribution for t in same)
        low, high = wilson(counts["right"], len(same))
        goal, verdict, certain = _judge_attribution(label, counts, len(same), (low, high))
        right, ambiguous, wrong, nobody = (counts[blame] for blame in _BLAMES)
        interval = (round(low, 4), round(high, 4))
        one = AttributionResult(label, len(same), right, ambiguous, wrong, nobody, *interval, goal, verdict, certain)
        found.append(one)
    return found


def _judge_attribution(
    label: str, counts: Counter[str], detected: int, interval: tuple[float, float]
) -> tuple[str, str, bool]:
    if label == "3 or more":
        goal = f">= {100 * NAMED_GOAL:g} % right"
        if detected < LEAST_TRIALS:
            return goal, OPEN, False
        met = counts["right"] / detected >= NAMED_GOAL
        return goal, MET if met else MISSED, interval[0] >= NAMED_GOAL if met else interval[1] < NAMED_GOAL
    if detected == 0:
        return "never wrong", OPEN, False
    return "never wrong", MISSED if counts["wrong"] else MET, bool(counts["wrong"])
