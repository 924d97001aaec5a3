"""The live line: one line per second of drive, so that a person can watch a rig being judged."""

from __future__ import annotations

from edgeguard.types import CheckResult, FrameResult, Level, TrustState

_MARK = {TrustState.TRUSTED: "+", TrustState.SUSPECT: "?", TrustState.REJECTED: "!"}

LEGEND = "trust (+ trusted, ? suspect, ! rejected) and Hz per sensor | worst check over its threshold | verdict"


def live_line(frame: FrameResult) -> str:
    """Return trust and rate per sensor, the worst check and the verdict of one tick as one line of text."""
    elapsed_s = frame.synced.stamp_ns / 1e9
    rates = {name: health.rate_hz for name, health in frame.synced.health.items()}
    sensors = " ".join(
        f"{name}{_MARK[trust.state]} {rates.get(name, 0.0):<3.0f}" for name, trust in frame.fused.trust.items()
    )
    worst = worst_check(frame.results)
    tightest = f"{worst.check} {_ratio(worst):.2f}x" if worst is not None else "no check observable"
    return f"{elapsed_s:5.1f} s | {sensors} | {tightest:22s} | {frame.verdict.value}"


def worst_check(results: tuple[CheckResult, ...]) -> CheckResult | None:
    """Return the observable check that is nearest to, or furthest beyond, its threshold."""
    observable = [result for result in results if result.level is not Level.NOT_OBSERVABLE]
    return max(observable, key=_ratio, default=None)


def _ratio(result: CheckResult) -> float:
    return result.statistic / result.threshold if result.threshold > 0 else float(result.level is Level.ANOMALY)
