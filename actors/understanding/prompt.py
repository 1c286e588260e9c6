"""From a question about images to token ids, as the reference's VLChatProcessor writes them. No torch.

https://github.com/deepseek-ai/Janus, `janus/models/processing_vlm.py`. Unlike a prompt to render, a question always has
the reference's system prompt. Every image is `<begin_of_image>`, one token for each patch, `<end_of_image>`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from actors.prompt.template import TOKENS, WORDS, PromptTemplate
from actors.prompt.tokenizer import BEGIN_OF_IMAGE, END_OF_SENTENCE, PromptTokenizer

SYSTEM_PROMPT = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
IMAGE = "<image_placeholder>"
END_OF_IMAGE = "<end_of_image>"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePrompt:
    """The ids around the images of a prompt: `before` the first, `between` each image and the next, `after` the last.

    The ids of the images themselves are not among them.
    """

    before: tuple[int, ...]
    between: tuple[tuple[int, ...], ...]
    after: tuple[int, ...]

    @property
    def num_images(self) -> int:
        return 1 + len(self.between)

    def num_tokens(self, tokens_per_image: int) -> int:
        """Tokens of the whole prompt, with a begin and an end around each image."""
        texts = (self.before, *self.between, self.after)
        return sum(map(len, texts)) + self.num_images * (tokens_per_image + 2)


class QuestionTokenizer:
    """A checkpoint's tokenizer for questions about images.

    `template` is that of its prompts to render, whose role tags questions share. Raises CheckpointError where the
    vocabulary lacks a token that an image or an answer needs.
    """

    def __init__(self, folder: Path, template: PromptTemplate, *, vocab_size: int) -> None:
        roles = TOKENS if set(TOKENS.tags) <= set(template.tags) else WORDS
        self.template = dataclasses.replace(roles, system_prompt=SYSTEM_PROMPT)
        self._tokenizer = PromptTokenizer(folder, self.template, vocab_size=vocab_size)
        self.begin_of_image_id = self._tokenizer.id_of(BEGIN_OF_IMAGE)
        self.end_of_image_id = self._tokenizer.id_of(END_OF_IMAGE)
        self.end_of_sentence_id = self._tokenizer.id_of(END_OF_SENTENCE)
        self._image_id = self._tokenizer.id_of(IMAGE)
        self._special_tokens = sorted(self._tokenizer.special_tokens())

    def refusal(self, question: str) -> str | None:
        """Why a question cannot be asked, or None.

        Questions quote what people write, and a special token in them would be another image or the end of the turn.
        """
        for token in self._special_tokens:
            if token in question:
                return f"a question must not contain the model's special token {token}"
        try:
            self.ask(question)
        except ValueError as error:
            return str(error)
        return None

    def ask(self, question: str) -> ImagePrompt:
        """The prompt of a question about one image. Raises ValueError for text that is not Unicode."""
        return self.read(f"{IMAGE}\n{question}")

    def read(self, content: str) -> ImagePrompt:
        """The prompt of a content with at least one placeholder, IMAGE."""
        texts: list[tuple[int, ...]] = []
        ids = self._tokenizer.flow_cond_ids(content)  # bos and the template
        start = 0
        for index, token_id in enumerate(ids):
            if token_id == self._image_id:
                texts.append(tuple(ids[start:index]))
                start = index + 1
        if not texts:
            raise ValueError(f"a question about images must contain {IMAGE}")
        return ImagePrompt(before=texts[0], between=tuple(texts[1:]), after=tuple(ids[start:]))

    def answer_ids(self, answer: str) -> tuple[int, ...]:
        """The ids of an answer alone: no text is tokenized across the end of the prompt."""
        return tuple(self._tokenizer.plain_ids(answer))

    def decode(self, ids: list[int]) -> str:
        """The text of an answer up to the end of the sentence."""
        end = ids.index(self.end_of_sentence_id) if self.end_of_sentence_id in ids else len(ids)
        return self._tokenizer.decode(ids[:end])
