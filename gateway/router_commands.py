"""The steps of `spillway router`: collect outcomes, train on them, evaluate what came of it."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from gateway.errors import GatewayError
from gateway.generation import Json
from router_model.errors import RouterError
from router_model.outcomes import SPLITS

DEMO_PROMPTS = "demo.prompts:prompts"

Steps = Any  # argparse's subparsers action, which has no public name


class RouterCommandError(GatewayError):
    """A step that cannot be done; the message says what was got and expected."""


def add_steps(steps: Steps) -> None:
    """Add `collect`, `train` and `evaluate` to the subparsers of `spillway router`."""
    _add_collect(steps)
    _add_train(steps)
    _add_evaluate(steps)


def _add_collect(steps: Steps) -> None:
    text = "ask every tier prompts with known answers; append what comes of it to a file"
    parser = steps.add_parser("collect", help=text, description=text)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="outcomes, one JSON object a line; answers it holds already are not asked for again",
    )
    parser.add_argument(
        "--tier",
        action="append",
        required=True,
        metavar="NAME[=URL]",
        help="a tier to ask, and where if not at --url; may be repeated",
    )
    parser.add_argument(
        "--url",
        default="http://127.0.0.1:8000/v1",
        help="a gateway, an engine (unix:/path) or any OpenAI-compatible server "
        "(default: %(default)s)",
    )
    _prompt_options(parser)
    _asking_options(parser)
    parser.set_defaults(run=_told(_collect))


def _prompt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="JSON lines of prompt or messages, expected or pattern, and optionally family and "
        "split; - reads standard input (default: prompts of --source)",
    )
    parser.add_argument(
        "--source",
        default=DEMO_PROMPTS,
        metavar="MODULE:FUNCTION",
        help="a function of split and count that yields such objects (default: %(default)s)",
    )
    parser.add_argument(
        "--split", choices=SPLITS, help="only prompts of this split; required with --source"
    )
    parser.add_argument(
        "-n",
        "--n",
        type=int,
        default=1000,
        metavar="COUNT",
        help="at most this many prompts (default: %(default)s)",
    )


def _asking_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--concurrency",
        type=int,
        default=32,
        metavar="COUNT",
        help="requests sent at once (default: %(default)s)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=512,
        metavar="COUNT",
        help="longest answer (default: %(default)s)",
    )
    parser.add_argument(
        "--no-logprobs",
        action="store_true",
        help="do not ask for log-probs, for servers that refuse them",
    )
    parser.add_argument(
        "--api-key-env", metavar="VARIABLE", help="environment variable that holds the API key"
    )


def _collect(options: argparse.Namespace) -> int:
    from gateway.tiers.collect import Asking, collect

    asking = Asking(
        concurrency=options.concurrency,
        max_tokens=options.max_tokens,
        logprobs=not options.no_logprobs,
    )
    targets = [_target(tier, options) for tier in options.tier]
    added = asyncio.run(
        collect(_prompts(options), targets, options.out, asking=asking, progress=_show)
    )
    print(f"{added} outcomes added to {options.out}", file=sys.stderr)
    return 0


def _target(tier: str, options: argparse.Namespace) -> Any:
    from gateway.tiers.collect import Target

    name, _, url = tier.partition("=")
    return Target(tier=name, url=url or options.url, model=name, api_key_env=options.api_key_env)


def _prompts(options: argparse.Namespace) -> list[Any]:
    from gateway.tiers.graded import parse_prompt, read_prompts

    if options.prompts is None:
        if options.split is None:
            raise RouterCommandError("--split: got nothing, expected one of " + ", ".join(SPLITS))
        records = _function(options.source)(options.split, options.n)
        found = [parse_prompt(record, options.source) for record in records]
    elif str(options.prompts) == "-":
        found = read_prompts(sys.stdin, "standard input")
    else:
        found = read_prompts(options.prompts.open(encoding="utf-8"), str(options.prompts))
    wanted = (prompt for prompt in found if options.split in (None, prompt.split))
    return list(islice(wanted, options.n))


def _function(name: str) -> Callable[[str, int], Iterable[Mapping[str, Json]]]:
    module, _, attribute = name.partition(":")
    sys.path.insert(0, "")  # a checkout's own modules, as `python -m` would find them
    try:
        found: Callable[[str, int], Iterable[Mapping[str, Json]]]
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RouterCommandError(f"--source: got {name!r}, expected a function: {error}") from None
    return found


def _show(tier: str, done: int, total: int, right: int) -> None:
    if done % 50 == 0 or done == total:
        print(f"{tier}: {done} of {total}, {right / done:.1%} right", file=sys.stderr)


def _add_train(steps: Steps) -> None:
    text = "train router and judge on recorded outcomes and solve for the thresholds"
    parser = steps.add_parser("train", help=text, description=text)
    _common_options(parser)
    parser.add_argument(
        "--tier",
        action="append",
        required=True,
        metavar="NAME",
        help="a tier, cheapest first; repeat for each",
    )
    parser.add_argument(
        "--quality",
        type=float,
        default=0.985,
        metavar="SHARE",
        help="least accuracy of the cascade, as a share of the last tier's (default: %(default)s)",
    )
    parser.add_argument(
        "--objective",
        choices=("share", "cost"),
        default="share",
        help="beyond that, answer as much as possible below the last tier, or as cheaply as "
        "possible (default: %(default)s)",
    )
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="NAME=NUMBER",
        help="what a token of a tier's answer costs, in any unit (default: latencies are costs)",
    )
    parser.add_argument(
        "--estimator",
        action="append",
        metavar="NAME",
        help="compare only estimators of this name; may be repeated (default: all)",
    )
    parser.set_defaults(run=_told(_train))


def _train(options: argparse.Namespace) -> int:
    from router_model.simulate import scored
    from router_model.table import table_of
    from router_model.thresholds import Goal, effect, fit_thresholds
    from router_model.train import train

    prices = dict(map(_price, options.price)) or None
    candidates = _candidates(options.estimator)
    outcomes = _read(options.outcomes)
    trained = train(
        table_of(outcomes, "router-train", options.tier), candidates=candidates, say=_say
    )
    trained.router.save(options.router)
    trained.judge.save(options.router)
    fitting = scored(table_of(outcomes, "thresholds", options.tier), *trained, prices)
    thresholds = fit_thresholds(fitting, Goal(options.quality, options.objective))
    predicted = effect(fitting, thresholds)._asdict()
    policy = {
        "tiers": thresholds.document(),
        "goal": {"quality": options.quality, "objective": options.objective},
        "fitted_on": len(fitting),
        "predicted": predicted,
        "prices": prices,
    }
    (options.router / "policy.json").write_text(json.dumps(policy, indent=1) + "\n")
    _say(f"thresholds: {json.dumps(policy)}")
    return 0


def _price(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise RouterCommandError(f"--price: got {text!r}, expected NAME=NUMBER") from None


def _candidates(names: Sequence[str] | None) -> Sequence[Any]:
    from router_model.estimators import CANDIDATES

    known = {candidate.name: candidate for candidate in CANDIDATES}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise RouterCommandError(f"--estimator: got {unknown[0]!r}, expected one of {list(known)}")
    return [known[name] for name in names or known]


def _add_evaluate(steps: Steps) -> None:
    text = "measure a trained router on outcomes of the split test, beside simple baselines"
    parser = steps.add_parser("evaluate", help=text, description=text)
    _common_options(parser)
    parser.add_argument(
        "--page",
        type=Path,
        metavar="FILE",
        help="also write the tables into this Markdown file, between its marks",
    )
    parser.set_defaults(run=_told(_evaluate))


def _evaluate(options: argparse.Namespace) -> int:
    from router_model.classifier import Router
    from router_model.evaluate import evaluate_outcomes
    from router_model.judge import Judge
    from router_model.report import as_markdown, with_measured
    from router_model.thresholds import Goal

    router, judge = Router.load(options.router), Judge.load(options.router)
    policy = json.loads((options.router / "policy.json").read_text())
    report = evaluate_outcomes(
        _read(options.outcomes),
        router,
        judge,
        policy["tiers"],
        prices=policy["prices"],
        goal=Goal(**policy["goal"]),
    )
    (options.router / "evaluation.json").write_text(json.dumps(report, allow_nan=False) + "\n")
    tables = as_markdown(report)
    print(tables)
    if options.page is not None:
        page = options.page.read_text(encoding="utf-8") if options.page.exists() else ""
        options.page.write_text(with_measured(page, tables), encoding="utf-8")
    return 0


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--outcomes",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="what `collect` wrote; may be repeated",
    )
    parser.add_argument(
        "--router",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of the trained router, its judge and its policy",
    )


def _read(paths: Sequence[Path]) -> list[Any]:
    from router_model.outcomes import read_outcomes

    return [outcome for path in paths for outcome in read_outcomes(path)]


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _told(step: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The router's and the files' own errors as the gateway's, which the command line explains."""

    def run(options: argparse.Namespace) -> int:
        try:
            return step(options)
        except (RouterError, OSError, ModuleNotFoundError, ValueError) as error:
            raise RouterCommandError(str(error)) from error

    return run
