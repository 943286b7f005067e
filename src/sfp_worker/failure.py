"""What ends an attempt other than its program."""


class Failed(Exception):
    """The attempt cannot go on. `code` is one of the API contract's; the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
