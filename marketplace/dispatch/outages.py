"""How long a model is without an engine when it is."""

from __future__ import annotations

_KEEP = 0.7


class Outages:
    """Times without any engine on a lease, by model, as measured."""

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}
        self._mean_s: dict[str, float] = {}
        self._seen: set[str] = set()

    def note(self, model: str, ready: bool, now_s: float) -> float:
        """Whether the model has an engine from now on. The time before its first is no outage.

        Returns the seconds that an outage lasted which ends with this, or 0.
        """
        lasted_s = 0.0
        if ready:
            self._seen.add(model)
            since_s = self._since_s.pop(model, None)
            if since_s is not None:
                lasted_s, mean_s = now_s - since_s, self._mean_s.get(model)
                kept_s = lasted_s if mean_s is None else _KEEP * mean_s + (1 - _KEEP) * lasted_s
                self._mean_s[model] = kept_s
        elif model in self._seen:
            self._since_s.setdefault(model, now_s)
        return lasted_s

    def forget(self, model: str) -> None:
        """The model is without an engine because nobody wants it: that is no outage."""
        self._since_s.pop(model, None)

    def wait_s(self, model: str, now_s: float) -> float | None:
        """How long the outage will last: as long as they do, and if that is over, as long again.

        None: there is none, or there never was an engine.
        """
        since_s = self._since_s.get(model)
        if since_s is None:
            return None
        return max(now_s - since_s, self._mean_s.get(model, 0.0))
