"""The bytes being scanned, and the bounded state of one file's scan.

Every scanner has the form `scan_x(content, context)`: it reads `content`, reports into `context`, and hands parts that
are files of their own back through `context.scan`. Nothing is ever written to disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from edgeguard.scan.findings import MAX_FINDINGS, MAX_MESSAGE, RULES, FileReport, Finding, ScanVerdict, worst

MAX_DEPTH: Final = 5  # gzip of a zip of a checkpoint of a pickle in a pickle; honest files stop at 3
MAX_UNPACKED_BYTES: Final = 256 << 20  # decompressed per file, all parts together; a scan holds at most twice that
READS_PER_BYTE: Final = 8  # members that share bytes of an archive are read once each: bounds how often
LEAST_READ_BYTES: Final = 64 << 20
MAX_STEPS: Final = 3_000_000  # pickle opcodes per file, all parts together: seconds, and half a gigabyte at worst
SHOWN_CHARACTERS: Final = 120


@dataclass(frozen=True, slots=True)
class Content:
    """A part of a file: its bytes in place, its own name, and where it starts in the file (None once decompressed)."""

    data: memoryview
    name: str
    member: str = ""
    file_offset: int | None = 0

    def part(self, start: int, end: int, name: str) -> Content:
        """Return the bytes `start:end` as a part of their own, called `name`."""
        base = None if self.file_offset is None else self.file_offset + start
        return Content(self.data[start:end], name, _way(self.member, name), base)

    def unpacked(self, data: bytes | memoryview, name: str) -> Content:
        """Return bytes that were made out of this part, called `name`."""
        return Content(memoryview(data), name, _way(self.member, name), None)


def _way(member: str, name: str) -> str:
    return f"{member} > {name}" if member else name


def shown(text: object) -> str:
    """Return something from the file for a message: quoted, escaped and cut."""
    quoted = ascii(text) if isinstance(text, str) else repr(text)
    return quoted if len(quoted) <= SHOWN_CHARACTERS else quoted[:SHOWN_CHARACTERS] + "..."


@dataclass(slots=True)
class Context:
    """What the scan of one file has found and spent."""

    dispatch: Callable[[Content, Context], str]
    depth: int = 0
    unpacked_left: int = MAX_UNPACKED_BYTES
    read_left: int = LEAST_READ_BYTES
    steps_left: int = field(default_factory=lambda: MAX_STEPS)
    findings: list[Finding] = field(default_factory=list)
    left_out: int = 0
    verdict: ScanVerdict = ScanVerdict.CLEAN
    _seen: set[tuple[str, str, str]] = field(default_factory=set)

    def report(
        self,
        rule_id: str,
        content: Content,
        message: str,
        *,
        offset: int | None = None,
        verdict: ScanVerdict | None = None,
    ) -> None:
        """Record a finding in `content`; the same rule and message in one part counts once."""
        rule = RULES[rule_id]
        means = rule.verdict if verdict is None else verdict
        self.verdict = worst([self.verdict, means])
        key = (rule_id, content.member, message)
        if key in self._seen:
            return
        if len(self.findings) >= MAX_FINDINGS:
            self._make_room(means)
            if len(self.findings) >= MAX_FINDINGS:
                return
        self._seen.add(key)
        base = content.file_offset
        place = None if base is None or offset is None else base + offset
        cut = message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + "..."
        self.findings.append(Finding(rule, means, cut, content.member, offset, place))

    def _make_room(self, means: ScanVerdict) -> None:
        """Count one finding as left out: the mildest, so that a flood of trifles cannot hide the rest."""
        self.left_out += 1
        mildest = min(range(len(self.findings)), key=lambda i: self.findings[i].verdict.rank)
        if self.findings[mildest].verdict.rank < means.rank:
            del self.findings[mildest]

    def allow(self, size: int) -> None:
        """Set how many bytes archive members may take together, for a file of `size` bytes."""
        self.read_left = READS_PER_BYTE * size + LEAST_READ_BYTES

    def scan(self, content: Content) -> str:
        """Scan a part that is a file of its own; return its kind."""
        if self.depth >= MAX_DEPTH:
            self.report("EG-SCAN-006", content, f"more than {MAX_DEPTH} containers in one another")
            return "not looked at"
        self.depth += 1
        try:
            return self.dispatch(content, self)
        finally:
            self.depth -= 1

    def to_report(self, path: str, size: int, kind: str) -> FileReport:
        """Return the outcome, worst findings first."""
        ordered = sorted(self.findings, key=lambda finding: -finding.verdict.rank)
        return FileReport(path, size, kind, self.verdict, tuple(ordered), self.left_out)
