"""What a site computes for training: histograms once, then one sum of clipped vectors a round.

Shapes: P patients, K rows a patient (padded), D columns.
"""

from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pratique_client.device import device_of, too_small, uneven
from pratique_client.histograms import canary_counts, exact_histograms
from pratique_client.patients import Group, SitePatients
from pratique_client.site import Site
from pratique_client.sums import SiteSums, Submission
from pratique_common.encoding import TableEncoder
from pratique_common.errors import FederationError
from pratique_common.generators.base import Generator, GradientGenerator, part_of
from pratique_common.generators.build import build_generator
from pratique_common.images.spec import IMAGE
from pratique_common.messages import AUDIT_PREFIX, HISTOGRAMS_LABEL, state_digest, step_label
from pratique_common.study import StudySpec
from pratique_common.sub_bins import SubBins
from pratique_common.visits import with_visits
from pratique_privacy.accountant import GaussianEvent
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.canary_sums import canaries_in_histograms, canaries_in_step
from pratique_privacy.ledger import Charge
from pratique_privacy.patient_sums import (
    CPU,
    PatientSum,
    patient_sum,
    place_matters,
    sampled_sum,
)

Float64Array = NDArray[np.float64]

_WARM_ROWS = 3


class SiteTraining:
    """Training of one run at one site: two kinds of sums over its members."""

    def __init__(
        self, site: Site, study: StudySpec, run: str, patients: SitePatients, sums: SiteSums
    ) -> None:
        self._site, self._study, self._run, self._sums = site, study, run, sums
        self._plan = PrivacyPlan(study)
        self._members = patients.members
        self._codes_PKD, self._weight_PK = encode_patients(study, patients.members)
        self._generator = build_generator(study)
        self._device = CPU
        if any(isinstance(part, GradientGenerator) for part in self._parts()):
            self._device = device_of(site)

    def warm_up(self) -> None:
        """Do a step on rows of zeros: the first one is slow, and answers keep the longest time.

        No record takes part: what is computed on records is paid for first.

        Raises:
            InvalidFileError: the GPU has too little memory, or does not treat all patients alike.
        """
        try:
            for part in self._parts():
                self._try_device(part)
                self._add_up(part)(*self._nobody())
        except torch.OutOfMemoryError:
            raise too_small(self._site) from None

    def _parts(self) -> list[Generator]:
        """Return what is computed for in the rounds, each once."""
        rounds = range(1, self._study.training.rounds + 1)
        parts = [part_of(self._generator, number) for number in rounds]
        return list({id(part): part for part in parts}.values())

    def _add_up(self, part: Generator) -> PatientSum:
        return patient_sum(part, self._study.training.max_grad_norm, device=self._device)

    def _try_device(self, part: Generator) -> None:
        if self._device == CPU or not isinstance(part, GradientGenerator):
            return
        _, num_rows, num_codes = self._codes_PKD.shape
        if place_matters(part, num_rows, num_codes, self._device):
            raise uneven(self._site)

    def _nobody(self) -> tuple[Tensor, Tensor]:
        """Return codes and row weights of a batch of planned size, without a record."""
        batch = ceil(self._study.training.sample_rate * len(self._codes_PKD))
        codes_BKD = torch.zeros_like(self._codes_PKD[:batch])
        weight_BK = torch.zeros_like(self._weight_PK[:batch])
        few = min(_WARM_ROWS, weight_BK.shape[1])  # where a patient may have 40, few have many
        weight_BK[:, :few] = 1 / few
        return codes_BKD, weight_BK

    def charges(self) -> list[Charge]:
        """Return what the whole training costs, sum by sum."""
        rounds = range(1, self._study.training.rounds + 1)
        return [
            self._charge(HISTOGRAMS_LABEL, self._plan.histogram),
            *(self._charge(step_label(number), self._plan.step) for number in rounds),
        ]

    def histograms(self, participants: tuple[str, ...]) -> Submission:
        """Return the sum over patients of all one-way histograms: levels, then sub-bins.

        Raises:
            FederationError: asked twice in one run.
            BudgetExceededError: it cannot be paid.
        """
        return self._sums.submit(
            HISTOGRAMS_LABEL,
            participants,
            self._plan.histogram_sum(self._sums.enrolment.num_sites),
            [self._charge(HISTOGRAMS_LABEL, self._plan.histogram)],
            self._exact_histograms,
        )

    def step(
        self, round_number: int, weights: NDArray[np.float32], participants: tuple[str, ...]
    ) -> Submission:
        """Return the clipped sum over a Poisson batch at the generator's state ``weights``, (P,).

        Raises:
            FederationError: a round that the study does not have, one asked twice, or one after
                the audit.
            BudgetExceededError: it cannot be paid.
        """
        if not 1 <= round_number <= self._study.training.rounds or self._audited():
            raise FederationError("the study has no such round", code="unexpected_round")
        part = part_of(self._generator, round_number)
        try:
            part.load_state(weights)  # public: no record is touched yet
        except ValueError:
            raise FederationError("weights do not fit", code="malformed_message") from None
        label = step_label(round_number)
        return self._sums.submit(
            label,
            participants,
            self._plan.step_sum(part.sum_size, self._sums.enrolment.num_sites),
            [self._charge(label, self._plan.step)],
            lambda: self._exact_step(part),
            inputs=state_digest(weights),
        )

    def _exact_histograms(self) -> Float64Array:
        study, form = self._study, self._plan.histogram_sum(self._sums.enrolment.num_sites)
        exact = exact_histograms(study, self._codes_PKD, self._weight_PK, self._members)
        columns = [len(study.data.trained.columns), len(SubBins(study.data.columns).columns)]
        canaries = canaries_in_histograms(
            self._sums.enrolment.canaries,
            columns[: len(form.sections)],
            study.data.max_rows_per_patient,
            canary_counts(),
        )
        return form.join(exact, self._sums.enrolment.in_own_places(canaries))

    def _exact_step(self, part: Generator) -> Float64Array:
        study = self._study
        form = self._plan.step_sum(part.sum_size, self._sums.enrolment.num_sites)
        rate = study.training.sample_rate
        exact = sampled_sum(self._add_up(part), self._codes_PKD, self._weight_PK, sample_rate=rate)
        canaries = canaries_in_step(
            part,
            self._sums.enrolment.canaries,
            study.data.max_rows_per_patient,
            study.training.max_grad_norm,
            rate,
            device=self._device,
        )
        return form.join(exact, self._sums.enrolment.in_own_places(canaries))

    def _audited(self) -> bool:
        # Training on after an audit would let a coordinator steer by what the audit found.
        entries = self._site.ledger.entries_of(self._study.digest, self._run)
        return any(entry.phase.startswith(AUDIT_PREFIX) for entry in entries)

    def _charge(self, phase: str, event: GaussianEvent) -> Charge:
        return Charge(
            study=self._study.digest, run=self._run, role="member", phase=phase, event=event
        )


def encode_patients(study: StudySpec, group: Group) -> tuple[Tensor, Tensor]:
    """Return patients as codes (P, K, D) and row weights (P, K) that sum to one.

    Behind the codes of columns stand the pixels of a row's image, where there are any.

    K is the study's and not the data's: nothing may depend on the patient with the most rows.
    """
    columns = with_visits(study.data, group.columns, group.patients)
    encoder = TableEncoder(study.data.trained)
    _, owner = np.unique(group.patients.astype(str), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    num_columns, image = len(encoder.num_levels), study.data.image
    num_codes = num_columns + (0 if image is None else image.num_pixels)
    shape = (len(counts), study.data.max_rows_per_patient, num_codes)
    codes_PKD = np.zeros(shape, _smallest_type(max(encoder.num_levels)))
    for d, codes_N in enumerate(encoder.encode_columns(columns)):  # one at a time: they are large
        codes_PKD[owner[order], position, d] = codes_N[order]
    if image is not None:
        pixels = group.columns[IMAGE].reshape(len(owner), -1)
        codes_PKD[owner[order], position, num_columns:] = pixels[order]
    weight_PK = (np.arange(shape[1]) < counts[:, None]) / counts[:, None]
    return torch.from_numpy(codes_PKD), torch.from_numpy(weight_PK).float()


def _smallest_type(num_levels: int) -> type[np.integer[Any]]:
    """Return what codes of so many levels, and pixels of 8 bits, fit into."""
    if num_levels <= np.iinfo(np.uint8).max + 1:
        return np.uint8
    return np.int16 if num_levels <= np.iinfo(np.int16).max else np.int32
