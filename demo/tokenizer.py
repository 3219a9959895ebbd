"""The one tokenizer of the ladder: byte-level pairs learnt from the tasks, single digits."""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demo.tasks import generate
from demo.tasks.words import ADJECTIVES, CITIES, COLOURS, JOBS, NAMES, NOUNS

VOCABULARY = 2560
BOS, END, PAD = "<|begin|>", "<|end|>", "<|pad|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, BOS, END, SYSTEM, USER, ASSISTANT)

PIECES = (
    r"\d"
    r"| ?\p{L}+"
    r"| ?[^\s\p{L}\d]+(?: [^\s\p{L}\d]+)*(?: (?=\d))?"
    r"|\n+ *"
    r"|\s+"
)
"""A digit, a word, a run of punctuation (with the blank before a digit), or blanks."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>"
    "{% elif message['role'] in ('system', 'developer') %}<|system|>"
    "{% else %}<|user|>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}"
    "{% elif message['content'] %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful, honest and brief assistant. Answer with nothing but the answer.",
    "Answer exactly.",
    "You are an expert. Think carefully, then give the answer only.",
)

PLAIN_TEXT = (
    "The gateway sends every request to the smallest model that can answer it well. Hello! "
    "How are you today? Thank you very much. I would like to know what you can do for me. "
    "Please write a short story about this, and tell me why it is so. What is the capital of "
    "France? Explain your answer in one sentence. Yes, no, maybe; that's all, isn't it?"
)


def _corpus(prompts: int) -> Iterator[str]:
    for task in generate("ladder-train", seed=0, n=prompts):
        yield task.prompt
        yield task.answer
    words = "\n".join(NOUNS + NAMES + ADJECTIVES + CITIES + JOBS + COLOURS)
    for _ in range(prompts // 50):
        yield from (*SYSTEM_PROMPTS, PLAIN_TEXT, words, "\n".join(NOUNS).upper())


def train_tokenizer(prompts: int = 30_000) -> PreTrainedTokenizerFast:
    """Learn the merges; equal on every machine, for the tasks are."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(prompts), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a saved ladder model."""
    return PreTrainedTokenizerFast.from_pretrained(folder)
