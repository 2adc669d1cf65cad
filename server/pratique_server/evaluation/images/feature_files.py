"""Encoders that a user brings: TorchScript weights, named by their hash.

A distance is the FID of the papers only in the features of their Inception network. Other weights,
other ways of resizing and other networks give other figures under one name (Parmar et al., "On
aliased resizing ...", CVPR 2022), so the name follows from the file's hash alone.

Shapes: N images, H x W x C pixels, D features.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pratique_common.canonical import sha256_hex
from pratique_common.errors import InvalidFileError, UsageError

INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
"""Of ``inception-2015-12-05.pt``: TensorFlow's Inception of Heusel et al. as TorchScript, published
with StyleGAN2-ADA and used by clean-fid; it scales images to 299 pixels itself."""

_BATCH = 64
_COLOURS = 3


@dataclass(frozen=True)
class FileEncoder:
    """Sees images through a TorchScript network of the user's."""

    module: Any
    sha256: str

    @property
    def inception(self) -> bool:
        """Whether these are the weights of which FID has its name."""
        return self.sha256 == INCEPTION_SHA256

    @classmethod
    def load(cls, path: Path, sha256: str) -> "FileEncoder":
        """Load weights whose hash is known.

        Args:
            path: a TorchScript file; its network takes (N, 3, H, W) of 0 to 255, uint8, and returns
                features (N, D).
            sha256: 64 hexadecimal digits.

        Raises:
            InvalidFileError: another hash, or not such a file.
        """
        if not path.is_file():
            raise InvalidFileError(path, problem="no such file", remedy="check the path")
        data = path.read_bytes()
        if sha256_hex(data) != sha256.lower():
            raise InvalidFileError(
                path,
                problem="its SHA-256 is not the one that was given",
                remedy="fetch the weights again, or give their own hash",
            )
        try:
            # Only after the hash is known to be right: to load it is to trust it.
            load: Any = torch.jit.load
            module = load(io.BytesIO(data), map_location="cpu").eval()
        except RuntimeError:
            raise InvalidFileError(
                path, problem="not a TorchScript file", remedy="save the network as TorchScript"
            ) from None
        return cls(module, sha256.lower())

    def __call__(self, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return features (N, D). One channel is shown as three.

        Raises:
            UsageError: neither one channel nor three, or the network does not do what it should.
        """
        channels = pixels_NHWC.shape[-1]
        if channels not in (1, _COLOURS):
            raise UsageError(f"--weights: such networks see 1 or 3 channels, not {channels}")
        more = {"return_features": True} if self.inception else {}
        parts = []
        with torch.no_grad():
            for start in range(0, len(pixels_NHWC), _BATCH):
                part = np.ascontiguousarray(pixels_NHWC[start : start + _BATCH])
                x_NCHW = torch.from_numpy(part).permute(0, 3, 1, 2).expand(-1, _COLOURS, -1, -1)
                try:
                    found = self.module(x_NCHW, **more)
                except RuntimeError:
                    raise UsageError(
                        "--weights: the network does not take images (N, 3, H, W) of type uint8"
                    ) from None
                if not isinstance(found, torch.Tensor) or found.ndim != 2:
                    raise UsageError("--weights: the network does not return features (N, D)")
                parts.append(found.double().numpy())
        return np.concatenate(parts)
