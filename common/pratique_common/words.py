"""A study in words: what a person reads before approving it."""

from math import exp

from pratique_common.columns import CategoricalColumn
from pratique_common.study import StudySpec

_MECHANISM = {
    "secure_sum": "sites add shares of the noise and mask their sums; the coordinator sees sums "
    "over all sites and no site's own",
    "local": "every site adds its full noise itself, before anything leaves; the coordinator sees "
    "each site's noised sums",
}


def attacker_success(epsilon: float) -> float:
    """Return how often an attacker who knows all else can guess who took part, at best.

    Balanced prior, plus δ: e^ε / (1 + e^ε) (Wasserman & Zhou 2010; Kairouz et al. 2015).
    """
    return exp(epsilon) / (1 + exp(epsilon)) if epsilon < 700 else 1.0


def study_in_words(study: StudySpec) -> list[str]:
    """Return the lines that ``approve`` and ``study check`` show."""
    privacy, audit, release = study.privacy, study.audit, study.release
    sharing = ""
    if privacy.noise == "secure_sum":
        sharing = (
            f"; {privacy.tolerated_dropouts} sites may be missing from a sum and "
            f"{privacy.colluding_sites} may help the coordinator; at least "
            f"{max(release.min_sites, privacy.least_sites)} sites"
        )
    lines = [
        f"Study '{study.name}', digest {study.digest}",
        *(
            ["All data of this study are SIMULATED: there is no patient in it."]
            if study.simulated
            else []
        ),
        f"Purpose: {study.disclosure.purpose}",
        f"Recipients: {', '.join(study.disclosure.recipients)} ({release.access} access), licence "
        f"{study.disclosure.licence}, until {study.disclosure.expires}",
        f"Columns read ({len(study.data.columns)}; others are never touched):",
    ]
    for column in study.data.columns:
        domain = column.domain_in_words()
        if isinstance(column, CategoricalColumn):
            domain += f" ({column.codes} codes rolled up)" if column.codes else ""
        else:
            domain += f", {column.num_bins} bins"
        missing = "; may be missing" if column.missing else ""
        missing += ", at a site that does not record it everywhere" if column.may_lack else ""
        asked = f"; only if {column.asked_if}" if column.asked_if else ""
        lines.append(f"  {column.name}: {domain}{missing}{asked}")
    if study.data.ids:
        ids = ", ".join(each.name for each in study.data.ids)
        lines.append(
            f"Ids, fresh in every synthetic row; the hospital's own are not released: {ids}"
        )
    if study.data.rules:
        lines += [
            "Rules that every synthetic row obeys (a hospital's rows that break one are dropped):",
            *(f"  where {rule.when}: {rule.then}" for rule in study.data.rules),
        ]
    if study.data.visit_rules:
        lines.append(
            "  previous(...) is the column at the patient's visit before; a first visit, which has "
            "none, need not obey"
        )
    if study.data.image is not None:
        image = study.data.image
        beside = ""
        if image.neighbours:
            beside = (
                f", of each the slice and {image.neighbours} more on either side, "
                f"{image.gap_mm:g} mm apart"
            )
        lines.append(
            f"Each row has an image: {image.size_px} x {image.size_px} pixels, "
            f"{', '.join(image.channels)}{beside}; generators start from phantoms "
            f"('{image.prior}'). "
            "Headers of files are never kept"
        )
    if study.data.visits is not None:
        visits = study.data.visits
        lines += [
            f"Rows are visits in the order of {visits.order_by} (read, not released unless listed)",
            f"  fixed: {', '.join(visits.fixed) or 'nothing'}; depends on the visit before: "
            f"{', '.join(study.data.remembered) or 'nothing'}",
        ]
    unit = (
        f"a patient with up to {study.data.max_rows_per_patient} rows"
        if study.data.patient_id
        else "a row (the study names no patient id)"
    )
    holdout = f"{audit.epsilon_holdout:g}"
    if study.data.target:
        holdout += f" + {audit.epsilon_utility:g}"
    lines += [
        f"Unit of privacy: {unit}",
        f"Training may cost a patient ε = {privacy.target_epsilon:g} at δ = "
        f"{privacy.target_delta:g}: an attacker who knows everything else guesses whether one "
        f"patient took part at most {attacker_success(privacy.target_epsilon):.0%} of the time "
        "(50 % is a coin)",
        f"Audit and utility cost members ε = {audit.epsilon_members:g} and held-out patients ε = "
        f"{holdout}, at δ = {audit.delta:g} each; another run costs all this again",
        f"Noise: {_MECHANISM[privacy.noise]}{sharing}",
        "What leaves: one noised histogram of every column (of numbers a finer one, too), "
        f"{study.training.rounds} noised sums of what the generator learns from (statistics of "
        "pairs of columns, gradients, or what images show and how they lie), one vector of noised "
        "audit counts for the candidate (closeness, joins, density, agreement: a patient is in one "
        "cell of each), the budget, codes, hashes and signatures",
        *(
            ["The other hospitals see the opened sums too, to repeat how the table is made of them"]
            if privacy.noise == "secure_sum" and privacy.colluding_sites and not study.data.image
            else []
        ),
        "Tolerances, agreed beforehand: near copies of at most "
        f"{release.near_match_excess:.1%} of the members more than chance has, and of at most "
        f"{release.near_match_patients} patients; linked or inferred secrets of at most "
        f"{release.linkage_risk:.0%} and {release.inference_risk:.0%}; an attacker by distance, "
        f"density or agreement finds at most {release.tail_tpr:.1%} of the members with 1 % false "
        f"alarms, and ranks a member above a stranger at most {release.attack_auc:.0%} of the time",
        f"What is released if the gate grants it: {release.rows} synthetic rows"
        f"{' with images' if study.data.image else ''} and the generator",
    ]
    return lines
