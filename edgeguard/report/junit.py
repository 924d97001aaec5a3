"""JUnit XML: outcomes in the form that CI servers read. Values in, text out.

Source: the de-facto schema of Apache Ant's JUnit task, as Jenkins and GitLab read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr


@dataclass(frozen=True, slots=True)
class JunitCase:
    """One test case. `failure` is "" when it passed; `seconds` is simulated time; `output` is shown as it is."""

    suite: str
    name: str
    seconds: float
    failure: str = ""
    output: str = ""


def render_junit(title: str, cases: Sequence[JunitCase]) -> str:
    """Return one document with a suite per distinct `suite`, in order of appearance. Equal cases give equal text."""
    suites = list(dict.fromkeys(case.suite for case in cases))
    failed = sum(bool(case.failure) for case in cases)
    parts = [
        '<?xml version="1.0" encoding="UTF-8"?>\n',
        f'<testsuites name={_quoted(title)} tests="{len(cases)}" failures="{failed}">\n',
    ]
    for suite in suites:
        own = [case for case in cases if case.suite == suite]
        wrong, spent = sum(bool(c.failure) for c in own), sum(c.seconds for c in own)
        parts.append(
            f'  <testsuite name={_quoted(suite)} tests="{len(own)}" failures="{wrong}" errors="0" skipped="0" '
            f'time="{spent:.3f}">\n'
        )
        parts += [_case(case) for case in own]
        parts.append("  </testsuite>\n")
    return "".join([*parts, "</testsuites>\n"])


def _case(case: JunitCase) -> str:
    head = f'    <testcase classname={_quoted(case.suite)} name={_quoted(case.name)} time="{case.seconds:.3f}"'
    body = ""
    if case.failure:
        first = case.failure.splitlines()[0]
        body += f"      <failure message={_quoted(first)}>{escape(_plain(case.failure))}</failure>\n"
    if case.output:
        body += f"      <system-out>{escape(_plain(case.output))}</system-out>\n"
    return f"{head}>\n{body}    </testcase>\n" if body else f"{head}/>\n"


def _quoted(value: str) -> str:
    return quoteattr(_plain(value))


def _plain(value: str) -> str:
    """Return the text without what XML 1.0 cannot hold."""
    return "".join(c if c in "\n\t" or (c.isprintable() and ord(c) < 0xFFFE) else "�" for c in value)
