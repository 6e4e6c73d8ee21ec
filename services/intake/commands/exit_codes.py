"""What the exit codes of `mloc-intake` mean; scripts act on them."""

OK = 0
FAILED = 1  # the task that was waited for failed, was cancelled or timed out; there is no result
INVALID = 2  # the command line, a setting or a task file is wrong; nothing was submitted of that file
UNREACHABLE = 3  # no event log, or it cannot be reached now
REFUSED = 4  # understood, and not done: the key was used with another body, the backlog is full, the task is in another state
INTERRUPTED = 130  # ctrl-C; what was submitted goes on
