"""`edgeguard scan`: may these model files be given to a machine-learning library at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from edgeguard.cli.options import progress_bar
from edgeguard.errors import EXIT_FINDING, EXIT_OK, ConfigError

if TYPE_CHECKING:
    from edgeguard.scan.findings import FileReport, Finding, Rule

FORMAT_VERSION: Final = 1  # of the JSON output; docs/scan.md describes it
_WIDTH: Final = 140  # of a table that goes to a file or a pipe
_COLOURS: Final = {"clean": "green", "not scanned": "cyan", "suspicious": "yellow", "malicious": "bold red"}
_LEVELS: Final = {"clean": "none", "not scanned": "note", "suspicious": "warning", "malicious": "error"}
_SEVERITIES: Final = {"clean": 0.0, "not scanned": 3.0, "suspicious": 6.0, "malicious": 9.5}
_ATLAS_URI: Final = "https://atlas.mitre.org/mitigations/"


@click.command("scan")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--format", "output_format", type=click.Choice(["text", "json", "sarif"]), default="text", show_default=True,
    envvar="EDGEGUARD_SCAN_FORMAT", help="How the result is written.",
)  # fmt: skip
@click.option("--output", "output_path", type=click.Path(path_type=Path), help="Write the result to a file.")
@click.option(
    "--allow-unscanned", is_flag=True,
    help="Exit 0 although files were not scanned, as long as nothing bad was found. They are still shown.",
)  # fmt: skip
def command(paths: tuple[Path, ...], output_format: str, output_path: Path | None, allow_unscanned: bool) -> int:
    """Scan model files and folders before anything parses them: nothing is unpickled, extracted or run.

    Exits 0 only when every file is clean, 1 when one is malicious, suspicious or not scanned.
    """
    reports = _scan(paths)
    render = {"text": _text, "json": _json, "sarif": _sarif}[output_format]
    if output_path is not None:
        _write(output_path, render(reports, colour=False))
    else:
        click.echo(render(reports, colour=True), nl=False)
    return _exit_code(reports, allow_unscanned=allow_unscanned)


def _scan(paths: Sequence[Path]) -> list[FileReport]:
    from edgeguard.scan.scanner import files_below, scan_file

    files = list(files_below(paths))
    if not files:
        raise ConfigError("there is no file to scan", code="EG-C082", hint="name a folder that has model files in it")
    reports: list[FileReport] = []
    with progress_bar() as bar:
        task = bar.add_task("scanning", total=len(files))
        for path in files:
            reports.append(scan_file(path))
            bar.advance(task)
    return reports


def _exit_code(reports: list[FileReport], *, allow_unscanned: bool) -> int:
    passing = {"clean", "not scanned"} if allow_unscanned else {"clean"}
    return EXIT_OK if all(report.verdict.value in passing for report in reports) else EXIT_FINDING


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {(error.strerror or 'unknown reason').lower()}", code="EG-C083",
            hint="choose another path for --output",
        ) from None  # fmt: skip


# -- text --------------------------------------------------------------------------------------------------------------


def _text(reports: list[FileReport], *, colour: bool) -> str:
    import io
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = io.StringIO()
    on_terminal = colour and sys.stdout.isatty()
    console = Console(file=stream, force_terminal=on_terminal, width=None if on_terminal else _WIDTH, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, overflow in (("verdict", "ignore"), ("content", "fold"), ("file", "fold")):
        table.add_column(heading, overflow=overflow)  # type: ignore[arg-type]
    for report in reports:
        verdict = report.verdict.value
        shown = verdict.upper() if verdict == "not scanned" else verdict
        table.add_row(Text(shown, _COLOURS[verdict]), Text(report.kind), Text(_printable(report.path)))
    console.print(table)
    for report in reports:
        if report.findings:
            console.print(Text(f"\n{_printable(report.path)}", "bold"), soft_wrap=True)
        for finding in report.findings:
            style = _COLOURS[finding.verdict.value]
            console.print(Text(f"  {finding.rule.rule_id}  ", style) + Text(_line(finding)), soft_wrap=True)
        if report.findings_left_out:
            console.print(f"  and {report.findings_left_out} more")
    console.print(Text(f"\n{_summary(reports)}"), soft_wrap=True)
    return stream.getvalue()


def _line(finding: Finding) -> str:
    where = f" in {_printable(finding.member)}" if finding.member else ""
    at = "" if finding.offset is None else f" at byte {finding.offset}"
    place = f" ({(where + at).strip()})" if where or at else ""
    return f"{finding.rule.title}: {finding.message}{place}"


def _printable(text: str) -> str:
    """Return a name from a file system or archive without what would steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _counts(reports: list[FileReport]) -> dict[str, int]:
    counts = dict.fromkeys(_COLOURS, 0)
    for report in reports:
        counts[report.verdict.value] += 1
    return counts


def _summary(reports: list[FileReport]) -> str:
    parts = ", ".join(f"{count} {name}" for name, count in _counts(reports).items() if count)
    return f"{len(reports)} file{'s' if len(reports) != 1 else ''}: {parts}"


# -- for machines ------------------------------------------------------------------------------------------------------


def _json(reports: list[FileReport], *, colour: bool) -> str:  # noqa: ARG001 - one signature for all renderers
    from edgeguard import __version__

    value = {
        "format": FORMAT_VERSION,
        "tool": {"name": "edgeguard", "version": __version__},
        "counts": _counts(reports),
        "files": [
            {
                "path": _printable(report.path),
                "size": report.size,
                "kind": report.kind,
                "verdict": report.verdict.value,
                "findings_left_out": report.findings_left_out,
                "findings": [_finding(finding) for finding in report.findings],
            }
            for report in reports
        ],
    }
    return json.dumps(value, indent=2) + "\n"


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule.rule_id,
        "verdict": finding.verdict.value,
        "title": finding.rule.title,
        "message": finding.message,
        "member": _printable(finding.member),
        "offset": finding.offset,
        "file_offset": finding.file_offset,
        "atlas": finding.rule.atlas,
    }


def _sarif(reports: list[FileReport], *, colour: bool) -> str:  # noqa: ARG001
    from edgeguard import __version__
    from edgeguard.report.sarif import SarifResult, SarifRule, SarifTool, render_sarif
    from edgeguard.scan.findings import RULES

    def rule(entry: Rule) -> SarifRule:
        verdict = entry.verdict.value
        tags = ("security", entry.atlas)
        return SarifRule(
            entry.rule_id, entry.title, _ATLAS_URI + entry.atlas, _LEVELS[verdict], tags, _SEVERITIES[verdict]
        )

    results = [
        SarifResult(
            finding.rule.rule_id,
            _LEVELS[finding.verdict.value],
            f"{finding.rule.title}: {finding.message}",
            report.path,
            _printable(finding.member),
            finding.file_offset,
        )
        for report in reports
        for finding in report.findings
    ]
    complete = not any(f.rule.verdict.value == "not scanned" for report in reports for f in report.findings)
    tool = SarifTool("EdgeGuard", __version__, "https://atlas.mitre.org/mitigations/AML.M0016")
    return render_sarif(tool, [rule(entry) for entry in RULES.values()], results, complete=complete)
