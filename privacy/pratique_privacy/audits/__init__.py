"""The pre-registered family, by id: a new audit is one file and one line here."""

from pratique_privacy.audits.agreement import AgreementTop1, AgreementTop5
from pratique_privacy.audits.base import Audit
from pratique_privacy.audits.domias import DensityMembership
from pratique_privacy.audits.exact import ExactMatch
from pratique_privacy.audits.inference import InferenceAttack
from pratique_privacy.audits.linkability import LinkabilityAttack
from pratique_privacy.audits.mia_distance import DistanceMembership
from pratique_privacy.audits.near import NearMatch
from pratique_privacy.audits.outliers import OutlierMembership

AUDITS: dict[str, type[Audit]] = {
    "EXACT": ExactMatch,
    "NEAR": NearMatch,
    "FS_1": AgreementTop1,
    "FS_5": AgreementTop5,
    "LINK": LinkabilityAttack,
    "INFER": InferenceAttack,
    "OUTLIER": OutlierMembership,
    "MIA_dist": DistanceMembership,
    "DOMIAS": DensityMembership,
}
