"""Generators by the name a study gives them: a new one is one file and one line here."""

from collections.abc import Callable
from typing import Any

from pratique_common.columns import Spec
from pratique_common.generators.autoregressive import AutoregressiveGenerator
from pratique_common.generators.autoregressive import Settings as AutoregressiveSettings
from pratique_common.generators.base import Generator
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.generators.pairwise import Settings as PairwiseSettings

GENERATORS: dict[str, tuple[Callable[[Any, Any, int], Generator], type[Spec]]] = {
    "autoregressive": (AutoregressiveGenerator, AutoregressiveSettings),
    "pairwise": (PairwiseGenerator, PairwiseSettings),
}
