"""From a prompt to token ids, conditional and unconditional, for both families. No torch.

The template and the unconditional rows are those of the reference implementation,
https://github.com/deepseek-ai/Janus: `generation_inference.py` and `demo/app_janusflow.py`.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import CheckpointError, one_line
from actors.prompt.template import PROMPT_FORMATS, PromptTemplate

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The bars are U+FF5C and the low blocks U+2581, not the ASCII characters they look like.
BOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>"
PAD = "<\uff5c\u2581pad\u2581\uff5c>"
BEGIN_OF_IMAGE = "<begin_of_image>"
END_OF_SENTENCE = "<\uff5cend\u2581of\u2581sentence\uff5c>"

# Prompts whose ids are kept between `refusal` and `render`, more than an actor ever has waiting: 4 bytes a token.
NUM_PROMPTS_KEPT = 2**15


class PromptTokenizer:
    """A checkpoint's tokenizer with its prompt template; `folder` holds its tokenizer.json.

    `template` is a template or a key of PROMPT_FORMATS (see `actors.checkpoint.open`). An engine asks for the ids of a
    prompt twice, when it checks a request and when it renders it; the second time they come from memory. `vocab_size`
    is the number of tokens that the model embeds, if it is known. `added_tokens` get the next free ids, unless the
    vocabulary has them. Raises CheckpointError where tokenizer.json cannot be
    read, or its vocabulary lacks a special token or has an id that the model does not embed.
    """

    def __init__(
        self,
        folder: Path,
        template: PromptTemplate | str | None,
        *,
        vocab_size: int | None = None,
        added_tokens: Sequence[str] = (),
    ) -> None:
        if not isinstance(template, PromptTemplate):
            if template not in PROMPT_FORMATS:
                raise CheckpointError(f"prompt_format must be one of {', '.join(PROMPT_FORMATS)}, got {template!r}")
            template = PROMPT_FORMATS[template]
        self.folder, self.template = Path(folder), template
        self._tokenizer = _read_tokenizer(Path(folder) / "tokenizer.json")
        self._tokenizer.add_tokens(list(added_tokens))
        self.bos_id = self.id_of(BOS)
        self.pad_id = self.id_of(PAD)
        self.begin_of_image_id = self.id_of(BEGIN_OF_IMAGE)
        for tag in template.tags:
            self.id_of(tag)
        if vocab_size is not None and (largest := max(self.names_by_id())) >= vocab_size:
            raise CheckpointError(
                f"the ids of tokenizer.json must be below {vocab_size}, the tokens that the model embeds; got {largest}"
            )
        self._encode = functools.lru_cache(maxsize=NUM_PROMPTS_KEPT)(self._encode_text)

    def cond_ids(self, prompt: str) -> list[int]:
        """Janus: bos, the prompt in its template, begin-of-image. Raises ValueError for text that is not Unicode."""
        _check_is_unicode(prompt)
        return [self.bos_id, *self._encode(prompt), self.begin_of_image_id]

    def uncond_ids(self, num_tokens: int) -> list[int]:
        """Janus: the unconditional row for a prompt of `num_tokens` ids: pads between bos and begin-of-image.

        The model attends to the pads, so the row depends on the prompt's length.
        """
        return [self.bos_id, *[self.pad_id] * (num_tokens - 2), self.begin_of_image_id]

    def negative_prompt(self, negative_prompt: str | None) -> str | None:
        """The text of an unconditional row, given the request's; None where the row consists of pads."""
        return "" if negative_prompt is None and self.template.unconditional == "empty" else negative_prompt

    def flow_cond_ids(self, prompt: str) -> list[int]:
        """JanusFlow: like Janus without the last id, which the time embedding replaces."""
        return self.cond_ids(prompt)[:-1]

    def names_by_id(self) -> dict[int, set[str]]:
        """All names of each id, from the vocabulary and its added tokens."""
        names: dict[int, set[str]] = {}
        for name, token_id in self._tokenizer.get_vocab(with_added_tokens=True).items():
            names.setdefault(token_id, set()).add(name)
        return names

    def id_of(self, token: str) -> int:
        """The id of a special token. Raises CheckpointError if the vocabulary has none."""
        token_id: int | None = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"the vocabulary of tokenizer.json has no {token}, which the prompt template needs")
        return token_id

    def special_tokens(self) -> set[str]:
        """The texts that are one token wherever they occur, and no part of what people write."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return {token.content for token in added if token.special or _looks_like_tag(token.content)}

    def plain_ids(self, text: str) -> list[int]:
        """The ids of a text alone: no bos, no template. Raises ValueError."""
        _check_is_unicode(text)
        return list(self._encode_alone(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens and without ids that the vocabulary does not have."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _encode_text(self, prompt: str) -> array[int]:
        return self._encode_alone(self.template.text(prompt))

    def _encode_alone(self, text: str) -> array[int]:
        # Without special tokens the tokenizer adds no bos of its own, which some tokenizer.json files ask for.
        try:
            return array("I", self._tokenizer.encode(text, add_special_tokens=False).ids)
        except Exception as error:  # the tokenizers library raises Exception itself
            raise ValueError(f"tokenizer.json cannot encode this prompt: {one_line(str(error))}") from error


def _looks_like_tag(token: str) -> bool:
    return len(token) > 2 and token.startswith("<") and token.endswith(">")


def _read_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise CheckpointError(f"there is no {path}")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises Exception itself
        raise CheckpointError(f"{path} cannot be read as a tokenizer: {one_line(str(error))}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _check_is_unicode(prompt: str) -> None:
    """Raise ValueError for lone surrogates: a Python string can hold them, but they are not text."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"a prompt must be valid Unicode; character {error.start} is the lone surrogate "
            f"U+{ord(prompt[error.start]):04X}"
        ) from error
