"""Generators by the name a study gives them: a new one is one file and one line here."""

from pratique_common.generators.autoregressive import AutoregressiveGenerator
from pratique_common.generators.autoregressive import Settings as AutoregressiveSettings

GENERATORS = {
    "autoregressive": (AutoregressiveGenerator, AutoregressiveSettings),
}
