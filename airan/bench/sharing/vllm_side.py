"""The AI side played by vLLM: its own engine, scheduler and KV cache, with random weights in a
model's shape, kept busy with as many sequences as it may run at once.

The engine is stepped in this process, so that the end of each step is seen. Prompts are token ids
and nothing is decoded into text: neither a tokenizer nor weights have to be downloaded.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airan.core.errors import InvalidInputError, UnavailableError

_SEED = 1


@dataclass(frozen=True)
class ModelShape:
    """A Llama-like model.

    Attributes:
        hidden, ffn: widths of the model and of its feed-forward part.
        n_layers, n_heads, n_kv_heads: layers, attention heads, heads of keys and values.
        vocabulary: tokens.
        dtype: of weights and cache.
    """

    hidden: int = 4096
    ffn: int = 14336
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int = 8
    vocabulary: int = 128_256
    dtype: str = "bfloat16"

    def config(self) -> dict[str, Any]:
        """As a model's `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": self.dtype,
        }


LLAMA_8B = ModelShape()


@dataclass(frozen=True)
class VllmLoad:
    """What the engine is given.

    Attributes:
        batch: sequences at once.
        step_tokens: most tokens of one step, of prompts and answers; None: vLLM's own.
        prompt_tokens: of each request.
        answer_tokens: least and most of each request, drawn evenly. Those of the beginning are
            given a part of theirs as prompt, so that contexts are as long then as later.
        memory_share: of the device's memory, for weights, cache and all; the rest is the slots'.
        shape: the model.
        options: further ones of vLLM's EngineArgs.

    Raises:
        InvalidInputError: out of range.
    """

    batch: int = 128
    step_tokens: int | None = None
    prompt_tokens: int = 256
    answer_tokens: tuple[int, int] = (512, 2048)
    memory_share: float = 0.6
    shape: ModelShape = LLAMA_8B
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise InvalidInputError("batch", f"must be at least 1, got {self.batch}")
        if self.step_tokens is not None and self.step_tokens < self.batch:
            raise InvalidInputError(
                "step_tokens",
                f"must be at least the batch of {self.batch}, got {self.step_tokens}",
                remedy="each sequence takes a token a step",
            )

    def engine_args(self, model_dir: str) -> dict[str, Any]:
        """For vLLM's EngineArgs."""
        found = {
            "model": model_dir,
            "load_format": "dummy",
            "skip_tokenizer_init": True,
            "dtype": self.shape.dtype,
            "max_model_len": self.prompt_tokens + self.answer_tokens[1],
            "max_num_seqs": self.batch,
            "gpu_memory_utilization": self.memory_share,
            "enable_prefix_caching": False,
            "cudagraph_capture_sizes": _sizes(self.batch),
            "disable_log_stats": True,
            "seed": _SEED,
        }
        if self.step_tokens is not None:
            found["max_num_batched_tokens"] = self.step_tokens
        return found | self.options


def _sizes(batch: int) -> list[int]:
    """Batches that get CUDA graphs: few, as each gear has its own, and the batch among them."""
    return sorted({*(size for size in (8, 32, 64, 128, 256) if size < batch), batch, 2 * batch})


class VllmSide:
    """An engine in this process, always with as many sequences as it may run.

    Attributes:
        version: of vLLM.
        n_ended: requests that ended.
        n_wrong: of these, those that got more or fewer tokens than they asked for.
    """

    def __init__(self, load: VllmLoad, board: str = "") -> None:
        """Loads it and captures its graphs, which takes a minute or so.

        Args:
            load: what it is given.
            board: of the gears it runs in; empty: it takes what there is.

        Raises:
            UnavailableError: vLLM is not installed, or does not start.
        """
        # Steps are made here, and not in a process of the engine's own.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            import vllm
            from vllm.sampling_params import RequestOutputKind
        except ImportError as error:
            raise UnavailableError(
                f"vLLM cannot be imported: {error}", remedy="install vllm beside this project"
            ) from error
        gears = {}
        if board:
            os.environ["AIRAN_SM_BOARD"] = board
            ours = "marketplace.engines.vllm_gears"
            gears = {"worker_cls": f"{ours}.GearWorker", "scheduler_cls": f"{ours}.GearScheduler"}
        self.version = str(vllm.__version__)
        self._load, self._random = load, random.Random(_SEED)
        self._delta = RequestOutputKind.DELTA
        self._params = vllm.SamplingParams
        self._numbers = iter(range(1 << 62))
        with tempfile.TemporaryDirectory(prefix="airan-shape-") as folder:
            (Path(folder) / "config.json").write_text(
                json.dumps(load.shape.config()), encoding="utf-8"
            )
            args = vllm.EngineArgs(**load.engine_args(folder), **gears)
            try:
                self._engine = vllm.LLMEngine.from_engine_args(args)
            except Exception as error:  # vLLM raises errors of many libraries
                raise UnavailableError(f"vLLM does not start: {error}") from error
        self._left: dict[str, int] = {}
        self.n_ended = self.n_wrong = 0
        for _ in range(load.batch):
            self._add(self._random.random())
        # Until every sequence is past its prompt.
        while sum(1 for _ in self._new_tokens()) < load.batch:
            pass

    def run(self, goes_on: Callable[[], bool]) -> tuple[list[float], list[int]]:
        """Steps until told to stop: when each step ended (perf_counter, s), and its new tokens."""
        ended_s: list[float] = []
        tokens: list[int] = []
        while goes_on():
            n = sum(self._new_tokens())
            ended_s.append(time.perf_counter())
            tokens.append(n)
        return ended_s, tokens

    def _new_tokens(self) -> Iterator[int]:
        """Makes a step: the tokens it gave each sequence. One that ended has a successor."""
        for output in self._engine.step():
            n_new = len(output.outputs[0].token_ids)
            self._left[output.request_id] -= n_new
            yield n_new
            if output.finished:
                self.n_ended += 1
                self.n_wrong += self._left.pop(output.request_id) != 0
                self._add()

    def _add(self, done_part: float = 0.0) -> None:
        """One more request, of whose answer so much is made already."""
        load = self._load
        answer_tokens = self._random.randint(*load.answer_tokens)
        done_tokens = int(done_part * answer_tokens)
        n_prompt = load.prompt_tokens + done_tokens
        name = str(next(self._numbers))
        self._left[name] = answer_tokens - done_tokens
        params = self._params(
            max_tokens=self._left[name],
            ignore_eos=True,
            detokenize=False,
            output_kind=self._delta,
        )
        prompt = self._random.choices(range(10, load.shape.vocabulary), k=n_prompt)
        self._engine.add_request(name, {"prompt_token_ids": prompt}, params)
