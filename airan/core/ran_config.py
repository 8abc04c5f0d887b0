"""The configuration of the site's cells."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from airan.core.sections import Section


class CellSizeConfig(Section):
    """The carrier every cell is taken for where its needs of a GPU are `measured`."""

    n_prb: int = Field(default=273, ge=1, le=273)
    n_layers: int = Field(default=4, ge=1, le=4)
    n_rx: int = Field(default=4, ge=1, le=16)
    uplink_mcs: int = Field(default=27, ge=0, le=28)
    """Of table 1 (64QAM)."""
    downlink_mcs: int = Field(default=27, ge=0, le=27)
    """Of table 2 (256QAM)."""
    cells_per_mast: int = Field(default=3, ge=1)
    """Not all cells of a mast are put on one host, where there are several."""


class RanConfig(Section):
    """The cells of the site. One is decoded for real; the others' load is simulated."""

    n_cells: int = Field(default=18, ge=1, le=20)
    n_prb: int = Field(default=106, ge=1, le=273)
    scs_khz: Literal[15, 30, 60, 120] = 30
    mcs_table: Literal[1, 2, 3] = 1
    mcs_index: int = Field(default=16, ge=0, le=28)
    n_rx: int = Field(default=2, ge=1, le=16)
    snr_db: float = Field(default=22.0, ge=-20.0, le=60.0)
    slot_slowdown: float = Field(default=80.0, ge=1.0)
    """The slot clock and the slot budget run this many times slower than a radio's."""
    slot_budget_us: float = Field(default=1250.0, gt=0.0)
    """PUSCH budget of a slot at radio speed (cuPHY's published GPU budget)."""
    trace: Path | None = None
    """CSV with columns hour,load; None plays the built-in diurnal profile."""
    sizing: Literal["published", "measured"] = "published"
    """What the cells need of a GPU. `published`: cuPHY's 20 peak cells a GPU, by the share that
    their load costs on this machine. `measured`: SMs by airan's own cost model of the H100's
    chip, for cells of `sized_as`, GPU by GPU."""
    sized_as: CellSizeConfig = CellSizeConfig()
    slot_records: int = Field(default=0, ge=0, le=1 << 22)
    """Layer 1 keeps a record of so many of its last slots in `run/slots` of the state folder, for
    benches to read; 0: none."""
    seed: int = 1
