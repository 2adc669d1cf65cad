"""How much nearer a row is to a candidate row than other candidate rows are to that one.

Features of images seldom agree to the digit, so agreement of cells says nothing of altered copies
there (``agreement`` is for tables). A copy is near; but where many images look alike, others are as
near. So distances are taken relative to the spacing of the candidate's own rows, as Lowe (2004,
"Distinctive image features from scale-invariant keypoints", IJCV 60) tells matches from chance:

    score = D log(spacing of the nearest candidate row / distance to it)

which with D features is about the log of a ratio of densities. The spacing is the distance to the
nearest row in each of some parts of the candidate, and of these the largest: a few more copies of
the same image do not make it small. Measured in ``docs/audit-power.md``.

Images of several planes are compared as a whole, and slice by slice of the same contrast; the
nearest pair counts. A generator may copy one contrast or slice and make the others anew, or move a
stack by a slice. A plane that shows nothing is compared with none, and in a plane no row's spacing
counts for more than that of nine rows in ten: else one row that is alone there, where all others
are blank, would be near to everybody.

Shapes: N rows, R candidate rows, C channels with S slices each, D features.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_common.images.spec import PLANES, features_of
from pratique_common.schema import TableSchema
from pratique_privacy.neighbours import EncodedRows, MixedEncoder

Columns = Mapping[str, NDArray[Any]]
Float64Array = NDArray[np.float64]

_PARTS = 4
_CUTS = (*range(0, 31, 2), 35, 42, 52, 70, 120, 250, 480)
"""Nats: fixed, since a few rows that lie together, as a generator may give or somebody may plant,
would move quantiles of the candidate's own scores. Honest patients lie around 6, one in a hundred
above some 20; copies that were altered at 20 to 70, exact ones near 500."""
_LEAST_ROWS = 20
"""That show something in a plane, as ``audits.context.LEAST_DISTANCES`` of rows that differ."""

_WIDEST_QUANTILE = 0.9
"""Of spacings in a plane: no row's counts for more. At the median copies were harder to find."""

_NO_DISTANCE = 1e-6  # as in ``audits.context``: less than any two ranks differ by


class RelativeCloseness:
    """Scores rows of images against a candidate; fitted on the candidate alone."""

    def __init__(self, schema: TableSchema, candidate: Columns) -> None:
        """Measure the candidate's spacing; its order must be random, and not that of a file."""
        features = features_of(schema)
        alone = schema.model_copy(update={"columns": features, "target": None, "sensitive": ()})
        self._names = alone.names
        self._whole = _View(alone, candidate)
        self._slices = {
            place: _View(alone, self._features(planes_RD), _shown(planes_RD))
            for place, planes_RD in _planes_of(candidate)
            if _shown(planes_RD).sum() >= _LEAST_ROWS
        }

    def scores(self, columns: Columns, *, own: int | None = None) -> Float64Array:
        """Return scores of rows, (N,), in nats.

        Args:
            columns: rows of the schema, with planes if the candidate has them.
            own: these are the candidate's own rows from this place on: none counts for itself.
        """
        largest_N = self._whole.scores(columns, own=own)
        for (channel, _), planes_ND in _planes_of(columns):
            seen, shown = self._features(planes_ND), _shown(planes_ND)
            for (other, _), view in self._slices.items():
                if other == channel:
                    scores_N = np.where(shown, view.scores(seen, own=own), -np.inf)
                    np.maximum(largest_N, scores_N, out=largest_N)
        return largest_N

    @staticmethod
    def cuts(own: Float64Array) -> Float64Array:
        """Return the public cuts of scores, ascending; the candidate's ``own`` do not matter."""
        del own
        return np.array(_CUTS, np.float64)

    def _features(self, planes_ND: Float64Array) -> Columns:
        return dict(zip(self._names, planes_ND.T, strict=True))


def _planes_of(columns: Columns) -> Iterator[tuple[tuple[int, int], Float64Array]]:
    """Return channel, slice and features of each plane, (N, D); of images of one plane nothing."""
    if PLANES not in columns:
        return
    planes_NCSD = columns[PLANES]
    for channel, number in np.ndindex(planes_NCSD.shape[1:3]):
        yield (channel, number), planes_NCSD[:, channel, number]


def _shown(planes_ND: Float64Array) -> NDArray[np.bool_]:
    """Return in which rows a plane shows something, (N,)."""
    return np.asarray(~np.isnan(planes_ND).any(1))


class _View:
    """Scores of features of one kind; what is missing is far from all that is not."""

    def __init__(
        self, schema: TableSchema, candidate: Columns, shown_R: NDArray[np.bool_] | None = None
    ) -> None:
        self._size = len(schema.columns)
        self._encoder = MixedEncoder(schema, candidate)
        self._rows = self._encoder.encode(candidate)
        self._spacing_R = self._spacing()
        if shown_R is not None:
            most = np.quantile(self._spacing_R[shown_R], _WIDEST_QUANTILE)
            np.minimum(self._spacing_R, most, out=self._spacing_R)

    def scores(self, columns: Columns, *, own: int | None) -> Float64Array:
        """Return scores of rows, (N,), as ``RelativeCloseness.scores``."""
        rows = self._encoder.encode(columns)
        reference, spacing_R = self._rows, self._spacing_R
        if own is not None:  # the encoder leaves out row i of query i
            order = np.roll(np.arange(reference.num_rows), -own)
            reference, spacing_R = reference.take(order), spacing_R[order]
        found = self._encoder.nearest(rows, reference, leave_out_self=own is not None)
        relative = (spacing_R[found.nearest] + _NO_DISTANCE) / (found.first + _NO_DISTANCE)
        return np.asarray(self._size * np.log(relative))

    def _spacing(self) -> Float64Array:
        """Return how far the candidate's rows are from others, (R,)."""
        part_R = np.arange(self._rows.num_rows) % _PARTS
        largest = np.zeros(len(part_R))
        for part in range(_PARTS):
            inside = np.flatnonzero(part_R == part)
            distance = self._distance(self._rows, inside)
            np.maximum(largest, distance, out=largest)
        return largest

    def _distance(self, rows: EncodedRows, inside: NDArray[np.int64]) -> Float64Array:
        """Return distances of rows to the nearest of those ``inside``, none to itself."""
        some = rows.take(inside)
        distance = self._encoder.nearest(rows, some).first
        distance[inside] = self._encoder.nearest(some, some, leave_out_self=True).first
        return distance
