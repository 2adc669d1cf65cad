"""Fidelity: how far a synthetic table's distributions are from the real one's.

Shapes: N rows, D columns, R weights of the rows, I × J cells of a pair of columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from pratique_common.columns import CategoricalColumn
from pratique_common.schema import TableSchema
from pratique_common.utility import categorical_mask, cells_of, features, grid_codes, learnable
from pratique_privacy.site_utility import LEAST_PATIENTS
from pratique_server.evaluation.like_sized import (
    DRAWS,
    LikeSized,
    beside,
    figure,
    shares_of,
    total_variation,
)
from pratique_server.evaluation.rows import Measure, Rows, bootstrap, with_interval
from pratique_server.evaluation.usefulness import auc

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

MOST_MARGINALS = {1: 500, 2: 1_000, 3: 150}
"""Of each order; of more, so many are taken at random, always the same ones."""

_WORST_PAIRS = 10
_LEAST_SCALE = 1e-12  # of a product of deviations: below, a column is constant
_TEST_INSTEAD = "as many patients of the real test table instead"


@dataclass(frozen=True)
class Pair:
    """Two columns: their joint distance, and how strongly they go together in each table."""

    first: str
    second: str
    distance: float
    distance_interval: tuple[float, float]
    floor: float
    floor_interval: tuple[float, float]
    """Of as many patients of the real test table."""
    real_association: float
    synthetic_association: float


@dataclass(frozen=True)
class Fidelity:
    """All that was found."""

    measures: list[Measure]
    pairs: list[Pair]
    num_patients: int
    """Of the synthetic and of the test table, in distances."""

    def worst_pairs(self) -> list[Pair]:
        """Return the pairs that are farthest above what two real tables differ by."""
        ordered = sorted(self.pairs, key=lambda pair: pair.floor - pair.distance)
        return ordered[:_WORST_PAIRS]


def fidelity(
    schema: TableSchema, synthetic: Rows, train: Rows, test: Rows, rng: np.random.Generator
) -> Fidelity:
    """Measure distances of marginals, of associations, and whether a classifier sees a difference.

    Distances are to ``train``; the test table in the synthetic one's place is the floor, and both
    are taken at one number of patients. Intervals are of sampling patients and synthetic rows; the
    spread over training seeds is not in them. One column alone, as images may have, has no pairs
    and no associations. With too few patients measures have no figures, and there are no pairs.
    """
    tables = grid_codes(train.columns, [synthetic.columns, test.columns], schema)
    sizes = np.max([codes.max(0) for codes in tables], axis=0) + 1
    sized = LikeSized.of(train, synthetic, test, rng)
    weights = sized.train, sized.synthetic, sized.test
    num_patients = train.num_patients, sized.num_patients, sized.num_patients
    measures: list[Measure] = []
    associations: list[Measure] = []
    pairs: list[Pair] = []
    for order in (1, 2, 3):
        if order > len(schema.columns):
            continue
        found, floors, shifts, floor_shifts = [], [], [], []
        for marginal in _marginals(len(schema.columns), order):
            cells = [cells_of(codes, marginal, sizes) for codes in tables]
            size = int(np.prod(sizes[list(marginal)]))
            shares = [shares_of(*each, size) for each in zip(cells, weights, strict=True)]
            found.append(total_variation(shares[0], shares[1]))
            floors.append(total_variation(shares[0], shares[2]))
            if order == 2:
                shape = (-1, *sizes[list(marginal)])
                strengths = [
                    _association(each.reshape(shape), num)
                    for each, num in zip(shares, num_patients, strict=True)
                ]
                shifts.append(np.abs(beside(strengths[0]) - strengths[1]))
                floor_shifts.append(np.abs(beside(strengths[0]) - strengths[2]))
                first, second = (schema.names[d] for d in marginal)
                distance, *ends = figure(found[-1])
                floor, *floor_ends = figure(floors[-1])
                pairs.append(
                    Pair(
                        first,
                        second,
                        distance,
                        (ends[0], ends[1]),
                        floor,
                        (floor_ends[0], floor_ends[1]),
                        float(strengths[0][0]),
                        float(np.mean(strengths[1][:DRAWS])),
                    )
                )
        title = f"Mean {order}-way total variation distance to the training table"
        measures.append(_mean(f"tv{order}", title, found, floors))
        if order == 2:
            title = "Mean difference of the associations of two columns (Cramér's V)"
            associations.append(_mean("association", title, shifts, floor_shifts))
    measures += associations
    measures += _rank_correlation(schema, synthetic, train, test, sized)
    measures.append(_detection(schema, synthetic, train, test, rng))
    if min(rows.num_patients for rows in (train, synthetic, test)) < LEAST_PATIENTS:
        return Fidelity([measure.blank() for measure in measures], [], sized.num_patients)
    return Fidelity(measures, pairs, sized.num_patients)


def _marginals(num_columns: int, order: int) -> Iterator[tuple[int, ...]]:
    marginals = list(combinations(range(num_columns), order))
    most = MOST_MARGINALS[order]
    if most < len(marginals):
        picked = np.random.default_rng(0).choice(len(marginals), most, replace=False)
        marginals = [marginals[number] for number in picked]
    yield from marginals


def _mean(
    id_: str,
    title: str,
    found: Sequence[Float64Array],
    floors: Sequence[Float64Array],
    *,
    most: float = 1.0,
) -> Measure:
    value, lower, upper = figure(np.mean(found, axis=0), most=most)
    floor, floor_lower, floor_upper = figure(np.mean(floors, axis=0), most=most)
    return Measure(
        id=id_,
        title=title,
        value=value,
        lower=lower,
        upper=upper,
        baseline=floor,
        baseline_title=_TEST_INSTEAD,
        baseline_lower=floor_lower,
        baseline_upper=floor_upper,
    )


def _association(shares_RIJ: Float64Array, num_patients: int) -> Float64Array:
    """Return Cramér's V with Bergsma's correction of its bias (2013), (R,): 0 to 1."""
    rows_RI, columns_RJ = shares_RIJ.sum(2), shares_RIJ.sum(1)
    expected = rows_RI[:, :, None] * columns_RJ[:, None, :]
    squares = np.divide(
        (shares_RIJ - expected) ** 2, expected, out=np.zeros_like(expected), where=expected > 0
    )
    i, j = (rows_RI > 0).sum(1), (columns_RJ > 0).sum(1)
    less = max(1, num_patients - 1)
    phi = (squares.sum((1, 2)) - (i - 1) * (j - 1) / less).clip(min=0)
    fewest = np.minimum(i - (i - 1) ** 2 / less, j - (j - 1) ** 2 / less) - 1
    squared = np.divide(phi, fewest, out=np.zeros_like(phi), where=fewest > 0)
    return np.asarray(np.sqrt(squared).clip(max=1))


def _rank_correlation(
    schema: TableSchema, synthetic: Rows, train: Rows, test: Rows, sized: LikeSized
) -> list[Measure]:
    """Return the mean difference of Spearman's correlations over pairs of numeric columns."""
    names = [column.name for column in schema.columns if not isinstance(column, CategoricalColumn)]
    if len(names) < 2:
        return []
    pairs = np.triu_indices(len(names), 1)

    def of(rows: Rows, weights: Sequence[Float64Array]) -> Float64Array:
        ranks_ND = _ranks(rows, names)
        return np.stack([_correlations(ranks_ND, weight)[pairs] for weight in weights])

    real = beside(of(train, sized.train))
    title = "Mean difference of the rank correlations of two numeric columns (Spearman's ρ)"
    found, floors = (
        np.abs(real - of(rows, weights)).T
        for rows, weights in ((synthetic, sized.synthetic), (test, sized.test))
    )
    return [_mean("rank_correlation", title, list(found), list(floors), most=2.0)]


def _ranks(rows: Rows, names: Sequence[str]) -> Float64Array:
    """Return the weight below each value and half of that at it, (N, D), NaN if missing."""
    ranks_ND = np.full((len(rows.owner), len(names)), np.nan)
    for d, name in enumerate(names):
        known = ~np.isnan(rows.columns[name])
        _, place = np.unique(rows.columns[name][known], return_inverse=True)
        at = np.bincount(place, rows.weight[known])
        ranks_ND[known, d] = (np.cumsum(at) - at / 2)[place]
    return ranks_ND


def _correlations(ranks_ND: Float64Array, weight_N: Float64Array) -> Float64Array:
    """Return correlations over the rows in which both values are known, (D, D); 0 if constant."""
    known_ND = (~np.isnan(ranks_ND)).astype(np.float64)
    x_ND = np.nan_to_num(ranks_ND)
    weighted_ND, counted_ND = x_ND * weight_N[:, None], known_ND * weight_N[:, None]
    total = np.maximum(counted_ND.T @ known_ND, 1e-300)
    mean = (weighted_ND.T @ known_ND) / total
    spread = ((weighted_ND * x_ND).T @ known_ND) / total - mean**2
    covariance = (weighted_ND.T @ x_ND) / total - mean * mean.T
    scale = np.sqrt((spread * spread.T).clip(min=0))
    flat = np.zeros_like(scale)
    return np.asarray(np.divide(covariance, scale, out=flat, where=scale > _LEAST_SCALE))


def _detection(
    schema: TableSchema, synthetic: Rows, train: Rows, test: Rows, rng: np.random.Generator
) -> Measure:
    size = min(synthetic.num_patients, train.num_patients)
    found, floor = (
        _told_apart(schema, rows.take(rows.thinned(size, rng) > 0), test, rng)
        for rows in (synthetic, train)
    )
    return Measure(
        id="detection_auc",
        title="AUC of a classifier that tells synthetic rows from real test rows (0.5 is best)",
        value=found[0],
        lower=found[1],
        upper=found[2],
        baseline=floor[0],
        baseline_title="as many patients of the training table instead of synthetic ones",
        baseline_lower=floor[1],
        baseline_upper=floor[2],
    )


def _told_apart(
    schema: TableSchema, one: Rows, other: Rows, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Return the AUC, in two folds, of gradient boosting between two tables, with interval."""
    both = Rows(
        {name: np.concatenate([one.columns[name], other.columns[name]]) for name in schema.names},
        np.concatenate([one.owner, other.owner + one.num_patients]),
        np.concatenate([one.weight / one.weight.sum(), other.weight / other.weight.sum()]),
    )
    label = np.arange(len(both.owner)) < len(one.owner)
    x = features(schema.columns, both.columns)
    fold = rng.permutation(both.num_patients)[both.owner] % 2 == 0
    risk = np.zeros(len(label))
    for learn in (fold, ~fold):
        model = HistGradientBoostingClassifier(
            early_stopping=False,
            random_state=0,
            categorical_features=categorical_mask(schema.columns),
        )
        model.fit(learnable(x[learn]), label[learn], sample_weight=both.weight[learn] * len(label))
        risk[~learn] = model.predict_proba(x[~learn])[:, 1]

    def separation(weight: Float64Array) -> float:
        return float(np.mean([auc(label[f], risk[f], weight[f]) for f in (fold, ~fold)]))

    return with_interval(separation(both.weight), bootstrap(separation, both, rng))
