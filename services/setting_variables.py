"""What each setting's variable accepts, what it is for and its older names, grouped as docs/settings.md shows them."""

from msgspec import Struct

from mloc.core.decisions.dispatch_policy import POLICIES
from mloc.services import setting_kinds as kind
from mloc.services.setting_kinds import Kind


class Variable(Struct, frozen=True):
    """How one field of Settings is read. `default_text` is for people, where the value says little; a secret is never shown."""

    kind: Kind
    about: str
    older: tuple[str, ...] = ()
    default_text: str = ""
    secret: bool = False
    planned: bool = False


GROUPS: dict[str, dict[str, Variable]] = {
    "Event log": {
        "redis_url": Variable(
            kind.url("redis", "rediss", "unix"),
            "The Redis or Valkey server that holds the event log. Unset: `mloc up` starts an embedded one in the state folder.",
            older=("MLOC_REDIS_URL",),
            default_text="embedded server",
            secret=True,
        ),
        "mloc_namespace": Variable(kind.WORD, "Prefix of all keys; another namespace is another, separate cell."),
        "mloc_durability": Variable(
            kind.choice("always", "fast", also={"everysec": "fast"}),
            "Embedded server: always = what is acknowledged is on disk; fast = synced each second, a crash of the server or of "
            "the machine can lose the last acknowledged writes.",
        ),
        "backlog_limit": Variable(
            kind.whole_number(1),
            "Unfinished tasks at which further submissions are refused, with the advice to come back later.",
        ),
        "min_free_disk": Variable(
            kind.SIZE, "Free space below which the embedded server is not started and uploads are refused.", default_text="1GiB"
        ),
    },
    "Folders": {
        "orchestrator_state_dir": Variable(
            kind.FOLDER, "Embedded server, snapshots, archive, read model, metrics, logs."
        ),
        "results_dir": Variable(
            kind.LOCAL_FOLDER,
            "Results. `mloc up` uses one folder for all.",
            default_text="worker ./results_workers; API and aggregator ./results_host; mloc up ./results",
        ),
        "orchestrator_results_dir": Variable(
            kind.LOCAL_FOLDER, "Results as the API and the aggregator see them.", default_text="RESULTS_DIR"
        ),
        "results_mirror": Variable(
            kind.STORE,
            "Object storage to which `mloc mirror` copies each published result; keys come from the store's own variables.",
            default_text="nowhere",
        ),
        "allowed_output_roots": Variable(
            kind.FOLDERS, "Absolute folders outside RESULTS_DIR in which a task may ask for its results."
        ),
        "worker_dir": Variable(
            kind.FOLDER, "A worker's own folder: its id, its ledger, its cache.", default_text="<state folder>/worker"
        ),
        "state_flush_interval_sec": Variable(kind.seconds(0.1), "Longest time between two snapshots."),
    },
    "API": {
        "orchestrator_token": Variable(
            kind.TEXT, "Token that clients send as `Authorization: Bearer …`.", secret=True
        ),
        "port": Variable(kind.PORT, "Port of the API.", older=("MLOC_PORT",)),
        "mloc_host": Variable(
            kind.TEXT, "Address that the API listens on.", default_text="0.0.0.0 with a token, else 127.0.0.1"
        ),
        "allow_anonymous": Variable(kind.BOOLEAN, "Listen beyond loopback without a token."),
        "metrics_require_token": Variable(kind.BOOLEAN, "Ask for the token on /metrics too."),
        "api_read_only": Variable(kind.BOOLEAN, "The API shows and changes nothing: what would write is answered with 403."),
        "api_rate_limit": Variable(
            kind.decimal(0), "Requests a second of one client (by address) above which it is told to wait; 0 = no bound.", default_text="no bound"
        ),
        "api_max_requests": Variable(kind.whole_number(1), "Requests that the API works on at a time; more are told to come back."),
        "api_body_sec": Variable(kind.seconds(0.1), "Time within which the body of a request must have arrived."),
        "upload_max_bytes": Variable(kind.SIZE, "Largest file that the API takes.", default_text="256GiB"),
        "uploads_per_task": Variable(kind.whole_number(1, 4096), "Files that may be uploaded for one task."),
        "upload_expire_sec": Variable(kind.seconds(60), "Time after which an upload that nobody goes on with is forgotten.", default_text="86400"),
        "orchestrator_base_url": Variable(
            kind.url("http", "https"), "Where workers reach the API: those without a shared folder upload results to it, fetch inputs from it."
        ),
        "orchestrator_url": Variable(
            kind.url("http", "https"),
            "The API that commands talk to where no event log is at hand; that workers reach where ORCHESTRATOR_BASE_URL is not set.",
            default_text="none; mloc check http://127.0.0.1:PORT",
        ),
    },
    "Callbacks": {
        "callback_allowed_hosts": Variable(
            kind.HOSTS,
            "Where results, artifacts and webhooks may be sent: names, `*.example.org`, networks such as 10.0.0.0/8. Addresses of clouds' metadata "
            "services (link-local ones) never are.",
            default_text="anywhere",
        ),
        "callback_timeout_sec": Variable(kind.seconds(0.1), "Time that a receiver has to answer, where the task states none."),
        "callback_tries": Variable(
            kind.whole_number(1, 100),
            "Calls of one receiver before it is given up; pauses double from 1 s to 1 h, so that 15 take one and a half to three hours.",
        ),
        "callback_backlog": Variable(kind.whole_number(1), "Most callbacks that wait; the oldest are given up above it."),
    },
    "Worker": {
        "worker_id": Variable(kind.WORD, "Name of the worker.", default_text="made once, kept in WORKER_DIR"),
        "worker_slots": Variable(kind.whole_number(1, 4096), "Tasks without a GPU that a worker runs at a time."),
        "worker_tags": Variable(kind.WORDS, "Tags that tasks can require."),
        "task_topics": Variable(
            kind.TASK_TYPES, "Task types that the worker takes.", older=("TASK_TOPIC",), default_text="all it can run"
        ),
        "worker_cost_per_hour": Variable(kind.decimal(0), "Price of the worker, for reports and placement."),
        "worker_env_allow": Variable(
            kind.NAMES, "Environment variables that `${NAME}` in a task may read: here, and at the aggregator for callbacks.", default_text="none"
        ),
        "heartbeat_interval_sec": Variable(
            kind.seconds(0.05), "Time between two heartbeats.", default_text="30; mloc up 1"
        ),
        "heartbeat_ttl_sec": Variable(
            kind.seconds(0.1),
            "Silence after which a worker is lost, but not before three of its own intervals.",
            default_text="120; mloc up 5",
        ),
        "stop_grace_sec": Variable(kind.seconds(0), "Time that a task has to stop cleanly before it is killed."),
        "worker_drain_sec": Variable(kind.seconds(0), "Time that running tasks have to end when the worker is asked to leave."),
        "worker_cache_size": Variable(
            kind.SIZE,
            "Most that a worker keeps of what it fetched for tasks, in WORKER_DIR; nothing larger is fetched.",
            default_text="20GiB",
        ),
        "vllm_model": Variable(kind.TEXT, "Model of inference tasks that name none."),
        "ppo_model": Variable(kind.TEXT, "Model of training tasks that name none."),
    },
    "Scheduling": {
        "dispatch_policy": Variable(
            kind.choice(*POLICIES),
            "How the scheduler chooses of the workers that fit and have room; [running](running.md#which-worker-gets-a-task) tells them apart.",
            older=("ORCHESTRATOR_DISPATCH_MODE", "ORCHESTRATOR_WORKER_SELECTION"),
        ),
        "enable_context_reuse": Variable(kind.BOOLEAN, "Prefer the worker that has the engine warm.", planned=True),
        "enable_stage_weight_stickiness": Variable(
            kind.BOOLEAN, "Prefer the worker that made the weights of an earlier stage.", planned=True
        ),
        "enable_task_merge": Variable(
            kind.BOOLEAN, "Merge small inference tasks of one model into one engine call.", planned=True
        ),
        "task_merge_max_batch_size": Variable(
            kind.whole_number(1, 4096), "Most tasks in one merged call.", planned=True
        ),
        "enable_elastic_scaling": Variable(
            kind.BOOLEAN, "Switch idle workers off, and on again when work waits.", planned=True
        ),
        "elastic_auto_idle_sec": Variable(kind.seconds(1), "Idle time after which a worker goes off.", planned=True),
        "elastic_auto_queue_length": Variable(
            kind.whole_number(1), "Waiting tasks that bring one back.", planned=True
        ),
        "elastic_auto_min_workers": Variable(kind.whole_number(0), "Workers that always stay on.", planned=True),
    },
    "Logs": {
        "log_level": Variable(
            kind.choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", also={"warn": "WARNING"}),
            "Least level that is shown.",
            older=("MLOC_LOG_LEVEL",),
        ),
        "log_format": Variable(
            kind.choice("auto", "console", "json"),
            "console = lines for people; auto = console on a terminal, else JSON.",
        ),
        "log_color": Variable(kind.choice("auto", "always", "never"), "Colours in console lines; auto = on a terminal."),
        "log_file": Variable(
            kind.FILE,
            "Log file of a service, beside its console output; `{service}` stands for the service's name; off = none.",
            default_text="<state folder>/logs/SERVICE.log",
        ),
        "log_max_bytes": Variable(kind.SIZE, "Size at which a log file is turned over.", default_text="5MiB"),
        "log_backup_count": Variable(kind.whole_number(0, 1000), "Turned-over log files that are kept."),
    },
    "Starting": {
        "mloc_node_type": Variable(
            kind.choice("orchestrator", "worker"),
            "What `mloc start` starts: API, scheduler, aggregator and metrics, or a worker.",
        ),
    },
}


def variables() -> dict[str, Variable]:
    """All of them by field, in order."""
    return {field: variable for group in GROUPS.values() for field, variable in group.items()}
