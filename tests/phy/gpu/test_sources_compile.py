"""NVRTC, where its library is installed, takes our sources for sm_90 without a GPU."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest

from phy.gpu import module
from phy.gpu.ldpc_layout import ldpc_layout
from phy.gpu.transmit import encoder_prelude

SOURCES = {
    "ldpc_decode in registers": ("ldpc_decode", ldpc_layout(1, 384, 8).prelude()),
    "ldpc_decode in words": ("ldpc_decode", ldpc_layout(1, 352, 20).prelude()),
    "ldpc_decode in bytes": ("ldpc_decode", ldpc_layout(1, 384, 46).prelude()),
    "ldpc_decode, several pairs": ("ldpc_decode", ldpc_layout(2, 7, 12).prelude()),
    "rate_recover": ("rate_recover", ""),
    "crc": ("crc", ""),
    "encode": ("encode", encoder_prelude(1, 384, half=True)),
    "encode, odd size": ("encode", encoder_prelude(2, 22, half=False)),
    "gold": ("gold", ""),
    "estimate": ("estimate", ""),
    "covariance": ("covariance", ""),
    "equalise": ("equalise", ""),
    "downlink": ("downlink", ""),
    "ofdm": ("ofdm", ""),
}


def found(pattern: str) -> list[Path]:
    """Files of NVIDIA's wheels."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in spec.submodule_search_locations] if spec else []
    return [path for folder in folders for path in folder.glob(pattern)]


@pytest.fixture(scope="session")
def nvrtc():
    libraries, headers = found("**/libnvrtc.so.*"), found("**/cuda_fp16.h")
    if not libraries or not headers:
        pytest.skip("NVRTC and CUDA's headers are not installed: `make setup-nvrtc`")
    return ctypes.CDLL(str(libraries[0]))


def compile_with(nvrtc, source: str) -> tuple[int, str]:
    """Returns NVRTC's result code and log."""
    include = f"-I{found('**/cuda_fp16.h')[0].parent}".encode()
    program = ctypes.c_void_p()
    text = source.encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"kernel.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 3)(b"-std=c++17", b"-arch=sm_90", include)
    code = nvrtc.nvrtcCompileProgram(program, 3, options)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code, log.value.decode()


@pytest.mark.parametrize("name", SOURCES)
def test_nvrtc_takes_the_source(nvrtc, name) -> None:
    code, log = compile_with(nvrtc, module.source(*SOURCES[name]))
    assert code == 0, log


def test_nvrtc_refuses_what_is_wrong(nvrtc) -> None:
    code, log = compile_with(nvrtc, module.source("crc") + "int broken(")
    assert code != 0
    assert "error" in log
