"""The tasks of lm-evaluation-harness, on a model that is loaded already.

`eval.tasks` are names of its tasks, or YAML files of your own; data files that such a file names are looked for beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mloc.core.language.spec import TaskSpec
from mloc.core.language.training_spec import Eval
from mloc.executors.contract import Context, ExecutorError, Progress, Report, Result
from mloc.executors.inference.answers import Answering
from mloc.executors.inference.vllm_engine import VllmEngine
from mloc.executors.inference.vllm_model import served_model
from mloc.executors.models.model_loading import LoadedModel

BATCH, BATCH_ON_DEVICE = 8, 32
RESAMPLED = 1000  # for the standard error of metrics that are no means
SUFFIXES = (".yaml", ".yml")
KEPT = 4000  # characters of a prompt in the result


class _AskedToStop(Exception):
    pass


def check_harness(asked: Eval, context: Context) -> None:
    """Raises ExecutorError where the library or a file is missing."""
    try:
        import lm_eval
    except ImportError as error:
        raise ExecutorError("MissingDependency", 'eval.harness lm-eval needs lm_eval: pip install "mloc[eval]" (on the worker)') from error
    assert lm_eval
    for name in asked.tasks:
        if name.endswith(SUFFIXES) and not Path(context.local(name)).is_file():
            raise ExecutorError("FileNotFound", f"eval.tasks: there is no file {name} on the worker")


def run_harness(spec: TaskSpec, asked: Eval, engine: Any, answering: Answering, context: Context) -> Iterator[Report]:
    """Ends without a result where the attempt was asked to stop."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from mloc.executors.evaluation.eval_executor import concluded

    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    yield Progress((f"lm-eval: {', '.join(asked.tasks)}",))
    tasks = [_task(name, context) for name in asked.tasks]
    seed = context.seed % (1 << 32)
    model = _model(spec, engine, answering, context, seed)
    try:
        measured = lm_eval.simple_evaluate(
            model, tasks=tasks, num_fewshot=asked.num_fewshot, limit=_limit(asked), bootstrap_iters=RESAMPLED,
            apply_chat_template=spec.inference.chat == "on", task_manager=TaskManager(include_defaults=any(isinstance(one, str) for one in tasks)),
            gen_kwargs=_generation(spec), system_instruction=spec.inference.system_prompt, random_seed=seed, numpy_random_seed=seed,
            torch_random_seed=seed, fewshot_random_seed=seed,
        )  # fmt: skip
    except _AskedToStop:
        return
    except KeyError as error:  # its text is a repr
        raise ExecutorError("HarnessFailed", f"lm-eval: {error.args[0] if error.args else 'KeyError'}") from error
    except (ValueError, OSError) as error:
        raise ExecutorError("HarnessFailed", f"lm-eval: {type(error).__name__}: {error}", retryable=isinstance(error, ConnectionError)) from error
    metrics, items = _metrics(measured), _items(measured)
    usage = {"num_requests": len(items)}
    value = {"ok": True, "model": answering.name, "harness": "lm-eval", **concluded(metrics, asked, context), "items": items, "usage": usage}
    yield Result({**value, "engine": answering.engine})


def _model(spec: TaskSpec, engine: Any, answering: Answering, context: Context, seed: int) -> Any:
    if not isinstance(engine, VllmEngine):
        return _transformers_model(engine, context)
    from mloc.executors.evaluation.vllm_harness import vllm_model

    adapter = served_model(spec, context).adapter
    lora = engine.with_adapter(adapter) if adapter is not None else None
    return vllm_model(engine, answering.tokenizer, lora, seed, context.stopping, _AskedToStop())


def _transformers_model(engine: LoadedModel, context: Context) -> Any:
    from lm_eval.models.huggingface import HFLM

    class Stoppable(HFLM):  # type: ignore[misc]
        """Asked at every batch whether to go on."""

        def _model_call(self, *given: Any, **named: Any) -> Any:
            _go_on(context)
            return super()._model_call(*given, **named)

        def _model_generate(self, *given: Any, **named: Any) -> Any:
            _go_on(context)
            return super()._model_generate(*given, **named)

    return Stoppable(pretrained=engine.model, tokenizer=engine.tokenizer, batch_size=BATCH_ON_DEVICE if context.devices else BATCH)


def _go_on(context: Context) -> None:
    if context.stopping():
        raise _AskedToStop


def _task(name: str, context: Context) -> Any:
    """A name as it is; a YAML file as its content, its data files found beside it. One with tags of the harness's own is left to it."""
    if not name.endswith(SUFFIXES):
        return name
    file = Path(context.local(name)).resolve()
    try:
        read = yaml.safe_load(file.read_text())
    except yaml.constructor.ConstructorError:
        return str(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExecutorError("BadSetting", f"eval.tasks: {name} is no YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(read, dict) or "include" in read or "task" not in read:
        return str(file)
    files = (read.get("dataset_kwargs") or {}).get("data_files")
    if files is not None:
        read["dataset_kwargs"] = {**read["dataset_kwargs"], "data_files": _beside(files, file.parent)}
    return read


def _beside(files: Any, folder: Path) -> Any:
    if isinstance(files, Mapping):
        return {split: _beside(one, folder) for split, one in files.items()}
    if isinstance(files, list):
        return [_beside(one, folder) for one in files]
    return str(folder / files) if (folder / str(files)).is_file() else files


def _limit(asked: Eval) -> float | int | None:
    return int(asked.limit) if asked.limit is not None and asked.limit >= 1 else asked.limit


def _generation(spec: TaskSpec) -> dict[str, Any] | None:
    given = {"max_gen_toks": spec.inference.max_tokens, "temperature": spec.inference.temperature, "do_sample": spec.inference.do_sample}
    return {name: value for name, value in given.items() if value is not None} or None


def _metrics(measured: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """`task/metric`, or `task/metric,filter` where the filter is not the plain one."""
    metrics = {}
    for task, values in measured["results"].items():
        rows = measured.get("n-samples", {}).get(task, {}).get("effective")
        for key, value in values.items():
            name, _, filtered = key.partition(",")
            if name.endswith("_stderr") or not isinstance(value, int | float) or not filtered:
                continue
            stderr = values.get(f"{name}_stderr,{filtered}")
            shown = f"{task}/{name}" if filtered == "none" else f"{task}/{name},{filtered}"
            metrics[shown] = {"value": round(float(value), 6), "stderr": round(stderr, 6) if isinstance(stderr, int | float) else None, "n": rows}
    return metrics


def _items(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for task, samples in (measured.get("samples") or {}).items():
        for sample in samples:
            scores = {name: sample[name] for name in sample.get("metrics", ()) if isinstance(sample.get(name), int | float | bool)}
            asked = sample.get("arguments")
            items.append({
                "index": len(items), "task": task, "doc_id": sample.get("doc_id"), "prompt": str(_first(asked))[:KEPT],
                "output": str(sample.get("filtered_resps"))[:KEPT], "reference": str(sample.get("target")),
                "scores": {name: float(value) for name, value in scores.items()},
            })  # fmt: skip
    return items


def _first(asked: Any) -> Any:
    """The prompt of a sample's first request; the harness keeps them as tuples, lists or mappings."""
    while isinstance(asked, list | tuple | dict) and asked:
        asked = next(iter(asked.values())) if isinstance(asked, dict) else asked[0]
    return asked or ""
