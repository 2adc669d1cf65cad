"""Twelve rounds while something random is killed every few seconds."""

import os
import random
import time

import pytest

from tests.faults.conftest import TOLD, Deploy
from tests.faults.federation import VICTIMS, wait
from tests.faults.ledgers import require_consistent
from tests.faults.test_kills import Attempt

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
    for name in federation.sites:
        require_consistent(federation, name, attempt.name, report, rounds=ROUNDS)


def _ends_within(attempt: Attempt, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if attempt.go_on():
            return True
        time.sleep(0.1)
    return False
