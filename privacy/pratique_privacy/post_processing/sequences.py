"""Synthetic patients visit by visit, where a study's rows are visits.

A visit that breaks a rule, or may not follow the one before it, is drawn again: its values inside
their bins first, then its codes. A patient whose next visit cannot be drawn has no more. Fixed
cells are taken over from the first visit. First visits are not raked as rows are: where codes are
drawn again, two-way distances are as small (.0539 and .0534 at ε = 60, .0786 and .0808 at ε = 3).

Shapes: B patients of a block, D columns of the study, T of what the generator learns.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pratique_common.encoding import IntArray, TableEncoder
from pratique_common.errors import NotEnoughDataError
from pratique_common.generators.pairwise import PairwiseGenerator
from pratique_common.obeying import decode_obeying
from pratique_common.rules import BoolArray
from pratique_common.schema import TableSchema
from pratique_common.study import StudySpec
from pratique_common.tables import to_arrow
from pratique_common.visits import YES_CODE
from pratique_privacy.post_processing.one_way import OneWay

Values = dict[str, NDArray[Any]]

_BLOCK_PATIENTS = 5_000  # also for a few rows: how many are fine is judged by a block
_TRIES = 20
_LEAST_SHARE = 0.5  # of patients whose first visit obeys: with fewer, little was learnt


def sample_sequences(
    study: StudySpec, generator: PairwiseGenerator, one_way: OneWay, *, seed: int
) -> pa.Table:
    """Return ``release.rows`` visits of synthetic patients; the last patient's may be cut short.

    Raises:
        NotEnoughDataError: the generator hardly ever obeys the study's rules.
    """
    torch_rng, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    encoder = TableEncoder(study.data, one_way.within)
    number, columns = VisitSampler(study.data, generator, encoder, torch_rng, rng).rows(
        study.release.rows
    )
    return to_arrow(columns, study.data, number)


class VisitSampler:
    """Draws patients visit by visit."""

    def __init__(
        self,
        schema: TableSchema,
        generator: PairwiseGenerator,
        encoder: TableEncoder,
        torch_rng: torch.Generator,
        rng: np.random.Generator,
        *,
        first: Callable[[int], IntArray] | None = None,
        fits: Callable[[IntArray, Values], BoolArray] | None = None,
        least_share: float = _LEAST_SHARE,
    ) -> None:
        """Take a generator, and what first visits shall be.

        Args:
            schema: of the study.
            generator: of visits.
            encoder: decodes codes of the study's columns.
            torch_rng: of codes; need not be secret (post-processing).
            rng: of values.
            first: gives codes (B, T) of so many first visits; by default the generator's.
            fits: which first visits, of codes (B, D) and values, are as asked; by default all.
            least_share: of patients whose first visit is fine after all tries.
        """
        self._schema, self._generator, self._encoder = schema, generator, encoder
        self._more = generator.layout.num_now - 1
        self._torch_rng, self._rng = torch_rng, rng
        self._first, self._fits, self._least_share = first, fits, least_share
        self._like_MD: IntArray | None = None
        assert schema.visits is not None
        self._fixed = schema.visits.fixed

    def rows(self, num_rows: int) -> tuple[IntArray, Values]:
        """Return whose each of so many visits is, from 0, and their values.

        Raises:
            NotEnoughDataError: too few first visits are fine.
        """
        blocks: list[tuple[IntArray, Values]] = []
        found = num_patients = 0
        while found < num_rows:
            number, values = self._block()
            blocks.append((number + num_patients, values))
            num_patients += int(number.max()) + 1
            found += len(number)
        return np.concatenate([number for number, _ in blocks])[:num_rows], {
            name: np.concatenate([values[name] for _, values in blocks])[:num_rows]
            for name in self._schema.names
        }

    def _block(self) -> tuple[IntArray, Values]:
        """Return rows of up to 5,000 patients, a patient's together, and whose each is, from 0."""
        patient = np.arange(_BLOCK_PATIENTS)
        codes: IntArray | None = None
        values: Values | None = None
        found: list[tuple[IntArray, IntArray, Values]] = []
        for visit in range(self._schema.max_rows_per_patient):
            codes, values, fine = self._visits(codes, values, len(patient))
            if visit == 0 and fine.mean() < self._least_share:
                raise NotEnoughDataError(
                    "the generator learnt too little to obey the study's rules",
                    code="rules_not_learnt",
                )
            kept = _rows(values, fine)
            found.append((patient[fine], np.full(int(fine.sum()), visit), kept))
            goes_on = fine & (codes[:, self._more] == YES_CODE)
            if not goes_on.any():
                break
            patient, codes, values = patient[goes_on], codes[goes_on], _rows(values, goes_on)
        patients = np.concatenate([each for each, _, _ in found])
        order = np.lexsort((np.concatenate([visit for _, visit, _ in found]), patients))
        columns = {
            name: np.concatenate([each[name] for _, _, each in found])[order]
            for name in self._schema.names
        }
        _, number = np.unique(patients[order], return_inverse=True)
        return number.astype(np.int64), columns

    def _visits(
        self, before_BT: IntArray | None, earlier: Values | None, num_patients: int
    ) -> tuple[IntArray, Values, NDArray[np.bool_]]:
        """Return codes (B, T) and values of one visit a patient, and which are allowed."""
        codes, values, fine = self._draw(before_BT, earlier, num_patients)
        for _ in range(_TRIES):
            again = np.flatnonzero(~fine)
            if not len(again):
                break
            before = None if before_BT is None else before_BT[again]
            then = None if earlier is None else _rows(earlier, again)
            codes[again], drawn, fine[again] = self._draw(before, then, len(again))
            for name, cells in drawn.items():
                values[name][again] = cells
        return codes, values, fine

    def _draw(
        self, before_BT: IntArray | None, earlier: Values | None, num_patients: int
    ) -> tuple[IntArray, Values, NDArray[np.bool_]]:
        if before_BT is None and self._first is not None:
            codes_BT = self._first(num_patients)
        else:
            before = None if before_BT is None else torch.from_numpy(before_BT)
            codes_BT = self._generator.next_visits(before, num_patients, self._torch_rng).numpy()
        num_columns = len(self._schema.columns)
        codes_BD = codes_BT[:, :num_columns]
        if self._like_MD is None:
            self._like_MD = codes_BD.copy()
        values, fine = decode_obeying(
            self._encoder,
            codes_BD,
            self._rng,
            like_MD=self._like_MD,
            known=None if earlier is None else {name: earlier[name] for name in self._fixed},
            before=earlier,
        )
        codes_BT[:, :num_columns] = self._encoder.blanked(codes_BD, values)
        if before_BT is None and self._fits is not None:
            fine &= self._fits(codes_BT[:, :num_columns], values)
        return codes_BT, values, fine


def _rows(values: Mapping[str, NDArray[Any]], keep: NDArray[Any]) -> Values:
    return {name: cells[keep] for name, cells in values.items()}
