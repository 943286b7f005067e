"""What every runtime promises about the workspace, hostile archives, kept files and the way out."""

import asyncio
import io
import socket
import tarfile
import threading
import zipfile

import pytest
from workers import Attendant, git_server, python, run, workload

from sfp_server.runtimes.base import Archive, Files, Git, Limits, Network, RuntimeUnavailable


async def test_files_are_there_when_the_program_starts(runtime):
    files = Files(files={"a.txt": "ä\n", "sub/b.txt": "b"})
    _, seen = await run(runtime, workload("sh", "-c", "cat a.txt; cat b.txt sub/b.txt; pwd", workspace=files))
    assert seen.text("stdout").splitlines()[:2] == ["ä", "b" + seen.text("stdout").splitlines()[1][1:]]


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "."])
async def test_a_file_that_leaves_the_workspace_is_refused(runtime, path):
    ended, _ = await run(runtime, workload("true", workspace=Files(files={path: "x"})))
    assert ended.failure.code == "workspace"


@pytest.mark.parametrize("path", ["..", "/etc", "missing", "out", "file"])
async def test_a_workdir_outside_is_refused_also_through_a_link(runtime, path, tmp_path):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("file"), io.BytesIO())
    ended, _ = await run(runtime, workload("true", workspace=Archive(path=archive, name="a.tar"), workdir=path))
    assert ended.failure.code == "workspace"


async def test_a_workdir_inside_is_where_the_program_starts(runtime):
    _, seen = await run(runtime, workload("pwd", workspace=Files(files={"a/b/c": ""}), workdir="a/./b"))
    assert seen.text().endswith("/src/a/b")


def tar_with(path, *members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                info.mode = 0o4755
                tar.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                tar.addfile(info)
    return Archive(path=path, name=path.name)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
async def test_a_tar_is_unpacked_whatever_its_name(runtime, tmp_path, mode):
    archive = tar_with(
        tmp_path / "upload",
        ("dir/run", tarfile.REGTYPE, b"#!/bin/sh\necho ran\n"),
        ("link", tarfile.SYMTYPE, "dir/run"),
        ("hard", tarfile.LNKTYPE, "dir/run"),
        mode=mode,
    )
    _, seen = await run(runtime, workload("sh", "-c", "./link; ./hard; stat -c %a dir/run", workspace=archive))
    assert seen.text().splitlines() == ["ran", "ran", "755"]


async def test_a_zip_is_unpacked(runtime, tmp_path):
    path = tmp_path / "upload"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.txt", "zipped")
    _, seen = await run(runtime, workload("cat", "a/b.txt", workspace=Archive(path=path, name="x")))
    assert seen.text() == "zipped"


async def test_another_file_is_put_down_under_its_name(runtime, tmp_path):
    (tmp_path / "upload").write_bytes(b"just text")
    archive = Archive(path=tmp_path / "upload", name="../notes.txt")
    _, seen = await run(runtime, workload("cat", "notes.txt", workspace=archive))
    assert seen.text() == "just text"


HOSTILE = {
    "absolute": [("/tmp/sfp-evil", tarfile.REGTYPE, b"x")],
    "climbing": [("../sfp-evil", tarfile.REGTYPE, b"x")],
    "hidden climb": [("a/../../sfp-evil", tarfile.REGTYPE, b"x")],
    "link out": [("l", tarfile.SYMTYPE, "/etc")],
    "link up": [("l", tarfile.SYMTYPE, "../..")],
    "through a link": [("l", tarfile.SYMTYPE, "."), ("l/../../sfp-evil", tarfile.REGTYPE, b"x")],
    "links in a chain": [
        ("d/e/f", tarfile.REGTYPE, b""),
        ("a", tarfile.SYMTYPE, "d/e"),
        ("b", tarfile.SYMTYPE, "a/../../.."),
    ],
    "hard link out": [("h", tarfile.LNKTYPE, "/etc/passwd")],
    "device": [("d", tarfile.CHRTYPE, "")],
    "fifo": [("f", tarfile.FIFOTYPE, "")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_archive_is_refused(runtime, tmp_path, members):
    ended, _ = await run(runtime, workload("true", workspace=tar_with(tmp_path / "evil.tar", *members)))
    assert ended.failure.code == "bad_archive"


async def test_a_bomb_is_refused(runtime, tmp_path):
    archive = tar_with(tmp_path / "bomb.tgz", ("zeros", tarfile.REGTYPE, bytes(40 << 20)), mode="w:gz")
    limits = Limits(memory_mb=512, disk_mb=16, processes=64)
    ended, _ = await run(runtime, workload("true", workspace=archive, limits=limits))
    assert ended.failure.code in {"bad_archive", "disk_limit"}


async def test_a_broken_archive_is_refused(runtime, tmp_path):
    archive = tar_with(tmp_path / "a.tgz", ("x", tarfile.REGTYPE, bytes(range(256)) * 4000), mode="w:gz")
    archive.path.write_bytes(archive.path.read_bytes()[:-300])
    ended, _ = await run(runtime, workload("true", workspace=archive))
    assert ended.failure.code == "bad_archive"


async def test_matching_files_are_kept(runtime):
    code = "mkdir -p out/deep; echo 1 > out/a.txt; echo 2 > out/deep/b.txt; echo 3 > c.log; head -c 1000000 /dev/zero > big.bin"
    _, seen = await run(runtime, workload("sh", "-c", code, artifacts=["out/**/*.txt", "*.bin"]))
    assert seen.files == {"out/a.txt": b"1\n", "out/deep/b.txt": b"2\n", "big.bin": bytes(1000000)}
    assert sorted(seen.finished) == sorted(seen.files)


async def test_links_and_pipes_are_not_kept(runtime):
    code = "ln -s /etc/passwd a.txt; mkfifo b.txt; ln -s /etc d; mkdir e; ln -s / e/f; echo ok > ok.txt"
    _, seen = await run(runtime, workload("sh", "-c", code, artifacts=["**"]))
    assert seen.files == {"ok.txt": b"ok\n"}


async def test_too_much_to_keep_fails_the_attempt(runtime):
    limits = Limits(memory_mb=512, disk_mb=64, processes=64, artifact_bytes=1000)
    load = workload("sh", "-c", "head -c 2000 /dev/zero > x", artifacts=["x"], limits=limits)
    ended, _ = await run(runtime, load)
    assert ended.failure.code == "output_limit"


async def test_artifacts_of_a_failed_program_are_kept_too(runtime):
    ended, seen = await run(runtime, workload("sh", "-c", "echo r > report; exit 2", artifacts=["report"]))
    assert (ended.code, seen.files) == (2, {"report": b"r\n"})


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    with git_server(tmp_path_factory.mktemp("git")) as served:
        yield served


@pytest.mark.parametrize("ref", [None, "main", "v1", "commit", "earlier"])
async def test_a_repository_is_cloned(make, repository, ref):
    port, commit, earlier = repository
    ref = {"commit": commit, "earlier": earlier}.get(ref, ref)
    runtime = await make(allow=[f"127.0.0.1:{port}"])
    load = workload("git", "log", "--format=%H", "-1", workspace=Git(url=f"http://127.0.0.1:{port}/repo.git", ref=ref))
    ended, seen = await run(runtime, load)
    assert ended.failure is None, seen.text()
    assert seen.text("stdout") == (earlier if ref in {"v1", earlier} else commit)


async def test_a_name_is_cloned_from_without_looking_it_up_inside(make, repository):
    port, _, _ = repository
    runtime = await make(allow=[f"localhost:{port}"])
    ended, seen = await run(runtime, workload("cat", "file", workspace=Git(url=f"http://localhost:{port}/repo.git")))
    assert (ended.code, seen.text("stdout")) == (0, "second")


@pytest.mark.parametrize(
    ("url", "ref"),
    [
        ("file:///etc", None),
        ("/etc", None),
        ("ext::sh -c id", None),
        ("ssh://x/y", None),
        ("REPO", "--upload-pack=x"),
        ("REPO", "none"),
    ],
)
async def test_a_repository_that_may_not_be_or_is_not_there_fails(make, repository, url, ref):
    port = repository[0]
    runtime = await make(allow=[f"127.0.0.1:{port}"])
    url = url.replace("REPO", f"http://127.0.0.1:{port}/repo.git")
    ended, _ = await run(runtime, workload("true", workspace=Git(url=url, ref=ref)))
    assert ended.failure.code == "workspace"


async def test_loopback_is_not_cloned_from_unless_allowed(runtime, repository):
    ended, _ = await run(runtime, workload("true", workspace=Git(url=f"http://127.0.0.1:{repository[0]}/repo.git")))
    assert ended.failure.code == "workspace"


@pytest.fixture
def listener():
    """A TCP server on loopback that greets; yields its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"hello from outside")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


TALK = """
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
try:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    s = socket.socket(family); s.settimeout(5); s.connect((host, port)); print(s.recv(99).decode())
except OSError as error:
    print("refused", type(error).__name__)
"""


def talk(host, port, network=Network.EGRESS):
    return workload("python3", "-c", TALK, host, str(port), network=network)


async def test_an_allowed_address_is_reached(make, listener):
    runtime = await make(allow=[f"127.0.0.1:{listener}"])
    _, seen = await run(runtime, talk("127.0.0.1", listener))
    assert seen.text() == "hello from outside"


async def test_without_network_even_an_allowed_address_is_not_reached(make, listener):
    runtime = await make(allow=[f"127.0.0.1:{listener}"])
    _, seen = await run(runtime, talk("127.0.0.1", listener, network=Network.NONE))
    assert seen.text().startswith("refused")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254", "10.1.2.3"])
async def test_other_addresses_are_refused(runtime, listener, host):
    _, seen = await run(runtime, talk(host, listener))
    assert seen.text().startswith("refused")


ASYNC_TALK = """
import asyncio, sys
async def one():
    reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    data = await reader.read()
    writer.close()
    return data
async def main():
    print(set(await asyncio.gather(*[one() for _ in range(20)])))
asyncio.run(main())
"""


async def test_many_connects_at_once_work_without_blocking(make, listener):
    runtime = await make(allow=["127.0.0.0/8"])
    _, seen = await run(runtime, workload("python3", "-c", ASYNC_TALK, str(listener), network=Network.EGRESS))
    assert seen.text() == "{b'hello from outside'}"


NODE_TALK = """
const net = require('net');
const s = net.connect(Number(process.argv[1]), '127.0.0.1');
s.on('data', d => console.log(String(d))); s.on('error', e => console.log('refused', e.code));
"""


async def test_node_connects_too(make, listener):
    runtime = await make(allow=["127.0.0.1"])
    limits = Limits(memory_mb=2048, disk_mb=64, processes=64)
    load = workload("node", "-e", NODE_TALK, str(listener), network=Network.EGRESS, limits=limits)
    _, seen = await run(runtime, load)
    assert seen.text() == "hello from outside"


UNIX = """
import os, socket
path = os.environ["TMPDIR"] + "/s"
server = socket.socket(socket.AF_UNIX); server.bind(path); server.listen()
os.chdir(os.environ["TMPDIR"])
for where in (path, "s"):
    client = socket.socket(socket.AF_UNIX); client.connect(where)
    server.accept()[0].sendall(b"x"); print(client.recv(1))
"""


async def test_unix_sockets_of_the_programs_own_work_with_egress(runtime):
    _, seen = await run(runtime, python(UNIX, network=Network.EGRESS))
    assert seen.text() == "b'x'\nb'x'"


async def test_unix_sockets_of_the_host_are_out_of_reach(runtime, folder):
    server = await asyncio.start_unix_server(lambda *_: None, folder / "host")
    async with server:
        code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(folder / 'host')!r})"
        for network in Network:
            ended, _ = await run(runtime, python(code, network=network))
            assert ended.code == 1


async def test_an_input_that_is_gone_is_told_before_a_worker_is_used(runtime, tmp_path):
    with pytest.raises(RuntimeUnavailable):
        await runtime.start(workload("true", workspace=Archive(path=tmp_path / "no", name="x")), Attendant())
