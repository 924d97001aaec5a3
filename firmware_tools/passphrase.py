"""Where a passphrase comes from: a prompt, a file that only its owner can read, or the environment; never an argument.

Arguments are seen by everybody who can list processes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeguard.cli.options import ask_secret
from edgeguard.errors import KeyUnavailableError
from edgeguard.keys.private_file import read_private_file

if TYPE_CHECKING:
    from firmware_tools.fleet import Fleet

VARIABLE = "EDGEGUARD_PROVISION_PASSPHRASE"
MIN_CHARACTERS = 8  # below this, guessing is a matter of minutes whatever the key derivation


@dataclass(frozen=True, slots=True)
class PassphraseSource:
    """The choice made on the command line."""

    file: Path | None = None
    ask: bool = False

    def read(self, *, new: bool = False) -> bytes | None:
        """Return the passphrase, None where none was chosen. new: it will encrypt keys, so it is asked for twice.

        Raises:
            KeyUnavailableError: EG-K001 the file cannot be read, EG-K002 open to others, EG-K007 empty or too short.
        """
        text: bytes | None = None
        if self.file is not None:
            hint = "write it to a file of mode 600"
            text = read_private_file(self.file, hint).removesuffix(b"\n").removesuffix(b"\r")
        elif self.ask:
            text = click.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True).encode()
        elif VARIABLE in os.environ:
            text = os.environ[VARIABLE].encode()
        if text is not None and (not text or (new and len(text) < MIN_CHARACTERS)):
            raise KeyUnavailableError(
                f"a passphrase has at least {MIN_CHARACTERS} characters", code="EG-K007", hint="choose a longer one"
            )
        return text


def chosen_passphrase(*, new: bool = False) -> bytes | None:
    """Return the passphrase that this command was given."""
    source = click.get_current_context().find_root().obj
    return source.read(new=new) if isinstance(source, PassphraseSource) else PassphraseSource().read(new=new)


def open_fleet(folder: Path) -> Fleet:
    """Return the fleet in `folder`, with the passphrase that this command was given."""
    from firmware_tools.fleet import Fleet

    return Fleet.open(folder, chosen_passphrase(), ask_secret)
