"""What a study will take before it is run: noise, traffic, time."""

from pathlib import Path
from typing import Any

from pratique_common.errors import InvalidFileError
from pratique_common.generators.build import build_generator
from pratique_common.study import StudySpec
from pratique_privacy.accountant import accountant_of
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.conclusion import audit_sigmas

# Measured on the demo: three sites, two cores, 47 s with three rounds.
_SECONDS_A_ROUND = 1.2
_SECONDS_AROUND = 43.0
_BYTES_OF_A_WEIGHT = 4


def plan_of(study: StudySpec, *, source: Path) -> dict[str, Any]:
    """Return what a run costs; building the generator also checks its settings.

    Raises:
        InvalidFileError: the generator or a setting of it does not exist, or no noise reaches the
            study's ε for a model of this size.
    """
    try:
        return _plan_of(study, source)
    except ValueError as error:
        raise InvalidFileError(
            source,
            field="privacy",
            problem=f"cannot be kept by noise ({error})",
            remedy="raise an epsilon, or ask for fewer rounds or a smaller generator",
        ) from None


def _plan_of(study: StudySpec, source: Path) -> dict[str, Any]:
    plan = PrivacyPlan(study)
    generator = build_generator(study, source=source)
    to_site, from_site = generator.state().size, generator.sum_size
    rounds = study.training.rounds
    total = plan.total_spent()
    num_sites = max(study.release.min_sites, study.privacy.least_sites)
    bits = 0
    if rounds:
        form = plan.step_sum(from_site, num_sites)
        bits, from_site = form.bits, form.size  # with canaries
    sigmas = audit_sigmas(study, num_sites, num_sites)
    return {
        "epsilon_of_training": plan.training_spent().epsilon,
        "epsilon_with_audit_and_utility": total.epsilon,
        "delta_in_all": total.delta,
        "accountant": accountant_of(plan.training_events()),
        "noise": study.privacy.noise,
        "sites_at_least": num_sites,
        **({"noise_multiplier_of_a_step": plan.step.noise_multiplier} if rounds else {}),
        "noise_multiplier_of_histograms": plan.histogram.noise_multiplier,
        "sigma_of_an_audit_count_members": sigmas[0],
        "sigma_of_an_audit_count_holdout": sigmas[1],
        "numbers_in_a_sum": from_site,
        "megabytes_to_a_site": rounds * to_site * _BYTES_OF_A_WEIGHT / 1e6,
        "megabytes_from_a_site": rounds * from_site * bits / 8e6,
        "seconds_on_one_machine": _SECONDS_AROUND + rounds * _SECONDS_A_ROUND,
    }
