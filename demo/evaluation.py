"""Measures exact match of the ladder on test prompts, by family and size of the model."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.tasks import Task, grade

BATCH = 50
LONGEST_ANSWER = 288


class Answer(NamedTuple):
    """What a model said, and the geometric mean of its tokens' probabilities."""

    task: Task
    text: str
    confidence: float

    @property
    def right(self) -> bool:
        """Whether it is an exact match."""
        return grade(self.task, self.text)


def answers(folder: Path, tasks: Sequence[Task]) -> list[Answer]:
    """Greedy float32 answers of one model, in the order of its own batches."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return [answer for batch in _batches(tasks) for answer in _generate(model, tokenizer, batch)]


def _batches(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """Tasks of one family and similar prompts share a batch: little padding, few idle rows."""
    ordered = sorted(tasks, key=lambda task: (task.family, task.size, task.prompt))
    for start in range(0, len(ordered), BATCH):
        yield ordered[start : start + BATCH]


@torch.no_grad()
def _generate(model, tokenizer, tasks: list[Task]) -> Iterator[Answer]:  # type: ignore[no-untyped-def]
    chats = [[{"role": "user", "content": task.prompt}] for task in tasks]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True
    )
    output = model.generate(
        **inputs,
        max_new_tokens=LONGEST_ANSWER,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    said = output.sequences[:, inputs["input_ids"].shape[1] :]
    logits = torch.stack(output.logits, 1).log_softmax(-1)
    chosen = logits.gather(2, said[..., None]).squeeze(2)
    counted = said != tokenizer.pad_token_id
    confidences = (chosen.where(counted, 0).sum(1) / counted.sum(1)).exp().tolist()
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    yield from map(Answer, tasks, texts, confidences)


def share_right(answers: Iterable[Answer]) -> dict[str, float]:
    """Exact match by family, and over all under the name "overall"."""
    marks = defaultdict(list)
    for answer in answers:
        marks[answer.task.family].append(answer.right)
        marks["overall"].append(answer.right)
    return {family: sum(right) / len(right) for family, right in sorted(marks.items())}
