"""The process that reads one XML document: `python -I -m sfp_server.identity.saml.inside`.

It starts with no environment, loads what it needs, then gives away everything: from then on it can read its input,
write its answer, ask for some memory and end; no file, no socket, no other process (seccomp, an allow-list). It speaks
one line of JSON each way and serves one document, so one document cannot wait for another.

    {"task": "response", "document": base64, "certificates": […]} | {"task": "metadata", "document": base64}
    {"facts": {…}} | {"refused": {"reason": …, "text": …}}

Exit code 3: it could not lock itself up, and has read nothing.
"""

import base64
import binascii
import ctypes
import errno
import json
import os
import resource
import sys
from typing import Any

#: bytes: of memory, of the line that asks
MEMORY = 768 * 1024 * 1024
MAX_LINE = 4 * 1024 * 1024
#: CPU seconds
CPU = 5
NOT_LOCKED = 3

_PR_SET_DUMPABLE = 4
_PROT_EXEC = 4
#: calls that Python, libxml2 and OpenSSL need to work on memory, and to end
_ALLOWED = (
    "brk munmap mremap madvise futex sched_yield rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack "
    "clock_gettime clock_getres gettimeofday getrandom getpid gettid restart_syscall exit exit_group"
)


def main() -> None:
    """Serve one document."""
    from sfp_server.identity.saml import metadata, response

    _load(response)
    try:
        _lock()
    except (ImportError, OSError, ValueError, RuntimeError):
        os._exit(NOT_LOCKED)
    os.write(1, b"\n")  # ready: until here nothing was read
    try:
        answer = _answer(json.loads(_line()), response, metadata)
    except Exception as error:
        # A bug, or a document that found one: it is refused, and says no more than where.
        answer = {"refused": {"reason": "unreadable", "text": f"the document cannot be read ({type(error).__name__})"}}
    _say(json.dumps(answer).encode() + b"\n")
    os._exit(0)


def _answer(asked: dict[str, Any], response: Any, metadata: Any) -> dict[str, Any]:
    from sfp_server.identity.saml.document import Refused

    try:
        document = base64.b64decode(asked["document"], validate=True)
        if asked["task"] == "metadata":
            return {"facts": metadata.read(document)}
        return {"facts": response.read(document, asked["certificates"])}
    except Refused as refused:
        return {"refused": {"reason": refused.reason, "text": str(refused)}}
    except binascii.Error:
        return {"refused": {"reason": "malformed", "text": "the document is not base64"}}


def _load(response: Any) -> None:
    """What libraries would otherwise read from files later."""
    response.XMLVerifier().schemas()
    "x".encode("idna")


def _line() -> bytes:
    read = bytearray()
    while not read.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part or len(read) > MAX_LINE:
            raise ValueError("no whole line")
        read += part
    return bytes(read)


def _say(text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(1, view) :]


def _lock() -> None:
    """Give everything away. Raises OSError, ImportError, RuntimeError where that is not possible."""
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, CPU),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError("prctl")
    import pyseccomp as seccomp

    rules: Any = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    argument: Any = seccomp.Arg
    for name in _ALLOWED.split():
        rules.add_rule(seccomp.ALLOW, name)
    for name in ("mmap", "mprotect"):
        rules.add_rule(seccomp.ALLOW, name, argument(2, seccomp.MASKED_EQ, _PROT_EXEC, 0))
    rules.add_rule(seccomp.ALLOW, "read", argument(0, seccomp.EQ, 0))
    rules.add_rule(seccomp.ALLOW, "write", argument(0, seccomp.EQ, 1))
    rules.load()


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
