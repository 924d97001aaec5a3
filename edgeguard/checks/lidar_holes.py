"""Holes in a sweep: cells in which nothing returns, although what stands behind would.

When a body leaves, its beams meet what it had hidden, and that returns as it does beside it. When its echoes are taken
away (a pulse that comes first and is discarded as too near: Cao et al., "You Can't See Me", USENIX Security 2023), the
beams return nothing at all. So the returns that a piece of the sweep should have, if the body were gone, are counted
against those that it has. No motion of the body has to be guessed for that.

What should return is read off the same sweep, row by row, so wet roads and open sky expect nothing:

* **the ground**: of the cells around that meet nothing upright, the share in which the ground returns;
* **beside**: the share of the cells to the left and right that return anything. Something may stand there that does
  not stand behind, so this alone is no proof.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgeguard.kernels.ranges import COLUMNS, ROWS
from edgeguard.kernels.whereabouts import MIN_COLUMN, SweepCells, least_returns

AROUND = 75  # columns either way, 30 deg: the same road
BESIDE = 12  # columns either way, 5 deg
MIN_GROUND = 12  # cells of a row that tell whether the ground returns
SURE_SHARE = 0.8  # of the cells of a row, or of it and the rows above and below where a ring wanders between them
MIN_SHARE = 0.3  # a row that returns more rarely expects nothing
MIN_EXPECTED = 15.0  # returns: chance leaves fewer than 6 of them once in 10 000 times
MAX_LEFT = 0.4  # of what is expected; an attack leaves a tenth, and the outline of the body some more
CLEAR_FACTOR, CLEAR_LEFT, MIN_ALIVE = 2.0, 0.25, 0.8
MAX_CELLS = 20_000


@dataclass(frozen=True, slots=True)
class Hole:
    """Returns that a piece of a sweep should have, if nothing stood there, and those that it has. sure: by the ground's
    returns; else by what is beside. alive: share of its columns that return anything; a lost packet leaves none."""

    expected: float
    found: float
    sure: bool
    alive: float = 0.0

    @property
    def empty(self) -> bool:
        """Whether it is one."""
        return self.expected >= MIN_EXPECTED and self.found <= MAX_LEFT * self.expected

    @property
    def clear(self) -> bool:
        """Whether one sweep is enough: the ground should return, hardly anything does, and no packet was lost."""
        wide = self.expected >= CLEAR_FACTOR * MIN_EXPECTED and self.found <= CLEAR_LEFT * self.expected
        return self.sure and wide and self.alive >= MIN_ALIVE


NO_HOLE = Hole(0.0, 0.0, sure=False)


def look_for_hole(cell: NDArray[np.int32], now: SweepCells, looks: NDArray[np.bool_], reach: int = 0) -> Hole:
    """Judge the piece of a sweep in which a body was.

    cell: (N,) int32, its cells (row times COLUMNS plus column), in any order, double ones too; less than half around
    the sensor. looks: (COLUMNS,) bool, columns in which the sensor looks. reach: columns that the body may have moved
    either way; the emptiest place counts.
    """
    unique = np.unique(cell[cell >= 0])
    if unique.size == 0 or unique.size > MAX_CELLS:
        return NO_HOLE
    row, column = np.divmod(unique, COLUMNS)
    turned = np.exp(2j * np.pi / COLUMNS * column).mean()
    middle = round(float(np.angle(turned)) * COLUMNS / (2 * np.pi))
    across = (column - middle + COLUMNS // 2) % COLUMNS - COLUMNS // 2
    first, last = max(int(row.min()) - 1, 0), min(int(row.max()) + 2, ROWS)
    wide = max(int(np.abs(across).max()) + reach, 1) + AROUND
    if 2 * wide + 1 > COLUMNS:
        return NO_HOLE
    columns = (np.arange(middle - wide, middle + wide + 1)) % COLUMNS
    part = np.ix_(np.arange(first, last), columns)
    count, level = now.count[part].astype(np.int32), now.level[part] > 0
    body = np.zeros(count.shape, np.bool_)
    body[row - first, across + wide] = True
    aside = np.arange(-wide, wide + 1)
    looked = looks[columns] & ((aside < across.min()) | (aside > across.max()))
    best = NO_HOLE
    for share, density, sure in _expectations(count, level, looked, aside, (int(across.min()), int(across.max()))):
        found = _judge(body, now.count, (first, middle - wide), share * density, share, reach, sure=sure)
        if found.empty:
            alive = np.count_nonzero(now.filled[np.unique(column)] >= MIN_COLUMN) / np.unique(column).size
            return replace(found, alive=float(alive))
        best = max(best, found, key=lambda hole: hole.expected - hole.found)
    return best


def _expectations(
    count: NDArray[np.int32],
    level: NDArray[np.bool_],
    looked: NDArray[np.bool_],
    aside: NDArray[np.int64],
    body: tuple[int, int],
) -> list[tuple[NDArray[np.float64], NDArray[np.float64], bool]]:
    """Per row: share of the cells that return, and returns of one that does; by the ground, and by what is beside.

    A puddle, or grazing light on a wet road, makes holes of its own: a row counts only when nearly all of it returns.
    """
    ground = (level & looked).sum(axis=1)
    nothing = ((count == 0) & looked).sum(axis=1)
    share = np.where(ground >= MIN_GROUND, ground / np.maximum(ground + nothing, 1), 0.0)
    near, none = _stacked(level) & looked, ~_stacked(count > 0) & looked
    share[near.sum(axis=1) < SURE_SHARE * (near | none).sum(axis=1)] = 0.0
    density = (count * (level & looked)).sum(axis=1) / np.maximum(ground, 1)
    out = [(share, density, True)]
    shares, filled, returns = [], 0, 0
    for side in (
        (aside < body[0] - 1) & (aside >= body[0] - 1 - BESIDE),
        (aside > body[1] + 1) & (aside <= body[1] + 1 + BESIDE),
    ):
        columns = side & looked
        shares.append(((count > 0) & columns).sum(axis=1) / max(int(columns.sum()), 1))
        filled = filled + ((count > 0) & columns).sum(axis=1)
        returns = returns + (count * columns).sum(axis=1)
    share = np.minimum(shares[0], shares[1])
    out.append((np.where(share >= SURE_SHARE, share, 0.0), returns / np.maximum(filled, 1), False))
    return out


def _stacked(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether a cell, or the one above or below it, is."""
    out = cells.copy()
    out[1:] |= cells[:-1]
    out[:-1] |= cells[1:]
    return out


def _judge(
    body: NDArray[np.bool_],
    count: NDArray[np.uint8],
    corner: tuple[int, int],
    expected: NDArray[np.float64],
    share: NDArray[np.float64],
    reach: int,
    *,
    sure: bool,
) -> Hole:
    """corner: row and column of the sweep that the first of `body`, `expected` and `share` are of."""
    rare = (share < SURE_SHARE)[:, None] & body
    piece = body.copy()
    piece[1:] |= rare[:-1]
    piece[:-1] |= rare[1:]
    piece &= (share >= MIN_SHARE)[:, None]
    row, column = np.nonzero(piece)
    if row.size == 0:
        return NO_HOLE
    found = least_returns(count, row + corner[0], column + corner[1], reach)
    return Hole(float(expected[row].sum()), float(found), sure)
