"""Approximate-time pairing: the published behaviour of ROS, and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeguard.errors import ConfigError
from edgeguard.sync.approximate import ApproximateTime

S = 1_000_000_000


@dataclass(frozen=True)
class Stamp:
    sensor: str
    stamp_ns: int


def script(**lines: str) -> list[Stamp]:
    """Read timelines, one letter per sample and one column per second, into order of stamps (streams by name)."""
    found = [Stamp(name, at * S) for name, line in lines.items() for at, mark in enumerate(line) if mark != "."]
    return sorted(found, key=lambda s: (s.stamp_ns, s.sensor))


def sets_of(pairing: ApproximateTime[Stamp], samples: list[Stamp]) -> list[tuple[int, ...]]:
    """Seconds of every set, streams in order of name."""
    made = [m for sample in samples for m in pairing.push(sample)]
    return [tuple(m[name].stamp_ns // S for name in sorted(m)) for m in made]


PUBLISHED = {
    "equal stamps": ({"a": "a..b..c", "b": "A..B..C"}, 10, {}, [(0, 0), (3, 3), (6, 6)]),
    "a steady lag": ({"a": "a..b..c.", "b": ".A..B..C"}, 10, {}, [(0, 1), (3, 4)]),
    "one too many": ({"a": "a.xb..c.", "b": ".A...B.C"}, 10, {}, [(0, 1), (6, 5)]),
    "acceleration": ({"a": "a...........b....c.", "b": ".......A.......B..C"}, 10, {}, [(12, 7), (17, 18)]),
    "a queue too small": ({"a": "a...b...c.d..e.", "b": ".A.B...C...D..E"}, 1, {}, [(4, 3), (10, 11)]),
    "just enough queue": ({"a": "a...b...c.d..e.", "b": ".A.B...C...D..E"}, 2, {}, [(0, 1), (4, 3), (8, 7), (10, 11)]),
    "early when sure": ({"a": "a......e", "b": ".b......", "c": "..c.....", "d": "...d...."}, 10, {}, [(0, 1, 2, 3)]),
    "rate bound too low to help": ({"a": "a..b..c.", "b": ".A..B..C"}, 10, {"a": 3 * S // 2}, [(0, 1), (3, 4)]),
    "rate bound": ({"a": "a..b..c.", "b": ".A..B..C"}, 10, {"a": 2 * S}, [(0, 1), (3, 4), (6, 7)]),
}  # fmt: skip


@pytest.mark.parametrize("case", PUBLISHED)
def test_without_a_bound_the_published_examples_of_ros_come_out(case: str) -> None:
    """Stamps and sets as in the tests of ros2/message_filters."""
    lines, queue, spacing_ns, expected = PUBLISHED[case]
    pairing: ApproximateTime[Stamp] = ApproximateTime(
        sorted(lines), max_interval_ns=None, queue=queue, spacing_ns=spacing_ns
    )
    assert sets_of(pairing, script(**lines)) == expected


def test_a_stream_that_comes_in_bursts_is_paired_as_ros_does() -> None:
    """The published LongQueue, DoublePublish and FourTopics sequences, in their order of arrival."""
    burst = [Stamp("a", t * S) for t in range(9)] + [Stamp("b", 3 * S)] + [Stamp("a", t * S) for t in range(9, 13)]
    burst += [Stamp("b", 10 * S), Stamp("a", 13 * S)]
    assert sets_of(ApproximateTime(["a", "b"], max_interval_ns=None, queue=5), burst) == [(10, 10)]
    double = [Stamp("a", 0), Stamp("b", S), Stamp("b", 3 * S), Stamp("a", 3 * S)]
    assert sets_of(ApproximateTime(["a", "b"], max_interval_ns=None), double) == [(0, 1), (3, 3)]
    four = ["a0", "b1", "c2", "d3", "a5", "d5", "b6", "c6", "a8", "b9", "c10", "d11", "a10", "a13", "b14"]
    samples = [Stamp(word[0], int(word[1:]) * S) for word in four]
    expected = [(0, 1, 2, 3), (5, 6, 6, 5), (10, 9, 10, 11)]
    assert sets_of(ApproximateTime(list("abcd"), max_interval_ns=None), samples) == expected


stamps = st.lists(st.integers(1, 400), min_size=1, max_size=40, unique=True).map(sorted)


@given(st.tuples(stamps, stamps, stamps), st.randoms(use_true_random=False))
def test_sets_do_not_depend_on_the_order_of_arrival_never_cross_and_use_nothing_twice(
    streams: tuple[list[int], list[int], list[int]], order: object
) -> None:
    """Properties 2, 3 and 6 of the published algorithm; whatever the order, sets are a prefix of the same list."""
    names = ["a", "b", "c"]
    by_stamp = sorted((s, n) for n, line in zip(names, streams, strict=True) for s in line)
    queues = {n: list(line) for n, line in zip(names, streams, strict=True)}
    shuffled = [n for n in names for _ in queues[n]]
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    results = []
    for arrivals in ([Stamp(n, s) for s, n in by_stamp], [Stamp(n, queues[n].pop(0)) for n in shuffled]):
        pairing: ApproximateTime[Stamp] = ApproximateTime(names, max_interval_ns=None, queue=200)
        made = [m for sample in arrivals for m in pairing.push(sample)]
        results.append([tuple(m[n].stamp_ns for n in names) for m in made])
        kept = len(made) * 3 + sum(sum(c.values()) for c in pairing.dropped.values()) + pairing.waiting
        assert kept == len(arrivals), "every sample is used, dropped with a reason, or waits"
        for earlier, later in zip(results[-1], results[-1][1:], strict=False):
            assert all(e < x for e, x in zip(earlier, later, strict=True))
    short, long = sorted(results, key=len)
    assert long[: len(short)] == short


@given(st.tuples(stamps, stamps), st.integers(1, 60))
def test_no_set_is_larger_than_the_bound_and_every_loss_is_told(
    streams: tuple[list[int], list[int]], bound: int
) -> None:
    """The callback sees what the counters count."""
    told: list[tuple[str, str]] = []
    pairing: ApproximateTime[Stamp] = ApproximateTime(
        ["a", "b"], max_interval_ns=bound, queue=5, on_drop=lambda sample, reason: told.append((sample.sensor, reason))
    )
    for at, name in sorted((s, n) for n, line in zip("ab", streams, strict=True) for s in line):
        for made in pairing.push(Stamp(name, at)):
            assert abs(made["a"].stamp_ns - made["b"].stamp_ns) <= bound
    assert len(told) == sum(sum(c.values()) for c in pairing.dropped.values())
    assert all(pairing.dropped[name][reason] for name, reason in told)


def test_impossible_stamps_are_refused_with_their_reason() -> None:
    """Zero, backward, repeated, far from our clock, and of a stream that is not there."""
    pairing: ApproximateTime[Stamp] = ApproximateTime(["a", "b"], max_interval_ns=S)
    now_ns = 100 * S
    for sensor, stamp_ns in (("a", 99 * S), ("a", 98 * S), ("a", 99 * S), ("a", 0), ("b", 200 * S), ("b", 1), ("x", 1)):
        assert pairing.push(Stamp(sensor, stamp_ns), now_ns) == []
    assert pairing.dropped["a"] == {"backwards": 1, "duplicate": 1, "zero_stamp": 1}
    assert pairing.dropped["b"] == {"future": 1, "late": 1}
    assert pairing.dropped[""] == {"unknown_sensor": 1}


def test_a_starving_pair_is_reported_once_per_silence() -> None:
    """One stream stops, comes back, and stops again."""
    told: list[tuple[str, int]] = []
    pairing: ApproximateTime[Stamp] = ApproximateTime(
        ["a", "b"], max_interval_ns=S, on_starved=lambda name, silent_ns: told.append((name, silent_ns)),
    )  # fmt: skip
    for second in range(1, 30):
        pairing.push(Stamp("a", second * S))
        if second == 12:
            pairing.push(Stamp("b", second * S))
    assert [name for name, _ in told] == ["b", "b"]
    assert all(silent_ns == 3 * S or silent_ns > 2 * S for _, silent_ns in told)


def test_jittered_camera_and_lidar_are_paired_one_to_one() -> None:
    """Two 10 Hz streams with a few ms of jitter and 1 % loss: nearly every pair is made, none is wrong."""
    rng = np.random.default_rng(7)
    ms = 1_000_000
    frames = [
        (name, S + (i * 100 + lag_ms) * ms + int(rng.normal(0.0, 3.0) * ms), i)
        for name, lag_ms in (("cam", 0), ("lid", 20))
        for i in range(1000)
        if rng.random() > 0.01
    ]
    index = {(n, at): i for n, at, i in frames}
    pairing: ApproximateTime[Stamp] = ApproximateTime(["cam", "lid"], max_interval_ns=50 * ms)
    made = [m for n, at, _ in sorted(frames, key=lambda f: f[1]) for m in pairing.push(Stamp(n, at))]
    both = sum(1 for i in range(1000) if sum(1 for _, _, j in frames if j == i) == 2)
    assert len(made) >= both - 3
    assert all(index["cam", m["cam"].stamp_ns] == index["lid", m["lid"].stamp_ns] for m in made)


@pytest.mark.parametrize("kwargs", [{"sensors": ["a"]}, {"sensors": ["a", "a"]}, {"queue": 0}, {"max_interval_ns": 0}])
def test_a_pairing_that_cannot_work_is_refused(kwargs: dict[str, object]) -> None:
    """Configuration errors are ours."""
    arguments: dict[str, object] = {"sensors": ["a", "b"], "max_interval_ns": S} | kwargs
    with pytest.raises(ConfigError, match="EG-C112"):
        ApproximateTime(**arguments)  # type: ignore[arg-type]
