"""Fixtures every test folder shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("edgeguard", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("edgeguard")


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real recordings; tests that need it carry the marker `realdata` and skip without it."""
    folder = os.environ.get("EDGEGUARD_REALDATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("EDGEGUARD_REALDATA does not name a folder with real recordings")
    return Path(folder)
