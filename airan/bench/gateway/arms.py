"""What stands between the clients and the engine: nothing, airan in three ways, LiteLLM."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from airan.bench.gateway.client import Target
from airan.bench.gateway.engine import MODEL
from airan.bench.processes import free_port, running, tree

NAMES = {
    "ray": "airan",
    "alone": "airan without Ray",
    "proxy": "airan behind Ray Serve's proxy",
}


@dataclass(frozen=True)
class Arm:
    """A gateway that runs."""

    target: Target
    processes: Callable[[], list[psutil.Process]]

    def cpu_s(self) -> float:
        """CPU seconds of its processes so far."""
        return sum(_quietly(lambda one: sum(one.cpu_times()[:2]), one) for one in self.processes())

    def memory_mib(self) -> float:
        """Memory that its processes have for themselves."""
        return sum(
            _quietly(lambda one: one.memory_full_info().uss / 2**20, one)
            for one in self.processes()
        )


def _quietly(read: Callable[[psutil.Process], float], process: psutil.Process) -> float:
    try:
        return read(process)
    except psutil.Error:
        return 0.0


@contextmanager
def engine(token_ms: float) -> Iterator[int]:
    """The simulated engine's port."""
    command = [sys.executable, "-m", "airan.bench.gateway.engine", str(token_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def direct(engine_port: int) -> Iterator[Arm]:
    """No gateway."""
    yield Arm(Target("engine alone", engine_port, "none", MODEL), list)


@contextmanager
def airan(engine_port: int, how: str = "ray") -> Iterator[Arm]:
    """Our gateway: `ray`, as `airan up` runs it; `alone`, without Ray; `proxy`, behind Serve's."""
    with tempfile.TemporaryDirectory(prefix="airan-bench-") as folder:
        admin_key, port = secrets.token_hex(16), free_port()
        command = [sys.executable, "-m", "airan.bench.gateway.ours", folder, str(port)]
        command += [str(engine_port), how]
        environment = os.environ | {"AIRAN_BENCH_ADMIN_KEY": admin_key}
        with running(command, environment, port, "/readyz") as process:
            key = _new_key(port, admin_key)
            yield Arm(Target(NAMES[how], port, key, MODEL), lambda: _ours(process, folder))


@contextmanager
def litellm(engine_port: int, program: Path) -> Iterator[Arm]:
    """LiteLLM's proxy, one worker."""
    with tempfile.TemporaryDirectory(prefix="airan-bench-") as folder:
        key, port = "sk-" + secrets.token_hex(16), free_port()
        config = Path(folder) / "config.yaml"
        config.write_text(
            "model_list:\n"
            f"  - model_name: {MODEL}\n"
            "    litellm_params:\n"
            f"      model: openai/{MODEL}\n"
            f"      api_base: http://127.0.0.1:{engine_port}/v1\n"
            "      api_key: none\n"
            "litellm_settings:\n"
            "  telemetry: false\n"
            f"general_settings:\n  master_key: {key}\n",
            encoding="utf-8",
        )
        command = [str(program), "--config", str(config), "--port", str(port)]
        command += ["--host", "127.0.0.1", "--num_workers", "1"]
        environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        with running(command, environment, port, "/health/liveliness") as process:
            target = Target(version_of(program), port, key, MODEL)
            yield Arm(target, lambda: tree(psutil.Process(process)))


def version_of(program: Path) -> str:
    """LiteLLM with its version, as its own environment has it."""
    python = program.parent / "python"
    ask = "import importlib.metadata as m; print(m.version('litellm'))"
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    return f"LiteLLM {done.stdout.strip() or 'of unknown version'}"


def _new_key(port: int, admin_key: str) -> str:
    headers = {"authorization": f"Bearer {admin_key}"}
    base = f"http://127.0.0.1:{port}/admin/v1"
    with httpx.Client(trust_env=False, timeout=30.0, headers=headers) as http:
        http.post(f"{base}/tenants", json={"name": "bench"}).raise_for_status()
        made = http.post(f"{base}/keys", json={"tenant": "bench", "name": "bench"})
        made.raise_for_status()
        return str(made.json()["key"])


def _ours(pid: int, folder: str) -> list[psutil.Process]:
    """Its process, or those of Ray that its session started, wherever they hang."""
    found = {one.pid: one for one in tree(psutil.Process(pid))}
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if one.environ().get("AIRAN_BENCH_FOLDER") == folder:
                found[one.pid] = one
    return list(found.values())
