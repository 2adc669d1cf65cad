"""What guidance asks, and where the report answers: one table of data, and what fills it.

Points are named as their documents name them, in our words. "Not covered" is an answer: a report
that maps everything to something would help nobody.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

SECTIONS = {
    "identity": "Identity and binding",
    "decision": "Decision and conditions",
    "context": "Context, recipients and who might attack",
    "data": "Data, unit, quasi-identifiers and rules",
    "guarantee": "Formal guarantee",
    "canaries": "Canaries: is the guarantee true of the software?",
    "attacks": "Attacks, members against controls",
    "power": "Power and limits",
    "distances": "Distance measures (DCR, NNDR), descriptive only",
    "budgets": "Budgets and ledgers",
    "utility": "Utility",
    "history": "History of all submissions",
    "guidance": "What guidance asks, and where this report answers",
    "reproduction": "Reproduction and how to verify",
}
"""Sections of the report in their order: key → heading."""

RISK_CONVENTION = 0.09
"""EMA/90915/2016, external guidance on Policy 0070: the threshold it proposes for re-identification
in clinical reports that are published; one in eleven."""

CANARIES = "canaries"
ANSWERED, IN_PART, NOT_COVERED = "answered", "in part", "not covered"


@dataclass(frozen=True)
class Point:
    """One thing that guidance asks.

    Attributes:
        asks: the point.
        status: how far the report answers it.
        answer: how, or what is missing.
        sections: where; keys of ``SECTIONS``.
        needs: a criterion that one of the attacks must serve, or canaries; without it the point is
            not covered.
    """

    asks: str
    status: str
    answer: str
    sections: tuple[str, ...] = ()
    needs: str = ""


@dataclass(frozen=True)
class Guidance:
    """A document and its points."""

    title: str
    points: tuple[Point, ...]


_MISSING = {
    "singling out": "No attack of this kind was concluded.",
    "linkability": "No attack of this kind was concluded.",
    "inference": "No attack that guesses a sensitive value was concluded. Only the ceiling of the "
    "formal guarantee holds.",
    CANARIES: "No canary tested it in this run; it rests on review and the software’s own tests.",
}

_SINGLING_OUT = Point(
    "Singling out (individualisation)",
    IN_PART,
    "Attacks for copied, nearly copied and altered records, with upper bounds. Other ways to "
    "single a person out have the ceiling of the formal guarantee alone.",
    ("attacks", "guarantee"),
    needs="singling out",
)
_LINKABILITY = Point(
    "Linkability (correlation)",
    IN_PART,
    "Two parts of one record are joined by way of the table. Linking with another data set is not "
    "tried.",
    ("attacks", "guarantee"),
    needs="linkability",
)
_INFERENCE = Point(
    "Inference",
    IN_PART,
    "An attack guesses a sensitive value of members and of controls.",
    ("attacks", "guarantee"),
    needs="inference",
)

GUIDANCE = (
    Guidance(
        "Article 29 Working Party, Opinion 05/2014 (WP216)",
        (_SINGLING_OUT, _LINKABILITY, _INFERENCE),
    ),
    Guidance(
        "NIST SP 800-226 (2025), evaluating differential privacy guarantees",
        (
            Point(
                "Privacy parameters, and what they mean",
                ANSWERED,
                "ε and δ of everything that left, and an attacker’s best success in words.",
                ("guarantee",),
            ),
            Point(
                "Unit of privacy, neighbouring data",
                ANSWERED,
                "Named, with who is protected less.",
                ("guarantee", "data"),
            ),
            Point(
                "Mechanism and its parameters",
                ANSWERED,
                "Noise, clipping and accountants are named; a second program checks the claim.",
                ("guarantee",),
            ),
            Point(
                "Composition over releases",
                ANSWERED,
                "Parts of this run are added up; each hospital’s ledger adds up its studies.",
                ("guarantee", "budgets"),
            ),
            Point(
                "Correctness of the implementation",
                IN_PART,
                "Canaries test the claim. A test that is passed is weak evidence.",
                ("canaries",),
                needs=CANARIES,
            ),
            Point(
                "Utility and bias",
                IN_PART,
                "Prediction, calibration and the groups that the study names. Other groups were "
                "not looked at.",
                ("utility",),
            ),
            Point(
                "Trust and threat model",
                ANSWERED,
                "Who sees what, who may be curious and who may collude.",
                ("guarantee", "context"),
            ),
            Point(
                "Security and access control",
                NOT_COVERED,
                "Machines, accounts and keys are each hospital’s own matter.",
            ),
            Point(
                "Exposure when data are collected",
                NOT_COVERED,
                "How records came to the hospital, and on what legal basis, is not in this report.",
            ),
        ),
    ),
    Guidance(
        "ISO/IEC 27559:2022, de-identification framework",
        (
            Point(
                "Context: threat modelling",
                IN_PART,
                "Purpose, recipients, access and kinds of attackers. A recipient’s own security "
                "and motives are for the board.",
                ("context",),
            ),
            Point(
                "Context: transparency and impact",
                NOT_COVERED,
                "Harm to patients, and what they were told, is for the board.",
            ),
            Point(
                "Data: features",
                ANSWERED,
                "Unit, columns, quasi-identifiers and sensitive values as the study declares them.",
                ("data",),
            ),
            Point(
                "Data: attack modelling",
                IN_PART,
                "Who attacks, what each attack asks, and a ceiling for all others.",
                ("context", "attacks", "guarantee"),
            ),
            Point(
                "Identifiability: quantifying",
                ANSWERED,
                "Excess of members over controls with bounds, the tolerances agreed beforehand, "
                "and the worst case.",
                ("attacks", "decision", "guarantee"),
            ),
            Point(
                "Identifiability: adversarial testing",
                IN_PART,
                "A fixed battery with its limit of detection, tried on a planted leak. No person "
                "tried to find anybody.",
                ("attacks", "power"),
            ),
            Point(
                "Mitigation",
                ANSWERED,
                "Noise before anything leaves a hospital; a gate that refuses.",
                ("guarantee", "decision"),
            ),
            Point(
                "Governance before data are made available",
                IN_PART,
                "Every hospital approves the study and signs the result. Contracts and procedures "
                "are outside the software.",
                ("identity", "decision"),
            ),
            Point(
                "Governance afterwards",
                NOT_COVERED,
                "The study sets an end date; watching recipients and handling incidents is for "
                "those who hand the files out.",
            ),
        ),
    ),
    Guidance(
        "CNIL, guidance on anonymisation (2020): three criteria, risk study, watch",
        (
            _SINGLING_OUT,
            _LINKABILITY,
            _INFERENCE,
            Point(
                "If a criterion is not met: a study of re-identification risks",
                IN_PART,
                "Bounds, limits and the worst case are here. Weighing them against what is "
                "reasonably likely is for the board.",
                ("attacks", "power", "guarantee"),
            ),
            Point(
                "Watch: methods of attack improve",
                IN_PART,
                "The guarantee holds against later methods too. Nobody repeats the audit after the "
                "release.",
                ("guarantee",),
            ),
        ),
    ),
)


def tested(report: Mapping[str, Any]) -> set[str]:
    """Return the criteria that concluded attacks serve, and canaries if they were evaluated."""
    found = {audit["criterion"] for audit in report["audits"].values()}
    return found | ({CANARIES} if report["canaries"] else set())


def answers(report: Mapping[str, Any]) -> list[tuple[str, list[Point]]]:
    """Return each document with its points as this report answers them."""
    known = tested(report)
    listed = [(g.title, [_as_answered(point, known) for point in g.points]) for g in GUIDANCE]
    return [
        *listed,
        ("EMA Policy 0070, external guidance: threshold of 0.09", [_convention(report)]),
    ]


def _as_answered(point: Point, known: set[str]) -> Point:
    if not point.needs or point.needs in known:
        return point
    sections = () if point.needs == CANARIES else ("guarantee",)
    return Point(point.asks, NOT_COVERED, _MISSING[point.needs], sections)


def _convention(report: Mapping[str, Any]) -> Point:
    """Return how the bounds of residual risk lie to the convention: an analogy, and said so."""
    asks = "Risk of re-identification at most 0.09 (one in eleven)"
    found = [
        f"{title}: upper bound {value:.3f}, {'within' if value <= RISK_CONVENTION else 'above'} it "
        f"(tolerance of the study {limit:g})"
        for title, value, limit in _residual_risks(report)
    ]
    if not found:
        return Point(asks, NOT_COVERED, "No residual risk was bounded.")
    analogy = (
        "By analogy only: the convention is about groups of people who look alike in a published "
        "report, which were not counted; the figures are risks beyond chance. "
    )
    return Point(asks, IN_PART, analogy + "; ".join(found) + ".", ("attacks", "decision"))


def _residual_risks(report: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    for audit in report["audits"].values():
        if audit["criterion"] not in ("linkability", "inference"):
            continue
        for bound in audit["bounds"]:
            if bound["value"] is not None and isfinite(bound["value"]):
                yield audit["title"], bound["value"], bound["limit"]
