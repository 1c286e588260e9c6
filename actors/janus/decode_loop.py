"""The loop over a batch's codes: choose a code for every image, feed it to every row, 576 times. No prompts, no pixels.

A step reads and writes tensors that keep their addresses, and running it twice has the same effect as running it once.
So on a GPU each of its two halves is captured once as a CUDA graph and replayed, without Python and without waiting for
the device. On a CPU the halves are plain calls.

Shapes: B images, R rows of the model, N codes of an image, C hidden channels, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

import torch

from actors.device import send
from actors.guidance import guide
from actors.janus.network import CodeModel
from actors.kernels.cuda_graph import GraphPool
from actors.llama.cache import PagedCache, PromptState, RowCache

STEPS_PER_QUESTION = 8

# step (an int64 tensor of no dimension), guided logits float32 [B, V] -> the images' next codes [B]
Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class DecodeLoop:
    """Buffers for batches of up to `num_images` images and as many rows as `cache` has, and the loop.

    `graphs` captures the steps on a GPU, where `choose` must do all its work on the device; None: plain calls.
    """

    def __init__(
        self,
        model: CodeModel,
        choose: Choose,
        cache: RowCache | PagedCache,
        *,
        num_images: int,
        graphs: GraphPool | None = None,
    ) -> None:
        self.model, self.choose, self.cache, self.graphs = model, choose, cache, graphs
        device, num_rows = model.code_embedding_VC.device, cache.num_rows
        self.hidden_RC = torch.zeros_like(model.code_embedding_VC[:1]).repeat(num_rows, 1)
        self.length_R, self.image_R = (torch.zeros(num_rows, dtype=torch.long, device=device) for _ in range(2))
        self.uncond_B, self.code_B = (torch.zeros(num_images, dtype=torch.long, device=device) for _ in range(2))
        self.weight_B = torch.ones(num_images, device=device)
        self.step = torch.zeros((), dtype=torch.long, device=device)

    def load(self, states: Sequence[PromptState], image_of_rows: Sequence[int], cfg_weights: Sequence[float]) -> None:
        """Start a batch: a prompt and an image for each row, a weight for each image. The images' cond rows come first.

        Unused rows repeat the first. An image without an uncond row uses its cond row as one: guide() then returns its
        logits unchanged.
        """
        num_rows, num_images = len(self.length_R), len(self.code_B)
        uncond_of_image = {image: row for row, image in enumerate(image_of_rows) if row >= len(cfg_weights)}
        uncond = [uncond_of_image.get(image, image) for image in range(num_images)]
        self._put(self.image_R, torch.tensor([*image_of_rows, *[0] * (num_rows - len(states))]))
        self._put(self.uncond_B, torch.tensor(uncond))
        self._put(self.weight_B, torch.tensor([*cfg_weights, *[1.0] * (num_images - len(cfg_weights))]))
        self._put(self.length_R, self.cache.load(states))
        hidden = [state.hidden_C for state in states]
        self.hidden_RC.copy_(torch.stack([*hidden, *hidden[:1] * (num_rows - len(states))]))

    def run(
        self, num_codes: int, is_guiding: Callable[[int], bool], is_over: Callable[[], bool] = lambda: False
    ) -> torch.Tensor:
        """The codes of the loaded batch, [B, N], see `steps`.

        `is_over` says whether to stop early. It may wait for the device, so it is asked every STEPS_PER_QUESTION steps.
        """
        codes = []
        for code_B in self.steps(num_codes, is_guiding):
            codes.append(code_B)
            if len(codes) % STEPS_PER_QUESTION == 0 and is_over():
                break
        return torch.stack(codes, dim=1)

    def steps(self, num_codes: int, is_guiding: Callable[[int], bool]) -> Iterator[torch.Tensor]:
        """The next codes of the loaded batch [B], step by step; a GPU may not have computed them yet.

        `is_guiding(step)`: whether guidance acts at this step.
        """
        for step in range(num_codes):
            self.step.fill_(step)
            guiding = is_guiding(step)
            self._launch(("choose", guiding), lambda guiding=guiding: self.choose_codes(guiding))
            yield self.code_B.clone()
            if step + 1 < num_codes:
                self._launch(("read",), self.read_codes)

    def choose_codes(self, guiding: bool) -> None:
        """From the rows' last hidden states to the images' next codes."""
        x_RC = self.model.head.first(self.hidden_RC)
        x_BC = x_RC[: len(self.code_B)]
        if guiding:  # before the last matrix: it is linear, so it gives guided logits, and it multiplies half the rows
            x_BC = guide(x_BC.float(), x_RC[self.uncond_B].float(), self.weight_B).to(x_RC.dtype)
        self.code_B.copy_(self.choose(self.step, self.model.head.second(x_BC).float()))

    def read_codes(self) -> None:
        """From the images' codes to the rows' next hidden states."""
        x_RC = self.model.code_embedding_VC[self.code_B[self.image_R]]
        self.hidden_RC.copy_(self.model.llama.decode(x_RC, self.length_R + self.step, self.cache))

    @staticmethod
    def _put(place: torch.Tensor, values: torch.Tensor) -> None:
        place.copy_(send(values, place.device))

    def _launch(self, key: Hashable, work: Callable[[], None]) -> None:
        if self.graphs:
            self.graphs.run((self, key), work)
        else:
            work()
