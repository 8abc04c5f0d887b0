"""A transport block onto the resource grid, on either shared channel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from phy.array import Array, array_module, on_device
from phy.checks import check_integer
from phy.nr import dmrs, layer_mapping, modulation, sch, transform_precoding
from phy.shared_channel.config import N_SYMBOLS, SharedChannelConfig


class SharedChannelTransmitter:
    """Codes, scrambles, modulates, maps and precodes transport blocks."""

    def __init__(
        self,
        config: SharedChannelConfig,
        precoder: npt.NDArray[np.complex64] | None,
        spread: bool = False,
    ) -> None:
        """`precoder` is W, complex64[port, layer] or one for each of `config.prb_runs`, or None for
        the identity; `spread` turns transform precoding on."""
        self._config = config
        self._precoder = precoder
        self._spread = spread

    def __call__(self, tb: Array, slot_number: int | None = None) -> Array:
        """Returns complex64[port, 14, 12 * carrier PRBs] for uint8[tb_size_bits]."""
        config = self._config
        slot_number = config.slot_number if slot_number is None else slot_number
        check_integer("slot_number", slot_number, 0, config.slots_per_frame - 1)
        xp = array_module(tb)
        scrambled = sch.encode(tb, config.sch) ^ xp.asarray(config.scrambling_sequence)
        symbols = modulation.map(scrambled, config.mcs.modulation_order, pi2=config.pi2_modulation)
        layers = layer_mapping.map(symbols, config.n_layers)
        if self._spread:
            layers = transform_precoding.spread(layers, 12 * config.n_prb)
        grid = xp.zeros((config.n_layers, N_SYMBOLS, 12 * config.n_prb), dtype=xp.complex64)
        self._map_data(grid, layers)
        self._map_pilots(grid, slot_number)
        return self._onto_carrier(self._precode(grid))

    def _map_data(self, grid: Array, layers: Array) -> None:
        mask = self._config.data_mask
        xp = array_module(grid)
        at = 0
        for symbol in range(N_SYMBOLS):
            n = int(np.count_nonzero(mask[symbol]))
            part = layers[:, at : at + n]
            if n == mask.shape[1]:
                grid[:, symbol] = part
            elif n:
                grid[:, symbol, xp.asarray(mask[symbol])] = part
            at += n

    def _map_pilots(self, grid: Array, slot_number: int) -> None:
        config = self._config
        xp = array_module(grid)
        pilots = xp.asarray(config.pilots(slot_number))
        for layer, port in enumerate(config.ports):
            comb = xp.asarray(dmrs.subcarriers(config.n_prb, port, config.dmrs_type))
            cover = xp.asarray(dmrs.cover(pilots.shape[1], port, config.dmrs_type))
            in_time = dmrs.time_cover(port, config.dmrs_type)
            for row, symbol in enumerate(config.dmrs_symbols):
                sign = in_time[row % config.dmrs_length]
                grid[layer, symbol, comb] = sign * cover * pilots[row]

    def _precode(self, grid: Array) -> Array:
        if self._precoder is None:
            return grid
        xp = array_module(grid)
        weights = xp.asarray(self._precoder)
        if weights.ndim == 2:
            ports = weights @ grid.reshape(grid.shape[0], -1)
            return ports.reshape(weights.shape[0], *grid.shape[1:])
        out = xp.empty((weights.shape[1], *grid.shape[1:]), dtype=xp.complex64)
        for group, (first, count) in zip(weights, self._config.prb_runs, strict=True):
            part = grid[:, :, 12 * first : 12 * (first + count)]
            ports = group @ part.reshape(grid.shape[0], -1)
            out[:, :, 12 * first : 12 * (first + count)] = ports.reshape(-1, *part.shape[1:])
        return out

    def _onto_carrier(self, grid: Array) -> Array:
        config = self._config
        if grid.shape[-1] == config.n_subcarriers:
            return grid
        xp = array_module(grid)
        carrier = xp.zeros((grid.shape[0], N_SYMBOLS, config.n_subcarriers), dtype=xp.complex64)
        carrier[:, :, on_device(xp, config.subcarriers)] = grid
        return carrier
