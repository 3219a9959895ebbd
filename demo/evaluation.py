"""Measures exact match of the ladder on test prompts, by family and by model."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.recipe import RECIPES, ModelName
from demo.results import OVERALL
from demo.tasks import Task, generate, grade

PROMPTS, SEED = 2000, 2026
BATCH = 64
LONGEST_ANSWER = 300


class Answer(NamedTuple):
    """What a model said, and the geometric mean of its tokens' probabilities."""

    task: Task
    text: str
    confidence: float

    @property
    def right(self) -> bool:
        """Whether it is an exact match."""
        return grade(self.task, self.text)


def evaluate(ladder: Path, only: Sequence[ModelName], known: Mapping[str, Any]) -> dict[str, Any]:
    """Measure the models in `only` on the test prompts; keep what is known of the others."""
    tasks = generate("test", SEED, PROMPTS)
    models = dict(known.get("models", {}))
    models |= {name: _measure(ladder / name, tasks) for name in only}
    kept = {name: models[name] for name in RECIPES if name in models}
    return {"prompts": PROMPTS, "seed": SEED, "models": kept}


def _measure(folder: Path, tasks: Sequence[Task]) -> dict[str, Any]:
    said = answers(folder, tasks)
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {
        "parameters": model.num_parameters(),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "right": share_right(said),
    }


def answers(folder: Path, tasks: Sequence[Task]) -> list[Answer]:
    """Greedy float32 answers of one model, in the order of its own batches."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return [answer for batch in _batches(tasks) for answer in _generate(model, tokenizer, batch)]


def _batches(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """Tasks of one family and similar size share a batch: little padding, few idle rows."""
    ordered = sorted(tasks, key=lambda task: (task.family, task.size, task.prompt))
    for start in range(0, len(ordered), BATCH):
        yield ordered[start : start + BATCH]


@torch.no_grad()
def _generate(model: Any, tokenizer: Any, tasks: Sequence[Task]) -> list[Answer]:
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
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    confidences = _confidences(output.logits, said, tokenizer.pad_token_id)
    return list(map(Answer, tasks, texts, confidences))


def _confidences(logits: Sequence[torch.Tensor], said: torch.Tensor, pad: int) -> list[float]:
    """exp of the mean log-probability of each row's tokens, padding aside."""
    steps = zip(logits, said.T, strict=True)
    chosen = [row.log_softmax(-1).gather(1, token[:, None]) for row, token in steps]
    counted = (said != pad).float()
    means = (torch.cat(chosen, 1) * counted).sum(1) / counted.sum(1).clamp(min=1)
    return [float(mean) for mean in means.exp()]


def share_right(answers: Iterable[Answer]) -> dict[str, float]:
    """Exact match by family, and over all."""
    marks: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        marks[answer.task.family].append(answer.right)
        marks[OVERALL].append(answer.right)
    return {name: round(sum(right) / len(right), 4) for name, right in sorted(marks.items())}
