"""What an engine is told, whole; and the settings that say what a container is made from."""

from pathlib import Path

import pytest

from sfp_server.runtimes.base import Limits
from sfp_server.runtimes.containerspec import Container, Ground, gate_profile, spec
from sfp_server.settings import Settings, SettingsError

GROUND = Ground(code=Path("/run/code"), etc=[Path("/run/hosts")], mounts=[Path("/usr")], open_files=1024)
CONTAINER = Container(
    image="sfp:1",
    volumes=["/data"],
    control=Path("/run/control"),
    user=5000,
    limits=Limits(memory_mb=100, disk_mb=10, processes=20),
    labels={"sfp.instance": "x"},
)


def bind(source, target):
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}


def test_a_container_is_told_whole():
    told = spec(GROUND, CONTAINER)
    program = told["Cmd"].pop(5)
    assert "sfp_worker.supervisor" in program
    assert told == {
        "Image": "sfp:1",
        "Entrypoint": ["python3"],
        "Cmd": ["-I", "-S", "-X", "utf8", "-c", "container", "/sfp-control/socket"],
        "User": "5000:5000",
        "Hostname": "worker",
        "WorkingDir": "/",
        "Env": [],
        "Labels": {"sfp.instance": "x"},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Memory": 124 << 20,
            "MemorySwap": 124 << 20,
            "PidsLimit": 28,
            "ReadonlyRootfs": True,
            "Tmpfs": {
                "/data": "rw,exec,nosuid,nodev,size=67108864,mode=1777",
                "/tmp": "rw,exec,nosuid,nodev,size=67108864,mode=1777",
                "/var/tmp": "rw,exec,nosuid,nodev,size=67108864,mode=1777",
                "/run": "rw,noexec,nosuid,nodev,size=1048576,mode=1777",
                "/sfp-workspace": "rw,exec,nosuid,nodev,size=10485760,mode=1777",
            },
            "Mounts": [
                bind("/usr", "/usr"),
                bind("/run/code", "/sfp-code"),
                bind("/run/control", "/sfp-control"),
                bind("/run/hosts", "/etc/hosts"),
            ],
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "NetworkMode": "none",
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "ShmSize": 67108864,
            "Ulimits": [
                {"Name": "nofile", "Soft": 1024, "Hard": 1024},
                {"Name": "core", "Soft": 0, "Hard": 0},
                {"Name": "nproc", "Soft": 28, "Hard": 28},
            ],
            "LogConfig": {"Type": "none"},
            "Init": False,
            "Privileged": False,
            "AutoRemove": False,
            "RestartPolicy": {"Name": "no"},
        },
    }


def test_an_engine_without_ceilings_is_not_asked_for_them():
    ground = Ground(code=Path("/c"), has_memory_limit=False, has_process_limit=False)
    told = spec(ground, CONTAINER)["HostConfig"]
    assert {"Memory", "MemorySwap", "PidsLimit"}.isdisjoint(told)


def test_a_profile_of_ours_goes_beside_no_new_privileges():
    container = Container(image="x", control=Path("/c"), user=1, limits=Limits(), profile=gate_profile())
    options = spec(GROUND, container)["HostConfig"]["SecurityOpt"]
    assert options == ["no-new-privileges", f"seccomp={gate_profile()}"]


def test_no_profile_turns_the_filter_off():
    assert "unconfined" not in gate_profile()
    assert '"mount"' in gate_profile()


def test_images_and_mounts_are_lists(tmp_path):
    settings = Settings(
        directory=tmp_path, container_images="command=a/b:1, deploy = c@sha256:0 ,", container_mounts="/usr, /opt/java"
    )
    assert settings.images() == {"command": "a/b:1", "deploy": "c@sha256:0"}
    assert settings.mounts() == (Path("/usr"), Path("/opt/java"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"container_images": "command"},
        {"container_images": "=image"},
        {"container_mounts": "usr"},
        {"worker_runtime": "container"},
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, wrong):
    with pytest.raises(SettingsError):
        Settings(directory=tmp_path, **wrong)
