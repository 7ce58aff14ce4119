"""The wheel, built from what git tracks, installed beside nothing of ours, run from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
IGNORED = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    environment = {
        key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}
    }
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(CHECKOUT, folder / "source", ignore=IGNORED)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps")
    run(*pip, "--no-build-isolation", "--wheel-dir", folder, folder / "source", cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it; its dependencies come from this one, so that torch is not copied.

    A line in a .pth file adds a folder without reading the .pth files inside it, so the checkout, which is installed
    here through such a file, cannot be found there. pip still resolves every dependency that the wheel declares.
    """
    folder = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", ask, cwd=folder).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        python,
        "install",
        "--quiet",
    )
    run(*pip, "--no-index", "--ignore-installed", "--no-deps", wheel, cwd=folder.parent)
    run(*pip, "--no-index", "headscope", cwd=folder.parent)
    return folder


def test_the_wheel_holds_every_module_and_every_data_file(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    listed = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {CHECKOUT / name.split(".")[1] for name in listed if "." in name}
    inside = (file for room in rooms for file in room.rglob("*") if "__pycache__" not in file.parts)
    files = [*CHECKOUT.glob("*.py"), CHECKOUT / "py.typed", *(file for file in inside if file.is_file())]
    expected = {f"headscope/{file.relative_to(CHECKOUT).as_posix()}" for file in files}
    assert {name for name in held if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_the_installed_package_is_the_wheels(clean):
    python = clean / "bin" / "python"
    out = run(python, "-c", "import headscope; print(headscope.__file__)", cwd=clean.parent)
    assert Path(out.strip()).is_relative_to(clean)


@pytest.mark.slow
def test_the_installed_command_runs_the_demo_in_another_folder(clean, tmp_path):
    command = clean / "bin" / "headscope"
    assert "Usage" in run(command, "--help", cwd=tmp_path)
    run(command, "demo", "--out", "first", cwd=tmp_path)
    assert (tmp_path / "first" / "report.html").stat().st_size > 10_000
