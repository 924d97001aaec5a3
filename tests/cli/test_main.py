"""The command's border: exit codes, errors, help."""

from __future__ import annotations

import pytest

from edgeguard.cli.main import VERBS, cli, run


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """The table of verbs is the documentation."""
    assert run(cli, "edgeguard", ["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_shows_its_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A verb in the table that cannot be loaded would be a dead entry."""
    assert run(cli, "edgeguard", [verb, "--help"]) == 0
    assert "Usage: edgeguard" in capsys.readouterr().out


def test_a_mistyped_verb_is_a_usage_error_that_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, hint on stderr, nothing on stdout."""
    assert run(cli, "edgeguard", ["replya"]) == 2
    captured = capsys.readouterr()
    assert "replay" in captured.err
    assert captured.out == ""


def test_a_deliberate_error_prints_code_and_hint_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Errors tell what to do next and keep stdout clean."""
    assert run(cli, "edgeguard", ["replay"]) == 2
    captured = capsys.readouterr()
    assert "edgeguard: error: give exactly one recording [EG-C020]" in captured.err
    assert "edgeguard: hint: edgeguard replay RECORDING" in captured.err
    assert captured.out == ""
