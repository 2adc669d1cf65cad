"""The run from the coordinator's side: join, train, sample, audit, conclude, release."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from pratique_common.bundle import Decision
from pratique_common.canonical import sha256_hex
from pratique_common.errors import FederationError
from pratique_common.generators.build import build_generator, to_vector
from pratique_common.messages import (
    AUDIT,
    CANDIDATE,
    HISTOGRAMS,
    STEP,
    WEIGHTS,
    AuditInstructions,
    HistogramInstructions,
    StepInstructions,
    bytes_to_array,
    pack,
)
from pratique_common.study import StudySpec
from pratique_privacy.accountant import GaussianEvent, epsilon_rdp
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.conclusion import Evidence, SiteBudget, answer_size
from pratique_server.candidate import parquet_of, public_seed, sample_candidate
from pratique_server.federation import Federation
from pratique_server.job import Events, Job
from pratique_server.release import Candidate, Release, publish
from pratique_server.strategy import DpAdam, marginals, signal_to_noise, smoothed, sum_on_grid

_FIRST_ATTEMPT = 1


@dataclass(frozen=True)
class RunResult:
    """How a run ended and where its bundle or refusal is."""

    decision: Decision
    path: Path


class Coordinator:
    """One run of one study."""

    def __init__(
        self, grid: Grid, study: StudySpec, job: Job, key: Ed25519PrivateKey, events: Events
    ) -> None:
        self._study, self._job, self._key, self._events = study, job, key, events
        self._plan = PrivacyPlan(study)
        self._generator = build_generator(study)
        self._federation = Federation(grid, study, job, job.job, events)
        self._trained: set[str] = set()

    def run(self) -> RunResult:
        """Do the whole run.

        Raises:
            PratiqueError: it cannot be finished; the exit code tells why.
        """
        self._phase("join")
        self._federation.join()
        self._phase("histograms")
        one_way = self._histogram_round()
        self._phase("training")
        rounds_done = self._train()
        self._phase("candidate")
        candidate = self._sample(one_way)
        self._phase("audit")
        evidence = self._audit(candidate, rounds_done)
        self._phase("conclusion")
        release = Release(
            study=self._study,
            study_file=self._job.study_file,
            run=self._job.job,
            generator=self._generator,
            candidate=candidate,
            marginals=one_way,
            evidence=evidence,
            site_keys=self._job.sites,
        )
        decision, path = publish(release, self._federation, self._key, Path(self._job.out))
        self._events.emit("done", decision=decision, path=str(path))
        return RunResult(decision, path)

    def _phase(self, name: str) -> None:
        self._events.emit("phase", phase=name, time=time.time())

    def _histogram_round(self) -> list[NDArray[np.float64]]:
        size = sum(column.num_levels for column in self._study.data.columns)
        content = pack(HistogramInstructions(**self._ids()))
        sums = self._ask_for_sums(HISTOGRAMS, content, round_number=0, size=size)
        one_way = marginals(self._study, sums)
        self._generator.set_marginals([smoothed(m, self._study) for m in one_way])
        return one_way

    def _train(self) -> int:
        module = self._generator.module
        optimizer = DpAdam(self._study, module)
        sigma, rounds = self._plan.step_sigma, self._study.training.rounds
        for round_number in range(1, rounds + 1):
            weights = to_vector(module)
            content = pack(
                StepInstructions(round=round_number, **self._ids()), **{WEIGHTS: weights}
            )
            sums = self._ask_for_sums(STEP, content, round_number=round_number, size=weights.size)
            total = sum_on_grid(sums, sigma)
            optimizer.update(total)
            self._events.emit(
                "round",
                round=round_number,
                rounds=rounds,
                sites=len(sums),
                signal=signal_to_noise(total, sigma * np.sqrt(len(sums))),
                epsilon=self._spent_after(round_number),
            )
        optimizer.finish()
        return rounds

    def _ask_for_sums(
        self, message_type: str, content: RecordDict, *, round_number: int, size: int
    ) -> list[NDArray[np.int64]]:
        answers = self._federation.ask_for_vectors(
            message_type, content, round_number=round_number, size=size
        )
        self._trained |= set(answers)
        if lost := sorted(self._trained - set(answers)):
            # Every site whose sum was opened must audit: without it no release can follow, and
            # going on would only spend the others' budget.
            raise FederationError(
                f"{', '.join(lost)} dropped out after its sums were used "
                f"({self._federation.dropped[lost[0]].code}); mend what its log tells, run again",
                code="site_lost",
            )
        return [vector for _, vector in answers.values()]

    def _spent_after(self, round_number: int) -> float:
        steps = GaussianEvent(
            noise_multiplier=self._plan.step.noise_multiplier,
            sample_rate=self._plan.step.sample_rate,
            num_steps=round_number,
        )
        delta = self._study.privacy.target_delta
        # RDP is quick enough for a display; it may run a tenth above the claim made by PRV.
        return min(
            epsilon_rdp([self._plan.histogram, steps], delta=delta),
            self._study.privacy.target_epsilon,
        )

    def _sample(self, one_way: list[NDArray[np.float64]]) -> Candidate:
        seed = public_seed(self._generator, self._federation.commitments)
        table: pa.Table = sample_candidate(self._study, self._generator, one_way, seed=seed)
        content = parquet_of(table)
        return Candidate(table=table, parquet=content, sha256=sha256_hex(content), seed=seed)

    def _audit(self, candidate: Candidate, rounds_done: int) -> Evidence:
        instructions = AuditInstructions(
            candidate_sha256=candidate.sha256, attempt=_FIRST_ATTEMPT, **self._ids()
        )
        content = pack(instructions, **{CANDIDATE: bytes_to_array(candidate.parquet)})
        size, rounds = answer_size(self._study), self._study.training.rounds
        answers = self._federation.ask_for_vectors(AUDIT, content, round_number=rounds, size=size)
        return Evidence(
            asked=tuple(sorted(self._job.sites)),
            trained=tuple(sorted(self._trained)),
            commitments=self._federation.commitments,
            ledger_heads=self._federation.ledger_heads,
            counts={site: tuple(map(int, vector)) for site, (_, vector) in answers.items()},
            budgets={
                site: SiteBudget(spent=reply.epsilon_spent, budget=reply.epsilon_budget)
                for site, (reply, _) in answers.items()
                if reply.epsilon_spent is not None and reply.epsilon_budget is not None
            },
            dropped=self._federation.dropped,
            vetoes={},
            attempt=_FIRST_ATTEMPT,
            rounds_done=rounds_done,
        )

    def _ids(self) -> dict[str, str]:
        return {"study_digest": self._study.digest, "run": self._job.job}
