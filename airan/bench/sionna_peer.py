"""Sionna behind one door: the only module that imports it or torch, at the first use.

What goes in and comes out is NumPy and follows this project's conventions; Sionna's LLRs have the
opposite sign. Sionna is not installed by default.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib.metadata import version as package_version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from airan.core.errors import NotFoundError

if TYPE_CHECKING:
    from phy import PuschConfig

INSTALL = "install it with `make setup-oracle`, or `pip install 'airan[oracle]'`"
"""How to get Sionna."""


SCHEDULES = ("flooding", "layered")
"""In which order Sionna's decoder updates its check nodes; the first is its default."""


def available() -> bool:
    """Whether Sionna can be imported."""
    return find_spec("sionna") is not None and find_spec("torch") is not None


def version() -> str:
    """Sionna's version as rows name it."""
    return f"Sionna {package_version('sionna-no-rt')}"


def require() -> None:
    """Raises NotFoundError, which says how to install it, where Sionna is absent."""
    if not available():
        raise NotFoundError("Sionna is not installed", remedy=INSTALL)


def use_threads(n_threads: int) -> None:
    """Lets Sionna compute on `n_threads` threads."""
    _sionna().torch.set_num_threads(n_threads)


def use_device(device: str) -> None:
    """Lets what is made from now on compute on `device`: "cpu" or "cuda:0"."""
    _sionna().config.device = device


class LdpcPeer:
    """Sionna's LDPC code with rate matching (RV 0, no interleaver) and its min-sum decoder."""

    def __init__(
        self,
        n_bits: int,
        e_bits: int,
        base_graph: int,
        n_iterations: int,
        schedule: str = "flooding",
    ) -> None:
        """K' bits in E; `schedule` is one of SCHEDULES."""
        ldpc = _sionna().ldpc
        self._encoder = ldpc.LDPC5GEncoder(n_bits, e_bits, bg=f"bg{base_graph}")
        self._decoder = ldpc.LDPC5GDecoder(
            self._encoder, cn_update="minsum", cn_schedule=schedule, num_iter=n_iterations
        )

    def encode(self, bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8[cb, n_bits] -> uint8[cb, e_bits]."""
        return _bits(self._encoder(_tensor(bits)))

    def decode(self, llr: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """float32[cb, e_bits], log P(0)/P(1) -> uint8[cb, n_bits]."""
        return _bits(self._decoder(_tensor(-llr)))


class PuschPeer:
    """Sionna's PUSCH transmitter and its receiver: LS estimation, LMMSE, min-sum decoding."""

    def __init__(self, config: PuschConfig, n_iterations: int = 10) -> None:
        nr = _sionna().nr
        self._config = config
        with warnings.catch_warnings():
            # With its CRCs a block at the highest MCS is a little above the rate that it names.
            warnings.filterwarnings("ignore", "Effective coderate r>948/1024", UserWarning)
            self._transmitter = nr.PUSCHTransmitter(_pusch_config(config), return_bits=False)
        decoder = nr.TBDecoder(
            self._transmitter._tb_encoder, num_bp_iter=n_iterations, cn_update="minsum"
        )
        self._receiver = nr.PUSCHReceiver(
            self._transmitter, tb_decoder=decoder, return_tb_crc_status=True
        )

    def transmit(self, tbs: npt.NDArray[np.uint8]) -> npt.NDArray[np.complex64]:
        """uint8[slot, tb_size_bits] -> complex64[slot, port, n_symbols, subcarrier].

        Sionna's DM-RS is sqrt(2) or sqrt(3) times as strong as data, where TS 38.214 has -3 and
        -4.77 dB.
        """
        sent = self._transmitter(_tensor(tbs[:, None])).cpu().numpy()
        grids: npt.NDArray[np.complex64] = sent[:, 0]
        return grids

    def receive(
        self, grids: npt.NDArray[np.complex64], noise_var: float
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Receives complex64[slot, rx, 14, subcarrier] with known noise variance.

        Returns:
            uint8[slot, tb_size_bits] and bool[slot], whether the CRC holds.
        """
        start = self._config.start_symbol
        used = grids[:, None, :, start : start + self._config.n_symbols]
        tbs, crc_ok = self._receiver(_tensor(used), _tensor(np.float32(noise_var)))
        return _bits(tbs)[:, 0], crc_ok.cpu().numpy()[:, 0]


def _pusch_config(config: PuschConfig) -> Any:
    nr = _sionna().nr
    n_id = config.n_id if config.dmrs_n_id is None else config.dmrs_n_id
    carrier = nr.CarrierConfig(
        n_cell_id=0,
        n_size_grid=config.n_prb,
        subcarrier_spacing=config.scs_khz,  # before the slot number, whose range it sets
        slot_number=config.slot_number,
    )
    dmrs = nr.PUSCHDMRSConfig(
        config_type=config.dmrs_type,
        length=config.dmrs_length,
        dmrs_port_set=list(config.ports),
        type_a_position=config.dmrs_type_a_position,
        additional_position=config.dmrs_additional_positions,
        num_cdm_groups_without_data=config.n_cdm_groups_without_data,
        n_id=(n_id, n_id),
        n_scid=config.dmrs_n_scid,
    )
    block = nr.TBConfig(mcs_index=config.mcs_index, mcs_table=config.mcs_table, n_id=config.n_id)
    return nr.PUSCHConfig(
        carrier_config=carrier,
        pusch_dmrs_config=dmrs,
        tb_config=block,
        num_layers=config.n_layers,
        num_antenna_ports=config.n_ports or config.n_layers,
        precoding="non-codebook" if config.n_ports is None else "codebook",
        tpmi=config.tpmi,
        mapping_type=config.mapping_type,
        symbol_allocation=[config.start_symbol, config.n_symbols],
        n_rnti=config.rnti,
    )


@lru_cache(maxsize=1)
def _sionna() -> SimpleNamespace:
    require()
    import torch
    from sionna.phy import config, nr
    from sionna.phy.fec import ldpc

    return SimpleNamespace(torch=torch, nr=nr, ldpc=ldpc, config=config)


def _tensor(array: Any) -> Any:
    kind = np.complex64 if np.iscomplexobj(array) else np.float32
    tensor = _sionna().torch.from_numpy(np.ascontiguousarray(array, dtype=kind))
    return tensor.to(_sionna().config.device)


def _bits(tensor: Any) -> npt.NDArray[np.uint8]:
    bits: npt.NDArray[np.uint8] = tensor.cpu().numpy().astype(np.uint8)
    return bits
