"""A certificate holds for a sound engine, and not for one with a fault planted in it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import verifier.cache
from drafting.source import DraftRequest, Reference
from drafting.tree import DraftTree
from kernels.commit import Accepted, commit_rows
from verifier.certificate import certify
from verifier.certificate_cases import MIXES, PROCESSORS, TEMPERATURES, matrix, sample_of, variants
from verifier.certificate_margins import margin_stats
from verifier.certificate_results import Certificate, CertificateOptions
from verifier.certificate_runs import Written, compare
from verifier.certificate_sources import SHAPES, TRUTH, Adversary
from verifier.certificate_text import as_json, as_text
from verifier.errors import ModelRefused
from verifier.request import DecodeReceipt

QUICK = CertificateOptions(requests=6, tokens=12, prompts=("the quick brown", "fox"))


@pytest.fixture(scope="module")
def certificate(llama_path: Path) -> Certificate:
    return certify(llama_path, options=QUICK)


def test_a_sound_engine_is_certified_with_all_that_was_run(certificate: Certificate) -> None:
    assert certificate.held
    assert [one.dtype for one in certificate.matrices] == ["float32", "bfloat16"]
    full = certificate.matrices[0]
    assert full.compared == 6 * len(full.cells)
    assert not full.unexplained and not full.leaks
    assert full.preemptions > 0 and full.prefix_hit_tokens > 0
    assert full.acceptance_lengths()["adversary_deep"] > 6
    assert full.acceptance_lengths()["adversary_wrong"] == 1.0
    assert full.margins.decisions == full.plain_tokens > 0
    assert certificate.generate is not None and certificate.generate.requests == 2


def test_the_json_is_strict_and_agrees_with_the_page(certificate: Certificate) -> None:
    told = json.loads(json.dumps(as_json(certificate), allow_nan=False))
    assert told["held"] is True
    assert (
        told["runs"][0]["texts_equal"] + told["runs"][0]["explained_differences"]
        == (told["runs"][0]["texts_compared"])
    )
    page = as_text(certificate)
    assert page.rstrip().endswith("HELD") and "DID NOT" not in page
    for name, length in told["runs"][0]["acceptance_length"].items():
        assert f"{name:<24}{length:6.2f}" in page


def test_a_fault_in_the_engine_is_not_certified(
    llama_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted rows are taken from where a chain would have them, whatever the tree."""

    def chains_only(kv: Any, accepted: list[Accepted]) -> None:
        commit_rows(kv, [one._replace(rows=range(len(one.rows))) for one in accepted])

    monkeypatch.setattr(verifier.cache, "commit_rows", chains_only)
    options = CertificateOptions(requests=6, tokens=12, dtypes=("float32",))
    broken = certify(llama_path, options=options)
    assert not broken.held
    assert broken.generate is not None and broken.generate.held  # the plain loop is sound
    page = as_text(broken)
    assert "UNEXPLAINED" in page and page.rstrip().endswith("DID NOT HOLD")
    assert as_json(broken)["runs"][0]["unexplained_differences"] > 0


def test_an_output_longer_than_the_context_is_refused(llama_path: Path) -> None:
    with pytest.raises(ModelRefused, match="fewer than the context of 256"):
        certify(llama_path, options=CertificateOptions(tokens=256))


def test_a_draft_of_another_vocabulary_is_refused(llama_path: Path, tiny_ladder: Path) -> None:
    with pytest.raises(ModelRefused, match="vocabularies differ"):
        certify(llama_path, draft=tiny_ladder / "small", options=QUICK)


def test_every_processor_meets_every_temperature_and_later_other_prompts() -> None:
    kinds = len(PROCESSORS) * len(TEMPERATURES)
    found = variants([(1,), (2,), (3,)], requests=2 * kinds, tokens=8, vocabulary=320)
    first, second = found[:kinds], found[kinds:]
    assert len({(repr(one.sampling.temperature), one.name) for one in first}) == kinds
    assert all(a.prompt != b.prompt for a, b in zip(first, second, strict=True))
    assert len({one.sampling.seed for one in found}) == 2 * kinds


def test_the_sample_of_the_matrix_leaves_out_no_source_size_or_mix() -> None:
    names, shapes = ["a", "b", "c", "d", "e"], (1, 5)
    every, some = matrix(names, shapes, MIXES), sample_of(names, shapes, MIXES)
    assert len(every) == 6 * 2 * 4 + 4
    assert set(some) <= set(every)
    assert {cell.mix for cell in some} == set(MIXES)
    assert {cell.max_nodes for cell in some} == set(shapes)
    assert {cell.sources for cell in some} == {cell.sources for cell in every}
    assert "auto" in {cell.mode for cell in some}


def written(tokens: tuple[int, ...], margins: tuple[float, ...], ending: Any = None) -> Written:
    receipt = DecodeReceipt(
        prompt_tokens=1, cached_prompt_tokens=0, output_tokens=len(tokens), steps=1, drafted=0,
        accepted=0, by_source={}, accepted_prediction_tokens=0, rejected_prediction_tokens=0,
        queue_ms=0.0, prefill_ms=0.0, decode_ms=0.0, draft_ms=0.0, narrow_margins=0, seed=0,
    )  # fmt: skip
    return Written(
        tokens=tokens,
        text="".join(map(chr, tokens)),
        margins=margins,
        logprobs=tuple(-margin for margin in margins),
        ending=ending or ("length", None, None),
        receipt=receipt,
    )


def outcome(plain: Written, other: Written) -> Any:
    return compare(plain, other, case="c", variant="v", bound=0.1).difference


def test_a_difference_is_explained_by_the_margin_of_its_own_decision_alone() -> None:
    plain = written((65, 66, 67), (0.01, 0.5, 0.01))
    assert outcome(plain, plain) is None
    second = outcome(plain, written((65, 99, 67), (0.01, 0.001, 0.01)))
    assert (second.place, second.margin, second.explained) == (1, 0.5, False)
    third = outcome(plain, written((65, 66, 99), (0.01, 0.5, 3.0)))
    assert (third.place, third.margin, third.explained) == (2, 0.01, True)


@pytest.mark.parametrize(
    "other",
    [
        written((65, 66), (0.01, 0.5)),
        written((65, 66, 67, 68), (0.01, 0.5, 0.01, 0.01)),
        written((65, 66, 67), (0.01, 0.5, 0.01), ("stop", None, None)),
        written((65, 66, 67), (0.01, 0.5, 0.01), (None, None, "internal error")),
    ],
)
def test_another_end_is_never_explained(other: Written) -> None:
    difference = outcome(written((65, 66, 67), (0.01, 0.5, 0.01)), other)
    assert not difference.explained and difference.margin == math.inf


def test_margins_fall_into_classes_and_infinite_ones_count_as_wide() -> None:
    stats = margin_stats([0.0, 5e-5, 5e-5, 0.02, 3.0, math.inf], bound=1e-4)
    assert (stats.decisions, stats.narrow) == (6, 3)
    assert [count for _, count in stats.histogram] == [1, 2, 0, 0, 1, 0, 2]
    assert dict(stats.percentiles)[50] == 5e-5


def drawn(shape: str, truth: tuple[int, ...], max_nodes: int) -> DraftTree:
    request = DraftRequest(prompt=(1, 2), references=(Reference(TRUTH, (9, *truth)),))
    session = Adversary(shape, vocabulary=50).open(request)
    return session.propose((1, 2, 9), max_nodes=max_nodes)


def right_depth(tree: DraftTree, truth: tuple[int, ...]) -> int:
    node, depth = -1, 0
    children = {
        (parent, token): index
        for index, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True))
    }
    while depth < len(truth) and (node, truth[depth]) in children:
        node, depth = children[node, truth[depth]], depth + 1
    return depth


@pytest.mark.parametrize("max_nodes", [1, 5, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_adversaries_keep_to_their_budget_and_repeat_themselves(shape: str, max_nodes: int) -> None:
    truth = tuple(range(10, 30))
    tree = drawn(shape, truth, max_nodes)
    assert len(tree) <= max_nodes
    assert tree == drawn(shape, truth, max_nodes)
    assert shape == "random" or tree


def test_adversaries_are_what_their_names_say() -> None:
    truth = tuple(range(10, 30))
    found = {shape: drawn(shape, truth, 32) for shape in SHAPES}
    assert right_depth(found["deep"], truth) == 20
    assert right_depth(found["wrong"], truth) == 0
    assert right_depth(found["wide"], truth) == 1 and max(found["wide"].depths()) == 1
    for shape in ("bush", "echo"):
        path = right_depth(found[shape], truth)
        assert path >= 5
        assert len(found[shape]) > path + 5, "branches beside the right path"
