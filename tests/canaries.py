"""Canaries of a run as evidence: simulated, or planted by the sites' own code."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pratique_client import histograms
from pratique_common.generators.build import build_generator
from pratique_common.parts import SumProof, SumTranscript
from pratique_common.study import StudySpec
from pratique_privacy import canary_sums
from pratique_privacy.budget import NUM_CANARIES, PrivacyPlan
from pratique_privacy.canaries import CanaryResult
from pratique_privacy.canary_coins import Coins
from pratique_privacy.canary_evidence import (
    SiteCanaries,
    conclude_site_canaries,
    histogram_units,
)
from pratique_privacy.fixed_point import FixedPoint
from pratique_server.canaries import CanaryBook
from pratique_server.opened import OpenedSum
from tests.noise import noise


def honest_canaries(
    study: StudySpec,
    sites: Sequence[str],
    *,
    rounds: int | None = None,
    noise_ratio: float = 1.0,
    size: float = 1.0,
) -> dict[str, SiteCanaries]:
    """Return canaries as sums over ``sites`` would show them.

    ``rounds`` are those that were opened, all by default, ``noise_ratio`` is what there is of the
    planned noise, ``size`` what a canary counts for.
    """
    plan = PrivacyPlan(study)
    ring = 1 if study.privacy.noise == "local" else len(sites)
    rounds = study.training.rounds if rounds is None else rounds
    found = {}
    for rank, site in enumerate(sites):
        places = plan.canaries_of(rank if ring > 1 else 0, ring)
        coins = Coins.draw(NUM_CANARIES)
        there = size * coins.first(places.stop - places.start)
        form = plan.histogram_sum(ring)
        extra = noise_ratio * math.sqrt(ring / form.num_shares)
        histograms = [
            there + noise(there.size, extra * section.noise_multiplier) for section in form.sections
        ]
        steps = np.zeros(0)
        if rounds:
            rate = study.training.sample_rate
            batches = np.random.default_rng().binomial(rounds, rate, there.size)
            sigma = extra * plan.step.noise_multiplier * math.sqrt(rounds)
            steps = there * batches + noise(there.size, sigma)
        found[site] = SiteCanaries(
            commitment=coins.commitment,
            opening=coins.opening,
            histograms=tuple(tuple(values.tolist()) for values in histograms),
            histogram_summands=ring,
            steps=tuple(steps.tolist()),
            rounds=rounds,
            round_summands=ring * rounds,
        )
    return found


def planted_run(study: StudySpec, *, num_sites: int = 3) -> CanaryResult:
    """Run canaries alone through the code of sites and coordinator: no patients, no masks."""
    plan, generator, book = PrivacyPlan(study), build_generator(study), CanaryBook(study)
    names = tuple(f"site{i}" for i in range(num_sites))
    secure = study.privacy.noise == "secure_sum"
    ring = num_sites if secure else 1
    roster = names if secure else ()
    coins = {name: Coins.draw(NUM_CANARIES) for name in names}
    columns = [round(unit**2) for unit in histogram_units(study)]
    rows = study.data.max_rows_per_patient

    def opened(form: FixedPoint, compute: Callable[[NDArray[np.bool_]], Any]) -> OpenedSum:
        """Add up what each site protects, with nothing in patients' coordinates."""
        words = {}
        for rank, name in enumerate(names):
            places = plan.canaries_of(rank if secure else 0, ring)
            values = compute(coins[name].first(places.stop - places.start))
            reserved = np.zeros((*values.shape[:-1], plan.reserved))
            reserved[..., places] = values
            patients = np.zeros(form.size - reserved.size)
            words[name] = form.protect(form.join(patients, reserved.ravel()))
        total = form.read(np.sum([*words.values()], axis=0, dtype=form.word))
        proofs = {name: SumProof(commitment="", signature="") for name in words}
        transcript = SumTranscript(label="", participants=names, inputs="", proofs=proofs)
        return OpenedSum(total=total, transcript=transcript, words=words)

    form = plan.histogram_sum(ring)
    book.histograms(
        form,
        opened(
            form,
            lambda included: canary_sums.canaries_in_histograms(
                included, columns, rows, histograms.canary_counts()
            ),
        ),
        roster,
    )
    settings = study.training
    for _ in range(settings.rounds):
        form = plan.step_sum(1, ring)  # patients' coordinates change nothing here
        book.step(
            form,
            opened(
                form,
                lambda included: canary_sums.canaries_in_step(
                    generator, included, rows, settings.max_grad_norm, settings.sample_rate
                ),
            ),
            roster,
        )
    evidence = book.evidence(
        {name: each.commitment for name, each in coins.items()},
        {name: each.opening for name, each in coins.items()},
    )
    result = conclude_site_canaries(
        study, names, evidence, len(roster), rounds_done=settings.rounds, dropped=()
    )
    assert result is not None
    return result
