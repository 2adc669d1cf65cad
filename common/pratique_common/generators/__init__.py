"""Generators by the name a study gives them: a new one is one file and one line here."""

from collections.abc import Callable
from typing import Any

from pratique_common.column_base import Spec
from pratique_common.generators.adversarial import AdversarialGenerator
from pratique_common.generators.adversarial import Settings as AdversarialSettings
from pratique_common.generators.autoregressive import AutoregressiveGenerator
from pratique_common.generators.autoregressive import Settings as AutoregressiveSettings
from pratique_common.generators.base import Generator
from pratique_common.generators.copula import CopulaGenerator
from pratique_common.generators.copula import Settings as CopulaSettings
from pratique_common.generators.diffusion import DiffusionGenerator
from pratique_common.generators.diffusion import Settings as DiffusionSettings
from pratique_common.generators.image_chain import ImageChainGenerator
from pratique_common.generators.image_chain import Settings as ImageChainSettings
from pratique_common.generators.image_diffusion import ImageDiffusionGenerator
from pratique_common.generators.image_diffusion import Settings as ImageDiffusionSettings
from pratique_common.generators.image_gan import ImageGanGenerator
from pratique_common.generators.image_gan import Settings as ImageGanSettings
from pratique_common.generators.image_vae import ImageVaeGenerator
from pratique_common.generators.image_vae import Settings as ImageVaeSettings
from pratique_common.generators.independent import IndependentGenerator
from pratique_common.generators.independent import Settings as IndependentSettings
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.generators.pairwise import Settings as PairwiseSettings
from pratique_common.generators.sim_moments import Settings as SimMomentsSettings
from pratique_common.generators.sim_moments import SimMomentsGenerator
from pratique_common.generators.sim_pe import Settings as SimPeSettings
from pratique_common.generators.sim_pe import SimPeGenerator
from pratique_common.generators.tree import Settings as TreeSettings
from pratique_common.generators.tree import TreeGenerator
from pratique_common.generators.vae import Settings as VaeSettings
from pratique_common.generators.vae import VaeGenerator

LOCAL_ONLY = ("adasyn", "borderline_smote", "random_over", "random_under", "smote")
"""Methods that repeat or mix patients: at a hospital, for itself, and never released."""

Entry = tuple[Callable[[Any, Any, int], Generator], type[Spec]]

TABLE_GENERATORS: dict[str, Entry] = {
    "adversarial": (AdversarialGenerator, AdversarialSettings),
    "autoregressive": (AutoregressiveGenerator, AutoregressiveSettings),
    "copula": (CopulaGenerator, CopulaSettings),
    "diffusion": (DiffusionGenerator, DiffusionSettings),
    "independent": (IndependentGenerator, IndependentSettings),
    "pairwise": (PairwiseGenerator, PairwiseSettings),
    "tree": (TreeGenerator, TreeSettings),
    "vae": (VaeGenerator, VaeSettings),
}

IMAGE_GENERATORS: dict[str, Entry] = {
    "image_chain": (ImageChainGenerator, ImageChainSettings),
    "image_diffusion": (ImageDiffusionGenerator, ImageDiffusionSettings),
    "image_gan": (ImageGanGenerator, ImageGanSettings),
    "image_vae": (ImageVaeGenerator, ImageVaeSettings),
    "sim_moments": (SimMomentsGenerator, SimMomentsSettings),
    "sim_pe": (SimPeGenerator, SimPeSettings),
}
"""Of rows with an image each."""

GENERATORS = TABLE_GENERATORS | IMAGE_GENERATORS
