"""Rows through the library `datasets`: of a hub's repository, a folder that it saved, or a folder of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from mloc.core.language.data_spec import DatasetData
from mloc.executors.contract import ExecutorError
from mloc.executors.models.hub import hub_trouble, watch_hub
from mloc.executors.rows.row_split import parts_of, select_split
from mloc.executors.rows.tables import Columns, Table

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves


def hub_table(data: DatasetData, named: str) -> Table:
    """The rows of the split, read as they are needed. Raises ExecutorError where the dataset is not to be had."""
    if not named:
        raise ExecutorError("NoData", "data of type dataset names none; give it an identifier, a path or a url")
    parts_of(data.split)

    @cache
    def split_table(name: str) -> Table:
        return _table(_loaded(data, named, name))

    return select_split(split_table, data.split)


def _table(dataset: Any) -> Table:
    """Of a Dataset, which knows its length, or of a stream, which is counted by reading it."""
    is_stream = not hasattr(dataset, "__len__")

    def read(start: int, stop: int | None) -> Iterator[Columns]:
        if is_stream:
            yield from islice((dict(row) for row in dataset), start, stop)
            return
        last = len(dataset) if stop is None else min(stop, len(dataset))
        yield from (dict(row) for row in dataset.select(range(min(start, last), last)))

    return Table(read, lambda: sum(1 for _ in dataset) if is_stream else len(dataset))


def _loaded(data: DatasetData, named: str, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ExecutorError("MissingDependency", 'datasets of a hub need the library datasets: pip install "mloc[training]"') from error
    folder = Path(named).expanduser()
    if not folder.is_dir():
        watch_hub()
    try:
        if any((folder / name).is_file() for name in SAVED):
            return _of_split(datasets.load_from_disk(str(folder)), named, split)
        return datasets.load_dataset(
            str(folder) if folder.is_dir() else named, data.name, split=split, revision=data.revision, streaming=data.streaming
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if (trouble := hub_trouble(named, error)) is not None:
            raise trouble from error
        offline = " (HF_HUB_OFFLINE is set, so only what is in the local cache is there)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        retryable = isinstance(error, ConnectionError) and not offline
        raise ExecutorError("DatasetNotFound", f"the dataset {named!r} could not be read{offline}: {error}", retryable=retryable) from error


def _of_split(saved: Any, named: str, split: str) -> Any:
    if not isinstance(saved, dict):
        return saved
    if split not in saved:
        raise ExecutorError("BadSplit", f"{named} has no split {split!r}; it has {', '.join(saved)}")
    return saved[split]
