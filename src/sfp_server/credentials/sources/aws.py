"""AWS Secrets Manager, through botocore (`pip install sfp-server[aws]`): others keep the code that signs requests."""

import asyncio
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from sfp_server.credentials.sources.base import MAX_BYTES, SECONDS, Fetched, SourceError
from sfp_server.credentials.sources.web import texts

_WHO = "AWS Secrets Manager"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Which region. Who we are: the credentials file, or what the machine itself is given (role of the instance)."""

    region: str
    #: None: the region's own
    endpoint: str | None = None
    #: in the format of ~/.aws/credentials
    credentials: Path | None = None
    ca_file: str | None = None


class SecretsManager:
    """A path is the name of a secret; a JSON object has entries, any other text is the entry `value`."""

    name = "aws"

    def __init__(self, access: Access, *, ring_path: str) -> None:
        self._access = access
        self._ring_path = ring_path
        self._client: Any = None  # botocore makes its classes at run time

    async def read(self) -> str | None:
        try:
            return await self._value(self._ring_path)
        except _Absent:
            return None

    async def write(self, text: str) -> None:
        try:
            await self._call(lambda aws: aws.put_secret_value(SecretId=self._ring_path, SecretString=text))
        except _Absent:
            await self._call(lambda aws: aws.create_secret(Name=self._ring_path, SecretString=text))

    async def fetch(self, path: str) -> Fetched:
        if path == self._ring_path:
            raise SourceError("the vault's own keys cannot be referred to")
        value = await self._value(path)
        try:
            return Fetched(values=texts(msgspec.json.decode(value, type=dict[str, Any])))
        except msgspec.MsgspecError:
            return Fetched(values={"value": value})

    async def revoke(self, lease_id: str) -> None:
        """Nothing here has a lease."""

    async def _value(self, name: str) -> str:
        answer = await self._call(lambda aws: aws.get_secret_value(SecretId=name))
        value = answer.get("SecretString")
        if not isinstance(value, str) or len(value) > MAX_BYTES:
            raise SourceError(f"{_WHO} has no text at this name")
        return value

    async def _call(self, work: Callable[[Any], Any]) -> Any:
        """In a thread: botocore waits. Raises SourceError, _Absent."""
        try:
            errors = _botocore("exceptions")
        except ImportError as error:
            raise SourceError(f"{_WHO} needs botocore: pip install 'sfp-server[aws]'") from error
        try:
            return await asyncio.wait_for(asyncio.to_thread(lambda: work(self._open())), SECONDS * 2)
        except errors.ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code == "ResourceNotFoundException":
                raise _Absent(f"{_WHO} has nothing at this name") from error
            raise SourceError(f"{_WHO} refused: {code}") from error
        except (errors.BotoCoreError, TimeoutError) as error:
            raise SourceError(f"{_WHO} cannot be reached: {type(error).__name__}") from error

    def _open(self) -> Any:
        if self._client is None:
            session = _botocore("session").Session()
            if self._access.credentials is not None:
                session.set_config_variable("credentials_file", str(self._access.credentials))
            limits = _botocore("config").Config(
                connect_timeout=SECONDS / 2, read_timeout=SECONDS, retries={"total_max_attempts": 2}
            )
            self._client = session.create_client(
                "secretsmanager",
                region_name=self._access.region,
                endpoint_url=self._access.endpoint,
                verify=self._access.ca_file,
                config=limits,
            )
        return self._client


def _botocore(module: str) -> Any:
    """Not there unless the extra is installed, and without types. Raises ImportError."""
    return importlib.import_module(f"botocore.{module}")


class _Absent(SourceError):
    """There is no such secret."""
