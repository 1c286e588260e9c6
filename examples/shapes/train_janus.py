"""Trains the language model of janus-shapes on the codes of `train_vq`, and writes the checkpoint.

Examples are drawn during training; each is used once. Run from the project's root, after `train_vq`:
`python -m examples.shapes.train_janus`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaModel

from actors.guidance import guide
from actors.prompt.tokenizer import PromptTokenizer
from examples.shapes.folder import build_tokenizer, save_folder, vision_tower, vocab_size
from examples.shapes.images import draw_batch
from examples.shapes.schedule import (
    CHECKPOINTS,
    device,
    mixed_precision,
    parse_arguments,
    set_learning_rate,
    training_steps,
)
from examples.shapes.tokenizing import CODE_DIM, first_embedding, to_codes
from examples.shapes.train_vq import CH_MULT, CHANNELS, IMAGE_SIZE, NUM_CODES, Z_CHANNELS
from examples.shapes.train_vq import OUTPUT as CODE_MODEL
from examples.shapes.world import describe, forget_words, training_scenes

OUTPUT = CHECKPOINTS / "janus-shapes"
HIDDEN, FFN, LAYERS, HEADS = 192, 512, 4, 6
BATCH = 32
UNCONDITIONAL = 0.1  # share of prompts that are replaced by the unconditional form, for guidance
# The last part of training uses each image with and without its prompt, and adds a loss on the guided logits at weights
# from this range. Guidance multiplies the difference of two logits. Many codes never occur at a given position, and for
# some of them this difference is large by chance. Without the extra loss, weights of 3 and more break images up.
GUIDED_FROM, GUIDED_SHARE, GUIDED_WEIGHTS = 0.6, 0.5, (1.0, 8.0)
# For the same reason, log-probabilities have a floor.
FLOOR, FLOOR_WEIGHT = -16.0, 2e-3

# B rows, S text tokens, T codes, V codebook entries, D hidden size


class JanusShapes(nn.Module):
    """The trained part of the checkpoint, with parameter names of the original layout."""

    def __init__(self, num_tokens: int, embedding_VC: torch.Tensor) -> None:
        super().__init__()
        self.language_model = nn.ModuleDict({"model": LlamaModel(llama_config(num_tokens))})
        self.gen_embed = nn.Embedding(NUM_CODES, CODE_DIM, _weight=embedding_VC.clone())
        self.gen_aligner = nn.ModuleDict(
            {"layers": nn.Sequential(nn.Linear(CODE_DIM, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN))}
        )
        self.gen_head = nn.ModuleDict(
            {"output_mlp_projector": nn.Linear(HIDDEN, HIDDEN), "vision_head": nn.Linear(HIDDEN, NUM_CODES)}
        )

    def forward(self, ids_BS: torch.Tensor, codes_BT: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] of each code, given the text and the codes before it."""
        llama = self.language_model["model"]
        codes_BTD = self.gen_aligner["layers"](self.gen_embed(codes_BT[:, :-1]))
        inputs = torch.cat([llama.embed_tokens(ids_BS), codes_BTD], dim=1)
        hidden = llama(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, ids_BS.shape[1] - 1 :]
        return self.gen_head["vision_head"](F.gelu(self.gen_head["output_mlp_projector"](hidden)))


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], steps=4000, output=OUTPUT)
    code_model = torch.load(CODE_MODEL, weights_only=True)
    tokenizer = build_tokenizer()
    model = JanusShapes(vocab_size(tokenizer), first_embedding(code_model["patches"])).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=0.02)
    if arguments.resume:
        saved = load_file(arguments.output / "model.safetensors")
        model.load_state_dict({name: saved[name].float() for name in model.state_dict()})
    save(arguments.output, tokenizer, model, code_model)
    batches = example_batches(PromptTokenizer(arguments.output, "janus-pro"), code_model, arguments.seed)
    losses = []
    for step, progress in training_steps(arguments):
        set_learning_rate(optimizer, 7e-4 if arguments.resume else 1.5e-3, step, progress)
        is_guided = arguments.resume or progress >= GUIDED_FROM
        losses.append(train_step(model, optimizer, *next(batches), is_guided=is_guided))
        if step % 50 == 0:
            print(f"step {step} ({progress:.0%}) loss {sum(losses[-50:]) / len(losses[-50:]):.4f} per code", flush=True)
        if step % 500 == 499:
            save(arguments.output, tokenizer, model, code_model)
    save(arguments.output, tokenizer, model, code_model)


def train_step(
    model: JanusShapes,
    optimizer: torch.optim.Optimizer,
    ids_BS: torch.Tensor,
    uncond_ids_BS: torch.Tensor,
    codes_BT: torch.Tensor,
    *,
    is_guided: bool,
) -> float:
    """Take one step; return the loss per code."""
    loss, cond_loss = rendering_loss(model, ids_BS, uncond_ids_BS, codes_BT, is_guided=is_guided)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return cond_loss.item()


def rendering_loss(
    model: JanusShapes,
    ids_BS: torch.Tensor,
    uncond_ids_BS: torch.Tensor,
    codes_BT: torch.Tensor,
    *,
    is_guided: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a batch, and the loss per code in it; if it is guided, of the rows with their prompt only."""
    if is_guided:  # the same number of rows: half of the images, twice
        half = len(codes_BT) // 2
        ids_BS, codes_BT = torch.cat([ids_BS[:half], uncond_ids_BS[:half]]), codes_BT[:half].repeat(2, 1)
    else:
        is_uncond_B1 = torch.rand(len(ids_BS), 1, device=ids_BS.device) < UNCONDITIONAL
        ids_BS = torch.where(is_uncond_B1, uncond_ids_BS, ids_BS)
    with mixed_precision():
        logits_BTV = model(ids_BS, codes_BT)
    logprobs_BTV = logits_BTV.float().log_softmax(dim=-1)
    loss = cond_loss = F.nll_loss(logprobs_BTV.flatten(0, 1), codes_BT.flatten())
    if is_guided:
        loss, cond_loss = guided_loss(logprobs_BTV, codes_BT[:half])
    below_floor = F.relu(FLOOR - logprobs_BTV).square().mean()
    return loss + FLOOR_WEIGHT * below_floor, cond_loss


def guided_loss(logprobs_BTV: torch.Tensor, codes_PT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of P images, and its conditional part. Rows with the prompt come first, then rows without it."""
    cond_PTV, uncond_PTV = logprobs_BTV.chunk(2)
    low, high = GUIDED_WEIGHTS
    weight_P = low + (high - low) * torch.rand(len(codes_PT), device=codes_PT.device)
    cond, uncond, guided = (
        F.cross_entropy(logits_PTV.flatten(0, 1), codes_PT.flatten())
        for logits_PTV in (cond_PTV, uncond_PTV, guide(cond_PTV, uncond_PTV, weight_P))
    )
    return cond + UNCONDITIONAL * uncond + GUIDED_SHARE * guided, cond


@torch.no_grad()
def example_batches(
    prompts: PromptTokenizer, code_model: dict, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless (ids [B, S], unconditional ids [B, S], codes [B, T]).

    Prompts of a batch have the same length, so there is no padding, as when a prompt is rendered alone.
    """
    patches_VP = code_model["patches"].to(device())
    rng = random.Random(f"examples {seed}")
    waiting = defaultdict(list)  # prompt length -> (ids, scene)
    for scene in training_scenes(seed + 100):
        ids = prompts.cond_ids(describe(forget_words(scene, rng)))
        waiting[len(ids)].append((ids, scene))
        if len(waiting[len(ids)]) == BATCH:
            rows, scenes = zip(*waiting.pop(len(ids)), strict=True)
            uncond_ids_BS = torch.tensor([prompts.uncond_ids(len(ids))] * BATCH, device=device())
            codes_BT = to_codes(draw_batch(scenes, rng, IMAGE_SIZE), patches_VP)
            yield torch.tensor(rows, device=device()), uncond_ids_BS, codes_BT


def save(folder: Path, tokenizer: Tokenizer, model: JanusShapes, code_model: dict) -> None:
    weights = dict(model.state_dict())
    weights |= {f"gen_vision_model.{name}": value for name, value in code_model["decoder"].items()}
    num_codes = 8 * 8
    save_folder(folder, tokenizer, checkpoint_config(vocab_size(tokenizer)), num_codes, IMAGE_SIZE, weights)


def checkpoint_config(num_tokens: int) -> dict:
    """config.json in the original layout."""

    def part(model_type: str, cls: str, **params: object) -> dict:
        return {"cls": cls, "model_type": model_type, "params": params}

    projector = {"depth": 2, "n_embed": HIDDEN, "projector_type": "mlp_gelu"}
    code_model = {"ch": CHANNELS, "z_channels": Z_CHANNELS, "encoder_ch_mult": CH_MULT, "decoder_ch_mult": CH_MULT}
    return {
        "aligner_config": part("aligner", "MlpProjector", input_dim=32, **projector),
        "architectures": ["MultiModalityCausalLM"],
        "gen_aligner_config": part("gen_aligner", "MlpProjector", input_dim=CODE_DIM, **projector),
        "gen_head_config": part(
            "gen_head", "vision_head", image_token_embed=HIDDEN, image_token_size=NUM_CODES, n_embed=HIDDEN
        ),
        "gen_vision_config": part("gen_vision", "VQ-16", image_token_size=NUM_CODES, n_embed=CODE_DIM, **code_model),
        "language_config": llama_config(num_tokens).to_diff_dict() | {"torch_dtype": "bfloat16"},
        "model_type": "multi_modality",
        "torch_dtype": "bfloat16",
        "vision_config": part("vision", "CLIPVisionTower", **vision_tower(IMAGE_SIZE)),
    }


def llama_config(num_tokens: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=num_tokens,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        attn_implementation="eager",  # on a CPU the fused kernel's backward pass is slower
    )


if __name__ == "__main__":
    main()
