"""The house rules that tools alone do not hold: the list of packages, what an import costs, what the repository never names."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("core", "services", "executors", "console", "replay", "templates")
LIGHT_ROOMS = ("core", "services", "console", "replay")
HEAVY = (
    "torch", "transformers", "tokenizers", "trl", "peft", "datasets", "accelerate", "bitsandbytes", "safetensors", "vllm",
    "langchain", "langchain_core", "langgraph", "chromadb", "qdrant_client", "faiss", "numpy", "pandas", "pyarrow",
    "scipy", "sklearn",
)  # fmt: skip
NEVER_NAMED = [
    re.compile(pattern)
    for pattern in (
        r"py" r"pi\.(org|python\.org)", r"python" r"hosted\.org", r"download\.py" r"torch\.org",
    )
]  # fmt: skip


def _packages_on_disk() -> set[str]:
    inits = (init for room in ROOMS for init in (ROOT / room).rglob("__init__.py"))
    return {".".join(("mloc", *init.parent.relative_to(ROOT).parts)) for init in inits}


def _modules(room: str) -> list[str]:
    files = sorted((ROOT / room).rglob("*.py"))
    return [".".join(("mloc", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__") for file in files]


def _tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_every_package_on_disk_is_listed_for_the_wheel_and_no_other() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(setuptools["packages"]) == _packages_on_disk()
    assert setuptools["package-dir"] == {f"mloc.{room}": room for room in ROOMS}


def test_every_folder_with_python_in_a_room_is_a_package() -> None:
    folders = {file.parent for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    assert {folder for folder in folders if not (folder / "__init__.py").exists()} == set()


def test_no_two_test_files_have_one_name() -> None:
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names)), "pytest imports them by their name alone"


def test_mloc_is_a_namespace_and_its_links_lead_to_the_rooms() -> None:
    assert not (ROOT / "mloc").exists()
    assert not (ROOT / "typings" / "mloc" / "__init__.py").exists()
    assert {link.name: link.resolve() for link in (ROOT / "typings" / "mloc").iterdir()} == {room: ROOT / room for room in ROOMS}


@pytest.mark.parametrize("room", [*LIGHT_ROOMS, "executors"])
def test_importing_a_room_loads_no_heavy_library(room: str) -> None:
    """Every module of core, services, console and replay; of executors what a worker imports to know what there is."""
    modules = _modules(room)
    if room == "executors":
        modules = [name for name in modules if name in ("mloc.executors", "mloc.executors.registry")]
    script = f"""
import importlib, json, sys
for name in {modules!r}:
    importlib.import_module(name)
print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))
"""
    environment = {"PYTHONPATH": str(ROOT / "typings"), "PATH": ""}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == []


def test_no_file_names_a_package_registry_or_a_place_outside_the_project() -> None:
    found = []
    for file in _tracked_files():
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{file.relative_to(ROOT)}: {match.group()}" for pattern in NEVER_NAMED for match in pattern.finditer(text)]
    assert found == []


def test_the_license_is_apache_2() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"
