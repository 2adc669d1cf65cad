"""The run from the coordinator's side: join, train, sample, audit, conclude, release."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.serverapp import Grid
from numpy.typing import NDArray

from pratique_common.bundle import Decision
from pratique_common.errors import FederationError
from pratique_common.messages import (
    AUDIT,
    CANDIDATE,
    HISTOGRAMS,
    HISTOGRAMS_LABEL,
    MODEL,
    STEP,
    WEIGHTS,
    AuditInstructions,
    HistogramInstructions,
    StepInstructions,
    SumInstructions,
    audit_label,
    bytes_to_array,
    state_digest,
    step_label,
    vectors_of,
)
from pratique_common.parts import SumTranscript
from pratique_common.study import StudySpec
from pratique_privacy.accountant import GaussianEvent, privacy_spent
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.conclusion import audit_form
from pratique_privacy.evidence import Evidence, SiteBudget
from pratique_privacy.fixed_point import FixedPoint
from pratique_privacy.post_processing.derivation import Derivation, sites_derive
from pratique_privacy.post_processing.strategy import signal_to_noise
from pratique_server.canaries import CanaryBook
from pratique_server.checkpoint import Checkpoint
from pratique_server.federation import REMEDY, Federation
from pratique_server.job import Events, Job
from pratique_server.opened import OpenedSum
from pratique_server.release import Candidate, Release, publish
from pratique_server.sums import Sums


@dataclass(frozen=True)
class RunResult:
    """How a run ended and where its bundle or refusal is."""

    decision: Decision
    path: Path


class Coordinator:
    """One run of one study."""

    def __init__(
        self,
        grid: Grid,
        study: StudySpec,
        job: Job,
        key: Ed25519PrivateKey,
        events: Events,
        checkpoint: Checkpoint,
    ) -> None:
        """Begin a run, or go on with one whose coordinator ended before it did.

        Args:
            grid: Flower's way to the sites.
            study: what is run.
            job: the run as it was prepared.
            key: signs the result.
            events: tell of progress.
            checkpoint: of this run; empty for a new one.
        """
        self._study, self._job, self._key, self._events = study, job, key, events
        self._checkpoint = checkpoint
        self._plan = PrivacyPlan(study)
        self._federation = Federation(grid, study, job, job.job, events)
        self._sums = Sums(self._federation, study, checkpoint)
        self._trained: set[str] = set()
        self._proofs: list[tuple[SumTranscript, NDArray[Any]]] = []
        self._canaries = CanaryBook(study)
        self._sites_derive = sites_derive(study)

    def run(self) -> RunResult:
        """Do the whole run.

        Raises:
            PratiqueError: it cannot be finished; the exit code tells why.
        """
        self._phase("join")
        self._join()
        derivation = Derivation(self._study, self._sums.num_sites)
        self._phase("histograms")
        self._histogram_round(derivation)
        self._phase("training")
        self._train(derivation)
        candidate = self._sample(derivation)
        self._phase("audit")
        evidence = self._audit(candidate)
        self._phase("conclusion")
        release = Release(
            study=self._study,
            study_file=self._job.study_file,
            run=self._job.job,
            candidate=candidate,
            marginals=derivation.one_way.marginals,
            evidence=evidence,
            site_keys=self._job.sites,
        )
        decision, path = publish(release, self._federation, self._key, Path(self._job.out))
        self._events.emit("done", decision=decision, path=str(path))
        return RunResult(decision, path)

    def _phase(self, name: str) -> None:
        self._events.emit("phase", phase=name, time=time.time())

    def _join(self) -> None:
        joined = self._checkpoint.joined()
        if joined is None:
            self._federation.join()
            self._checkpoint.keep_joined(self._federation.joined())
            self._federation.show_roster(self._federation.sites, 0)
        else:
            self._federation.rejoin(joined, self._checkpoint.num_sums())
        self._checkpoint.keep_joined(self._federation.joined())

    def _sum(
        self,
        number: int,
        message_type: str,
        instructions: SumInstructions,
        form: FixedPoint,
        *,
        label: str,
        state: NDArray[np.float32] | None = None,
    ) -> OpenedSum:
        """Return a sum of training, from the sites or as it was opened before.

        Raises:
            FederationError: it cannot be opened without sites that are missing.
        """
        opened = self._checkpoint.sum(number)
        if opened is None:
            local = self._study.privacy.noise == "local"
            try:
                opened = self._sums.ask(
                    message_type,
                    instructions,
                    form,
                    label=label,
                    round_number=number,
                    inputs="" if state is None else state_digest(state),
                    arrays={} if state is None else {WEIGHTS: state},
                    # Every site whose sum was opened must audit: without it no release can follow,
                    # and going on would only spend the others' budget.
                    sites=self._trained if local and self._trained else None,
                )
            finally:
                self._checkpoint.keep_joined(self._federation.joined())
            if opened is None:
                raise FederationError(
                    f"the sum '{label}' cannot be opened ({_reasons(self._federation)}); {REMEDY}",
                    code="sum_lost",
                )
            self._checkpoint.keep_sum(number, opened, with_vectors=self._sites_derive or local)
        self._count_in(opened)
        return opened

    def _histogram_round(self, derivation: Derivation) -> None:
        form = derivation.histogram_form
        instructions = HistogramInstructions(**self._federation.ids)
        opened = self._sum(0, HISTOGRAMS, instructions, form, label=HISTOGRAMS_LABEL)
        self._canaries.histograms(form, opened, self._federation.roster_sites)
        derivation.add_histograms(opened.total, len(opened.sites))

    def _train(self, derivation: Derivation) -> None:
        rounds = self._study.training.rounds
        for number in range(1, rounds + 1):
            form, state = derivation.step_form, derivation.part.state()
            instructions = StepInstructions(round=number, **self._federation.ids)
            label = step_label(number)
            opened = self._sum(number, STEP, instructions, form, label=label, state=state)
            self._canaries.step(form, opened, self._federation.roster_sites)
            of_patients, noise = derivation.add_round(opened.total, len(opened.sites))
            self._events.emit(
                "round",
                round=number,
                rounds=rounds,
                sites=len(opened.sites),
                signal=signal_to_noise(of_patients, noise),
                epsilon=self._spent_after(number),
            )

    def _count_in(self, opened: OpenedSum) -> None:
        self._trained |= set(opened.sites)
        if self._sites_derive:
            self._proofs.append((opened.transcript, opened.vectors()))

    def _spent_after(self, round_number: int) -> float:
        steps = GaussianEvent(
            noise_multiplier=self._plan.step.noise_multiplier,
            sample_rate=self._plan.step.sample_rate,
            num_steps=round_number,
        )
        delta = self._study.privacy.target_delta
        return privacy_spent([self._plan.histogram, steps], delta=delta).epsilon

    def _sample(self, derivation: Derivation) -> Candidate:
        self._phase("fit")
        model = derivation.fit()
        self._phase("candidate")
        return Candidate.of(derivation, model)

    def _audit(self, candidate: Candidate) -> Evidence:
        opened = self._ask_for_audit(candidate)
        replies = opened.replies if opened else {}
        return Evidence(
            asked=tuple(sorted(self._job.sites)),
            trained=tuple(sorted(self._trained)),
            roster=self._federation.roster,
            commitments=self._federation.commitments,
            ledger_heads=self._federation.ledger_heads,
            lacks=self._federation.lacks,
            answers=opened.answers() if opened else {},
            budgets={
                site: SiteBudget(
                    spent=reply.epsilon_spent, budget=reply.epsilon_budget, events=reply.events
                )
                for site, reply in replies.items()
                if reply.epsilon_spent is not None and reply.epsilon_budget is not None
            },
            canaries=self._canaries.evidence(
                self._federation.canary_commitments,
                {s: reply.canaries for s, reply in replies.items() if reply.canaries is not None},
            ),
            dropped={site: tuple(drops) for site, drops in self._federation.dropped.items()},
            vetoes={},
            earlier={
                site: reply.earlier for site, reply in replies.items() if reply.earlier is not None
            },
            rounds_done=self._study.training.rounds,
        )

    def _ask_for_audit(self, candidate: Candidate) -> OpenedSum | None:
        """Return the sum of all counts; None if a site that trained does not audit.

        Without it the gate refuses whatever the others find, so nobody's budget is spent on it.
        """
        self._checkpoint.require_candidate(candidate.sha256)
        rounds = self._study.training.rounds
        # Sites that signed a conclusion answer no more: what they answered is here.
        if (answered := self._checkpoint.sum(rounds + 1)) is not None:
            self._federation.ledger_heads.update(
                {site: reply.ledger_head for site, reply in answered.replies.items()}
            )
            return answered
        opened = self._sums.ask(
            AUDIT,
            AuditInstructions(
                candidate_sha256=candidate.sha256,
                transcripts=tuple(transcript for transcript, _ in self._proofs),
                **self._federation.ids,
            ),
            audit_form(self._study, self._sums.num_sites),
            label=audit_label(candidate.sha256),
            round_number=rounds + 1,
            arrays={
                CANDIDATE: bytes_to_array(candidate.parquet),
                MODEL: bytes_to_array(candidate.model),
                **{vectors_of(i): vectors for i, (_, vectors) in enumerate(self._proofs)},
            },
            sites=self._trained,  # whoever came back after training has nothing to answer
        )
        if opened is None:
            self._federation.go_on_without(self._trained)
        else:
            self._checkpoint.keep_sum(rounds + 1, opened, with_vectors=True)
        return opened


def _reasons(federation: Federation) -> str:
    last = {site: drops[-1].code for site, drops in sorted(federation.dropped.items())}
    return "; ".join(f"{site}: {code}" for site, code in last.items())
