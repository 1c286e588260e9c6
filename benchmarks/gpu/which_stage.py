"""In which stage of an engine an image's numbers depend on the others of a call: run where images were not the same.

Each stage gets the inputs that it has in one large call again in other calls: alone, in the reverse order, every other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.nn import functional as F

from actors.janus.engine import JanusEngine
from actors.janusflow.engine import JanusFlowEngine
from actors.request import ImageRequest
from benchmarks.gpu.row import Row

NUM_STEPS = 4  # of the decode loop

# the indices of some inputs -> their numbers [chosen, ...]
Compute = Callable[[list[int]], torch.Tensor]


def compare_stages(name: str, engine: JanusEngine | JanusFlowEngine, requests: Sequence[ImageRequest]) -> Iterator[Row]:
    """A row for each stage, with the inputs of these requests or random ones."""
    stages = _janus_stages if isinstance(engine, JanusEngine) else _flow_stages
    with torch.inference_mode():
        for stage, compute in stages(engine, requests):
            yield _compare(f"{name}: numbers of {stage}", compute, len(requests))


def _compare(name: str, compute: Compute, num: int) -> Row:
    everything = list(range(num))
    expected = compute(everything)
    num_same = num_compared = 0
    for chosen in (everything[:1], everything[-1:], everything[::-1], everything[1::2]):
        found = compute(chosen)
        num_same += sum(torch.equal(found[n], expected[index]) for n, index in enumerate(chosen))
        num_compared += len(chosen)
    return Row(name=name, value=num_same, unit=f"of {num_compared}", is_ok=num_same == num_compared)


def _janus_stages(engine: JanusEngine, requests: Sequence[ImageRequest]) -> Iterator[tuple[str, Compute]]:
    rows = [engine.tokenizer.cond_ids(request.prompt) for request in requests]
    codes_BN = _random_codes(engine, len(rows))
    yield "prompts", lambda chosen: _last_keys(engine.model.llama.prefill([rows[i] for i in chosen]))
    states = engine.model.llama.prefill(rows)

    def run_steps(chosen: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits of the last step and the hidden states behind it, of rows that are not guided."""
        logits: list[torch.Tensor] = []

        def choose(step: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
            logits.append(logits_BV[: len(chosen)].clone())
            codes_B = codes_BN[chosen].index_select(1, step.view(1))[:, 0]
            return F.pad(codes_B, (0, len(logits_BV) - len(chosen)))

        loop = engine.loops.loop_for(len(chosen), [states[i] for i in chosen], choose)
        loop.load([states[i] for i in chosen], range(len(chosen)), [1.0] * len(chosen))
        loop.run(NUM_STEPS, lambda step: False)
        return logits[-1], loop.hidden_RC[: len(chosen)].clone()

    yield "hidden states", lambda chosen: run_steps(chosen)[1]
    yield "logits", lambda chosen: run_steps(chosen)[0]
    yield "images", lambda chosen: engine.decode_pixels(codes_BN[chosen]).pixels


def _flow_stages(engine: JanusFlowEngine, requests: Sequence[ImageRequest]) -> Iterator[tuple[str, Compute]]:
    rows = [engine.tokenizer.flow_cond_ids(request.prompt) for request in requests]
    z_BCHW, t_B = engine.latent_noise(requests), torch.full((len(rows),), 0.5, dtype=torch.float64)
    yield "prompts", lambda chosen: _last_keys(engine.network.read_prompts([rows[i] for i in chosen]))
    states = engine.network.read_prompts(rows)
    yield (
        "velocities",
        lambda chosen: engine.network_velocity(z_BCHW[chosen], t_B[chosen], [states[i] for i in chosen]),
    )
    yield "images", lambda chosen: engine.decode_latents(z_BCHW[chosen]).pixels


def _last_keys(states: Sequence) -> torch.Tensor:
    """The last layer's keys of each prompt's last token: the end of all that is computed of it."""
    keys = [state.kv[-1, 0] if hasattr(state, "kv") else state.keys[-1] for state in states]
    return torch.stack([keys_KTD[:, -1] for keys_KTD in keys])


def _random_codes(engine: JanusEngine, num_images: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(0)
    size = (num_images, engine.num_codes)
    return torch.randint(engine.shape.vq.codebook_size, size, generator=chance).to(engine.torch_device)
