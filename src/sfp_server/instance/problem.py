"""What can go wrong with an instance, as one sentence for a person."""


class InstanceError(Exception):
    """Expected failure; its text says what is wrong and what to do next. `exit_code` as in the CLI contract."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
