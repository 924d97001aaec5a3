"""Open a protected model, look at one frame, and be refused where that is due.

    model.py GIVEN MADE

GIVEN holds what the host made: `trust`, `bundle`, `tampered`, `device.pem`, `stranger.pem`, `frames.npz`. MADE gets
`model.npz` and `model.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edgeguard.errors import EdgeGuardError
from edgeguard.infer.adapter import ImageModel
from edgeguard.infer.session import InferenceSession
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.store import TrustStore
from edgeguard.types import Image

MODEL_ID = "smoke-detector"
NOW_NS = 1_790_000_000_000_000_000  # of the signatures, so that a later day changes nothing


def main(given: Path, made: Path) -> None:
    """Write what the model says of the first frame, and which code each forgery is refused with."""
    trust = TrustStore.load(given / "trust", NOW_NS)
    key = FileKeyProvider(given / "device.pem")
    pixels = np.load(given / "frames.npz")["camera"]
    with InferenceSession(given / "bundle", trust=trust, key=key, expect_model=MODEL_ID, wall_ns=NOW_NS) as session:
        model = ImageModel.of(session)
        found = model.ask(Image(pixels, 0)).detections or ()
        rng = np.random.default_rng(1)
        feeds = {port.name: rng.standard_normal(port.shape, dtype=np.float32) for port in session.get_inputs()}
        outputs = session.run(None, feeds)
        providers = session.get_providers()
    refused = {
        "tampered": _code(given / "tampered", trust, key),
        "stranger": _code(given / "bundle", trust, FileKeyProvider(given / "stranger.pem")),
    }
    boxes = np.array([[d.score, *d.box_xyxy] for d in found]).reshape(-1, 5)
    np.savez(made / "model.npz", boxes=boxes, **{f"output{k}": value for k, value in enumerate(outputs)})
    facts = {"labels": [d.label for d in found], "providers": providers, "refused": refused}
    (made / "model.json").write_text(json.dumps(facts))


def _code(bundle: Path, trust: TrustStore, key: FileKeyProvider) -> str:
    try:
        with InferenceSession(bundle, trust=trust, key=key, expect_model=MODEL_ID, wall_ns=NOW_NS):
            return "opened"
    except EdgeGuardError as error:
        return error.code


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
