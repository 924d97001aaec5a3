"""Both recording formats carry every field of every sample type: a field added to a type is drawn here by itself."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeguard.clock import ManualClock
from edgeguard.errors import RecordingError
from edgeguard.sensors.mcap_codec import decode_sample, encode_sample, schema_of
from edgeguard.sensors.mcap_schemas import SCHEMAS
from edgeguard.sensors.npz import LAYOUTS, NpzRecording, save_npz
from edgeguard.types import GnssFix, PointCloud, Sample

NUMBER = st.floats(0.5, 80.0)  # a place on earth, a speed, an accuracy: what a reader would not refuse
COUNT = st.integers(1, 30)


def _values(annotation: str, rows: int, rng: np.random.Generator) -> st.SearchStrategy[object]:
    """Values for a field by its annotation, never its default; an annotation that is not known here fails the test."""

    def array(shape: tuple[int, ...], kind: str) -> st.SearchStrategy[object]:
        return st.just(rng.integers(1, 100, shape).astype(kind))

    plain = annotation.removesuffix(" | None")
    known: dict[str, st.SearchStrategy[object]] = {
        "int": st.integers(2, 2**60),
        "float": NUMBER,
        "tuple[float, ...]": st.lists(NUMBER, min_size=1, max_size=5).map(tuple),
        "tuple[float, float, float]": st.tuples(NUMBER, NUMBER, NUMBER),
        "tuple[float, float, float, float]": st.tuples(NUMBER, NUMBER, NUMBER, NUMBER),
        "NDArray[np.uint8]": array((4, 6, 3), "u1"),
        "NDArray[np.int16]": array((rows,), "i2"),
        "NDArray[np.int32]": array((rows,), "i4"),
    }
    return known[plain]


@st.composite
def full_samples(draw: st.DrawFn) -> Sample:
    """A sample of any kind in which every field has a value of its own."""
    sensor = draw(st.sampled_from(sorted(LAYOUTS)))
    kind, rows = LAYOUTS[sensor].kind, draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    told: dict[str, object] = {}
    for field in fields(kind):
        annotation = str(field.type)
        if field.name == "sensor":
            told[field.name] = sensor
        elif annotation == "NDArray[np.float32]":
            shape = (rows, 3) if field.name == "xyz" else (rows,)
            told[field.name] = rng.uniform(0.5, 80.0, shape).astype(np.float32)
        elif annotation == "int | None" and "stamp" not in field.name:
            told[field.name] = draw(COUNT)
        elif field.name == "fix_quality":
            told[field.name] = draw(st.integers(2, 8))
        else:
            told[field.name] = draw(_values(annotation, rows, rng))
    sample: Sample = kind(**told)
    return sample


def told(sample: Sample) -> dict[str, object]:
    """Comparable: arrays as type, shape and bytes."""
    held = {f.name: getattr(sample, f.name) for f in fields(sample)}
    return {n: (v.dtype.str, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for n, v in held.items()}


@given(full_samples(), st.sampled_from(["png", "raw"]))
def test_a_message_carries_every_field(sample: Sample, images: str) -> None:
    """MCAP: what is decoded equals what was encoded, field by field."""
    back = decode_sample(schema_of(sample, images), sample.sensor, encode_sample(sample, 0, images))

    assert not isinstance(back, str), back
    assert told(back) == told(sample)


@settings(max_examples=40)
@given(st.lists(full_samples(), min_size=1, max_size=6))
def test_an_npz_carries_every_field(tmp_path_factory: pytest.TempPathFactory, samples: list[Sample]) -> None:
    """npz: likewise, also for fixes with different numbers of satellites."""
    path = tmp_path_factory.mktemp("npz") / "d.npz"
    ordered = sorted(samples, key=lambda s: s.stamp_ns)
    save_npz(path, [(s.stamp_ns, s) for s in ordered])
    clock = ManualClock(start_ns=2**61)
    played: list[Sample] = []
    for source in NpzRecording(path).sources(clock).values():
        while (sample := source.read(0.0)) is not None:
            played.append(sample)

    for sensor in LAYOUTS:
        kept = [told(s) for s in ordered if s.sensor == sensor]
        assert [told(s) for s in played if s.sensor == sensor] == kept


def test_the_schema_in_the_file_names_every_field_of_a_fix() -> None:
    """Whoever reads the recording with other tools finds the names in its schema."""
    own = {f.name for f in fields(GnssFix)} - {"sensor"}
    text = SCHEMAS["foxglove.LocationFix"].decode()
    assert {name for name in own if f'"{name}"' in text} == own


@pytest.mark.parametrize("device_ns", [2**63, (2**64 - 1) * 1000])
def test_a_device_clock_at_its_end_is_recorded_or_refused_with_a_reason(device_ns: int, tmp_path: Path) -> None:
    """A node's 64-bit microseconds are more nanoseconds than an int64 holds: MCAP keeps them, npz refuses."""
    fix = GnssFix(1, 2.0, 3.0, device_stamp_ns=device_ns)
    back = decode_sample("foxglove.LocationFix", "gnss", encode_sample(fix, 0, "png"))
    assert back == fix
    with pytest.raises(RecordingError) as caught:
        save_npz(tmp_path / "d.npz", [(1, fix)])
    assert caught.value.code == "EG-N077"


def test_a_satellite_list_without_end_is_refused(tmp_path: Path) -> None:
    """The bound of the format document holds on both sides."""
    with pytest.raises(RecordingError) as caught:
        save_npz(tmp_path / "d.npz", [(1, GnssFix(1, 2.0, 3.0, cn0_dbhz=(40.0,) * 513))])
    assert caught.value.code == "EG-N077"
    arrays = {"edgeguard_npz": 1, "gnss_stamp_ns": [1], "gnss_latitude_deg": [1.0], "gnss_longitude_deg": [1.0]}
    np.savez(tmp_path / "wide.npz", gnss_cn0_dbhz=np.zeros((1, 513)), **arrays)
    with pytest.raises(RecordingError) as caught:
        NpzRecording(tmp_path / "wide.npz")
    assert caught.value.code == "EG-N076"


def test_a_cloud_beside_fixes_keeps_its_optional_arrays(tmp_path: Path) -> None:
    """Ring and time are there or not for a whole drive; a mixture is refused, not filled with zeros."""
    points = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    mixed = [(1, PointCloud(*points, 1, ring=np.zeros(2, np.int16))), (2, PointCloud(*points, 2))]
    with pytest.raises(RecordingError) as caught:
        save_npz(tmp_path / "d.npz", mixed)
    assert caught.value.code == "EG-N077"
