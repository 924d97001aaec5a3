"""The lidar fuzzer, short in every run and long on request."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def fuzzer() -> ModuleType:
    """The fuzzer beside this file; tests are no package."""
    spec = importlib.util.spec_from_file_location("fuzz_lidar_udp", Path(__file__).with_name("fuzz_lidar_udp.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_twenty_thousand_mutated_inputs_raise_nothing(fuzzer: ModuleType) -> None:
    """And enough of them are accepted that the code behind the first checks is reached."""
    assert fuzzer.fuzz(1, 20_000) > 5_000


@pytest.mark.slow
def test_a_million_mutated_inputs_raise_nothing(fuzzer: ModuleType) -> None:
    """Another seed, fifty times as long."""
    assert fuzzer.fuzz(2, 1_000_000) > 250_000
