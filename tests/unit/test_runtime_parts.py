"""The server's side of a worker, part by part, without starting one."""

import asyncio
import ipaddress
import os
import socket

import pytest

from sfp_server.addresses import is_public, parse_allow, split_entry, unwrap
from sfp_server.runtimes import bwrap, cgroups, reports
from sfp_server.runtimes.base import Failure, LogLine
from sfp_server.runtimes.channel import Channel
from sfp_server.runtimes.egress import EgressPolicy, OnlyTo, Verdict
from sfp_server.runtimes.folders import remove_tree
from sfp_worker.protocol import ProtocolError, encode

HOST = bwrap.Host(links=(("bin", "usr/bin"), ("lib", "usr/lib")), folders=("lib64",), python="/usr/bin/python3")


def test_bubblewrap_is_told_exactly_this():
    assert " ".join(bwrap.worker(HOST, disk_bytes=1024)) == (
        "--unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try "
        "--uid 1000 --gid 1000 --hostname worker --cap-drop ALL --new-session --die-with-parent --as-pid-1 "
        "--seccomp 5 --info-fd 8 --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib "
        "--ro-bind /lib64 /lib64 --ro-bind-fd 6 /etc --ro-bind-fd 7 /sfp --proc /proc --dev /dev "
        "--size 67108864 --perms 1777 --tmpfs /dev/shm --remount-ro /dev "
        "--size 1024 --perms 0700 --tmpfs /workspace --symlink workspace/tmp /tmp --dir /run --dir /var "
        "--symlink /workspace/tmp /var/tmp --remount-ro / --chdir /workspace"
    )


def test_a_template_can_write_nowhere_and_make_namespaces():
    assert " ".join(bwrap.template(HOST)) == (
        "--unshare-user --unshare-pid --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup-try "
        "--uid 1000 --gid 1000 --hostname worker --cap-drop ALL --new-session --die-with-parent --as-pid-1 "
        "--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib "
        "--ro-bind /lib64 /lib64 --ro-bind-fd 6 /etc --ro-bind-fd 7 /sfp --proc /proc --dev /dev "
        "--remount-ro /dev --dir /workspace --symlink workspace/tmp /tmp --dir /run --dir /var "
        "--symlink /workspace/tmp /var/tmp --remount-ro / --chdir /workspace"
    )


async def test_who_sent_is_known_however_late_one_reads():
    ours, theirs = socket.socketpair()
    channel = Channel(ours, names_sender=True)
    with theirs:
        theirs.sendall(encode({"t": "ready"}))
        assert await channel.receive_ready() == ({"t": "ready"}, os.getpid())
        theirs.sendall(encode({"t": "log", "lines": []}))
        assert await channel.receive() == {"t": "log", "lines": []}
    assert await channel.receive() is None
    channel.close()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1",
        "255.255.255.255", "::", "::1", "fe80::1", "fd00:ec2::254", "fc00::1", "ff02::1", "2001:db8::1", "fec0::1",
        "::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::10.0.0.1", "2002:a00:1::", "64:ff9b:1::1", "2001::1", "3fff::1",
    ],
)  # fmt: skip
async def test_addresses_that_are_not_the_open_internet_are_refused(address):
    assert not is_public(unwrap(ipaddress.ip_address(address)))
    assert (await EgressPolicy().verdict(address, 443))[0] is not Verdict.DIAL


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "140.82.121.4", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]
)
async def test_addresses_of_the_open_internet_are_dialled(address):
    assert (await EgressPolicy().verdict(address, 443))[0] is Verdict.DIAL


@pytest.mark.parametrize(
    ("entry", "host", "port", "verdict"),
    [
        ("127.0.0.1:80", "127.0.0.1", 80, Verdict.DIAL),
        ("127.0.0.1:80", "127.0.0.1", 81, Verdict.OWN),
        ("127.0.0.1:80", "::ffff:127.0.0.1", 80, Verdict.DIAL),
        ("10.0.0.0/8", "10.9.9.9", 5432, Verdict.DIAL),
        ("10.0.0.0/8", "192.168.0.1", 5432, Verdict.REFUSE),
        ("[::1]:80", "::1", 80, Verdict.DIAL),
        ("::1", "::1", 1, Verdict.DIAL),
        ("localhost:8080", "127.0.0.1", 8080, Verdict.DIAL),
        ("localhost:8080", "127.0.0.2", 8080, Verdict.OWN),
        ("no-such-name.invalid", "10.0.0.1", 1, Verdict.REFUSE),
    ],
)
async def test_allow_opens_what_it_names_and_nothing_else(entry, host, port, verdict):
    assert (await EgressPolicy(allow=frozenset({entry})).verdict(host, port))[0] is verdict


async def test_nameservers_are_reached_for_names_only():
    policy = EgressPolicy(nameservers=frozenset({"10.0.0.53"}))
    assert (await policy.verdict("10.0.0.53", 53))[0] is Verdict.DIAL
    assert (await policy.verdict("10.0.0.53", 80))[0] is Verdict.REFUSE


async def test_a_clone_reaches_its_own_host_only():
    policy = OnlyTo(base=EgressPolicy(), addresses=frozenset({"1.1.1.1", "10.0.0.1"}), port=443)
    assert (await policy.verdict("1.1.1.1", 443))[0] is Verdict.DIAL
    assert (await policy.verdict("1.1.1.1", 80))[0] is Verdict.REFUSE
    assert (await policy.verdict("8.8.8.8", 443))[0] is Verdict.REFUSE
    assert (await policy.verdict("10.0.0.1", 443))[0] is Verdict.REFUSE


def test_allow_entries_are_checked():
    assert parse_allow([" a:1 ", "", "10.0.0.0/8"]) == {"a:1", "10.0.0.0/8"}
    for wrong in ("a:0", ":80", "a:99999"):
        with pytest.raises(ValueError):
            parse_allow([wrong])
    assert split_entry("[::1]:80") == ("::1", 80)
    assert split_entry("2001:db8::/32") == ("2001:db8::/32", None)


def cgroup_v2(tmp_path, *controllers):
    for name in ("cgroup.controllers", "cgroup.procs", "cgroup.subtree_control"):
        (tmp_path / name).write_text(" ".join(controllers) if name == "cgroup.subtree_control" else "")
    return cgroups.find(tmp_path, "0::/\n")


def test_cgroup_v2_is_found_and_used(tmp_path):
    found = cgroup_v2(tmp_path, "memory", "pids")
    group = found.make()
    group.limit(memory_mb=100, processes=10)
    folder = tmp_path / group.name
    assert (found.version, found.memory, found.pids) == ("v2", tmp_path, tmp_path)
    assert (folder / "memory.max").read_text() == str((100 + cgroups.SUPERVISOR_MB) << 20)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "pids.max").read_text() == str(10 + cgroups.SUPERVISOR_PROCESSES)
    (folder / "memory.events").write_text("oom 1\noom_kill 2\n")
    (folder / "memory.peak").write_text("4096\n")
    assert group.counters() == cgroups.Counters(out_of_memory=True, peak_memory_bytes=4096)


def test_cgroup_v1_is_found_per_controller(tmp_path):
    for name in ("memory", "pids"):
        (tmp_path / name / "own").mkdir(parents=True)
        (tmp_path / name / "cgroup.procs").write_text("")
        (tmp_path / name / "own" / "cgroup.procs").write_text("")
    found = cgroups.find(tmp_path, "2:pids:/\n1:memory:/own\n0::/\n")
    assert (found.version, found.memory, found.pids) == ("v1", tmp_path / "memory/own", tmp_path / "pids")
    group = found.make()
    assert sorted(group.entrance()[4:-1]) == sorted(str(folder / "tasks") for folder in group.folders())


def test_no_cgroups_are_told_with_the_reason(tmp_path):
    found = cgroups.find(tmp_path, "0::/\n")
    assert (found.version, found.make()) == ("none", None)
    assert "memory" in found.describe(None)


async def test_groups_of_dispatchers_that_are_gone_are_removed(tmp_path):
    found = cgroup_v2(tmp_path, "memory", "pids")
    mine = tmp_path / found.make().name
    stale = tmp_path / "sfp-999999999-1-abcd"
    stale.mkdir()
    await found.remove_leftovers()
    assert mine.exists()
    assert not stale.exists()


async def test_a_tree_of_three_thousand_levels_is_removed(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.mkdir("locked", 0o000, dir_fd=here)
    os.symlink(tmp_path, "out", dir_fd=here)
    os.close(here)
    (tmp_path / "kept").write_text("")
    await asyncio.to_thread(remove_tree, top)
    assert not top.exists()
    assert (tmp_path / "kept").exists()


GOOD_LINES = {"t": "log", "lines": [["stdout", "a\0b", 1.5]]}


def test_reports_are_parsed():
    assert reports.log_lines(GOOD_LINES) == [LogLine(stream="stdout", message="a\ufffdb", at=1.5)]
    assert reports.progress({"percent": 500, "text": "x" * 999}) == (100, "x" * 200)
    assert reports.failure({"failure": ["workspace", "m"]}) == Failure(code="workspace", message="m")
    assert reports.ending({"code": None, "signal": 9}) == (None, 9)


@pytest.mark.parametrize(
    ("parse", "message"),
    [
        (reports.log_lines, {"lines": "x"}),
        (reports.log_lines, {"lines": [["other", "x", 1]]}),
        (reports.log_lines, {"lines": [["stdout", 1, 1]]}),
        (reports.progress, {"percent": "5", "text": ""}),
        (reports.failure, {"failure": ["made_up", "m"]}),
        (reports.failure, {"failure": "x"}),
        (reports.ending, {"code": 256, "signal": None}),
        (reports.ending, {"code": 0, "signal": 9}),
        (reports.ending, {"code": "0", "signal": None}),
        *[
            (reports.artifact_name, {"name": name})
            for name in ("", "/a", "../a", "a/./b", "a//b", "a\0", None, "x" * 5000)
        ],
    ],
)
def test_reports_that_no_supervisor_sends_are_refused(parse, message):
    with pytest.raises(ProtocolError):
        parse(message)
