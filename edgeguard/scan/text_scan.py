"""Scan of what lies beside models: text, configuration, scripts, programs."""

from __future__ import annotations

import re
from typing import Final

from edgeguard.scan.content import Content, Context, shown
from edgeguard.scan.json_scan import scan_json

MAX_TEXT: Final = 64 << 20
PROGRAM_MAGIC: Final = (
    (b"\x7fELF", "ELF program or library"),
    (b"MZ", "Windows program or library"),
    (b"\xcf\xfa\xed\xfe", "macOS program or library"),
    (b"\xce\xfa\xed\xfe", "macOS program or library"),
    (b"\xca\xfe\xba\xbe", "macOS program or Java class"),
    (b"\0asm", "WebAssembly program"),
    (b"#!", "script"),
)
_CODE_SUFFIXES: Final = (
    ".py", ".pyc", ".pyd", ".pth.py", ".sh", ".bash", ".bat", ".cmd", ".ps1", ".js", ".lua", ".rb", ".pl", ".jar",
    ".so", ".dll",
)  # fmt: skip
DATA_SUFFIXES: Final = (".txt", ".md", ".csv", ".tsv", ".labels", ".names", ".rst", ".cfg", ".ini", ".toml", ".license")
_PLAIN_NAMES: Final = ("license", "readme", "notice", "copying", ".gitattributes", ".gitignore", "version")
_YAML_CODE: Final = re.compile(r"!!python/|!<tag:yaml\.org,2002:python|^\s*!\w+\.\w+", re.MULTILINE)


def program_kind(head: bytes) -> str:
    """Return what kind of program begins with `head`, "" for none."""
    return next((kind for magic, kind in PROGRAM_MAGIC if head.startswith(magic)), "")


def scan_program(content: Content, context: Context, kind: str) -> str:
    """Report a program; what it does is not looked at."""
    context.report("EG-SCAN-701", content, f"{shown(content.name)}: {kind}")
    return kind


def scan_text(content: Content, context: Context) -> str | None:
    """Scan text of a kind that is only ever read as text; None when the content is not that."""
    name = content.name.rsplit("/", 1)[-1].lower()
    if len(content.data) > MAX_TEXT:
        return None
    if name.endswith(_CODE_SUFFIXES):
        return scan_program(content, context, "source or byte code")
    raw = bytes(content.data)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if raw.lstrip()[:1] in (b"{", b"[") and not name.endswith(DATA_SUFFIXES):
        return scan_json(content, context)
    if name.endswith((".yaml", ".yml")):
        if _YAML_CODE.search(text):
            context.report("EG-SCAN-702", content, "YAML tags that make Python objects")
        return "YAML"
    if "\0" not in text and (
        name.endswith(DATA_SUFFIXES) or name.split(".")[0] in _PLAIN_NAMES or name in _PLAIN_NAMES
    ):
        return "text"
    return None
