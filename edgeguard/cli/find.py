"""`edgeguard find`: which sensors are attached, and what it would take to use them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeguard.cli.options import format_option, say
from edgeguard.errors import ConfigError

if TYPE_CHECKING:
    from edgeguard.sensors.find import Access, Camera, Inventory, SerialPort
    from edgeguard.sensors.listen import Heard, UdpHeard

MAX_LISTEN_S = 60.0


@click.command("find")
@click.option(
    "--listen",
    "listen_s",
    type=float,
    metavar="SECONDS",
    envvar="EDGEGUARD_LISTEN",
    help="Open every free serial port and lidar UDP port and listen that long at each rate.",
)
@click.option("--port", "only", multiple=True, metavar="PATH", help="Listen on this serial port only; repeatable.")
@click.option("--sysroot", type=click.Path(path_type=Path, file_okay=False), default=Path("/"), hidden=True)
@format_option  # fmt: skip
def command(listen_s: float | None, only: tuple[str, ...], sysroot: Path, output: str) -> None:
    """List serial ports, cameras, lidar ports and the TPM, with the settings that use them.

    Nothing is opened without --listen: opening a port can reset the device behind it.
    """
    from edgeguard.sensors.find import take_inventory

    if listen_s is not None and not 0.0 < listen_s <= MAX_LISTEN_S:
        raise ConfigError(
            f"cannot listen for {listen_s} s", code="EG-C090", hint=f"--listen takes 0 to {MAX_LISTEN_S:.0f}"
        )
    if only and listen_s is None:
        raise ConfigError("--port says where to listen", code="EG-C091", hint="add --listen 3")
    inventory = take_inventory(sysroot)
    heard, udp = _listen(inventory, listen_s, only)
    report = _report(inventory, heard, udp)
    click.echo(json.dumps(report, indent=2, sort_keys=True) if output == "json" else "\n".join(_text(report)))


def _listen(
    inventory: Inventory, listen_s: float | None, only: tuple[str, ...]
) -> tuple[dict[str, Heard], list[UdpHeard]]:
    if listen_s is None:
        return {}, []
    from edgeguard.clock import SystemClock
    from edgeguard.sensors.find import LIDAR_UDP_PORTS
    from edgeguard.sensors.line_diagnosis import COMMON_BAUDS
    from edgeguard.sensors.listen import listen_serial, listen_udp

    clock = SystemClock()
    first = {p.path: p.known.bauds for p in inventory.serial if p.known is not None}
    free = [p.path for p in inventory.serial if p.access.readable and not p.users]
    heard = {}
    for path in only or free:
        say(f"listening on {path}")
        heard[path] = listen_serial(path, listen_s, clock, (*first.get(path, ()), *COMMON_BAUDS))
    if only:
        return heard, []
    return heard, listen_udp(tuple(LIDAR_UDP_PORTS), listen_s, clock)


def _report(inventory: Inventory, heard: dict[str, Heard], udp: list[UdpHeard]) -> dict[str, Any]:
    ports = [_serial_row(port, heard.get(port.path)) for port in inventory.serial]
    listed = {port.path for port in inventory.serial}
    ports += [
        {"path": path, "stable_path": "", "device": "", "heard": _heard_row(h), "settings": _settings(path, h, None)}
        for path, h in heard.items()
        if path not in listed
    ]
    senders = {one.port: one for one in udp}
    return {
        "serial": ports,
        "cameras": [_camera_row(camera) for camera in inventory.cameras],
        "udp": [
            {
                "port": one.port,
                "what": one.what,
                "bound": one.bound,
                **({"senders": [list(s) for s in senders[one.port].senders]} if one.port in senders else {}),
            }
            for one in inventory.udp
        ],
        "tpm": [
            {"path": path, "access": asdict(who), "hints": _access_hints(path, who)} for path, who in inventory.tpm
        ],
    }


def _serial_row(port: SerialPort, heard: Heard | None) -> dict[str, Any]:
    hints = _access_hints(port.path, port.access)
    if port.users:
        hints.append("stop what holds it: " + ", ".join(f"{name} (pid {pid})" for pid, name in port.users))
    if not port.stable_path and port.vendor_id is not None:
        hints.append("no stable name: install udev's 60-serial.rules, or the name changes with the order of plugging")
    usb = (
        f"{port.vendor_id:04x}:{port.product_id:04x}"
        if port.vendor_id is not None and port.product_id is not None
        else ""
    )
    return {
        "path": port.path,
        "stable_path": port.stable_path,
        "usb": usb,
        "device": port.known.name if port.known else port.product,
        "product": port.product,
        "driver": port.driver,
        "access": asdict(port.access),
        "users": [list(user) for user in port.users],
        "heard": _heard_row(heard) if heard else None,
        "settings": _settings(port.stable_path or port.path, heard, port),
        "hints": hints,
    }


def _settings(path: str, heard: Heard | None, port: SerialPort | None) -> dict[str, Any]:
    """The arguments of a serial source, as far as they are known."""
    settings: dict[str, Any] = {"port": path}
    if heard is not None and heard.recognised:
        return settings | {"baud": heard.baud, "decoder": heard.recognised[0].decoder}
    if port is not None and port.known is not None and port.known.protocol:
        settings["decoder"] = port.known.protocol
        settings["baud"] = port.known.bauds[0] if port.known.bauds else 9600  # USB has no rate: any number will do
    return settings


def _heard_row(heard: Heard) -> dict[str, Any]:
    return {
        "baud": heard.baud,
        "bytes": heard.received,
        "recognised": [{"name": r.name, "frames": r.frames, "share": round(r.share, 3)} for r in heard.recognised],
        "foreign": list(heard.foreign),
        "diagnosis": None
        if heard.diagnosis is None
        else {"fault": heard.diagnosis.fault.value, "reason": heard.diagnosis.reason, "hint": heard.diagnosis.hint},
        "trouble": heard.trouble,
    }


def _camera_row(camera: Camera) -> dict[str, Any]:
    hints = _access_hints(camera.path, camera.access)
    if camera.index:
        hints.append("carries metadata, not pictures: use the node with index 0 of the same camera")
    if camera.users:
        hints.append("stop what holds it: " + ", ".join(f"{name} (pid {pid})" for pid, name in camera.users))
    return {
        "path": camera.path,
        "name": camera.name,
        "driver": camera.driver,
        "access": asdict(camera.access),
        "hints": hints,
    }


def _access_hints(path: str, who: Access) -> list[str]:
    if not who.exists:
        return [f"{path} has no device node: is /dev mounted, and the device passed into this container?"]
    if who.readable and who.writable:
        return []
    if who.group not in {"", "root"} and who.mode[4:6] == "rw":
        return [f"sudo usermod -aG {who.group} $USER    # then log in again"]
    return [f"the node is {who.mode} {who.owner}:{who.group}: add a udev rule that gives it a group you are in"]


def _text(report: dict[str, Any]) -> list[str]:
    lines = ["serial ports"]
    for row in report["serial"]:
        lines.append(f"  {row['path']:14} {row.get('usb') or '-':9} {row['device'] or row.get('driver') or '-'}")
        heard = row["heard"]
        if heard is not None:
            lines.append(f"    heard    {_heard_text(heard)}")
        if row["stable_path"] or "decoder" in row["settings"]:
            lines.append("    settings " + "  ".join(f"{k} = {json.dumps(v)}" for k, v in row["settings"].items()))
        lines += [f"    hint     {hint}" for hint in row.get("hints", [])]
    lines += [] if report["serial"] else ["  none"]
    lines.append("cameras")
    for row in report["cameras"]:
        lines.append(f"  {row['path']:14} {row['driver'] or '-':9} {row['name'] or '-'}")
        lines += [f"    hint     {hint}" for hint in row["hints"]]
    lines += [] if report["cameras"] else ["  none"]
    lines.append("lidar ports (UDP)")
    for row in report["udp"]:
        state = "in use on this machine" if row["bound"] else "free"
        heard = "; ".join(f"{n} packets of {size} bytes from {who}" for who, n, size in row.get("senders", []))
        lines.append(f"  {row['port']:<14} {state:9} {row['what']}" + (f": {heard}" if heard else ""))
    lines.append("tpm")
    for row in report["tpm"]:
        lines.append(f"  {row['path']:14} {row['access']['mode']} {row['access']['owner']}:{row['access']['group']}")
        lines += [f"    hint     {hint}" for hint in row["hints"]]
    return lines + ([] if report["tpm"] else ["  none"])


def _heard_text(heard: dict[str, Any]) -> str:
    if heard["trouble"]:
        return str(heard["trouble"])
    if heard["recognised"]:
        return (
            ", ".join(f"{r['name']} ({r['frames']} frames)" for r in heard["recognised"]) + f" at {heard['baud']} baud"
        )
    if heard["foreign"]:
        return ", ".join(heard["foreign"]) + f" at {heard['baud']} baud, which is not spoken here"
    if not heard["bytes"]:
        return "nothing: silent, not powered, or it waits to be asked (RPLIDAR)"
    if heard["diagnosis"]:
        return f"{heard['diagnosis']['fault']}: {heard['diagnosis']['reason']}; {heard['diagnosis']['hint']}"
    return f"{heard['bytes']} bytes of an unknown protocol"
