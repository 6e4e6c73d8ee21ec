"""Executors of other packages: the example as it is installed, and those that cannot be used."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
from driven_host import DrivenHost, task
from pipeline_run import published_result
from structlog.testing import capture_logs

from mloc.executors import plugins, registry
from mloc.services import doctor
from mloc.services.settings import Settings
from mloc.services.worker import service

EXAMPLE = Path(__file__).parents[2] / "docs" / "plugin-example"
BROKEN = {
    "no_import": ("import no_such_library\n", "importing no_import raises ModuleNotFoundError: No module named 'no_such_library'"),
    "leaves": ("import sys\nsys.exit(3)\n", "importing leaves raises SystemExit: 3"),
    "dies": ("import os\nos._exit(4)\n", "importing dies ended the process with exit code 4"),
    "no_run": ("walk = 1\n", "no_run has no function 'run'"),
    "no_function": ("run = 1\n", "no_function.run is no function"),
    "two_arguments": ("def run(task, engine): yield\n", "two_arguments.run does not take (task, engine, context): too many positional arguments"),
    "wrong_load": ("def run(*given): yield\ndef load(): return 1\n", "wrong_load.load does not take (task, context): too many positional arguments"),
    "echo": ("def run(task, engine, context): yield\n", "its task type 'echo' is built in, and the built-in executor keeps the name"),
    "Wrong Name": ("def run(task, engine, context): yield\n", "'Wrong Name' is no name for a task type: lower case letters, digits, - and _"),
}
# importable module → what is installed, where the two differ
DISTRIBUTIONS = {"faiss": "faiss_cpu", "mlflow": "mlflow_skinny", "pynvml": "nvidia_ml_py"}
GOOD = "print('hello from an import')\ndef run(task, engine, context): yield\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a package with one plug-in into a folder on the path."""

    def put(task_type: str, code: str, package: str = "") -> None:
        module, package = task_type.lower().replace(" ", "_"), package or f"mloc-{task_type.lower().replace(' ', '-')}"
        module = module if module != "echo" else "plugin_echo"
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[mloc.executors]\n{task_type} = {module}:run\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    plugins.installed_plugins.cache_clear()
    yield put
    plugins.installed_plugins.cache_clear()


def offers() -> list[dict[str, Any]]:
    ran = subprocess.run([sys.executable, "-m", "mloc.executors.registry", "--json"], capture_output=True, check=True)
    return list(json.loads(ran.stdout))


def test_the_example_is_installed_offered_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("setuptools", reason="installing a package needs setuptools")
    source, target = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(EXAMPLE, source)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    monkeypatch.syspath_prepend(str(target))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    (offer,) = [offer for offer in offers() if offer["task_type"] == "word_count"]
    assert (offer["runs"], offer["package"], offer["problem"]) == (True, "mloc-word-count 1.0", "")
    (shown,) = [finding for finding in doctor.task_types() if finding.name == "word_count"]
    assert shown.detail == "runs here (plug-in of mloc-word-count 1.0)"
    host = DrivenHost()
    try:
        host.send(task("w", "word_count", tmp_path, data={"type": "list", "items": ["one two three", {"x": 1}, "four five"]}))
        items = published_result(host, "w", tmp_path)["items"]
    finally:
        host.close()
    assert [item.get("output") for item in items] == [3, None, 2]
    assert items[1]["error"]["type"] == "NoText"


def test_broken_ones_are_named_with_their_reason_and_harm_nothing_else(install: Any) -> None:
    for task_type, (code, _) in BROKEN.items():
        install(task_type, code)
    install("good", GOOD)
    listed = offers()
    problems = {offer["task_type"]: (offer["package"], offer["problem"]) for offer in listed if offer["problem"]}
    assert problems == {name: (f"mloc-{name.lower().replace(' ', '-')} 1.0", words) for name, (_, words) in BROKEN.items()}
    runs = [offer["task_type"] for offer in listed if offer["runs"]]
    assert "good" in runs
    assert runs.count("echo") == 1
    assert not (BROKEN.keys() - {"echo"}) & set(runs)
    assert registry.BUILT_IN["echo"] == registry.executors()["echo"]


def test_of_two_with_one_name_the_first_package_keeps_it(install: Any) -> None:
    install("twice", GOOD, package="mloc-a")
    install("twice", GOOD, package="mloc-b")
    listed = [(offer["package"], offer["runs"], offer["problem"]) for offer in offers() if offer["task_type"] == "twice"]
    assert listed == [("mloc-a 1.0", True, ""), ("mloc-b 1.0", False, "mloc-a 1.0 brings the task type 'twice', too, and was taken")]


def test_doctor_and_the_workers_log_name_a_broken_one_and_explain_tells_why(install: Any) -> None:
    install("leaves", BROKEN["leaves"][0])
    (finding,) = [finding for finding in doctor.task_types() if finding.name == "leaves"]
    assert (finding.area, finding.status) == ("Plug-ins", "warning")
    assert finding.detail == f"the plug-in of mloc-leaves 1.0 cannot be used: {BROKEN['leaves'][1]}"
    assert finding.remedy == "mend or remove it: pip uninstall mloc-leaves"
    with capture_logs() as logs:
        plan = service._plan(Settings(), {**os.environ})
    said = [(log["package"], log["problem"]) for log in logs if log["event"] == "a plug-in cannot be used"]
    assert said == [("mloc-leaves 1.0", BROKEN["leaves"][1])]
    assert plan.lacks["leaves"] == f"the plug-in of mloc-leaves 1.0 cannot be used: {BROKEN['leaves'][1]}"
    assert "echo" in plan.task_types


def test_what_a_worker_does_not_offer_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [service.Offer("echo", True), service.Offer("rag", False, missing=["chromadb"], extra="rag"), service.Offer("sft", True)]
    monkeypatch.setattr(service, "installed_task_types", lambda environ: listed)
    plan = service._plan(Settings(task_topics=("echo",)), {})
    assert plan.lacks == {"rag": 'it lacks chromadb: pip install "mloc[rag]"', "sft": "its TASK_TOPICS leave it out"}


def test_parts_that_a_worker_lacks_it_says_for_the_types_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = {"eval": {"lm-eval": "needs lm_eval"}, "agent": {"mcp": "needs mcp"}}
    listed = [service.Offer(name, True, lacking_parts=parts) for name, parts in lacking.items()]
    monkeypatch.setattr(service, "installed_task_types", lambda environ: listed)
    assert service._plan(Settings(task_topics=("eval",)), {}).lacks == {"eval/lm-eval": "needs lm_eval", "agent": "its TASK_TOPICS leave it out"}


def test_the_page_shows_the_example_as_it_is() -> None:
    page = (EXAMPLE.parent / "plugins.md").read_text()
    shown = (
        ("pyproject.toml", "[project.entry-points", "word_count ="),
        ("mloc_word_count/word_count_executor.py", "    work =", "    yield from"),
    )
    for file, first, last in shown:
        lines = (EXAMPLE / file).read_text().splitlines()
        start, end = (next(at for at, line in enumerate(lines) if line.startswith(mark)) for mark in (first, last))
        assert textwrap.indent("\n".join(lines[start : end + 1]), "    ") in page


def test_every_built_in_type_names_an_extra_that_brings_what_it_needs() -> None:
    """`pip install "mloc[extra]"` is the remedy: the extra has to be there, and to name each library."""
    extras = tomllib.loads((EXAMPLE.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def names(extra: str) -> set[str]:
        found: set[str] = set()
        for wanted in extras[extra]:
            name = wanted.partition(";")[0].strip()
            found |= names(name[5:-1]) if name.startswith("mloc[") else {str(re.match(r"[\w.-]+", name)[0]).replace("-", "_").lower()}
        return found

    for task_type, executor in registry.BUILT_IN.items():
        if executor.requires:
            lacking = {DISTRIBUTIONS.get(name, name) for name in executor.requires} - names(executor.extra)
            assert not lacking, (task_type, executor.extra, lacking)
        for module, extra in ((part.module, part.extra) for part in executor.parts if part.extra and part.module != "vllm"):
            assert DISTRIBUTIONS.get(module, module) in names(extra)
