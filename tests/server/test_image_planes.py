"""Neighbouring slices where a coordinator names or shows images."""

import base64
import io

import numpy as np
from PIL import Image

from pratique_common.images.features import FeatureEncoder
from pratique_common.images.prior_codes import prior_codes
from pratique_common.images.spec import IMAGE
from pratique_server.dictionary import dictionary_csv
from pratique_server.evaluation.images.evaluate_images import evaluate_images
from pratique_server.evaluation.images.image_learner import Training
from pratique_server.evaluation.images.likeness import Encoder
from pratique_server.evaluation.rows import Rows
from pratique_server.report.sample_grid import sample_grid
from tests.small_images import KINDS, image_study

STUDY = image_study(neighbours=1)
PLANES = ["t1ce -5 mm", "t1ce", "t1ce +5 mm"]


def rows(seed: int, num: int = 40) -> Rows:
    codes = prior_codes(STUDY.data, num, np.random.default_rng(seed))
    columns = {
        "age": np.random.default_rng(seed).uniform(20, 100, num),
        "kind": np.array(KINDS, object)[codes[:, 1]],
        "place": 0.1 + 0.2 * codes[:, 2],
        IMAGE: codes[:, 3:].astype(np.uint8).reshape(num, 16, 16, 3),
    }
    return Rows(columns, np.arange(num), np.ones(num))


def test_the_dictionary_names_planes() -> None:
    assert dictionary_csv(STUDY).endswith(
        f"image,image,,0 to 255; 16 x 16 x {'|'.join(PLANES)},no\n"
    )


def test_images_with_planes_are_evaluated_and_every_plane_is_shown() -> None:
    encoder = Encoder("file", FeatureEncoder.of("brain_mri").features)
    found = evaluate_images(
        STUDY.data, [encoder], Training(steps=2, batch=16, seeds=(0,)),
        synthetic=rows(1), train=rows(2), test=rows(3),
    )  # fmt: skip
    pictures = found["samples"]["channels"]
    assert list(pictures) == PLANES
    assert len(set(pictures.values())) == 3
    for name in ("fd_file", "fd_site", "nearest_ssim_difference", "ms_ssim_within_class"):
        assert found["measures"][name]["value"] is not None, name


def test_the_report_shows_the_middle_plane() -> None:
    columns = {**rows(1).columns, IMAGE: np.zeros((40, 16, 16, 3), np.uint8)}
    columns[IMAGE][..., 1] = 200
    grid = sample_grid(STUDY.data, columns)
    assert grid is not None
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(grid["png"]))))
    assert set(np.unique(shown)) == {200, 255}
