"""How long it takes until a model whose engines have unloaded it answers again."""

from __future__ import annotations

from collections.abc import Sequence

from marketplace.engines.base import EngineState

_COLD = ("cold", "warming")


class ColdStarts:
    """When each model began to be loaded, as seen here; engines say how long they took last."""

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}

    def note(self, model: str, states: Sequence[EngineState], now_s: float) -> None:
        """The states of the model's engines have changed."""
        if is_cold(states) and any(state.phase == "warming" for state in states):
            self._since_s.setdefault(model, now_s)
        elif any(state.phase in ("ready", "cold") for state in states):
            self._since_s.pop(model, None)

    def wait_s(self, model: str, states: Sequence[EngineState], now_s: float) -> float | None:
        """Seconds until an engine will be there; None: none is cold, or that was not measured.

        As long as the last time; and if that is over, as long again as it has lasted.
        """
        measured = [one.cold_start_s for one in states if one.cold_start_s > 0]
        if not is_cold(states) or not measured:
            return None
        lasted_s = now_s - self._since_s.get(model, now_s)
        left_s = min(measured) - lasted_s
        return left_s if left_s > 0 else lasted_s


def is_cold(states: Sequence[EngineState]) -> bool:
    """Whether no engine is on a lease because they have unloaded the model."""
    return any(state.phase in _COLD for state in states) and all(
        state.phase in (*_COLD, "lost") for state in states
    )
