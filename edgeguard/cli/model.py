"""`edgeguard model install | status | mark-good | mark-bad | rollback`: a device's models and where they come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgeguard.cli.options import format_option, open_device_key, print_facts, progress_bar, say, tpm_option
from edgeguard.errors import EXIT_FINDING

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgeguard.bundle.golden import GoldenResult
    from edgeguard.clock import Clock
    from edgeguard.keys.provider import KeyProvider, VerifiedStatement
    from edgeguard.trust.state import DeviceState
    from edgeguard.trust.store import TrustStore
    from edgeguard.update.slots import ModelSlots
    from edgeguard.update.store_files import StoreFiles

FOLDER = click.Path(path_type=Path)
F = TypeVar("F", bound=Callable[..., Any])


def _device_options(verb: F) -> F:
    """Add what every verb needs to know of this device."""
    for option in reversed((
        click.option("--store", "store_path", required=True, type=FOLDER, envvar="EDGEGUARD_STORE",
                     help="Folder of the model slots and the updater's cache."),
        click.option("--state", "state_path", required=True, type=FOLDER, envvar="EDGEGUARD_STATE",
                     help="The device's state folder."),
        click.option("--key", "key_path", required=True, metavar="KEY", envvar="EDGEGUARD_KEY",
                     help="The device's private key."),
        click.option("--trust", "trust_path", required=True, type=FOLDER, envvar="EDGEGUARD_TRUST",
                     help="Trust folder that the device was provisioned with; newer trust lies in the store."),
        click.option("--model-id", required=True, envvar="EDGEGUARD_MODEL_ID", help="The model."),
        click.option("--board", default="", envvar="EDGEGUARD_BOARD", help="The board this is."),
    )):  # fmt: skip
        verb = option(verb)
    return tpm_option(verb)


@dataclass(frozen=True)
class _Device:
    store: StoreFiles
    key: KeyProvider
    state: DeviceState
    slots: ModelSlots
    clock: Clock
    pinned: Path
    model_id: str
    board: str

    @property
    def trust(self) -> TrustStore:
        """The newest trust here, not older than the state."""
        from edgeguard.trust.store import TrustStore
        from edgeguard.update.client import current_trust_folder

        folder = current_trust_folder(self.store, self.pinned, self.state.fleet_id)
        return TrustStore.load(folder, self.clock.wall_ns(), expect_fleet=self.state.fleet_id)

    def verify(self, folder: Path) -> VerifiedStatement:
        """Verify a bundle directory in full, as this device."""
        from edgeguard.bundle.verify import verify_bundle

        verified = verify_bundle(
            folder, self.trust, expect_model=self.model_id, board=self.board, wall_ns=self.clock.wall_ns(),
            state=self.state,
        )  # fmt: skip
        return verified.statement


@contextmanager
def _device(
    store_path: Path, state_path: Path, key_path: str, trust_path: Path, model_id: str, board: str, tpm_counter: str
) -> Iterator[_Device]:
    from edgeguard.clock import SystemClock
    from edgeguard.keys.tpm_counter import TpmCounter
    from edgeguard.trust.state import DeviceState
    from edgeguard.trust.store import TrustStore
    from edgeguard.update.slots import ModelSlots
    from edgeguard.update.store_files import FolderStore

    clock = SystemClock()
    key = open_device_key(key_path)
    fleet_id = TrustStore.load(trust_path, 0).fleet_id
    with TpmCounter(key, tcti=tpm_counter) if tpm_counter else nullcontext() as counter:
        state = DeviceState.open(state_path, key=key, fleet_id=fleet_id, counter=counter)
        store = FolderStore(store_path)
        yield _Device(store, key, state, ModelSlots(store, state, model_id), clock, trust_path, model_id, board)


@click.group("model")
def command() -> None:
    """Install a model into the idle slot, try it, and keep it or go back.

    The order is: install, mark-good (which runs the health check), and rollback when regretted.
    """


@command.command()
@click.argument("repository")
@click.option("--identity", default="", help="Take exactly this bundle instead of the newest.")
@_device_options
@format_option
def install(repository: str, identity: str, output: str, **device: Any) -> None:
    """Fetch the newest bundle from REPOSITORY (https://, http://, file:// or a path) and put it on trial.

    A download that broke off is gone on with. The counter floor rises with mark-good, not here.
    """
    from dataclasses import asdict

    from edgeguard.update.client import UpdateClient
    from edgeguard.update.install import ModelInstaller
    from edgeguard.update.source import open_source

    source = open_source(repository)
    with _device(**device) as here, progress_bar() as bar:
        client = UpdateClient(here.store, source, pinned=here.pinned, state=here.state, clock=here.clock)
        index = client.refresh()
        installer = ModelInstaller(
            here.store, source, index, key=here.key, state=here.state, clock=here.clock, progress=_drawn(bar)
        )
        done = installer.install(here.model_id, board=here.board, identity=identity)
    print_facts(output, asdict(done))
    say("already there" if done.already_there else "now on trial; next: edgeguard model mark-good")


@command.command()
@_device_options
@format_option
def status(output: str, **device: Any) -> None:
    """Show the two slots and which one starts next; nothing is changed."""
    import msgspec

    with _device(**device) as here:
        record = here.slots.record
        facts = msgspec.to_builtins(record)
        facts["floor"] = "{}:{}".format(*here.state.floor(here.model_id))
    if output == "json":
        click.echo(json.dumps(facts, indent=2, sort_keys=True))
        return
    click.echo(f"model   {here.model_id}  floor {facts['floor']}")
    for name in ("a", "b"):
        slot = record.slot(name)
        active = "active" if record.active == name else ""
        tries = f"{slot.tries} tries left" if slot.status == "trial" else ""
        click.echo(f"slot {name}  {slot.status:7}  {slot.identity[:16]:16}  {active}{tries}".rstrip())


@command.command("mark-good")
@click.option(
    "--no-check", is_flag=True, help="Do not run the bundle's golden inputs: the caller has checked the model."
)
@_device_options
@format_option
def mark_good(no_check: bool, output: str, **device: Any) -> int:
    """Start the trial, run its golden inputs, and commit it if they give what they must; else it is marked bad."""
    with _device(**device) as here:

        def opening(folder: Path) -> tuple[VerifiedStatement, GoldenResult | None]:
            return _tried(here, folder, check=not no_check)

        if not any(here.slots.record.slot(name).status == "trial" for name in ("a", "b")):
            from edgeguard.errors import TrustError

            raise TrustError("no model is on trial", code="EG-T061", hint="edgeguard model status")
        started = here.slots.start(opening)
        statement, result = started.value
        failed = not started.on_trial or (result is not None and not result.passed)
        if started.on_trial and failed:
            here.slots.mark_bad()
        elif started.on_trial:
            here.slots.mark_good(statement)
        reason = result.reason if result is not None else ""
        if not started.on_trial:
            reason = "; ".join(why for _, why in started.refusals)
        facts = {
            "identity": statement.identity.hex(),
            "release": statement.release,
            "slot": started.slot,
            "verdict": "bad" if failed else "good",
            "checked": result is not None,
            "reason": reason,
        }
    print_facts(output, facts)
    if not failed and result is None and not no_check:
        say("the bundle carries no golden inputs: it opens, and that is all that was checked")
    return EXIT_FINDING if failed else 0


@command.command("mark-bad")
@_device_options
@format_option
def mark_bad(output: str, **device: Any) -> None:
    """Give the trial up; the model that worked before stays."""
    with _device(**device) as here:
        slot = here.slots.mark_bad()
    print_facts(output, {"slot": slot, "verdict": "bad"})


@command.command()
@_device_options
@format_option
def rollback(output: str, **device: Any) -> None:
    """Go back to the other slot, if it is good and no floor has risen above it."""
    with _device(**device) as here:
        slot = here.slots.rollback(here.verify)
        identity = here.slots.record.slot(slot).identity
    print_facts(output, {"slot": slot, "identity": identity})


def _tried(here: _Device, folder: Path, *, check: bool) -> tuple[VerifiedStatement, GoldenResult | None]:
    """Open a bundle as the runtime does and run its golden inputs; None where there are none, or none are wanted."""
    from edgeguard.bundle.golden import golden_check, parse_golden
    from edgeguard.bundle.model import open_model
    from edgeguard.infer.session import InferenceSession

    with open_model(
        folder, trust=here.trust, key=here.key, expect_model=here.model_id, board=here.board,
        wall_ns=here.clock.wall_ns(), state=here.state,
    ) as model:  # fmt: skip
        statement = model.statement
        golden = parse_golden(model.golden) if check and model.golden is not None else None
        with InferenceSession(model) as session:
            if golden is None:
                return statement, None
            names = [output.name for output in session.get_outputs()]
            return statement, golden_check(
                lambda feeds: dict(zip(names, session.run(names, feeds), strict=True)), golden
            )


def _drawn(bar: Progress) -> Callable[[int, int], None]:
    task = bar.add_task("fetching", total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)
