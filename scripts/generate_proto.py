"""Regenerates the gRPC code of the control plane from control.proto (needs the dev extra)."""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = "orchestrator/api/control.proto"


def generate(out: Path) -> None:
    """Writes control_pb2.py, control_pb2.pyi and control_pb2_grpc.py below `out`."""
    status = protoc.main(
        [
            "protoc",
            f"-I{ROOT}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
            str(ROOT / PROTO),
        ]
    )
    if status != 0:
        raise SystemExit(status)


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
