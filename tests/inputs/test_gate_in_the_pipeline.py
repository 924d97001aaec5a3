"""From clean pictures to a calibrated gate that a pipeline asks: nothing, restoration, refusal, and the record."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgeguard.checks.calibration_file import read_calibration, write_section
from edgeguard.cli.main import cli
from edgeguard.clock import NS_PER_S, ManualClock
from edgeguard.config import Config, load_config
from edgeguard.errors import CalibrationError, ConfigError
from edgeguard.infer.input_policy import InputPolicy
from edgeguard.keys.open_key import open_key
from edgeguard.restore.draw import Draw
from edgeguard.restore.image_chain import STANDARD_CHAINS
from edgeguard.runtime.models import OpenedModel, open_models
from edgeguard.runtime.pipeline import Pipeline
from edgeguard.runtime.record import frame_record
from edgeguard.sensors.frames import FrameReader
from edgeguard.sensors.recorded import RecordedStream
from edgeguard.types import CAMERA, FrameResult, Image, SourceInfo, Tick, Verdict

Site = Any


def run(*arguments: str) -> Result:
    """Run the command as a user does."""
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def calibrated(site: Site, clean_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that `calibrate inputs` writes for both models."""
    folder = tmp_path_factory.mktemp("calibrated")
    config = site.config(folder / "edgeguard.toml", folder / "calibration.json")
    done = run("calibrate", "inputs", str(clean_folder), *site.model_options, "--config", str(config),
               "--out", str(folder / "calibration.json"), "--format", "json")  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    assert said["frames"] == 80
    assert said["level"] == said["lowest_level"] == 0.125
    assert said["held_out_alarms"] <= 16
    return folder / "calibration.json"


def opened(stack: ExitStack, site: Site, config: Config) -> OpenedModel:
    """Open the models as `replay` does."""
    import msgspec

    settings = msgspec.structs.replace(
        config.model, bundle=str(site.first), trust=str(site.fleet.trust_folder), key=str(site.root / "device.pem"),
        model_id="colours-a",
    )  # fmt: skip
    return open_models(stack, msgspec.structs.replace(config, model=settings), open_key=open_key)


def drive(site: Site, config: Config, frames: list[np.ndarray]) -> list[FrameResult]:
    """Run frames through a pipeline at 10 Hz."""
    period_ns = NS_PER_S // 10
    stamps = np.arange(1, len(frames) + 1, dtype=np.int64) * period_ns
    stream = RecordedStream(
        SourceInfo(CAMERA, Image, period_ns, "test"), stamps, lambda k: Image(frames[k], int(stamps[k]))
    )
    clock = ManualClock(start_ns=0)
    with ExitStack() as stack:
        model = opened(stack, site, config)
        pipeline = stack.enter_context(
            Pipeline(
                config,
                {CAMERA: stream.source(clock)},
                clock,
                model=model.model,
                recheck=model.recheck,
                limits=model.limits,
            )
        )
        return [pipeline.step(Tick(k, int(stamp))) for k, stamp in enumerate(stamps)]


def test_clean_frames_keep_the_models_own_answer_and_attacked_ones_are_restored_with_evidence(
    site: Site, calibrated: Path, tmp_path: Path
) -> None:
    """Share of clean alarms near the level; every attacked frame says how its answer came about."""
    config = load_config(site.config(tmp_path / "c.toml", calibrated))
    clean = drive(site, config, [site.frame(seed) for seed in range(100, 140)])
    assert sum(frame.inputs.alarm for frame in clean) <= 12  # 5 expected at 12.5 %; 12 has p = 0.003
    quiet = next(frame for frame in clean if not frame.inputs.alarm)
    assert quiet.inputs.chains == ()
    assert quiet.classes[0].label in ("blue", "green", "red")
    attacked = drive(site, config, [site.attacked(seed) for seed in range(100, 140)])
    found = [frame for frame in attacked if frame.inputs is not None and frame.inputs.alarm]
    assert len(found) >= 36
    for frame in found:
        assert frame.inputs.restored
        assert len(frame.inputs.keys) == len(frame.inputs.chains) == 2
        assert frame.verdict is Verdict.DEGRADE
        assert "manipulated" in frame.verdict_reason
        assert frame.inputs.passes <= 12
    record = frame_record(found[0])
    assert record["inputs"]["chains"] == list(found[0].inputs.chains)
    assert record["inputs"]["keys"] == [str(key) for key in found[0].inputs.keys]
    assert "classes" not in record  # the log says what was decided, not what was seen
    json.dumps(record)


def test_the_evidence_makes_each_restored_view_again(site: Site, calibrated: Path, tmp_path: Path) -> None:
    """Chain name, key and the frame are all that is needed."""
    from edgeguard.restore.image_chain import ChainChoice

    config = load_config(site.config(tmp_path / "c.toml", calibrated))
    frame = site.attacked(7)
    (result,) = drive(site, config, [frame])
    assert result.inputs.restored
    choice = ChainChoice()
    assert result.inputs.chains_sha256 == choice.digest
    for chain, key in zip(result.inputs.chains, result.inputs.keys, strict=True):
        again = choice.apply(frame, key)
        assert again.chain == chain
        assert np.array_equal(again.pixels, choice.apply(frame, key).pixels)


def test_a_gate_that_refuses_releases_nothing_and_holds(site: Site, calibrated: Path, tmp_path: Path) -> None:
    """HOLD names the reason; no class leaves."""
    config = load_config(site.config(tmp_path / "c.toml", calibrated, gate="refuse"))
    frames = drive(site, config, [site.attacked(seed) for seed in range(5)])
    for frame in frames:
        assert frame.inputs.refused
        assert frame.classes == ()
        assert frame.verdict is Verdict.HOLD


def test_a_darkened_world_is_named_as_drift_and_changes_no_verdict(
    site: Site, calibrated: Path, tmp_path: Path
) -> None:
    """The release's own sketch is the reference; drift is evidence for people, not an alarm about a frame."""
    config = load_config(site.config(tmp_path / "c.toml", calibrated))
    assert drive(site, config, [site.frame(seed) for seed in range(200, 230)])[-1].inputs.drifted == ()
    dark = [(site.frame(seed) * 0.4).astype(np.uint8) for seed in range(200, 230)]
    assert "brightness" in drive(site, config, dark)[-1].inputs.drifted


def test_a_gate_without_its_calibration_does_not_start(site: Site, calibrated: Path, tmp_path: Path) -> None:
    """No file, a file without the section, other models, and a section that is none: all are refused."""
    key = open_key(str(site.root / "device.pem"))
    with ExitStack() as stack, pytest.raises(CalibrationError) as refused:
        opened(stack, site, load_config(site.config(tmp_path / "a.toml", "")))
    assert refused.value.code == "EG-L026"
    write_section(tmp_path / "empty.json", key, inputs={"schema": "nonsense"})
    with ExitStack() as stack, pytest.raises(CalibrationError) as refused:
        opened(stack, site, load_config(site.config(tmp_path / "b.toml", tmp_path / "empty.json")))
    assert refused.value.code == "EG-L001"
    alone = tmp_path / "alone.toml"
    alone.write_text(f'[inputs]\ngate = "restore"\n[calibration]\nfile = "{calibrated}"\n')
    with ExitStack() as stack, pytest.raises(CalibrationError) as refused:
        opened(stack, site, load_config(alone))
    assert refused.value.code == "EG-L025"


def test_calibrating_keeps_the_section_for_sensors(
    site: Site, calibrated: Path, clean_folder: Path, tmp_path: Path
) -> None:
    """And states a level that the frames do not support as an error with the number that would."""
    assert read_calibration(calibrated, key=open_key(str(site.root / "device.pem"))).inputs is not None
    config = site.config(tmp_path / "c.toml", calibrated)
    done = run("calibrate", "inputs", str(clean_folder), *site.model_options, "--config", str(config),
               "--out", str(tmp_path / "x.json"), "--level", "0.01")  # fmt: skip
    assert done.exit_code != 0
    assert not (tmp_path / "x.json").exists()


def test_diagnosed_frames_are_mended_with_the_limits_of_this_camera(
    site: Site, calibrated: Path, tmp_path: Path
) -> None:
    """Clean frames leave as they came; lost contrast is stretched, and the record says by which step."""
    path = site.config(tmp_path / "c.toml", calibrated)
    path.write_text(path.read_text() + '[restore]\nchain = ["impulse-median", "diagnosed"]\n')
    config = load_config(path)
    clean = [site.frame(seed) for seed in range(300, 330)]
    results = drive(site, config, clean)
    untouched = sum(r.synced.samples[CAMERA].pixels is frame for r, frame in zip(results, clean, strict=True))
    assert untouched >= 22  # the level is 12.5 %: 4 touched expected, more than 8 has p < 0.02
    flat = [(frame.astype(np.float32) * 0.2 + 100).astype(np.uint8) for frame in clean[:5]]
    for result in drive(site, config, flat):
        (restoration,) = result.restorations
        assert restoration.restorer == "diagnosed"
        assert restoration.note == "dehaze"
        assert np.ptp(result.synced.samples[CAMERA].pixels) > np.ptp(flat[0])


def test_a_policy_of_another_kind_or_version_is_refused(site: Site) -> None:
    """Fail closed: a device that does not understand a release's chains does not run others."""
    for bad in ({"schema": "edgeguard/input-policy/v2"}, {"schema": "edgeguard/input-policy/v1", "chains": []},
                {"schema": "edgeguard/input-policy/v1", "more": 1}):  # fmt: skip
        with pytest.raises(ConfigError) as refused:
            InputPolicy.of(bad)
        assert refused.value.code == "EG-C146"
    same = InputPolicy.of(InputPolicy.of(None).fields())
    assert same.chains == STANDARD_CHAINS
    frame = site.frame(1)
    assert np.array_equal(same.chains[0].apply(frame, Draw(0)), STANDARD_CHAINS[0].apply(frame, Draw(0)))


def test_frames_are_read_again_each_time_and_what_is_none_says_so(clean_folder: Path, tmp_path: Path) -> None:
    """A folder of pictures gives them in order; an empty one, and a file that is no picture, are errors."""
    from edgeguard.errors import RecordingError

    reader = FrameReader(clean_folder)
    assert reader.count() == 80
    assert np.array_equal(next(iter(reader)), next(iter(reader)))
    with pytest.raises(RecordingError) as refused:
        list(FrameReader(tmp_path))
    assert refused.value.code == "EG-N150"
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(RecordingError) as refused:
        list(FrameReader(tmp_path))
    assert refused.value.code == "EG-N151"
