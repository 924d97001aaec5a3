"""Binary protocols of GNSS receivers that we do not decode: recognised whole, named, skipped.

Each recogniser looks at bytes that begin with its sync pattern and answers with the length of a complete frame,
`MORE` when the bytes so far could still become one, or `NOT_A_FRAME`. A protocol with a checksum is believed when the
checksum fits; the one without (TSIP) only when a second frame follows at once. Skipping whole frames keeps a dollar
sign inside somebody's binary payload from being taken for the start of a sentence.

Sources: the vendors' interface manuals (SiRF binary protocol reference, Garmin device interface specification, Trimble
TSIP reference, Motorola Oncore user's guide, EverMore, NavCom, SuperStar II, Geostar, JAVAD GREIS, Septentrio SBF,
NovAtel OEM, SkyTraq AN0003, CASIC, ALLYSTAR, Rockwell Zodiac), RTCM 10402.3 and 10403.3.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from itertools import accumulate

MORE = 0
NOT_A_FRAME = -1

# Longest frame per protocol that we wait for; a false sync in noise delays what follows by at most this.
MAX_RTCM3_BYTES = 1023 + 6
MAX_SHORT_BYTES = 600
MAX_BINARY_BYTES = 4096

_DLE, _STX, _ETX = 0x10, 0x02, 0x03
_TSIP_REPORTS = frozenset((
    0x13, 0x1A, 0x1C, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x4B, 0x4C, 0x4D, 0x4E, 0x4F,
    0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5A, 0x5B, 0x5C, 0x5E, 0x5F, 0x60, 0x61, 0x62, 0x6A, 0x6C, 0x6D, 0x6F, 0x70,
    0x78, 0x7B, 0x82, 0x83, 0x84, 0x8F, 0xBB, 0xBC,
))  # fmt: skip


def _crc24q_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 16
        for _ in range(8):
            value = (value << 1) ^ (0x1864CFB if value & 0x800000 else 0)
        table.append(value & 0xFFFFFF)
    return table


_CRC24Q = _crc24q_table()


def crc24q(data: bytes) -> int:
    """Return the CRC-24Q of RTCM 10403 (polynomial 0x1864CFB, initial value 0)."""
    value = 0
    for byte in data:
        value = ((value << 8) & 0xFFFFFF) ^ _CRC24Q[(value >> 16) ^ byte]
    return value


def _whole(data: bytes, total: int, limit: int) -> int:
    """Return `total` when that many bytes are there, MORE when not yet, NOT_A_FRAME beyond the limit."""
    if total > limit:
        return NOT_A_FRAME
    return total if len(data) >= total else MORE


def rtcm3(data: bytes) -> int:
    """Preamble 0xD3, six zero bits, ten bits of length, CRC-24Q."""
    if len(data) < 3:
        return MORE
    total = _whole(data, int.from_bytes(data[1:3], "big") + 6, MAX_RTCM3_BYTES)
    if total <= 0:
        return total
    return total if crc24q(data[: total - 3]) == int.from_bytes(data[total - 3 : total], "big") else NOT_A_FRAME


def sirf(data: bytes) -> int:
    """A0 A2, 15 bits of length, payload, 15 bits of sum, B0 B3."""
    if len(data) < 4:
        return MORE
    total = _whole(data, int.from_bytes(data[2:4], "big") + 8, MAX_BINARY_BYTES)
    if total <= 0:
        return total
    good = sum(data[4 : total - 4]) & 0x7FFF == int.from_bytes(data[total - 4 : total - 2], "big")
    return total if good and data[total - 2 : total] == b"\xb0\xb3" else NOT_A_FRAME


def skytraq(data: bytes) -> int:
    """A0 A1, length, payload, exclusive or, CR LF."""
    if len(data) < 4:
        return MORE
    total = _whole(data, int.from_bytes(data[2:4], "big") + 7, MAX_BINARY_BYTES)
    if total <= 0:
        return total
    value = 0
    for byte in data[4 : total - 3]:
        value ^= byte
    return total if value == data[total - 3] and data[total - 2 : total] == b"\r\n" else NOT_A_FRAME


def sbf(data: bytes) -> int:
    """Septentrio: $@, CRC-16-CCITT over all from the block id, length a multiple of four."""
    if len(data) < 8:
        return MORE
    length = int.from_bytes(data[6:8], "little")
    if length % 4 or length < 8:
        return NOT_A_FRAME
    total = _whole(data, length, MAX_BINARY_BYTES)
    if total <= 0:
        return total
    return total if binascii.crc_hqx(data[4:total], 0) == int.from_bytes(data[2:4], "little") else NOT_A_FRAME


def novatel(data: bytes) -> int:
    """AA 44 12: long header with its own length, CRC-32 (of zlib, without its inversions). AA 44 13: short header."""
    if len(data) < 10:
        return MORE
    length = data[3] + int.from_bytes(data[8:10], "little") if data[2] == 0x12 else 12 + data[3]
    total = _whole(data, length + 4, MAX_BINARY_BYTES)
    if total <= 0:
        return total
    crc = binascii.crc32(data[: total - 4], 0xFFFFFFFF) ^ 0xFFFFFFFF
    return total if crc == int.from_bytes(data[total - 4 : total], "little") else NOT_A_FRAME


def casic(data: bytes) -> int:
    """BA CE, length, class, id, payload of 32 bit words, their sum."""
    if len(data) < 6:
        return MORE
    length = int.from_bytes(data[2:4], "little")
    total = _whole(data, length + 10, MAX_BINARY_BYTES)
    if total <= 0 or length % 4:
        return NOT_A_FRAME if length % 4 else total
    value = (data[5] << 24) + (data[4] << 16) + length
    for start in range(6, 6 + length, 4):
        value += int.from_bytes(data[start : start + 4], "little")
    return total if value & 0xFFFFFFFF == int.from_bytes(data[total - 4 : total], "little") else NOT_A_FRAME


def allystar(data: bytes) -> int:
    """F1 D9, then as UBX."""
    if len(data) < 6:
        return MORE
    total = _whole(data, int.from_bytes(data[4:6], "little") + 8, MAX_BINARY_BYTES)
    if total <= 0:
        return total
    return total if fletcher8(data[2 : total - 2]) == data[total - 2 : total] else NOT_A_FRAME


def zodiac(data: bytes) -> int:
    """FF 81: five header words whose sum is zero, then data words with a sum of their own."""
    if len(data) < 10:
        return MORE
    words = [int.from_bytes(data[i : i + 2], "little") for i in range(0, 10, 2)]
    if sum(words) & 0xFFFF:
        return NOT_A_FRAME
    total = _whole(data, 10 + (2 * words[2] + 2 if words[2] else 0), MAX_BINARY_BYTES)
    if total <= 10:
        return total
    return total if not sum(int.from_bytes(data[i : i + 2], "little") for i in range(10, total, 2)) & 0xFFFF else 10


def oncore(data: bytes) -> int:
    """@@, two letters, data, exclusive or of all after @@, CR LF."""
    if len(data) < 4:
        return MORE
    if not (0x41 <= data[2] <= 0x5A and (0x61 <= data[3] <= 0x7A or 0x41 <= data[3] <= 0x5A)):
        return NOT_A_FRAME
    value = data[2] ^ data[3]
    for position in range(4, min(len(data), MAX_SHORT_BYTES) - 2):
        if data[position] == value and data[position + 1 : position + 3] == b"\r\n":
            return position + 3
        value ^= data[position]
    return MORE if len(data) < MAX_SHORT_BYTES else NOT_A_FRAME


def _dle_end(data: bytes) -> int:
    """Return the length of a DLE-stuffed frame, its DLE ETX included."""
    position = 1
    limit = min(len(data), MAX_SHORT_BYTES)
    while position + 1 < limit:
        if data[position] != _DLE:
            position += 1
        elif data[position + 1] == _ETX:
            return position + 2
        elif data[position + 1] == _DLE:
            position += 2
        else:
            return NOT_A_FRAME
    return MORE if len(data) < MAX_SHORT_BYTES else NOT_A_FRAME


_SENTENCE = re.compile(rb"\$[A-Z]{5},[\x20-\x7e]*\*[0-9A-F]{2}")


def dle_framed(data: bytes) -> tuple[str, int]:
    """Garmin's and EverMore's frames carry a length and a sum; TSIP's carry neither and need a second one behind."""
    if len(data) < 2:
        return "", MORE
    if data[1] in {_DLE, _ETX}:
        return "", NOT_A_FRAME
    total = _dle_end(data)
    if total <= 0:
        return "", total
    inner = data[1 : total - 2].replace(b"\x10\x10", b"\x10")
    if data[1] == _STX and len(inner) >= 3 and inner[1] == len(inner) - 1 and sum(inner[2:-1]) & 0xFF == inner[-1]:
        return "EverMore binary", total
    if len(inner) >= 3 and inner[1] == len(inner) - 3 and sum(inner) & 0xFF == 0:
        return "Garmin binary", total
    if data[1] not in _TSIP_REPORTS or _SENTENCE.search(data, 0, total):
        return "", NOT_A_FRAME
    if len(data) < total + 2:
        return "", MORE
    follows = data[total] == _DLE and data[total + 1] in _TSIP_REPORTS
    return ("Trimble TSIP", total) if follows else ("", NOT_A_FRAME)


def greis(data: bytes) -> int:
    """Two id characters, three hexadecimal digits of length, body; its last byte is a rotating checksum."""
    if len(data) < 5:
        return MORE
    total = _whole(data, int(data[2:5], 16) + 5, MAX_BINARY_BYTES)
    if total <= 5:
        return total if total == MORE else NOT_A_FRAME
    value = 0
    for byte in data[: total - 1]:
        value = (((value << 2) | (value >> 6)) & 0xFF) ^ byte
    value = ((value << 2) | (value >> 6)) & 0xFF
    return total if value == data[total - 1] else NOT_A_FRAME


def navcom(data: bytes) -> int:
    """02 99 66, id, length (from the id on, without 02 99 66), data, exclusive or, 03."""
    if len(data) < 6:
        return MORE
    length = int.from_bytes(data[4:6], "little")
    if length < 4:
        return NOT_A_FRAME
    total = _whole(data, length + 4, MAX_BINARY_BYTES)
    if total <= 0:
        return total
    value = 0
    for byte in data[3 : total - 2]:
        value ^= byte
    return total if value == data[total - 2] and data[total - 1] == _ETX else NOT_A_FRAME


def superstar(data: bytes) -> int:
    """01, id, its complement, length, data, sum of all before it in 16 bits."""
    if len(data) < 4:
        return MORE
    if data[1] ^ data[2] != 0xFF:
        return NOT_A_FRAME
    total = _whole(data, data[3] + 6, MAX_SHORT_BYTES)
    if total <= 0:
        return total
    return (
        total if sum(data[: total - 2]) & 0xFFFF == int.from_bytes(data[total - 2 : total], "little") else NOT_A_FRAME
    )


def geostar(data: bytes) -> int:
    """PSGG, id, length in 32 bit words, data, exclusive or of all words before it."""
    if len(data) < 8:
        return MORE
    if data[:4] != b"PSGG":
        return NOT_A_FRAME
    total = _whole(data, 12 + 4 * int.from_bytes(data[6:8], "little"), MAX_BINARY_BYTES)
    if total <= 0:
        return total
    value = 0
    for start in range(0, total, 4):
        value ^= int.from_bytes(data[start : start + 4], "little")
    return NOT_A_FRAME if value else total


def fletcher8(data: bytes) -> bytes:
    """Return the two checksum bytes of UBX (RFC 1145 with modulo 256)."""
    return bytes((sum(data) & 0xFF, sum(accumulate(data)) & 0xFF))


# Sync pattern -> name and recogniser. Patterns are disjoint; "DLE" is named by its recogniser.
FOREIGN: dict[bytes, tuple[str, Callable[[bytes], int]]] = {
    b"\xd3": ("RTCM3", rtcm3),
    b"\xa0\xa2": ("SiRF binary", sirf),
    b"\xa0\xa1": ("SkyTraq binary", skytraq),
    b"$@": ("Septentrio SBF", sbf),
    b"\xaaD": ("NovAtel binary", novatel),
    b"\xba\xce": ("CASIC binary", casic),
    b"\xf1\xd9": ("ALLYSTAR binary", allystar),
    b"\xff\x81": ("Zodiac binary", zodiac),
    b"@@": ("Motorola Oncore", oncore),
    b"\x02\x99": ("NavCom binary", navcom),
    b"\x01": ("NovAtel SuperStar II", superstar),
    b"PS": ("Geostar binary", geostar),
}
GREIS_IDS = rb"(?:~~|::|\|\||RT|UO|GT|PV|VE|PO|SG|DP|SP|VP|SI|NN|EL|AZ|EC|SS|ET|RD|DO|BP|IO|NT|TO|GO|JP|MF|PM|SE)"
SUPERSTAR_IDS = b"|".join(
    re.escape(bytes((ident, ident ^ 0xFF))) for ident in (6, 7, 20, 21, 22, 33, 113, 125, 126, 127)
)
# What a frame can begin with, five bytes at most: the look-ahead of the framer.
SYNC = re.compile(
    rb"[$!#]|\xb5\x62|\xd3[\x00-\x03]|\xa0[\xa1\xa2]|\xaaD[\x12\x13]|\xba\xce|\xf1\xd9|\xff\x81|@@|\x10[^\x03\x10]|"
    rb"\x02\x99\x66|PSGG|\x01(?:" + SUPERSTAR_IDS + rb")|" + GREIS_IDS + rb"[0-9A-F]{3}"
)
SYNC_BYTES = 5


class Rtcm2Watcher:
    """Names RTCM 10402 in bytes that nobody claimed: 30-bit words, six bits to a byte, each under its own parity.

    It only counts; the bytes stay skipped. A header is believed when the preamble 0x66 stands in a word of good parity
    that good words precede or follow: `MIN_WORDS` in a row at one bit position.
    """

    MIN_WORDS = 4
    # Looking at every bit offset is slow, and a name needs no more evidence than this.
    MAX_WATCHED_BYTES = 1 << 15

    def __init__(self) -> None:
        self._left = self.MAX_WATCHED_BYTES
        self._shift = 0
        self._since = [0] * 30
        self._phase = 0
        self.headers = 0

    def feed(self, data: bytes) -> None:
        """Look at skipped bytes, in order."""
        for byte in data[: self._left]:
            self._left -= 1
            if byte & 0xC0 != 0x40:
                continue
            for bit in range(6):  # least significant first on the line
                self._push(byte >> bit & 1)

    def _push(self, bit: int) -> None:
        self._shift = (self._shift << 1 | bit) & 0xFFFFFFFF
        self._phase = (self._phase + 1) % 30
        run = self._since
        if not _parity_good(self._shift):
            run[self._phase] = 0
            return
        run[self._phase] += 1
        data = self._shift >> 6 & 0xFFFFFF
        if self._shift & 0x40000000:
            data ^= 0xFFFFFF
        if run[self._phase] >= self.MIN_WORDS and data >> 16 == 0x66:
            self.headers += 1


# Which of the 24 data bits enter each parity bit (IS-GPS-200, table 20-XIV), most significant data bit first.
_PARITY_MASKS = (0xEC7CD2, 0x763E69, 0xBB1F34, 0x5D8F9A, 0xAEC7CD, 0x2DEA27)
_PREVIOUS = (29, 30, 29, 30, 30, 29)


def _parity_good(word: int) -> bool:
    """Whether 32 bits (two of the word before, 24 of data, six of parity) agree with IS-GPS-200 section 20.3.5.2."""
    d29, d30 = word >> 31 & 1, word >> 30 & 1
    data = word >> 6 & 0xFFFFFF
    if d30:
        data ^= 0xFFFFFF
    for index, mask in enumerate(_PARITY_MASKS):
        expected = ((data & mask).bit_count() & 1) ^ (d29 if _PREVIOUS[index] == 29 else d30)
        if expected != word >> (5 - index) & 1:
            return False
    return True
