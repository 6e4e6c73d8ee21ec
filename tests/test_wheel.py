"""The wheel holds every room with its data, and works without the checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("core", "services", "executors", "console", "replay", "templates")


@pytest.mark.deep
def test_the_wheel_has_every_module_and_data_file_of_the_rooms(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in (*ROOMS, "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("mloc-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
        packed.extractall(tmp_path / "installed")
    kinds = {".py", ".lua", ".tcss", ".yaml", ".jsonl", ".txt", ".json"}
    files = [file for room in ROOMS for file in (source / room).rglob("*") if file.suffix in kinds and "build" not in file.parts]
    assert names == {f"mloc/{file.relative_to(source)}" for file in files}
    environment = {"PYTHONPATH": str(tmp_path / "installed"), "PATH": ""}
    command = [sys.executable, "-m", "mloc.services.command_line", "--help"]
    assert "mloc up" in subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
