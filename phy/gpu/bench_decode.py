"""A neighbour for the slots: decode steps of a language model's shape, a stand-in for an engine.

A step streams every weight of an 8B model once, as matrix products of the batch with each layer's
weights, in binary16. There is no attention, no KV cache, no sampling and no scheduler: it loads
the GPU's memory and tensor cores as decoding does, and computes nothing of use.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from airan.core.errors import InvalidInputError
from phy.gpu.module import require_cupy

_AHEAD = 2
_PATTERN = 2**24


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

    @property
    def weight_bytes(self) -> int:
        """Of all matrices, in binary16."""
        return 2 * sum(n_in * n_out for n_in, n_out in self.matrices())


LLAMA_8B = DecodeShape()


class DecodeLoad:
    """Decode steps one after the other on one part of the GPU."""

    def __init__(
        self,
        batch: int,
        rest_of: int | None,
        n_sms: int | None = None,
        shape: DecodeShape = LLAMA_8B,
    ) -> None:
        """Allocates and warms up.

        Args:
            batch: sequences, each of which gets a token a step.
            rest_of: run in a green context on all multiprocessors but so many; None: on all.
            n_sms: on so many of these only.
            shape: of the model.

        Raises:
            GpuUnavailableError: no CuPy or no GPU.
            InvalidInputError: no batch, or no multiprocessor is left.
        """
        if batch < 1:
            raise InvalidInputError("batch", f"must be at least 1, got {batch}")
        self._cupy = require_cupy()
        from phy.gpu.partition import take_part, take_rest

        self.part = take_part(None) if rest_of is None else take_rest(rest_of, n_sms)
        self._stream = self.part.new_stream(lower=100)  # the lowest priority there is
        matrices = shape.matrices()
        self._weights = [self._filled(n_in, n_out) for n_in, n_out in matrices]
        self._inputs = {n_in: self._filled(batch, n_in) for n_in, _ in matrices}
        sizes = {n_out for _, n_out in matrices}
        self._outputs = {n: self._cupy.empty((batch, n), self._cupy.float16) for n in sizes}
        self._cupy.cuda.Device().synchronize()
        for _ in range(3):
            self._queue().synchronize()

    def run(self, goes_on: Callable[[], bool]) -> list[float]:
        """Runs steps while `goes_on`; returns when each ended, s on the monotonic clock."""
        ended_s: list[float] = []
        under_way: deque[Any] = deque()
        while goes_on():
            under_way.append(self._queue())
            if len(under_way) == _AHEAD:
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
