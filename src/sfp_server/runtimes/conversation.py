"""Attends one worker from its job to its exit: reports in, dials out, and the kernel's word at the end."""

import asyncio
import contextlib
import errno
from dataclasses import replace
from typing import Any

import structlog

from sfp_server.addresses import dial
from sfp_server.runtimes import reports
from sfp_server.runtimes.base import Attendant, Exit, Failure, Workload
from sfp_server.runtimes.channel import Channel
from sfp_server.runtimes.egress import Policies, Policy, Verdict
from sfp_server.runtimes.launch import Outermost
from sfp_worker.protocol import LINE_COST, MAX_DIALS, Message, ProtocolError, exit_status

_log: Any = structlog.get_logger(__name__)

#: seconds between a worker's exit message and its actual end
EXIT_SECONDS = 5.0
#: seconds beyond its grace period that a worker gets to obey `terminate`
OBEY_SECONDS = 2.0
#: bytes of one attempt's reports beyond which it is not a supervisor that talks to us
_REPORT_SLACK = 64 * 1024 * 1024


class Conversation:
    def __init__(
        self, channel: Channel, process: Outermost, workload: Workload, attendant: Attendant, policies: Policies
    ) -> None:
        self._channel = channel
        self._process = process
        self._workload = workload
        self._attendant = attendant
        self._policies = policies
        self._dials: set[asyncio.Task[None]] = set()
        self._artifact: str | None = None
        self._room = workload.limits.artifact_bytes + 3 * workload.limits.output_bytes + _REPORT_SLACK
        self._terminated: asyncio.Task[None] | None = None

    async def run(self) -> Exit:
        """Until the worker is gone; what became of it."""
        try:
            said = await self._listen()
        except ProtocolError:
            said = None
        except Exception:
            _log.exception("runtime.attendant_failed", operation_id=self._workload.operation_id)
            said = None
        if said is None:
            self._process.kill()
        for task in (*self._dials, *([self._terminated] if self._terminated else [])):
            task.cancel()
        status = await self._status()
        return _judge(said, status)

    def terminate(self) -> None:
        """Ask the worker to end its program; if it does not obey in time, it is ended."""
        if self._terminated is None:
            self._terminated = asyncio.create_task(self._terminate())

    async def _terminate(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._channel.send({"t": "terminate"}), OBEY_SECONDS)
        await asyncio.sleep(self._workload.grace_seconds + OBEY_SECONDS)
        self._process.kill()

    async def _status(self) -> int:
        try:
            return await asyncio.wait_for(self._process.wait(), EXIT_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            return -9

    async def _listen(self) -> Exit | None:
        """Take reports until the exit message; None when the worker hung up without one."""
        while (frame := await self._channel.receive()) is not None:
            if isinstance(frame, bytes):
                await self._take_chunk(frame)
            elif frame["t"] == "exit":
                return _said(frame)
            else:
                await self._take(frame)
        return None

    async def _take(self, message: Message) -> None:
        match message["t"]:
            case "log":
                lines = reports.log_lines(message)
                self._charge(sum(len(line.message) + LINE_COST for line in lines))
                await self._attendant.log(lines)
            case "progress":
                percent, text = reports.progress(message)
                await self._attendant.progress(percent, text)
            case "artifact" if self._artifact is None:
                self._artifact = reports.artifact_name(message)
            case "artifact_end" if self._artifact is not None:
                await self._attendant.artifact(self._artifact, b"", last=True)
                self._artifact = None
            case "dial":
                self._dial(message)
            case _:
                raise ProtocolError("unknown message")

    async def _take_chunk(self, data: bytes) -> None:
        if self._artifact is None:
            raise ProtocolError("bytes of no artifact")
        self._charge(len(data))
        await self._attendant.artifact(self._artifact, data, last=False)

    def _charge(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise ProtocolError("more reports than the limits allow")

    def _dial(self, message: Message) -> None:
        match message:
            case {"id": int() as number, "host": str() as host, "port": int() as port, "step": str() as step}:
                if len(self._dials) >= MAX_DIALS or not 0 < number < 1 << 64 or not 0 <= port < 65536:
                    raise ProtocolError("not a dial, or too many")
            case _:
                raise ProtocolError("not a dial")
        policy = self._policies.clone if step == "clone" else self._policies.program
        task = asyncio.create_task(self._answer_dial(policy, number, host, port))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _answer_dial(self, policy: Policy, number: int, host: str, port: int) -> None:
        answer: Message = {"t": "dialled", "id": number}
        with contextlib.suppress(OSError):  # the worker is gone: so is the question
            try:
                verdict, address = await policy.verdict(host, port)
                if verdict is not Verdict.DIAL:
                    refused = {"own": True} if verdict is Verdict.OWN else {"errno": errno.EACCES}
                    await self._channel.send({**answer, **refused})
                    return
                connection = await dial(address, port)
            except (OSError, ValueError, TimeoutError) as error:
                await self._channel.send({**answer, "errno": _number(error)})
                return
            with connection:
                await self._channel.send(answer, [connection.fileno()])


def _number(error: Exception) -> int:
    if isinstance(error, TimeoutError):
        return errno.ETIMEDOUT
    return getattr(error, "errno", None) or errno.EHOSTUNREACH


def _said(message: Message) -> Exit:
    code, signal = reports.ending(message)
    return Exit(
        code=code,
        signal=signal,
        failure=reports.failure(message),
        output=message.get("output") if message.get("has_output") is True else None,
        usage=reports.usage(message),
    )


def lost(message: str) -> Exit:
    return Exit(failure=Failure(code="worker_lost", message=message))


def _judge(said: Exit | None, status: int) -> Exit:
    """What the worker said counts only if the kernel says the same."""
    if said is None:
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return lost(f"the worker ended {how} without a report")
    if status != exit_status(code=said.code, signal=said.signal):
        return lost("the worker's report and its exit status contradict each other")
    return said if said.failure is None else replace(said, output=None)
