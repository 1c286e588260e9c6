"""Trains the flow model of janusflow-shapes on the latents of `train_vae`, and writes the checkpoint.

Rectified flow, https://arxiv.org/abs/2209.03003: z_t = (1 - t) noise + t latent; the model learns the velocity
latent - noise. Run from the project's root, after `train_vae`: `python -m examples.shapes.train_janusflow`.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from actors.janusflow.config import read_shape
from actors.janusflow.uvit import UViTDecoder, UViTEncoder
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
from examples.shapes.train_vae import IMAGE_SIZE
from examples.shapes.train_vae import OUTPUT as VAE_FOLDER
from examples.shapes.world import Scene, describe, forget_words, training_scenes

OUTPUT = CHECKPOINTS / "janusflow-shapes"
HIDDEN, FFN, LAYERS, HEADS = 192, 512, 4, 6
CHANNELS, ENCODER_BLOCKS, DECODER_BLOCKS = 96, 1, 2
LATENT_CHANNELS, GRID = 4, IMAGE_SIZE // 16  # GRID x GRID image tokens, each of 2x2 latent positions
NUM_IMAGES = 24_000
BATCH = 32
UNCONDITIONAL = 0.1  # share of prompts that are replaced by the unconditional form, for guidance

# B rows, S text tokens, T image tokens, D hidden size; latents are [B, C, H, W]


class JanusFlowShapes(nn.Module):
    """The trained part of the checkpoint, with parameter names of the original layout."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        shape = read_shape(checkpoint_config(num_tokens))
        self.language_model = nn.ModuleDict({"model": LlamaModel(llama_config(num_tokens))})
        self.vision_gen_enc_model = UViTEncoder(shape)
        self.vision_gen_enc_aligner = nn.Linear(CHANNELS, HIDDEN)
        self.vision_gen_dec_aligner_norm = LlamaRMSNorm(HIDDEN, 1e-6)
        self.vision_gen_dec_aligner = nn.Linear(HIDDEN, CHANNELS)
        self.vision_gen_dec_model = UViTDecoder(shape)

    def forward(
        self, ids_BS: torch.Tensor, mask_BS: torch.Tensor, z_BCHW: torch.Tensor, t_B: torch.Tensor
    ) -> torch.Tensor:
        """The velocity [B, C, H, W] at time `t_B` in [0, 1]. Text tokens with `mask_BS` 0 are not attended to."""
        llama = self.language_model["model"]
        map_BCHW, time_BD = self.vision_gen_enc_model(z_BCHW, t_B * 1000)
        image_BTD = self.vision_gen_enc_aligner(map_BCHW.flatten(2).transpose(1, 2))
        inputs = torch.cat([llama.embed_tokens(ids_BS), time_BD[:, None], image_BTD], dim=1)
        mask = torch.cat([mask_BS, mask_BS.new_ones(len(mask_BS), 1 + GRID * GRID)], dim=1)
        positions = torch.arange(inputs.shape[1], device=inputs.device)[None]  # masked tokens have positions, too
        hidden = llama(inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False)
        hidden_BTD = self.vision_gen_dec_aligner_norm(hidden.last_hidden_state[:, -GRID * GRID :])
        x_BCHW = self.vision_gen_dec_aligner(hidden_BTD).transpose(1, 2).unflatten(2, (GRID, GRID))
        return self.vision_gen_dec_model(x_BCHW, map_BCHW, time_BD)


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], steps=6000, output=OUTPUT)
    tokenizer = build_tokenizer()
    model = JanusFlowShapes(vocab_size(tokenizer)).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=0.02)
    if arguments.resume:
        saved = load_file(arguments.output / "model.safetensors")
        model.load_state_dict({name: value.float() for name, value in saved.items()})
    save(arguments.output, tokenizer, model)
    prompts = PromptTokenizer(arguments.output, "janus")
    batches = example_batches(prompts, *encoded_images(arguments.seed), arguments.seed)
    losses = []
    for step, progress in training_steps(arguments):
        set_learning_rate(optimizer, 8e-4 if arguments.resume else 1.5e-3, step, progress)
        losses.append(train_step(model, optimizer, *next(batches)))
        if step % 50 == 0:
            print(f"step {step} ({progress:.0%}) loss {sum(losses[-50:]) / len(losses[-50:]):.4f}", flush=True)
        if step % 500 == 499:
            save(arguments.output, tokenizer, model)
    save(arguments.output, tokenizer, model)


def train_step(
    model: JanusFlowShapes,
    optimizer: torch.optim.Optimizer,
    ids_BS: torch.Tensor,
    mask_BS: torch.Tensor,
    latents_BCHW: torch.Tensor,
) -> float:
    noise_BCHW = torch.randn_like(latents_BCHW)
    t_B = torch.sigmoid(torch.randn(len(latents_BCHW), device=latents_BCHW.device))  # mostly around 0.5
    t_B111 = t_B[:, None, None, None]
    with mixed_precision():
        velocity_BCHW = model(ids_BS, mask_BS, (1 - t_B111) * noise_BCHW + t_B111 * latents_BCHW, t_B)
    loss = (velocity_BCHW.float() - (latents_BCHW - noise_BCHW)).square().mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def encoded_images(seed: int) -> tuple[list[Scene], torch.Tensor]:
    """NUM_IMAGES training scenes and their latents, scaled to unit variance."""
    vae = AutoencoderKL.from_pretrained(VAE_FOLDER, low_cpu_mem_usage=False).to(device())
    rng = random.Random(f"latents {seed}")
    scenes = list(itertools.islice(training_scenes(seed + 200), NUM_IMAGES))
    latents = []
    for start in range(0, NUM_IMAGES, BATCH):
        with mixed_precision():
            posterior = vae.encode(draw_batch(scenes[start : start + BATCH], rng, IMAGE_SIZE)).latent_dist
        latents.append(posterior.mean.float() * vae.config.scaling_factor)
    print(f"{NUM_IMAGES} images encoded, standard deviation {torch.cat(latents).std():.3f}", flush=True)
    return scenes, torch.cat(latents)


def example_batches(
    prompts: PromptTokenizer, scenes: list[Scene], latents_NCHW: torch.Tensor, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless (ids [B, S], mask [B, S], latents). Prompts of a batch have the same length, so there is no padding."""
    rng = random.Random(f"examples {seed}")
    waiting = defaultdict(list)  # prompt length -> (ids, mask, index of the latent)
    while True:
        index = rng.randrange(len(scenes))
        ids = prompts.flow_cond_ids(describe(forget_words(scenes[index], rng)))
        mask = [1] * len(ids)
        if rng.random() < UNCONDITIONAL:
            ids, mask = [prompts.bos_id] + [prompts.pad_id] * (len(ids) - 1), [1] + [0] * (len(ids) - 1)
        waiting[len(ids)].append((ids, mask, index))
        if len(waiting[len(ids)]) == BATCH:
            rows, masks, chosen = zip(*waiting.pop(len(ids)), strict=True)
            yield torch.tensor(rows, device=device()), torch.tensor(masks, device=device()), latents_NCHW[list(chosen)]


def save(folder, tokenizer: Tokenizer, model: JanusFlowShapes) -> None:
    config = checkpoint_config(vocab_size(tokenizer))
    save_folder(folder, tokenizer, config, GRID * GRID, IMAGE_SIZE, model.state_dict())


def checkpoint_config(num_tokens: int) -> dict:
    """config.json in the original layout."""
    return {
        "architectures": ["MultiModalityCausalLM"],
        "language_config": llama_config(num_tokens).to_diff_dict() | {"torch_dtype": "bfloat16"},
        "model_type": "multi_modality",
        "torch_dtype": "bfloat16",
        "vision_gen_dec_config": {
            "cls": "ShallowUViTDecoder", "model_type": "vision_gen_dec", "params": DECODER_PARAMS,
        },
        "vision_gen_enc_config": {
            "cls": "ShallowUViTEncoder", "model_type": "vision_gen_enc", "params": ENCODER_PARAMS,
        },
        "vision_und_enc_config": {
            "cls": "CLIPVisionTower", "model_type": "vision_und_enc", "params": vision_tower(IMAGE_SIZE),
        },
    }  # fmt: skip


_SHARED_PARAMS = {"block_out_channels": [CHANNELS], "hidden_size": HIDDEN, "norm_eps": 1e-6, "use_bias": True}
_SHARED_PARAMS |= {"use_mid_block": True, "elementwise_affine": True}
ENCODER_PARAMS = _SHARED_PARAMS | {
    "input_channels": LATENT_CHANNELS,
    "kernel_size": 2,
    "stride": 2,
    "padding": 0,
    "layers_in_middle": ENCODER_BLOCKS,
}
DECODER_PARAMS = _SHARED_PARAMS | {
    "in_channels": CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "upsamples": 1,
    "layers_in_middle": DECODER_BLOCKS,
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
