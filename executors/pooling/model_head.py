"""What a model was made for, read off its config, or its adapter's, before any weights are."""

from __future__ import annotations

from mloc.core.language.model_spec import ScratchSource
from mloc.core.language.spec import TaskSpec
from mloc.executors.contract import Context
from mloc.executors.models.classifiers import is_classifier_adapter, scoring_weights
from mloc.executors.models.model_loading import not_loaded
from mloc.executors.models.scratch_model import Head


def head_of(spec: TaskSpec, context: Context) -> Head:
    """`score` for a classifier, `causal` for a language model, `none` for an encoder. Raises ExecutorError where there is no model."""
    from transformers import AutoConfig

    weights = scoring_weights(spec, context)
    if weights.adapter is not None and is_classifier_adapter(weights.adapter):
        return "score"
    try:
        config = AutoConfig.from_pretrained(weights.model, revision=weights.revision, trust_remote_code=weights.trust_remote_code)
    except (OSError, ValueError) as error:
        raise not_loaded(weights, error) from error
    named = " ".join(config.architectures or ())
    if "ForSequenceClassification" in named:
        return "score"
    return "causal" if "CausalLM" in named or "ConditionalGeneration" in named or "LMHead" in named else "none"


def is_classifier(spec: TaskSpec, context: Context) -> bool:
    """Whether rows are scored by a classifier; one made from scratch is a language model. Raises ExecutorError where there is no model."""
    is_scratch = isinstance(spec.model.source, ScratchSource) and spec.checkpoint.load is None
    return not is_scratch and head_of(spec, context) == "score"
