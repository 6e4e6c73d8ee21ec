"""What a PPO training can be told under `training`: the names that PPO's papers and the field's configurations use."""

from __future__ import annotations

import difflib
from typing import Any

import msgspec
from msgspec import Struct

from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context, ExecutorError
from mloc.executors.training import evaluation, rank_launch
from mloc.executors.training.evaluation import Evaluation


class PpoSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """An update takes `per_device_train_batch_size` rollouts on each process and goes over them `ppo_epochs` times in mini-batches.

    Defaults follow Huang et al. 2024 (arXiv:2403.17031) where it names one, else Ziegler et al. 2019 (arXiv:1909.08593).
    """

    max_steps: int = -1  # updates; below 1: as `num_train_epochs` says
    num_train_epochs: float = 1.0  # passes over the prompts
    per_device_train_batch_size: int = 32
    mini_batch_size: int | None = None  # rollouts of one backward pass; None: the whole batch
    gradient_accumulation_steps: int = 1  # mini-batches of one optimiser step
    ppo_epochs: int = 4
    learning_rate: float = 1e-5
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0  # below 1: a share of all updates
    weight_decay: float = 0.0
    adam_epsilon: float = 1e-5
    max_grad_norm: float = 1.0
    kl_coef: float = 0.05
    adap_kl_ctrl: bool = False  # steer kl_coef so that the divergence stays near `target`
    target: float = 6.0
    horizon: int = 10_000  # rollouts over which it is steered
    target_kl: float | None = None  # an update ends early when it has moved the policy by 1.5 times this
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    whiten_rewards: bool = False
    missing_eos_penalty: float | None = None  # taken off the score of an answer that did not end
    max_completion_length: int | None = None  # tokens; else generation.max_new_tokens
    max_length: int | None = None  # tokens of a prompt; longer ones keep their end
    gradient_checkpointing: bool = False
    bf16: bool = False  # precision.py has the last word on both
    fp16: bool = False
    seed: int = 0
    logging_steps: int = 1
    save_steps: float = 100  # updates; below 1: a share of all
    save_strategy: str = "steps"
    save_total_limit: int = 2
    eval_strategy: str = "no"  # evaluation.py says when there is one, and on what
    eval_steps: float = 10  # updates; below 1: a share of all
    eval_on_start: bool = False
    per_device_eval_batch_size: int | None = None  # prompts at a time; None: as many as an update has
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool = True
    save_model: bool = True
    keep_checkpoints: bool = False


POSITIVE = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "ppo_epochs", "horizon", "logging_steps", "save_total_limit",
)  # fmt: skip
# Known to this language, but of no meaning to PPO or to this version.
WITHOUT_EFFECT = frozenset({"use_cpu", "disable_tqdm", "output_dir", "run_name", "project", "trust_remote_code"})
ELSEWHERE = rank_launch.OWN_NAMES | evaluation.OWN_NAMES | {"report_to"}  # read by the files of these names, and trackers.py
ASKS_FOR_EVALUATION = ("eval_split", "eval_strategy", "early_stopping_patience", "load_best_model_at_end")
STRATEGIES = ("no", "steps", "epoch")


def evaluation_for_ppo(training: dict[str, Any]) -> Evaluation:
    """What is held out, and when it is looked at. `early_stopping` beside `target_kl` alone is not this one but the older switch of that."""
    is_switch = "target_kl" in training and isinstance(training.get("early_stopping"), bool)
    if is_switch and not any(name in training for name in ASKS_FOR_EVALUATION):
        training = {name: value for name, value in training.items() if name != "early_stopping"}
    return evaluation.evaluation_of(training, "eval_reward")


def ppo_settings(spec: TaskSpec, context: Context, evaluated: Evaluation) -> tuple[PpoSettings, list[str]]:
    """(settings, notes for the log). Raises ExecutorError for a name or a value that PPO does not take."""
    given: dict[str, Any] = {"seed": context.seed, **evaluated.settings, **_of_config(spec.model.config), **spec.training}
    if given.get("early_stopping") is False:  # the older switch of target_kl
        given.pop("target_kl", None)
    notes = [f"training.{name} has no effect here" for name in spec.training if name in WITHOUT_EFFECT]
    given = {name: value for name, value in given.items() if name not in WITHOUT_EFFECT | ELSEWHERE}
    known = PpoSettings.__struct_fields__
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
            raise ExecutorError("UnknownSetting", f"training.{name} is no setting of PPO; {hint}")
    try:
        settings = msgspec.convert(given, PpoSettings, strict=False)
    except msgspec.ValidationError as error:
        raise ExecutorError("BadSetting", f"training: {error}") from error
    _check(settings)
    return settings, notes


def _of_config(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config[name] for name in ("gradient_checkpointing",) if name in config}


def _check(settings: PpoSettings) -> None:
    mini = settings.mini_batch_size or settings.per_device_train_batch_size
    for name in POSITIVE:
        if getattr(settings, name) < 1:
            raise ExecutorError("BadSetting", f"training.{name} must be at least 1, found {getattr(settings, name)}")
    for name in ("save_steps", "eval_steps"):
        if getattr(settings, name) <= 0:
            raise ExecutorError("BadSetting", f"training.{name} must be above 0, found {getattr(settings, name):g}")
    for name in ("save_strategy", "eval_strategy"):
        if getattr(settings, name) not in STRATEGIES:
            raise ExecutorError("BadSetting", f"training.{name} must be one of {', '.join(STRATEGIES)}, found {getattr(settings, name)!r}")
    if not 1 <= mini <= settings.per_device_train_batch_size or settings.per_device_train_batch_size % mini:
        whole = f"per_device_train_batch_size ({settings.per_device_train_batch_size})"
        raise ExecutorError("BadSetting", f"training.mini_batch_size must divide {whole}, found {mini}")
