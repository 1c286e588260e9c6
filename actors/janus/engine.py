"""The Janus and Janus-Pro engine: an image's codes one after the other from the language model, then the VQ decoder.

Reads downwards in the order of the data: tokenize, split, prefill, decode_tokens, decode_pixels. Rows of a batch may
differ in prompt, negative prompt, seed, weight and temperature.

An image has the same bytes in any batch. A prompt's numbers do not depend on other prompts, rows are ragged, and matrix
products and attention keep a row's bits for any number of rows (`actors/llama`). Images are decoded in calls of a fixed
size: two on a CPU, where a single image would use other kernels, and one on a GPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import torch

from actors.checkpoint.open import Checkpoint
from actors.device import DTYPES, find_device, on_stream, to_compute_dtype
from actors.guidance import is_guided, is_inside
from actors.janus.batching import CpuLoops, GpuLoops, free_gpu_memory
from actors.janus.decode_loop import DecodeLoop
from actors.janus.decoder import CpuDecoder, gpu_decoder, load_vq_decoder
from actors.janus.network import TEXT_HEAD, build_code_model, read_weights
from actors.janus.probe import TemplateProbe, probe_template, seconds_per_batch
from actors.janus.reasoning import Reasoner, Reasoning, protocol_of
from actors.janus.stream import Batch, Part, PromptIds, Tokens, read_answers, take_finished
from actors.kernels.cuda_graph import GraphPool
from actors.llama.cache import PromptState, cache_dtype_for
from actors.llama.model import Llama
from actors.llama.packed import PackedLlama
from actors.prompt.template import PromptTemplate
from actors.prompt.tokenizer import PromptTokenizer
from actors.recipe import Recipe
from actors.request import ImageRequest, Rejection, RenderedImage, refusal_of_prompts

# B images, G of them guided, R rows of the model (cond rows first, then one uncond row for each guided image, then
# empty rows), N codes of an image, T tokens or cache slots, C hidden channels, V codebook entries.


class JanusEngine:
    """Renders requests with one fetched Janus or Janus-Pro checkpoint.

    `grid_size` overrides the checkpoint's own codes per side (24 for the published ones). `weights` are its tensors if
    the caller already has them; they are taken out of it, so that their memory counts as free. Raises CheckpointError.
    """

    def __init__(
        self,
        recipe: Recipe,
        checkpoint: Checkpoint,
        *,
        grid_size: int | None = None,
        weights: dict[str, torch.Tensor] | None = None,
    ) -> None:
        self.torch_device, self.device = find_device()
        self.shape = checkpoint.shape
        self.grid_size = grid_size or self.shape.vq.grid_size
        self.num_codes = self.grid_size**2
        protocol, vocab_size = protocol_of(recipe.protocol), self.shape.llama.vocab_size
        added_tokens = protocol.added_tokens if protocol else ()
        self.tokenizer = PromptTokenizer(
            checkpoint.path, checkpoint.template, vocab_size=vocab_size, added_tokens=added_tokens
        )
        if weights is None:
            dtype, with_text_head = DTYPES[recipe.dtype], protocol is not None
            weights = read_weights(checkpoint, dtype=dtype, device=self.torch_device, with_text_head=with_text_head)
        weights = to_compute_dtype(weights)
        with torch.inference_mode():
            is_gpu = self.torch_device.type == "cuda"
            cache_dtype = cache_dtype_for(recipe.kv_cache, self.torch_device)
            text_head_VC = weights.pop(TEXT_HEAD, None)
            self.model = build_code_model(weights, self.shape, is_packed=is_gpu, cache_dtype=cache_dtype)
            self.vq = load_vq_decoder(weights, self.shape.vq)
            if is_gpu:
                self.loops = GpuLoops(self.model, self.num_codes, free_gpu_memory())
                self.decode_pixels = gpu_decoder(self.vq, self.grid_size, GraphPool())
                # Captured now: a capture waits for the device, which later has the codes of the next batch ahead of it.
                self.decode_pixels(torch.zeros(1, self.num_codes, dtype=torch.long, device=self.torch_device))
            else:
                self.loops = CpuLoops(self.model, self.num_codes)
                self.decode_pixels = CpuDecoder(self.vq, self.grid_size)
            self.reasoner = None
            if protocol is not None:
                assert text_head_VC is not None
                self.reasoner = Reasoner(protocol, self.tokenizer, self.model.llama, text_head_VC, self.loops)
        self.default_batch_size = self.loops.images_per_batch(1 + any(map(is_guided, recipe.cfg_weights)))
        self._decode_stream = torch.cuda.Stream() if is_gpu else None
        self._uncond_states: dict[tuple[int, ...], PromptState] = {}

    def refusal(self, request: ImageRequest) -> str | None:
        """Why this request can never be rendered, or None."""
        return refusal_of_prompts(
            request,
            self.reasoner.num_tokens if self.reasoner else lambda text: len(self.tokenizer.cond_ids(text)),
            longest=self.loops.longest_prompt,
            num_image_tokens=self.num_codes,
        )

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        """One answer per request, in order."""
        return next(self.stream([requests])) if requests else []

    @torch.inference_mode()
    def stream(self, batches: Iterable[Sequence[ImageRequest]]) -> Iterator[list[RenderedImage | Rejection]]:
        """One list of answers per batch of requests, in order.

        On a GPU the images of a batch are decoded while the codes of the next one are chosen, and answered as soon as
        they are there. A batch that needs more rows than there are is rendered in parts.
        """
        unfinished: deque[Batch] = deque()
        last: Part | None = None
        for requests in batches:
            unfinished.append(batch := Batch(num_images=len(requests)))
            prompts = self._prompts_of(requests, batch)
            ready = list(prompts)
            for part in self.split([requests[i] for i in ready], [prompts[i] for i in ready]):
                images = [ready[index] for index in part]
                for tokens in self.choose_codes([requests[i] for i in images], [prompts[i] for i in images]):
                    if last and (tokens or last.is_done):
                        self._finish(last)
                        last = None
                        yield from take_finished(unfinished)
                assert tokens is not None
                last = self._decode(batch, images, tokens)
            if last and not self._decode_stream:
                self._finish(last)
                last = None
            yield from take_finished(unfinished)
        if last:
            self._finish(last)
        yield from take_finished(unfinished)

    def _prompts_of(self, requests: Sequence[ImageRequest], batch: Batch) -> dict[int, PromptIds]:
        """The prompt of each image of a batch, by index; one whose text cannot be used is answered at once."""
        if self.reasoner is None:
            return {index: self.tokenize(request) for index, request in enumerate(requests)}
        prompts = {}
        for index, (request, written) in enumerate(zip(requests, self.reasoner.write(requests), strict=True)):
            if isinstance(written, Rejection):
                batch.answers[index] = written
            else:
                prompts[index] = self.tokenize(request, written)
        return prompts

    @torch.inference_mode()
    def predict(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The inputs of guidance for the first code: conditional and unconditional logits, float32 [V] each."""
        cond = self.tokenizer.cond_ids(prompt)
        states = self.prefill([PromptIds(cond=cond, uncond=self._uncond_ids(len(cond), None))])
        logits = self.model.head(torch.stack([state.hidden_C for state in states])).float()
        return logits[0], logits[1]

    def probe_template(self, template: PromptTemplate, requests: Sequence[ImageRequest]) -> TemplateProbe:
        """How the model answers these requests under another template. Raises CheckpointError."""
        tokenizer = PromptTokenizer(self.tokenizer.folder, template, vocab_size=self.shape.llama.vocab_size)
        return probe_template(self, tokenizer, requests)

    def seconds_per_batch(self, request: ImageRequest) -> float:
        """Estimated seconds for a batch of images like this one, of the default size."""
        return seconds_per_batch(self, request, self.default_batch_size)

    def text_model(self) -> Llama | PackedLlama:
        """The language model, for `actors.understanding`."""
        return self.model.llama

    @torch.inference_mode()
    def is_decoder_finite(self) -> bool:
        """Whether the tables of codes, and one image of codes from all over the codebook, are finite."""
        tables = (self.model.code_embedding_VC, self.vq.quantize.embedding.weight)
        last_code = self.shape.vq.codebook_size - 1
        codes_1N = torch.linspace(0, last_code, self.num_codes, device=self.torch_device).long()[None]
        is_finite_1 = self.decode_pixels(codes_1N).is_finite_B
        return bool(is_finite_1.all()) and all(bool(table.isfinite().all()) for table in tables)

    def split(self, requests: Sequence[ImageRequest], prompts: Sequence[PromptIds]) -> list[list[int]]:
        """Group images into batches; returns their indices. The images of a batch have the same guidance interval."""
        images_of_interval: dict[tuple[float, float] | None, list[int]] = {}
        for image, request in enumerate(requests):
            images_of_interval.setdefault(request.cfg_interval, []).append(image)
        batches: list[list[int]] = []
        for images in images_of_interval.values():
            parts = self.loops.split([prompts[image].lengths for image in images])
            batches += [[images[index] for index in part] for part in parts]
        return batches

    def choose_codes(self, requests: Sequence[ImageRequest], prompts: Sequence[PromptIds]) -> Iterator[Tokens | None]:
        """One batch, from its prompts to its codes: None after each code but the last, and then the codes."""
        states = self.prefill(prompts)
        loop = self.loops.loop_for(len(requests), states)
        loop.choose.load(requests)
        codes = []
        for code_B in self.decode_tokens(loop, requests, states):
            codes.append(code_B)
            if len(codes) < self.num_codes:
                yield None
        codes_BN = torch.stack(codes, dim=1)[: len(requests)]
        is_finite_B = loop.choose.is_finite_B[: len(requests)].clone()
        yield Tokens(requests=requests, prompts=prompts, codes_BN=codes_BN, is_finite_B=is_finite_B)

    def tokenize(self, request: ImageRequest, written: Reasoning | None = None) -> PromptIds:
        """The ids of an image's prompt and, if it is guided, of its negative or the unconditional prompt."""
        cond = written.cond if written else self.tokenizer.cond_ids(request.prompt)
        text = written.text if written else None
        if not is_guided(request.cfg_weight):
            return PromptIds(cond=cond, uncond=None, reasoning=text)
        uncond = self._uncond_ids(len(cond), request.negative_prompt)
        return PromptIds(cond=cond, uncond=uncond, reasoning=text)

    def _uncond_ids(self, num_tokens: int, negative_prompt: str | None) -> list[int]:
        """The unconditional row next to a prompt of `num_tokens` ids."""
        text = self.tokenizer.negative_prompt(negative_prompt)
        return self.tokenizer.uncond_ids(num_tokens) if text is None else self.tokenizer.cond_ids(text)

    def prefill(self, prompts: Sequence[PromptIds]) -> list[PromptState]:
        """The state of every row: the images' prompts, then the uncond rows of guided images.

        Each distinct prompt is computed once, for all rows that share it. An unconditional prompt depends on its
        length alone and is kept for later batches.
        """
        ids_of_rows = [tuple(ids.cond) for ids in prompts]
        ids_of_rows += [tuple(ids.uncond) for ids in prompts if ids.uncond is not None]
        missing = [ids for ids in dict.fromkeys(ids_of_rows) if ids not in self._uncond_states]
        states = self._uncond_states | dict(zip(missing, self.model.llama.prefill(missing), strict=True))
        for ids in missing:
            if list(ids) == self.tokenizer.uncond_ids(len(ids)):
                self._uncond_states[ids] = states[ids]
        while sum(map(len, self._uncond_states)) > self.loops.num_kept_tokens:
            del self._uncond_states[next(iter(self._uncond_states))]
        return [states[ids] for ids in ids_of_rows]

    def decode_tokens(
        self, loop: DecodeLoop, requests: Sequence[ImageRequest], states: Sequence[PromptState]
    ) -> Iterator[torch.Tensor]:
        """The loop's codes [B], step by step, chosen by its sampler. All images have the same guidance interval."""
        cfg_weights = [request.cfg_weight for request in requests]
        guided = [b for b, weight in enumerate(cfg_weights) if is_guided(weight)]
        loop.load(states, [*range(len(requests)), *guided], cfg_weights)

        def is_guiding(step: int) -> bool:
            return bool(guided) and is_inside(requests[0].cfg_interval, step / self.num_codes)

        return loop.steps(self.num_codes, is_guiding)

    def _decode(self, batch: Batch, images: Sequence[int], tokens: Tokens) -> Part:
        """Decode a part of a batch; a GPU does it on a stream of its own, after the codes that were just enqueued."""
        if self._decode_stream:
            self._decode_stream.wait_stream(torch.cuda.current_stream())
            for tensor in (tokens.codes_BN, tokens.is_finite_B):
                tensor.record_stream(self._decode_stream)
        with on_stream(self._decode_stream):
            decoded = self.decode_pixels(tokens.codes_BN)
        done = self._decode_stream.record_event() if self._decode_stream else None
        return Part(batch=batch, images=images, tokens=tokens, decoded=decoded, done=done)

    def _finish(self, part: Part) -> None:
        """Wait for the images of a part."""
        with on_stream(self._decode_stream):  # copies too: the other stream has the next batch's codes ahead
            part.batch.answers.update(zip(part.images, read_answers(part.tokens, part.decoded), strict=True))
