"""Writes a checkpoint folder: the tokenizer, the configuration files and the weights."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from actors.understanding.prompt import SYSTEM_PROMPT
from examples.shapes.world import describe, forget_words, training_scenes

# The bars are U+FF5C and the low blocks U+2581.
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
OTHER_SPECIALS = ["<image_placeholder>", "<patch_placeholder>", "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"]
OTHER_SPECIALS += ["<|grounding|>", "<|User|>", "<|Assistant|>"]
# What is asked about an image: one token for each word, and one for the system prompt of every question.
QUESTION_WORDS = ["Does", "this", "image", "show", "Answer", "yes", "or", "no"]
QUESTION_WORDS += ["Yes", "No", "Describe", "one", "sentence"]
SPECIALS = [BOS, EOS, PAD, "<begin_of_image>", "<end_of_image>", *OTHER_SPECIALS, "<｜begin▁of▁generation｜>"]


def build_tokenizer() -> Tokenizer:
    """A byte-level BPE in which each word of the world is one token; it encodes other text byte by byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\r\n]"), "isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{L}+"), "isolated"),
            pre_tokenizers.Split(Regex(r"\s?\p{P}+"), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random("tokenizer")
    prompts = [describe(forget_words(scene, rng)) for scene in itertools.islice(training_scenes(0), 5000)]
    corpus = [f"User: {prompt}\n\nAssistant:" for prompt in prompts]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(special, normalized=False) for special in SPECIALS])
    tokenizer.add_tokens([AddedToken(SYSTEM_PROMPT, normalized=False)])
    tokenizer.add_tokens([AddedToken(w, single_word=True, lstrip=True, normalized=False) for w in QUESTION_WORDS])
    bos = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[bos]
    )
    return tokenizer


def vocab_size(tokenizer: Tokenizer) -> int:
    """Rows of the embedding: the size of the vocabulary, rounded up to a multiple of 64."""
    return -(-tokenizer.get_vocab_size() // 64) * 64


def save_folder(
    folder: Path,
    tokenizer: Tokenizer,
    config: dict,
    num_image_tokens: int,
    image_size: int,
    weights: dict[str, torch.Tensor],
) -> None:
    """Write a checkpoint in the original layout, with weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    rounded = {name: value.detach().cpu().bfloat16().contiguous() for name, value in weights.items()}
    save_file(rounded, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", config)
    _write(folder / "processor_config.json", _processor(num_image_tokens))
    _write(folder / "preprocessor_config.json", _PREPROCESSOR | {"image_size": image_size})
    added = {str(id_): _added_token(token) for id_, token in sorted(tokenizer.get_added_tokens_decoder().items())}
    _write(folder / "tokenizer_config.json", {"added_tokens_decoder": added} | _TOKENIZER)
    specials = {"additional_special_tokens": OTHER_SPECIALS, "bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    _write(folder / "special_tokens_map.json", specials)


def vision_tower(image_size: int) -> dict:
    """The `params` of a vision tower without weights: generation reads the image size from them."""
    return {
        "image_size": image_size,
        "model_name": f"siglip_none_patch16_{image_size}",
        "select_feature": "same",
        "select_layer": -1,
    }


def _added_token(token: AddedToken) -> dict:
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in names}


def _processor(num_image_tokens: int) -> dict:
    return {
        "add_special_token": False,
        "ignore_id": -100,
        "image_tag": "<image_placeholder>",
        "mask_prompt": True,
        "num_image_tokens": num_image_tokens,
        "processor_class": "VLChatProcessor",
        "sft_format": "deepseek",
    }


_PREPROCESSOR = {
    "background_color": [127, 127, 127],
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "VLMImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "min_size": 14,
    "processor_class": "VLChatProcessor",
    "rescale_factor": 0.00392156862745098,
}
_TOKENIZER = {
    "bos_token": BOS,
    "clean_up_tokenization_spaces": False,
    "eos_token": EOS,
    "model_max_length": 1024,
    "pad_token": None,
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": None,
    "use_default_system_prompt": True,
}


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
