"""What every generator is: a sampler with a state that sites get, and what sites add up for it.

There are four kinds. A ``GradientGenerator`` is trained by DP-SGD: sites add up clipped gradients
of its loss. A ``CountedGenerator`` is fitted by the coordinator to clipped statistics of rows. A
``VotedGenerator`` shows candidates or cells, and patients vote for those nearest or those they are
in. Of a ``MeasuredGenerator`` sites add up means and products of clipped coordinates. Rows of
images have pixels behind their codes (docs/adr/0014).

Shapes: B patients, K rows a patient (padded), N rows, D columns, C = all levels of all columns, V
votes of a row, k coordinates.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Generator as Rng
from torch import Tensor, nn

from pratique_common.generators.pairs import PairLayout

Marginals = Sequence[NDArray[np.float64]]


class Generator(Protocol):
    """A generator of encoded rows. Its constructor takes the schema, its settings and a seed."""

    @property
    def module(self) -> nn.Module:
        """The weights; the same initial ones everywhere for one seed."""

    def state(self) -> NDArray[np.float32]:
        """Return the public vector that a site needs before it can compute its sum."""

    def load_state(self, vector: NDArray[np.float32]) -> None:
        """Take over a state from the coordinator.

        Raises:
            ValueError: it is no state of this generator, or one that clipping could not bound.
        """

    @property
    def sum_size(self) -> int:
        """Length of the vector that sites add up; 0 if histograms are all that it needs."""

    def set_marginals(self, marginals: Marginals) -> None:
        """Start from one-way marginals (D arrays of probabilities that sum to one)."""

    def sample(self, num_rows: int, rng: Rng) -> Tensor:
        """Return int64 codes of shape (num_rows, D), in the schema's order of columns."""


class LossOfPatients(Protocol):
    """What clipping needs of a model that DP-SGD trains."""

    @property
    def module(self) -> nn.Module:
        """The weights."""

    @property
    def sum_size(self) -> int:
        """How many of them are trained."""

    @property
    def block_rows(self) -> int | None:
        """How many rows go through the model at once, if they are as large as images.

        Public: from the study alone. Patients of few rows then cost as few, and no row's result may
        depend on its place among so many. None: rows are small, and so many do not matter.
        """

    def loss(self, codes_BKD: Tensor, weight_BK: Tensor) -> Tensor:
        """Return the loss of each patient, shape (B,): DP-SGD clips the gradient of each.

        What it draws comes from torch's own generator on the processor, in 32 bits, and is moved
        then: the same seed gives the same draws whatever computes.

        Args:
            codes_BKD: int64 codes; rows that pad have weight 0 and any valid code.
            weight_BK: weights of a patient's rows, summing to one; of the module's device and
                precision.
        """


@runtime_checkable
class GradientGenerator(Generator, LossOfPatients, Protocol):
    """A generator that DP-SGD trains."""

    @property
    def learning_rate(self) -> float:
        """Of Adam, where the study says none."""


@runtime_checkable
class VotedGenerator(Generator, Protocol):
    """A generator whose candidates patients choose among."""

    @property
    def num_votes(self) -> int:
        """V: of each row."""

    def votes(self, codes_ND: Tensor) -> NDArray[np.int64]:
        """Return V different candidates of each row, (N, V), below ``sum_size``.

        They must depend on that row alone, in every bit; V is the same for all rows.
        """


@runtime_checkable
class MeasuredGenerator(Generator, Protocol):
    """A generator that wants to know how rows lie along directions, class by class."""

    @property
    def num_classes(self) -> int:
        """Of rows."""

    def coordinates(self, codes_ND: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return each row's class, (N,), and coordinates, (N, k): from it alone, in every bit."""


@runtime_checkable
class PretrainedGenerator(GradientGenerator, Protocol):
    """A generator of images that begins with what the study's public prior shows."""

    @property
    def pretrain_steps(self) -> int:
        """For how many steps; 0 leaves the initial weights."""

    def train_whole(self, whole: bool) -> None:
        """Let gradients be taken of all weights, or again of those that sites train."""


@runtime_checkable
class ImageGenerator(Generator, Protocol):
    """A generator that draws columns one by one, and makes an image for what some of them say."""

    @property
    def marginals(self) -> Marginals:
        """The distributions that columns are drawn from."""

    @property
    def shown(self) -> tuple[int, ...]:
        """Which columns an image is made for, by their positions: it knows nothing of others."""

    def images_for(self, codes_ND: Tensor, rng: Rng) -> tuple[Tensor, NDArray[np.uint8] | None]:
        """Return rows for columns' codes, and masks (N, H, W) if what images show is known.

        Rows, int64 (N, D + H·W·C), have these codes, but what an image decides itself, as where its
        slice lies, is as it came out. Columns in ``shown`` stay.
        """


@runtime_checkable
class VolumeGenerator(ImageGenerator, Protocol):
    """A generator that knows where slices lie, and makes those of one head agree."""

    def volumes_for(self, codes_ND: Tensor, slices: int, rng: Rng) -> Tensor:
        """Return rows of a volume for each row of columns' codes, the lowest slice first.

        Raises:
            ValueError: the study names no position.
        """


@runtime_checkable
class ChainedGenerator(ImageGenerator, Protocol):
    """Generators of images, one after the other; its own state and sums are the last one's."""

    def part(self, round_number: int) -> Generator:
        """Return what sites compute for in a round, from 1."""

    def require_rounds(self, rounds: int) -> None:
        """Raise ValueError, which says what is needed, if it is not for so many rounds."""


def part_of(generator: Generator, round_number: int) -> Generator:
    """Return what sites compute for in a round, from 1: of most generators themselves."""
    return generator.part(round_number) if isinstance(generator, ChainedGenerator) else generator


@runtime_checkable
class CriticGenerator(GradientGenerator, Protocol):
    """A pair of networks: sites train a critic, and the coordinator all else, without a record."""

    @property
    def weight_bound(self) -> float | None:
        """Of the critic's weights, after each step; None: none but that of every state."""

    @property
    def levels_off(self) -> bool:
        """Whether the critic's loss does where it is sure, so that no score is worth more."""

    def maker_weights(self) -> list[nn.Parameter]:
        """Return the weights of the network that makes rows up."""

    def made_up_loss(self, num_rows: int, rng: Rng) -> Tensor:
        """Return the critic's loss on each of so many made-up rows, (N,), beside that on records.

        They go through the critic's layers as if each were a patient.
        """

    def maker_loss(self, num_rows: int, rng: Rng) -> Tensor:
        """Return the maker's loss."""


@runtime_checkable
class CountedGenerator(Generator, Protocol):
    """A generator that is fitted to noised ``pairs`` statistics."""

    layout: PairLayout

    @property
    def centre(self) -> NDArray[np.float64]:
        """Public one-way marginals at which statistics are centred."""
