"""Twelve rounds while something random is killed every few seconds."""

import json
import os
import random
import time
from typing import Any

import pytest

from pratique_privacy.accountant import GaussianEvent, second_opinion
from tests.faults.conftest import TOLD, Deploy
from tests.faults.federation import VICTIMS, Federation, wait
from tests.faults.test_kills import Attempt, paid_once

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3_600)]

ROUNDS = 12
PAUSE_S = (2.0, 12.0)
MOST_KILLS = 40
LEAST_KILLS = 10


def test_a_run_survives_random_kills(deploy: Deploy) -> None:
    seed = int(os.environ.get("PRATIQUE_SOAK_SEED", time.time_ns() % 1_000_000))
    TOLD.append(f"PRATIQUE_SOAK_SEED={seed}")
    # What is protected is drawn elsewhere; this says only whom to kill when.
    draw = random.Random(seed)
    federation = deploy(rounds=ROUNDS)
    attempt = Attempt(federation)
    kills: list[str] = []
    while len(kills) < MOST_KILLS and not _ends_within(attempt, draw.uniform(*PAUSE_S)):
        victim = draw.choice(list(VICTIMS))
        if VICTIMS[victim][0] in federation.sites:
            host, words = draw.choice(federation.sites), VICTIMS[victim][1]
            killed = federation.network.kill(host, words)
        else:
            host, killed = "coordinator", federation.kill(victim)
        kills.append(f"{victim}@{host}" if killed else f"{victim}@{host}: was down")
    else:
        wait(attempt.go_on, "the run does not end when nothing is killed any more", 1_200)
    TOLD.append("; ".join(kills))
    path, report = federation.result(attempt.name)
    TOLD.append(
        f"{path.name} after {len(kills)} kills, resumed {attempt.resumed} times; dropped: "
        f"{report['evidence']['dropped']}; answered: {report['sites']['answered']}"
    )
    assert len(kills) >= LEAST_KILLS, "nothing was tried"
    paid_once(federation, attempt.name, ROUNDS)
    for name in federation.sites:
        _consistent(federation, name, attempt.name, report)


def _ends_within(attempt: Attempt, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if attempt.go_on():
            return True
        time.sleep(0.1)
    return False


def _consistent(federation: Federation, name: str, run: str, report: dict[str, Any]) -> None:
    """Hold a site's ledger against the report and against Google's accountant."""
    entries = [entry for entry in federation.ledger(name) if entry["run"] == run]
    phases = {entry["phase"] for entry in entries if entry["role"] == "member"}
    counted = set(range(1, ROUNDS + 1))
    for drop in report["evidence"]["dropped"].get(name, []):
        counted -= set(range(drop["round"], drop["returned"] or ROUNDS + 1))
    assert {f"round {number}" for number in counted} <= phases
    claimed, delta = (report["privacy"]["training"][part] for part in ("epsilon", "delta"))
    spent = second_opinion(
        tuple(
            GaussianEvent(e["noise_multiplier"], e["sample_rate"], e["num_steps"])
            for e in entries
            if e["role"] == "member" and e["phase"] != "audit"
        ),
        delta=delta,
    )
    assert spent <= claimed * 1.01
    if len(counted) == ROUNDS:
        assert spent >= claimed * 0.99
    shown = json.loads(federation.client(name, "ledger", federation.home(name), "--json"))
    assert shown["epsilon_spent"] <= shown["epsilon_budget"]
    heads = report["evidence"]["ledger_heads"]
    if name in heads:
        assert heads[name] in {entry["hash"] for entry in entries}
