"""A plain ONNX becomes a signed, encrypted bundle for one device, and runs from it; in a throw-away folder."""

from __future__ import annotations

import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

import edgeguard
from edgeguard.clock import SystemClock
from edgeguard.keys.file import FileKeyProvider
from edgeguard.trust.state import DeviceState
from firmware_tools.enroll import enroll, make_request
from firmware_tools.fleet import Fleet
from firmware_tools.grant import grant
from firmware_tools.pack import Release, pack_model


def main() -> None:
    now_ns = SystemClock().wall_ns()
    with tempfile.TemporaryDirectory() as folder, as_file(files("edgeguard.sim") / "models") as models:
        work = Path(folder)

        # The host: keys, one device, one model.
        fleet = Fleet.create(work / "fleet", name="example", wall_ns=now_ns, allow_unlocked_memory=True)
        device_key = FileKeyProvider.generate(work / "device.pem")
        request = work / "device.request"
        request.write_bytes(make_request(device_key, fleet.trust(now_ns), device_name="robot-1", board="x86-64"))
        enroll(fleet, request, confirm=lambda pending: True, wall_ns=now_ns)  # a person compares fingerprints here
        bundle = work / "obstacle.bundle"
        pack_model(fleet, models / "obstacle_detector.onnx", bundle, release=Release("obstacle", "1.0"), wall_ns=now_ns)
        grant(fleet, bundle, "robot-1", wall_ns=now_ns)

        # The device: pinned trust, its own key, what it remembers (made once, with the key), and the model it expects.
        trust = edgeguard.TrustStore.load(fleet.trust_folder, now_ns)
        state = DeviceState.create(work / "state", key=device_key, trust=trust)
        with edgeguard.InferenceSession(
            bundle, trust=trust, key=device_key, expect_model="obstacle", state=state
        ) as session:
            port = session.get_inputs()[0]
            outputs = session.run(None, {port.name: np.zeros(port.shape, np.float32)})
            print("ran from the bundle:", [output.shape for output in outputs], session.get_providers())
            state.commit(session.statement)  # it works: from now on nothing below its counter runs here

        # What must not open.
        try:
            edgeguard.InferenceSession(models / "obstacle_detector.onnx", trust=trust, key=device_key)
        except edgeguard.EdgeGuardError as error:
            print("refused:", error)


if __name__ == "__main__":
    main()
