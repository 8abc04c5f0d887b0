"""Net present value, internal rate of return and payback of monthly cash flows.

Arrays are float64[run, month]; month 0 is the investment. The sign convention is the usual one:
what is spent is negative.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_LOWEST, _HIGHEST = -0.5, 4.0
_HALVINGS = 48


def monthly(rate_per_year: Floats) -> Floats:
    """The monthly rate that compounds to `rate_per_year`."""
    return np.asarray((1.0 + rate_per_year) ** (1.0 / 12.0) - 1.0, dtype=np.float64)


def npv(rate_per_month: Floats, flows: Floats) -> Floats:
    """Present value at month 0 of `flows`, float64[run], month t divided by (1 + rate)^t."""
    factor = 1.0 / (1.0 + rate_per_month)
    value = flows[:, -1].copy()
    for month in range(flows.shape[1] - 2, -1, -1):
        value *= factor
        value += flows[:, month]
    return value


def irr_per_year(flows: Floats) -> Floats:
    """The yearly rate at which each run's net present value is nought, by bisection; float64[run].

    NaN where flows never change sign, change it more than once (then there may be several such
    rates, and none means anything), or where the rate lies outside -50 % to 400 % a month.
    """
    signs = np.sign(flows)
    nonzero = np.where(signs == 0, np.nan, signs)
    filled = _forward_filled(nonzero)
    changes = np.sum(filled[:, 1:] * filled[:, :-1] < 0, axis=1)
    low = np.full(len(flows), _LOWEST)
    high = np.full(len(flows), _HIGHEST)
    at_low, at_high = npv(low, flows), npv(high, flows)
    found = (changes == 1) & (np.sign(at_low) * np.sign(at_high) < 0)
    rising = at_high > at_low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        goes_up = (npv(middle, flows) > 0) != rising
        low = np.where(goes_up, middle, low)
        high = np.where(goes_up, high, middle)
    yearly = (1.0 + (low + high) / 2) ** 12 - 1.0
    return np.where(found, yearly, np.nan)


def _forward_filled(signs: Floats) -> Floats:
    columns = np.where(np.isnan(signs), 0, np.arange(signs.shape[1]))
    last = np.maximum.accumulate(columns, axis=1)
    return np.asarray(np.nan_to_num(np.take_along_axis(signs, last, axis=1)), dtype=np.float64)


def payback_month(flows: Floats) -> Floats:
    """The first month by whose end what was spent has come back; NaN: never. float64[run]."""
    back = np.cumsum(flows, axis=1) >= 0
    back[:, 0] = False
    return np.where(back.any(axis=1), back.argmax(axis=1), np.nan)
