"""The target's token of every tree row, noise included, and the walk along them, in Triton."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def choose_tokens(
    scores, seconds, tokens, logits, starts, positions, keys, temperatures,
    logit_row, requests, vocabulary, spare,
    REQUESTS: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The best and second best score of one row among ``SHARE`` tokens; a tie: the lowest id."""
    row, share = tl.program_id(0), tl.program_id(1)
    each = tl.arange(0, REQUESTS)
    ends = tl.load(starts + 1 + each, mask=each < requests, other=2147483647)
    request = tl.sum((ends <= row).to(tl.int32), 0)
    out = row.to(tl.int64) * tl.num_programs(1) + share
    if request >= requests:  # a row of nobody
        return
    temperature = tl.load(temperatures + request)
    key_0 = tl.load(keys + request * 2).to(tl.uint32)
    key_1 = tl.load(keys + request * 2 + 1).to(tl.uint32)
    position = tl.load(positions + row) + 1  # of the token that is chosen
    low, high = position.to(tl.uint32), (position >> 32).to(tl.uint32)
    divisor = tl.where(temperature > 0.0, temperature, 1.0)

    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float64)
    second = tl.full([BLOCK], float("-inf"), tl.float64)
    chosen = tl.zeros([BLOCK], tl.int32)
    first = share * SHARE
    for start in range(first, tl.minimum(first + SHARE, vocabulary), BLOCK):
        token = start + lane
        logit = tl.load(
            logits + row.to(tl.int64) * logit_row + token,
            mask=token < vocabulary, other=float("-inf"),
        )  # fmt: skip
        score = logit.to(tl.float64) / divisor
        broken = score != score
        # What trails the best by more than any noise can lift it needs none.
        hopeful = tl.max(tl.where(broken, float("-inf"), score), 0) > tl.max(best, 0) - spare
        if (temperature > 0.0) & hopeful:
            score = score + gumbel_noise(token, low, high, key_0, key_1)
        score = tl.where(broken, float("inf"), score)  # it wins, and is refused at the end
        better = score > best
        second = tl.maximum(second, tl.where(better, best, score))
        chosen = tl.where(better, token, chosen)
        best = tl.where(better, score, best)
    top = tl.max(best, 0)
    winner = tl.min(tl.where(best == top, chosen, 2147483647), 0)
    rival = tl.max(tl.where((best == top) & (chosen == winner), second, best), 0)
    tl.store(scores + out, top)
    tl.store(seconds + out, rival)
    tl.store(tokens + out, winner)


@triton.jit
def walk_rows(
    walked, targets, gaps, counts, scores, seconds, choices, starts, parents, drafted,
    shares, STEPS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One request: from row 0 to the child that carries the row's token, until there is none."""
    request = tl.program_id(0)
    start = tl.load(starts + request)
    size = tl.load(starts + request + 1) - start
    row = tl.arange(0, ROWS)
    real = row < size
    at = (start + row).to(tl.int64)
    best = tl.full([ROWS], float("-inf"), tl.float64)
    second = tl.full([ROWS], float("-inf"), tl.float64)
    token = tl.zeros([ROWS], tl.int32)
    for share in range(shares):
        score = tl.load(scores + at * shares + share, mask=real, other=float("-inf"))
        rival = tl.load(seconds + at * shares + share, mask=real, other=float("-inf"))
        choice = tl.load(choices + at * shares + share, mask=real, other=0)
        better = score > best
        second = tl.maximum(tl.maximum(second, rival), tl.where(better, best, score))
        token = tl.where(better, choice, token)
        best = tl.where(better, score, best)
    decided = real & (tl.abs(best) < float("inf"))  # neither NaN nor without any token
    gap = (tl.where(decided, best, 0.0) - tl.where(decided, second, 0.0)).to(tl.float32)
    parent = tl.load(parents + at, mask=real, other=-1)
    draft = tl.load(drafted + at, mask=real, other=-1)
    current = tl.where(size > 0, 0, -1)
    count = current * 0
    for step in tl.static_range(STEPS):
        here = (row == current) & decided
        found = tl.sum(here.to(tl.int32), 0) > 0
        own = tl.sum(tl.where(here, token, 0), 0)
        place = request.to(tl.int64) * STEPS + step
        tl.store(walked + place, tl.where(found, current, -1))
        tl.store(targets + place, tl.where(found, own, -1).to(tl.int64))
        tl.store(gaps + place, tl.where(found, tl.sum(tl.where(here, gap, 0.0), 0), 0.0))
        count += found.to(tl.int32)
        child = (parent == current) & (draft == own) & real
        below = tl.max(tl.where(child, row, -1), 0)
        current = tl.where(found, below, -1)
    tl.store(counts + request, count)


@triton.jit
def gumbel_noise(token, low, high, key_0, key_1):
    """Noise of tokens at a position, float64: -log(-log((word + 1/2) / 2**32))."""
    word = philox(token.to(tl.uint32), low, high, key_0, key_1)
    uniform = (word.to(tl.float64) + 0.5) * 2.3283064365386963e-10
    return -tl.log(-tl.log(uniform))


@triton.jit
def philox(word_0, word_1, word_2, key_0, key_1):
    """First word of Philox4x32-10 of the counter (word_0, word_1, word_2, 0)."""
    zero = word_0 & 0
    word_1, word_2, word_3 = zero + word_1, zero + word_2, zero
    multiplier_0 = zero + 0xD2511F53
    multiplier_1 = zero + 0xCD9E8D57
    for _ in tl.static_range(10):
        high_0, low_0 = tl.umulhi(word_0, multiplier_0), word_0 * multiplier_0
        high_1, low_1 = tl.umulhi(word_2, multiplier_1), word_2 * multiplier_1
        word_0, word_1 = high_1 ^ word_1 ^ key_0, low_1
        word_2, word_3 = high_0 ^ word_3 ^ key_1, low_0
        key_0 = key_0 + 0x9E3779B9
        key_1 = key_1 + 0xBB67AE85
    return word_0
