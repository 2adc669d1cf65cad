"""Canaries' values in the opened sums of training: collected, and never shown to a generator."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pratique_common.parts import CanaryOpening
from pratique_common.study import StudySpec
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.canary_evidence import SiteCanaries, histogram_units
from pratique_privacy.fixed_point import FixedPoint
from pratique_server.opened import OpenedSum

Float64Array = NDArray[np.float64]

_DECIMALS = 4  # of a canary's part: noise is never as small


class CanaryBook:
    """The values of all sites' canaries over the sums of a run."""

    def __init__(self, study: StudySpec) -> None:
        self._study, self._plan = study, PrivacyPlan(study)
        self._histograms: dict[str, tuple[Float64Array, int]] = {}
        self._steps: dict[str, tuple[Float64Array, int, int]] = {}

    def histograms(self, form: FixedPoint, opened: OpenedSum, roster: Sequence[str]) -> None:
        """Take note of the histogram round's."""
        units = np.array(histogram_units(self._study))[:, None]
        for site, values, summands in self._values(form, opened, roster):
            self._histograms[site] = values / units, summands

    def step(self, form: FixedPoint, opened: OpenedSum, roster: Sequence[str]) -> None:
        """Take note of one round's."""
        for site, values, summands in self._values(form, opened, roster):
            total, rounds, before = self._steps.get(site, (np.zeros(values.shape[1]), 0, 0))
            total = total + values[0] / self._study.training.max_grad_norm
            self._steps[site] = total, rounds + 1, before + summands

    def evidence(
        self, commitments: Mapping[str, str], openings: Mapping[str, CanaryOpening]
    ) -> dict[str, SiteCanaries]:
        """Return what is known of each site that opened its coins."""
        found = {}
        for site in sorted(set(openings) & (set(self._histograms) | set(self._steps))):
            histograms, in_histograms = self._histograms.get(site, (np.zeros((0, 0)), 0))
            steps, rounds, summands = self._steps.get(site, (np.zeros(0), 0, 0))
            found[site] = SiteCanaries(
                commitment=commitments[site],
                opening=openings[site],
                histograms=tuple(_rounded(values) for values in histograms),
                histogram_summands=in_histograms,
                steps=_rounded(steps),
                rounds=rounds,
                round_summands=summands,
            )
        return found

    def _values(
        self, form: FixedPoint, opened: OpenedSum, roster: Sequence[str]
    ) -> list[tuple[str, Float64Array, int]]:
        """Return each site's values, (sections, canaries), and whose noise is in them."""
        places = {site: (rank, len(roster)) for rank, site in enumerate(sorted(roster))}
        found = []
        for site in opened.sites:
            # Without a secure sum every site's vector stands for itself, with its own places.
            total = opened.total if roster else form.read(opened.words[site])
            reserved = form.split(total)[1].reshape(len(form.sections), -1)
            own = self._plan.canaries_of(*places.get(site, (0, 1)))
            found.append((site, reserved[:, own], len(opened.sites) if roster else 1))
        return found


def _rounded(values: Float64Array) -> tuple[float, ...]:
    return tuple(np.round(values, _DECIMALS).tolist())
