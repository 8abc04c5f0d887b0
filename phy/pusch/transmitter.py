"""The UE's side: a transport block onto the resource grid."""

from __future__ import annotations

from phy.array import Array, array_module
from phy.checks import check_integer
from phy.nr import dmrs, modulation, sch
from phy.pusch.config import N_SYMBOLS, PuschConfig


class PuschTransmitter:
    """Transmits transport blocks as `config` says."""

    def __init__(self, config: PuschConfig) -> None:
        self.config = config

    def __call__(self, tb: Array, slot_number: int | None = None) -> Array:
        """Codes, scrambles, modulates and maps one transport block.

        Args:
            tb: uint8[tb_size_bits].
            slot_number: slot within the frame; None: the configured one.

        Returns:
            complex64[layer, 14, 12 * n_prb]; data has mean power 1.

        Raises:
            InvalidInputError: `tb` has the wrong shape, dtype or values.

        Spec: TS 38.212 6.2; TS 38.211 6.3.1.1 to 6.3.1.7, 6.4.1.1.3
        """
        config = self.config
        slot_number = config.slot_number if slot_number is None else slot_number
        check_integer("slot_number", slot_number, 0, config.slots_per_frame - 1)
        coded = sch.encode(tb, config.sch)
        xp = array_module(tb)
        scrambled = coded ^ xp.asarray(config.scrambling_sequence)
        grid = xp.zeros((1, N_SYMBOLS, config.n_subcarriers), dtype=xp.complex64)
        grid[0][xp.asarray(config.data_mask)] = modulation.map(
            scrambled, config.mcs.modulation_order
        )
        comb = dmrs.subcarriers(config.n_prb, port=0)
        for symbol, pilots in zip(config.dmrs_symbols, config.pilots(slot_number), strict=True):
            grid[0, symbol, comb] = xp.asarray(pilots)
        return grid
