"""What the exit codes of MLOC's commands and services mean; scripts and `mloc up` act on them."""

CLEAN = 0
FAILED = 1  # it ran and did not succeed
USAGE = 2  # the command line is wrong (argparse's own code)
UNAVAILABLE = 69  # no event log, no API: trying again later can help
MISCONFIGURED = 78  # a person must change something first: `mloc up` does not start such a service again
