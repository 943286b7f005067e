"""Sources on the instance's own machine: a private directory (the default), and the environment."""

import os
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

from sfp_server.credentials.sources.base import SourceError

#: the variable, and the systemd credential, that may hold the ring
VARIABLE = "SFP_VAULT_KEYS"
CREDENTIAL = "sfp-vault-keys"


class FileSource:
    """A file of a directory that no other service sees."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> str | None:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SourceError(f"the vault's keys cannot be read: {error.strerror}") from error

    async def write(self, text: str) -> None:
        """Readers see the old or the new ring, also after a power cut."""
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=".keys-", dir=self._path.parent)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise SourceError(f"the vault's keys cannot be written: {error.strerror}") from error


class EnvironmentSource:
    """A variable, taken out of the environment when it is read, or a credential of systemd (`LoadCredential=`)."""

    name = "environment"

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._environ = environ
        self._taken: str | None = None

    async def read(self) -> str | None:
        if self._taken is None:
            self._taken = self._environ.pop(VARIABLE, None) or self._credential()
        if self._taken is None:
            raise SourceError(
                f"the vault's keys are not in the environment: set {VARIABLE}, or LoadCredential={CREDENTIAL}:… in the "
                f"unit; `sfp-server keys new-vault` prints fresh ones"
            )
        return self._taken

    def _credential(self) -> str | None:
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        try:
            return (Path(folder) / CREDENTIAL).read_text() if folder else None
        except OSError:
            return None

    async def write(self, text: str) -> None:
        del text
        raise SourceError(
            "the vault's keys are in the environment, which we cannot write: add a version there "
            "(`sfp-server keys new-vault --beside` prints the ring with one more), then restart the instance"
        )
