"""The loop over a batch's codes: choose one for every image, tell every row, 576 times. No prompts and no pixels here.

What a step reads and writes stands in tensors that stay where they are, and a step run twice does what it does once. So
on a GPU each of its two halves is captured once as a CUDA graph, the second for every attended length, and replayed:
without Python and without a stop of the device. On a CPU they are called.

Shapes: B images, R rows of the model, N codes of a picture, T cache slots, C hidden channels, V codebook entries.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch

from actors.guidance import guide
from actors.janus.network import CodeModel, PromptState
from actors.llama.model import num_slots

# step (an int64 tensor of no dimension), guided logits float32 [B, V] -> the images' next codes [B]
Choose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class DecodeLoop:
    """Buffers for batches of up to `num_images` images with prompts of up to `prompt_room` tokens, and the loop.

    `cache` has the rows and slots for it. How far it is read follows from `prompt_room` and the step.
    """

    def __init__(
        self, model: CodeModel, choose: Choose, cache: torch.Tensor, *, num_images: int, prompt_room: int
    ) -> None:
        self.model, self.choose, self.cache, self.prompt_room = model, choose, cache, prompt_room
        device, num_rows = model.code_embedding_VC.device, cache.shape[2]
        self.use_graphs = False  # True on a GPU, where `choose` does all its work there
        self.hidden_RC = torch.zeros_like(model.code_embedding_VC[:1]).repeat(num_rows, 1)
        self.length_R, self.image_R = (torch.zeros(num_rows, dtype=torch.long, device=device) for _ in range(2))
        self.uncond_B, self.code_B = (torch.zeros(num_images, dtype=torch.long, device=device) for _ in range(2))
        self.weight_B = torch.ones(num_images, device=device)
        self.step = torch.zeros((), dtype=torch.long, device=device)
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        # Shared by all graphs: nothing in the memory outlives a replay, and libraries keep workspaces for each stream.
        self._graph_memory: tuple[int, int] | None = None
        self._graph_stream: torch.cuda.Stream | None = None

    def load(self, states: Sequence[PromptState], image_of_rows: Sequence[int], cfg_weights: Sequence[float]) -> None:
        """Begin a batch: a prompt and an image for each row, a weight for each image; images' own rows come first.

        Rows that nobody needs repeat the first. An image without a second row stands in for its own unconditional row:
        guide() then gives its logits back unchanged.
        """
        num_rows, num_images = len(self.length_R), len(self.code_B)
        uncond_of_image = {image: row for row, image in enumerate(image_of_rows) if row >= len(cfg_weights)}
        self.image_R.copy_(torch.tensor([*image_of_rows, *[0] * (num_rows - len(states))]))
        self.uncond_B.copy_(torch.tensor([uncond_of_image.get(image, image) for image in range(num_images)]))
        self.weight_B.copy_(torch.tensor([*cfg_weights, *[1.0] * (num_images - len(cfg_weights))]))
        states = [*states, *states[:1] * (num_rows - len(states))]
        self.length_R.copy_(torch.tensor([state.num_tokens for state in states]))
        self.hidden_RC.copy_(torch.stack([state.hidden_C for state in states]))
        self.cache.zero_()  # what an earlier batch left there is masked, but a NaN would come through
        for row, state in enumerate(states):
            self.model.llama.put_prompt(self.cache, row, state.kv)

    def run(self, num_codes: int, is_guiding: Callable[[int], bool]) -> torch.Tensor:
        """The codes of the batch that was loaded, [B, N]. `is_guiding` says at which steps guidance acts."""
        codes = []
        for step in range(num_codes):
            self.step.fill_(step)
            guiding = is_guiding(step)
            self._launch(("choose", guiding), lambda guiding=guiding: self.choose_codes(guiding))
            codes.append(self.code_B.clone())
            if step + 1 < num_codes:
                num_attended = num_slots(self.prompt_room + step + 1)
                self._launch(("read", num_attended), lambda num=num_attended: self.read_codes(num))
        return torch.stack(codes, dim=1)

    def choose_codes(self, guiding: bool) -> None:
        """From the rows' last hidden states to the images' next codes."""
        x_RC = self.model.head.first(self.hidden_RC)
        x_BC = x_RC[: len(self.code_B)]
        if guiding:  # the last matrix has half the rows to multiply, and gives the guided logits as it is linear
            x_BC = guide(x_BC.float(), x_RC[self.uncond_B].float(), self.weight_B).to(x_RC.dtype)
        self.code_B.copy_(self.choose(self.step, self.model.head.second(x_BC).float()))

    def read_codes(self, num_attended: int) -> None:
        """From the images' codes to the rows' next hidden states; the cache is read up to `num_attended` slots."""
        x_RC = self.model.code_embedding_VC[self.code_B[self.image_R]]
        self.hidden_RC.copy_(self.model.llama.decode(x_RC, self.length_R + self.step, self.cache, num_attended))

    def _launch(self, key: Hashable, work: Callable[[], None]) -> None:
        if not self.use_graphs:
            work()
            return
        if key not in self._graphs:
            self._graph_memory = self._graph_memory or torch.cuda.graph_pool_handle()
            self._graph_stream = self._graph_stream or torch.cuda.Stream()
            try:
                self._graphs[key] = _capture(work, self._graph_memory, self._graph_stream)
            except Exception:
                self._graphs.clear()  # a graph that goes frees the stream's workspaces, which the others point to
                raise
        self._graphs[key].replay()


def _capture(work: Callable[[], None], memory: tuple[int, int], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """`work` as a CUDA graph. It runs once before, so that libraries set themselves up outside of the capture."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=memory, stream=stream):
        work()
    return graph
