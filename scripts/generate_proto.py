"""Regenerates the gRPC code of the control plane from its .proto file (needs the dev extra).

`--baseline` writes the descriptors that later versions must stay compatible with instead.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "orchestrator" / "api" / "proto"
PROTO = "airan/control/v1/control.proto"
PACKAGE = "orchestrator.api"
BASELINE = ROOT / "orchestrator" / "api" / "baseline.binpb"


def generate(out: Path) -> None:
    """Writes control_pb2.py, control_pb2.pyi and control_pb2_grpc.py to orchestrator/api in `out`.

    Names in the descriptors are the protocol's (airan/control/v1/...), the code lives elsewhere.
    """
    target = out / PACKAGE.replace(".", "/")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        _protoc(*(f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")))
        for made in sorted((Path(folder) / PROTO).parent.iterdir()):
            code = made.read_text().replace(
                "from airan.control.v1 import", f"from {PACKAGE} import"
            )
            (target / made.name).write_text(code)


def write_baseline(path: Path) -> None:
    """Writes the current descriptors as a FileDescriptorSet, which buf takes as an image."""
    _protoc(f"--descriptor_set_out={path}")


def _protoc(*outputs: str) -> None:
    status = protoc.main(["protoc", f"-I{SOURCE}", *outputs, str(SOURCE / PROTO)])
    if status != 0:
        raise SystemExit(status)


if __name__ == "__main__":
    if sys.argv[1:] == ["--baseline"]:
        write_baseline(BASELINE)
    else:
        generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
