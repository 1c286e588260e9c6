"""The JanusFlow engine: rectified flow from noise to a latent, steered by the language model, then the VAE.

Reads downwards in the order of the data: embed_prompts, latent_noise, integrate, decode_latents. Rows of a batch may
differ in prompt, negative prompt, seed, weight and number of steps.

An image has the same bytes in any batch. A prompt's numbers do not depend on other prompts, attention keeps rows apart,
and layers over one vector per row run in calls of a fixed size (`layers.VectorLinear`). Images are decoded two per call
on a CPU, where a single image would use other kernels, and one per call on a GPU. The rest are matrix products and
convolutions over all positions of all rows. On CPUs a row's bits are then the same for 1 to 16 rows and 1 to 16 threads
(measured with torch 2.13 in float32 and bfloat16). On a GPU they depend on the number of rows, so every call of the
network has ROWS_PER_CALL of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from actors.checkpoint.open import Checkpoint
from actors.device import find_device, on_stream, send, timed, to_compute_dtype
from actors.guidance import guide, is_guided, is_inside
from actors.janusflow.batching import IMAGES_PER_BATCH, call_in_parts
from actors.janusflow.decoder import VAE, check_vae_dtype, gpu_decoder
from actors.janusflow.network import PromptState, build_network, read_weights
from actors.janusflow.packed import PackedPrompt
from actors.janusflow.sampler import DEFAULT_SOLVER, SOLVERS, TimeGrid, Velocity, demo_grid, even_grid, solve
from actors.kernels.cuda_graph import GraphPool
from actors.kernels.image_decoder import Pixels
from actors.llama.model import Llama
from actors.llama.packed import PackedLlama
from actors.noise import normal_noise
from actors.prompt.tokenizer import PromptTokenizer
from actors.recipe import Recipe
from actors.request import ImageRequest, Rejection, RenderedImage, refusal_of_prompts

# B images, R rows of the network (an image has one, or two while it is guided), C x H x W latents.


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImagePrompts:
    """The prompts of an image's rows. `uncond` is None for an image that is not guided."""

    cond: PromptState | PackedPrompt
    uncond: PromptState | PackedPrompt | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Batch:
    """A batch that is rendered; on a GPU all its work is enqueued and may not have begun."""

    requests: Sequence[ImageRequest]
    z_BCHW: torch.Tensor
    is_finite_B: torch.Tensor
    decoded: Pixels


class JanusFlowEngine:
    """Renders requests with one fetched JanusFlow checkpoint and its VAE.

    `latent_size` overrides the checkpoint's own (48 for the published one). `weights` are its tensors if the caller
    already has them. Raises CheckpointError, and InputError for a dtype that the VAE cannot decode in.
    """

    def __init__(
        self,
        recipe: Recipe,
        checkpoint: Checkpoint,
        vae: Checkpoint,
        *,
        latent_size: int | None = None,
        weights: dict[str, torch.Tensor] | None = None,
    ) -> None:
        dtype = getattr(torch, recipe.dtype)
        check_vae_dtype(dtype)
        self.torch_device, self.device = find_device()
        self.default_batch_size = IMAGES_PER_BATCH[self.torch_device.type]
        self.fills_up_calls = self.torch_device.type == "cuda"
        self.shape = checkpoint.shape
        self.latent_size = latent_size or self.shape.latent_size
        self.tokenizer = PromptTokenizer(checkpoint.path, checkpoint.template, vocab_size=self.shape.llama.vocab_size)
        if weights is None:
            weights = read_weights(checkpoint, dtype=dtype, device=self.torch_device)
        is_gpu = self.torch_device.type == "cuda"
        # Attention in float32 runs row by row, in shapes that a graph would fix.
        graphs = GraphPool() if is_gpu and dtype != torch.float32 else None
        self.network = build_network(
            to_compute_dtype(weights), self.shape, self.latent_size, is_packed=is_gpu, graphs=graphs
        )
        self.vae = VAE(vae, dtype=dtype, device=self.torch_device)
        self.image_decoder = gpu_decoder(self.vae, self._latent_shape, GraphPool()) if is_gpu else None
        self._decode_stream = torch.cuda.Stream() if is_gpu else None
        if is_gpu:
            # Captured now: a capture waits for the device, which later has a batch ahead of it.
            self.decode_latents(torch.zeros(1, *self._latent_shape, device=self.torch_device))
        (self.bos_state,) = self.network.read_prompts([[self.tokenizer.bos_id]])

    def refusal(self, request: ImageRequest) -> str | None:
        """Why this request can never be rendered, or None."""
        if request.num_inference_steps is None or request.num_inference_steps < 1:
            return f"num_inference_steps must be at least 1, got {request.num_inference_steps}"
        if request.match_reference_demo and request.solver not in (None, DEFAULT_SOLVER):
            return f"match_reference_demo needs the demo's solver, {DEFAULT_SOLVER}; got {request.solver}"
        return refusal_of_prompts(
            request,
            lambda text: len(self.tokenizer.flow_cond_ids(text)),
            longest=self.shape.llama.context_length - self.network.num_tokens,
            num_image_tokens=self.network.num_tokens,
        )

    def render(self, requests: Sequence[ImageRequest]) -> list[RenderedImage | Rejection]:
        """One answer per request, in order."""
        return next(self.stream([requests])) if requests else []

    @torch.inference_mode()
    def stream(self, batches: Iterable[Sequence[ImageRequest]]) -> Iterator[list[RenderedImage | Rejection]]:
        """One list of answers per batch of requests, in order.

        On a GPU the images of a batch are decoded while the latents of the next one are integrated.
        """
        last: _Batch | None = None
        for requests in batches:
            batch = self._render(requests)
            if last is not None:
                yield self._answers(last)
            last = batch
            if not self._decode_stream:
                last = None
                yield self._answers(batch)
        if last is not None:
            yield self._answers(last)

    @torch.inference_mode()
    def predict(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What guidance begins with: conditional and unconditional velocity at t = 0, float32 [C, H, W] each."""
        (cond,) = self.network.read_prompts([self.tokenizer.flow_cond_ids(prompt)])
        uncond, text = self._uncond_state(cond), self.tokenizer.negative_prompt(None)
        if text is not None:
            (uncond,) = self.network.read_prompts([self.tokenizer.flow_cond_ids(text)])
        z_RCHW = torch.from_numpy(normal_noise(0, self._latent_shape)).expand(2, *self._latent_shape)
        v_RCHW = self.network_velocity(z_RCHW, torch.zeros(2, dtype=torch.float64), [cond, uncond])
        return v_RCHW[0], v_RCHW[1]

    @torch.inference_mode()
    def text_model(self) -> Llama | PackedLlama:
        """The language model, for `actors.understanding`; on a CPU a copy, with matrices packed as that needs them."""
        if self.network.packed:
            return self.network.packed.llama
        tensors = self.network.language_model.state_dict()
        return Llama({f"language_model.{name}": tensor for name, tensor in tensors.items()}, self.shape.llama)

    @torch.inference_mode()
    def is_decoder_finite(self) -> bool:
        """Whether the VAE decodes one latent of noise to finite numbers."""
        z_1CHW = torch.from_numpy(normal_noise(0, self._latent_shape))[None].to(self.torch_device)
        return bool(self.decode_latents(z_1CHW).is_finite_B.all())

    @torch.inference_mode()
    def seconds_per_batch(self, request: ImageRequest) -> float:
        """Estimated seconds for a batch of images like this one, of the default size, from one step and one decode."""
        requests = [dataclasses.replace(request, seed=seed) for seed in range(self.default_batch_size)]
        prompts, z_BCHW = self.embed_prompts(requests), self.latent_noise(requests)
        velocity, t_B = self.guided_velocity(requests, prompts), torch.zeros(len(requests), dtype=torch.float64)
        velocity(z_BCHW, t_B)
        _, step = timed(self.torch_device, lambda: velocity(z_BCHW, t_B))
        self.decode_latents(z_BCHW[:1])
        _, decode = timed(self.torch_device, lambda: self.decode_latents(z_BCHW[:1]))
        assert request.num_inference_steps is not None
        return step * request.num_inference_steps + decode * len(requests)

    def _render(self, requests: Sequence[ImageRequest]) -> _Batch:
        """One batch, from its prompts to its images; a GPU decodes those on a stream of its own."""
        z_BCHW = self.integrate(self.latent_noise(requests), requests, self.embed_prompts(requests))
        if self._decode_stream:
            self._decode_stream.wait_stream(torch.cuda.current_stream())
            z_BCHW.record_stream(self._decode_stream)
        with on_stream(self._decode_stream):
            is_finite_B, decoded = z_BCHW.isfinite().flatten(1).all(1), self.decode_latents(z_BCHW)
        return _Batch(requests=requests, z_BCHW=z_BCHW, is_finite_B=is_finite_B, decoded=decoded)

    def _answers(self, batch: _Batch) -> list[RenderedImage | Rejection]:
        """Wait for the images of a batch."""
        with on_stream(self._decode_stream):  # copies too: the other stream has the next batch ahead
            z_BCHW, pixels = batch.z_BCHW.cpu().numpy(), batch.decoded.pixels.cpu().numpy()
            are_latents_finite, are_pixels_finite = batch.is_finite_B.tolist(), batch.decoded.is_finite_B.tolist()
        answers: list[RenderedImage | Rejection] = []
        for b, request in enumerate(batch.requests):
            if are_latents_finite[b] and are_pixels_finite[b]:
                answers.append(RenderedImage(image_id=request.image_id, pixels=pixels[b], latents=z_BCHW[b]))
                continue
            reason = "the image decoder's numbers became NaN or infinite"
            if not are_latents_finite[b]:
                reason = "the latents became NaN or infinite while integrating"
            answers.append(Rejection(image_id=request.image_id, reason=reason))
        return answers

    def embed_prompts(self, requests: Sequence[ImageRequest]) -> list[ImagePrompts]:
        """Keys and values of every distinct prompt, computed once.

        Without a negative prompt the unconditional row is the reference's, unless the template says otherwise: bos and
        masked pads. Masked pads still count as positions, so the row keeps only bos and its time token has the position
        of the conditional row's. A negative prompt is treated like a prompt: in the template, with its own length, and
        attended to.
        """
        negative_of = {request: self.tokenizer.negative_prompt(request.negative_prompt) for request in requests}
        texts = [request.prompt for request in requests]
        texts += [text for request, text in negative_of.items() if is_guided(request.cfg_weight) and text is not None]
        distinct = list(dict.fromkeys(texts))
        ids_of_texts = [self.tokenizer.flow_cond_ids(text) for text in distinct]
        states = dict(zip(distinct, self.network.read_prompts(ids_of_texts), strict=True))

        def uncond(request: ImageRequest) -> PromptState | PackedPrompt | None:
            if not is_guided(request.cfg_weight):
                return None
            negative = negative_of[request]
            return self._uncond_state(states[request.prompt]) if negative is None else states[negative]

        return [ImagePrompts(cond=states[request.prompt], uncond=uncond(request)) for request in requests]

    def latent_noise(self, requests: Sequence[ImageRequest]) -> torch.Tensor:
        """The latents that the images start from, float32 [B, C, H, W], each from its own seed."""
        noise = np.stack([normal_noise(request.seed, self._latent_shape) for request in requests])
        return send(torch.from_numpy(noise), self.torch_device)

    def integrate(
        self, z_BCHW: torch.Tensor, requests: Sequence[ImageRequest], prompts: Sequence[ImagePrompts]
    ) -> torch.Tensor:
        """Integrate each latent from t = 0 to t = 1 with its image's solver and number of steps, in float32."""
        z_BCHW = send(z_BCHW, self.torch_device)
        end_BCHW = torch.empty_like(z_BCHW)
        for solver in dict.fromkeys(request.solver for request in requests):
            images = [image for image, request in enumerate(requests) if request.solver == solver]

            def velocity_of(rows: list[int], images: list[int] = images) -> Velocity:
                chosen = [images[row] for row in rows]
                return self.guided_velocity([requests[i] for i in chosen], [prompts[i] for i in chosen])

            grids, index = [_time_grid(requests[image]) for image in images], _index(images, z_BCHW.device)
            end_BCHW[index] = solve(velocity_of, z_BCHW[index], grids, SOLVERS[solver or DEFAULT_SOLVER])
        return end_BCHW

    def decode_latents(self, z_BCHW: torch.Tensor) -> Pixels:
        """Pixels [B, 8 * H, 8 * W, 3]."""
        return self.image_decoder(z_BCHW) if self.image_decoder else self.vae.decode(z_BCHW)

    def guided_velocity(self, requests: Sequence[ImageRequest], prompts: Sequence[ImagePrompts]) -> Velocity:
        """`(z, t) -> velocity` of these images, with guidance: the only function that a solver calls."""

        def velocity(z_BCHW: torch.Tensor, t_B: torch.Tensor) -> torch.Tensor:
            guided = [
                b
                for b, t in enumerate(t_B.tolist())
                if is_guided(requests[b].cfg_weight) and is_inside(requests[b].cfg_interval, t)
            ]
            rows = [*range(len(requests)), *guided]
            states = [image.cond for image in prompts] + [prompts[b].uncond for b in guided]
            v_RCHW = self.network_velocity(z_BCHW[_index(rows, z_BCHW.device)], t_B[rows], states)
            v_BCHW, v_uncond = v_RCHW[: len(requests)], v_RCHW[len(requests) :]
            if guided:
                index = _index(guided, v_BCHW.device)
                cfg_weight = torch.tensor([requests[b].cfg_weight for b in guided], dtype=torch.float32)
                v_BCHW[index] = guide(v_BCHW[index], v_uncond, send(cfg_weight, v_BCHW.device))
            return v_BCHW

        return velocity

    def network_velocity(
        self, z_RCHW: torch.Tensor, t_R: torch.Tensor, states: Sequence[PromptState] | Sequence[PackedPrompt]
    ) -> torch.Tensor:
        """The network's velocity of any number of rows."""

        def velocity(rows: list[int]) -> torch.Tensor:
            z_BCHW = z_RCHW[_index(rows, z_RCHW.device)]
            return self.network(z_BCHW, t_R[rows], [states[row] for row in rows])

        return call_in_parts(velocity, len(states), is_filled_up=self.fills_up_calls)

    @property
    def _latent_shape(self) -> tuple[int, int, int]:
        return (self.shape.latent_channels, self.latent_size, self.latent_size)

    def _uncond_state(self, cond: PromptState | PackedPrompt) -> PromptState | PackedPrompt:
        """The reference's unconditional row for the prompt `cond`, see `embed_prompts`."""
        return dataclasses.replace(self.bos_state, next_position=cond.next_position)


def _index(rows: Sequence[int], device: torch.device) -> torch.Tensor:
    return send(torch.tensor(rows, dtype=torch.long), device)


def _time_grid(request: ImageRequest) -> TimeGrid:
    grid = demo_grid if request.match_reference_demo else even_grid
    return grid(request.num_inference_steps)
