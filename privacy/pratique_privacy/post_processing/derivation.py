"""From the opened sums of a run to its candidate: one way, for the coordinator and for every site.

A site that is given the sums it helped to open finds the same model and the same rows, so that a
coordinator cannot have a table of its own making audited.

Fits end in last bits that differ between processors, by some 1e-13 in 64 bits; rows are drawn in 64
bits as well, and a draw falls between two such models once in 10¹² times. The bundle holds the
model in 32 bits. A network that DP-SGD trained is fitted and drawn from in 32 bits, and its sums
are many: its candidates are not derived by sites. Nor are images: phantoms are rendered in 32 bits.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from pratique_common.generators.base import (
    Generator,
    GradientGenerator,
    ImageGenerator,
    PretrainedGenerator,
    part_of,
)
from pratique_common.generators.build import build_generator
from pratique_common.study import StudySpec
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.post_processing.candidate import sample_candidate
from pratique_privacy.post_processing.image_candidate import sample_images
from pratique_privacy.post_processing.one_way import OneWay, smoothed
from pratique_privacy.post_processing.pretraining import pretrain
from pratique_privacy.post_processing.strategy import Strategy, strategy_of
from pratique_privacy.post_processing.weights import weights_bytes

Float64Array = NDArray[np.float64]

_TOLERANCE = 1e-5
"""Of a weight of the bundle's model, in 32 bits: two of the steps between numbers around 33, which
was the largest weight seen on the demo."""


def sites_derive(study: StudySpec) -> bool:
    """Return whether sites derive candidates of this study themselves before they audit them."""
    privacy = study.privacy
    if privacy.noise != "secure_sum" or not privacy.colluding_sites:
        # Sums that sites did not open together prove nothing to them. And a site that sees a sum
        # can take its own noise off: that is what the noise for colluding sites is for.
        return False
    return study.data.image is None and not isinstance(build_generator(study), GradientGenerator)


class Derivation:
    """Takes the sums of a run in their order, and gives a model and its candidate."""

    def __init__(self, study: StudySpec, num_sites: int) -> None:
        """Begin.

        Args:
            study: the study.
            num_sites: in the roster; 1 without secure sums.
        """
        self._study, self._num_sites = study, num_sites
        self._plan = PrivacyPlan(study)
        self.generator = build_generator(study)
        self._learnt = hashlib.sha256(study.digest.encode())
        self._histogram_summands, self._rounds_taken = 1, 0
        self._one_way: OneWay | None = None
        self._strategy: Strategy | None = None

    @cached_property
    def histogram_form(self) -> FixedPoint:
        """How the histogram round's sum is written."""
        return self._plan.histogram_sum(self._num_sites)

    @property
    def part(self) -> Generator:
        """What sites compute for in the next round."""
        return part_of(self.generator, self._rounds_taken + 1)

    @property
    def step_form(self) -> FixedPoint:
        """How the next round's sum is written."""
        return self._plan.step_sum(self.part.sum_size, self._num_sites)

    @property
    def one_way(self) -> OneWay:
        """What the histogram round told."""
        assert self._one_way is not None
        return self._one_way

    def add_histograms(self, total: Float64Array, num_summands: int) -> None:
        """Take the opened sum of the histogram round, and of how many sites it is."""
        of_patients = self._learn(self.histogram_form, total)
        noises = noises_of(self.histogram_form, num_summands)
        self._histogram_summands = num_summands
        self._one_way = OneWay.of(self._study, of_patients, noises)
        self.generator.set_marginals([smoothed(m, self._study) for m in self.one_way.marginals])
        if isinstance(self.generator, PretrainedGenerator):
            pretrain(self._study, self.generator)
        self._strategy = strategy_of(
            self._study,
            self.generator,
            patients=self.one_way.patients,
            errors=self.one_way.errors,
        )

    def add_round(self, total: Float64Array, num_summands: int) -> tuple[Float64Array, float]:
        """Take the opened sum of one round; return what is of patients, and its noise."""
        assert self._strategy is not None
        of_patients = self._learn(self.step_form, total)
        (noise,) = noises_of(self.step_form, num_summands)
        site_share = num_summands / self._histogram_summands
        self._strategy.update(of_patients, noise, site_share=site_share)
        self._rounds_taken += 1
        return of_patients, noise

    def fit(self) -> bytes:
        """Return the model that follows from all sums that were taken, as the bundle holds it."""
        assert self._strategy is not None
        self._strategy.finish()
        return weights_bytes(self.generator, self.one_way)

    def sample(self) -> tuple[pa.Table, NDArray[np.uint8] | None]:
        """Return the candidate of the fitted model, and masks of its images where they are known.

        The seed follows from the sums alone: every site's noise is in them, so nobody chooses it.

        Raises:
            NotEnoughDataError: the model learnt too little to obey the study's rules.
        """
        if isinstance(self.generator, ImageGenerator):
            return sample_images(self._study, self.generator, self.one_way, seed=self.seed)
        return sample_candidate(self._study, self.generator, self.one_way, seed=self.seed), None

    @property
    def seed(self) -> int:
        """A hash of all sums that were taken."""
        return int.from_bytes(self._learnt.digest()[:7])

    def _learn(self, form: FixedPoint, total: Float64Array) -> Float64Array:
        self._learnt.update(total.astype("<f8").tobytes())
        of_patients, _ = form.split(total)
        return of_patients


def noises_of(form: FixedPoint, num_summands: int) -> Sequence[float]:
    """Return the deviation of all shares of noise, for each section of a sum."""
    return [float(sigma * np.sqrt(num_summands)) for sigma in form.share_sigmas()]


def models_agree(own: bytes, other: bytes) -> bool:
    """Return whether two models in 32 bits are roundings of one."""
    try:
        mine, theirs = load(own), load(other)
    except (SafetensorError, ValueError):
        return False
    return mine.keys() == theirs.keys() and all(
        mine[name].shape == theirs[name].shape
        and mine[name].dtype == theirs[name].dtype
        and bool((np.abs(mine[name] - theirs[name]) <= _TOLERANCE).all())  # NaN is refused
        for name in mine
    )
