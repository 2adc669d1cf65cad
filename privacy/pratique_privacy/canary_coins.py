"""Secret coins of a site's canaries, and the commitment that fixes them before training."""

import hashlib
import secrets
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from pratique_common.parts import CanaryOpening

_SALT_BYTES = 32


@dataclass(frozen=True)
class Coins:
    """A site's secret coins, one a canary, and the salt of its commitment to them."""

    included: bytes
    salt: bytes

    @staticmethod
    def draw(num_canaries: int) -> "Coins":
        """Draw fair, independent coins from the system's entropy."""
        return Coins(secrets.token_bytes(ceil(num_canaries / 8)), secrets.token_bytes(_SALT_BYTES))

    @staticmethod
    def of(opening: CanaryOpening) -> "Coins":
        """Read what a site opened.

        Raises:
            ValueError: it is not hexadecimal.
        """
        return Coins(bytes.fromhex(opening.coins), bytes.fromhex(opening.salt))

    @property
    def opening(self) -> CanaryOpening:
        """What opens the commitment."""
        return CanaryOpening(coins=self.included.hex(), salt=self.salt.hex())

    @property
    def commitment(self) -> str:
        """SHA-256(salt ‖ coins): fixes the coins and tells nothing of them."""
        return hashlib.sha256(self.salt + self.included).hexdigest()

    def first(self, num_canaries: int) -> NDArray[np.bool_]:
        """Return the coins of the first canaries.

        Raises:
            ValueError: there are not as many, or the salt is not as long as it must be.
        """
        if len(self.salt) != _SALT_BYTES or 8 * len(self.included) < num_canaries:
            raise ValueError("not coins and a salt")
        bits = np.unpackbits(np.frombuffer(self.included, np.uint8), count=num_canaries)
        return bits.astype(bool)
