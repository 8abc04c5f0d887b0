"""The generated gRPC code is what control.proto leads to, and stays compatible."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(
    importlib.util.find_spec("grpc_tools") is None, reason="grpcio-tools is not installed"
)
def test_the_generated_code_is_up_to_date(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "generate_proto", ROOT / "scripts" / "generate_proto.py"
    )
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.generate(tmp_path)
    for name in ("control_pb2.py", "control_pb2.pyi", "control_pb2_grpc.py"):
        made = (tmp_path / "orchestrator" / "api" / name).read_text()
        kept = (ROOT / "orchestrator" / "api" / name).read_text()
        assert kept == made, "run scripts/generate_proto.py"
