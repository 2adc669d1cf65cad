"""Audits that never leave a site, by id: a new one is one file and one line here."""

from pratique_privacy.local_audits.attribute_inference import AttributeInference
from pratique_privacy.local_audits.base import LocalAudit, LocalResult, RealPatients
from pratique_privacy.local_audits.data_copying import DataCopying
from pratique_privacy.local_audits.dcr import ClosestRecordShare
from pratique_privacy.local_audits.nndr import NearestNeighbourRatio
from pratique_privacy.local_audits.shadow import LearntAttack
from pratique_privacy.local_audits.singling_out import SinglingOut
from pratique_privacy.local_audits.tail import HighestScores

LOCAL_AUDITS: dict[str, type[LocalAudit]] = {
    "TAIL": HighestScores,
    "SINGLE": SinglingOut,
    "SHADOW": LearntAttack,
    "ATTRIBUTE": AttributeInference,
    "COPYING": DataCopying,
    "DCR": ClosestRecordShare,
    "NNDR": NearestNeighbourRatio,
}


def run_local_audits(patients: RealPatients) -> list[LocalResult]:
    """Return the results of all of them: exact, for the eyes of those who hold the records."""
    return [audit.run(patients) for audit in LOCAL_AUDITS.values()]
