"""Times calls: replays of a captured graph on a GPU, plain calls elsewhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Call = Callable[[], object]


def median_seconds(calls: Sequence[Call], device: torch.device, repeats: int) -> float:
    """Median time of one of ``calls``, which do the same on different memory.

    On a GPU all are captured into one graph and replayed: no launch from Python is timed, and the
    memory of one call has left the cache when its turn comes again.
    """
    if device.type != "cuda":
        return statistics.median(_once(calls) for _ in range(repeats))
    replay = _captured(calls)
    for _ in range(3):
        replay()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / len(calls))
    return statistics.median(times)


def eager_seconds(call: Call, device: torch.device, repeats: int) -> float:
    """Median wall time of one call, its host work and the wait for the device included."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def _captured(calls: Sequence[Call]) -> Call:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles and warms up what may not happen during a capture
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph.replay


def _once(calls: Sequence[Call]) -> float:
    begin = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - begin) / len(calls)
