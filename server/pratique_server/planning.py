"""What a study will take before it is run: noise, traffic, time."""

from pathlib import Path
from typing import Any

from pratique_common.generators.build import build_generator, to_vector
from pratique_common.study import StudySpec
from pratique_privacy.budget import PrivacyPlan

# Measured on the demo: three sites, two cores, half busy with other work.
_SECONDS_A_ROUND = 1.0
_SECONDS_AROUND = 45.0
_BYTES_OF_A_WEIGHT = 4
_BYTES_OF_A_SUM = 8


def plan_of(study: StudySpec, *, source: Path) -> dict[str, Any]:
    """Return what a run costs; building the generator also checks its settings.

    Raises:
        InvalidFileError: the generator or a setting of it does not exist.
    """
    plan = PrivacyPlan(study)
    parameters = to_vector(build_generator(study, source=source).module).size
    rounds = study.training.rounds
    total = plan.total_spent()
    return {
        "epsilon_of_training": plan.training_spent().epsilon,
        "epsilon_with_audit_and_utility": total.epsilon,
        "delta_in_all": total.delta,
        "accountant": total.accountant,
        "noise_multiplier_of_a_step": plan.step.noise_multiplier,
        "noise_multiplier_of_histograms": plan.histogram.noise_multiplier,
        "sigma_of_an_audit_count_members": plan.audit_members_sigma,
        "sigma_of_an_audit_count_holdout": plan.audit_holdout_sigma,
        "parameters": parameters,
        "megabytes_to_a_site": rounds * parameters * _BYTES_OF_A_WEIGHT / 1e6,
        "megabytes_from_a_site": rounds * parameters * _BYTES_OF_A_SUM / 1e6,
        "seconds_on_one_machine": _SECONDS_AROUND + rounds * _SECONDS_A_ROUND,
    }
