"""Settings: what is read, what is refused and with which words, and that docs and declarations agree."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from mloc.services import setting_kinds as kind
from mloc.services.setting_variables import Variable, variables
from mloc.services.settings import Settings, SettingsError, allowed_variables, api_address, load_settings, read_environment
from mloc.services.settings_reference import env_example, settings_page

ROOT = Path(__file__).parents[2]


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load_settings({}) == Settings()


def test_every_field_but_the_notes_has_a_variable_and_no_two_share_a_name() -> None:
    fields = [field.name for field in structs.fields(Settings)]
    assert fields == [*variables(), "notes"]
    names = [name for field, variable in variables().items() for name in (field.upper(), *variable.older)]
    assert len(names) == len(set(names))


def test_the_settings_page_and_the_env_example_are_fresh() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), "run `make docs`"
    assert (ROOT / ".env.example").read_text() == env_example(), "run `make docs`"


def test_the_env_example_with_every_line_in_use_is_accepted_and_gives_the_defaults(tmp_path: Path) -> None:
    lines = [line.removeprefix("# ") for line in env_example().splitlines()]
    (tmp_path / ".env").write_text("\n".join(line for line in lines if line.split("=")[0].isupper()))
    from_file = {name: text for name, text in read_environment(tmp_path).items() if name.lower() in variables()}
    assert load_settings(from_file) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("PORT", "8_080", "port", 8080),
        ("LOG_MAX_BYTES", "5_242_880", "log_max_bytes", 5_242_880),
        ("LOG_MAX_BYTES", "5MiB", "log_max_bytes", 5 * 1024**2),
        ("MIN_FREE_DISK", "1.5GB", "min_free_disk", 1_500_000_000),
        ("HEARTBEAT_INTERVAL_SEC", "500ms", "heartbeat_interval_sec", 0.5),
        ("LOG_LEVEL", "warn", "log_level", "WARNING"),
        ("ALLOW_ANONYMOUS", "Yes", "allow_anonymous", True),
        ("TASK_TOPICS", "tasks.inference, lora-sft", "task_topics", ("inference", "lora_sft")),
        ("WORKER_ENV_ALLOW", "HF_TOKEN,WANDB_KEY", "worker_env_allow", ("HF_TOKEN", "WANDB_KEY")),
        ("DISPATCH_POLICY", "BEST_FIT", "dispatch_policy", "best-fit"),
        ("MLOC_DURABILITY", "everysec", "mloc_durability", "fast"),
        ("ORCHESTRATOR_URL", "http://host:9/", "orchestrator_url", "http://host:9"),
        (
            "CALLBACK_ALLOWED_HOSTS",
            "a.example, *.b_c.example,10.2.0.0/16, fe80::/10,127.0.0.1",
            "callback_allowed_hosts",
            ("a.example", "*.b_c.example", "10.2.0.0/16", "fe80::/10", "127.0.0.1"),
        ),
        ("REDIS_URL", "  ", "redis_url", None),
    ],
)
def test_a_value_is_read_as_a_person_would_write_it(name: str, text: str, field: str, value: object) -> None:
    assert getattr(load_settings({name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "abc"), ("PORT", "0"), ("PORT", "65536"), ("HEARTBEAT_INTERVAL_SEC", "-1"), ("HEARTBEAT_INTERVAL_SEC", "nan"),
        ("WORKER_COST_PER_HOUR", "inf"), ("ENABLE_TASK_MERGE", "maybe"), ("LOG_LEVEL", "loud"), ("LOG_MAX_BYTES", "5 parsecs"),
        ("REDIS_URL", "localhost:6379"), ("MLOC_NAMESPACE", "{mloc}"), ("WORKER_ENV_ALLOW", "A B"),
        ("CALLBACK_ALLOWED_HOSTS", "https://example.org"), ("CALLBACK_ALLOWED_HOSTS", "example.org:8443"), ("CALLBACK_ALLOWED_HOSTS", "10.0.0.0/99"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_named_with_what_is_accepted(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings({name: text})
    assert str(error.value).startswith(f"{name}=")
    assert str(error.value).endswith(variables()[name.lower()].kind.accepts)


def test_all_wrong_values_are_told_at_once_and_secrets_are_not_shown() -> None:
    with pytest.raises(SettingsError) as error:
        load_settings({"PORT": "x", "MLOC_REDIS_URL": "foo://:hunter2@host", "LOG_LEVEL": "y"})
    assert [line.split("=")[0] for line in str(error.value).splitlines()] == ["MLOC_REDIS_URL", "PORT", "LOG_LEVEL"]
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("url", ["ftp://host/results", "nonsense://x", "s3://", "/on/disk", "memory://x"])
def test_a_mirror_that_is_no_object_storage_is_refused_by_every_service(url: str) -> None:
    with pytest.raises(SettingsError, match=f"RESULTS_MIRROR={url} cannot be used"):
        load_settings({"RESULTS_MIRROR": url})


def test_object_storage_of_each_kind_is_taken() -> None:
    for url in ("s3://bucket", "gs://bucket/a", "gcs://bucket/a", "abfs://box/a", "abfss://box/a", "az://box/a", "file:///a", "local:///a"):
        assert load_settings({"RESULTS_MIRROR": url}).results_mirror == url


def test_a_key_in_a_url_that_takes_none_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({"RESULTS_MIRROR": "s3://key:geheim@bucket/results", "RESULTS_DIR": "s3://bucket/results"})
    assert "RESULTS_MIRROR=s3://***@bucket/results cannot be used" in str(raised.value)
    assert "for object storage set RESULTS_MIRROR" in str(raised.value)
    assert "geheim" not in str(raised.value)


def test_an_older_name_works_and_is_noted() -> None:
    settings = load_settings({"MLOC_PORT": "9000", "ORCHESTRATOR_WORKER_SELECTION": "round_robin"})
    assert (settings.port, settings.dispatch_policy) == (9000, "round-robin")
    assert settings.notes[0] == "MLOC_PORT is an older name of PORT; please use PORT"


def test_the_present_name_wins_over_an_older_one_and_that_is_noted() -> None:
    settings = load_settings({"MLOC_PORT": "9000", "PORT": "9001"})
    assert settings.port == 9001
    assert settings.notes == ("MLOC_PORT has no effect: PORT is set too",)


def test_a_heartbeat_that_outlives_its_time_to_live_is_refused() -> None:
    with pytest.raises(SettingsError, match="TTL_SEC=5 cannot be used: it must be longer than HEARTBEAT_INTERVAL_SEC=30"):
        load_settings({"HEARTBEAT_TTL_SEC": "5"})


def test_the_environment_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("# mine\nexport PORT=1234  # the API\nWORKER_TAGS='a,b'\n\nLOG_LEVEL=\"debug\"\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    settings = load_settings()
    assert (settings.port, settings.worker_tags, settings.log_level) == (1234, ("a", "b"), "ERROR")


def test_a_line_of_the_env_file_that_is_no_assignment_is_named_with_its_number(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=1\nnonsense\n")
    with pytest.raises(SettingsError, match=r"\.env line 2: expected NAME=value, found 'nonsense'"):
        read_environment(tmp_path)


def test_the_api_listens_on_loopback_without_a_token_and_everywhere_with_one() -> None:
    assert api_address(Settings()) == ("127.0.0.1", 8000)
    assert api_address(Settings(orchestrator_token="t")) == ("0.0.0.0", 8000)
    assert api_address(Settings(mloc_host="0.0.0.0", allow_anonymous=True)) == ("0.0.0.0", 8000)
    with pytest.raises(SettingsError, match="set ORCHESTRATOR_TOKEN"):
        api_address(Settings(mloc_host="0.0.0.0"))


def test_tasks_may_read_only_the_allowed_variables() -> None:
    settings = load_settings({"WORKER_ENV_ALLOW": "HF_TOKEN,ABSENT"})
    assert allowed_variables(settings, {"HF_TOKEN": "x", "SECRET": "y"}) == {"HF_TOKEN": "x"}


@given(st.sampled_from(list(variables().values())), st.text(max_size=30))
def test_any_text_is_parsed_or_refused_with_a_value_error(variable: Variable, text: str) -> None:
    with contextlib.suppress(ValueError):
        variable.kind.parse(text)


@given(st.integers(0, 10**15))
def test_a_size_in_plain_bytes_is_itself(number: int) -> None:
    assert kind.SIZE.parse(f"{number:_}") == number


def test_a_setting_that_nothing_reads_is_said_to_have_no_effect_yet() -> None:
    rooms = (ROOT / room for room in ("services", "console", "replay"))
    text = "\n".join(file.read_text() for room in rooms for file in room.rglob("*.py"))
    unread = {field for field in variables() if not re.search(rf"\b(_?settings|self)\.{field}\b", text)}
    assert unread <= {field for field, variable in variables().items() if variable.planned}
