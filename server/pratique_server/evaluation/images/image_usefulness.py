"""Utility: do networks that learn from synthetic images serve real patients, and the other way?

TSTR: trained on synthetic, tested on real. TRTR: real, real. TRTS: trained on real, tested on
synthetic. Class consistency: how often a network that learnt from real images sees in a synthetic
one what it is said to show.

Shapes: S seeds, N images, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from pratique_common.columns import CategoricalColumn
from pratique_common.images.spec import IMAGE
from pratique_common.row_checks import level_positions
from pratique_common.schema import TableSchema
from pratique_server.evaluation.images.image_learner import ImageClassifier, Training
from pratique_server.evaluation.images.image_scores import MacroAuc, accuracy, balanced_accuracy
from pratique_server.evaluation.rows import RESAMPLES, Measure, Rows, with_interval

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

Statistic = Callable[[Float64Array], float]
"""Of row weights (N,)."""

_TRTR = "trained and tested on real (TRTR)"
_GUESSING = "guessing"


class _Ends(TypedDict):
    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Labelled:
    """The images of which it is known what they show."""

    rows: Rows
    label: IntArray
    """(N,)."""
    num_classes: int

    @classmethod
    def of(cls, rows: Rows, schema: TableSchema) -> "Labelled":
        """Return a table's labelled images; labels are positions among the target's levels."""
        target = target_column(schema)
        label_N = level_positions(target, rows.columns[target.name])
        known = label_N >= 0
        return cls(rows.take(known), label_N[known], len(target.levels))

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(N, H, W, C)."""
        return np.asarray(self.rows.columns[IMAGE], np.uint8)


@dataclass(frozen=True)
class ImageUsefulness:
    """All that was found."""

    measures: list[Measure]
    classes: list[dict[str, Any]]
    """Of each level of the target: shares, and how often it is seen in its images."""
    site_network: ImageClassifier | None
    """Learnt from real images: what it sees are features, too."""


def target_column(schema: TableSchema) -> CategoricalColumn:
    """Return what an image shows: studies of images have such a column."""
    if schema.target is None:
        raise ValueError("a study of images has a target")
    column = schema.column(schema.target)
    assert isinstance(column, CategoricalColumn)
    return column


def image_usefulness(
    schema: TableSchema,
    synthetic: Rows,
    train: Rows,
    test: Rows,
    rng: np.random.Generator,
    training: Training,
) -> ImageUsefulness:
    """Train networks on both tables and test them on real and synthetic images.

    Intervals are of sampling patients and of the networks' seeds.
    """
    fake, real, other = (Labelled.of(rows, schema) for rows in (synthetic, train, test))
    from_fake, from_real = _networks(fake, training), _networks(real, training)
    tstr = _Tested(other, from_fake)
    trtr = _Tested(other, from_real)
    trts = _Tested(fake, from_real)
    shown = f"'{schema.target}'"
    measures = []
    for name, tested, words in (
        ("tstr", tstr, "trained on synthetic, tested on real (TSTR)"),
        ("trts", trts, "trained on real, tested on synthetic (TRTS)"),
        ("trtr", trtr, "trained and tested on real (TRTR)"),
    ):
        guess = name == "trtr"
        measures += [
            Measure(
                id=f"{name}_auc",
                title=f"Macro AUC for {shown}, {words}",
                **tested.figure(tested.aucs, rng),
                baseline=0.5 if guess else trtr.value(trtr.aucs),
                baseline_title=_GUESSING if guess else _TRTR,
            ),
            Measure(
                id=f"{name}_balanced_accuracy",
                title=f"Balanced accuracy for {shown}, {words}",
                **tested.figure(tested.balanced, rng),
                baseline=1 / other.num_classes if guess else trtr.value(trtr.balanced),
                baseline_title=_GUESSING if guess else _TRTR,
            ),
        ]
    measures.append(
        Measure(
            id="class_consistency",
            title="Share of synthetic images in which a network trained on real ones sees their "
            "declared class",
            **trts.figure(trts.plain, rng),
            baseline=trtr.value(trtr.plain),
            baseline_title="real test images and their own class",
        )
    )
    return ImageUsefulness(
        measures, _classes(schema, trts, trtr), from_real[0] if from_real else None
    )


def _networks(images: Labelled, training: Training) -> list[ImageClassifier]:
    """Return a network a seed; none where there is nothing to learn."""
    fitted = (
        ImageClassifier.fit(
            images.pixels,
            images.label,
            images.rows.weight,
            num_classes=images.num_classes,
            seed=seed,
            training=training,
        )
        for seed in training.seeds
    )
    return [network for network in fitted if network is not None]


class _Tested:
    """What networks of several seeds say of the same images."""

    def __init__(self, images: Labelled, networks: list[ImageClassifier]) -> None:
        self.images = images
        label_N = images.label
        used = networks if len(label_N) else []
        self.chances = [network.probabilities(images.pixels) for network in used]
        self.aucs: list[Statistic] = [MacroAuc(label_N, chance) for chance in self.chances]
        self.balanced = [self._of(balanced_accuracy, chance) for chance in self.chances]
        self.plain = [self._of(accuracy, chance) for chance in self.chances]

    def _of(
        self, score: Callable[[IntArray, Float64Array, Float64Array], float], chance: Float64Array
    ) -> Statistic:
        return lambda weight_N: score(self.images.label, chance, weight_N)

    def value(self, statistics: list[Statistic]) -> float:
        """Return the mean over seeds, NaN if no network could be trained."""
        if not statistics:
            return float("nan")
        return float(np.mean([statistic(self.images.rows.weight) for statistic in statistics]))

    def figure(self, statistics: list[Statistic], rng: np.random.Generator) -> _Ends:
        """Return value, lower and upper; resamples draw patients, and seeds, with replacement."""
        resamples = []
        for _ in range(RESAMPLES if statistics else 0):
            weight_N = self.images.rows.resampled(rng)
            drawn = rng.integers(len(statistics), size=len(statistics))
            resamples.append(float(np.mean([statistics[s](weight_N) for s in drawn])))
        value, lower, upper = with_interval(self.value(statistics), resamples)
        return {"value": value, "lower": lower, "upper": upper}


def _classes(schema: TableSchema, trts: _Tested, trtr: _Tested) -> list[dict[str, Any]]:
    levels = target_column(schema).levels
    found = []
    for number, level in enumerate(levels):
        row: dict[str, Any] = {"level": level}
        for role, tested in (("synthetic", trts), ("real", trtr)):
            weight_N = tested.images.rows.weight
            inside_N = tested.images.label == number
            row[f"{role}_images"] = int(inside_N.sum())
            row[f"{role}_share"] = float(weight_N[inside_N].sum() / max(weight_N.sum(), 1e-300))
            seen = [
                accuracy(tested.images.label[inside_N], chance[inside_N], weight_N[inside_N])
                for chance in tested.chances
            ]
            row[f"{role}_consistency"] = float(np.mean(seen)) if seen else float("nan")
        found.append(row)
    return found
