"""Models that write a text before they generate an image: what they are asked, how the text is sampled, how it is used.

Every value is that of a model's public inference code, which `source` names; the questions are the ones that the models
were trained with. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.prompt.template import PromptTemplate


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How a model reasons before an image.

    * `question`: the text around the prompt that the model answers. `removed`: phrases that are taken out of the prompt
      first, because the question has them.
    * `max_tokens`: the longest text. `top_k`: only so many most probable tokens are sampled from, None for all.
      `temperature` divides the logits; 0 takes the most probable token.
    * `ends_with_sentence`: whether the end-of-sentence token ends the text, as begin-of-image always does.
    * `makes_room`: whether begin-of-image takes the place of the last token of a text of `max_tokens`.
    * `is_rewritten`: the image is generated from a new prompt, `prompt. text` in the model's template; otherwise from
      the tokens of question and text as they are.
    * `added_tokens`: tokens that the model uses and its tokenizer.json may lack.
    """

    question: PromptTemplate
    removed: tuple[str, ...] = ()
    max_tokens: int
    top_k: int | None = None
    temperature: float = 1.0
    ends_with_sentence: bool
    makes_room: bool = False
    is_rewritten: bool = False
    added_tokens: tuple[str, ...] = ()
    source: str

    def question_about(self, prompt: str) -> str:
        """The whole text that the model answers."""
        return self.question.text(self.shortened(prompt))

    def shortened(self, prompt: str) -> str:
        for phrase in self.removed:
            prompt = prompt.replace(phrase, "")
        return prompt.strip()

    def text_of(self, ids: list[int], *, begin_of_image: int, end_of_sentence: int) -> list[int]:
        """The tokens of the text in what was sampled, without the one that ended it."""
        ends = {begin_of_image, end_of_sentence} if self.ends_with_sentence else {begin_of_image}
        end = next((index for index, token in enumerate(ids) if token in ends), None)
        return ids[: self.max_tokens - self.makes_room] if end is None else ids[:end]


PROTOCOLS = {
    "t2i-r1": Protocol(
        question=PromptTemplate(
            system_prompt="You are a helpful assistant that receives an image prompt and generate a visualization of "
            "the prompt.",
            prefix='User: You are asked to generate an image based on this prompt: "',
            suffix='"\n'
            "Provide a brief, precise visualization of all elements in the prompt. Your description should:\n"
            "1. Include every object mentioned in the prompt\n"
            "2. Specify visual attributes (color, number, shape, texture) if specified in the prompt\n"
            "3. Clarify relationships (e.g., spatial) between objects if specified in the prompt\n"
            "4. Be concise (50 words or less)\n"
            "5. Focus only on what's explicitly stated in the prompt\n"
            "6. Do not elaborate beyond the attributes or relationships specified in the prompt\n"
            "Do not miss objects. Output your visualization directly without explanation:\n\nAssistant:",
        ),
        max_tokens=512,
        top_k=50,  # the default of transformers' generate, which the code calls without a top_k
        ends_with_sentence=True,
        is_rewritten=True,
        source="https://github.com/CaraJ7/T2I-R1/blob/main/src/t2i-r1/src/infer/reason_inference.py",
    ),
    "got-r1": Protocol(
        question=PromptTemplate(
            prefix="User: Follow the caption to generate an image through a chain of thought process: ",
            suffix="\n\nAssistant:",
        ),
        max_tokens=600,
        ends_with_sentence=False,
        added_tokens=("<|box_start|>", "<|box_end|>", "<|obj_start|>", "<|obj_end|>"),
        source="https://github.com/gogoduan/GoT-R1/blob/main/infer.py",
    ),
    "reasongen-r1": Protocol(
        question=PromptTemplate(
            prefix="<|User|>: A photo of ", suffix=". Output a richly detailed prompt:\n\n<|Assistant|>:"
        ),
        removed=("A photo of", "a photo of"),
        max_tokens=448,  # 1024 less the 576 of an image
        ends_with_sentence=True,
        makes_room=True,
        source="https://github.com/Franklin-Zhang0/ReasonGen-R1/blob/main/Janus/cot_generate_inference.py",
    ),
}
