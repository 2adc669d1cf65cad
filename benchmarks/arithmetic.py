"""A federation's arithmetic in one process: the product's own parts, without Flower and masks.

Masks cancel exactly in the ring, so the coordinator reads the same words. All rows are members: no
hold-out is split off, nothing is audited, nobody drops out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pratique_client.histograms import exact_histograms
from pratique_client.patients import Group
from pratique_client.training import encode_patients
from pratique_common.generators.base import part_of
from pratique_common.generators.build import build_generator
from pratique_common.study import StudySpec
from pratique_common.tables import Table
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.patient_sums import patient_sum, sampled_sum
from pratique_privacy.post_processing.derivation import Derivation

Float64Array = NDArray[np.float64]


def read_sum(form: FixedPoint, noise: str, totals: list[Float64Array]) -> Float64Array:
    """Return what the coordinator learns of the sites' exact totals."""
    no_canaries = np.zeros(sum(section.reserved for section in form.sections))
    protected = [form.protect(form.join(total, no_canaries)) for total in totals]
    if noise == "local":
        return sum((form.read(words) for words in protected), np.zeros(form.size))
    return form.read(np.sum(protected, axis=0, dtype=form.word))  # modulo 2ᵏ


def train(
    study: StudySpec, sites: Sequence[Table], *, silent: bool = False
) -> tuple[Derivation, float]:
    """Train on the sites' rows; return what follows from the sums and a step's noise deviation.

    All sites get the same state, so one generator stands for all.

    Args:
        study: the study.
        sites: their rows.
        silent: sums of rounds hold nothing but their noise, as a control.
    """
    plan, noise = PrivacyPlan(study), study.privacy.noise
    derivation, step_noise = Derivation(study, len(sites)), 0.0
    groups = [Group(table.columns, table.patients) for table in sites]
    patients = [encode_patients(study, group) for group in groups]
    exact = [exact_histograms(study, *p, g) for p, g in zip(patients, groups, strict=True)]
    derivation.add_histograms(read_sum(derivation.histogram_form, noise, exact), len(sites))
    at_site = build_generator(study)
    rounds = range(1, study.training.rounds + 1)
    for number in rounds:
        part = part_of(at_site, number)
        part.load_state(derivation.part.state())
        add_up = patient_sum(part, study.training.max_grad_norm)
        totals = [
            sampled_sum(add_up, codes_PKD, weight_PK, sample_rate=plan.step.sample_rate)
            * (not silent)
            for codes_PKD, weight_PK in patients
        ]
        total = read_sum(derivation.step_form, noise, totals)
        _, step_noise = derivation.add_round(total, len(sites))
    derivation.fit()
    return derivation, step_noise
