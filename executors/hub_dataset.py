"""Rows of a dataset that is not a file which we read ourselves: a hub's repository, or parquet."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any

from mloc.core.language.data_spec import DatasetData
from mloc.executors.contract import ExecutorError


def read_hub_dataset(data: DatasetData, named: str) -> list[dict[str, Any]]:
    """All rows of the split, or with `streaming` no more than `max_samples`. Raises ExecutorError where it is not to be had."""
    if not named:
        raise ExecutorError("NoData", "data of type dataset names none; give it an identifier, a path or a url")
    try:
        import datasets
    except ImportError as error:
        raise ExecutorError("MissingDependency", 'datasets of a hub need the library datasets: pip install "mloc[training]"') from error
    try:
        if Path(named).suffix == ".parquet":
            loaded = datasets.load_dataset("parquet", data_files={"train": named}, split=data.split)
        else:
            loaded = datasets.load_dataset(named, data.name, split=data.split, revision=data.revision, streaming=data.streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        offline = " (HF_HUB_OFFLINE is set, so only what is in the local cache is there)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        retryable = isinstance(error, ConnectionError) and not offline
        raise ExecutorError("DatasetNotFound", f"the dataset {named!r} could not be read{offline}: {error}", retryable=retryable) from error
    return [dict(row) for row in islice(loaded, data.max_samples if data.streaming and not data.shuffle else None)]
