"""The candidate of a study of images: rows with their images, and masks where they are known."""

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pratique_common.encoding import TableEncoder
from pratique_common.generators.base import ImageGenerator
from pratique_common.generators.image_codes import draw_columns
from pratique_common.images.spec import IMAGE
from pratique_common.study import StudySpec
from pratique_common.tables import to_arrow
from pratique_privacy.post_processing.one_way import OneWay


def sample_images(
    study: StudySpec, generator: ImageGenerator, one_way: OneWay, *, seed: int
) -> tuple[pa.Table, NDArray[np.uint8] | None]:
    """Return ``release.rows`` rows with images, and the images' masks where they are known.

    Columns are drawn from the noised histograms.

    Args:
        study: of images.
        generator: makes images for columns' codes.
        one_way: shares of bins for numbers inside them.
        seed: public; the same one gives the same rows.
    """
    image = study.data.image
    assert image is not None
    encoder = TableEncoder(study.data, one_way.within)
    torch_rng, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    codes = draw_columns(generator.marginals, study.release.rows, torch_rng)
    rows, masks = generator.images_for(codes, torch_rng)
    codes_ND, pixels = np.split(rows.numpy(), [len(encoder.num_levels)], axis=1)
    columns = encoder.decode(codes_ND, rng)
    columns[IMAGE] = pixels.astype(np.uint8).reshape(-1, *image.shape)
    return to_arrow(columns, study.data), masks
