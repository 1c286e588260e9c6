"""Yes or no: where a tokenizer tells the two apart, and how probable a model finds each.

R prompts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from actors.understanding.prompt import QuestionTokenizer
from actors.understanding.reader import Reader, ReadPrompt

YES = (" yes", " Yes", "yes", "Yes")
NO = (" no", " No", "no", "No")

ScoreKind = Literal["first_token", "answer_strings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """The ids of every spelling of yes and of no."""

    yes: tuple[tuple[int, ...], ...]
    no: tuple[tuple[int, ...], ...]

    @property
    def kind(self) -> ScoreKind:
        """The first token decides if no spelling of yes shares it with one of no; else whole strings are compared."""
        shared = {ids[0] for ids in self.yes} & {ids[0] for ids in self.no}
        return "answer_strings" if shared else "first_token"


def read_answers(tokenizer: QuestionTokenizer) -> Answers:
    """The spellings as this tokenizer writes them; spellings that it writes alike count once."""
    yes, no = (tuple(dict.fromkeys(map(tokenizer.answer_ids, spellings))) for spellings in (YES, NO))
    return Answers(yes=yes, no=no)


def score_answers(reader: Reader, prompts: Sequence[ReadPrompt], answers: Answers) -> np.ndarray:
    """P(yes) / (P(yes) + P(no)) after each prompt, float32 [R]; NaN where the model's numbers are not finite.

    A probability is the sum over the spellings, of their first token or of the whole string (see `Answers.kind`).
    """
    if answers.kind == "first_token":
        answers = Answers(yes=tuple({ids[:1] for ids in answers.yes}), no=tuple({ids[:1] for ids in answers.no}))
    logprobs = answer_logprobs(reader, prompts, [*answers.yes, *answers.no])
    num_yes = len(answers.yes)
    with np.errstate(invalid="ignore"):
        yes, no = (np.logaddexp.reduce(part, axis=1) for part in (logprobs[:, :num_yes], logprobs[:, num_yes:]))
        return (1 / (1 + np.exp(no - yes))).astype(np.float32)


def answer_logprobs(reader: Reader, prompts: Sequence[ReadPrompt], answers: Sequence[tuple[int, ...]]) -> np.ndarray:
    """The log-probability of each answer's ids after each prompt, float64 [R, answers]; NaN for a prompt with NaNs."""
    first_RV = reader.logits([prompt.hidden_C for prompt in prompts])
    result = np.empty((len(prompts), len(answers)))
    for row, (prompt, first_V) in enumerate(zip(prompts, first_RV, strict=True)):
        longer = [ids for ids in answers if len(ids) > 1]
        after = _logits_inside(reader, prompt, longer) if longer else {}
        for column, ids in enumerate(answers):
            steps = [first_V, *after.get(ids, [])]
            result[row, column] = sum(_logprob(logits_V, token) for logits_V, token in zip(steps, ids, strict=True))
    return result


def _logits_inside(
    reader: Reader, prompt: ReadPrompt, answers: Sequence[tuple[int, ...]]
) -> dict[tuple[int, ...], list[torch.Tensor]]:
    """For each answer the logits after each of its tokens but the last."""
    kv = prompt.kv
    hidden = reader.follow_ids(answers, [kv] * len(answers))
    logits = iter(reader.logits([state_C for hidden_TC in hidden for state_C in hidden_TC[:-1]]))
    return {ids: [next(logits) for _ in ids[1:]] for ids in answers}


def _logprob(logits_V: torch.Tensor, token: int) -> float:
    """In float64, of one row at a time: its bits depend on nothing else."""
    if not bool(logits_V.isfinite().all()):
        return float("nan")
    values = logits_V.double()
    return float(values[token] - torch.logsumexp(values, 0))
