"""The receive chain of both shared channels: a grid to the transport blocks of UEs in one group.

A group are UEs on the same resource elements with the same DM-RS sequence, told apart by their
DM-RS ports; their layers are separated together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.array import Array, array_module, on_device
from phy.checks import check_choice, check_integer, check_variance
from phy.nr import dmrs, layer_mapping, modulation, sch, transform_precoding
from phy.receiver import covariance, measurements
from phy.receiver.channel_estimation import ChannelEstimate, ChannelEstimator, EstimatorName
from phy.receiver.delay_profile import DelayWindow
from phy.receiver.equaliser import equalise
from phy.shared_channel.config import N_SYMBOLS, SharedChannelConfig
from phy.shared_channel.result import SharedChannelResult

EqualiserName: TypeAlias = Literal["mmse", "mmse_irc", "zf"]
DemapperName: TypeAlias = Literal["max_log", "exact"]

# Resource elements that are equalised together: enough to be worth a call, few enough for a cache.
_BATCH_RE = 4096
# Noise is never taken as less than this, relative to the signal's power: -120 dB.
_LEAST_NOISE = 1.0e-12
# Power of what is no signal at all.
_SILENCE = 1.0e-28


@dataclass(frozen=True)
class ReceiverOptions:
    """How to receive.

    Attributes:
        n_iterations: most LDPC iterations.
        estimator: "wiener" (adaptive MMSE) or "ls" (least squares, interpolated linearly).
        equaliser: "mmse" (noise taken as white), "mmse_irc" (noise and interference of any spatial
            colour, measured on the DM-RS) or "zf".
        demapper: "max_log" or "exact".
        delay_window: where paths are expected, relative to the receiver's timing, if the
            allocation is too narrow to see them.
        n_threads: threads that decode code blocks.

    Raises:
        InvalidInputError: a field is out of range.
    """

    n_iterations: int = 10
    estimator: EstimatorName = "wiener"
    equaliser: EqualiserName = "mmse"
    demapper: DemapperName = "max_log"
    delay_window: DelayWindow | None = None
    n_threads: int = 1

    def __post_init__(self) -> None:
        check_integer("n_iterations", self.n_iterations, 1, 1000)
        check_choice("estimator", self.estimator, ("wiener", "ls"))
        if self.estimator == "ls" and self.equaliser == "mmse_irc":
            raise InvalidInputError(
                "equaliser", "mmse_irc measures interference on what a Wiener estimate leaves"
            )
        check_choice("equaliser", self.equaliser, ("mmse", "mmse_irc", "zf"))
        check_choice("demapper", self.demapper, ("max_log", "exact"))
        check_integer("n_threads", self.n_threads, 1, 256)


class GroupReceiver:
    """Receives UEs that share an allocation, its DM-RS sequence and nothing else."""

    def __init__(
        self, users: Sequence[SharedChannelConfig], options: ReceiverOptions, spread: bool = False
    ) -> None:
        """`spread` undoes transform precoding, which all UEs of the group then have."""
        self._users = tuple(users)
        self._config = users[0]
        self._options = options
        self._spread = spread
        n_layers = sum(user.n_layers for user in users)
        if options.equaliser == "zf" and n_layers > self._config.n_rx:
            raise InvalidInputError(
                "equaliser", f"zf cannot separate {n_layers} layers on {self._config.n_rx} antennas"
            )
        self._estimate = ChannelEstimator(users, options.delay_window, options.estimator)
        self._batches = _batches(self._config)

    def __call__(
        self,
        grid: Array,
        noise_var: float | None,
        slot_number: int,
        soft_buffers: Sequence[Array | None],
    ) -> tuple[SharedChannelResult, ...]:
        """Receives one slot of every UE; see PuschReceiver."""
        self._check(grid, noise_var)
        xp = array_module(grid)
        grid = grid[:, :, on_device(xp, self._config.subcarriers)]
        if not bool(xp.isfinite(grid).all()):
            return tuple(_failed(user, xp) for user in self._users)
        # Samples near the end of the float range overflow into NaN, which the decoder refuses.
        with np.errstate(all="ignore"):
            pilots = xp.asarray(self._config.pilots(slot_number))
            grid = grid.astype(xp.complex64, copy=False)
            channel = self._estimate(grid, pilots, slot_number, noise_var)
            if not np.isfinite(channel.noise_var):
                return tuple(_failed(user, xp) for user in self._users)
            symbols, noise = self._separate(grid, channel, pilots)
            return self._decode(symbols, noise, channel, soft_buffers)

    def _check(self, grid: Array, noise_var: float | None) -> None:
        shape = (self._config.n_rx, N_SYMBOLS, self._config.n_subcarriers)
        if getattr(getattr(grid, "dtype", None), "kind", None) != "c":
            kind = getattr(grid, "dtype", type(grid).__name__)
            raise InvalidInputError("grid", f"must be an array of complex numbers, got {kind}")
        if grid.shape != shape:
            raise InvalidInputError("grid", f"must have shape {shape}, got {grid.shape}")
        if noise_var is not None:
            check_variance("noise_var", noise_var)

    def _separate(
        self, grid: Array, estimate: ChannelEstimate, pilots: Array
    ) -> tuple[Array, Array]:
        """Returns data symbols complex64[layer, n_data_re] and their noise float32 likewise."""
        grid, channel = self._whitened(grid, estimate, pilots)
        xp = array_module(grid)
        config = self._config
        n_layers = channel.shape[1]
        n_data = config.n_data_re
        symbols = xp.empty((n_layers, n_data), dtype=xp.complex64)
        noise = xp.empty((n_layers, n_data), dtype=xp.float32)
        method: Literal["mmse", "zf"] = "zf" if self._options.equaliser == "zf" else "mmse"
        at = 0
        for rows, kept in self._batches:
            of_rows = self._at_symbols(channel, estimate, rows)
            received = grid[:, rows].reshape(grid.shape[0], -1)
            if kept is not None:
                index = xp.asarray(kept)
                received, of_rows = received[:, index], of_rows[:, :, index]
            n = received.shape[-1]
            symbols[:, at : at + n], noise[:, at : at + n] = equalise(received, of_rows, method)
            at += n
        return symbols, noise

    def _at_symbols(self, channel: Array, estimate: ChannelEstimate, rows: list[int]) -> Array:
        """Interpolates to complex64[rx, layer, symbols * subcarriers]."""
        xp = array_module(channel)
        n_rx, n_layers, n_positions, n_subcarriers = channel.shape
        out = xp.empty((n_rx, n_layers, len(rows), n_subcarriers), dtype=xp.complex64)
        for index, layer in enumerate(self._estimate.reader.layers):
            weights = estimate.motion[layer.user].weights[rows]
            for row in range(len(rows)):
                into = out[:, index, row]
                xp.multiply(channel[:, index, 0], weights[row, 0], out=into)
                for position in range(1, n_positions):
                    into += weights[row, position] * channel[:, index, position]
        return out.reshape(n_rx, n_layers, -1)

    def _whitened(
        self, grid: Array, estimate: ChannelEstimate, pilots: Array
    ) -> tuple[Array, Array]:
        if self._options.equaliser != "mmse_irc":
            scale = np.float32(1 / np.sqrt(_noise_var(estimate)))
            return grid * scale, estimate.at_positions * scale
        n_subbands = max(1, self._config.n_prb // covariance.SUBBAND_PRBS)
        found = covariance.estimate(self._residuals(grid, estimate, pilots), n_subbands)
        weights = covariance.whitener(found)
        return (
            covariance.whiten(grid, weights),
            covariance.whiten(estimate.at_positions, weights),
        )

    def _residuals(self, grid: Array, estimate: ChannelEstimate, pilots: Array) -> list[Array]:
        """What the DM-RS leaves unexplained, by CDM group, with the smoothing's loss made good."""
        reader = self._estimate.reader
        residuals = []
        for group in reader.combs:
            residual = reader.received(grid, group)
            if group in reader.groups:
                residual -= reader.rebuild(estimate.at_positions, pilots, group)
                residual *= np.float32(1 / np.sqrt(max(estimate.residual_part[group], 1e-3)))
            residuals.append(residual)
        return residuals

    def _decode(
        self,
        symbols: Array,
        noise: Array,
        estimate: ChannelEstimate,
        soft_buffers: Sequence[Array | None],
    ) -> tuple[SharedChannelResult, ...]:
        if self._spread:
            symbols, noise = self._despread(symbols, noise)
        results = []
        first = 0
        for index, user in enumerate(self._users):
            own = slice(first, first + user.n_layers)
            first += user.n_layers
            found = self._decode_user(user, symbols[own], noise[own], soft_buffers[index])
            motion = estimate.motion[index]
            results.append(
                SharedChannelResult(
                    tb=found.tb,
                    crc_ok=found.crc_ok,
                    noise_var=estimate.noise_var,
                    snr_db=self._snr_db(estimate, index),
                    iterations=found.iterations,
                    soft_buffer=found.soft_buffer,
                    sinr_db=measurements.sinr_db(noise[own]),
                    rsrp_db=self._rsrp_db(estimate, index),
                    timing_offset_ns=estimate.timing_offset_ns[index],
                    frequency_offset_hz=motion.frequency_offset_hz,
                )
            )
        return tuple(results)

    def _decode_user(
        self,
        user: SharedChannelConfig,
        symbols: Array,
        noise: Array,
        soft_buffer: Array | None,
    ) -> sch.SchResult:
        xp = array_module(symbols)
        llr = modulation.demap(
            layer_mapping.unmap(symbols),
            layer_mapping.unmap(noise),
            user.mcs.modulation_order,
            method=self._options.demapper,
            pi2=user.pi2_modulation,
            scrambling=xp.asarray(user.scrambling_sequence),
        )
        return sch.decode(
            llr,
            user.sch,
            soft_buffer,
            self._options.n_iterations,
            n_threads=self._options.n_threads,
        )

    def _despread(self, symbols: Array, noise: Array) -> tuple[Array, Array]:
        """Undoes transform precoding. The inverse transform mixes the subcarriers of a symbol, so
        unbiased symbols get their MMSE gain back first, and its mean is the bias taken off after.
        """
        xp = array_module(symbols)
        n = 12 * self._config.n_prb
        gain = 1 / (1 + noise)
        mean_gain = gain.reshape(noise.shape[0], -1, n).mean(axis=-1, keepdims=True)
        mixed = transform_precoding.despread(symbols * gain, n)
        unbiased = (mixed.reshape(noise.shape[0], -1, n) / mean_gain).reshape(symbols.shape)
        mixed_noise = xp.broadcast_to(1 / mean_gain - 1, (noise.shape[0], noise.shape[1] // n, n))
        return unbiased.astype(xp.complex64), mixed_noise.reshape(noise.shape).astype(xp.float32)

    def _snr_db(self, estimate: ChannelEstimate, user: int) -> float:
        """Mean power of all of a UE's layers on one antenna against the noise."""
        power = self._users[user].n_layers * float(estimate.profiles[user].power.sum())
        if power < _SILENCE:
            return -float("inf")
        return 10 * float(np.log10(power / _noise_var(estimate)))

    def _rsrp_db(self, estimate: ChannelEstimate, user: int) -> float:
        """Received power of a DM-RS resource element of one port on one antenna."""
        boost = dmrs.amplitude(self._config.n_cdm_groups_without_data) ** 2
        power = boost * float(estimate.profiles[user].power.sum())
        return 10 * float(np.log10(max(power, 1e-30)))


def _batches(
    config: SharedChannelConfig,
) -> list[tuple[list[int], npt.NDArray[np.intp] | None]]:
    """The symbols with data, cut into batches, and which of a batch's resource elements carry it
    (None for all)."""
    rows = [int(row) for row in np.flatnonzero(config.data_mask.any(axis=1))]
    size = max(1, _BATCH_RE // (12 * config.n_prb))
    batches = []
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        mask = config.data_mask[batch]
        batches.append((batch, None if mask.all() else np.flatnonzero(mask)))
    return batches


def _noise_var(estimate: ChannelEstimate) -> float:
    """The noise variance that is reckoned with, whatever the scale of the samples."""
    strongest = max(float(profile.power.sum()) for profile in estimate.profiles)
    return max(estimate.noise_var, _LEAST_NOISE * strongest, _SILENCE)


def _failed(user: SharedChannelConfig, xp: ModuleType) -> SharedChannelResult:
    """The result of a slot with samples that are not finite."""
    return SharedChannelResult(
        tb=xp.zeros(user.tb_size_bits, dtype="uint8"),
        crc_ok=False,
        noise_var=math.nan,
        snr_db=math.nan,
        iterations=xp.zeros(0, dtype="int32"),
        soft_buffer=None,
    )
