"""Turns rows on standard input, a line of JSON each, into a Parquet file: `python -m mloc.executors.rows.parquet_table FILE '{"column": "str"}'`.

A process of its own, because pyarrow comes with the training extra and the control plane loads no heavy library. Exit code 3 where it is missing.
"""

from __future__ import annotations

import itertools
import json
import sys

BATCH_ROWS = 5000
NO_PYARROW = 3


def main() -> int:
    """Entry point; gives the exit code."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return NO_PYARROW
    file, columns = sys.argv[1], json.loads(sys.argv[2])
    kinds = {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while lines := list(itertools.islice(sys.stdin.buffer, BATCH_ROWS)):
            writer.write_table(pyarrow.Table.from_pylist([json.loads(line) for line in lines], schema=schema))
    return 0


if __name__ == "__main__":
    sys.exit(main())
