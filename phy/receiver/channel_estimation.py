"""Channel estimation from the DM-RS of one slot: least squares, Wiener in frequency and in time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from phy.array import Array, array_module
from phy.receiver import delay_profile, linear, time_interpolation
from phy.receiver.delay_profile import DelayProfile, DelayWindow
from phy.receiver.offsets import symbol_times_s, timing_offset_ns
from phy.receiver.pilots import PilotReader
from phy.receiver.time_interpolation import TimeModel
from phy.receiver.wiener import FilterDesign, FrequencyFilter
from phy.shared_channel.config import N_SYMBOLS, SharedChannelConfig

EstimatorName: TypeAlias = Literal["wiener", "ls"]


@dataclass(frozen=True)
class ChannelEstimate:
    """What the pilots said.

    Attributes:
        at_positions: complex64[rx, layer, position, 12 n_prb], smoothed.
        noise_var: variance of the complex noise on a resource element.
        profiles: delay profile of each UE's layers.
        timing_offset_ns: mean delay of each UE's channel.
        motion: how each UE's channel moves.
        residual_part: by CDM group, variance of what the estimates leave of the noise on the
            DM-RS, relative to the noise.
    """

    at_positions: Array
    noise_var: float
    profiles: tuple[DelayProfile, ...]
    timing_offset_ns: tuple[float, ...]
    motion: tuple[TimeModel, ...]
    residual_part: dict[int, float]


class ChannelEstimator:
    """Estimates the channels of UEs that share an allocation and its DM-RS sequence."""

    def __init__(
        self,
        users: Sequence[SharedChannelConfig],
        window: DelayWindow | None = None,
        method: EstimatorName = "wiener",
    ) -> None:
        """`window` is where paths are expected if the allocation is too narrow to see them; "ls"
        interpolates least-squares estimates linearly, "wiener" smooths them."""
        self._method = method
        self._config = config = users[0]
        self.reader = PilotReader(users)
        self._window = window or DelayWindow.within_cyclic_prefix(config.scs_khz)
        self._n_users = len(users)
        self._layers_of = [
            [i for i, layer in enumerate(self.reader.layers) if layer.user == user]
            for user in range(self._n_users)
        ]
        self._filters = {
            offset: FrequencyFilter(config.prb_runs, self.reader.spacing, offset)
            for offset in set(self.reader.offsets)
        }
        per_prb = 12 // self.reader.spacing
        longest = max(count for _, count in config.prb_runs)
        self._is_narrow = longest * per_prb < delay_profile.LEAST_PILOTS
        self._longest_runs = [
            slice(first * per_prb, (first + count) * per_prb)
            for first, count in config.prb_runs
            if count == longest
        ]

    def __call__(
        self, grid: Array, pilots: Array, slot_number: int, noise_var: float | None
    ) -> ChannelEstimate:
        """Estimates the channel of one slot.

        Args:
            grid: complex64[rx, 14, 12 n_prb], the allocation.
            pilots: complex64[dmrs symbol, pilot] as sent.
            slot_number: slot within the frame.
            noise_var: variance of the complex noise on a resource element; None: estimated.
        """
        raw = self.reader(grid, pilots)
        known = noise_var
        if known is None and self._is_narrow:
            known = self.reader.spare_power(grid, pilots)
        profiles, noise = self._profiles(raw, known)
        if self._method == "ls":
            smooth, error_var, residual_part = self._interpolated(raw, noise)
        else:
            smooth, error_var, residual_part = self._smooth(raw, profiles, noise)
        motion = self._motion(smooth, slot_number, error_var)
        if noise_var is None:
            noise_var = noise / self.reader.noise_factor
        return ChannelEstimate(
            at_positions=smooth,
            noise_var=noise_var,
            profiles=profiles,
            timing_offset_ns=tuple(
                self._timing(raw, layers, profile)
                for layers, profile in zip(self._layers_of, profiles, strict=True)
            ),
            motion=motion,
            residual_part=residual_part,
        )

    def _profiles(
        self, raw: Array, noise_var: float | None
    ) -> tuple[tuple[DelayProfile, ...], float]:
        """Each UE's delay profile, and the variance of the noise on a least-squares estimate."""
        given = None if noise_var is None else noise_var * self.reader.noise_factor
        found = [self._profile(raw, layers, given) for layers in self._layers_of]
        noise = float(np.mean([each for _, each in found])) if given is None else given
        return tuple(profile for profile, _ in found), noise

    def _profile(
        self, raw: Array, layers: list[int], noise_var: float | None
    ) -> tuple[DelayProfile, float]:
        reader = self.reader
        has_partner = any(reader.layers[layer].has_partner for layer in layers)
        part = self._on_longest_runs(raw, layers)
        if not self._is_narrow:
            return delay_profile.estimate(
                part, reader.spacing, self._config.scs_khz, has_partner, noise_var
            )
        power, noise_var = delay_profile.fit_flat(
            part, reader.spacing, self._config.scs_khz, has_partner, self._window, noise_var
        )
        return delay_profile.flat_profile(power, self._window), noise_var

    def _on_longest_runs(self, raw: Array, layers: list[int]) -> Array:
        """The estimates of some layers, with the longest runs of PRBs as if they were positions."""
        runs = [raw[:, layers, :, run] for run in self._longest_runs]
        return runs[0] if len(runs) == 1 else array_module(raw).concatenate(runs, axis=2)

    def _timing(self, raw: Array, layers: list[int], profile: DelayProfile) -> float:
        """Mean delay in ns: of the profile, or by the phase where it is only assumed."""
        if not self._is_narrow:
            return profile.mean_ns if raw.any() else math.nan
        reader = self.reader
        lag = 2 if any(reader.layers[layer].has_partner for layer in layers) else 1
        part = self._on_longest_runs(raw, layers)
        if part.shape[-1] <= lag:
            return math.nan
        spacing_hz = 1e3 * reader.spacing * self._config.scs_khz
        return timing_offset_ns(part, spacing_hz, lag)

    def _smooth(
        self, raw: Array, profiles: tuple[DelayProfile, ...], noise: float
    ) -> tuple[Array, float, dict[int, float]]:
        """Returns the smoothed channel, the variance of its error and the residual parts."""
        xp = array_module(raw)
        config, reader = self._config, self.reader
        shape = (*raw.shape[:3], 12 * config.n_prb)
        smooth = xp.empty(shape, dtype=xp.complex64)
        errors = []
        followed = dict.fromkeys(reader.groups, 0.0)
        n_codes = config.dmrs_length * (2 if config.dmrs_type == 2 else 1)
        for offset, user, has_partner, layers in self._alike():
            partner = self._partner(layers[0], profiles) if has_partner else None
            design = FilterDesign(profiles[user], partner, noise, config.scs_khz)
            filtered = self._filters[offset](raw[:, layers], design)
            smooth[:, layers] = filtered.channel
            errors.append(filtered.error_var)
            for layer in layers:
                # A layer and its partner follow the noise of one code together.
                codes = 0.5 if has_partner else 1.0
                group = reader.layers[layer].group
                followed[group] += codes * (1 - filtered.residual_part) / n_codes
        residual_part = {group: 1 - part for group, part in followed.items()}
        return smooth, float(np.mean(errors)), residual_part

    def _interpolated(self, raw: Array, noise: float) -> tuple[Array, float, dict[int, float]]:
        """As `_smooth`, by straight lines between the least-squares estimates."""
        xp = array_module(raw)
        config, reader = self._config, self.reader
        smooth = xp.empty((*raw.shape[:3], 12 * config.n_prb), dtype=xp.complex64)
        for offset, _, has_partner, layers in self._alike():
            estimates, spacing, first = raw[:, layers], reader.spacing, offset
            if has_partner:
                estimates, spacing, first = linear.pairs(estimates), 2 * spacing, offset + 1
            smooth[:, layers] = linear.in_frequency(estimates, config.prb_runs, spacing, first)
        # Least squares explains every pilot it has; what a covariance is measured on is elsewhere.
        return smooth, noise, dict.fromkeys(reader.groups, 1.0)

    def _alike(self) -> list[tuple[float, int, bool, list[int]]]:
        """Layers that one filter serves: (offset, UE, has a partner, layers)."""
        alike: dict[tuple[float, int, bool], list[int]] = {}
        for index, (layer, offset) in enumerate(
            zip(self.reader.layers, self.reader.offsets, strict=True)
        ):
            alike.setdefault((offset, layer.user, layer.has_partner), []).append(index)
        return [(*key, layers) for key, layers in alike.items()]

    def _partner(self, layer: int, profiles: tuple[DelayProfile, ...]) -> DelayProfile:
        """Profile of the layer on the same pilots with the other cover in frequency."""
        own = self.reader.layers[layer]
        other = next(each for each in self.reader.layers if each.port == own.port ^ 1)
        return profiles[other.user]

    def _motion(self, smooth: Array, slot_number: int, error_var: float) -> tuple[TimeModel, ...]:
        if self._method == "ls":
            weights = linear.time_weights(self.reader.positions, N_SYMBOLS)
            return (TimeModel(float("nan"), 0.0, weights),) * self._n_users
        all_times: npt.NDArray[np.float64] = symbol_times_s(self._config.scs_khz, slot_number)
        times = np.interp(self.reader.positions, np.arange(all_times.size), all_times)
        return tuple(
            time_interpolation.fit(smooth[:, layers], times, all_times, error_var)
            for layers in self._layers_of
        )
