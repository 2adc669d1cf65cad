"""Likeness: how far synthetic images lie from real ones in what encoders see.

Distances are to the real test images; real training images in the synthetic ones' place are the
floor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pratique_common.images.spec import IMAGE
from pratique_server.evaluation.images.frechet import (
    FeatureKind,
    Seen,
    distance_name,
    extrapolated_distance,
    frechet_distance,
)
from pratique_server.evaluation.images.precision_recall import NEIGHBOURS, reaches
from pratique_server.evaluation.rows import RESAMPLES, Measure, Rows, bootstrap, with_interval

Float64Array = NDArray[np.float64]

Encode = Callable[[NDArray[np.uint8]], Float64Array]
"""From pixels (N, H, W, C) to features (N, D)."""

MOST_PATIENTS = 2_000
"""Whose neighbours are looked for, of each table."""

_MANY_FEATURES = 256
_FEW_RESAMPLES = 10  # with many features each takes seconds; a deviation then has an error of 24 %
_INSTEAD = "real training images instead of synthetic ones"

_NEIGHBOURHOODS = {
    "precision": "Precision: share of synthetic images within reach of a real one",
    "recall": "Recall: share of real images within reach of a synthetic one",
    "density": "Density: real images that have a synthetic one within reach (1 is like real)",
    "coverage": "Coverage: share of real images with a synthetic one within their own reach",
}


@dataclass(frozen=True)
class Encoder:
    """Something that sees images, and where it is from."""

    kind: FeatureKind
    encode: Encode
    inception: bool = False


@dataclass(frozen=True)
class Compared:
    """Three tables of images as one encoder sees them."""

    encoder: Encoder
    synthetic: Seen
    train: Seen
    test: Seen

    @classmethod
    def of(cls, encoder: Encoder, *, synthetic: Rows, train: Rows, test: Rows) -> "Compared":
        """Encode the images of all tables."""
        seen = (
            Seen(_without_pixels(rows), encoder.encode(rows.columns[IMAGE]))
            for rows in (synthetic, train, test)
        )
        return cls(encoder, *seen)


def _without_pixels(rows: Rows) -> Rows:
    """Return rows that are quick to choose among."""
    columns = {name: values for name, values in rows.columns.items() if name != IMAGE}
    return Rows(columns, rows.owner, rows.weight)


def distances(compared: Compared, rng: np.random.Generator) -> list[Measure]:
    """Return the Fréchet distance, and where there are patients enough the one without bias.

    Both have the interval of the plain one: resamples have duplicates, from which no line in 1 / N
    can be drawn.
    """
    synthetic, train, test = compared.synthetic, compared.train, compared.test
    num = RESAMPLES if test.features.shape[1] <= _MANY_FEATURES else _FEW_RESAMPLES
    resamples = [
        frechet_distance(
            synthetic.moments(synthetic.rows.resampled(rng)),
            test.moments(test.rows.resampled(rng)),
        )
        for _ in range(num)
    ]
    id_, title = distance_name(compared.encoder.kind, inception=compared.encoder.inception)
    plain = frechet_distance(synthetic.moments(), test.moments())
    endless = extrapolated_distance(synthetic, test, rng)
    found = []
    for suffix, words, value, floor, least in (
        ("", "", plain, frechet_distance(train.moments(), test.moments()), 0.0),
        (
            "_infinity",
            ", extrapolated to endless sets",
            endless,
            extrapolated_distance(train, test, rng),
            -np.inf,
        ),
    ):
        value, lower, upper = with_interval(value, resamples, least=least, most=np.inf)
        found.append(
            Measure(
                id=id_ + suffix,
                title=title + words,
                value=value,
                lower=lower,
                upper=upper,
                baseline=floor,
                baseline_title=_INSTEAD,
            )
        )
    return found


def neighbourhoods(compared: Compared, rng: np.random.Generator) -> list[Measure]:
    """Return precision, recall, density and coverage, with one image of each patient.

    All tables are brought to one number of patients. Intervals are of sampling the patients that
    are counted, not those that give the reaches.
    """
    tables = (compared.synthetic, compared.train, compared.test)
    num = min(MOST_PATIENTS, *(seen.rows.num_patients for seen in tables))
    if num <= NEIGHBOURS:
        nothing = with_interval(float("nan"), [])
        return [_measure(name, nothing, float("nan")) for name in _NEIGHBOURHOODS]
    synthetic, train, test = (_one_each(seen, num, rng) for seen in tables)
    found = reaches(test.features, synthetic.features)
    floor = reaches(test.features, train.features)
    measures = []
    for name, hits, floor_hits, rows in (
        ("precision", found.precise, floor.precise, synthetic.rows),
        ("recall", found.recalled, floor.recalled, test.rows),
        ("density", found.density, floor.density, synthetic.rows),
        ("coverage", found.covered, floor.covered, test.rows),
    ):
        counts = hits.astype(np.float64)

        def mean(weight_N: Float64Array, counts: Float64Array = counts) -> float:
            return float(weight_N @ counts / max(weight_N.sum(), 1e-300))

        most = np.inf if name == "density" else 1.0
        interval = with_interval(float(counts.mean()), bootstrap(mean, rows, rng), most=most)
        measures.append(_measure(name, interval, float(floor_hits.mean())))
    return measures


def _measure(name: str, interval: tuple[float, float, float], floor: float) -> Measure:
    value, lower, upper = interval
    return Measure(
        id=name,
        title=_NEIGHBOURHOODS[name],
        value=value,
        lower=lower,
        upper=upper,
        baseline=floor,
        baseline_title=_INSTEAD,
    )


def _one_each(seen: Seen, num: int, rng: np.random.Generator) -> Seen:
    """Return one image of each of ``num`` patients: images of one patient are near each other."""
    order = rng.permutation(len(seen.rows.owner))
    _, first = np.unique(seen.rows.owner[order], return_index=True)
    kept = order[first][rng.permutation(len(first))[:num]]
    inside = np.zeros(len(seen.rows.owner), bool)
    inside[kept] = True
    rows = seen.rows.take(inside)
    # Every patient has one image now, of weight one.
    return Seen(Rows(rows.columns, rows.owner, np.ones(num)), seen.features[inside])
