"""The whole evaluation of a study of images, as data: ``evaluation.json``.

Shapes: N images, D features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pratique_common.errors import UsageError
from pratique_common.images.image_pixels import Scaling
from pratique_common.images.spec import FEATURE_LIMIT, IMAGE, feature_names
from pratique_common.schema import TableSchema
from pratique_common.study import StudySpec
from pratique_common.tables import Table, read_table
from pratique_server.evaluation.evaluate import defined, described
from pratique_server.evaluation.fidelity import fidelity
from pratique_server.evaluation.images.diversity import similarity_within_classes
from pratique_server.evaluation.images.frechet import Seen
from pratique_server.evaluation.images.image_learner import Training
from pratique_server.evaluation.images.image_usefulness import (
    Labelled,
    image_usefulness,
    target_column,
)
from pratique_server.evaluation.images.likeness import (
    Compared,
    Encoder,
    distances,
    neighbourhoods,
)
from pratique_server.evaluation.images.nearest_real import nearest_difference
from pratique_server.evaluation.images.paired import paired_measures
from pratique_server.evaluation.images.sample_grid import ACROSS, grid_address
from pratique_server.evaluation.rows import Measure, Rows, with_interval
from pratique_server.other_patients import require_other_patients

_DRAWN = 300
"""Points of each table in a figure."""


def evaluate_image_files(
    study: StudySpec,
    files: Mapping[str, Path],
    *,
    encoders: Sequence[Encoder],
    created: str,
    scaling: Scaling | None = None,
    training: Training | None = None,
) -> dict[str, Any]:
    """Measure synthetic images on files.

    Args:
        study: of images.
        files: ``synthetic``, ``train`` and ``test``: tables with images, see ``read_table``; and
            ``originals``, if each synthetic image stands for the real one in its place there.
        encoders: that see images, the main one first: neighbours are looked for in its features,
            and columns are compared beside them if it is the public one. What a network sees that
            learns from the real training images is always the last one.
        created: ISO time for the page.
        scaling: of real images in ``.npz`` files, as hospitals' sources had it.
        training: of the networks that judge.

    Raises:
        InvalidFileError: a file is not acceptable, or a patient stands in both real tables.
        UsageError: there is no original for each synthetic image.
    """
    tables = {
        role: read_table(path, study.data, with_patients=False)
        if role == "synthetic"
        else read_table(path, study.data, scaling=scaling)
        for role, path in files.items()
    }
    real = {role: tables[role] for role in ("train", "test")}
    require_other_patients(study.data, real, source=files["test"])
    rows = {role: Rows.of(table, study.data) for role, table in tables.items()}
    if "originals" in files:
        _require_pairs(tables, rows["originals"], files["originals"])
    found = evaluate_images(study.data, encoders, training or Training(), **rows)
    return described("image_evaluation", study, files, tables, rows, created) | found


def evaluate_images(
    schema: TableSchema,
    encoders: Sequence[Encoder],
    training: Training,
    *,
    synthetic: Rows,
    train: Rows,
    test: Rows,
    originals: Rows | None = None,
) -> dict[str, Any]:
    """Return every measure as JSON-able data; what is not defined is None."""
    rng = np.random.default_rng(0)
    utility = image_usefulness(schema, synthetic, train, test, rng, training)
    used = list(encoders)
    if utility.site_network is not None:
        used.append(Encoder("site", utility.site_network.features))
    seen = [Compared.of(encoder, synthetic=synthetic, train=train, test=test) for encoder in used]
    measures = [measure for each in seen for measure in distances(each, rng)]
    if seen:
        measures += neighbourhoods(seen[0], rng)
    measures += utility.measures
    measures.append(_diversity(schema, synthetic, test, rng))
    measures.append(_nearness(synthetic, train, test, rng))
    if originals is not None:
        measures += paired_measures(synthetic.columns[IMAGE], originals, rng)
    for each in seen:
        if each.encoder.kind == "phantom":
            measures += _columns(schema, each, rng)
    return defined(
        {
            "measures": {measure.id: asdict(measure) for measure in measures},
            "classes": utility.classes,
            "features": seen[0].encoder.kind if seen else None,
            "map": _map(seen[0], rng) if seen else None,
            "samples": _samples(schema, synthetic),
        }
    )


def _require_pairs(tables: Mapping[str, Table], originals: Rows, path: Path) -> None:
    num = tables["synthetic"].num_rows
    dropped = tables["synthetic"].num_dropped + tables["originals"].num_dropped
    if dropped or len(originals.owner) != num:
        raise UsageError(
            f"--originals: {path} must have one row for each of the {num} synthetic ones, in their "
            "order, all within the study's domain and rows per patient"
        )


def _diversity(
    schema: TableSchema, synthetic: Rows, test: Rows, rng: np.random.Generator
) -> Measure:
    value, resamples = similarity_within_classes(Labelled.of(synthetic, schema), rng)
    floor, _ = similarity_within_classes(Labelled.of(test, schema), rng)
    value, lower, upper = with_interval(value, resamples)
    return Measure(
        id="ms_ssim_within_class",
        title="Mean MS-SSIM of two synthetic images of one class (above: less diverse)",
        value=value,
        lower=lower,
        upper=upper,
        baseline=floor,
        baseline_title="two real test images of one class",
    )


def _nearness(synthetic: Rows, train: Rows, test: Rows, rng: np.random.Generator) -> Measure:
    value, lower, upper = nearest_difference(synthetic, train, test, rng)
    return Measure(
        id="nearest_ssim_difference",
        title="SSIM of the nearest training image minus that of the nearest held-out one",
        value=value,
        lower=lower,
        upper=upper,
        baseline=0.0,
        baseline_title="nothing is copied",
    )


def _columns(schema: TableSchema, seen: Compared, rng: np.random.Generator) -> list[Measure]:
    """Compare columns and public features as those of tables are compared."""
    if schema.image is None:
        raise ValueError("the study has no images")
    names = feature_names()

    def with_features(table: Seen) -> Rows:
        within = table.features.clip(-FEATURE_LIMIT, FEATURE_LIMIT)
        columns = {name: table.rows.columns[name] for name in schema.names}
        columns |= dict(zip(names, within.T, strict=True))
        return Rows(columns, table.rows.owner, table.rows.weight)

    synthetic, train, test = map(with_features, (seen.synthetic, seen.train, seen.test))
    return fidelity(schema.audited, synthetic, train, test, rng).measures


def _map(seen: Compared, rng: np.random.Generator) -> dict[str, list[list[float]]]:
    """Return points of both tables along the two main directions of the real test images."""
    centre_D = seen.test.moments().mean
    _, _, directions = np.linalg.svd(seen.test.features - centre_D, full_matrices=False)
    found = {}
    for role, table in (("real", seen.test), ("synthetic", seen.synthetic)):
        chosen = rng.permutation(len(table.features))[:_DRAWN]
        points = (table.features[chosen] - centre_D) @ directions[:2].T
        found[role] = np.round(points, 4).tolist()
    return found


def _samples(schema: TableSchema, synthetic: Rows) -> dict[str, Any]:
    """Return pictures of synthetic images, one a plane, one row a level of the target."""
    if schema.image is None:
        raise ValueError("the study has no images")
    images, levels = Labelled.of(synthetic, schema), target_column(schema).levels
    # Of an unlabelled image it is not known in which row it stands.
    grids = {
        name: grid_address(images.rows.columns[IMAGE][..., c], images.label, len(levels))
        for c, name in enumerate(schema.image.planes)
    }
    return {"levels": list(levels), "across": ACROSS, "channels": grids}
