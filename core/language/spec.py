"""The task language as Structs: one schema for validation, the editor's JSON Schema and the reference page.

`TaskSpec` is what travels in the log and reaches the executor host. It holds only present names: older names, shorthands and
quantities are rewritten by the reader. References stay inside texts; a reference in the place of a number, a switch or a list
waits in `deferred` until it is resolved.
"""

from typing import Annotated, Any, Literal

import msgspec

from mloc.core.language.data_spec import Data, Postprocess
from mloc.core.language.echo_spec import Echo
from mloc.core.language.inference_spec import Inference, Parallel, Retrieval
from mloc.core.language.model_spec import Model
from mloc.core.language.section import (
    AT_INTAKE,
    ByteSize,
    Cores,
    Names,
    PositiveSeconds,
    Seconds,
    Section,
    Settings,
    about,
    also,
    planned,
    settings_of,
)
from mloc.core.language.training_spec import Checkpoint, Eval, Reward, RewardModel

API_VERSION: Literal["mloc/v1"] = "mloc/v1"


class Metadata(Section, frozen=True):
    """Who submits what; shown and filtered by, never interpreted."""

    name: Annotated[str, msgspec.Meta(max_length=200), about("shown in lists; a task can be named by it")] = ""
    owner: Annotated[str, msgspec.Meta(max_length=200), about("who it belongs to")] = ""
    project: Annotated[str, msgspec.Meta(max_length=200), about("what it belongs to")] = ""
    labels: Annotated[dict[str, str], about("words to filter by")] = {}
    annotations: Annotated[dict[str, str], about("anything else to keep with it")] = {}


class Gpu(Section, frozen=True):
    """Devices: how many, of which model, and the memory in bytes needed on each. A task that states it may share a device."""

    type: Annotated[str, also("model", "name"), about("a model's name, or any")] = "any"
    count: Annotated[int, msgspec.Meta(ge=0, le=4096), about("devices of each replica")] = 1
    memory: Annotated[ByteSize | None, about("needed on each device; who states it may share a device")] = None


class Hardware(Section, frozen=True):
    """What one replica needs: cores, memory in bytes, devices."""

    cpu: Annotated[Cores | None, about("cores")] = None
    memory: Annotated[ByteSize | None, about("main memory")] = None
    gpu: Annotated[Gpu | None, about("devices")] = None


class Resources(Section, frozen=True):
    """What placement looks at."""

    replicas: Annotated[int, msgspec.Meta(ge=1, le=4096), planned("workers that run it together")] = 1
    estimated_load: Annotated[
        float | None, also("estimated_load"), planned("how much work it is, in units of your own")
    ] = msgspec.field(name="estimatedLoad", default=None)
    hardware: Annotated[Hardware, about("what the worker must have")] = Hardware()
    tags: Annotated[Names, about("tags that the worker must have")] = ()


class Destination(Section, frozen=True):
    """Where a result goes besides the default folder: a folder (`local`) or a URL (`http`)."""

    type: Annotated[
        Literal["local", "http"], about("`http` sends the result and the artifacts to `url`, beside the copy in the results folder")
    ] = "local"
    path: Annotated[str | None, about("below the results folder or an allowed root; `..` is refused")] = None
    url: Annotated[str | None, about("where the result is sent; artifacts go to `<url>/<task>/files/<name>`")] = None
    method: Annotated[Literal["POST", "PUT", "PATCH"], about("how it is sent")] = "POST"
    headers: Annotated[dict[str, str], about("sent with it; literal secrets among them stay out of the log")] = {}
    timeout_sec: Annotated[
        PositiveSeconds | None, also("timeout_sec", "timeout"), about("for each try to send it; 30 when left out, 600 for large files")
    ] = msgspec.field(name="timeoutSec", default=None)


class Output(Section, frozen=True):
    """Where the result goes, and which artifacts (names or globs) must be there."""

    destination: Annotated[Destination | None, about("a further place for the result")] = None
    artifacts: Annotated[Names, about("names or globs that must be there; the manifest says which are missing")] = ()


class Slo(Section, frozen=True):
    """What the task is due for. Times in seconds from submission; higher priority goes first."""

    deadline_sec: Annotated[PositiveSeconds | None, planned("when it must have ended")] = None
    latency_sec: Annotated[PositiveSeconds | None, also("sloSeconds"), planned("how long it should take at most")] = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=100), about("higher goes first")] = 50
    fail_if_infeasible_sec: Annotated[Seconds | None, planned("give up when it could not be placed for so long")] = None


class Retry(Section, frozen=True):
    """How often a failed attempt is made again, after `backoff_sec` times the number of failures, at most 120 s."""

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100), about("failed attempts before it is dead-lettered")] = 3
    backoff_sec: Annotated[float, msgspec.Meta(ge=0, le=3600), about("times the number of failures, at most 120 s")] = 10.0


class Notify(Section, frozen=True):
    """A webhook that is called when the task ends: with POST, until it answers with 2xx or is given up."""

    url: Annotated[str, about("what is called")]
    headers: Annotated[dict[str, str], about("sent with the call")] = {}
    on: Annotated[tuple[Literal["succeeded", "failed", "cancelled", "timed_out"], ...], about("the ends that are told; all of them when empty")] = ()
    secret: Annotated[str | None, about("signs the call as Standard Webhooks do, so that you can tell it is ours")] = None


class Deferred(Section, frozen=True):
    """A reference in the place of something that is not text: it is put back and checked when it is resolved."""

    path: tuple[str | int, ...]
    reference: str


class TaskSpec(Section, frozen=True):
    """Everything that a task states under `spec`."""

    task_type: Annotated[str, AT_INTAKE, about("what is to be done")] = msgspec.field(name="taskType")
    resources: Annotated[Resources, AT_INTAKE, about("what it needs of a worker")] = Resources()
    enforce_cpu: Annotated[bool, AT_INTAKE, about("run on the CPU, even where a GPU is free")] = False
    model: Annotated[Model, about("what is loaded")] = Model()
    data: Annotated[Data | None, about("the rows it works on; a list stands for `{type: list, items: […]}`")] = None
    inference: Annotated[Inference, about("how prompts are answered")] = Inference()
    training: Annotated[Settings, settings_of("training"), about("the trainer's arguments, by its names")] = {}
    generation: Annotated[Settings, settings_of("generation"), about("how rollouts are sampled, by the names of transformers")] = {}
    reward_model: Annotated[RewardModel | None, about("what scores a rollout; a text is its identifier")] = None
    rewards: Annotated[tuple[Reward, ...], about("the terms of the reward of `grpo`, `rloo` and `ppo`")] = ()
    eval: Annotated[Eval | None, about("how a model is judged")] = None
    parallel: Annotated[Parallel | None, AT_INTAKE, about("split the rows over workers")] = None
    checkpoint: Annotated[Checkpoint, about("what training or inference starts from")] = Checkpoint()
    postprocess: Annotated[Postprocess, about("what is made of a result afterwards")] = Postprocess()
    retrieval: Annotated[Retrieval | None, about("documents and how passages are found")] = None
    echo: Annotated[Echo, about("how an echo task misbehaves")] = Echo()
    agent: Annotated[Settings, settings_of("agent"), about("an agent's settings")] = {}
    output: Annotated[Output, about("where the result goes")] = Output()
    slo: Annotated[Slo, AT_INTAKE, about("what it is due for")] = Slo()
    retry: Annotated[Retry, AT_INTAKE, about("what becomes of a failure")] = Retry()
    timeout_sec: Annotated[PositiveSeconds | None, AT_INTAKE, about("of one attempt, in seconds; then it is stopped")] = None
    ttl_sec: Annotated[PositiveSeconds | None, AT_INTAKE, about("how long the result is kept after the end; for ever when left out")] = None
    notify: Annotated[Notify | None, about("a webhook for its end; a text is its url")] = None
    depends_on: Annotated[
        Names, AT_INTAKE, also("depends_on"), about("ids or names of tasks submitted before")
    ] = msgspec.field(name="dependsOn", default=())
    deferred: tuple[Deferred, ...] = ()


STAGE_NAME = msgspec.Meta(extra_json_schema={"pattern": "^[A-Za-z0-9_-]{1,63}$", "not": {"enum": ["env", "secret"]}})


class Stage(Section, frozen=True):
    """One stage of a chain, or one node of a graph: its own `spec` is merged over the pipeline's."""

    name: Annotated[str, also("id"), STAGE_NAME, about("of one pipeline, all different; the task is `<id>.<name>`")]
    depends_on: Annotated[
        Names | None, also("depends_on"), about("stages to wait for; in a chain the one before when left out")
    ] = msgspec.field(name="dependsOn", default=None)
    spec: Annotated[dict[str, Any], about("merged over the pipeline's: mappings key by key, lists replaced, null takes away")] = {}


class Document(Section, frozen=True):
    """One YAML document: a task or a pipeline. `spec` is kept plain until stages are merged."""

    api_version: Annotated[Literal["mloc/v1"], about("this language")] = msgspec.field(name="apiVersion")
    spec: Annotated[dict[str, Any], about("what is to be done")]
    kind: Annotated[str, about("a free label such as InferenceTask or Pipeline")] = "Task"
    metadata: Annotated[Metadata, about("who submits what")] = Metadata()


_SPEC_ENCODER = msgspec.json.Encoder()
_SPEC_DECODER = msgspec.json.Decoder(TaskSpec)


def encode_spec(spec: TaskSpec) -> bytes:
    """The JSON that is logged: present names only, defaults left out."""
    return _SPEC_ENCODER.encode(spec)


def decode_spec(encoded: bytes) -> TaskSpec:
    """Read what `encode_spec` wrote. Raises msgspec.ValidationError when it is of another version."""
    return _SPEC_DECODER.decode(encoded)

