"""What a study may say about images, and the columns in which the audit sees them."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pratique_common.images.priors import PRIORS
from pratique_common.images.spec import FEATURE_LIMIT
from pratique_common.schema import TableSchema

KIND = {"name": "kind", "type": "categorical", "categories": ["healthy", "glioma"]}
PLACE = {"name": "place", "type": "numeric", "lower": 0, "upper": 1, "bins": 8}
IMAGE = {"prior": "brain_mri", "size_px": 32, "channels": ["t1ce"], "position": "place"}


def schema(**changes: Any) -> TableSchema:
    data: dict[str, Any] = {"kind": "image", "target": "kind", "columns": [KIND, PLACE]}
    return TableSchema.model_validate({**data, "image": IMAGE, **changes})


def test_the_audit_sees_features_beside_the_study_s_columns() -> None:
    audited = schema().audited
    assert audited.names[:3] == ("kind", "place", "feature 1")
    assert len(audited.columns) == 2 + 32
    assert (audited.kind, audited.image, audited.target) == ("table", None, "kind")
    edges = audited.columns[-1].bin_edges()  # type: ignore[union-attr]
    assert (edges[0], edges[-1]) == (-FEATURE_LIMIT, FEATURE_LIMIT)
    # What it returns is itself a schema that a study could hold.
    assert TableSchema.model_validate(audited.model_dump()) == audited


def test_a_table_is_audited_as_it_is() -> None:
    table = schema(kind="table", image=None)
    assert table.audited is table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "images need it"),
        ({"kind": "table"}, "tables have none"),
        ({"kind": "table", "image": None, "columns": [KIND]}, "two or more"),
        ({"target": None}, "images need one"),
        ({"columns": [{**KIND, "name": "image"}, PLACE], "target": "image"}, "images use"),
        ({"columns": [KIND, {**PLACE, "name": "mask"}]}, "'mask' is a name that images use"),
        ({"image": {**IMAGE, "position": "depth"}}, "'depth' is not a column"),
        ({"image": {**IMAGE, "position": "kind"}}, "must be numeric"),
        ({"columns": [KIND, {**PLACE, "upper": 2}]}, "from 0 to 1"),
        ({"columns": [KIND, {**PLACE, "missing": True}]}, "must not be missing"),
        ({"image": {**IMAGE, "kinds": {"sick": "none"}}}, "no level of the target"),
        ({"image": {**IMAGE, "channels": ["t1", "t1"]}}, "share one name"),
        ({"image": {**IMAGE, "size_px": 33}}, "multiple of 2"),
        ({"image": {**IMAGE, "neighbours": 4}}, "less than or equal to 3"),
        ({"image": {**IMAGE, "neighbours": -1}}, "greater than or equal to 0"),
        ({"image": {**IMAGE, "gap_mm": 0}}, "greater than 0"),
    ],
)
def test_what_no_study_of_images_may_say(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        schema(**changes)


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_renders_and_moves_what_it_drew(name: str) -> None:
    prior, rng = PRIORS[name](), np.random.default_rng(0)
    kinds = np.arange(8) % len(prior.kinds)
    scenes = prior.draw(kinds, rng)
    first, again = (prior.render(scenes, prior.channels[:1], size_px=32) for _ in range(2))
    assert first.pixels.shape == (8, 32, 32, 1)
    assert first.pixels.dtype == np.uint8
    assert first.pixels.std() > 20
    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert ((first.position >= 0) & (first.position <= 1)).all()
    assert not first.mask[kinds == 0].any()
    assert first.mask[kinds > 0].any()
    moved = prior.render(
        prior.mutated(scenes, rng, share=0.5), prior.channels[:1], size_px=32
    ).pixels
    fresh = prior.render(prior.draw(kinds, rng), prior.channels[:1], size_px=32).pixels
    far = np.abs(fresh.astype(float) - first.pixels).mean()
    assert 0 < np.abs(moved.astype(float) - first.pixels).mean() < far
