"""What a slot costs: a line fitted to measured slots, tied to the device they were measured on."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.channel import ChannelConfig
from phy.checks import check_integer, check_range
from phy.pusch.config import PuschConfig

_REWEIGHTINGS = 20
# Huber's constant: 95% efficient on normal residuals.
_HUBER = 1.345


@dataclass(frozen=True)
class CostModel:
    """Time to receive one uplink slot: `base_us + us_per_prb * n_prb`.

    Attributes:
        base_us: cost of an almost empty slot.
        us_per_prb: cost of each PRB.
        error_us: the fit's typical miss: 1.4826 times the median absolute residual.
        n_slots: measured slots it rests on.
        max_n_prb: PRBs of the full slot, the largest measured.
        device: what it was measured on; see `device_name`.
    """

    base_us: float
    us_per_prb: float
    error_us: float
    n_slots: int
    max_n_prb: int
    device: str

    def slot_us(self, n_prb: int, device: str) -> float:
        """Returns the expected time of a slot of `n_prb` on `device`; 0 for an idle slot.

        Raises:
            InvalidInputError: another device than the one measured, or n_prb out of range.
        """
        self.check_device(device)
        check_integer("n_prb", n_prb, 0, self.max_n_prb)
        return 0.0 if n_prb == 0 else self.base_us + self.us_per_prb * n_prb

    def relative_cost(self, n_prb: float) -> float:
        """Returns the cost of `n_prb` as a part of the full slot's, in [0, 1]; 0 for none.

        Raises:
            InvalidInputError: n_prb is out of [0, max_n_prb].
        """
        check_range("n_prb", n_prb, 0, self.max_n_prb)
        if n_prb == 0:
            return 0.0
        full_us = self.base_us + self.us_per_prb * self.max_n_prb
        return (self.base_us + self.us_per_prb * n_prb) / full_us

    def check_device(self, device: str) -> None:
        """Raises InvalidInputError unless `device` is the one the model was measured on."""
        check_same_device(self.device, device)

    def to_json(self) -> str:
        """Returns the model as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CostModel:
        """Reads what `to_json` wrote.

        Raises:
            InvalidInputError: no JSON object with exactly the model's fields, or figures that are
                negative, not finite or all zero.
        """
        try:
            model = cls(**json.loads(text))
            figures = (model.base_us, model.us_per_prb, model.error_us, model.max_n_prb)
            usable = all(0 <= figure < math.inf for figure in figures)
            usable = usable and model.max_n_prb > 0 and isinstance(model.device, str)
            usable = usable and model.base_us + model.us_per_prb > 0
        except (ValueError, TypeError) as error:
            raise InvalidInputError("cost_model", f"is no cost model: {error}") from error
        if not usable:
            raise InvalidInputError("cost_model", "has figures that no fit gives, or no device")
        return model


def check_same_device(measured: str, asked: str) -> None:
    """Raises InvalidInputError unless a cost model measured on one device is asked of the same."""
    if asked != measured:
        raise InvalidInputError(
            "device",
            f"the cost model was measured on {measured!r}, not on {asked!r}",
            remedy="measure a cost model on this device",
        )


def fit(samples: Sequence[tuple[int, float]], device: str) -> CostModel:
    """Fits a line to (n_prb, us) of measured slots, least squares with Huber's weights.

    Neither term may be negative: a slot has no negative cost, and more PRBs are never cheaper.

    Raises:
        InvalidInputError: fewer than 4 samples, all of one n_prb, or figures not finite and
            positive.
    """
    table = np.asarray(samples, dtype=np.float64).reshape(-1, 2)
    if len(table) < 4 or np.unique(table[:, 0]).size < 2:
        raise InvalidInputError("samples", "need at least 4 slots of at least 2 values of n_prb")
    if not (np.isfinite(table).all() and (table > 0).all()):
        raise InvalidInputError("samples", "must all be finite and positive")
    n_prb, us = table.T
    weights = np.ones_like(us)
    for _ in range(_REWEIGHTINGS):
        base, slope = _non_negative_line(n_prb, us, weights)
        residuals = np.abs(us - base - slope * n_prb)
        spread = 1.4826 * float(np.median(residuals))
        limit = max(_HUBER * spread, 1e-9)
        weights = limit / np.maximum(residuals, limit)
    return CostModel(base, slope, spread, len(table), int(n_prb.max()), device)


def measure(
    config: PuschConfig, channel: ChannelConfig, n_prbs: Sequence[int], repeats: int = 10
) -> CostModel:
    """Receives real slots of every size in `n_prbs`, `repeats` of each, and fits the model to them.

    The radio (UE and channel) is simulated and not timed. Takes a few ms a slot.

    Raises:
        InvalidInputError: `n_prbs` has a value out of range or fewer than two different ones.
    """
    from phy.runtime.radio import SimulatedUplink

    samples = []
    for n_prb in n_prbs:
        source = SimulatedUplink(config, channel, load=partial(_constant, n_prb))
        for slot in range(-1, repeats):
            prepared = source.prepare(max(slot, 0))
            if prepared is None:
                raise InvalidInputError("n_prbs", "must be positive")
            # The thread's own CPU time: what else the machine does then is not the slot's cost.
            started_s = time.thread_time()
            prepared.receive(prepared.grid)
            if slot >= 0:  # The first one fills tables.
                samples.append((n_prb, (time.thread_time() - started_s) * 1e6))
    return fit(samples, device_name())


def device_name() -> str:
    """Names the machine the CPU receiver runs on: processor model and core count."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores"


def _constant(n_prb: int, _slot: int) -> int:
    return n_prb


def _non_negative_line(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> tuple[float, float]:
    mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = np.average((x - mean_x) ** 2, weights=weights)
    slope = float(np.average((x - mean_x) * (y - mean_y), weights=weights) / spread)
    base = float(mean_y - slope * mean_x)
    if slope < 0:
        return float(mean_y), 0.0
    if base < 0:
        return 0.0, float((weights * x * y).sum() / (weights * x * x).sum())
    return base, slope
