"""On what a replay ran and how it was scaled: stands beside every row."""

from __future__ import annotations

from airan.bench.replay.engine import N_SLOTS
from airan.bench.replay.run import ReplayOptions
from airan.bench.replay.site import GPU
from airan.bench.replay.trace import NAME, SHIPPED
from airan.bench.rows import hardware


def describe(options: ReplayOptions) -> str:
    """One line."""
    trace = options.trace
    name = NAME if trace.path == SHIPPED else trace.path.name
    until_s = trace.start_s + trace.duration_s * trace.speed_up
    revoked = (
        f"lease revoked every {options.revoke_every_s:g} s with {options.notice_ms} ms of notice, "
        f"the GPU kept for {options.held_s:g} s"
        if options.revoke_every_s
        else "no revocations"
    )
    return (
        f"{hardware()}; {options.model} on llama.cpp, {options.n_threads} thread(s), {N_SLOTS} "
        f"slots, its speed not bound to the SIMULATED {GPU} on which its lease lies; {name}, "
        f"seconds {trace.start_s:g} to {until_s:g} at {trace.speed_up:g} times its pace, one "
        f"request in {trace.every}, tokens times {trace.token_scale:g}; {revoked}; gateway "
        f"without Ray, clients on the same machine"
    )
