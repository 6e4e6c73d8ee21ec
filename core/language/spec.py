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
    also,
    settings_of,
)
from mloc.core.language.training_spec import Checkpoint, Eval, Reward, RewardModel

API_VERSION: Literal["mloc/v1"] = "mloc/v1"


class Metadata(Section, frozen=True):
    """Who submits what; shown and filtered by, never interpreted."""

    name: Annotated[str, msgspec.Meta(max_length=200)] = ""
    owner: Annotated[str, msgspec.Meta(max_length=200)] = ""
    project: Annotated[str, msgspec.Meta(max_length=200)] = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Gpu(Section, frozen=True):
    """Devices: how many, of which model, and the memory in bytes needed on each. A task that states it may share a device."""

    type: str = "any"
    count: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 1
    memory: ByteSize | None = None


class Hardware(Section, frozen=True):
    """What one replica needs: cores, memory in bytes, devices."""

    cpu: Cores | None = None
    memory: ByteSize | None = None
    gpu: Gpu | None = None


class Resources(Section, frozen=True):
    """What placement looks at."""

    replicas: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    estimated_load: Annotated[float | None, also("estimated_load")] = msgspec.field(name="estimatedLoad", default=None)
    hardware: Hardware = Hardware()
    tags: Names = ()


class Destination(Section, frozen=True):
    """Where a result goes besides the default folder: a folder (`local`) or a URL (`http`)."""

    type: Literal["local", "http"] = "local"
    path: str | None = None
    url: str | None = None
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    headers: dict[str, str] = {}
    timeout_sec: Annotated[PositiveSeconds | None, also("timeout_sec", "timeout")] = msgspec.field(
        name="timeoutSec", default=None
    )


class Output(Section, frozen=True):
    """Where the result goes, and which artifacts (names or globs) must be there."""

    destination: Destination | None = None
    artifacts: Names = ()


class Slo(Section, frozen=True):
    """What the task is due for. Times in seconds from submission; higher priority goes first."""

    deadline_sec: PositiveSeconds | None = None
    latency_sec: Annotated[PositiveSeconds | None, also("sloSeconds")] = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50
    fail_if_infeasible_sec: Seconds | None = None


class Retry(Section, frozen=True):
    """How often a failed attempt is made again, after `backoff_sec` times the number of failures, at most 120 s."""

    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    backoff_sec: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 10.0


class Notify(Section, frozen=True):
    """A webhook that is called when the task ends."""

    url: str
    headers: dict[str, str] = {}
    on: tuple[Literal["succeeded", "failed", "cancelled", "timed_out"], ...] = ()


class Deferred(Section, frozen=True):
    """A reference in the place of something that is not text: it is put back and checked when it is resolved."""

    path: tuple[str | int, ...]
    reference: str


class TaskSpec(Section, frozen=True):
    """Everything that a task states under `spec`."""

    task_type: Annotated[str, AT_INTAKE] = msgspec.field(name="taskType")
    resources: Annotated[Resources, AT_INTAKE] = Resources()
    enforce_cpu: Annotated[bool, AT_INTAKE] = False
    model: Model = Model()
    data: Data | None = None
    inference: Inference = Inference()
    training: Annotated[Settings, settings_of("training")] = {}
    generation: Annotated[Settings, settings_of("generation")] = {}
    reward_model: RewardModel | None = None
    rewards: tuple[Reward, ...] = ()
    eval: Eval | None = None
    parallel: Annotated[Parallel | None, AT_INTAKE] = None
    checkpoint: Checkpoint = Checkpoint()
    postprocess: Postprocess = Postprocess()
    retrieval: Retrieval | None = None
    echo: Echo = Echo()
    agent: Annotated[Settings, settings_of("agent")] = {}
    output: Output = Output()
    slo: Annotated[Slo, AT_INTAKE] = Slo()
    retry: Annotated[Retry, AT_INTAKE] = Retry()
    timeout_sec: Annotated[PositiveSeconds | None, AT_INTAKE] = None
    ttl_sec: Annotated[PositiveSeconds | None, AT_INTAKE] = None
    notify: Notify | None = None
    depends_on: Annotated[Names, AT_INTAKE, also("depends_on")] = msgspec.field(name="dependsOn", default=())
    deferred: tuple[Deferred, ...] = ()


class Stage(Section, frozen=True):
    """One stage of a chain, or one node of a graph: its own `spec` is merged over the pipeline's."""

    name: Annotated[str, also("id")]
    depends_on: Annotated[Names | None, also("depends_on")] = msgspec.field(name="dependsOn", default=None)
    spec: dict[str, Any] = {}


class Document(Section, frozen=True):
    """One YAML document: a task or a pipeline. `spec` is kept plain until stages are merged."""

    api_version: Literal["mloc/v1"] = msgspec.field(name="apiVersion")
    spec: dict[str, Any]
    kind: str = "Task"
    metadata: Metadata = Metadata()


_SPEC_ENCODER = msgspec.json.Encoder()
_SPEC_DECODER = msgspec.json.Decoder(TaskSpec)


def encode_spec(spec: TaskSpec) -> bytes:
    """The JSON that is logged: present names only, defaults left out."""
    return _SPEC_ENCODER.encode(spec)


def decode_spec(encoded: bytes) -> TaskSpec:
    """Read what `encode_spec` wrote. Raises msgspec.ValidationError when it is of another version."""
    return _SPEC_DECODER.decode(encoded)

