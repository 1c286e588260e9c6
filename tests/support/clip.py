"""A small random CLIP model on disk, as transformers saves one, with a tokenizer of a few words."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

IMAGE_SIZE, NUM_TOKENS, DIMENSIONS = 32, 12, 16


def write_clip(folder: Path, *, seed: int = 0) -> Path:
    """Write the model, its tokenizer and its image processor; returns the folder."""
    words = ["<unk>", "<s>", "</s>", "a", "red", "blue", "green", "square", "circle"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    images = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    CLIPProcessor(image_processor=images, tokenizer=fast).save_pretrained(folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **tower,
        "vocab_size": len(words),
        "max_position_embeddings": NUM_TOKENS,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {**tower, "image_size": IMAGE_SIZE, "patch_size": 8}
    torch.manual_seed(seed)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIMENSIONS)).save_pretrained(folder)
    return folder
