"""What ends the demo early, for a person."""

from mloc.services.exit_codes import FAILED


class DemoFailed(Exception):
    """Something is not as it should be; the message says what, where and what to do. `code` is the command's exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code
