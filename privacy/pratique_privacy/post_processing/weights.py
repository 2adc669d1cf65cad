"""What was learnt, as a file of the bundle."""

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save

from pratique_common.errors import VerificationError
from pratique_common.generators.base import Generator
from pratique_common.schema import TableSchema
from pratique_common.sub_bins import SubBins
from pratique_privacy.post_processing.one_way import OneWay

WEIGHTS_FILE = "generator/weights.safetensors"
_WITHIN_BINS = "within_bins"


def weights_bytes(generator: Generator, one_way: OneWay) -> bytes:
    """Return the generator's weights, and what share of its bin each sub-bin has, in 32 bits."""
    parameters = generator.module.named_parameters()
    tensors = {name: p.detach().float().contiguous() for name, p in parameters}
    if one_way.within is not None:
        tensors[_WITHIN_BINS] = torch.from_numpy(one_way.within.astype(np.float32))
    return save(tensors)


def load_weights(
    content: bytes, generator: Generator, schema: TableSchema
) -> NDArray[np.float64] | None:
    """Put weights into a generator; return the shares of sub-bins, None if there are none.

    Raises:
        VerificationError: they are not those of this schema and generator.
    """
    try:
        tensors = load(content)
        within = tensors.pop(_WITHIN_BINS, None)
        generator.module.load_state_dict(tensors)
    except (RuntimeError, SafetensorError):
        raise VerificationError("the generator's weights do not fit its study") from None
    size = SubBins(schema.columns).size
    if within is None and not size:
        return None
    if within is None or within.shape != (size,) or not ((within >= 0) & (within <= 1)).all():
        raise VerificationError("the generator's shares within bins do not fit its study")
    return np.asarray(within.double().numpy())
