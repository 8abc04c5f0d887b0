"""What a slot costs on the GPU: a law fitted to measured slots, tied to the device they ran on.

The law is a sum of `phy.gpu.cost_features` with weights that are not negative, fitted to the
relative error. It answers only inside the ranges that were measured, each field by itself, and only
for the device that was measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date as day
from importlib import resources

import numpy as np
import numpy.typing as npt

from airan.core.errors import CapacityError, InvalidInputError
from phy.checks import check_integer, check_range
from phy.cost import check_same_device
from phy.gpu.cost_features import CHANNELS, SlotLoad, feature_names, features
from phy.gpu.least_squares import non_negative
from phy.nr.mcs import lookup

SM_STEP = 8
"""Multiprocessors that the GPU splits off together."""

_RANGES = {
    "pusch": ("n_cells", "n_prb", "n_layers", "n_rx", "n_iterations", "n_sms"),
    "pdsch": ("n_cells", "n_prb", "n_layers", "n_sms"),
}
_LEAST_SAMPLES = 8
_MOST_FOLDS = 50

Range = tuple[int, int]


@dataclass(frozen=True)
class FitError:
    """How far the law misses slots that it was not fitted to, relative to their time.

    Attributes:
        median: half of the slots are missed by less.
        p95: 95% are missed by less.
        largest: the worst miss.
    """

    median: float
    p95: float
    largest: float


@dataclass(frozen=True)
class ChannelCost:
    """The law of one channel.

    Attributes:
        us_of: microseconds of one unit of each feature.
        ranges: least and largest value measured, by field of `SlotLoad`.
        mcs: least and largest mcs_index measured, by MCS table.
        error: on measured slots held out of the fit.
        n_samples: measured slots it rests on.
    """

    us_of: Mapping[str, float]
    ranges: Mapping[str, Range]
    mcs: Mapping[int, Range]
    error: FitError
    n_samples: int

    def us(self, load: SlotLoad) -> float:
        """Returns the time of a slot, in the measured ranges or not."""
        return sum(self.us_of[name] * value for name, value in features(load).items())

    def check(self, load: SlotLoad) -> None:
        """Raises InvalidInputError, with the range, if a field of the load was not measured."""
        for field, (low, high) in self.ranges.items():
            _check_measured(field, getattr(load, field), low, high)
        if load.mcs_table not in self.mcs:
            raise _not_measured("mcs_table", load.mcs_table, f"tables {sorted(self.mcs)}")
        _check_measured("mcs_index", load.mcs_index, *self.mcs[load.mcs_table])


@dataclass(frozen=True)
class GpuCostModel:
    """Time of a slot on one kind of GPU, by its load and the multiprocessors granted.

    Attributes:
        device: name of the GPU it was measured on.
        driver: version of its driver then.
        date: day of the measurement, ISO 8601.
        channels: by channel, those that were measured.
    """

    device: str
    driver: str
    date: str
    channels: Mapping[str, ChannelCost]

    def slot_us(self, load: SlotLoad, device: str) -> float:
        """Returns the expected time of a slot in microseconds.

        Raises:
            InvalidInputError: another device than the one measured, or a load outside of what was
                measured; the message says which field and its range.
        """
        self.check_device(device)
        cost = self._channel(load.channel)
        cost.check(load)
        return cost.us(load)

    def sms_needed(self, load: SlotLoad, budget_us: float, device: str) -> int:
        """Returns the fewest multiprocessors on which the slot takes at most `budget_us`.

        They are multiples of 8 that were measured, or the most measured; `load.n_sms` is ignored.

        Raises:
            InvalidInputError: as for `slot_us`, or a budget that is not positive and finite.
            CapacityError: none is enough.
        """
        check_range("budget_us", budget_us, math.ulp(0.0), 1e9)
        self.check_device(device)
        cost = self._channel(load.channel)
        fewest, most = cost.ranges["n_sms"]
        cost.check(replace(load, n_sms=most))
        first = -(-fewest // SM_STEP) * SM_STEP
        offered: list[int] = [*range(first, most, SM_STEP), most]
        for n_sms in offered:
            if cost.us(replace(load, n_sms=n_sms)) <= budget_us:
                return n_sms
        least_us = cost.us(replace(load, n_sms=most))
        raise CapacityError(
            f"the slot takes {least_us:.0f} us on {most} multiprocessors, the budget is "
            f"{budget_us:.0f} us",
            remedy="give the slot fewer cells or PRBs",
        )

    def check_device(self, device: str) -> None:
        """Raises InvalidInputError unless `device` is the one the model was measured on."""
        check_same_device(self.device, device)

    def to_json(self) -> str:
        """Returns the model as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> GpuCostModel:
        """Reads what `to_json` wrote.

        Raises:
            InvalidInputError: no JSON object with exactly the model's fields and features, or
                figures that no fit gives.
        """
        try:
            fields = json.loads(text)
            fields["channels"] = {
                name: _channel_from(name, each) for name, each in fields["channels"].items()
            }
            model = cls(**fields)
            _check_texts(device=model.device, driver=model.driver, date=model.date)
            if not model.channels:
                raise ValueError("it has no channel")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidInputError("cost_model", f"is no GPU cost model: {error}") from error
        return model

    def _channel(self, channel: str) -> ChannelCost:
        if channel not in self.channels:
            raise _not_measured("channel", channel, f"{sorted(self.channels)}")
        return self.channels[channel]


def shipped(device: str) -> GpuCostModel:
    """Returns the model that was measured on a GPU of this name and comes with the package.

    Raises:
        InvalidInputError: none was.
    """
    folder = resources.files("phy.gpu").joinpath("cost_models")
    models = [
        GpuCostModel.from_json(file.read_text("utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".json")
    ]
    for model in models:
        if model.device == device:
            return model
    names = ", ".join(sorted(repr(model.device) for model in models))
    raise InvalidInputError(
        "device",
        f"no cost model was measured on {device!r}, only on {names}",
        remedy="measure one: airan bench phy --gpu --section cost --cost-model FILE",
    )


def fit(
    samples: Sequence[tuple[SlotLoad, float]], device: str, driver: str, date: str
) -> GpuCostModel:
    """Fits the law to measured slots, each channel by itself.

    Args:
        samples: loads, and the microseconds they took.
        device: name of the GPU, as `slot_us` will be asked.
        driver: its driver's version.
        date: of the measurement, ISO 8601.

    Raises:
        InvalidInputError: no samples, fewer than 8 of a channel, times that are not finite and
            positive, an empty text, or a date that is none.
    """
    _check_texts(device=device, driver=driver, date=date)
    if not samples:
        raise InvalidInputError("samples", "must not be empty")
    if not all(0 < us < math.inf for _, us in samples):
        raise InvalidInputError("samples", "must all have finite and positive times")
    channels = {}
    for channel in CHANNELS:
        own = [(load, us) for load, us in samples if load.channel == channel]
        if own:
            channels[channel] = _fit_channel(channel, own)
    return GpuCostModel(device, driver, date, channels)


def _fit_channel(channel: str, samples: Sequence[tuple[SlotLoad, float]]) -> ChannelCost:
    if len(samples) < _LEAST_SAMPLES:
        raise InvalidInputError(
            "samples", f"need at least {_LEAST_SAMPLES} slots of the {channel}, got {len(samples)}"
        )
    names = feature_names(channel)
    loads = [load for load, _ in samples]
    # Divided by the time, so that the fit minimises relative errors.
    relative = np.array([[features(load)[n] / us for n in names] for load, us in samples])
    weights = non_negative(relative, np.ones(len(samples)))
    tables = sorted({load.mcs_table for load in loads})
    return ChannelCost(
        us_of=dict(zip(names, weights.tolist(), strict=True)),
        ranges={f: _range([int(getattr(load, f)) for load in loads]) for f in _RANGES[channel]},
        mcs={t: _range([each.mcs_index for each in loads if each.mcs_table == t]) for t in tables},
        error=_held_out_error(relative),
        n_samples=len(samples),
    )


def _held_out_error(relative: npt.NDArray[np.float64]) -> FitError:
    """Every sample is left out of one fit, alone while there are few of them."""
    n_samples = len(relative)
    fold = np.arange(n_samples) % min(n_samples, _MOST_FOLDS)
    misses = np.empty(n_samples)
    for each in range(int(fold.max()) + 1):
        is_out = fold == each
        weights = non_negative(relative[~is_out], np.ones(int((~is_out).sum())))
        misses[is_out] = np.abs(relative[is_out] @ weights - 1)
    median, p95 = np.quantile(misses, (0.5, 0.95))
    return FitError(float(median), float(p95), float(misses.max()))


def _range(values: Sequence[int]) -> Range:
    return min(values), max(values)


def _check_measured(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise _not_measured(field, value, f"{low} to {high}")


def _not_measured(field: str, value: object, measured: str) -> InvalidInputError:
    return InvalidInputError(
        field,
        f"was not measured at {value}, only {measured}",
        remedy="measure a cost model that covers it",
    )


def _check_texts(**texts: object) -> None:
    for field, text in texts.items():
        if not isinstance(text, str) or not text:
            raise InvalidInputError(field, f"must be a text that is not empty, got {text!r}")
    try:
        day.fromisoformat(str(texts["date"]))
    except ValueError as error:
        raise InvalidInputError("date", f"must be YYYY-MM-DD, got {texts['date']!r}") from error


def _channel_from(channel: str, fields: dict[str, object]) -> ChannelCost:
    """Raises ValueError, TypeError, KeyError or AttributeError for what `to_json` did not write."""
    cost = ChannelCost(
        **{  # type: ignore[arg-type]
            **fields,
            "error": FitError(**fields["error"]),  # type: ignore[arg-type]
            "ranges": {f: _range_from(r) for f, r in fields["ranges"].items()},  # type: ignore[attr-defined]
            "mcs": {int(t): _range_from(r) for t, r in fields["mcs"].items()},  # type: ignore[attr-defined]
        }
    )
    if tuple(sorted(cost.us_of)) != tuple(sorted(feature_names(channel))):
        raise ValueError(f"the features of the {channel} are others")
    if set(cost.ranges) != set(_RANGES[channel]) or not cost.mcs:
        raise ValueError(f"the ranges of the {channel} are others")
    for table, indices in cost.mcs.items():
        for index in indices:
            lookup(table, index)
    figures = (*cost.us_of.values(), *asdict(cost.error).values())
    if not all(isinstance(f, float) and 0 <= f < math.inf for f in figures):
        raise ValueError("it has figures that no fit gives")
    if not any(cost.us_of.values()):
        raise ValueError("every slot is free of cost")
    check_integer("n_samples", cost.n_samples, _LEAST_SAMPLES, 1 << 62)
    return cost


def _range_from(pair: object) -> Range:
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError(f"{pair!r} is no range")
    low, high = pair
    check_integer("low", low, 0, 1 << 31)
    check_integer("high", high, low, 1 << 31)
    return int(low), int(high)
