"""What a site's ledger must say after a run, whatever happened in it."""

import json
from typing import Any

from pratique_privacy.accountant import GaussianEvent, second_opinion
from pratique_privacy.ledger import GENESIS
from tests.faults.federation import Federation


def require_consistent(
    federation: Federation, name: str, run: str, report: dict[str, Any], *, rounds: int
) -> None:
    """Hold a site's ledger against the report and against Google's accountant.

    No phase is paid twice, every round in which the site counts is paid, and what all of it costs
    is what the report claims for a site that was there all the time, and no more for any other.
    """
    entries = [entry for entry in federation.ledger(name) if entry["run"] == run]
    paid = [(entry["role"], entry["phase"]) for entry in entries]
    assert len(paid) == len(set(paid)) <= 1 + rounds + 3, (name, paid)
    counted = set(range(1, rounds + 1))
    for drop in report["evidence"]["dropped"].get(name, []):
        counted -= set(range(drop["round"], drop["returned"] or rounds + 1))
    assert {("member", f"round {number}") for number in counted} <= set(paid)
    claimed, delta = (report["privacy"]["training"][part] for part in ("epsilon", "delta"))
    spent = second_opinion(
        tuple(
            GaussianEvent(
                noise_multiplier=e["noise_multiplier"],
                sample_rate=e["sample_rate"],
                num_steps=e["num_steps"],
            )
            for e in entries
            if e["role"] == "member" and not e["phase"].startswith("audit")
        ),
        delta=delta,
    )
    assert spent <= claimed * 1.01
    if len(counted) == rounds:
        assert spent >= claimed * 0.99
    shown = json.loads(federation.client(name, "ledger", federation.home(name), "--json"))
    assert shown["epsilon_spent"] <= shown["epsilon_budget"]
    heads = report["evidence"]["ledger_heads"]
    if name in heads:
        # The head of a site that never paid is that of an empty ledger.
        assert heads[name] in {GENESIS} | {entry["hash"] for entry in entries}
