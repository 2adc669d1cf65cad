"""What a study will take before it is run: noise, traffic, time."""

from datetime import UTC, datetime
from math import exp, prod
from pathlib import Path
from typing import Any

import numpy as np

from pratique_common.columns import AnyColumn, CategoricalColumn
from pratique_common.errors import InvalidFileError
from pratique_common.generators.base import part_of
from pratique_common.generators.build import build_generator
from pratique_common.rule_grammar import previous
from pratique_common.study import StudySpec
from pratique_common.time_columns import DateColumn
from pratique_privacy.accountant import accountant_of
from pratique_privacy.audits.context import LEAST_DISTANCES
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.conclusion import audit_sigmas
from pratique_privacy.outlook import NUM_DRAWS, missed_tolerances
from pratique_privacy.post_processing.derivation import sites_derive
from pratique_server.report.rules import rule_label
from pratique_server.rules_in_vain import rules_in_vain

_SECONDS_A_ROUND = 1.2
_CPU_S_AROUND, _CPU_S_A_SITE, _CPU_S_A_CELL = 60.0, 15.0, 1.8e-8
"""Of a whole run; a cell: of a column, of a released row beside a patient, which audits compare.
They give 144 CPU-seconds for the demo (78 s on two cores), 2,500 for ten sites with 84,000 patients
and 50,000 rows of 30 columns (2,428 were taken), 540 for three with 30,000 patients of 1.4 rows and
30,000 rows of 27 columns (739): 2026-11-23, ``benchmarks/federated_tables.py``. Answers that are
held back, so that they do not tell a site's size, may take as long again."""
_CORES = 2
_BYTES_OF_A_WEIGHT = 4

_OFTEN = 0.1
"""Of honest audits: one tolerance that more of them miss is worth a word before the run."""


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


def warnings_of(study: StudySpec) -> list[str]:
    """Return in words what will end the run without a release, or spoil one, whatever the data."""
    return [
        *_expired(study),
        *rules_in_vain(study.data),
        *_too_few_rows(study),
        *_too_uncertain(study),
        *_too_coarse_for_times_between(study),
    ]


def _expired(study: StudySpec) -> list[str]:
    expires = study.disclosure.expires
    if expires >= datetime.now(UTC).date():
        return []
    return [f"it expired on {expires}: hospitals refuse it; agree on a later disclosure.expires"]


def _too_coarse_for_times_between(study: StudySpec) -> list[str]:
    """Name pairs of dates in rules: the time between two is known by their bins only."""
    of_name = {column.name: column for column in study.data.columns}
    of_name |= {previous(name): column for name, column in of_name.items()}
    found = []
    for names in study.data.compared_names:
        columns = [of_name[name] for name in names]
        dates = [column for column in columns if isinstance(column, DateColumn)]
        widest = max((np.diff(column.bin_edges()).max() for column in dates), default=0)
        if len(dates) == len(columns) and widest > 1:
            found.append(
                f"{names[0]} and {names[1]} are dates in bins of up to {widest:.0f} days: the rule "
                "will hold, and of the days between them only what bins tell is learnt, which is "
                "about their mean. If the time between them matters, give it a column of its own "
                "(stay_days) instead of one of the two dates"
            )
    return found


def _too_uncertain(study: StudySpec) -> list[str]:
    shares = missed_tolerances(study, _sites_at_least(study))
    often = {rule: share for rule, share in shares.items() if share >= _OFTEN}
    if not often:
        return []
    found = ", ".join(
        f"{rule_label(*rule)} ({share:.0%})"
        for rule, share in sorted(often.items(), key=lambda item: -item[1])
    )
    remedy = "give the audit more budget or patients, or agree on wider tolerances"
    if ("NEAR", "near_match_patients") in often:
        remedy += "; a cap in people has to grow with their number"
    return [
        "with so many patients and so much noise an audit may not show that a table is within its "
        f"tolerances even if it betrays nobody. Missed in {NUM_DRAWS} simulated audits: {found}: "
        f"{remedy}"
    ]


def _too_few_rows(study: StudySpec) -> list[str]:
    rows, possible = study.release.rows, num_possible_rows(study)
    # Of N rows drawn evenly among M, N exp(-N / M) have no twin on average.
    alone = rows * exp(-rows / possible)
    if alone >= LEAST_DISTANCES:
        return []
    return [
        f"the columns allow {possible:,.0f} different rows, so that nearly each of {rows:,} has a "
        f"twin; the audit measures nearness among rows that differ and needs {LEAST_DISTANCES} of "
        "them: declare numbers and dates finer, add columns, or release fewer rows"
    ]


def _sites_at_least(study: StudySpec) -> int:
    return max(study.release.min_sites, study.privacy.least_sites)


def num_possible_rows(study: StudySpec) -> float:
    """Return how many different rows the audit can see, rules aside: images differ, too."""
    return prod(_num_values(column) for column in study.data.audited.columns)


def _num_values(column: AnyColumn) -> float:
    if isinstance(column, CategoricalColumn):
        return column.num_levels
    edges = column.bin_edges()
    values = (edges[-1] - edges[0]) * 10.0**column.decimals_shown + 1
    return float(values) + column.can_be_missing


def _plan_of(study: StudySpec, source: Path) -> dict[str, Any]:
    plan = PrivacyPlan(study)
    generator = build_generator(study, source=source)
    rounds = study.training.rounds
    table = study.data.image is None  # what images take hangs on their size and the network's
    total = plan.total_spent()
    num_sites = _sites_at_least(study)
    in_round = [part_of(generator, number) for number in range(1, rounds + 1)]
    numbers = {part: part.state().size for part in set(in_round)}
    forms = {part: plan.step_sum(part.sum_size, num_sites) for part in set(in_round)}
    sent = sum(forms[part].size * forms[part].bits for part in in_round) / 8e6
    proofs = 0.0
    if sites_derive(study):
        histograms = plan.histogram_sum(num_sites)
        proofs = num_sites * (histograms.size * histograms.bits / 8e6 + sent)
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
        "numbers_in_a_sum": max((form.size for form in forms.values()), default=0),
        "sites_derive_the_candidate": sites_derive(study),
        "megabytes_to_a_site": _BYTES_OF_A_WEIGHT * sum(map(numbers.__getitem__, in_round)) / 1e6
        + proofs,
        "megabytes_from_a_site": sent,
        **({"seconds_on_two_cores_at_least": _seconds(study, num_sites)} if table else {}),
    }


def _seconds(study: StudySpec, num_sites: int) -> float:
    """Return how long a run with a row a patient takes, all on one machine."""
    cells = study.release.rows * study.privacy.expected_patients * len(study.data.columns)
    cpu_s = _CPU_S_AROUND + num_sites * _CPU_S_A_SITE + cells * _CPU_S_A_CELL
    return cpu_s / _CORES + study.training.rounds * _SECONDS_A_ROUND
