"""Turns a local Hugging Face directory into a model that can be served, or says why not."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jinja2 import TemplateError
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from verifier.chat import chat_tokens
from verifier.checkpoint import Checkpoint, digest, read_checkpoint
from verifier.errors import ModelRefused, RequestRefused
from verifier.int8 import quantize
from verifier.limits import longest_context, rotary_switch
from verifier.memory import free_bytes, free_device_bytes
from verifier.network import Network
from verifier.proven import LoadingPath, proven_network

logger = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16", "float16", "int8"]
Device = Literal["cpu", "cuda", "auto"]

_DTYPES = {  # what is computed in; int8 is how linear layers are kept
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.bfloat16,
}
_IN_A_LAYER = re.compile(r"\.(layers|h|blocks)\.\d+\.")
_RECURRENT = ("mamba", "rwkv", "jamba", "zamba", "recurrent", "xlstm", "lfm", "bamba", "retnet")
_TEXT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "vocab.json", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
_SIZES = ("num_hidden_layers", "vocab_size", "hidden_size")
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
    network: Network = field(repr=False)
    path: LoadingPath = "lean"
    weight_format: Dtype = "float32"  # how linear layers are kept; computed is in ``dtype``
    fingerprint: str
    weights_digest: bytes
    vocabulary_digest: bytes  # two models may draft for one another when theirs agree
    max_model_len: int
    rotary_switch: int | None = None  # tokens beyond which a text's positions turn otherwise
    vocab_size: int
    eos_token_ids: frozenset[int]

    def render_chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
        """Tokens of ``messages`` under the model's chat template, with the assistant's opening.

        What they say is text: a special token spelled in it is not taken for one.

        Raises:
            RequestRefused: the model has no template, or it refuses these messages.
        """
        if self.tokenizer.chat_template is None:
            raise RequestRefused(f"model {self.name!r} has no chat template", param="messages")
        try:
            return chat_tokens(self.tokenizer, messages)
        except (TemplateError, TypeError, ValueError) as error:
            raise RequestRefused(
                f"the chat template refuses these messages: {error}", param="messages"
            ) from error

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
        ModelRefused: no such directory, pickled or damaged weights, an architecture that cannot be
            served or fails the probe, more memory than this machine has free, or a device that it
            has not.
    """
    folder = Path(path)
    place = device_of(device)
    kind = dtype_of(dtype, place)
    checkpoint = read_checkpoint(folder)
    config = read_config(folder)
    check_sizes(config, checkpoint)
    _check_memory(folder, checkpoint, kind, place)
    tokenizer = _tokenizer(folder)
    context, switch = longest_context(config), rotary_switch(config)
    eight_bits = dtype == "int8"

    def load() -> Any:
        return _weights(folder, kind, eight_bits=eight_bits).to(place)

    proven = proven_network(load, name, context, switch, lean=not eight_bits)
    logger.info(
        "%s (%s) runs on the %s path; scores differ from plain forwards by %.1e deviations",
        name, config.model_type, proven.path, proven.difference,
    )  # fmt: skip
    weights_digest = checkpoint.digest()
    texts = [folder / file for file in _TEXT_FILES if (folder / file).is_file()]
    where = dtype if place.type == "cpu" else f"{dtype} {place.type}"
    return LoadedModel(
        name=name,
        dtype=kind,
        weight_format=dtype,
        config=config,
        tokenizer=tokenizer,
        network=proven.network,
        path=proven.path,
        fingerprint=hashlib.sha256(weights_digest + digest(texts) + where.encode()).hexdigest(),
        weights_digest=weights_digest,
        vocabulary_digest=_vocabulary_digest(tokenizer),
        max_model_len=context,
        rotary_switch=switch,
        vocab_size=proven.vocab_size,
        eos_token_ids=_eos(folder, config, tokenizer),
    )


def device_of(wanted: Device) -> torch.device:
    """The device of that name; "auto" is "cuda" where there is one.

    Raises:
        ModelRefused: it is not there, or not known.
    """
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


def dtype_of(wanted: Dtype, place: torch.device) -> torch.dtype:
    """The dtype of that name.

    Raises:
        ModelRefused: it is not known, or not served on ``place``.
    """
    if wanted not in _DTYPES:
        raise ModelRefused(f"got dtype {wanted!r}; expected one of {sorted(_DTYPES)}")
    if wanted == "float16" and place.type == "cpu":
        raise ModelRefused(
            "got dtype 'float16' on the CPU, which overflows at 65,504 and is slower there than "
            "bfloat16; expected 'float32' or 'bfloat16', or device 'cuda'"
        )
    if wanted == "int8" and place.type != "cpu":
        raise ModelRefused("got dtype 'int8' on a GPU; expected 'bfloat16', or device 'cpu'")
    return _DTYPES[wanted]


def read_config(folder: Path) -> Any:
    """The config of a decoder that might be served.

    Raises:
        ModelRefused: it cannot be read, or its architecture cannot be served.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a config may be wrong in more ways than transformers names
        raise ModelRefused(f"the config of {folder} cannot be used: {error}") from error
    if (folder / "adapter_config.json").exists():
        raise ModelRefused(f"{folder} holds an adapter; expected it merged into the weights")
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused(f"{kind!r} is an encoder-decoder; expected a decoder alone")
    if getattr(config, "quantization_config", None) is not None:
        raise ModelRefused("the weights are quantized; expected float32, float16 or bfloat16 ones")
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if architecture is None:
        raise ModelRefused(f"{kind!r} is no causal language model that transformers knows")
    stateful = getattr(architecture, "_is_stateful", False)
    if stateful or any(word in kind for word in _RECURRENT):
        raise ModelRefused(
            f"{kind!r} keeps a recurrent state, which cannot be rolled back to an accepted draft "
            "token; expected attention in every layer"
        )
    return config


def check_sizes(config: Any, checkpoint: Checkpoint) -> None:
    """Refuse what the weights cannot fill, before anything of that size is built.

    Raises:
        ModelRefused: more layers or embeddings than there are weights for.
    """
    text = config.get_text_config()
    sizes = [getattr(text, name, None) for name in _SIZES]
    if not all(isinstance(size, int) for size in sizes):
        named = dict(zip(_SIZES, sizes, strict=True))
        raise ModelRefused(f"{config.model_type!r} is not served: its config gives {named}")
    layers, vocabulary = int(text.num_hidden_layers), int(text.vocab_size)
    if not 1 <= layers <= len(checkpoint.shapes):
        raise ModelRefused(
            f"the config tells of {layers} layers, but the weights have only "
            f"{len(checkpoint.shapes)} tensors"
        )
    if not 1 <= vocabulary * int(text.hidden_size) <= checkpoint.elements:
        raise ModelRefused(
            f"the config tells of {vocabulary} embeddings of {text.hidden_size} numbers, but the "
            f"weights have only {checkpoint.elements} in all"
        )


def _check_memory(
    folder: Path, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device
) -> None:
    needed = int(checkpoint.elements * dtype.itemsize * LOAD_OVERHEAD)
    found = [one for one in (free_bytes(), free_device_bytes(device)) if one is not None]
    free = min(found) if found else None  # weights pass through the host's memory
    if free is not None and needed > free:
        raise ModelRefused(
            f"{folder} needs about {needed / 2**20:.0f} MiB in {dtype}, but only "
            f"{free / 2**20:.0f} MiB are free"
        )


def _tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # its files may be wrong in more ways than transformers names
        raise ModelRefused(f"the tokenizer of {folder} cannot be used: {error}") from error


def _weights(folder: Path, dtype: torch.dtype, *, eight_bits: bool = False) -> Any:
    transformers_logging.disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # weights may be wrong in more ways than transformers names
        raise ModelRefused(f"the weights of {folder} cannot be used: {error}") from error
    for kind in ("missing_keys", "mismatched_keys"):
        if report.get(kind):  # transformers would fill them with random numbers
            raise ModelRefused(f"the weights of {folder} have {kind}: {sorted(report[kind])[:5]}")
    spare = sorted(key for key in report.get("unexpected_keys", ()) if _IN_A_LAYER.search(key))
    if spare:
        raise ModelRefused(f"the config of {folder} has no place for the weights {spare[:5]}")
    if eight_bits and not quantize(model):
        raise ModelRefused(f"{model.config.model_type!r} has no linear layers to keep in int8")
    _unmap(model)
    return model.eval()


def _unmap(model: Any) -> None:
    """Copy what still lies in the mapped file and stays; a file that changes must harm nobody.

    Linear layers are laid out anew anyway.
    """
    linear = {id(module.weight) for module in model.modules() if type(module) is nn.Linear}
    kept = {id(model.get_input_embeddings().weight)}  # the head of tied models is linear too
    for weight in model.parameters():
        if id(weight) not in linear - kept:
            weight.data = weight.data.clone()


def _vocabulary_digest(tokenizer: Any) -> bytes:
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).digest()


def _eos(folder: Path, config: Any, tokenizer: Any) -> frozenset[int]:
    found = [config.get_text_config().eos_token_id, tokenizer.eos_token_id]
    generation = folder / "generation_config.json"
    if generation.is_file():
        try:
            found.append(json.loads(generation.read_text()).get("eos_token_id"))
        except (OSError, ValueError, AttributeError) as error:
            raise ModelRefused(f"generation_config.json cannot be read: {error!r}") from error
    ids: set[int] = set()
    for entry in found:
        ids.update([] if entry is None else entry if isinstance(entry, list) else [entry])
    return frozenset(ids)
