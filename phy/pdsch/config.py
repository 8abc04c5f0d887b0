"""What one PDSCH transmission is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from airan.core.errors import InvalidInputError
from phy.checks import check_choice, check_integer
from phy.nr import dmrs
from phy.nr.limited_buffer import n_ref_bits
from phy.nr.sch import SchConfig
from phy.shared_channel.config import SharedChannelConfig


@dataclass(frozen=True)
class PdschConfig(SharedChannelConfig):
    """One PDSCH allocation of one codeword, with non-interleaved VRB-to-PRB mapping.

    Attributes:
        precoding_weights: W as nested rows of complex numbers, [port][layer], or with `prg_size`
            [PRG][port][layer] for the precoding resource block groups that the allocation touches;
            None: every layer on a port of its own. Data of a layer has mean power 1 before W.
        prg_size: PRBs over which the precoding stays the same, 2 or 4, counted from common resource
            block 0; None: the whole allocation. A receiver estimates the channel within PRGs
            only.
        max_mimo_layers: most layers that a transport block may have, 1 to 4. With the grid's PRBs
            and the MCS table it gives the limited circular buffer that DL-SCH always has;
            `limited_buffer_bits` overrides it.

    Raises:
        InvalidInputError: a field is out of range, or fields contradict each other.

    Spec: TS 38.211 7.3.1, 7.4.1.1; TS 38.214 5.1.2.3, 5.1.3, 4.1
    """

    precoding_weights: tuple[Any, ...] | None = None
    prg_size: int | None = None
    max_mimo_layers: int = 4

    _symbol_positions = staticmethod(dmrs.pdsch_symbol_positions)

    def __post_init__(self) -> None:
        check_integer("max_mimo_layers", self.max_mimo_layers, 1, 4)
        super().__post_init__()
        check_integer("max_mimo_layers", self.max_mimo_layers, self.n_layers, 4)
        check_choice("prg_size", self.prg_size, (None, 2, 4))
        if self.precoding_weights is not None:
            self._check_weights(self.precoding_weights)

    def _check_weights(self, weights: tuple[Any, ...]) -> None:
        try:
            with np.errstate(over="ignore"):
                values = np.asarray(weights, dtype=np.complex64)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                "precoding_weights", "must be rows of equal length of complex numbers"
            ) from error
        shape = values.shape
        groups = () if self.prg_size is None else (len(self.prb_runs),)
        if len(shape) != 2 + len(groups) or shape[:-2] != groups or shape[-1] != self.n_layers:
            wanted = [*groups, "port", self.n_layers]
            raise InvalidInputError(
                "precoding_weights", f"must have shape {wanted}, got {list(shape)}"
            )
        if not np.isfinite(values).all():
            raise InvalidInputError("precoding_weights", "must be finite")

    @property
    def bundle_prbs(self) -> int | None:
        """PRBs of a PRG: the channel jumps from one to the next with the precoding."""
        return self.prg_size

    @cached_property
    def sch(self) -> SchConfig:
        """How the transport block is coded, with DL-SCH's limited buffer. Spec: TS 38.212 7.2.5"""
        plain = super().sch
        if self.limited_buffer_bits is not None:
            return plain
        n_ref = n_ref_bits(
            self.grid_n_prb,
            self.max_mimo_layers,
            8 if self.mcs_table == 2 else 6,
            plain.segmentation.n_code_blocks,
        )
        return replace(plain, limited_buffer_bits=n_ref)

    @cached_property
    def precoder(self) -> npt.NDArray[np.complex64] | None:
        """W: complex64[port, layer] or [PRG, port, layer]; None where every layer has a port of its
        own."""
        if self.precoding_weights is None:
            return None
        return np.asarray(self.precoding_weights, dtype=np.complex64)
