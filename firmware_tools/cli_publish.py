"""`edgeguard-provision publish`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeguard.cli.options import format_option, print_facts, progress_bar, say
from edgeguard.clock import SystemClock
from edgeguard.errors import ProvisioningError

if TYPE_CHECKING:
    from rich.progress import Progress

FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("fleet", type=FOLDER)
@click.argument("repository", type=FOLDER)
@click.argument("bundles", nargs=-1, type=FOLDER)
@click.option("--withdraw", multiple=True, metavar="IDENTITY", help="Take a bundle off offer; repeat for several.")
@click.option(
    "--refresh", is_flag=True, help="Renew snapshot and timestamp alone; needs no key but those two, both online."
)
@click.option(
    "--valid-days",
    default=30,
    show_default=True,
    type=click.IntRange(1, 3650),
    help="How long devices install from what is published now; what runs on them does not depend on it.",
)
@click.option("--dry-run", is_flag=True, help="Verify everything, say what would be written and signed, write nothing.")
@format_option
def publish(
    fleet: Path,
    repository: Path,
    bundles: tuple[Path, ...],
    withdraw: tuple[str, ...],
    refresh: bool,
    valid_days: int,
    dry_run: bool,
    output: str,
) -> None:
    """Put trust, list and BUNDLES of a FLEET into a REPOSITORY folder for web servers, buckets and sticks.

    Bundles that are on offer stay on offer. A run that was cut off is finished by running it again.
    """
    from firmware_tools import publish as work
    from firmware_tools.passphrase import open_fleet

    if refresh and (bundles or withdraw):
        raise ProvisioningError(
            "--refresh publishes and withdraws nothing", code="EG-P003", hint="leave one of them out"
        )
    opened, wall_ns = open_fleet(fleet), SystemClock().wall_ns()
    with progress_bar() as bar:
        if refresh:
            done = work.refresh(opened, repository, wall_ns=wall_ns, valid_days=valid_days, dry_run=dry_run)
        else:
            done = work.publish(
                opened,
                repository,
                bundles,
                wall_ns=wall_ns,
                withdraw=withdraw,
                valid_days=valid_days,
                dry_run=dry_run,
                progress=_drawn(bar),
            )
    facts: dict[str, object] = {
        "repository": str(done.repository),
        "on_offer": list(done.bundles) if output == "json" else len(done.bundles),
        "signed": list(done.signed) if output == "json" else ", ".join(done.signed) or "nothing new",
        "files_written": done.files_written,
        "files_kept": done.files_kept,
        "bytes_written": done.bytes_written,
        "fresh_until": done.fresh_until,
        "dry_run": done.dry_run,
    }
    if output == "json":
        facts["versions"] = dict(done.versions)
    print_facts(output, facts)
    if not dry_run:
        say(f"serve {done.repository} as static files, or copy it to a stick; renew it before {done.fresh_until}")


def _drawn(bar: Progress) -> Callable[[int, int], None]:
    task = bar.add_task("publishing", total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)
