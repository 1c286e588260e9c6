"""What actors are asked and answer: requests for images, images or the reasons why there are none, verdicts on images
that were judged, and, for jobs that look at images, questions about them and answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from actors.recipe import SamplingSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRequest(SamplingSettings):
    """Everything that decides the pixels of one image, except the model that the engine has loaded.

    * `image_id` is unique in an output. `prompt_id` names the prompt row, `image_index` counts its images from 0.
    * `negative_prompt`: None means the model's own unconditional prompt.
    * `seed`: the image's own seed, 64 bits, see `actors.noise.derive_seed`.
    * `cfg_weight`: the guidance weight; 1.0 turns guidance off.
    """

    image_id: str
    prompt_id: str
    image_index: int
    prompt: str
    negative_prompt: str | None = None
    seed: int
    cfg_weight: float

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must fit in 64 unsigned bits (0 to {2**64 - 1}), got {self.seed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Why this candidate of an image was kept: see `actors.understanding.judging`.

    * `score`: the judge's, 0 to 1, a float32; `score_kind`: how it was computed, see docs/judging.md.
    * `candidate`: the kept one, an index into `seeds` and `scores`, which have every candidate that was rendered. The
      score of a candidate that the engine could not render is None.
    * `caption`: what the judge sees in the image; None if the job asks for no captions.
    * `num_tries`: 1, and 1 more for each re-roll. `seconds`: spent looking at this image's candidates.
    """

    score: float
    score_kind: str
    candidate: int
    seeds: tuple[int, ...]
    scores: tuple[float | None, ...]
    caption: str | None = None
    num_tries: int = 1
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RenderedImage:
    """The pixels of one request, uint8 [height, width, 3], and the codes or latents they were decoded from.

    `codes` (Janus) are the VQ token ids, int32 [num_codes] in raster order. `latents` (JanusFlow) are float32
    [4, height/8, width/8], the input of the VAE. The pixels can be decoded from them without sampling. `reasoning`
    is the text that the model wrote before the image. An image that was looked at has a `verdict`.
    """

    image_id: str
    pixels: np.ndarray
    codes: np.ndarray | None = None
    latents: np.ndarray | None = None
    reasoning: str | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LookRequest:
    """A question about an image of the user.

    * `image_id` is unique in an output and the same as `prompt_id`, the id of the row. `prompt` is the question.
    * `picture`: the image as the model sees it, before normalization: uint8 [size, size, 3], see
      `actors.understanding.pixels.to_square`.
    * `is_scored`: whether the probability of yes is wanted, too.
    * `image`: where the image was read from, None if the row holds its bytes. `image_sha256`, `width`, `height`: of the
      image as it was read.
    """

    image_id: str
    prompt_id: str
    prompt: str
    picture: np.ndarray
    is_scored: bool
    image: str | None
    image_sha256: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenImage:
    """The answer to a LookRequest, and the probability of yes where it is wanted."""

    image_id: str
    answer: str
    score: float | None = None
    score_kind: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """An image that cannot be rendered, with the reason that `rejected/` shows to people."""

    image_id: str
    reason: str


Answer = tuple[ImageRequest, RenderedImage | Rejection]
AnyRequest = ImageRequest | LookRequest


def refusal_of_prompts(
    request: ImageRequest, count: Callable[[str], int], *, longest: int, num_image_tokens: int
) -> str | None:
    """Why the model cannot read the request's prompts, or None.

    `count(text)` is the number of a prompt's tokens, `longest` the largest that leaves room for an image.
    """
    for name, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt)):
        try:
            num_tokens = 0 if text is None else count(text)
        except ValueError as error:
            return str(error)
        if num_tokens > longest:
            return (
                f"{name} must have at most {longest} tokens, to leave room for the image's {num_image_tokens}, "
                f"got {num_tokens}"
            )
    return None
