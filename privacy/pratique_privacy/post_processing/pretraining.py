"""Training on phantoms, before a patient's first gradient: it costs no privacy.

It happens at the coordinator alone; sites get what was learnt with the state of the first round.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from pratique_common.generators.base import Generator, PretrainedGenerator
from pratique_common.generators.vectors import trainable
from pratique_common.images.prior_codes import prior_codes
from pratique_common.study import StudySpec

_BATCH_ROWS = 32
_POOL_ROWS = 8_192  # rendered once; some 20 s at 32 pixels
_ADAPT_ROWS = 4_096

_RATE, _LAST_RATE_SHARE, _WARM_UP_STEPS = 4e-3, 0.1, 50
_EMA_DECAY = 0.99


def pretrain(study: StudySpec, generator: PretrainedGenerator) -> None:
    """Train all of a generator on images of the prior; the same ones for one study."""
    if generator.pretrain_steps:
        seed = _seed(study, "prior")
        pool_ND = prior_codes(study.data, _POOL_ROWS, np.random.default_rng(seed))
        _train(generator, torch.from_numpy(pool_ND), seed)


def adapt(study: StudySpec, network: PretrainedGenerator, ballot: Generator) -> None:
    """Train all of a generator on what another one makes, whose sums were opened before."""
    seed = _seed(study, "adapt")
    pool_ND = ballot.sample(_ADAPT_ROWS, torch.Generator().manual_seed(seed))
    _train(network, pool_ND.short(), seed)


def _seed(study: StudySpec, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{study.digest} {purpose}".encode()).digest()[:7])


def _train(generator: PretrainedGenerator, pool_ND: Tensor, seed: int) -> None:
    """Take steps of Adam with a short warm-up and a cosine; keep an average that starts short."""
    steps = generator.pretrain_steps
    generator.train_whole(True)
    weights = trainable(generator.module)
    average = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.Adam(weights, lr=_RATE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * _rate_share(step, steps)
            rows = torch.randint(len(pool_ND), (_BATCH_ROWS,))
            optimizer.zero_grad()
            loss = generator.loss(pool_ND[rows, None].long(), torch.ones(_BATCH_ROWS, 1)).mean()
            torch.autograd.backward(loss)
            optimizer.step()
            decay = min(_EMA_DECAY, (1 + step) / (10 + step))
            with torch.no_grad():
                for mean, weight in zip(average, weights, strict=True):
                    mean.lerp_(weight, 1 - decay)
    with torch.no_grad():
        for mean, weight in zip(average, weights, strict=True):
            weight.copy_(mean)
            weight.grad = None
    generator.train_whole(False)


def _rate_share(step: int, steps: int) -> float:
    warm_up = min(1.0, (step + 1) / _WARM_UP_STEPS)
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return warm_up * (cosine * (1 - _LAST_RATE_SHARE) + _LAST_RATE_SHARE)
