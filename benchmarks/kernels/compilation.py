"""`python -m benchmarks.kernels.compilation`: compiles every kernel for a card that is not here.

Prints registers, spilled bytes and shared memory of each. Must run without TRITON_INTERPRET.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import __file__ as NVIDIA
from triton.compiler import ASTSource

from benchmarks.kernels.cases import Shape
from kernels import triton_attention, triton_commit, triton_expansion, triton_walk
from kernels.paged_attention import MERGE_SHARE
from kernels.paged_commit import BLOCK as COMMIT_BLOCK
from kernels.paged_commit import LAYERS, ROWS
from kernels.paged_plan import ITEM_FIELDS, MERGE_FIELDS
from kernels.tiles import padded, tile_for
from kernels.tree_walk import BLOCK, SHARE

POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}
ALIGNED = re.compile(r"_(row|head|page|slot|layer)$")  # strides that are multiples of 16


class Source(NamedTuple):
    """One kernel with everything the compiler must know."""

    name: str
    function: Any
    types: Mapping[str, str]  # of arguments; the rest are i32
    constants: Mapping[str, int | bool]
    warps: int = 4
    stages: int = 3


class Compiled(NamedTuple):
    """What came of it."""

    name: str
    registers: int
    spilled: int  # bytes of stack a thread
    shared: int  # bytes


def compile_for(source: Source, capability: int) -> Compiled:
    """Compile for compute capability ``capability`` (80, 89, 90); no GPU is needed."""
    names = source.function.arg_names
    types = {
        name: "constexpr" if name in source.constants else source.types.get(name, "i32")
        for name in names
    }
    aligned = [["tt.divisibility", 16]]
    attributes = {
        (index,): aligned
        for index, name in enumerate(names)
        if types[name].startswith("*") or (ALIGNED.search(name) and name != "table_row")
    }
    made = triton.compile(
        ASTSource(
            fn=source.function,
            signature=types,
            constexprs={(names.index(key),): value for key, value in source.constants.items()},
            attrs=attributes,
        ),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": source.warps, "num_stages": source.stages},
    )
    registers, stack = _usage(made.asm["cubin"])
    return Compiled(source.name, registers, stack, made.metadata.shared)


def attention(shape: Shape, rows: int, **options: bool) -> Source:
    """The attention kernel for batches whose largest request has ``rows`` packed rows."""
    tile, pointer = tile_for(rows, shape.head_size, shape.dtype), POINTERS[shape.dtype]
    names = ("out", "q", "keys", "values", "tree_keys", "tree_values")
    types = dict.fromkeys(names, pointer) | {
        "lse": "*fp32", "part_out": "*fp32", "part_lse": "*fp32", "tables": "*i32",
        "depths": "*i32", "items": "*i32", "words": "*i64", "scale": "fp32", "softcap": "fp32",
    }  # fmt: skip
    constants = {
        "D": shape.head_size, "BLOCK_D": padded(shape.head_size), "GROUPS": shape.groups,
        "KEY_HEADS": shape.key_heads, "PAGE": shape.page, "WORDS": 1, "FIELDS": ITEM_FIELDS,
        "ROWS": tile.rows, "COLUMNS": tile.columns, "UPCAST": False,
        **{name: options.get(name, False) for name in ("SOFTCAP", "WINDOW", "LSE")},
    }  # fmt: skip
    dtype = str(shape.dtype).removeprefix("torch.")
    extras = "".join(f", {name.lower()}" for name in options)
    name = f"attention, {rows} rows, D {shape.head_size}, page {shape.page}, {dtype}{extras}"
    return Source(name, triton_attention.attend_items, types, constants, tile.warps, tile.stages)


def companions() -> Iterator[Source]:
    """Every other kernel, as Llama 8B would launch it."""
    floats = dict.fromkeys(("lse", "part_out", "part_lse"), "*fp32")
    yield Source(
        "merge of splits", triton_attention.merge_splits,
        floats | {"out": "*bf16", "merges": "*i32"},
        {"D": 128, "BLOCK_D": 128, "GROUPS": 4, "KEY_HEADS": 8, "FIELDS": MERGE_FIELDS,
         "ROWS": 64, "SHARE": MERGE_SHARE, "LSE": False},
    )  # fmt: skip
    ints = dict.fromkeys(
        ("depths", "parents", "starts", "contexts", "tokens", "choices", "walked", "counts",
         "drafted", "tables", "leads", "path"), "*i32",
    )  # fmt: skip
    yield Source(
        "expansion, 256 rows", triton_expansion.expand_parents,
        ints | {"words": "*i64", "positions": "*i64"},
        {"WORDS": 4, "WIDE": 4, "ROWS": 256, "ROUNDS": 8},
    )  # fmt: skip
    doubles = dict.fromkeys(("scores", "seconds", "temperatures"), "*fp64")
    yield Source(
        "choice of tokens", triton_walk.choose_tokens,
        ints | doubles | {"logits": "*bf16", "positions": "*i64", "keys": "*i64", "spare": "fp32"},
        {"REQUESTS": 32, "SHARE": SHARE, "BLOCK": BLOCK},
    )  # fmt: skip
    yield Source(
        "walk, 256 rows, 17 steps", triton_walk.walk_rows,
        ints | doubles | {"targets": "*i64", "gaps": "*fp32"}, {"STEPS": 17, "ROWS": 256},
    )  # fmt: skip
    yield Source(
        "commit", triton_commit.commit_accepted,
        ints | {"pages": "*bf16", "scratch": "*bf16", "page_layer": "i64"},
        {"PAGE": 64, "STEPS": 9, "WIDTH": 2048, "ROWS": ROWS, "LAYERS": LAYERS,
         "BLOCK": COMMIT_BLOCK},
    )  # fmt: skip


def every_tile() -> Iterator[Source]:
    """The attention kernel of every tile, and with every option at once."""
    for dtype in (torch.bfloat16, torch.float32):
        for size in (64, 128, 256):
            for rows in (16, 32, 64, 128):
                yield attention(Shape(size, 8, 4, 64, dtype), rows)
    options = {"SOFTCAP": True, "WINDOW": True, "LSE": True}
    yield attention(Shape(80, 8, 3, 16, torch.float16), 64, **options)
    yield attention(Shape(96, 8, 5, 128, torch.float16), 128, **options)


def _usage(binary: bytes) -> tuple[int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        tool = Path(NVIDIA).parent / "bin" / "cuobjdump"
        said = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


def main() -> int:
    """Compile and print, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capability", type=int, default=90)
    parser.add_argument("--all", action="store_true", help="every tile of attention")
    options = parser.parse_args()
    few = [attention(Shape(128, 8, 4, 64, torch.bfloat16), 64)]
    for source in [*(every_tile() if options.all else few), *companions()]:
        print(json.dumps(compile_for(source, options.capability)._asdict()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
