"""Train the public encoder of a prior of images, on its phantoms alone.

    OMP_NUM_THREADS=1 nice -n 10 python -m benchmarks.train_image_encoder brain_mri

Writes ``common/pratique_common/images/weights/PRIOR.safetensors`` and prints the line for
``ENCODERS`` in ``features.py``. One seed, one thread, 32 bits: the same machine and version of
torch give the same file. Another machine gives another one, of the same quality.

An image's altered copy must be nearer to it than any other image of the batch is (InfoNCE, as in
SimCLR, Chen et al. 2020). Copies are mirrored, moved, turned and scaled a little, noisy, brighter
and of another gamma. Two linear heads, thrown away afterwards, keep what is shown, and where the
slice lies, in the features.
"""

import argparse
import time
from math import cos, log, pi, radians
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pratique_common.canonical import file_sha256
from pratique_common.images.encoder_net import (
    EMBEDDING_SIZE,
    SIZE_PX,
    embedded,
    on_grid,
    weight_shapes,
)
from pratique_common.images.features import UNIT_GRID_BITS, unit_embeddings, weights_path
from pratique_common.images.prior_base import ImagePrior, PriorImages
from pratique_common.images.priors import PRIORS

SCENES, STANDARDISING_SCENES = 20_000, 4_000
BATCH = 512
LEARNING_RATE, WARM_UP_STEPS, WEIGHT_DECAY = 2e-3, 30, 1e-4
TEMPERATURE = 0.1
KIND_WEIGHT, POSITION_WEIGHT = 0.5, 3.0

TURN_RAD, SCALE, SHIFT_PX = radians(5), 0.02, 3.0
GAMMA, BRIGHTNESS, NOISE = 1.3, 0.15, 0.06
"""Limits of alterations; of a range of 1."""


def render(prior: ImagePrior, num: int, seed: int) -> tuple[PriorImages, Tensor]:
    """Return images of ``num`` scenes in all channels, and their kinds, which take turns."""
    kinds = np.arange(num) % len(prior.kinds)
    scenes = prior.draw(kinds, np.random.default_rng(seed))
    return prior.render(scenes, prior.channels, size_px=SIZE_PX), torch.from_numpy(kinds)


def altered(image_NSS: Tensor, generator: torch.Generator) -> Tensor:
    """Return altered copies of images of 0 to 1."""
    num = len(image_NSS)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(num, *shape, generator=generator)

    turn, scale = between(-TURN_RAD, TURN_RAD), between(1 - SCALE, 1 + SCALE)
    shift = between(-SHIFT_PX, SHIFT_PX, 2) * (2 / SIZE_PX)
    mirror = between(0, 1, 2).round() * 2 - 1
    across = torch.stack([turn.cos() * mirror[:, 0], -turn.sin() * mirror[:, 0]], 1)
    down = torch.stack([turn.sin() * mirror[:, 1], turn.cos() * mirror[:, 1]], 1)
    linear = torch.stack([across, down], 1) * scale[:, None, None]
    grid = F.affine_grid(
        torch.cat([linear, shift[:, :, None]], 2), [num, 1, SIZE_PX, SIZE_PX], align_corners=False
    )
    moved = F.grid_sample(image_NSS[:, None], grid, padding_mode="border", align_corners=False)
    bright = moved[:, 0].clamp(min=1e-4) ** between(-log(GAMMA), log(GAMMA), 1, 1).exp()
    bright = bright * between(1 - BRIGHTNESS, 1 + BRIGHTNESS, 1, 1)
    noise = torch.randn(bright.shape, generator=generator) * between(0, NOISE, 1, 1)
    return (bright + noise).clamp(0, 1)


def first_weights(generator: torch.Generator) -> dict[str, Tensor]:
    """Return random weights (He et al. 2015, "Delving deep into rectifiers")."""
    weights = {}
    for name, shape in weight_shapes().items():
        if len(shape) > 1:
            fan_in = int(np.prod(shape[1:]))
            tensor = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        else:
            tensor = torch.ones(shape) if name.startswith("scale") else torch.zeros(shape)
        weights[name] = tensor.requires_grad_()
    return weights


def train(prior: ImagePrior, *, steps: int, seed: int) -> dict[str, Tensor]:
    """Return trained weights."""
    generator = torch.Generator().manual_seed(seed)
    images, kind = render(prior, SCENES, seed)
    pixels = torch.from_numpy(images.pixels)
    position = torch.from_numpy(images.position).float()
    weights = first_weights(generator)
    num_kinds = len(prior.kinds)
    heads = torch.zeros(num_kinds + 1, EMBEDDING_SIZE + 1, requires_grad=True)
    optimiser = torch.optim.AdamW([*weights.values(), heads], weight_decay=WEIGHT_DECAY)
    started = time.process_time()
    for step in range(steps):
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / WARM_UP_STEPS)
            group["lr"] = LEARNING_RATE * warm * (1 + cos(pi * step / steps)) / 2
        row = torch.randint(SCENES, (BATCH,), generator=generator)
        channel = torch.randint(pixels.shape[3], (BATCH,), generator=generator)
        original = pixels[row, :, :, channel].float() / 255
        both = torch.cat([original, altered(original, generator)])
        unit = F.normalize(embedded(weights, both * 255))
        likeness = unit @ unit.T / TEMPERATURE
        likeness = likeness.masked_fill(torch.eye(2 * BATCH, dtype=torch.bool), -torch.inf)
        partner = torch.arange(2 * BATCH).roll(BATCH)
        identity = F.cross_entropy(likeness, partner)
        said = F.linear(unit * EMBEDDING_SIZE**0.5, heads[:, :-1], heads[:, -1])
        shown = F.cross_entropy(said[:, :num_kinds], kind[row].repeat(2))
        place = F.mse_loss(said[:, num_kinds], position[row].repeat(2))
        loss = identity + KIND_WEIGHT * shown + POSITION_WEIGHT * place
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if (step + 1) % 50 == 0:
            losses = f"identity {identity:.3f}  kind {shown:.3f}  place {place:.4f}"
            print(f"step {step + 1}  {losses}  {time.process_time() - started:.0f} s", flush=True)
    return {name: weight.detach().half() for name, weight in weights.items()}


def constants(prior: ImagePrior, weights: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return what standardises embeddings: see ``FeatureEncoder``."""
    images, _ = render(prior, STANDARDISING_SCENES, seed)
    exact = {name: weight.double() for name, weight in weights.items()}
    with torch.no_grad():
        parts = [
            unit_embeddings(exact, images.pixels[i : i + 64])
            for i in range(0, len(images.pixels), 64)
        ]
    unit_NCE = torch.cat(parts)
    mean = unit_NCE.mean((0, 1))
    values, vectors = torch.linalg.eigh(torch.cov(unit_NCE.reshape(-1, EMBEDDING_SIZE).T))
    whitening = vectors / values.sqrt() @ vectors.T
    white_NCE = (unit_NCE - mean) @ whitening.T
    # Variance of a mean of C channels: (1 + (C - 1) alike) / C.
    num_channels = white_NCE.shape[1]
    alike = torch.ones(EMBEDDING_SIZE, dtype=torch.float64)
    if num_channels > 1:
        of_mean = white_NCE.mean(1).square().mean(0)
        alike = (of_mean * num_channels - 1) / (num_channels - 1)
    found = {"mean": mean, "whitening": whitening, "alike": alike.clamp(0, 1)}
    return {name: on_grid(tensor, UNIT_GRID_BITS).contiguous() for name, tensor in found.items()}


def main() -> None:
    """Train, standardise, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prior", choices=sorted(PRIORS))
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    prior = PRIORS[options.prior]()
    weights = train(prior, steps=options.steps, seed=options.seed)
    weights |= constants(prior, weights, options.seed + 1)
    out = options.out or weights_path(options.prior)
    save_file(weights, out)
    print(f'    "{options.prior}": "{file_sha256(out)}",')
    print(f"{out.stat().st_size} bytes, {time.process_time():.0f} CPU-seconds")


if __name__ == "__main__":
    main()
