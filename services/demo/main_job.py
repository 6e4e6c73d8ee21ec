"""The main job: train a tiny model from nothing, tune it, ask it on two workers, sum up; then what came of it, from its results."""

from __future__ import annotations

from mloc.core.task import Task
from mloc.services.demo.failure import DemoFailed
from mloc.services.demo.job_view import JobView
from mloc.services.demo.outcome import Pair, Trained, answered, changed_first, compared, trained
from mloc.services.demo.screen import Screen
from mloc.services.demo.sparkline import sparkline
from mloc.services.demo.watch import Watch, submit_template
from mloc.services.intake.commands.log_session import Session
from mloc.services.intake.commands.output import one_line
from mloc.services.intake.published_results import read_result, result_folder

TEMPLATE = "tiny_pipeline"
TIMEOUT_SEC = 900.0
ANSWERS_SHOWN = 6


async def run_main_job(session: Session, screen: Screen) -> None:
    """Raises DemoFailed where anything of it is not as it should be."""
    watch = Watch(session, await submit_template(session, TEMPLATE))
    screen.say(f"  submitted {watch.root}")
    with screen.region() as region:
        await watch.until_ended(JobView(watch, screen, region).look, TIMEOUT_SEC)
    await watch.until_written()
    await _show_outcome(watch, screen)


async def _show_outcome(watch: Watch, screen: Screen) -> None:
    session, job = watch.session, watch.job
    assert job is not None
    stages = {part.stage: part for part in watch.parts() if part.stage}
    screen.title("What came of it, as its results say")
    for stage, called in (("pretrain", "pretraining"), ("tune", "LoRA tuning")):
        screen.say(_training_line(called, trained(stage, await _result(session, stages[stage])), stages[stage].worker))
    before = answered("before", await _result(session, stages["before"]))
    after = answered("answer", await _result(session, stages["answer"]))
    screen.say(f"  inference      {after.tokens_per_sec:,.0f} tokens/s: {after.usage.completion_tokens} tokens, {len(after.items)} questions")
    for shard in (part for part in watch.parts() if part.parent == stages["answer"].id):
        screen.say(f"    shard {shard.id.rpartition('.s')[2]}      {shard.items} questions, answered by {shard.worker}")
    pairs = compared(before, after)
    screen.say()
    for line in answers_table(changed_first(pairs)[:ANSWERS_SHOWN]):
        screen.say(f"  {line}")
    if len(pairs) > ANSWERS_SHOWN:
        screen.say(f"  … and {len(pairs) - ANSWERS_SHOWN} more in {result_folder(session.results_dir, stages['summary'].id)}")
    screen.say()
    screen.say(f"  results        {result_folder(session.results_dir, job.id)}, and a folder a stage beside it")
    screen.say(f"  time taken     {(job.ended_ms - job.submitted_ms) / 1000:.1f} s from the submission to the last result")


def _training_line(called: str, found: Trained, worker: str) -> str:
    training = found.training
    return (
        f"  {called:<14} loss {training.first_loss:.4f} → {training.final_loss:.4f} in {training.steps} steps  {sparkline(found.losses)}  "
        f"{found.usage.total_tokens:,} tokens, {found.tokens_per_sec:,.0f} tokens/s, by {worker}"
    )


def answers_table(pairs: list[Pair]) -> list[str]:
    """Question, before, after in columns."""
    rows = [("question", "before the tuning", "after the tuning")]
    rows += [(one_line(pair.question, 40), one_line(pair.before, 44), one_line(pair.after, 44)) for pair in pairs]
    widths = [max(len(row[at]) for row in rows) for at in range(2)]
    return [f"{row[0]:<{widths[0]}}   {row[1]:<{widths[1]}}   {row[2]}" for row in rows]


async def _result(session: Session, task: Task) -> bytes:
    result = await read_result(session.log, session.results_dir, task)
    if result is None:
        raise DemoFailed(f"the result of {task.id} is neither in {session.results_dir} nor in the log")
    return result
