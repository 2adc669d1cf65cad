"""From a study to its generator."""

from pathlib import Path

from pydantic import ValidationError

from pratique_common.errors import InvalidFileError
from pratique_common.generators import (
    GENERATORS,
    IMAGE_GENERATORS,
    LOCAL_ONLY,
    TABLE_GENERATORS,
)
from pratique_common.generators.base import ChainedGenerator, Generator
from pratique_common.images.prior_codes import prior_kinds
from pratique_common.images.priors import PRIORS
from pratique_common.study import StudySpec, invalid_fields


def build_generator(study: StudySpec, *, source: str | Path = "study") -> Generator:
    """Build the study's generator; its initial weights follow from the study's digest alone.

    Raises:
        InvalidFileError: the study names an unknown generator or an unknown setting of it.
    """
    name = study.generator.name
    if name in LOCAL_ONLY:
        raise InvalidFileError(
            source,
            field="generator.name",
            problem=f"'{name}' repeats or mixes patients' records, which is never released",
            remedy="name another generator; for a hospital's own use there is "
            "`pratique-client resample`",
        )
    of_kind = TABLE_GENERATORS if study.data.image is None else IMAGE_GENERATORS
    choose = f"choose one of {', '.join(sorted(of_kind))}"
    if name not in GENERATORS:
        problem = f"there is no generator '{name}'"
        raise InvalidFileError(source, field="generator.name", problem=problem, remedy=choose)
    if name not in of_kind:
        made, wanted = ("images", "tables") if study.data.image is None else ("tables", "images")
        problem = f"'{name}' makes {made}, and the study is one of {wanted}"
        raise InvalidFileError(source, field="generator.name", problem=problem, remedy=choose)
    if study.data.visits is not None and name != "pairwise":
        raise InvalidFileError(
            source,
            field="generator.name",
            problem=f"'{name}' makes rows one by one and not visits of a patient",
            remedy="take 'pairwise', or drop data.visits",
        )
    if study.data.image is not None:
        _check_prior(study, source)
    generator, settings = GENERATORS[name]
    try:
        checked = settings.model_validate(study.generator.settings)
    except ValidationError as error:
        raise invalid_fields(f"{source}: generator", error) from None
    built = generator(study.data, checked, int(study.digest[:15], 16))
    if (built.sum_size == 0) != (study.training.rounds == 0):
        needs = "no rounds: write 0" if built.sum_size == 0 else "at least one round"
        raise InvalidFileError(
            source,
            field="training.rounds",
            problem=f"the generator '{name}' needs {needs}",
            remedy="correct it",
        )
    if isinstance(built, ChainedGenerator):
        try:
            built.require_rounds(study.training.rounds)
        except ValueError as error:
            raise InvalidFileError(
                source, field="training.rounds", problem=str(error), remedy="correct it"
            ) from None
    return built


def _check_prior(study: StudySpec, source: str | Path) -> None:
    """Generators of images begin with the prior's, so it has to know what a study shows."""
    try:
        prior_kinds(study.data)
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise InvalidFileError(
            source, field=f"data.{field}", problem=problem, remedy="correct it"
        ) from None
    image = study.data.image
    assert image is not None
    if image.neighbours and not PRIORS[image.prior].has_depth:
        raise InvalidFileError(
            source,
            field="data.image.neighbours",
            problem=f"an image of '{image.prior}' has no slices beside it",
            remedy="write 0, or leave it out",
        )
