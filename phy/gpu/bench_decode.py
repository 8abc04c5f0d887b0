"""A neighbour for the slots: decode steps of a language model's shape, a stand-in for an engine.

A step streams every weight of an 8B model once, as matrix products of the batch with each layer's
weights, in binary16. There is no attention, no KV cache, no sampling and no scheduler: it loads
the GPU's memory and tensor cores as decoding does, and computes nothing of use.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from airan.core.errors import InvalidInputError
from phy.gpu.module import require_cupy

_AHEAD = 2
_PATTERN = 2**24
_LOWEST = 1 << 16
"""Steps below the highest stream priority: the driver gives its lowest."""
_PAUSE_S = 0.0005


@dataclass(frozen=True)
class DecodeShape:
    """A dense transformer's matrices.

    Attributes:
        hidden, ffn, kv: widths: of the model, of the feed-forward part, of keys (and values).
        n_layers: layers.
        vocabulary: tokens.
    """

    hidden: int = 4096
    ffn: int = 14336
    kv: int = 1024
    n_layers: int = 32
    vocabulary: int = 128_256

    def matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each product of a step, in order."""
        layer = [
            (self.hidden, self.hidden + 2 * self.kv),
            (self.hidden, self.hidden),
            (self.hidden, 2 * self.ffn),
            (self.ffn, self.hidden),
        ]
        return [*layer * self.n_layers, (self.hidden, self.vocabulary)]


LLAMA_8B = DecodeShape()


@contextmanager
def _always() -> Iterator[bool]:
    yield True


class DecodeLoad:
    """Decode steps one after the other, on the whole GPU or on one part of it at a time."""

    def __init__(self, batch: int, shape: DecodeShape = LLAMA_8B) -> None:
        """Allocates and warms up.

        Args:
            batch: sequences, each of which gets a token a step.
            shape: of the model.

        Raises:
            GpuUnavailableError: no CuPy or no GPU.
            InvalidInputError: no batch.
        """
        if batch < 1:
            raise InvalidInputError("batch", f"must be at least 1, got {batch}")
        self._cupy = require_cupy()
        from phy.gpu.partition import take_part

        part = take_part(None)
        self._n_sms = part.n_sms
        self._streams = [part.new_stream(_LOWEST)]
        self._stream = self._streams[0]
        self._left = self._stream.record()
        matrices = shape.matrices()
        self._weights = [self._filled(n_in, n_out) for n_in, n_out in matrices]
        self._inputs = {n_in: self._filled(batch, n_in) for n_in, _ in matrices}
        sizes = {n_out for _, n_out in matrices}
        self._outputs = {n: self._cupy.empty((batch, n), self._cupy.float16) for n in sizes}
        self._cupy.cuda.Device().synchronize()
        for _ in range(3):
            self._queue().synchronize()

    def divide(self, gears: Sequence[tuple[int, int]]) -> None:
        """Makes parts to run on: of each gear, how many multiprocessors come before the part, and
        how many it has; one as large as the GPU is the GPU, one of none is a pause.

        Raises:
            InvalidInputError: there are not so many.
            UnavailableError: the driver refuses.
        """
        from phy.gpu.partition import take_rest

        whole = self._streams[0]
        self._streams = [
            take_rest(first, n_sms).new_stream(_LOWEST) if 0 < n_sms < self._n_sms else whole
            for first, n_sms in gears
        ]

    def shift(self, gear: int) -> None:
        """Has the steps from now on run in that gear, after those before."""
        self._left = self._stream.record()
        self._stream = self._streams[gear]
        self._stream.wait_event(self._left)

    def enter(self) -> None:
        """Nothing: a step's stream is named where it is queued."""

    def settle(self) -> None:
        """Waits until the steps before the last `shift` are done."""
        self._left.synchronize()

    def run(
        self,
        goes_on: Callable[[], bool],
        step: Callable[[], AbstractContextManager[bool]] = _always,
    ) -> list[float]:
        """Runs steps while `goes_on`; returns when each ended, s on the monotonic clock.

        Args:
            goes_on: tells when to stop.
            step: entered to queue a step; says whether there is one now.
        """
        ended_s: list[float] = []
        under_way: deque[Any] = deque()
        while goes_on():
            with step() as is_one:
                if is_one:
                    under_way.append(self._queue())
            if not is_one:
                time.sleep(_PAUSE_S)
            if len(under_way) == _AHEAD or (under_way and not is_one):
                under_way.popleft().synchronize()
                ended_s.append(time.perf_counter())
        while under_way:
            under_way.popleft().synchronize()
            ended_s.append(time.perf_counter())
        return ended_s

    def _queue(self) -> Any:
        with self._stream:
            for weight in self._weights:
                n_in, n_out = weight.shape
                self._cupy.matmul(self._inputs[n_in], weight, out=self._outputs[n_out])
            done = self._cupy.cuda.Event(block=True, disable_timing=True)
            done.record(self._stream)
        return done

    def _filled(self, n_rows: int, n_columns: int) -> Any:
        """Values of a weight's size: zeros would draw less power than a model does."""
        cupy = self._cupy
        generator = cupy.random.default_rng(n_rows + n_columns)
        n = n_rows * n_columns
        values = generator.standard_normal(min(n, _PATTERN), dtype=cupy.float32) * 0.02
        out = cupy.empty(n, cupy.float16)
        for start in range(0, n, values.size):
            out[start : start + values.size] = values[: n - start]
        return out.reshape(n_rows, n_columns)
