"""Teaches janus-shapes to look: trains a vision tower, and the text model to answer questions and to caption.

The text model also renders, so every step trains that too, on drawings, as the guided part of `train_janus` does. A
quarter of the images to look at are the model's own: some are wrong, and the pixel rules say which. Run from the
project's root, after `train_janus`: `python -m examples.shapes.train_vision`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from actors.prompt.template import TOKENS
from actors.prompt.tokenizer import PromptTokenizer
from actors.recipe import CAPTION_QUESTION
from actors.understanding.config import read_vision_shape
from actors.understanding.prompt import QuestionTokenizer
from actors.understanding.vision import VisionEncoder
from examples.shapes.evaluate import load, render
from examples.shapes.folder import build_tokenizer, save_folder, vocab_size
from examples.shapes.images import draw_batch
from examples.shapes.judge import Seen, differences, look
from examples.shapes.questions import question_of, sentences
from examples.shapes.schedule import device, mixed_precision, parse_arguments, set_learning_rate, training_steps
from examples.shapes.tokenizing import collect_patches
from examples.shapes.train_janus import (
    FLOOR,
    FLOOR_WEIGHT,
    OUTPUT,
    JanusShapes,
    checkpoint_config,
    example_batches,
    guided_loss,
)
from examples.shapes.train_vq import IMAGE_SIZE, NUM_CODES, first_images
from examples.shapes.world import Scene, describe, training_scenes

TOWER = {"patch_size": 8, "width": 96, "layers": 4, "heads": 4, "mlp_ratio": 4.0}
BATCH, QUESTIONS = 16, 6  # images to look at per step, and questions about each
RENDERED = 8  # rows of the step that trains rendering
# The model's own images: their share of a step, and how many there are of each guidance weight and temperature. More
# of them are wrong without guidance, at high temperatures and at the highest weight.
OWN_SHARE, OWN_IMAGES, OWN_SETTINGS = 0.25, 400, ((1.0, 1.0), (1.0, 1.3), (10.0, 1.0))
# The weights of the losses: the answer; yes or no after each word of the sentence; words; rendering.
ANSWER, EACH_WORD, WORDS, RENDERING = 1.0, 1.0, 0.5, 1.0
IGNORED = -100

# B images, Q texts about each (questions and one caption), P tokens up to the end of the image, S tokens of a text,
# W tokens of the vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """An image uint8 [height, width, 3], the scene it was made from, and what the pixel rules see in it."""

    pixels: np.ndarray
    scene: Scene
    seen: tuple[str | None, list[Seen]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """A batch of images with texts about each.

    `words` is the token that follows each one, `verdicts` whether the sentence holds so far (1), or not (0).
    Tokens that train nothing are IGNORED in both. `answers` are the questions' last tokens: row, token, answer's id.
    """

    pixels_B3SS: torch.Tensor
    ids_BQS: torch.Tensor
    words_BQS: torch.Tensor
    verdicts_BQS: torch.Tensor
    answers_A3: torch.Tensor


class SeeingShapes(JanusShapes):
    """The whole checkpoint, but for the decoder of codes."""

    def __init__(self, num_tokens: int, embedding_VC: torch.Tensor) -> None:
        super().__init__(num_tokens, embedding_VC)
        encoder = VisionEncoder(read_vision_shape(seeing_config(num_tokens)))
        llama = self.language_model["model"]
        self.language_model["lm_head"] = nn.Linear(llama.config.hidden_size, num_tokens, bias=False)
        self.vision_model = nn.ModuleDict({"vision_tower": encoder.tower})
        self.aligner = nn.ModuleDict({"layers": encoder.aligner})

    def read(
        self, pixels_B3SS: torch.Tensor, before: list[int], end_of_image: int, ids_BQS: torch.Tensor
    ) -> torch.Tensor:
        """Logits [B * Q, S, W] of the token after each one of the texts. `before` are the ids up to the image."""
        llama = self.language_model["model"]
        image_BND = self.aligner["layers"](self.vision_model["vision_tower"](pixels_B3SS))
        around = llama.embed_tokens(torch.tensor([*before, end_of_image], device=image_BND.device))
        around_BPD = around.expand(len(image_BND), -1, -1)
        prefix_BPD = torch.cat([around_BPD[:, :-1], image_BND, around_BPD[:, -1:]], dim=1)
        cache = llama(inputs_embeds=prefix_BPD, use_cache=True).past_key_values
        cache.batch_repeat_interleave(ids_BQS.shape[1])
        hidden = llama(input_ids=ids_BQS.flatten(0, 1), past_key_values=cache).last_hidden_state
        return self.language_model["lm_head"](hidden)


class Teacher:
    """Makes lessons from drawings and from the model's own images."""

    def __init__(self, tokenizer: QuestionTokenizer, own: list[Picture], seed: int) -> None:
        self.tokenizer, self.rng = tokenizer, random.Random(f"lessons {seed}")
        self.scenes = training_scenes(seed + 200)
        wrong = {id(picture) for picture in own if not is_right(picture)}
        self.own = [[p for p in own if (id(p) in wrong) == is_wrong] for is_wrong in (True, False)]
        prompt = tokenizer.ask(question_of("?"))
        self.before = [*prompt.before, tokenizer.begin_of_image_id]
        self.end_of_image = tokenizer.end_of_image_id
        self.yes, self.no = (tokenizer.answer_ids(text)[0] for text in (" yes", " no"))
        self.caption_after = list(tokenizer.ask(CAPTION_QUESTION).after)
        first, second = (list(tokenizer.ask(question_of(text)).after) for text in ("a", "two"))
        self.first_word = _first_difference(first, second)  # of the sentence in a question
        self.num_after = len(first) - self.first_word - 1  # tokens after the sentence

    def lessons(self) -> Iterator[Lesson]:
        """Endless."""
        while True:
            yield self._lesson([self._picture(index) for index in range(BATCH)])

    def _picture(self, index: int) -> Picture:
        if index < BATCH * OWN_SHARE:
            return self.rng.choice(self.own[index % 2])
        scene = next(self.scenes)
        return picture_of(_uint8(draw_batch([scene], self.rng, IMAGE_SIZE)[0]), scene)

    def _lesson(self, pictures: list[Picture]) -> Lesson:
        texts = [self._texts(picture) for picture in pictures]
        longest = max(len(ids) for rows in texts for ids, _, _ in rows)

        def padded(values: list[int], fill: int) -> list[int]:
            return values + [fill] * (longest - len(values))

        ids = [[padded(ids, 0) for ids, _, _ in rows] for rows in texts]
        words = [[padded(words, IGNORED) for _, words, _ in rows] for rows in texts]
        verdicts = [[padded(verdicts, IGNORED) for _, _, verdicts in rows] for rows in texts]
        answers = [
            [row, len(ids) - 1, self.yes if verdicts[-1] else self.no]
            for row, (ids, _, verdicts) in enumerate(text for rows in texts for text in rows)
            if verdicts[-1] != IGNORED
        ]
        pixels = np.stack([picture.pixels for picture in pictures])
        return Lesson(
            pixels_B3SS=torch.from_numpy(pixels).to(device()).permute(0, 3, 1, 2).float() / 127.5 - 1,
            ids_BQS=torch.tensor(ids, device=device()),
            words_BQS=torch.tensor(words, device=device()),
            verdicts_BQS=torch.tensor(verdicts, device=device()),
            answers_A3=torch.tensor(answers, device=device()),
        )

    def _texts(self, picture: Picture) -> list[tuple[list[int], list[int], list[int]]]:
        """(ids, words, verdicts) of each text about an image: questions, then a caption if one is known."""
        texts = []
        for sentence in sentences(picture.scene, picture.seen, QUESTIONS, self.rng):
            ids = list(self.tokenizer.ask(question_of(sentence.text)).after)
            end = len(ids) - self.num_after
            verdicts = [IGNORED] * len(ids)
            verdicts[end:] = [int(sentence.is_true)] * (len(ids) - end)
            words = [IGNORED] * len(ids)
            if sentence.near is not None:
                near = list(self.tokenizer.ask(question_of(sentence.near)).after)
                first_wrong = len(ids) if sentence.is_true else _first_difference(ids, near)
                for index in range(self.first_word, end):
                    verdicts[index] = int(index < first_wrong)
                    if index < first_wrong - 1:
                        words[index] = ids[index + 1]
            texts.append((ids, words, verdicts))
        if is_right(picture):
            caption = [*self.tokenizer.answer_ids(f" {describe(picture.scene)}"), self.tokenizer.end_of_sentence_id]
            ids = [*self.caption_after, *caption[:-1]]
            texts.append((ids, [IGNORED] * (len(self.caption_after) - 1) + caption, [IGNORED] * len(ids)))
        else:
            texts.append((self.caption_after, *[[IGNORED] * len(self.caption_after)] * 2))
        return texts


def main() -> None:
    arguments = parse_arguments(__doc__.splitlines()[0], steps=4000, output=OUTPUT)
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
    lessons, losses = teacher.lessons(), []
    for step, progress in training_steps(arguments):
        set_learning_rate(optimizer, 1e-3, step, progress)
        losses.append(train_step(model, optimizer, teacher, next(lessons), next(drawings)))
        if step % 50 == 0:
            means = np.mean(losses[-50:], axis=0)
            names = ("answer", "each word", "words", "rendering", "right answers")
            values = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, means, strict=True))
            print(f"step {step} ({progress:.0%}): {values}", flush=True)
        if step % 250 == 249:
            save(folder, tokenizer, model, saved)
    save(folder, tokenizer, model, saved)


def train_step(
    model: SeeingShapes, optimizer: torch.optim.Optimizer, teacher: Teacher, lesson: Lesson, drawings: tuple
) -> tuple[float, ...]:
    """Take one step; return the losses of answers, each word, words and rendering, and the share of right answers."""
    ids_BS, uncond_ids_BS, codes_BT = (rows[: RENDERED // 2] for rows in drawings)
    with mixed_precision():
        logits_RSW = model.read(lesson.pixels_B3SS, teacher.before, teacher.end_of_image, lesson.ids_BQS).float()
        code_logits = model(torch.cat([ids_BS, uncond_ids_BS]), codes_BT.repeat(2, 1)).float()
    row, token, answer = lesson.answers_A3.T
    answers = F.cross_entropy(logits_RSW[row, token], answer)
    margin_RS = logits_RSW[..., teacher.yes] - logits_RSW[..., teacher.no]
    verdicts_RS = lesson.verdicts_BQS.flatten(0, 1)
    known = verdicts_RS != IGNORED
    each_word = F.binary_cross_entropy_with_logits(margin_RS[known], verdicts_RS[known].float())
    words = F.cross_entropy(logits_RSW.flatten(0, 1), lesson.words_BQS.flatten(), ignore_index=IGNORED)
    logprobs = code_logits.log_softmax(dim=-1)
    rendering, cond = guided_loss(logprobs, codes_BT)
    below_floor = FLOOR_WEIGHT * F.relu(FLOOR - logprobs).square().mean()
    loss = ANSWER * answers + EACH_WORD * each_word + WORDS * words + RENDERING * (rendering + below_floor)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    right = ((margin_RS[row, token] > 0) == (answer == teacher.yes)).float().mean()
    return answers.item(), each_word.item(), words.item(), cond.item(), right.item()


def own_images(folder: Path, seed: int) -> Iterator[Picture]:
    """Images of training prompts, rendered by the checkpoint in `folder`."""
    engine, recipe = load(folder)
    scenes = training_scenes(seed + 300)
    for weight, temperature in OWN_SETTINGS:
        chosen = [next(scenes) for _ in range(OWN_IMAGES)]
        settings = dataclasses.replace(recipe, temperature=temperature)
        for pixels, scene in zip(render(engine, settings, chosen, weight), chosen, strict=True):
            yield picture_of(pixels, scene)


def picture_of(pixels: np.ndarray, scene: Scene) -> Picture:
    return Picture(pixels=pixels, scene=scene, seen=look(pixels))


def is_right(picture: Picture) -> bool:
    return not differences(*picture.seen, picture.scene)


def save(folder: Path, tokenizer, model: SeeingShapes, saved: dict[str, torch.Tensor]) -> None:
    weights = saved | dict(model.state_dict())
    num_tokens = read_vision_shape(seeing_config(vocab_size(tokenizer))).num_tokens
    save_folder(folder, tokenizer, seeing_config(vocab_size(tokenizer)), num_tokens, IMAGE_SIZE, weights)


def seeing_config(num_tokens: int) -> dict:
    """config.json with the sizes of the tower and of the aligner."""
    config = checkpoint_config(num_tokens)
    config["vision_config"]["params"] |= TOWER
    config["aligner_config"]["params"]["input_dim"] = TOWER["width"]
    return config


def _uint8(pixels_CHW: torch.Tensor) -> np.ndarray:
    return ((pixels_CHW + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()


def _first_difference(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


if __name__ == "__main__":
    main()
