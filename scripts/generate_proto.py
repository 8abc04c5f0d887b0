"""Regenerates the gRPC code of the control plane and of invocations from their .proto files (needs
the dev extra).

`--baseline` writes the descriptors that later versions must stay compatible with instead.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "orchestrator" / "api" / "proto"
PACKAGES = {
    "airan/control/v1/control.proto": "orchestrator.api",
    "airan/invocation/v1/invocation.proto": "marketplace.grpc_api",
}
"""Where the code of each goes."""
BASELINE = ROOT / "orchestrator" / "api" / "baseline.binpb"


def generate(out: Path) -> None:
    """Writes X_pb2.py, X_pb2.pyi and X_pb2_grpc.py of each protocol to its package in `out`.

    Names in the descriptors are the protocol's (airan/control/v1/...), the code lives elsewhere.
    """
    for proto, package in PACKAGES.items():
        target = out / package.replace(".", "/")
        target.mkdir(parents=True, exist_ok=True)
        module = str(Path(proto).parent).replace("/", ".")
        with tempfile.TemporaryDirectory() as folder:
            _protoc(proto, *(f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")))
            for made in sorted((Path(folder) / proto).parent.iterdir()):
                code = made.read_text().replace(f"from {module} import", f"from {package} import")
                (target / made.name).write_text(code)


def write_baseline(path: Path) -> None:
    """Writes the current descriptors as a FileDescriptorSet, which buf takes as an image."""
    _protoc(*PACKAGES, f"--descriptor_set_out={path}")


def _protoc(*words: str) -> None:
    names = [str(SOURCE / word) if word in PACKAGES else word for word in words]
    status = protoc.main(["protoc", f"-I{SOURCE}", *names])
    if status != 0:
        raise SystemExit(status)


if __name__ == "__main__":
    if sys.argv[1:] == ["--baseline"]:
        write_baseline(BASELINE)
    else:
        generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
