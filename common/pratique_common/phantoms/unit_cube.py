"""Phantoms as points of a unit cube, and populations that say what a point means.

A phantom is a kind, a seed and a point of the unit cube; a population maps the cube to lengths,
times and angles. So one point can be broadcast, mutated and read in another population, and every
value stays inside declared ranges.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from pratique_common.phantoms.implicit_shapes import Floats


@dataclass(frozen=True)
class Population:
    """Ranges of all parameters, in the units their names end with."""

    name: str
    ranges: Mapping[str, tuple[float, float]]  # in the order of a phantom's parameters

    def values(self, unit_NP: Floats) -> dict[str, Floats]:
        """Return parameter → values, (N,) each, for points of the unit cube."""
        low, high = np.array(list(self.ranges.values()), np.float32).T
        columns = np.ascontiguousarray((low + unit_NP * (high - low)).T)
        return dict(zip(self.ranges, columns, strict=True))


@dataclass(frozen=True)
class Phantoms:
    """N phantoms of one part of the body: all to render them by, and small enough to send."""

    kinds: ClassVar[tuple[str, ...]]
    """What a phantom may have; the index is its class."""

    parameters: ClassVar[tuple[str, ...]]
    """Names of the P coordinates of the unit cube, in order."""

    kind: NDArray[np.int64]  # (N,), index into kinds
    unit: Floats  # (N, P) in [0, 1]
    seed: NDArray[np.int64]  # (N,): all that is random and no parameter

    def __post_init__(self) -> None:
        num, width = len(self.kind), len(self.parameters)
        if self.unit.shape != (num, width) or self.seed.shape != (num,):
            raise ValueError(f"{num} phantoms need {num} x {width} values and {num} seeds")
        if num and not np.isin(self.kind, range(len(self.kinds))).all():
            raise ValueError(f"kinds are 0 to {len(self.kinds) - 1}")
        if not ((self.unit >= 0) & (self.unit <= 1)).all():
            raise ValueError("values are points of the unit cube")

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Self:
        """Return some of them."""
        return type(self)(self.kind[rows], self.unit[rows], self.seed[rows])

    @classmethod
    def draw(
        cls, num: int, rng: np.random.Generator, *, kinds: NDArray[np.int64] | None = None
    ) -> Self:
        """Return ``num`` phantoms, uniform in the cube; kinds are uniform where none are given."""
        kind = rng.integers(len(cls.kinds), size=num) if kinds is None else np.asarray(kinds)
        unit = rng.random((num, len(cls.parameters)), np.float32)
        return cls(kind.astype(np.int64), unit, rng.integers(2**31, size=num))

    def crossed(self, mates: Self, rng: np.random.Generator, *, share: float) -> Self:
        """Return as many children: each value is the mate's with probability ``share``.

        Mates may be of other kinds: all kinds have the same parameters.
        """
        from_mate = rng.random(self.unit.shape) < share
        return type(self)(self.kind, np.where(from_mate, mates.unit, self.unit), self.seed)

    def mutated(self, rng: np.random.Generator, *, share: float, step: float = 0.35) -> Self:
        """Return as many children: each value moves with probability ``share``, one at least.

        A value that moves goes ``step`` of the way to a fresh draw, so that it stays in its range.
        With probability ``share`` a child also gets a seed of its own: other textures and noise.
        """
        fresh = self.draw(len(self), rng, kinds=self.kind)
        moves = rng.random(self.unit.shape) < share
        one = rng.integers(self.unit.shape[1], size=len(self))  # or some children are no others
        moves[np.arange(len(self)), one] = True
        nearer = self.unit + np.float32(step) * (fresh.unit - self.unit)
        unit = np.where(moves, nearer, self.unit)
        reseeded = rng.random(len(self)) < share
        return type(self)(self.kind, unit, np.where(reseeded, fresh.seed, self.seed))
