"""Public priors of images by their names in studies: a new one is one file and one line here."""

from pratique_common.images.brain_prior import BrainPrior
from pratique_common.images.chest_prior import ChestPrior
from pratique_common.images.prior_base import ImagePrior

PRIORS: dict[str, type[ImagePrior]] = {
    "brain_mri": BrainPrior,
    "chest_xray": ChestPrior,
}
