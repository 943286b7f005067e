"""Programs that mean harm: each ends as the contract says, and nothing of it is left."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from acceptance.conftest import Instance, eventually
from acceptance.jobs import Jobs

pytestmark = pytest.mark.acceptance


def family(instance: Instance) -> list[psutil.Process]:
    """All processes below the instance's supervisor."""
    from sfp_server.instance import supervisor

    pid = supervisor.supervisor_pid(instance.place)
    assert pid is not None
    return psutil.Process(pid).children(recursive=True)


@pytest.fixture(autouse=True)
def leaves_nothing(jobs: Jobs, instance: Instance) -> Iterator[None]:
    """After each of these tests no process of a task is there, and the next task runs as if nothing had been."""
    yield
    marked = [process for process in family(instance) if "hostile-mark" in " ".join(_argv(process))]
    assert marked == []
    after = jobs.sh("ls -A; ls -A $TMPDIR; echo $(ls /proc | grep -c '^[0-9]')")
    assert after.status == "completed"
    assert int(after.stdout[-1]) <= 6  # its own few processes
    assert instance.is_healthy()


def _argv(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# ------------------------------------------------------------------------------------------------ using things up


def test_a_fork_bomb_stays_in_its_limit(jobs: Jobs):
    ran = jobs.run(["bash", "-c", ":(){ :|:& };: ; sleep 1; echo alive"], timeout_seconds=20)
    assert ran.status in {"completed", "failed"}


def test_a_memory_bomb_is_told_as_out_of_memory(jobs: Jobs):
    ran = jobs.python("x = []\nwhile True: x.append(bytearray(50 << 20))", limits={"memoryMb": 200})
    assert (ran.status, ran.code) == ("failed", "out_of_memory")


def test_a_filled_disk_is_told_as_disk_limit(jobs: Jobs):
    ran = jobs.sh("yes > a || yes > b; exit 1", limits={"diskMb": 30})
    assert (ran.status, ran.code) == ("failed", "disk_limit")


def test_100_megabytes_in_one_line_are_cut_at_the_output_limit(jobs: Jobs):
    ran = jobs.sh("head -c 100000000 /dev/zero | tr '\\0' x")
    assert (ran.status, ran.code) == ("failed", "output_limit")
    assert max(len(message) for _, message in ran.lines) <= 16 * 1024


def test_endless_short_lines_cost_what_they_make_the_server_store(jobs: Jobs):
    task = jobs.submit(["yes"])
    ended = jobs.client.tasks.wait(task, timeout=90)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "output_limit")
    assert ended["result"]["usage"]["outputBytes"] < 1024 * 1024


def test_a_3_megabyte_line_does_not_stop_what_follows(jobs: Jobs):
    ran = jobs.sh("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo after")
    assert (ran.status, ran.stdout[-1]) == ("completed", "after")
    assert sum(len(line) for line in ran.stdout[:-1]) == 3_000_000


# ---------------------------------------------------------------------------------------------- refusing to end


def test_sigterm_that_is_ignored_becomes_sigkill(jobs: Jobs):
    script = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(1000)"
    task = jobs.submit(["python3", "-c", script])
    for event in jobs.client.tasks.follow(task, timeout=20):
        if event.event == "task.log":
            jobs.client.tasks.cancel(task)
            break
    ran = jobs.wait(task, timeout=40)
    assert ran.status == "cancelled"
    assert ran.result is not None
    assert ran.result["signal"] == 9


def test_a_daemon_does_not_outlive_its_task(jobs: Jobs):
    script = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 100)
        os.execvp("sleep", ["hostile-mark", "1000"])
    os._exit(0)
print("parent done")
"""
    ran = jobs.python(script)
    assert (ran.status, ran.stdout) == ("completed", ["parent done"])


def test_process_1_and_the_supervisor_cannot_be_hurt(jobs: Jobs):
    script = """
kill -9 1; kill -STOP 1; kill -TERM $PPID
for file in mem environ maps fd/3 root/etc/shadow; do head -c 1 /proc/1/$file 2>/dev/null && echo "read $file"; done
echo alive
"""
    ran = jobs.sh(script)
    assert (ran.status, ran.stdout) == ("completed", ["alive"])


def test_a_program_lies_about_nothing_through_its_descriptors(jobs: Jobs):
    script = """
import os
for number in range(3, 1024):
    try: os.write(number, b'{"t":"exit","code":0}\\n'); print("wrote", number)
    except OSError: pass
os._exit(7)
"""
    ran = jobs.python(script)
    assert (ran.code, ran.stdout) == ("exit_code", [])
    assert ran.result is not None
    assert ran.result["exitCode"] == 7


def test_closed_descriptors_hang_nothing(jobs: Jobs):
    assert jobs.python("import os; os.closerange(0, 1024)").status == "completed"


# ------------------------------------------------------------------------------------- what is read after the end


@pytest.mark.parametrize(
    "script",
    [
        'ln -sf /etc/passwd "$SFP_RESULT"',
        'rm -f "$SFP_RESULT"; mkfifo "$SFP_RESULT"',
        'mkdir "$SFP_RESULT"',
        'echo "{nope" > "$SFP_RESULT"',
        'head -c 5000000 /dev/zero > "$SFP_RESULT"',
        'python3 -c "print(\\"[\\" * 100000 + \\"]\\" * 100000)" > "$SFP_RESULT"',
        'echo "[NaN]" > "$SFP_RESULT"',
        'printf "\\"\\377\\"" > "$SFP_RESULT"',
    ],
    ids=["link", "pipe", "directory", "not-json", "huge", "deep", "nan", "not-utf-8"],
)
def test_a_result_that_is_none_is_refused(jobs: Jobs, script: str):
    ran = jobs.sh(script)
    assert (ran.status, ran.code) == ("failed", "invalid_result")


def test_a_hostile_progress_file_does_no_harm(jobs: Jobs):
    script = """
printf '10 a\\n200 b\\n-5 c\\nx y\\n99999999999999999999999 t\\n\\0\\n60 \\033[31mred\\n' > "$SFP_PROGRESS"
yes '50 hello' | head -c 50000000 >> "$SFP_PROGRESS"
rm "$SFP_PROGRESS"; mkfifo "$SFP_PROGRESS"; echo done
"""
    ran = jobs.sh(script)
    assert (ran.status, ran.stdout) == ("completed", ["done"])


def test_links_pipes_and_devices_are_not_kept(jobs: Jobs):
    ran = jobs.sh(
        "ln -s /etc/passwd a.txt; mkfifo b.txt; ln -s . c; ln -s /proc/self/environ d.txt; mkdir e.txt; echo x > f.txt",
        artifacts=["**/*.txt"],
    )
    assert ran.result is not None
    assert [kept["name"] for kept in ran.result["artifacts"]] == ["f.txt"]


def test_a_sparse_giant_is_refused_as_artifact(jobs: Jobs):
    ran = jobs.sh("truncate -s 100M giant.bin", artifacts=["*.bin"])
    assert (ran.status, ran.code) == ("failed", "output_limit")


def test_3000_levels_of_directories_are_cleaned_up(jobs: Jobs):
    script = "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')"
    assert jobs.python(script, artifacts=["**/*.txt"]).status == "completed"


def test_thousands_of_artifacts_are_refused(jobs: Jobs):
    ran = jobs.python("[open(f'{i}.txt', 'w') for i in range(2000)]", artifacts=["*.txt"])
    assert (ran.status, ran.code) == ("failed", "output_limit")


# -------------------------------------------------------------------------------------------- seeing and reaching


def test_nothing_of_the_host_is_seen(jobs: Jobs, instance: Instance):
    files = [
        instance.place.config,
        instance.place.secrets,
        Path("/root"),
        Path("/home"),
        Path("/var/log"),
        Path("/sys"),
    ]
    script = f"""
import os
for path in {[str(file) for file in files]!r}:
    if os.path.exists(path): print("sees", path)
for path in ("/etc/shadow", "/proc/kcore", "/proc/kmsg", "/proc/sysrq-trigger", "/dev/mem", "/dev/kmsg"):
    try: open(path, "rb").read(1); print("reads", path)
    except OSError: pass
for path in ("/usr/x", "/etc/x", "/x", "/proc/sys/kernel/hostname", "/dev/x", "/run/x"):
    try: open(path, "w"); print("writes", path)
    except OSError: pass
print([pid for pid in os.listdir("/proc") if pid.isdigit()].__len__() <= 4)
"""
    assert jobs.python(script).stdout == ["True"]


def test_the_kernel_refuses_what_a_task_has_no_business_with(jobs: Jobs):
    script = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
calls = {"unshare": (272, 0x10000000), "mount": (165, b"none", b"/workspace", b"tmpfs", 0, None), "ptrace": (101, 16, 1, 0, 0),
  "keyctl": (250, 0, -3, 1, 0, 0), "add_key": (248, b"user", b"a", b"b", 1, -3), "io_uring": (425, 8, ctypes.create_string_buffer(256)),
  "bpf": (321, 0, ctypes.create_string_buffer(256), 72), "perf": (298, ctypes.create_string_buffer(256), 0, -1, -1, 0),
  "userfaultfd": (323, 0), "setns": (308, 0, 0), "chroot": (161, b"/workspace"), "init_module": (175, None, 0, b""),
  "mknod": (133, b"/workspace/tmp/n", 0o20666, 0x103), "vm_readv": (310, 1, None, 0, None, 0, 0)}
for name, arguments in calls.items():
    if libc.syscall(*arguments) >= 0: print("allowed", name)
for kind in ((socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_PACKET, socket.SOCK_RAW, 0), (40, socket.SOCK_STREAM, 0)):
    try: socket.socket(*kind); print("socket", kind)
    except OSError: pass
print("done")
"""
    ran = jobs.python(script)
    if os.uname().machine == "x86_64":  # the numbers above are its own
        assert (ran.status, ran.stdout) == ("completed", ["done"])


def test_a_task_does_not_see_another(jobs: Jobs):
    other = jobs.submit(["sh", "-c", "echo secret-of-another > $TMPDIR/x; echo there; sleep 1000"])
    for event in jobs.client.tasks.follow(other, timeout=20):
        if event.event == "task.log":
            break
    ran = jobs.sh(
        "grep -rl secret-of-another /workspace /tmp /dev/shm 2>/dev/null; cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    )
    jobs.client.tasks.cancel(other)
    jobs.wait(other)
    assert "secret-of-another" not in ran.text.replace("grep -rl secret-of-another", "")


def test_mounts_folders_and_groups_are_gone_afterwards(jobs: Jobs, instance: Instance):
    [dispatcher] = instance.pids("dispatcher")

    def left() -> tuple[int, int, int]:
        mounts = Path(f"/proc/{dispatcher}/mounts").read_text().count("\n")
        folders = len(list(instance.place.directory.glob("run/workers/*")))
        return mounts, folders, len(list(Path("/sys/fs/cgroup").glob(f"**/sfp-{dispatcher}-*")))

    jobs.run(["true"])
    before = left()
    for _ in range(5):
        jobs.sh("mkdir -p a/b/c; head -c 1000000 /dev/zero > a/b/c/d; sleep 100 & echo")
    # 4: the warm workers of this moment, in two hierarchies; a leak would be 5 or more
    eventually(lambda: all(now <= then + 4 for now, then in zip(left(), before, strict=True)))


def test_a_flood_of_lines_arrives_whole_and_in_order(jobs: Jobs):
    tasks = [jobs.submit(["sh", "-c", f"seq 1 2000; echo {number}"], priority="critical") for number in range(10)]
    ran = [jobs.wait(task) for task in tasks]
    assert [one.stdout[-1] for one in ran] == [str(number) for number in range(10)]
    assert all(len(one.stdout) == 2001 for one in ran)
    assert {one.status for one in ran} == {"completed"}
