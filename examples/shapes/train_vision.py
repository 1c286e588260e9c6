"""Teaches janus-shapes to look: trains a vision tower, and the text model to answer questions and to caption.

The first steps train the tower alone: it names the thing that covers each patch. The text model also renders, so every
later step trains that too, on drawings, as the guided part of `train_janus` does. A quarter of the images to look at
are the model's own: some are wrong, and the pixel rules say which. Run from the project's root, after `train_janus`:
`python -m examples.shapes.train_vision`.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from actors.prompt.template import TOKENS
from actors.prompt.tokenizer import PromptTokenizer
from actors.understanding.config import read_vision_shape
from actors.understanding.prompt import QuestionTokenizer
from actors.understanding.vision import VisionEncoder
from examples.shapes.evaluate import load, render
from examples.shapes.folder import build_tokenizer, save_folder, vocab_size
from examples.shapes.lessons import COVERS, IGNORED, Lesson, Picture, Teacher, is_right, picture_of
from examples.shapes.schedule import device, mixed_precision, parse_arguments, set_learning_rate, training_steps
from examples.shapes.tokenizing import PATCH, collect_patches
from examples.shapes.train_janus import (
    OUTPUT,
    JanusShapes,
    checkpoint_config,
    example_batches,
    rendering_loss,
)
from examples.shapes.train_vq import IMAGE_SIZE, NUM_CODES, first_images
from examples.shapes.world import training_scenes

TOWER = {"patch_size": PATCH, "width": 96, "layers": 4, "heads": 4, "mlp_ratio": 4.0}
RENDERED = 8  # rows of the step that trains rendering: half as many images, with and without their prompts
# The model's own images: how many there are of each guidance weight and temperature. More of them are wrong without
# guidance, at high temperatures and at the highest weight.
OWN_IMAGES, OWN_SETTINGS = 400, ((1.0, 1.0), (1.0, 1.3), (10.0, 1.0))
TOWER_STEPS = 1500  # that train the tower alone
# The weights of the losses: the answer; yes or no after each word of the sentence; words; patches; rendering.
ANSWER, EACH_WORD, WORDS, PATCHES, RENDERING = 1.0, 1.0, 0.5, 0.3, 1.0

# B images, N patches of each, D channels of the tower, P tokens up to the end of the image
# Q texts about each image (questions and one caption), S tokens of a text, R texts of all images, W tokens to predict


class SeeingShapes(JanusShapes):
    """The whole checkpoint, but for the decoder of codes; and the head that names patches, for training only."""

    def __init__(self, num_tokens: int, embedding_VC: torch.Tensor) -> None:
        super().__init__(num_tokens, embedding_VC)
        encoder = VisionEncoder(read_vision_shape(seeing_config(num_tokens)))
        llama = self.language_model["model"]
        self.language_model["lm_head"] = nn.Linear(llama.config.hidden_size, num_tokens, bias=False)
        self.vision_model = nn.ModuleDict({"vision_tower": encoder.tower})
        self.aligner = nn.ModuleDict({"layers": encoder.aligner})
        self.patch_head = nn.Linear(int(TOWER["width"]), len(COVERS))

    def see(self, pixels_B3SS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tower's output [B, N, tower's width], and the logits [B, N, COVERS] of what covers each patch."""
        seen_BND = self.vision_model["vision_tower"](pixels_B3SS)
        return seen_BND, self.patch_head(seen_BND)

    def weights(self) -> dict[str, torch.Tensor]:
        """What the checkpoint keeps."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("patch_head.")}

    def read(self, seen_BND: torch.Tensor, before: list[int], end_of_image: int, ids_BQS: torch.Tensor) -> torch.Tensor:
        """Logits [B * Q, S, W] of the token after each one of the texts. `before` are the ids up to the image."""
        llama = self.language_model["model"]
        image_BND = self.aligner["layers"](seen_BND)
        around = llama.embed_tokens(torch.tensor([*before, end_of_image], device=image_BND.device))
        around_BPD = around.expand(len(image_BND), -1, -1)
        prefix_BPD = torch.cat([around_BPD[:, :-1], image_BND, around_BPD[:, -1:]], dim=1)
        cache = llama(inputs_embeds=prefix_BPD, use_cache=True).past_key_values
        cache.batch_repeat_interleave(ids_BQS.shape[1])
        hidden = llama(input_ids=ids_BQS.flatten(0, 1), past_key_values=cache).last_hidden_state
        return self.language_model["lm_head"](hidden)


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], steps=6000, output=OUTPUT)
    folder = arguments.output
    saved = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    own = list(own_images(folder, arguments.seed))
    print(f"{sum(map(is_right, own)) / len(own):.1%} of the model's own {len(own)} images are right", flush=True)
    tokenizer = build_tokenizer()
    model = SeeingShapes(vocab_size(tokenizer), saved["gen_embed.weight"]).to(device())
    model.load_state_dict({name: saved.get(name, value) for name, value in model.state_dict().items()})
    save(folder, tokenizer, model, saved)
    questions = QuestionTokenizer(folder, TOKENS, vocab_size=vocab_size(tokenizer))
    teacher = Teacher(questions, own, arguments.seed)
    patches = collect_patches(torch.cat(list(first_images(0, 4000))), NUM_CODES)
    drawings = example_batches(PromptTokenizer(folder, "janus-pro"), {"patches": patches}, arguments.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0, betas=(0.9, 0.98), weight_decay=0.02)
    lessons, losses = teacher.lessons(), collections.deque[dict[str, float]](maxlen=50)
    for step, progress in training_steps(arguments):
        set_learning_rate(optimizer, 1e-3, step, progress)
        drawn = None if step < TOWER_STEPS else next(drawings)
        losses.append(train_step(model, optimizer, teacher, next(lessons), drawn))
        if step % 50 == 0:
            means = {name: np.mean([each[name] for each in losses if name in each]) for name in losses[-1]}
            print(f"step {step} ({progress:.0%})", *(f"{name} {mean:.3f}" for name, mean in means.items()), flush=True)
        if step % 250 == 249:
            save(folder, tokenizer, model, saved)
    save(folder, tokenizer, model, saved)


def train_step(
    model: SeeingShapes,
    optimizer: torch.optim.Optimizer,
    teacher: Teacher,
    lesson: Lesson,
    drawings: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None,
) -> dict[str, float]:
    """Take one step, without `drawings` of the tower alone; return its losses, and the share of right answers."""
    with mixed_precision():
        seen_BND, covers_BNC = model.see(lesson.pixels_B3SS)
    patches = F.cross_entropy(covers_BNC.float().flatten(0, 1), lesson.patches_BN.flatten(), ignore_index=IGNORED)
    loss, found = PATCHES * patches, {"patches": patches.item()}
    if drawings is not None:
        looking, parts = looking_loss(model, teacher, lesson, seen_BND)
        rendering, cond_loss = rendering_loss(model, *(rows[:RENDERED] for rows in drawings), is_guided=True)
        loss = loss + looking + RENDERING * rendering
        found |= parts | {"rendering": cond_loss.item()}
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return found


def looking_loss(
    model: SeeingShapes, teacher: Teacher, lesson: Lesson, seen_BND: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a lesson, and its parts with the share of right answers."""
    with mixed_precision():
        logits_RSW = model.read(seen_BND, teacher.before, teacher.end_of_image, lesson.ids_BQS).float()
    row, token, answer = lesson.answers_A3.T
    answers = F.cross_entropy(logits_RSW[row, token], answer)
    margin_RS = logits_RSW[..., teacher.yes] - logits_RSW[..., teacher.no]
    verdicts_RS = lesson.verdicts_BQS.flatten(0, 1)
    known = verdicts_RS != IGNORED
    each_word = F.binary_cross_entropy_with_logits(margin_RS[known], verdicts_RS[known].float())
    words = F.cross_entropy(logits_RSW.flatten(0, 1), lesson.words_BQS.flatten(), ignore_index=IGNORED)
    right = ((margin_RS[row, token] > 0) == (answer == teacher.yes)).float().mean()
    loss = ANSWER * answers + EACH_WORD * each_word + WORDS * words
    parts = {"answer": answers, "each word": each_word, "words": words, "right answers": right}
    return loss, {name: part.item() for name, part in parts.items()}


def own_images(folder: Path, seed: int) -> Iterator[Picture]:
    """Images of training prompts, rendered by the checkpoint in `folder`."""
    engine, recipe = load(folder)
    scenes = training_scenes(seed + 300)
    for weight, temperature in OWN_SETTINGS:
        chosen = [next(scenes) for _ in range(OWN_IMAGES)]
        settings = dataclasses.replace(recipe, temperature=temperature)
        for pixels, scene in zip(render(engine, settings, chosen, weight), chosen, strict=True):
            yield picture_of(pixels, scene)


def save(folder: Path, tokenizer, model: SeeingShapes, saved: dict[str, torch.Tensor]) -> None:
    weights = saved | model.weights()
    num_tokens = read_vision_shape(seeing_config(vocab_size(tokenizer))).num_tokens
    save_folder(folder, tokenizer, seeing_config(vocab_size(tokenizer)), num_tokens, IMAGE_SIZE, weights)


def seeing_config(num_tokens: int) -> dict:
    """config.json with the sizes of the tower and of the aligner."""
    config = checkpoint_config(num_tokens)
    config["vision_config"]["params"] |= TOWER
    config["aligner_config"]["params"]["input_dim"] = TOWER["width"]
    return config


if __name__ == "__main__":
    main()
