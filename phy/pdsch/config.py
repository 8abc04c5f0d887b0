"""What one PDSCH transmission is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.nr import dmrs
from phy.shared_channel.config import SharedChannelConfig


@dataclass(frozen=True)
class PdschConfig(SharedChannelConfig):
    """One PDSCH allocation of one codeword, with non-interleaved VRB-to-PRB mapping.

    Attributes:
        precoding_weights: W as rows of complex numbers, [port][layer]; None: every layer on a port
            of its own. Data of a layer has mean power 1 before W.

    Raises:
        InvalidInputError: a field is out of range, or fields contradict each other.

    Spec: TS 38.211 7.3.1, 7.4.1.1; TS 38.214 5.1.3, 4.1
    """

    precoding_weights: tuple[tuple[complex, ...], ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = self.precoding_weights
        if weights is None:
            return
        if not weights or any(len(row) != self.n_layers for row in weights):
            raise InvalidInputError(
                "precoding_weights", f"must have rows of {self.n_layers} weights, one a layer"
            )
        if not np.isfinite(np.asarray(weights)).all():
            raise InvalidInputError("precoding_weights", "must be finite")

    @cached_property
    def dmrs_symbols(self) -> tuple[int, ...]:
        """Symbols of the slot that carry DM-RS; with double-symbol DM-RS both of each pair."""
        return dmrs.pdsch_symbol_positions(
            self.mapping_type,
            self.start_symbol,
            self.n_symbols,
            self.dmrs_additional_positions,
            self.dmrs_type_a_position,
            self.dmrs_length,
        )

    @cached_property
    def precoder(self) -> npt.NDArray[np.complex64] | None:
        """W: complex64[port, layer]; None where every layer has a port of its own."""
        if self.precoding_weights is None:
            return None
        return np.asarray(self.precoding_weights, dtype=np.complex64)
