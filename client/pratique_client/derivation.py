"""Does a candidate follow from the sums that this site helped to open? It finds out by itself."""

import io
import logging
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq
from numpy.typing import NDArray

from pratique_client.sums import SiteSums
from pratique_common.errors import FederationError, NotEnoughDataError
from pratique_common.messages import HISTOGRAMS_LABEL, state_digest, step_label
from pratique_common.parts import SumTranscript
from pratique_common.study import StudySpec
from pratique_privacy.post_processing.derivation import Derivation, models_agree

Proof = tuple[SumTranscript, NDArray[Any]]
"""An opened sum: its transcript, and its vectors (survivors, size)."""

log = logging.getLogger("pratique.client")


def require_derived(
    study: StudySpec, sums: SiteSums, proofs: Sequence[Proof], model: bytes, candidate: bytes
) -> None:
    """Fit and sample as the coordinator says it did, from sums that the sites signed.

    Every sum that this site helped to open must be there: who may leave some out can choose among
    as many candidates. A sum that was lost after sites answered for its survivors fails here too.

    Args:
        study: the study.
        sums: of this site in this run.
        proofs: the histogram round's sum, then those of rounds in their order.
        model: what the bundle will hold.
        candidate: a table in Parquet, which this site has to find cell by cell.

    Raises:
        FederationError: it does not follow.
    """
    derivation = Derivation(study, sums.enrolment.num_sites)
    if not proofs or proofs[0][0].label != HISTOGRAMS_LABEL:
        raise _not_derived("there is no histogram round")
    transcript, vectors = proofs[0]
    total = sums.open_again(transcript, vectors, derivation.histogram_form)
    derivation.add_histograms(total, len(vectors))
    rounds = [step_label(number) for number in range(1, study.training.rounds + 1)]
    shown = {transcript.label for transcript, _ in proofs}
    if any(sums.folder.has_claimed(label) for label in set(rounds) - shown):
        raise _not_derived("a round that it helped to open is missing")
    for transcript, vectors in proofs[1:]:
        if transcript.label not in rounds:
            raise _not_derived("a round is there twice, or out of order")
        rounds = rounds[rounds.index(transcript.label) + 1 :]
        if transcript.inputs != state_digest(derivation.part.state()):
            raise _not_derived("a round was of another state")
        total = sums.open_again(transcript, vectors, derivation.step_form)
        derivation.add_round(total, len(vectors))
    try:
        if not models_agree(derivation.fit(), model):
            raise _not_derived("the model is another")
        mine, _ = derivation.sample()
    except (NotEnoughDataError, ValueError):
        raise _not_derived("no model follows from the sums") from None
    if not mine.equals(pq.read_table(io.BytesIO(candidate))):  # bytes differ with versions
        raise _not_derived("the rows are others")
    log.info("derived the candidate from %d sums: it is the coordinator's", len(proofs))


def _not_derived(reason: str) -> FederationError:
    return FederationError(
        f"this site does not find the candidate in the run's sums: {reason}",
        code="candidate_not_derived",
    )
