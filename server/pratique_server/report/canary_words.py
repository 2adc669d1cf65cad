"""Tier 1 in words: what each rule about canaries asks, why it failed and what to do then."""

from dataclasses import dataclass

from pratique_privacy.canary_evidence import AS_PLANNED, GAUSSIAN, ONE_RUN, OPENED

WEAK_EVIDENCE = "A passed canary check is weak evidence; a failed one proves a bug."

_INCIDENT = (
    "Treat this as an incident: stop all runs of this version, keep every log, and find the bug. "
    "What this run spent is charged; patients may have spent more than their ledgers say."
)


@dataclass(frozen=True)
class CanaryWords:
    """One rule: its label, how its value compares with its limit, and a failure in words.

    ``why`` has places for the rule's ``value`` and ``limit``.
    """

    label: str
    comparison: str
    why: str
    remedy: str


CANARY_WORDS = {
    OPENED: CanaryWords(
        "Canaries: every hospital planted and opened its own",
        "",
        "A hospital's planted test patients (canaries) are missing, or are not those that it had "
        "fixed before training: whether the software keeps its promise was not tested.",
        "Ask the hospitals for their logs, then run the study again: missing evidence refuses.",
    ),
    AS_PLANNED: CanaryWords(
        "Canaries: what each shows fits the planned noise and rate of sampling (p-value)",
        "at least",
        "Planted test patients (canaries) do not look as the study's noise and sampling would make "
        "them (p-value {value}).",
        _INCIDENT,
    ),
    ONE_RUN: CanaryWords(
        "Canaries: privacy loss that they prove, whatever the noise is (ε)",
        "at most",
        "Planted test patients (canaries) were recognised more often than the promise allows: it "
        "would have to be at least {value}, and {limit} is claimed for training.",
        _INCIDENT,
    ),
    GAUSSIAN: CanaryWords(
        "Canaries: privacy loss that they prove, if noise is Gaussian (ε)",
        "at most",
        "Planted test patients (canaries) show less noise than the promise needs: it would have to "
        "be at least {value}, and {limit} is claimed for training.",
        _INCIDENT,
    ),
}
