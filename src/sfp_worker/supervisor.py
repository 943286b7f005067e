"""The life of a worker, from top to bottom. In a sandbox this is process 1 of its PID namespace.

    harden → ready → (waits, pristine) → job → draw credentials → make the workspace → run the program
    → end everything it left → read result and artifacts → exit message → exit status

The exit status repeats what the exit message says: the server believes a message only if the kernel
delivers the matching status. A supervisor serves one job and exits; with it goes everything in its
namespaces.
"""

from __future__ import annotations

import os
import resource
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket
from binascii import a2b_base64

from sfp_worker import kernel, protocol, result
from sfp_worker.control import Control
from sfp_worker.credentials import NOTHING, Drawn, draw
from sfp_worker.failure import Failed
from sfp_worker.place import Place
from sfp_worker.progress import Progress
from sfp_worker.protocol import Message
from sfp_worker.reaper import Reaper
from sfp_worker.redact import Redactor
from sfp_worker.run import Ended, Watch
from sfp_worker.signals import SIGKILL, SIGTERM, SIGXFSZ
from sfp_worker.spawn import DEFAULT_PATH, Launch

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

#: the descriptor on which a worker finds its control socket
CONTROL = 3
#: share of the memory limit from which a killed program counts as out of memory, without a counter
OOM_SHARE = 0.8
#: where a container sees its own memory group (cgroup v2, v1); a sandbox has no /sys, its runtime counts
_PEAKS = ("/sys/fs/cgroup/memory.peak", "/sys/fs/cgroup/memory/memory.max_usage_in_bytes")


def main(*, namespaced: bool) -> NoReturn:
    """Serve one job on the inherited control socket."""
    kernel.set_dumpable(False)  # before any secret is here
    kernel.set_no_new_privs()
    if not namespaced:
        os.setsid()
        kernel.become_subreaper()
    os.closerange(CONTROL + 1, 65536)
    os.set_inheritable(CONTROL, False)
    reaper = Reaper(namespaced=namespaced)
    control = Control(CONTROL, when_gone=reaper.end_all)
    control.send({"t": "ready"})
    job = control.wait()
    if job["t"] != "job":
        os._exit(protocol.NEVER_RAN)
    _silence()
    message = Supervisor(control, reaper, job).serve()
    control.send(message)
    control.drain()
    os._exit(protocol.exit_status(code=message["code"], signal=message["signal"]))


def _silence() -> None:
    """From now on nothing we say by accident can be read by anybody."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)


class Supervisor:
    def __init__(self, control: Control, reaper: Reaper, job: Message) -> None:
        self._control = control
        self._reaper = reaper
        self._job = job
        self._limits: Mapping[str, int] = job["limits"]
        self._descriptors = {name: control.take_descriptor() for name in job["descriptors"]}
        self._place = Place(job["root"])
        self._output_bytes = 0
        self._redactor = Redactor([])

    def serve(self) -> Message:
        """Do the job; the exit message."""
        message: Message = {"t": "exit", "code": None, "signal": None, "failure": None, "has_output": False}
        try:
            ended = self._attempt(message)
            message["code"], message["signal"] = ended.code, ended.signal
        except Failed as failure:
            message["failure"] = [failure.code, self._redactor.text(failure.message)]
        except Exception as error:
            message["failure"] = ["worker_lost", f"the supervisor failed: {type(error).__name__}"]
        message["usage"] = self._usage()
        return message

    def _attempt(self, message: Message) -> Ended:
        drawn = self._draw()
        self._redactor = Redactor(drawn.values)
        folder = self._place.make()
        self._make_workspace(drawn)
        if self._was_terminated():
            return Ended(None, SIGTERM)
        ended = self._run(drawn, folder)
        if ended.code != 0:
            self._explain(ended)
        message["has_output"], message["output"] = self._result(folder)
        self._keep_artifacts()
        return ended

    def _draw(self) -> Drawn:
        ticket = self._job["ticket"]
        return NOTHING if ticket is None else draw(self._descriptors["broker"], ticket, self._job["broker"])

    def _was_terminated(self) -> bool:
        return any(message["t"] == "terminate" for message in self._control.receive())

    def _make_workspace(self, drawn: Drawn) -> None:
        source = self._job["workspace"]
        match source and source["kind"]:
            case "files":
                from sfp_worker import workspace

                workspace.write_files(self._place, source["files"])
            case "archive":
                from sfp_worker import archive

                room = self._limits["disk_mb"] * 1024 * 1024
                archive.unpack(self._place, self._descriptors["archive"], source["name"], max_bytes=room)
            case "git":
                from sfp_worker import git

                git.clone(self._place, source, self._run_git, drawn.git)
            case _:
                pass

    def _run_git(self, argv: Sequence[str], env: Mapping[str, str]) -> Any:
        from sfp_worker.git import Ran

        watch = self._watch(rename="system")
        launch = self._launch(argv, env, self._place.root)
        launch.gated = True
        launch.filters = [a2b_base64(text) for text in self._job["clone_filters"]]
        ended = watch.run(launch, None, self._gate("clone"))
        self._output_bytes += watch.output_bytes
        if watch.terminated:
            raise Failed("workspace", "ended while the workspace was cloned")
        return Ran(1 if ended.code is None else ended.code, "\n".join(watch.tail))

    def _run(self, drawn: Drawn, folder: int) -> Ended:
        launch = self._launch(self._job["argv"], self._environment(drawn), self._place.inside(self._job["workdir"]))
        stdin = self._job["stdin"]
        launch.stdin = None if stdin is None else stdin.encode("utf-8", "surrogateescape")
        launch.gated = self._job["gated"]
        launch.filters = [a2b_base64(text) for text in self._job["filters"]]
        progress = Progress(folder, self._redactor, self._send_progress)
        watch = self._watch()
        try:
            return watch.run(launch, progress, self._gate("program") if launch.gated else None)
        finally:
            self._output_bytes += watch.output_bytes

    def _watch(self, rename: str | None = None) -> Watch:
        return Watch(
            self._control,
            self._reaper,
            self._redactor,
            grace_seconds=self._job["grace_seconds"],
            output_bytes=self._limits["output_bytes"] - self._output_bytes,
            rename=rename,
        )

    def _gate(self, step: str) -> Any:
        from sfp_worker.gate import Gate

        return Gate(self._control, step=step, own_network=self._job["own_network"], unix_below=self._place.root)

    def _launch(self, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> Launch:
        launch = Launch(argv, env, cwd)
        launch.limits = [(number, value) for number, value in self._job["rlimits"]]
        return launch

    def _environment(self, drawn: Drawn) -> dict[str, str]:
        own = {
            "PATH": ":".join([*self._job["path"], DEFAULT_PATH]),
            "HOME": self._place.home,
            "TMPDIR": self._place.tmp,
            "LANG": "C.UTF-8",
            "CI": "true",
        }
        ours = {
            "SFP_OPERATION_ID": self._job["operation_id"],
            "SFP_ATTEMPT": str(self._job["attempt"]),
            "SFP_PROGRESS": f"{self._place.sfp}/progress",
            "SFP_RESULT": f"{self._place.sfp}/{result.NAME}",
        }
        for name in (*self._job["env"], *drawn.env):
            if name.startswith("SFP_"):
                raise Failed("cannot_start", f"{name[:100]} is not for tasks to set")
        return {**own, **self._job["env"], **drawn.env, **ours}

    def _send_progress(self, percent: int, text: str) -> None:
        self._control.send({"t": "progress", "percent": percent, "text": text})

    def _explain(self, ended: Ended) -> None:
        """What ended the program, when it was a limit."""
        if ended.signal == SIGXFSZ or self._place.is_full() or self._is_over_disk_limit():
            raise Failed("disk_limit", "the program filled its disk limit")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        killed = ended.signal == SIGKILL or not self._job["has_memory_counter"]
        if killed and peak > OOM_SHARE * self._limits["memory_mb"] * 1024 * 1024:
            raise Failed("out_of_memory", "the program used up its memory limit")

    def _is_over_disk_limit(self) -> bool:
        """Where no sized file system is the ceiling: whether it was reached all the same."""
        if self._job["sized_disk"]:
            return False
        from sfp_worker.measure import size_of

        limit = self._limits["disk_mb"] * 1024 * 1024
        return size_of(self._place.root, stop_at=int(limit * 0.98)) >= int(limit * 0.98)

    def _result(self, folder: int) -> tuple[bool, Any]:
        return result.read(folder, self._redactor)

    def _keep_artifacts(self) -> None:
        if not self._job["artifacts"]:
            return
        from sfp_worker import artifacts

        room = self._limits["artifact_bytes"]
        artifacts.send(self._control, self._place.src, self._job["artifacts"], self._redactor, max_bytes=room)

    def _usage(self) -> Message:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 6),
            "peak_memory_bytes": max(used.ru_maxrss * 1024, _peak_of_group()),
            "output_bytes": self._output_bytes,
        }


def _peak_of_group() -> int:
    """Peak of all processes together, where we are alone in a container that shows its group; else 0."""
    for path in _PEAKS if os.getpid() == 1 else ():
        try:
            with open(path, "rb") as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return 0


def entry() -> NoReturn:
    """What a runtime starts, with `sandbox`, `process`, or `container` and where its control socket is."""
    kind = sys.argv[1]
    if kind == "container":
        _connect(sys.argv[2])
    main(namespaced=kind != "process")


def _connect(path: str) -> None:
    """Nothing is handed down into a container: the control socket is waiting at `path`, for the first to come."""
    control = socket(AF_UNIX, SOCK_STREAM)
    control.connect(path)
    os.dup2(control.detach(), CONTROL)
