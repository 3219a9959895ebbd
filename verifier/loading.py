"""Turns a local Hugging Face directory into a model that can be served, or says why not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from verifier.errors import ModelRefused, RequestRefused
from verifier.llama import MODEL_TYPES, LlamaNetwork, check_config
from verifier.memory import free_bytes, free_device_bytes

Dtype = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda", "auto"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_RECURRENT = ("mamba", "rwkv", "jamba", "zamba", "recurrent", "xlstm", "lfm", "bamba", "retnet")
_TEXT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
LOAD_OVERHEAD = 1.25  # of the weights: one layer twice while it is fused, and the loader's buffers


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """Weights, tokenizer and chat template of one decoder.

    ``fingerprint`` is the hex SHA-256 over weights, config, tokenizer, template and dtype, and
    over the kind of device where that is not the CPU;
    ``weights_digest`` is the SHA-256 over the weight files alone (32 bytes).
    """

    name: str
    dtype: torch.dtype
    config: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    network: LlamaNetwork = field(repr=False)
    fingerprint: str
    weights_digest: bytes
    vocabulary_digest: bytes  # two models may draft for one another when theirs agree
    max_model_len: int
    vocab_size: int
    eos_token_ids: frozenset[int]

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Tokens of ``messages`` under the model's chat template, with the assistant's opening.

        Raises:
            RequestRefused: the model has no template, or it refuses these messages.
        """
        if self.tokenizer.chat_template is None:
            raise RequestRefused(f"model {self.name!r} has no chat template", param="messages")
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise RequestRefused(
                f"the chat template refuses these messages: {error}", param="messages"
            ) from error
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode(self, text: str, *, special: bool = True) -> tuple[int, ...]:
        """Tokens of plain ``text``, with the special tokens the tokenizer adds if ``special``."""
        return tuple(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens``, special tokens left out, spaces as they are."""
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is not None:  # a quarter of the time, and this runs for every token
            return str(fast.decode(list(tokens), skip_special_tokens=True))
        text: str = self.tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def token_text(self, token: int) -> str:
        """How one token reads, special or not."""
        text: str = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text


def load_model(
    path: str | Path, *, dtype: Dtype = "float32", device: Device = "cpu", name: str
) -> LoadedModel:
    """Load a decoder from ``path``: safetensors only, local files only, never remote code.

    ``device`` "auto" is "cuda" where there is such a device, else "cpu".

    Raises:
        ModelRefused: no such directory, pickled weights, an architecture that cannot be served,
            more memory than this machine has free, or a device that it has not.
    """
    folder = Path(path)
    place = _device(device)
    if dtype not in _DTYPES:
        raise ModelRefused(f"got dtype {dtype!r}; expected one of {sorted(_DTYPES)}")
    weights = _weight_files(folder)
    config = _config(folder)
    _check_memory(folder, weights, _DTYPES[dtype], place)
    tokenizer = _tokenizer(folder)
    network = LlamaNetwork(_weights(folder, _DTYPES[dtype]).to(place))
    weights_digest = _digest(weights)
    texts = [folder / file for file in _TEXT_FILES if (folder / file).is_file()]
    kind = dtype if place.type == "cpu" else f"{dtype} {place.type}"
    fingerprint = hashlib.sha256(weights_digest + _digest(texts) + kind.encode()).hexdigest()
    return LoadedModel(
        name=name,
        dtype=_DTYPES[dtype],
        config=config,
        tokenizer=tokenizer,
        network=network,
        fingerprint=fingerprint,
        weights_digest=weights_digest,
        vocabulary_digest=_vocabulary_digest(tokenizer),
        max_model_len=int(config.max_position_embeddings),
        vocab_size=int(network.head.shape[0]),
        eos_token_ids=_eos(folder, config, tokenizer),
    )


def _device(wanted: Device) -> torch.device:
    there = torch.cuda.is_available()
    if wanted == "auto":
        return torch.device("cuda" if there else "cpu")
    if wanted not in ("cpu", "cuda"):
        raise ModelRefused(f"got device {wanted!r}; expected cpu, cuda or auto")
    if wanted == "cuda" and not there:
        built = torch.version.cuda or "no CUDA"
        raise ModelRefused(
            f"got device 'cuda', but PyTorch finds none (it is built for {built}); "
            "expected an NVIDIA card and a CUDA build of PyTorch, or device 'cpu'"
        )
    return torch.device(wanted)


def _weight_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ModelRefused(f"{folder} is no directory; expected one with a model in it")
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
    if pickled:
        raise ModelRefused(
            f"{folder} holds only pickled weights ({', '.join(pickled)}), which can run code when "
            "loaded; expected *.safetensors"
        )
    raise ModelRefused(f"{folder} holds no weights; expected *.safetensors")


def _config(folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelRefused(f"the config of {folder} cannot be used: {error}") from error
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused(f"{kind!r} is an encoder-decoder; expected a decoder alone")
    if any(word in kind for word in _RECURRENT):
        raise ModelRefused(
            f"{kind!r} keeps a recurrent state, which cannot be rolled back to an accepted draft "
            "token; expected attention in every layer"
        )
    if kind not in MODEL_TYPES:
        raise ModelRefused(
            f"{kind!r} is not served; expected one of {', '.join(sorted(MODEL_TYPES))}"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise ModelRefused("the weights are quantized; expected float32, float16 or bfloat16 ones")
    check_config(config)
    return config


def _check_memory(
    folder: Path, weights: Sequence[Path], dtype: torch.dtype, device: torch.device
) -> None:
    needed = int(sum(_elements(file) for file in weights) * dtype.itemsize * LOAD_OVERHEAD)
    found = [one for one in (free_bytes(), free_device_bytes(device)) if one is not None]
    free = min(found) if found else None  # weights pass through the host's memory
    if free is not None and needed > free:
        raise ModelRefused(
            f"{folder} needs about {needed / 2**20:.0f} MiB in {dtype}, but only "
            f"{free / 2**20:.0f} MiB are free"
        )


def _elements(file: Path) -> int:
    """Numbers in a safetensors file, from its header alone."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= min(100 * 2**20, file.stat().st_size):
            raise ModelRefused(
                f"{file.name} is no safetensors file: its header claims {size} bytes"
            )
        try:
            header = json.loads(stream.read(size))
        except ValueError as error:
            raise ModelRefused(f"{file.name} is no safetensors file: {error}") from error
    shapes = (entry["shape"] for key, entry in header.items() if key != "__metadata__")
    return sum(_product(shape) for shape in shapes)


def _product(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelRefused(f"the tokenizer of {folder} cannot be used: {error}") from error


def _weights(folder: Path, dtype: torch.dtype) -> Any:
    transformers_logging.disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelRefused(f"the weights of {folder} cannot be used: {error}") from error
    for kind in ("missing_keys", "mismatched_keys"):
        if report.get(kind):  # transformers would fill them with random numbers
            raise ModelRefused(f"the weights of {folder} have {kind}: {sorted(report[kind])[:5]}")
    return model.eval()


def _digest(files: Sequence[Path]) -> bytes:
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(
                file.name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest()
            )
    return total.digest()


def _vocabulary_digest(tokenizer: Any) -> bytes:
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).digest()


def _eos(folder: Path, config: Any, tokenizer: Any) -> frozenset[int]:
    found = [config.eos_token_id, tokenizer.eos_token_id]
    generation = folder / "generation_config.json"
    if generation.is_file():
        found.append(json.loads(generation.read_text()).get("eos_token_id"))
    ids: set[int] = set()
    for entry in found:
        ids.update([] if entry is None else entry if isinstance(entry, list) else [entry])
    return frozenset(ids)
