"""From a study to its generator."""

from pathlib import Path

from pydantic import ValidationError

from pratique_common.errors import InvalidFileError
from pratique_common.generators import GENERATORS, LOCAL_ONLY
from pratique_common.generators.base import Generator
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
    if name not in GENERATORS:
        raise InvalidFileError(
            source,
            field="generator.name",
            problem=f"there is no generator '{name}'",
            remedy=f"choose one of {', '.join(sorted(GENERATORS))}",
        )
    if study.data.visits is not None and name != "pairwise":
        raise InvalidFileError(
            source,
            field="generator.name",
            problem=f"'{name}' makes rows one by one and not visits of a patient",
            remedy="take 'pairwise', or drop data.visits",
        )
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
    return built
