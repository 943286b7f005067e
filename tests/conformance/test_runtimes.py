"""What every runtime promises: the program's life, its surroundings, its end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from workers import RUNTIMES, Attendant, broker, python, run, secret, workload

from sfp_server.runtimes.base import Exit, Limits, RuntimeUnavailable
from sfp_server.runtimes.egress import EgressPolicy
from sfp_server.runtimes.sandbox import SandboxRuntime


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
async def test_an_exit_code_is_the_programs_own(runtime, code):
    ended, _ = await run(runtime, workload("sh", "-c", f"exit {code}"))
    assert (ended.code, ended.signal, ended.failure) == (code, None, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGUSR1])
async def test_a_signal_is_told_as_a_signal(runtime, number):
    ended, _ = await run(runtime, workload("sh", "-c", f"kill -{int(number)} $$"))
    assert (ended.code, ended.signal, ended.failure) == (None, int(number), None)


async def test_a_program_that_is_not_there_cannot_start(runtime):
    ended, _ = await run(runtime, workload("no-such-program"))
    assert (ended.code, ended.failure.code) == (None, "cannot_start")


async def test_output_comes_as_lines_in_order_and_by_stream(runtime):
    ended, seen = await run(runtime, workload("sh", "-c", "echo one; echo two >&2; echo three; printf four"))
    assert ended.code == 0
    assert [line.message for line in seen.lines if line.stream == "stdout"] == ["one", "three", "four"]
    assert [line.message for line in seen.lines if line.stream == "stderr"] == ["two"]


async def test_the_first_line_comes_while_the_program_runs(runtime):
    seen = Attendant()
    handle = await runtime.start(python("import time; print('hello', flush=True); time.sleep(60)"), seen)
    await seen.saw("hello")
    await runtime.stop(handle)


async def test_what_cannot_be_stored_is_replaced(runtime):
    _, seen = await run(runtime, python(r"import os; os.write(1, b'a\0b\xff\n')"))
    assert seen.text() == "a\ufffdb\ufffd"


async def test_stdin_is_what_was_given(runtime):
    _, seen = await run(runtime, workload("cat", stdin="line 1\nüml\n"))
    assert seen.text() == "line 1\nüml"


async def test_the_environment_is_exactly_the_contracts(runtime, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    _, seen = await run(runtime, python("import json, os; print(json.dumps(dict(os.environ)))", env={"MINE": "1"}))
    found = json.loads(seen.text())
    root = found["HOME"].removesuffix("/home")
    found.pop("LC_CTYPE", None)
    assert found == {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": f"{root}/home",
        "TMPDIR": f"{root}/tmp",
        "LANG": "C.UTF-8",
        "CI": "true",
        "SFP_OPERATION_ID": "0190-test",
        "SFP_ATTEMPT": "1",
        "SFP_PROGRESS": f"{root}/sfp/progress",
        "SFP_RESULT": f"{root}/sfp/result",
        "MINE": "1",
    }


async def test_a_task_cannot_set_our_variables(runtime):
    ended, _ = await run(runtime, workload("true", env={"SFP_RESULT": "/etc/passwd"}))
    assert ended.failure.code == "cannot_start"


async def test_a_program_that_ignores_sigterm_is_killed_after_the_grace_period(runtime):
    seen = Attendant()
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    handle = await runtime.start(python(code, grace_seconds=0.3), seen)
    await seen.saw("up")
    started = time.monotonic()
    await runtime.terminate(handle)
    ended = await asyncio.wait_for(runtime.wait(handle), 20)
    assert ended.signal == signal.SIGKILL
    assert time.monotonic() - started >= 0.3


async def test_a_program_may_end_in_order_when_it_is_asked_to(runtime):
    seen = Attendant()
    code = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(7))\nprint('up', flush=True)\ntime.sleep(60)"
    )
    handle = await runtime.start(python(code, grace_seconds=20), seen)
    await seen.saw("up")
    await runtime.terminate(handle)
    assert (await asyncio.wait_for(runtime.wait(handle), 20)).code == 7


async def test_waiting_and_stopping_twice_is_fine(runtime):
    handle = await runtime.start(workload("sleep", "60"), Attendant())
    await runtime.stop(handle)
    await runtime.stop(handle)
    first = await runtime.wait(handle)
    assert first.failure.code == "worker_lost"
    assert await runtime.wait(handle) == first


async def test_an_unknown_handle_is_a_lost_worker(runtime):
    handle = json.dumps({"runtime": "sandbox", "processes": [[1, 1]], "group": None})
    for name in (handle, "nonsense", "{}"):
        assert (await runtime.wait(name)).failure.code == "worker_lost"
        await runtime.stop(name)


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.environ.clear()
        sys.argv[0] = 'left-over'
        os.execv('/bin/sleep', ['sfp-left-over', '7777'])
    os._exit(0)
print('main ends', flush=True)
"""


def left_overs():
    return [process.pid for process in psutil.process_iter(["cmdline"]) if "7777" in (process.info["cmdline"] or [])]


async def test_what_a_program_leaves_behind_is_dead_when_it_has_ended(runtime):
    ended, _ = await run(runtime, python(DAEMON))
    assert ended.code == 0
    assert left_overs() == []


async def test_nothing_is_left_on_disk_or_in_the_process_table(make, folder):
    runtime = await make(fresh=True)
    before = {process.pid for process in psutil.process_iter()}
    await run(runtime, python("open('x', 'w').write('y'); import os; os.makedirs('/'.join('d' * 50))"))
    await runtime.close()
    group = psutil.Process().children(recursive=True)
    assert [child.pid for child in group if child.pid not in before and child.is_running()] == []
    assert [path for path in (folder / "scratch").rglob("*") if path.name == "x"] == []
    assert not runtime._folders.mine()


async def test_two_tasks_share_nothing(make):
    runtime = await make(warm=2)
    write = "import os; open(os.path.expanduser('~/note'), 'w').write('1'); open(os.environ['TMPDIR'] + '/note', 'w')"
    look = (
        "import os; print(os.path.exists(os.path.expanduser('~/note')), os.listdir(os.environ['TMPDIR']), os.listdir())"
    )
    await run(runtime, python(write))
    _, seen = await run(runtime, python(look))
    assert seen.text() == "False [] []"


async def test_a_warm_worker_that_died_is_skipped(make):
    runtime = await make(warm=1)
    runtime._pools[None].fill()
    await runtime._pools[None].filled()
    runtime._pools[None]._waiting[0].kill()
    await runtime._pools[None]._waiting[0].process.wait()
    ended, _ = await run(runtime, workload("true"))
    assert ended == Exit(code=0, usage=ended.usage)


async def test_a_killed_worker_is_lost_within_two_seconds(runtime):
    seen = Attendant()
    handle = await runtime.start(workload("sh", "-c", "echo up; sleep 60"), seen)
    await seen.saw("up")
    pid, _ = json.loads(handle)["processes"][-1]
    os.kill(pid, signal.SIGKILL)
    ended = await asyncio.wait_for(runtime.wait(handle), 2)
    assert ended.failure.code == "worker_lost"


LIE = """
import json, os, struct
body = json.dumps({"t": "exit", "code": 0, "signal": None, "failure": None, "has_output": False}).encode()
frame = struct.pack("!IB", len(body), 0) + body
for fd in range(3, 64):
    try:
        os.write(fd, frame)
    except OSError:
        pass
for pid in os.listdir("/proc"):
    if pid.isdigit() and int(pid) != os.getpid():
        for fd in range(3, 16):
            try:
                with open(f"/proc/{pid}/fd/{fd}", "wb", buffering=0) as file:
                    file.write(frame)
            except OSError:
                pass
raise SystemExit(9)
"""


async def test_a_program_cannot_lie_about_its_exit(runtime):
    ended, _ = await run(runtime, python(LIE))
    assert (ended.code, ended.failure) == (9, None)


async def test_a_fork_bomb_is_bounded(runtime):
    bomb = """
import os, time
count = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        count += 1
except OSError:
    print(count, flush=True)
"""
    ended, seen = await run(runtime, python(bomb, limits=Limits(memory_mb=512, disk_mb=64, processes=40)))
    assert ended.code == 0
    assert 10 < int(seen.text()) <= 48


async def test_a_hundred_megabytes_in_one_line_end_at_the_limit(runtime):
    limits = Limits(memory_mb=512, disk_mb=64, processes=64, output_bytes=1_000_000)
    before = psutil.Process().memory_info().rss
    ended, seen = await run(
        runtime, python("import sys\nfor _ in range(1600): sys.stdout.write('x' * 65536)", limits=limits)
    )
    assert ended.failure.code == "output_limit"
    assert sum(len(line.message) for line in seen.lines) == 1_000_000
    assert max(len(line.message) for line in seen.lines) <= 16384
    assert psutil.Process().memory_info().rss - before < 60_000_000


async def test_a_program_waits_while_nobody_reads(runtime):
    class Slow(Attendant):
        def __init__(self):
            super().__init__()
            self.go = asyncio.Event()

        async def log(self, lines):
            await self.go.wait()
            await super().log(lines)

    seen = Slow()
    handle = await runtime.start(python("print('y' * 99)\n" * 1 + "for _ in range(50000): print('x' * 99)"), seen)
    waiting = asyncio.create_task(runtime.wait(handle))
    done, _ = await asyncio.wait([waiting], timeout=0.5)
    assert not done
    seen.go.set()
    assert (await asyncio.wait_for(waiting, 60)).code == 0
    assert len(seen.lines) == 50001


async def test_memory_out_says_so(runtime):
    code = "x = []\nwhile True: x.append(bytearray(8 * 1024 * 1024))"
    ended, _ = await run(runtime, python(code, limits=Limits(memory_mb=128, disk_mb=64, processes=64)))
    assert ended.failure.code == "out_of_memory"


async def test_a_full_disk_says_so(runtime):
    code = "f = open('big', 'wb')\nwhile True: f.write(bytes(1024 * 1024)); f.flush()"
    ended, _ = await run(runtime, python(code, limits=Limits(memory_mb=512, disk_mb=16, processes=64)))
    assert ended.failure.code == "disk_limit"


async def test_progress_is_clamped_cut_and_the_last_one_counts(runtime):
    lines = r"nonsense\n50 half way\n150 " + "x" * 300
    _, seen = await run(runtime, workload("sh", "-c", f'printf "{lines}" > $SFP_PROGRESS'))
    assert seen.reports[-1] == (100, "x" * 200)


async def test_progress_comes_while_the_program_runs(runtime):
    seen = Attendant()
    came = asyncio.Event()

    async def progress(percent, text):
        if (percent, text) == (50, "half"):
            came.set()

    seen.progress = progress
    handle = await runtime.start(workload("sh", "-c", "echo 50 half > $SFP_PROGRESS; sleep 60"), seen)
    await asyncio.wait_for(came.wait(), 10)
    await runtime.stop(handle)


async def test_a_result_comes_back(runtime):
    ended, _ = await run(
        runtime, python(r"""import os; open(os.environ['SFP_RESULT'], 'w').write('{"a": [1, "x\\u0000y", null]}')""")
    )
    assert (ended.code, ended.output) == (0, {"a": [1, "x\ufffdy", None]})


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w').write('{')",
        "open(path, 'w').write('NaN')",
        "open(path, 'w').write('1e999')",
        "open(path, 'w').write('[' * 5000 + ']' * 5000)",
        "open(path, 'w').write('[' * 70 + ']' * 70)",
        "open(path, 'w').write('1' * 1100000)",
        "open(path, 'wb').write(b'\"\\xff\"')",
        "os.symlink('/etc/passwd', path)",
        "os.mkfifo(path)",
        "os.mkdir(path)",
    ],
)
async def test_a_result_that_is_none_fails_the_attempt(runtime, code):
    ended, _ = await run(runtime, python(f"import os; path = os.environ['SFP_RESULT']; {code}"))
    assert ended.failure.code == "invalid_result"


async def test_a_credential_is_in_the_environment_and_nowhere_else(runtime, folder):
    value = "s3cr3t/+pass wörd"
    code = """
import base64, json, os, sys, urllib.parse
value = os.environ["NPM_TOKEN"]
print(value, base64.b64encode(value.encode()).decode(), urllib.parse.quote(value), json.dumps(value))
for char in value: sys.stdout.write(char); sys.stdout.flush()
print()
sys.stderr.write("err " + value + "\\n")
open(os.environ["SFP_PROGRESS"], "w").write("10 " + value + "\\n")
open(os.environ["SFP_RESULT"], "w").write(json.dumps({value: [value, "x" + value]}))
open("kept-" + value.replace("/", "") , "w")
print(len(value))
"""
    async with broker(folder / "broker", secret(value)) as tickets:
        ended, seen = await run(runtime, python(code), Attendant("ticket-1"))
    assert tickets == ["ticket-1"]
    assert ended.output == {"***": ["***", "x***"]}
    assert [line.message for line in seen.lines if line.stream == "stderr"] == ["err ***"]
    stdout = [line.message for line in seen.lines if line.stream == "stdout"]
    assert stdout[1:] == ["***", str(len(value))]
    assert "s3cr3t" not in seen.text()
    assert seen.reports == [(10, "***")]


async def test_a_refused_credential_fails_the_attempt(runtime, folder):
    answer = {"error": {"code": "credential", "message": "secret NPM_TOKEN is unknown"}}
    async with broker(folder / "broker", answer):
        ended, _ = await run(runtime, workload("true"), Attendant("t"))
    assert (ended.failure.code, ended.failure.message) == ("credential", "secret NPM_TOKEN is unknown")


async def test_without_a_broker_no_worker_starts(runtime):
    with pytest.raises(RuntimeUnavailable):
        await runtime.start(workload("true"), Attendant("t"))


async def test_a_running_dispatchers_death_is_its_workers_death(kind, folder):
    code = f"""
import asyncio, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from sfp_server.runtimes.egress import EgressPolicy
from workers import RUNTIMES, Attendant, workload

async def main():
    runtime = RUNTIMES[{kind!r}](None, EgressPolicy(), 1, scratch=Path({str(folder)!r}) / "scratch")
    await runtime.open()
    seen = Attendant()
    handle = await runtime.start(workload("sh", "-c", "echo up; exec sleep $0", "7777"), seen)
    await seen.saw("up")
    await runtime._pools[None].filled()
    print(handle, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""
    dispatcher = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    handle = (await asyncio.wait_for(dispatcher.stdout.readline(), 30)).decode().strip()
    assert left_overs()
    dispatcher.kill()
    await dispatcher.wait()
    deadline = time.monotonic() + 2
    while left_overs() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert left_overs() == []
    after = RUNTIMES[kind](None, EgressPolicy(), 0, scratch=folder / "scratch")
    await after.open()
    assert (await asyncio.wait_for(after.wait(handle), 5)).failure.code == "worker_lost"
    await after.close()


async def test_a_missing_bubblewrap_is_said(folder):
    runtime = SandboxRuntime(None, EgressPolicy(), 1, scratch=folder, bwrap_path="/no/such/bwrap")
    await runtime.open()
    with pytest.raises(RuntimeUnavailable, match="bubblewrap"):
        await runtime.start(workload("true"), Attendant())
    await runtime.close()


async def test_isolation_is_told_as_text(runtime):
    assert all(isinstance(value, str) and value for value in runtime.isolation().values())
