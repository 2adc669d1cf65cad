"""What a site computes for a run: each sum is paid for in the ledger before it is touched.

Shapes: P patients, K rows a patient (padded), D columns.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pratique_client.patients import Group, SitePatients
from pratique_client.site import Site
from pratique_common.encoding import TableEncoder
from pratique_common.errors import FederationError
from pratique_common.generators.build import build_generator, from_vector
from pratique_common.study import StudySpec
from pratique_privacy.accountant import GaussianEvent
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.dp_sgd import clipping_module, sampled_clipped_sum
from pratique_privacy.ledger import Charge
from pratique_privacy.noise import noised_on_grid

Vector = NDArray[np.int64]

_HISTOGRAM_ROUND = 0


class SiteTraining:
    """Training of one run at one site.

    Every answer is a vector of whole grid steps with this site's full noise in it: the seam at
    which a secure sum will take the noise shares of all sites together.
    """

    def __init__(self, site: Site, study: StudySpec, run: str, patients: SitePatients) -> None:
        self._site, self._study, self._run = site, study, run
        self._plan = PrivacyPlan(study)
        self._codes_PKD, self._weight_PK = _encode(study, patients.members)
        self._generator = build_generator(study)
        self._hooked = clipping_module(self._generator, study.training.max_grad_norm)
        self._asked: set[int] = set()
        self._answered: set[int] = set()

    @property
    def finished(self) -> bool:
        """Whether every round of the study was answered in this run."""
        return self._answered == set(range(self._study.training.rounds + 1))

    def charges(self) -> list[Charge]:
        """Return what the whole training would cost, to refuse early if it cannot be paid."""
        return [self._charge("training", event) for event in self._plan.training_events()]

    def histograms(self) -> Vector:
        """Return the noised sum over patients of all one-way histograms, (all levels,).

        Raises:
            FederationError: asked twice in one run.
            BudgetExceededError: it cannot be paid.
        """
        self._only_once(_HISTOGRAM_ROUND)
        self._site.ledger.reserve([self._charge("histograms", self._plan.histogram)])
        levels = TableEncoder(self._study.data).num_levels
        weight = self._weight_PK.numpy().ravel().astype(np.float64)
        totals = [
            np.bincount(self._codes_PKD[..., d].numpy().ravel(), weight, minlength=levels[d])
            for d in range(len(levels))
        ]
        noised = noised_on_grid(np.concatenate(totals), self._plan.histogram_sigma)
        self._answered.add(_HISTOGRAM_ROUND)
        return noised

    def step(self, round_number: int, weights: NDArray[np.float32]) -> Vector:
        """Return the noised sum of clipped gradients of a Poisson batch at ``weights``, (P,).

        Raises:
            FederationError: a round that the study does not have, or one asked twice.
            BudgetExceededError: it cannot be paid.
        """
        if not 1 <= round_number <= self._study.training.rounds:
            raise FederationError("the study has no such round", code="unexpected_round")
        try:
            from_vector(self._generator.module, weights)  # public: no record is touched yet
        except ValueError:
            raise FederationError("weights do not fit", code="malformed_message") from None
        self._only_once(round_number)
        self._site.ledger.reserve([self._charge(f"round {round_number}", self._plan.step)])
        total = sampled_clipped_sum(
            self._hooked,
            self._generator,
            self._codes_PKD,
            self._weight_PK,
            sample_rate=self._study.training.sample_rate,
        )
        noised = noised_on_grid(total, self._plan.step_sigma)
        self._answered.add(round_number)
        return noised

    def _only_once(self, round_number: int) -> None:
        if round_number in self._asked:
            raise FederationError("a round was asked for twice", code="repeated_request")
        self._asked.add(round_number)

    def _charge(self, phase: str, event: GaussianEvent) -> Charge:
        return Charge(
            study=self._study.digest, run=self._run, role="member", phase=phase, event=event
        )


def _encode(study: StudySpec, group: Group) -> tuple[Tensor, Tensor]:
    """Return patients as codes (P, K, D) and row weights (P, K) that sum to one."""
    codes_ND = TableEncoder(study.data).encode(group.columns)
    _, owner = np.unique(group.patients.astype(str), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    counts = np.bincount(owner)
    position = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(counts), int(counts.max()), codes_ND.shape[1])
    codes_PKD = np.zeros(shape, np.int64)
    codes_PKD[owner[order], position] = codes_ND[order]
    weight_PK = (np.arange(shape[1]) < counts[:, None]) / counts[:, None]
    return torch.from_numpy(codes_PKD), torch.from_numpy(weight_PK).float()


def use_one_thread() -> None:
    """Keep a daemon to one core: hospitals' machines have other work, and so has a simulation."""
    torch.set_num_threads(1)
