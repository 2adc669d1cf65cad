"""The run from the coordinator's side: join, train, sample, audit, conclude, release."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.serverapp import Grid

from pratique_common.bundle import Decision
from pratique_common.canonical import sha256_hex
from pratique_common.errors import FederationError
from pratique_common.generators.build import build_generator
from pratique_common.messages import (
    AUDIT,
    CANDIDATE,
    HISTOGRAMS,
    HISTOGRAMS_LABEL,
    STEP,
    WEIGHTS,
    AuditInstructions,
    HistogramInstructions,
    StepInstructions,
    audit_label,
    bytes_to_array,
    step_label,
)
from pratique_common.study import StudySpec
from pratique_privacy.accountant import GaussianEvent, privacy_spent
from pratique_privacy.budget import PrivacyPlan
from pratique_privacy.conclusion import AuditAnswer, Evidence, SiteBudget, audit_form
from pratique_privacy.fixed_point import FixedPoint
from pratique_server.canaries import CanaryBook
from pratique_server.candidate import parquet_of, public_seed, sample_candidate
from pratique_server.federation import Federation
from pratique_server.job import Events, Job
from pratique_server.one_way import OneWay, smoothed
from pratique_server.release import Candidate, Release, publish
from pratique_server.strategy import Strategy, signal_to_noise, strategy_of
from pratique_server.sums import OpenedSum, Sums

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
        self._sums = Sums(self._federation, study)
        self._trained: set[str] = set()
        self._rounds_lost: list[int] = []
        self._histogram_sites = 1
        self._canaries = CanaryBook(study)

    def run(self) -> RunResult:
        """Do the whole run.

        Raises:
            PratiqueError: it cannot be finished; the exit code tells why.
        """
        self._phase("join")
        self._federation.join()
        self._phase("histograms")
        one_way, strategy = self._histogram_round()
        self._phase("training")
        self._train(strategy)
        self._phase("fit")
        strategy.finish()
        self._phase("candidate")
        candidate = self._sample(one_way)
        self._phase("audit")
        evidence = self._audit(candidate)
        self._phase("conclusion")
        release = Release(
            study=self._study,
            study_file=self._job.study_file,
            run=self._job.job,
            generator=self._generator,
            candidate=candidate,
            one_way=one_way,
            evidence=evidence,
            site_keys=self._job.sites,
        )
        decision, path = publish(release, self._federation, self._key, Path(self._job.out))
        self._events.emit("done", decision=decision, path=str(path))
        return RunResult(decision, path)

    def _phase(self, name: str) -> None:
        self._events.emit("phase", phase=name, time=time.time())

    def _histogram_round(self) -> tuple[OneWay, Strategy]:
        form = self._plan.histogram_sum(self._sums.num_sites)
        opened = self._sums.ask(
            HISTOGRAMS,
            HistogramInstructions(**self._federation.ids),
            form,
            label=HISTOGRAMS_LABEL,
            round_number=0,
        )
        if opened is None:
            raise FederationError(
                "the histogram round was lost because sites dropped out "
                f"({_reasons(self._federation)}); run it again",
                code="sum_lost",
            )
        self._count_in(opened)
        self._histogram_sites = len(opened.summands)
        self._canaries.histograms(form, opened, self._federation.roster_sites)
        of_patients, _ = form.split(opened.total)
        one_way = OneWay.of(self._study, of_patients, _noises_of(form, opened))
        self._generator.set_marginals([smoothed(m, self._study) for m in one_way.marginals])
        return one_way, strategy_of(
            self._study, self._generator, patients=one_way.patients, noise=one_way.noise
        )

    def _train(self, strategy: Strategy) -> None:
        rounds = self._study.training.rounds
        if not rounds:
            return
        form = self._plan.step_sum(self._generator.sum_size, self._sums.num_sites)
        for round_number in range(1, rounds + 1):
            opened = self._sums.ask(
                STEP,
                StepInstructions(round=round_number, **self._federation.ids),
                form,
                label=step_label(round_number),
                round_number=round_number,
                arrays={WEIGHTS: self._generator.state()},
            )
            if opened is None:
                self._rounds_lost.append(round_number)
                self._events.emit("lost", round=round_number)
                continue
            self._count_in(opened)
            (noise,) = _noises_of(form, opened)
            site_share = len(opened.summands) / self._histogram_sites
            self._canaries.step(form, opened, self._federation.roster_sites)
            of_patients, _ = form.split(opened.total)
            strategy.update(of_patients, noise, site_share=site_share)
            self._events.emit(
                "round",
                round=round_number,
                rounds=rounds,
                sites=len(opened.summands),
                signal=signal_to_noise(of_patients, noise),
                epsilon=self._spent_after(round_number),
            )
        if len(self._rounds_lost) == rounds:
            raise FederationError("every round was lost; see who dropped out", code="sum_lost")

    def _count_in(self, opened: OpenedSum) -> None:
        self._trained |= set(opened.summands)
        lost = sorted(self._trained - set(opened.summands))
        if lost and self._study.privacy.noise == "local":
            # Every site whose sum was opened must audit: without it no release can follow, and
            # going on would only spend the others' budget.
            raise FederationError(
                f"{', '.join(lost)} dropped out after its sums were used "
                f"({_reasons(self._federation)}); mend what its log tells, run again",
                code="site_lost",
            )

    def _spent_after(self, round_number: int) -> float:
        steps = GaussianEvent(
            noise_multiplier=self._plan.step.noise_multiplier,
            sample_rate=self._plan.step.sample_rate,
            num_steps=round_number,
        )
        delta = self._study.privacy.target_delta
        return privacy_spent([self._plan.histogram, steps], delta=delta).epsilon

    def _sample(self, one_way: OneWay) -> Candidate:
        seed = public_seed(self._generator, one_way, self._federation.commitments)
        table: pa.Table = sample_candidate(self._study, self._generator, one_way, seed=seed)
        content = parquet_of(table)
        return Candidate(table=table, parquet=content, sha256=sha256_hex(content), seed=seed)

    def _audit(self, candidate: Candidate) -> Evidence:
        opened = self._ask_for_audit(candidate)
        summands = opened.summands if opened else {}
        return Evidence(
            asked=tuple(sorted(self._job.sites)),
            trained=tuple(sorted(self._trained)),
            roster=self._federation.roster,
            commitments=self._federation.commitments,
            ledger_heads=self._federation.ledger_heads,
            lacks=self._federation.lacks,
            answers={
                site: AuditAnswer.of(
                    summand.words, summand.masked, opened.self_seeds.get(site, b"")
                )
                for site, summand in summands.items()
                if opened
            },
            budgets={
                site: SiteBudget(
                    spent=reply.epsilon_spent, budget=reply.epsilon_budget, events=reply.events
                )
                for site, reply in ((s, summand.reply) for s, summand in summands.items())
                if reply.epsilon_spent is not None and reply.epsilon_budget is not None
            },
            canaries=self._canaries.evidence(
                self._federation.canary_commitments,
                {
                    site: summand.reply.canaries
                    for site, summand in summands.items()
                    if summand.reply.canaries is not None
                },
            ),
            dropped={site: tuple(drops) for site, drops in self._federation.dropped.items()},
            vetoes={},
            attempt=_FIRST_ATTEMPT,
            rounds_done=self._study.training.rounds - len(self._rounds_lost),
            rounds_lost=tuple(self._rounds_lost),
        )

    def _ask_for_audit(self, candidate: Candidate) -> OpenedSum | None:
        """Return the sum of all counts; None if a site that trained is missing.

        Without it the gate refuses whatever the others find, so nobody's budget is spent on it.
        """
        rounds = self._study.training.rounds
        self._federation.wait_for(len(self._trained), rounds)
        if self._trained - set(self._federation.sites):
            return None
        opened = self._sums.ask(
            AUDIT,
            AuditInstructions(
                candidate_sha256=candidate.sha256,
                attempt=_FIRST_ATTEMPT,
                **self._federation.ids,
            ),
            audit_form(self._study, self._sums.num_sites),
            label=audit_label(candidate.sha256),
            round_number=rounds,
            arrays={CANDIDATE: bytes_to_array(candidate.parquet)},
        )
        complete = opened is not None and self._trained <= set(opened.summands)
        return opened if complete else None


def _noises_of(form: FixedPoint, opened: OpenedSum) -> list[float]:
    """Return the deviation of all shares of noise, for each section of a sum."""
    return [sigma * math.sqrt(len(opened.summands)) for sigma in form.share_sigmas()]


def _reasons(federation: Federation) -> str:
    last = {site: drops[-1].code for site, drops in sorted(federation.dropped.items())}
    return "; ".join(f"{site}: {code}" for site, code in last.items())
