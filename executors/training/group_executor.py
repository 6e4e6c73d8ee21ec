"""Reinforcement learning from rewards that compare a group of answers, with TRL: `grpo` and `rloo`.

GRPO: Shao et al. 2024, arXiv:2402.03300. RLOO: Ahmadian et al. 2024, arXiv:2402.14740. Neither needs a value head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mloc.core.host_frames import RunTask
from mloc.core.language.spec import TaskSpec, decode_spec
from mloc.executors.contract import Context, ExecutorError, Report
from mloc.executors.rows.data_loading import lacking
from mloc.executors.rows.rows import Row, conversation
from mloc.executors.training.rewards.reward_terms import Answer, Term, reward_terms, rewards_of
from mloc.executors.training.sampled_tokens import count_sampled
from mloc.executors.training.sampling_by_vllm import check_sampling
from mloc.executors.training.trl_training import Prepared, Recipe, train

MEASURES = {"loss": "loss", "reward": "reward", "kl": "kl"}
ROW = "mloc_row"
TRL_NAMES = {"max_new_tokens": "max_completion_length", "num_return_sequences": "num_generations", "n": "num_generations"}
TRL_SAMPLING = frozenset({"max_completion_length", "num_generations", "temperature", "top_p", "top_k", "min_p", "repetition_penalty"})


def load(task: RunTask, context: Context) -> None:
    """Import the libraries once."""
    import trl

    _ = (trl.GRPOTrainer, trl.RLOOTrainer)


def run(task: RunTask, engine: None, context: Context) -> Iterator[Report]:
    """Samples `num_generations` answers to each prompt and learns from how each compares with its group."""
    import trl

    kind = task.task_type.upper()
    config_class, trainer_class = getattr(trl, f"{kind}Config"), getattr(trl, f"{kind}Trainer")
    spec = decode_spec(task.spec)
    check_sampling(spec.training)
    defaults = _sampling(spec)
    terms: list[Term] = []
    recipe = Recipe(config_class, _prompts, lambda made: _trainer(trainer_class, made, terms), MEASURES, True, defaults=defaults, best="eval_reward")
    try:
        yield from train(task, context, recipe)
    finally:
        for term in terms:
            term.close()


def _sampling(spec: TaskSpec) -> dict[str, Any]:
    """`generation` in the words of TRL's configuration."""
    given = dict(spec.generation)
    given.pop("do_sample", None)  # it always samples
    named = {TRL_NAMES.get(name, name): value for name, value in given.items()}
    own = {name: value for name, value in named.items() if name in TRL_SAMPLING}
    rest = {name: value for name, value in named.items() if name not in TRL_SAMPLING}
    return {**own, **({"generation_kwargs": rest} if rest else {})}


def _prompts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for row in rows:
        turns = conversation(row)
        if row.problem:
            raise ExecutorError("BadData", f"row {row.index}: {row.problem}")
        if turns is None:
            raise lacking(row, "a prompt")
        made.append({"prompt": turns, ROW: len(made)})
    if not made:
        raise ExecutorError("NoData", "the data has no rows")
    return made


def _trainer(trainer_class: Any, made: Prepared, terms: list[Term]) -> Any:
    from datasets import Dataset

    terms += reward_terms(rewards_of(made.spec), made.context)
    config = made.given["args"]
    if config.reward_weights is None:
        config.reward_weights = [term.weight for term in terms]
    given, learned = dict(made.given), len(made.examples)
    functions = [_reward_function(term, made.rows) for term in terms]
    functions[0] = _counting(functions[0], learned)
    if "eval_dataset" in given:  # its rows come after those that are learned from
        given["eval_dataset"] = given["eval_dataset"].map(lambda example: {ROW: example[ROW] + learned})
    return trainer_class(train_dataset=Dataset.from_list(made.examples), reward_funcs=functions, **given)


def _counting(reward: Callable[..., list[float]], learned: int) -> Callable[..., list[float]]:
    """Counts what is learned from; what is only evaluated stands in rows from `learned` on."""

    def counted(**given: Any) -> list[float]:
        if given[ROW][0] < learned:
            count_sampled(given["trainer_state"], given["completion_ids"])
        return reward(**given)

    counted.__name__ = reward.__name__
    return counted


def _reward_function(term: Term, rows: list[Row]) -> Callable[..., list[float]]:
    """A term as TRL calls it: lists of prompts and completions (turns), and the other columns by name."""

    def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        answers = [
            Answer(prompt, completion[-1]["content"] if isinstance(completion, list) else completion, rows[at])
            for prompt, completion, at in zip(prompts, completions, columns[ROW], strict=True)
        ]
        return term.score(answers)

    reward.__name__ = term.name
    return reward
