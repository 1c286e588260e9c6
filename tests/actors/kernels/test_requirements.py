"""A GPU without the tools that compile its kernels is refused, with what to install."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from actors.errors import InputError
from actors.kernels.requirements import Toolchain, check_capability, check_toolchain, find_toolchain

COMPLETE = {"has_triton": True, "has_compiler": True, "has_python_headers": True}


def test_a_complete_toolchain_is_accepted() -> None:
    check_toolchain(Toolchain(**COMPLETE))


@pytest.mark.parametrize(
    ("missing", "advice"),
    [
        (["has_triton"], r"lacks Triton \(pip install triton\)\. Install"),
        (["has_compiler"], r"lacks a C compiler \(apt-get install gcc, or set CC\)"),
        (["has_python_headers"], r"lacks Python's headers \(apt-get install python3-dev\)"),
        (["has_triton", "has_compiler"], r"Triton \(pip install triton\) and a C compiler"),
    ],
)
def test_the_error_says_what_to_install(missing: list[str], advice: str) -> None:
    with pytest.raises(InputError, match=advice):
        check_toolchain(Toolchain(**COMPLETE | dict.fromkeys(missing, False)))


def test_the_compiler_is_looked_for_where_triton_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert not find_toolchain().has_compiler
    monkeypatch.setenv("CC", "tcc")
    assert find_toolchain().has_compiler


def test_headers_are_looked_for_where_triton_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of Debian and Ubuntu has a scheme of its own."""

    def folder_of(name: str, scheme: str = "posix_local") -> str:
        return str(tmp_path / scheme / name)

    headers = Path(folder_of("include", "posix_prefix"))
    headers.mkdir(parents=True)
    (headers / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_default_scheme", lambda: "posix_local")
    monkeypatch.setattr(sysconfig, "get_path", folder_of)
    assert find_toolchain().has_python_headers


def test_a_gpu_older_than_ampere_is_refused() -> None:
    check_capability("NVIDIA A100", (8, 0))
    with pytest.raises(InputError, match=r"8\.0 \(Ampere\) or newer, and Tesla T4 has 7\.5\. Use a newer GPU"):
        check_capability("Tesla T4", (7, 5))
