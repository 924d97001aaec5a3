"""Smallest vocabulary for inline SVG: escaped text, rounded numbers, axes. Strings in, strings out.

Everything that comes from outside goes through `text`; numbers are written with two decimals, so that equal input
gives equal bytes.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence


def text(value: object) -> str:
    """Escape for element content and for quoted attributes; control characters become visible."""
    shown = "".join(c if c.isprintable() or c == " " else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return html.escape(shown, quote=True)


def number(value: float) -> str:
    """Two decimals without trailing zeros; never `-0`."""
    shown = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if shown in {"-0", ""} else shown


def element(name: str, content: str = "", *, tip: str = "", **attributes: object) -> str:
    """One element; `tip` becomes its tooltip. `content` must already be escaped. `class_` stands for class."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{number(value) if isinstance(value, float) else text(value)}"'
        for key, value in attributes.items()
    )
    inner = (f"<title>{text(tip)}</title>" if tip else "") + content
    return f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>"


def rect(x: float, y: float, width: float, height: float, class_: str, tip: str = "", rx: float = 0.0) -> str:
    return element(
        "rect", tip=tip, x=float(x), y=float(y), width=float(max(width, 0.6)), height=float(height), rx=float(rx),
        class_=class_,
    )  # fmt: skip


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def label(x: float, y: float, content: object, class_: str = "t", anchor: str = "start") -> str:
    return element("text", text(content), x=float(x), y=float(y), class_=class_, text_anchor=anchor)


def polyline(points: Sequence[tuple[float, float]], class_: str) -> str:
    joined = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    return element("polyline", points=joined, class_=class_)


def figure(width: float, height: float, content: str, title: str) -> str:
    """A whole drawing that scales with its place; `title` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {number(width)} {number(height)}" role="img" aria-label="{text(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{content}</svg>'
    )


def nice_step(span: float, wanted: int) -> float:
    """Return 1, 2 or 5 times a power of ten, so that about `wanted` steps cover `span`."""
    if not (span > 0 and math.isfinite(span)):
        return 1.0
    raw = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * 0.999)


def thin_out(values: Sequence[float | None], limit: int) -> list[int]:
    """Return at most about `limit` indices: per bin the largest value and a blind one, so that no peak is lost."""
    if len(values) <= limit:
        return list(range(len(values)))
    size = math.ceil(2 * len(values) / limit)
    kept: list[int] = []
    for start in range(0, len(values), size):
        part = range(start, min(start + size, len(values)))
        largest = max(part, key=lambda i: -1.0 if values[i] is None else float(values[i] or 0.0))
        blind = next((i for i in part if values[i] is None), largest)
        kept.extend(sorted({largest, blind}))
    return kept
