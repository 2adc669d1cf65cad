"""What was learnt, as a file of the bundle."""

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from pratique_common.errors import VerificationError
from pratique_common.generators.base import Generator
from pratique_common.schema import TableSchema
from pratique_common.sub_bins import SubBins
from pratique_privacy.post_processing.one_way import OneWay

WEIGHTS_FILE = "generator/weights.safetensors"
_WITHIN_BINS = "within_bins"
_PATIENTS = "patients_and_noise"
"""Number of members by the noised histograms, and deviation of the noise of a level's count."""


def weights_bytes(generator: Generator, one_way: OneWay) -> bytes:
    """Return the generator's weights and what the histogram round told besides one-way marginals.

    All in 32 bits but the number of patients and its noise: with these, what processors differ by
    stays far below the tolerance with which sites compare models.
    """
    parameters = generator.module.named_parameters()
    tensors = {name: p.detach().float().contiguous() for name, p in parameters}
    if one_way.within is not None:
        tensors[_WITHIN_BINS] = torch.from_numpy(one_way.within.astype(np.float32))
    tensors[_PATIENTS] = torch.tensor([one_way.patients, one_way.noise], dtype=torch.float64)
    return save(tensors)


def load_weights(content: bytes, generator: Generator, schema: TableSchema) -> OneWay:
    """Put weights into a generator; return what the histogram round told, without marginals.

    Raises:
        VerificationError: they are not those of this schema and generator.
    """
    try:
        tensors = load(content)
        within = tensors.pop(_WITHIN_BINS, None)
        counted = tensors.pop(_PATIENTS, torch.empty(0)).double()
        generator.module.load_state_dict(tensors)
    except (RuntimeError, SafetensorError):
        raise VerificationError("the generator's weights do not fit its study") from None
    if counted.shape != (2,) or not (counted.isfinite() & (counted > 0)).all():
        raise VerificationError("the generator's weights do not fit: no number of patients")
    patients, noise = counted.tolist()
    size = SubBins(schema.columns).size
    if within is None and not size:
        return OneWay([], patients, noise)
    if within is None or within.shape != (size,) or not ((within >= 0) & (within <= 1)).all():
        raise VerificationError("the generator's shares within bins do not fit its study")
    return OneWay([], patients, noise, np.asarray(within.double().numpy()))
