"""A source in its own thread: reconnection on real pseudo-terminals, bounded queues, and trouble that stays its own."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
import tty
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from edgeguard.clock import ManualClock, SystemClock
from edgeguard.errors import ConfigError, SensorDisconnectedError, SensorOpenError
from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.nmea_write import NmeaFix, epoch
from edgeguard.sensors import supervised
from edgeguard.sensors.reconnect import Backoff, BackoffPolicy
from edgeguard.sensors.serial import SerialSource
from edgeguard.sensors.supervised import LinkState, SupervisedSource
from edgeguard.types import GnssFix, LineStats, Sample, SourceInfo

FAST = BackoffPolicy(first_s=0.005, longest_s=0.02)
T0 = 1_767_225_600_000_000_000


def fixes(start: int, count: int) -> bytes:
    """Return NMEA epochs, one a second."""
    return b"".join(
        epoch(NmeaFix(T0 + k * 10**9, 48.1, 11.5, 500.0, 3.0, 90.0, 10, 0.9)) for k in range(start, start + count)
    )


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> bool:
    """Wait until the condition holds; whether it did."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


class Line:
    """The device's end of a real pseudo-terminal; it writes as fast as the terminal takes it."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        self.port = os.ttyname(self.slave)

    def write(self, data: bytes) -> None:
        """Send everything; waits while the terminal is full."""
        while data:
            data = data[os.write(self.master, data) :]


class Plug:
    """A device behind a stable name: pulling it breaks the line, plugging puts a new one behind the same name."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "usb-receiver-if00"
        self.line: Line | None = None

    def plug(self) -> Line:
        """Attach."""
        self.line = Line()
        self.path.symlink_to(self.line.port)
        return self.line

    def pull(self) -> None:
        """Detach; a second call does nothing."""
        if self.line is not None:
            self.path.unlink()
            os.close(self.line.master)
            os.close(self.line.slave)
            self.line = None


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[Plug]:
    """A device that is pulled at the end."""
    plug = Plug(tmp_path)
    yield plug
    plug.pull()


def gnss_source(path: Path) -> SerialSource:
    """Return a receiver on a port."""
    return SerialSource(str(path), 9600, GnssDecoder(), SourceInfo("gnss", GnssFix, 10**9, str(path)), SystemClock())


def supervise(path: Path, **options: int) -> SupervisedSource:
    """Return a supervised receiver."""
    return SupervisedSource(gnss_source(path), SystemClock(), np.random.default_rng(1), policy=FAST, **options)


def test_a_pulled_cable_is_survived_and_the_same_name_is_opened_again(plug: Plug) -> None:
    """Three times out and in: samples come again each time, the losses are counted, nothing is raised."""
    with supervise(plug.path) as source:
        assert until(lambda: source.state is LinkState.WAITING)
        for turn in range(3):
            line = plug.plug()
            assert until(lambda: source.state is LinkState.CONNECTED)
            line.write(fixes(10 * turn, 3))
            assert source.read(5.0) is not None
            plug.pull()
            assert until(lambda: source.state is not LinkState.CONNECTED)
            while source.read(0.0) is not None:
                pass
        assert source.connections == 3
        assert source.drops[supervised.DISCONNECTED] == 3
        assert source.drops[supervised.OPEN_FAILED] >= 1
        assert source.last_error is not None
    assert source.state is LinkState.CLOSED
    with pytest.raises(SensorDisconnectedError):
        source.read(0.0)


def test_a_frame_cut_by_the_plug_costs_only_itself(plug: Plug) -> None:
    """Half a sentence before, whole ones after: the half is not joined to anything."""
    with supervise(plug.path) as source:
        line = plug.plug()
        assert until(lambda: source.state is LinkState.CONNECTED)
        line.write(fixes(0, 2) + fixes(2, 1)[:40])
        assert until(lambda: source.line_stats.frames == 4)
        plug.pull()
        assert until(lambda: source.state is LinkState.WAITING)
        line = plug.plug()
        assert until(lambda: source.state is LinkState.CONNECTED)
        line.write(fixes(5, 3))
        assert until(lambda: source.line_stats.frames == 10)
        moments = []
        while (sample := source.read(0.05)) is not None:
            moments.append(sample.device_stamp_ns)  # type: ignore[union-attr]
        assert moments == sorted(moments)
        assert T0 + 2 * 10**9 not in moments


class Endless:
    """A device that floods: a sample whenever it is asked."""

    exhausted = False
    line_stats = LineStats()
    drops: Mapping[str, int] = {}
    info = SourceInfo("gnss", GnssFix, 1, "flood")

    def __init__(self) -> None:
        self.given = 0
        self.opened = threading.Event()

    def open(self) -> None:
        self.opened.set()

    def close(self) -> None:
        self.opened.clear()

    def read(self, timeout_s: float) -> Sample | None:
        self.given += 1
        return GnssFix(self.given, 1.0, 2.0)


def test_a_flood_nobody_reads_keeps_the_newest_and_counts_the_rest() -> None:
    """Memory stays that of the queue."""
    flood = Endless()
    source = SupervisedSource(flood, SystemClock(), np.random.default_rng(1), queue=8)
    tracemalloc.start()
    with source:
        assert until(lambda: flood.given > 1000)
        before = tracemalloc.get_traced_memory()[0]
        target = flood.given + 20_000
        assert until(lambda: flood.given > target, 30.0)
        assert tracemalloc.get_traced_memory()[0] - before < 64 * 1024
        first = source.read(0.0)
        assert first is not None
        assert first.stamp_ns > 1000
    tracemalloc.stop()
    assert source.drops[supervised.QUEUE_FULL] >= 20_000
    assert not flood.opened.is_set()


def test_a_flooded_line_is_bounded_too(plug: Plug) -> None:
    """Garbage as fast as the terminal takes it: no sample, no growth, and the good fixes after it arrive."""
    with supervise(plug.path, queue=4) as source:
        line = plug.plug()
        assert until(lambda: source.state is LinkState.CONNECTED)
        junk = np.random.default_rng(2).integers(0, 256, 3000, dtype=np.uint8).tobytes()
        for _ in range(60):
            line.write(junk)
        assert until(lambda: source.line_stats.bytes_received > 100_000)
        for k in range(20):
            line.write(fixes(3 * k, 3))
        assert until(lambda: source.read(0.05) is not None)
        assert sum(source.drops.values()) > 0


class Hung(Endless):
    """A device whose driver does not come back from `open`."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def open(self) -> None:
        self.release.wait(20.0)
        raise SensorOpenError("hung")


def test_one_sensor_that_hangs_blocks_no_other(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the hung one takes no longer than asked, and the good one goes on."""
    monkeypatch.setattr(supervised, "JOIN_S", 0.05)
    hung = Hung()
    stuck = SupervisedSource(hung, SystemClock(), np.random.default_rng(1), policy=FAST)
    with supervise(plug.path) as good, stuck:
        line = plug.plug()
        assert until(lambda: good.state is LinkState.CONNECTED)
        start = time.monotonic()
        assert stuck.read(0.02) is None
        assert time.monotonic() - start < 2.0
        line.write(fixes(0, 3))
        assert good.read(5.0) is not None
    assert stuck.state is LinkState.CLOSED
    hung.release.set()


def test_stamps_are_those_of_arrival_not_of_reading(plug: Plug) -> None:
    """A sample that waited in the queue keeps the time at which its bytes were read."""
    clock = ManualClock(1000)
    inner = SerialSource(str(plug.path), 9600, GnssDecoder(), SourceInfo("gnss", GnssFix, 10**9, "x"), clock)
    line = plug.plug()
    with SupervisedSource(inner, clock, np.random.default_rng(1), policy=FAST) as source:
        assert until(lambda: source.state is LinkState.CONNECTED)
        line.write(fixes(0, 2))
        assert until(lambda: source.line_stats.frames == 4)
        time.sleep(0.05)
        clock.wait_until_ns(999_999)
        sample = source.read(1.0)
        assert sample is not None
        assert sample.stamp_ns == 999  # the first of two that one read brought


class Impatient(Endless):
    """A source that answers "nothing" at once, however long it may wait."""

    def read(self, timeout_s: float) -> Sample | None:
        self.given += 1
        return None


def test_a_source_that_does_not_block_does_not_eat_a_core() -> None:
    """Between two questions the thread rests."""
    idle = Impatient()
    with SupervisedSource(idle, SystemClock(), np.random.default_rng(1)) as source:
        assert source.read(0.3) is None
    assert 1 <= idle.given <= 400


class Broken(Endless):
    """A source with a fault of its own."""

    def read(self, timeout_s: float) -> Sample | None:
        raise ConfigError("no such setting", hint="mend it")


def test_a_fault_of_the_program_is_not_mistaken_for_silence() -> None:
    """The reader learns it, with code and hint; the source is closed."""
    broken = Broken()
    with SupervisedSource(broken, SystemClock(), np.random.default_rng(1)) as source:
        assert until(lambda: source.state is LinkState.FAILED)
        with pytest.raises(SensorDisconnectedError) as caught:
            source.read(1.0)
        assert (caught.value.code, caught.value.hint) == ("EG-N023", "mend it")
        assert not broken.opened.is_set()


def test_opening_and_closing_twice_is_harmless() -> None:
    """And a closed one can be opened again."""
    flood = Endless()
    source = SupervisedSource(flood, SystemClock(), np.random.default_rng(1), queue=2)
    for _ in range(2):
        source.open()
        source.open()
        assert source.read(5.0) is not None
        source.close()
        source.close()
    assert source.connections == 2
    assert not [t for t in threading.enumerate() if t.name == "sensor-gnss"]


def test_delays_grow_to_a_limit_with_jitter_and_start_over() -> None:
    """Each delay lies in the upper half of its range; two devices do not march in step."""
    policy = BackoffPolicy(first_s=0.1, factor=2.0, longest_s=1.6, jitter=0.5)
    one, other = (Backoff(policy, np.random.default_rng(seed)) for seed in (1, 2))
    delays = [one.next_delay_s() for _ in range(8)]
    bases = [0.1, 0.2, 0.4, 0.8, 1.6, 1.6, 1.6, 1.6]
    assert all(base / 2 <= delay <= base for base, delay in zip(bases, delays, strict=True))
    assert delays != [other.next_delay_s() for _ in range(8)]
    one.reset()
    assert one.next_delay_s() <= 0.1
    with pytest.raises(ValueError, match="back-off"):
        BackoffPolicy(first_s=2.0, longest_s=1.0)
    with pytest.raises(ValueError, match="queue"):
        SupervisedSource(Endless(), SystemClock(), np.random.default_rng(1), queue=0)


class Fragile:
    """A source without any lock, as most are: it notes who asks it while it is read."""

    info = SourceInfo("gnss", GnssFix, 1, "fragile")

    def __init__(self, count: int) -> None:
        self.askers: set[str] = set()
        self._left, self._counts = count, dict[str, int]()

    def _asked(self) -> None:
        self.askers.add(threading.current_thread().name)

    @property
    def exhausted(self) -> bool:
        self._asked()
        return self._left == 0

    @property
    def line_stats(self) -> LineStats:
        self._asked()
        return LineStats(frames=len(self._counts))

    @property
    def drops(self) -> Mapping[str, int]:
        self._asked()
        return {reason: count for reason, count in self._counts.items() if count}

    def open(self) -> None:
        self._asked()

    def close(self) -> None:
        self._asked()

    def read(self, timeout_s: float) -> Sample | None:
        self._asked()
        if self._left == 0:
            return None
        self._left -= 1
        self._counts[f"reason {self._left}"] = 1
        return GnssFix(1 + self._left, 1.0, 2.0)


def test_what_a_source_counts_is_never_read_while_it_changes() -> None:
    """A dict that grows while another thread goes through it raises: the reading thread alone looks, and publishes."""
    fragile = Fragile(3000)
    source = SupervisedSource(fragile, SystemClock(), np.random.default_rng(1), queue=4000)
    fragile.askers.clear()
    with source:
        seen, got = [], 0
        while not source.exhausted:
            got += source.read(0.0) is not None
            seen.append((sum(source.drops.values()), source.line_stats.frames))
    assert got == 3000  # the last sample is never lost to an `exhausted` that came before it
    assert seen == sorted(seen)
    assert (sum(source.drops.values()), source.line_stats.frames) == (3000, 3000)
    assert fragile.askers == {"sensor-gnss"}
