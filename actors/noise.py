"""All randomness of a render: the seed of each image, and the numbers drawn from that seed.

An image's noise is a function of its own seed alone. It is drawn on the CPU from a counter-based generator (Philox),
so the numbers are the same on every device, and no two images of a batch share a stream.
"""

from __future__ import annotations

import hashlib

import numpy as np

# Part of the seed rule: another label, another set of images.
_SEED_LABEL = "janus-batch seed 1"
_CANDIDATE_LABEL = "janus-batch candidate 1"


def derive_seed(row_seed: int, prompt_id: str, image_index: int) -> int:
    """The 64-bit seed of image `image_index` of the row `prompt_id`.

    The first 8 bytes, little-endian, of SHA-256 over the UTF-8 text `janus-batch seed 1 | row_seed | image_index |
    prompt_id` with a NUL byte for each ` | `. The weight is not part of it: in a sweep only the weight differs.
    """
    return _hash(_SEED_LABEL, str(row_seed), str(image_index), prompt_id)


def candidate_seed(image_seed: int, candidate: int) -> int:
    """The 64-bit seed of a candidate of the image with this seed. Candidate 0 is the image itself.

    For the others, `derive_seed` with other parts: `janus-batch candidate 1 | image_seed | candidate`.
    """
    return image_seed if candidate == 0 else _hash(_CANDIDATE_LABEL, str(image_seed), str(candidate))


def uniform_noise(seed: int, num: int) -> np.ndarray:
    """`num` float64 numbers in [0, 1), one per code of a Janus image; shape [num]."""
    bits = np.random.Philox(key=seed).random_raw(num)
    return (bits >> np.uint64(11)) * 2.0**-53


def text_noise(seed: int, num: int) -> np.ndarray:
    """`num` float64 numbers in [0, 1), one per token of the text that a model writes before a Janus image; shape [num].

    They are from another stretch of the seed's stream, 2**192 blocks further on, so they are never those of the codes.
    """
    bits = np.random.Philox(key=seed, counter=[0, 0, 0, 1]).random_raw(num)
    return (bits >> np.uint64(11)) * 2.0**-53


def normal_noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 numbers of the given shape: the latent a JanusFlow image starts from."""
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal(shape, dtype=np.float32)


def _hash(*parts: str) -> int:
    """The first 8 bytes, little-endian, of SHA-256 over the parts with a NUL byte between them."""
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()[:8], "little")
