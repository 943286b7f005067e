"""A private Podman for the tests of the container runtime, and an image from scratch; no registry is asked.

The image holds links into /usr, a composed /etc and empty directories. The programs come from this
machine's /usr, which the runtime mounts (`Supply.mounts`), so that nothing has to be copied or fetched.
"""

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

import httpx

from sfp_server.runtimes import bwrap, image
from sfp_server.runtimes.container import ContainerRuntime, Supply

IMAGE = "localhost/sfp-test:1"
#: By which a test's own child processes find the engine. Set from outside, it names an engine to test against,
#: Docker say, in place of a private Podman.
VARIABLE = "SFP_TEST_ENGINE"

CONFIGURATION = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "{runtime}"
"""


def missing() -> str | None:
    """Why no engine can be started here; None when one can."""
    if VARIABLE in os.environ:
        return None
    if os.geteuid() != 0:
        return "a private Podman needs root here"
    if shutil.which("podman") is None:
        return "podman is not installed (apt-get install podman runc)"
    if not Path("/usr/bin/python3").exists():
        return "the image from scratch uses this machine's /usr/bin/python3, which is not there"
    if _oci_runtime() is None:
        return "neither runc nor crun is installed"
    return None


def _oci_runtime() -> str | None:
    return next((name for name in ("runc", "crun") if shutil.which(name)), None)


@contextlib.contextmanager
def engine():
    """An engine with the image; yields its socket's path, which is in the environment meanwhile."""
    if VARIABLE in os.environ:
        make_image(os.environ[VARIABLE])
        yield os.environ[VARIABLE]
        return
    with podman() as path:
        os.environ[VARIABLE] = path
        try:
            yield path
        finally:
            del os.environ[VARIABLE]


@contextlib.contextmanager
def podman():
    """Run Podman's service on a private socket and store; yields the socket's path."""
    with tempfile.TemporaryDirectory(prefix="sfp-podman", ignore_cleanup_errors=True) as top:
        folder = Path(top)
        (folder / "containers.conf").write_text(CONFIGURATION.format(runtime=_oci_runtime()))
        environment = {"PATH": os.environ["PATH"], "HOME": top, "CONTAINERS_CONF": f"{top}/containers.conf"}
        command = ["podman", "--root", f"{top}/root", "--runroot", f"{top}/run", "--tmpdir", f"{top}/tmp"]
        command += ["--storage-driver", "vfs"]
        with (folder / "log").open("wb") as log:
            service = subprocess.Popen(
                [*command, "system", "service", "--time=0", f"unix://{top}/socket"],
                env=environment,
                cwd=top,  # conmon leaves its word about memory where it stands
                stdout=log,
                stderr=log,
            )
        try:
            _until_answering(service, folder)
            make_image(f"{top}/socket")
            yield f"{top}/socket"
        finally:
            subprocess.run([*command, "rm", "-a", "-f", "-t", "0"], env=environment, capture_output=True, timeout=60)
            service.terminate()
            service.wait(20)


def _until_answering(service, folder):
    """Podman tells nobody when it listens."""
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(f"{folder}/socket")
            return
        if service.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("podman does not come up: " + (folder / "log").read_text()[-500:])
        time.sleep(0.05)


def client(path):
    transport = httpx.HTTPTransport(uds=path)
    return httpx.Client(transport=transport, base_url="http://engine", timeout=60)


def make_image(path, name=IMAGE, *, mark="", changes=()):
    """Import the image from scratch; `mark` is in its /etc/mark, `changes` are lines of a Dockerfile."""
    with client(path) as engine:
        params = {"fromSrc": "-", "changes": list(changes)}
        made = engine.post("/images/create", params=params, content=rootfs(mark)).raise_for_status()
        ident = json.loads(made.text.splitlines()[-1])["status"]
        repository, _, tag = name.rpartition(":")
        params = {"repo": repository, "tag": tag}
        engine.post(f"/images/{ident}/tag", params=params).raise_for_status()


def rootfs(mark) -> bytes:
    """The image's files, as a tar."""
    data = io.BytesIO()
    with tempfile.TemporaryDirectory() as etc, tarfile.open(fileobj=data, mode="w") as tar:
        image._make_etc(Path(etc) / "etc", None)
        (Path(etc) / "etc" / "mark").write_text(mark)
        tar.add(f"{etc}/etc", "etc", filter=_of_root)
        for path, mode in {"usr": 0o755, "var": 0o755, "var/tmp": 0o1777, "tmp": 0o1777, "run": 0o755}.items():
            info = tarfile.TarInfo(path)
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)
        for name in bwrap.MERGED:
            if Path(f"/{name}").is_symlink():
                info = tarfile.TarInfo(name)
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink(f"/{name}")
                tar.addfile(info)
    return data.getvalue()


def _of_root(info):
    info.uid = info.gid = 0
    return info


def supply(path=None, **fields) -> Supply:
    """Containers from the image from scratch, with this machine's programs."""
    mounts = [Path("/usr"), *(Path(f"/{name}") for name in bwrap.MERGED if _is_real(name))]
    fields = {"image": IMAGE, "mounts": tuple(mounts), **fields}
    return Supply(engine=path or os.environ[VARIABLE], **fields)


def _is_real(name):
    return Path(f"/{name}").is_dir() and not Path(f"/{name}").is_symlink()


def runtime(broker, policy, warm=0, *, scratch, **fields) -> ContainerRuntime:
    """As the other runtimes are made."""
    return ContainerRuntime(broker, policy, warm, scratch=scratch, supply=supply(**fields))
