"""vLLM with a small model of random weights, for tests."""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from marketplace.engines.vllm_host import VllmHost, VllmSettings

MODEL = "random-llama"
N_CONTEXT = 1024
ROOT = Path(__file__).parents[2]


def settings_for(folder: Path) -> VllmSettings:
    """Makes the model in the folder; skips the test where there is no vLLM."""
    python = ROOT / ".venv-vllm" / "bin" / "python"
    if not (python.parent.parent / ".done").exists():
        pytest.skip("vLLM is not installed here: make setup-vllm")
    script = Path(__file__).with_name("random_llama.py")
    subprocess.run([python, script, folder / "model"], check=True, timeout=100)
    return VllmSettings(
        folder / "model",
        MODEL,
        python,
        folder / "vllm.log",
        N_CONTEXT,
        args=("--enforce-eager",),
        env={"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"},
        start_timeout_s=300.0,
    )


@contextmanager
def served(settings: VllmSettings) -> Iterator[str]:
    """A server whose host lives in a thread; gives its address."""
    loop, stop, host = asyncio.new_event_loop(), asyncio.Event(), VllmHost(settings)
    begun, failures = threading.Event(), list[BaseException]()

    async def run() -> None:
        try:
            await host.start()
            begun.set()
            await stop.wait()
        except BaseException as error:
            failures.append(error)
        finally:
            await host.stop()
            begun.set()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(settings.start_timeout_s + 30)
    if failures:
        raise failures[0]
    try:
        yield host.url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
