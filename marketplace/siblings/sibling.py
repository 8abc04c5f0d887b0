"""What the gateways of one database know of each other. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

TierCounts = tuple[int, int, int]
"""Jobs of the tiers priority, default and flex."""
NONE: TierCounts = (0, 0, 0)


@dataclass(frozen=True)
class EngineUse:
    """What a gateway has under way on an engine.

    Attributes:
        running: its jobs there, by tier.
        slots: the engine's slots that they are on.
    """

    running: TierCounts = NONE
    slots: tuple[int, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a gateway tells the others, several times a second.

    Attributes:
        waiting: its jobs in line for an engine, by model and tier.
        engines: what it has under way, by the engine's address as its server gives it
            (`EngineState.url`).
        stats: how it stands, as `/admin/v1/stats` shows it.
    """

    waiting: Mapping[str, TierCounts] = field(default_factory=dict)
    engines: Mapping[str, EngineUse] = field(default_factory=dict)
    stats: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """The reverse; what a newer gateway says beside is left out."""
        return cls(
            {model: _tiers(counts) for model, counts in values["waiting"].items()},
            {
                url: EngineUse(_tiers(use["running"]), tuple(map(int, use["slots"])))
                for url, use in values["engines"].items()
            },
            dict(values["stats"]),
        )


@dataclass(frozen=True)
class Sibling:
    """Another gateway on the same database, as it was a moment ago.

    Attributes:
        id: of this life of it.
        number: its seat, the lowest that was free when it came; the lowest of all leads.
        url: where it is reached, itself and not another one; empty: nowhere.
        report: its last one.
    """

    id: str
    number: int
    url: str
    report: Report


def _tiers(counts: Any) -> TierCounts:
    priority, default, flex = map(int, counts)
    return priority, default, flex
