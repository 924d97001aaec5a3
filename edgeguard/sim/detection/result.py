"""What the bench says, as values and JSON; the format document is docs/detection.md."""

from __future__ import annotations

from typing import Any

import msgspec

FORMAT = "edgeguard-bench-detection/1"
MET, MISSED, OPEN, NOT_APPLICABLE, MEASURED = "met", "missed", "not decidable", "not applicable", "no goal"


class CleanResult(msgspec.Struct, frozen=True):
    """The clean run of the test part: alarms are rising edges of "something accuses somebody"."""

    seconds: float
    ticks: int
    alarms: int
    per_hour: float
    per_hour_low: float
    per_hour_high: float | None
    checks: dict[str, int]
    sensors: dict[str, int]


class RowResult(msgspec.Struct, frozen=True):
    """One row on one recording, or over all of them.

    onsets: different moments among the trials. low, high: Wilson interval of the rate. delay_*: None where fewer than
    that share was found. area, area_low, area_high: AUROC over windows with its bootstrap interval; frame_area: over
    single ticks; None where there are no scores. verdict: met, missed, not decidable, not applicable, no goal. certain:
    whether the interval, not only the estimate, says so.
    """

    name: str
    title: str
    target: str
    goal: str
    verdict: str
    certain: bool
    why: str
    trials: int
    onsets: int
    found: int
    rate: float | None
    low: float
    high: float
    delay_median_s: float | None
    delay_p90_s: float | None
    delay_p95_s: float | None
    frames_median: float | None
    frames_p95: float | None
    damage_median_m: float | None
    damage_p95_m: float | None
    damage_median_deg: float | None
    observable_share: float | None
    area: float | None
    area_low: float | None
    area_high: float | None
    frame_area: float | None
    attribution: dict[str, int]
    checks: dict[str, int]
    not_possible: dict[str, int]
    void: int
    failed: int
    spent_s: float


class AttributionResult(msgspec.Struct, frozen=True):
    """All detected trials in which so many sources compared what was attacked. right, ambiguous, wrong, nobody:
    counts. sources "1": only checks of the attacked sensor by itself accused it."""

    sources: str
    detected: int
    right: int
    ambiguous: int
    wrong: int
    nobody: int
    right_low: float
    right_high: float
    goal: str
    verdict: str
    certain: bool


class StealthResult(msgspec.Struct, frozen=True):
    """The furthest a stealthy attacker got in 60 s without losing trust, per goal and configuration."""

    goal: str
    sensors: list[str]
    attempts: int
    caught: int
    unseen_m: float | None


class RecordingResult(msgspec.Struct, frozen=True):
    """One recording. fit, test: seconds from its beginning; calibrated: what stood behind the checks."""

    recording: str
    kind: str
    sensors: dict[str, float]
    length_s: float
    fit_s: tuple[float, float]
    test_s: tuple[float, float]
    calibrated: str
    fits: int
    clean: CleanResult
    rows: list[RowResult]
    attribution: list[AttributionResult]
    notes: list[str]
    spent_s: float


class BenchResult(msgspec.Struct, frozen=True):
    """Everything."""

    format: str
    seed: int
    effort: float
    recordings: list[RecordingResult]
    pooled: RecordingResult | None
    stealth: list[StealthResult]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain
