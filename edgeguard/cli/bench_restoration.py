"""`edgeguard bench restoration`: what gate and restoration do for classifiers, on the user's own pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeguard.cli.options import say
from edgeguard.errors import ConfigError

if TYPE_CHECKING:
    from edgeguard.sim.restoration.bench import RestorationResult


@click.command("restoration")
@click.option(
    "--models", multiple=True, required=True, type=click.Path(path_type=Path),
    help="ONNX classifiers, each with its .toml beside it; the first one's answers are released. Repeat.",
)  # fmt: skip
@click.option(
    "--preprocess",
    multiple=True,
    metavar="MODEL.onnx=FILE.toml",
    help="A description that does not lie beside its model.",
)
@click.option("--images", required=True, type=click.Path(path_type=Path), help="Folder of photographs.")
@click.option("--labels", required=True, type=click.Path(path_type=Path), help="CSV with columns file and label.")
@click.option("--limit", type=click.IntRange(40), help="Use so many photographs, drawn by --seed; all without it.")
@click.option("--attacked", type=click.IntRange(1), default=100, show_default=True, help="Photographs to attack.")
@click.option("--attacks", multiple=True, metavar="NAME", help="Attacks to run; all without it.")
@click.option("--no-corruptions", is_flag=True, help="Leave the natural corruptions out.")
@click.option(
    "--queries", type=click.IntRange(0, 10_000), default=0, show_default=True,
    help="Questions per photograph of an attacker who sees only answers (Square attack); 400 takes long.",
)  # fmt: skip
@click.option("--level", type=click.FloatRange(0.0001, 0.5), help="Share of clean frames that may alarm.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of all randomness.")
@click.option(
    "--cache", type=click.Path(path_type=Path), default=Path("attacked-sets"), show_default=True,
    help="Where attacked sets are kept and found again.",
)  # fmt: skip
@click.option("--format", "output", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True)
def command(
    models: tuple[Path, ...],
    preprocess: tuple[str, ...],
    images: Path,
    labels: Path,
    limit: int | None,
    attacked: int,
    attacks: tuple[str, ...],
    no_corruptions: bool,
    queries: int,
    level: float | None,
    seed: int,
    cache: Path,
    output: str,
) -> None:
    """Attack and corrupt pictures, and measure what the gate and the restorers make of them.

    Needs the extra `eval` for attacks by gradients. An attacker who knows everything wins: his rows stand beside the
    others.

    \b
    edgeguard bench restoration --models a.onnx --models b.onnx --images photos/ --labels labels.csv
    """
    from edgeguard.sim.restoration.attacked import RECIPES
    from edgeguard.sim.restoration.bench import MIN_ATTACKED, run_bench
    from edgeguard.sim.restoration.members import open_member
    from edgeguard.sim.restoration.pictures import read_pictures

    given = _descriptions(preprocess)
    members = [open_member(path, given.get(path.name)) for path in models]
    side = members[0].victim.spec.size_px[0]
    pictures = read_pictures(images, labels, side, limit=limit, seed=seed)
    if attacked < MIN_ATTACKED:
        say(f"note: {attacked} attacked frames leave wide intervals; take {MIN_ATTACKED} or more")
    shown: set[str] = set()

    def step(what: str) -> None:
        if what not in shown:
            shown.add(what)
            say(what)

    found = run_bench(
        pictures,
        members,
        attacks=attacks or tuple(RECIPES),
        attacked_count=attacked,
        cache=cache,
        level=level,
        corruptions=not no_corruptions,
        queries=queries,
        seed=seed,
        on_step=step,
    )
    click.echo(json.dumps(found.to_json()) if output == "json" else _table(found, markdown=output == "markdown"))


def _descriptions(pairs: tuple[str, ...]) -> dict[str, Path]:
    found = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator or not path:
            raise ConfigError(f"--preprocess takes MODEL.onnx=FILE.toml, not {pair!r}", code="EG-C144")
        found[Path(name).name] = Path(path)
    return found


def _table(found: RestorationResult, *, markdown: bool) -> str:
    head = ["case", "attacker", "frames", "undefended", "right", "95 %", "alarms", "AUC", "adaptive twin"]
    lines = []
    by_name = {row.name: row for row in found.rows}
    for row in found.rows:
        low, high = row.right.interval
        twin = by_name.get(row.twin)
        lines.append([
            row.name,
            row.knowledge,
            str(row.right.trials),
            f"{row.undefended.value:.2f}",
            f"{row.right.value:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{row.alarms.value:.3f}",
            "-" if row.auc is None else f"{row.auc:.3f}",
            f"{twin.name} {twin.right.value:.2f}" if twin else row.twin and f"{row.twin} not run",
        ])  # fmt: skip
    title = f"{found.photographs} photographs, {' + '.join(found.models)}; level {found.level:.2%}, fitted on others"
    asked = _asking(found)
    if markdown:
        body = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(line) for line in lines)]
        return "\n".join([title, "", *(f"| {line} |" for line in body), *(("", asked) if asked else ())])
    widths = [max(len(line[k]) for line in [head, *lines]) for k in range(len(head))]
    return "\n".join(
        [
            title,
            *(
                "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                for line in [head, *lines]
            ),
            *([asked] if asked else []),
        ]
    )


def _asking(found: RestorationResult) -> str:
    """One sentence about the attacker who may only ask."""
    asking = found.asking
    if asking is None:
        return ""
    low, high = asking.right.interval
    until = "never" if asking.questions is None else f"after {asking.questions:.0f} (95 %: {asking.questions_p95:.0f})"
    return (
        f"Square attack by questions: right {asking.right.value:.2f} ({low:.2f}-{high:.2f}) of {asking.right.trials}, "
        f"the bare model {asking.undefended.value:.2f}; noticed in {asking.noticed.value:.0%}, {until} questions"
    )
