"""The text around a prompt, as data: role tags, a system prompt, and what the unconditional row holds. No torch.

The role tags are those of the reference implementation, https://github.com/deepseek-ai/Janus: plain words in
`generation_inference.py` (Janus-1.3B, JanusFlow), tokens of their own in the demo of Janus-Pro.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

_TAG = re.compile(r"<[|\uff5c][^<>\s]+[|\uff5c]>")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTemplate:
    """`system_prompt`, a blank line (if there is one), `prefix`, the prompt without the space around it, `suffix`.

    The engine puts bos in front and begin-of-image behind. A tag such as `<|User|>` must be one token.

    `unconditional` is the row that guidance subtracts, for a request without a negative prompt:
    * `pads`: pads in place of everything between bos and begin-of-image, as in the reference;
    * `empty`: the template around an empty prompt.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # for job.json, see workflows.output.claim

    prefix: str
    suffix: str
    system_prompt: str = ""
    unconditional: Literal["pads", "empty"] = "pads"

    def text(self, prompt: str) -> str:
        """The whole text for one prompt."""
        return f"{self._beginning}{prompt.strip()}{self.suffix}"

    @property
    def tags(self) -> tuple[str, ...]:
        """The pieces of the template that must be tokens, each once, in the order of the text."""
        return tuple(dict.fromkeys(_TAG.findall(self._beginning + self.suffix)))

    @property
    def roles(self) -> str:
        """The last word of the text before the prompt and before the image, for messages."""
        words = [(text.split() or ["nothing"])[-1].removesuffix(":") for text in (self.prefix, self.suffix)]
        return " and ".join(words)

    @property
    def _beginning(self) -> str:
        return f"{self.system_prompt}\n\n{self.prefix}" if self.system_prompt else self.prefix


WORDS = PromptTemplate(prefix="User: ", suffix="\n\nAssistant:")
TOKENS = PromptTemplate(prefix="<|User|>: ", suffix="\n\n<|Assistant|>:")

# The values of `model.prompt_format`.
PROMPT_FORMATS = {"janus": WORDS, "janus-pro": TOKENS}

# The names that `model.prompt_template` takes, for the models of `actors.checkpoint.known`.
TEMPLATES = {
    **PROMPT_FORMATS,
    "t2i-r1": WORDS,
    "got-r1": WORDS,
    "reasongen-r1": TOKENS,
    "janus-4o": TOKENS,
    "janus-pro-r1": TOKENS,
}

_AS_JSON = TypeAdapter(PromptTemplate)


def template_to_json(template: PromptTemplate | None) -> str | None:
    """A template as a manifest row holds it."""
    return None if template is None else _AS_JSON.dump_json(template).decode()


def template_from_json(text: str | None) -> PromptTemplate | None:
    """The template of a manifest row. Raises ValueError."""
    return None if text is None else _AS_JSON.validate_json(text)
