"""transformers as the baseline: `generate`, its two speculations, padded and continuous batches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.utils import logging as transformers_logging

from benchmarks.engine.prompts import Prompt
from benchmarks.engine.sides import Said
from benchmarks.engine.worker import Methods

LOOKUP_TOKENS = 10  # what transformers' own documentation proposes
PAGE, PAGES, STEP_TOKENS = 64, 320, 512  # of continuous batching; its defaults size a GPU


class Transformers:
    """One model as transformers runs it, float32, greedy."""

    def __init__(self, folder: Path, *, assistant: Path | None = None) -> None:
        """``assistant``: drafts in ``assisted``."""
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._model = _load(folder)
        self._assistant = None if assistant is None else _load(assistant)
        eos = self._model.generation_config.eos_token_id
        self._ends = frozenset([eos] if isinstance(eos, int) else eos)
        self._pad = self._model.generation_config.pad_token_id or 0

    def plain(self, prompts: Sequence[Prompt]) -> Said:
        """`generate`, one by one."""
        return self._in_turn(prompts)

    def assisted(self, prompts: Sequence[Prompt]) -> Said:
        """Assisted generation at its defaults, one by one."""
        return self._in_turn(prompts, assistant_model=self._assistant)

    def lookup(self, prompts: Sequence[Prompt]) -> Said:
        """Prompt lookup decoding, one by one."""
        return self._in_turn(prompts, prompt_lookup_num_tokens=LOOKUP_TOKENS)

    def padded(self, prompts: Sequence[Prompt]) -> Said:
        """All at once, padded on the left; it lasts as long as the longest answer."""
        width = max(len(prompt.tokens) for prompt in prompts)
        gaps = [width - len(prompt.tokens) for prompt in prompts]
        ids = [
            [self._pad] * gap + list(prompt.tokens)
            for gap, prompt in zip(gaps, prompts, strict=True)
        ]
        mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
        longest = max(prompt.longest for prompt in prompts)
        return self._generate(ids, mask, longest)

    def continuous(self, prompts: Sequence[Prompt]) -> Said:
        """Continuous batching as `generate_batch` does it; setting it up is not counted."""
        config = GenerationConfig(
            do_sample=False, eos_token_id=sorted(self._ends), pad_token_id=self._pad
        )
        pages = ContinuousBatchingConfig(
            page_size=PAGE, num_blocks=PAGES, max_batch_tokens=STEP_TOKENS
        )
        running = self._model.continuous_batching_context_manager(
            generation_config=config,
            continuous_batching_config=pages,
            persistent_manager=True,  # its pages are allocated at the first call only
            block=True,
            timeout=5,
        )
        with running as manager:
            began = time.perf_counter()
            longest = max(prompt.longest for prompt in prompts)
            inputs = [list(prompt.tokens) for prompt in prompts]
            names = manager.add_requests(inputs=inputs, max_new_tokens=longest)
            found = _collected(manager, len(names))
            seconds = time.perf_counter() - began
        return Said(seconds, tuple(found[name] for name in names))

    def _in_turn(self, prompts: Sequence[Prompt], **how: Any) -> Said:
        said = [self._generate([list(p.tokens)], None, p.longest, **how) for p in prompts]
        return Said(
            sum(one.seconds for one in said),
            tuple(answer for one in said for answer in one.answers),
        )

    def _generate(
        self, ids: list[list[int]], mask: list[list[int]] | None, longest: int, **how: Any
    ) -> Said:
        tokens = torch.tensor(ids)
        seen = torch.ones_like(tokens) if mask is None else torch.tensor(mask)
        began = time.perf_counter()
        output = self._model.generate(
            tokens, attention_mask=seen, max_new_tokens=longest, do_sample=False, **how
        )
        seconds = time.perf_counter() - began
        written = output[:, tokens.shape[1] :].tolist()
        return Said(seconds, tuple(self._to_the_end(answer) for answer in written))

    def _to_the_end(self, answer: list[int]) -> tuple[int, ...]:
        """Without what a padded batch wrote after the end."""
        for place, token in enumerate(answer):
            if token in self._ends:
                return tuple(answer[: place + 1])
        return tuple(answer)


def _collected(manager: Any, count: int) -> dict[str, tuple[int, ...]]:
    """Answers by request, as soon as all are there."""
    found: dict[str, tuple[int, ...]] = {}
    while len(found) < count:
        result = manager.get_result(timeout=1)
        if result is None and not manager.is_running():
            raise RuntimeError(f"generation ended after {len(found)} of {count} answers")
        if result is not None and result.is_finished():
            found[result.request_id] = tuple(result.generated_tokens)
    return found


def _load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).eval()


def methods(folder: Path, assistant: Path | None = None) -> Methods:
    """What a worker can be called for."""
    own = Transformers(folder, assistant=assistant)
    return {
        "generate": own.plain,
        "assisted": own.assisted,
        "prompt lookup": own.lookup,
        "padded generate": own.padded,
        "generate_batch": own.continuous,
    }
