"""Every check of `doctor --security`, on a machine as it should be and on a weak one."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sfp_server.instance import weaknesses
from sfp_server.instance.place import Place
from sfp_server.instance.weaknesses import CHECKS, Look
from sfp_server.settings import Settings

NOW = datetime(2026, 11, 24, tzinfo=UTC)
NO_CREDENTIALS = {"long_tokens": 0, "mighty_tokens": 0, "roaming_tokens": 0, "absent_owners": 0, "passwords": 0}
MACHINE = {
    "proc/sys/user/max_user_namespaces": "15000",
    "proc/sys/kernel/yama/ptrace_scope": "1",
    "proc/sys/kernel/core_pattern": "core",
    "proc/sys/kernel/unprivileged_bpf_disabled": "2",
    "proc/swaps": "Filename Type Size Used Priority",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory",
    "sys/kernel/security/lsm": "lockdown,capability,landlock,yama,apparmor",
}


@pytest.fixture
def good(tmp_path: Path) -> Look:
    """A machine and an instance about which nothing is to be said."""
    machine, directory = tmp_path / "machine", tmp_path / "instance"
    for name, text in MACHINE.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(text)
    for folder in (directory, *(directory / name for name in ("secrets", "run", "signing", "vault"))):
        folder.mkdir(mode=0o700)
    for name, text in {"config.json": "{}", "signing/1.pem": "key", "vault/keys": "key",
                       "run/dispatcher.json": '{"runtime": "sandbox"}'}.items():  # fmt: skip
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
        os.utime(directory / name, (NOW.timestamp(), NOW.timestamp()))
    return Look(
        at=Place(directory=directory, tenant="acme"),
        settings=Settings(directory=directory, mode="prod", domain="sfp.example", audit_checkpoint_dir="/mnt/audit"),
        environ={"PATH": "/usr/bin", "SFP_TOKEN_FILE": "/run/token"},
        now=NOW,
        machine=machine,
        user=os.geteuid(),
        users={"api": 1_900_000_001, "broker": 1_900_000_002, "dispatcher": 0, "guard": 0},
        clock_is_kept=True,
        facts=NO_CREDENTIALS,
    )


def machine(name: str, text: str | None):
    """A change of one file of the machine; None: it is not there."""

    def change(look: Look) -> Look:
        (look.machine / name).unlink() if text is None else (look.machine / name).write_text(text)
        return look

    return change


def settings(**changes):
    return lambda look: replace(look, settings=replace(look.settings, **changes))


def environ(**changes: str):
    return lambda look: replace(look, environ=changes)


def credentials(**changes: int):
    return lambda look: replace(look, facts={**NO_CREDENTIALS, **changes})


def instance(name: str, *, text: str | None = None, mode: int = 0o600):
    def change(look: Look) -> Look:
        path = look.at.directory / name
        if text is not None:
            path.write_text(text)
        path.chmod(mode)
        return look

    return change


WEAK = [
    ("user_namespaces", "user namespaces", machine("proc/sys/user/max_user_namespaces", "0")),
    ("tracing", "tracing", machine("proc/sys/kernel/yama/ptrace_scope", "0")),
    ("tracing", "tracing", machine("proc/sys/kernel/yama/ptrace_scope", None)),
    ("control_groups", "control groups", machine("sys/fs/cgroup/cgroup.controllers", None)),
    ("swap", "swap", machine("proc/swaps", MACHINE["proc/swaps"] + "\n/dev/sda2 partition 1 0 -2")),
    ("core_dumps", "core dumps", machine("proc/sys/kernel/core_pattern", "|/usr/lib/systemd-coredump %P")),
    ("kernel_programs", "eBPF", machine("proc/sys/kernel/unprivileged_bpf_disabled", "0")),
    ("security_modules", "security modules", machine("sys/kernel/security/lsm", "capability")),
    ("clock", "clock", lambda look: replace(look, clock_is_kept=False)),
    ("users", "users", lambda look: replace(look, users={"api": 0, "broker": 1_900_000_002})),
    ("users", "users", lambda look: replace(look, users={"api": 1000, "broker": 1000})),
    ("files", "file modes", instance("config.json", mode=0o644)),
    ("files", "file owners", lambda look: replace(look, user=look.user + 1)),
    ("files", "directories above", lambda look: (look.at.directory.parent.chmod(0o777), look)[1]),
    ("plain_secrets", "secrets in the environment", environ(SFP_DISPATCHER_TOKEN="hunter2x")),
    ("plain_secrets", "secrets in the environment", environ(DATABASE_URL="postgresql://me:hunter2x@db/sfp")),
    ("plain_secrets", "secrets in config.json",
     instance("config.json", text=json.dumps({"database": {"url": "postgresql://me:hunter2x@db/sfp"}}))),
    ("transport", "TLS", settings(mode="dev")),
    ("transport", "TLS", settings(caddy=False)),
    ("transport", "listening", settings(mode="dev", dispatchers_listen="0.0.0.0:9443")),
    ("openings", "egress.allow", settings(egress_allow="10.0.0.0/8")),
    ("openings", "cors.allowOrigins", settings(cors_allow_origins="https://console.example")),
    ("workers", "workers", settings(worker_runtime="process")),
    ("workers", "workers", instance("run/dispatcher.json", text='{"runtime": "process"}')),
    ("workers", "container engine", settings(container_engine="/run/docker.sock")),
    ("audit_checkpoints", "audit checkpoints", settings(audit_checkpoint_dir=None)),
    ("keys", "signing key", lambda look: replace(look, now=NOW + timedelta(days=366))),
    ("keys", "master key", lambda look: replace(look, now=NOW + timedelta(days=366))),
    ("credentials", "long tokens", credentials(long_tokens=2)),
    ("credentials", "mighty tokens", credentials(mighty_tokens=1)),
    ("credentials", "roaming tokens", credentials(roaming_tokens=1)),
    ("credentials", "absent owners", credentials(absent_owners=1)),
    ("credentials", "passwords beside SSO", credentials(passwords=1)),
    ("credentials", "credentials", lambda look: replace(look, facts=None)),
]  # fmt: skip


def test_nothing_is_said_about_a_machine_as_it_should_be(good: Look):
    findings = [finding for check in CHECKS for finding in check(good)]
    assert [finding for finding in findings if finding.state != "fine"] == []
    assert {what for _, what, _ in WEAK} - {"credentials"} == {finding.what for finding in findings}


@pytest.mark.parametrize(("check", "what", "weaken"), WEAK)
def test_a_weakness_is_told_with_what_to_do(good: Look, check: str, what: str, weaken):
    found = [finding for finding in getattr(weaknesses, check)(weaken(good)) if finding.state != "fine"]
    assert what in {finding.what for finding in found}
    assert all(finding.detail and finding.mend for finding in found)
    assert "hunter2x" not in "".join(finding.detail for finding in found)  # where a secret is, never which


def test_every_check_has_been_seen_to_find_something():
    assert {check.__name__ for check in CHECKS} == {check for check, _, _ in WEAK}


@pytest.mark.parametrize("device", ["/dev/zram0", "/dev/dm-1"])
def test_swap_in_memory_or_encrypted_is_fine(good: Look, device: str):
    (good.machine / "sys/block/dm-1/dm").mkdir(parents=True)
    (good.machine / "sys/block/dm-1/dm/uuid").write_text("CRYPT-PLAIN-swap")
    (good.machine / "proc/swaps").write_text(MACHINE["proc/swaps"] + f"\n{device} partition 1 0 -2")
    assert [finding.state for finding in weaknesses.swap(good)] == ["fine"]
