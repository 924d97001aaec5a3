"""Every fix that gpsd reports for real receivers' NMEA and UBX, against ours: position, time, speed, mode."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edgeguard.protocols.gnss import GnssDecoder
from edgeguard.protocols.gnss_record import FixMode, GnssRecord

# gpsd prints nine decimals of a degree, three of m/s, and milliseconds.
PRINTED_DEG, PRINTED_M_S, PRINTED_MS = 2e-9, 1e-3, 1
MS = 1_000_000

EQUAL = "equal"
LEAP = "gpsd's leap seconds before the receiver told them"
DERIVED = "speed that gpsd computed; the receiver sent none"
REFUSED = "GGA whose quality is 0 or empty: no fix to us"
OTHER_PROTOCOL = "told in a protocol that is only named"
RETRACTED = "report inside an epoch that another sentence of the epoch replaced or retracted"


def reports(check: Path) -> list[dict[str, Any]]:
    """Return gpsd's TPV reports, in order."""
    lines = check.read_text(encoding="utf-8", errors="replace").splitlines()
    return [r for r in (json.loads(text) for text in lines if text.startswith("{")) if r.get("class") == "TPV"]


def moment_ms(report: dict[str, Any]) -> int | None:
    """Return a report's time in milliseconds since 1970."""
    if "time" not in report:
        return None
    moment = datetime.strptime(report["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1000 + moment.microsecond // 1000


def decode(log: Path) -> tuple[list[GnssRecord], GnssDecoder]:
    """Return every epoch of a log and the decoder."""
    decoder = GnssDecoder(unchecked=True, repeated=True)
    records = decoder.epochs(log.read_bytes())
    return records + decoder.finish_epochs(), decoder


def same(record: GnssRecord, report: dict[str, Any]) -> str | None:
    """Return EQUAL or DERIVED when position, speed and mode agree to the printed digits."""
    if record.mode != report["mode"]:
        return None
    if "lat" in report:
        if record.latitude_deg is None or record.longitude_deg is None:
            return None
        if max(abs(record.latitude_deg - report["lat"]), abs(record.longitude_deg - report["lon"])) > PRINTED_DEG:
            return None
    if "speed" in report and record.speed_m_s is None:
        return DERIVED if "track" not in report else None
    if "speed" in report and abs((record.speed_m_s or 0.0) - report["speed"]) > PRINTED_M_S:
        return None
    return EQUAL


def called_invalid(data: bytes, at_ms: int) -> bool:
    """Whether the receiver itself denies a fix at this time of day: GGA quality 0 or empty."""
    clock = datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H%M%S").encode()
    return re.search(rb"GGA," + clock + rb"[.\d]*,[^,]*,[NS]?,[^,]*,[EW]?,0?,", data) is not None


def compare(
    records: list[GnssRecord], found: list[dict[str, Any]], data: bytes, foreign: bool
) -> tuple[Counter[str], list[str]]:
    """Return how often each outcome, and what differs for no known reason.

    gpsd repeats an epoch while it grows; its last word with a fix on each time is what counts. Reports from before
    the date is known carry no time: one of ours must have the place.
    """
    by_ms: dict[int, list[GnssRecord]] = {}
    for record in records:
        if record.utc_ns is not None:
            by_ms.setdefault((record.utc_ns + MS // 2) // MS, []).append(record)
    outcome: Counter[str] = Counter()
    unexplained = []
    last: dict[int, dict[str, Any]] = {}
    every: dict[int, list[dict[str, Any]]] = {}
    untimed = []
    for report in found:
        if report["mode"] < 2 or "lat" not in report:
            continue
        at = moment_ms(report)
        if at is None:
            untimed.append(report)
        else:
            last[at] = report
            every.setdefault(at, []).append(report)
    for at, report in last.items():
        ours = [r for near in range(-PRINTED_MS, PRINTED_MS + 1) for r in by_ms.get(at + near, [])]
        words = {same(r, report) for r in ours}
        if EQUAL in words or DERIVED in words:
            outcome[EQUAL if EQUAL in words else DERIVED] += 1
        elif any(same(r, earlier) for r in ours for earlier in every[at]):
            outcome[RETRACTED] += 1
        elif _off_by_leap_seconds(by_ms, at, report):
            outcome[LEAP] += 1
        elif foreign and not ours:
            outcome[OTHER_PROTOCOL] += 1
        elif called_invalid(data, at) and all(r.mode is FixMode.NONE for r in ours):
            outcome[REFUSED] += 1
        else:
            outcome["unexplained"] += 1
            unexplained.append(f"{report}: ours {ours}")
    for report in untimed:
        if any(same(r, report) for r in records):
            outcome[EQUAL] += 1
        else:
            outcome[OTHER_PROTOCOL if foreign else RETRACTED] += 1
    return outcome, unexplained


def _off_by_leap_seconds(by_ms: dict[int, list[GnssRecord]], at: int, report: dict[str, Any]) -> bool:
    return any(
        same(r, report)
        for shift in range(1, 19)
        for near in (-1, 0, 1)
        for r in by_ms.get(at + shift * 1000 + near, [])
    )


def speaks_otherwise(decoder: GnssDecoder) -> bool:
    """Whether the receiver also tells fixes in a binary protocol that we only name."""
    return bool(set(decoder.foreign) - {"text line", "AIVDM", "RTCM2", "RTCM3", "encapsulated NMEA"})


def extra_fixes(records: list[GnssRecord], found: list[dict[str, Any]]) -> list[GnssRecord]:
    """Return fixes of ours at times for which gpsd only ever reported that there is none."""
    modes: dict[int, int] = {}
    for report in found:
        at = moment_ms(report)
        if at is not None:
            modes[at] = max(modes.get(at, 0), report["mode"])
    return [
        r for r in records if r.has_position and r.utc_ns is not None and modes.get((r.utc_ns + MS // 2) // MS, 2) == 1
    ]


@pytest.mark.realdata
def test_every_nmea_and_ubx_fix_of_gpsd_is_ours_too(realdata: Path) -> None:
    """Each log on its own: nothing differs without a stated reason, and no fix of ours is one gpsd denies.

    Logs of protocols that we only name must be named, up to one in twenty.
    """
    logs = sorted((realdata / "gnss_logs").glob("*.log"))
    assert len(logs) >= 30
    total: Counter[str] = Counter()
    unnamed = 0
    for log in logs:
        found = reports(log.with_name(log.name + ".chk"))
        records, decoder = decode(log)
        if decoder.frames == 0:
            unnamed += not set(decoder.foreign) - {"text line"}
            continue
        outcome, unexplained = compare(records, found, log.read_bytes(), speaks_otherwise(decoder))
        assert not unexplained, (log.name, unexplained[:3])
        assert not extra_fixes(records, found), log.name
        total += outcome
    assert unnamed <= len(logs) // 20
    assert total[EQUAL] > 0.95 * (total.total() - total[OTHER_PROTOCOL])
    assert total[EQUAL] > 1000


SYSTEMS = {0: "G", 1: "S", 2: "E", 3: "C", 5: "J", 6: "R", 7: "I"}


@pytest.mark.realdata
def test_signal_strengths_are_those_gpsd_reads(realdata: Path) -> None:
    """Every satellite list of ours from UBX is one of gpsd's: the same satellites, C/N0 and use."""
    compared = 0
    for log in sorted((realdata / "gnss_logs").glob("ublox-*.log")):
        text = log.with_name(log.name + ".chk").read_text(encoding="utf-8", errors="replace").splitlines()
        skies = [json.loads(line) for line in text if line.startswith('{"class":"SKY"') and '"satellites"' in line]
        known = {
            frozenset(
                (SYSTEMS.get(s["gnssid"], "?"), s["svid"], s.get("ss", 0.0), s["used"])
                for s in sky["satellites"]
                if "sigid" not in s and s.get("ss", 0.0) > 0
            )
            for sky in skies
        }
        for record in decode(log)[0]:
            ours = frozenset(
                (s.system, s.number, s.cn0_dbhz, s.used) for s in record.satellites if s.cn0_dbhz and s.system != "?"
            )
            if record.protocol == "UBX" and ours:
                assert ours in known, (log.name, sorted(ours))
                compared += 1
    assert compared > 300


def table(folder: Path) -> str:
    """Return the coverage of every log as a Markdown table: python tests/protocols/test_gnss_against_gpsd.py DIR."""
    rows = ["| log | fixes gpsd reports | ours equal | ours differing, and why | skipped |", "|---|---|---|---|---|"]
    for log in sorted(folder.glob("*.log")):
        found = reports(log.with_name(log.name + ".chk"))
        records, decoder = decode(log)
        outcome, unexplained = compare(records, found, log.read_bytes(), speaks_otherwise(decoder))
        foreign = ", ".join(f"{n} {name}" for name, n in decoder.foreign.items() if name != "text line")
        if decoder.frames == 0:
            rows.append(f"| {log.name[:-4]} | {outcome.total()} | - | - | {foreign} |")
            continue
        why = "; ".join(f"{n} {word}" for word, n in outcome.items() if word != EQUAL) or "0"
        rows.append(f"| {log.name[:-4]} | {outcome.total()} | {outcome[EQUAL]} | {why} | {foreign} |")
        rows += [f"<!-- {text[:300]} -->" for text in unexplained]
    return "\n".join(rows)


if __name__ == "__main__":
    import sys

    print(table(Path(sys.argv[1])))  # noqa: T201 - the one output of this tool
