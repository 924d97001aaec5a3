"""What a scan says: rules with stable ids, findings with a place, one verdict per file.

A verdict is a value, not an exception: a hostile file is the expected input of a scanner. The order of the verdicts is
the order of precedence: one malicious part makes the file malicious, and a part that was not looked at keeps the file
from ever being called clean.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

MAX_FINDINGS: Final = 200  # per file; a table longer than that is read by nobody, the count goes on
MAX_MESSAGE: Final = 400  # characters; names inside come from the file

ATLAS_SCAN: Final = "AML.M0016"
ATLAS_CODE: Final = "AML.M0011"


class ScanVerdict(Enum):
    """CLEAN: everything was read and nothing is wrong. NOT_SCANNED: some of it was not read, nothing wrong so far."""

    CLEAN = "clean"
    NOT_SCANNED = "not scanned"
    SUSPICIOUS = "suspicious"
    MALICIOUS = "malicious"

    @property
    def rank(self) -> int:
        """Place in the order of precedence; the highest of a file's findings is its verdict."""
        return _RANKS[self]


_RANKS: Final = {verdict: rank for rank, verdict in enumerate(ScanVerdict)}


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing the scanner looks for. `verdict` is what a finding of it means unless the finding says otherwise."""

    rule_id: str
    title: str
    verdict: ScanVerdict
    atlas: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    `member` is the way from the file to the part, "" for the file itself, "archive/data.pkl" inside an archive,
    "a.zip > b.npy" inside one another. `offset` counts bytes from the start of that part, None where no single byte
    is to blame. `file_offset` counts from the start of the file, None inside compressed parts.
    """

    rule: Rule
    verdict: ScanVerdict
    message: str
    member: str
    offset: int | None
    file_offset: int | None


@dataclass(frozen=True, slots=True)
class FileReport:
    """The outcome for one file. `kind` is what the content is, whatever the name says."""

    path: str
    size: int
    kind: str
    verdict: ScanVerdict
    findings: tuple[Finding, ...]
    findings_left_out: int = 0


def worst(verdicts: list[ScanVerdict]) -> ScanVerdict:
    """Return the verdict of highest rank, CLEAN for none."""
    return max(verdicts, key=lambda verdict: verdict.rank, default=ScanVerdict.CLEAN)


_N, _S, _M = ScanVerdict.NOT_SCANNED, ScanVerdict.SUSPICIOUS, ScanVerdict.MALICIOUS

# Ids never change their meaning. 0xx the file, 1xx pickle, 2xx archives and compression, 3xx ONNX, 4xx tensor files,
# 5xx Keras, 6xx TensorFlow, 7xx text and programs.
RULES: Final = {
    rule.rule_id: rule
    for rule in (
        Rule("EG-SCAN-001", "the content is of no kind the scanner reads", _N, ATLAS_SCAN),
        Rule("EG-SCAN-002", "the content is not what the name promises", _S, ATLAS_SCAN),
        Rule("EG-SCAN-003", "too large to be scanned", _N, ATLAS_SCAN),
        Rule("EG-SCAN-004", "cannot be read", _N, ATLAS_SCAN),
        Rule("EG-SCAN-005", "a link, device or pipe instead of a file", _S, ATLAS_SCAN),
        Rule("EG-SCAN-006", "nested too deep", _N, ATLAS_SCAN),
        Rule("EG-SCAN-007", "a known format that is not looked into", _N, ATLAS_SCAN),
        Rule("EG-SCAN-101", "a pickle imports code that acts on the machine", _M, ATLAS_CODE),
        Rule("EG-SCAN-102", "a pickle imports code that is not known to be harmless", _S, ATLAS_CODE),
        Rule("EG-SCAN-103", "a pickle imports something whose name is computed", _M, ATLAS_CODE),
        Rule("EG-SCAN-104", "a pickle calls or changes what no honest pickle does", _M, ATLAS_CODE),
        Rule("EG-SCAN-105", "a pickle is damaged or cut short", _S, ATLAS_SCAN),
        Rule("EG-SCAN-106", "bytes after the end of a pickle", _S, ATLAS_SCAN),
        Rule("EG-SCAN-107", "a pickle has more steps than are followed", _N, ATLAS_SCAN),
        Rule("EG-SCAN-108", "a pickle asks for memory out of proportion", _S, ATLAS_SCAN),
        Rule("EG-SCAN-110", "a persistent id or extension code outside a known container", _S, ATLAS_CODE),
        Rule("EG-SCAN-201", "an archive member would be written outside its folder", _M, ATLAS_SCAN),
        Rule("EG-SCAN-202", "an archive member is a link or a device", _S, ATLAS_SCAN),
        Rule("EG-SCAN-203", "an archive says two things about one member", _S, ATLAS_SCAN),
        Rule("EG-SCAN-204", "an archive holds bytes that no member accounts for", _S, ATLAS_SCAN),
        Rule("EG-SCAN-205", "compressed out of proportion", _S, ATLAS_SCAN),
        Rule("EG-SCAN-206", "an encrypted archive member", _N, ATLAS_SCAN),
        Rule("EG-SCAN-207", "a damaged archive or compressed stream", _S, ATLAS_SCAN),
        Rule("EG-SCAN-208", "a compression method the scanner does not read", _N, ATLAS_SCAN),
        Rule("EG-SCAN-209", "a TorchScript program inside the model", _S, ATLAS_CODE),
        Rule("EG-SCAN-210", "an archive has more members than are read", _N, ATLAS_SCAN),
        Rule("EG-SCAN-211", "a tensor of the checkpoint is missing, cut short or never used", _S, ATLAS_SCAN),
        Rule("EG-SCAN-301", "an ONNX model that the structural gate refuses", _S, ATLAS_SCAN),
        Rule("EG-SCAN-302", "an ONNX model names data outside its own folder", _M, ATLAS_SCAN),
        Rule("EG-SCAN-303", "an ONNX model's data file is a link or a device", _S, ATLAS_SCAN),
        Rule("EG-SCAN-304", "an ONNX model runs code that is not an operator", _M, ATLAS_CODE),
        Rule("EG-SCAN-305", "an ONNX model's data file is not there", _N, ATLAS_SCAN),
        Rule("EG-SCAN-401", "a tensor file whose header and data do not add up", _S, ATLAS_SCAN),
        Rule("EG-SCAN-501", "a Keras Lambda layer with code inside", _M, ATLAS_CODE),
        Rule("EG-SCAN-502", "a Keras layer of a class or function outside Keras", _S, ATLAS_CODE),
        Rule("EG-SCAN-601", "a TensorFlow operator that acts on the machine", _M, ATLAS_CODE),
        Rule("EG-SCAN-602", "a TensorFlow operator that is not known to be harmless", _S, ATLAS_CODE),
        Rule("EG-SCAN-701", "a program beside the model", _S, ATLAS_CODE),
        Rule("EG-SCAN-702", "a configuration that names code to load", _S, ATLAS_CODE),
        Rule("EG-SCAN-703", "a template that reaches for Python internals", _M, ATLAS_CODE),
    )
}
