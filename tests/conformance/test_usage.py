"""What an attempt used is told within a tenth, whichever of its processes used it."""

import pytest
from workers import python, run

from sfp_server.runtimes.base import Limits

LIMITS = Limits(memory_mb=1024, disk_mb=64, processes=64, output_bytes=10_000_000)

BURN = """
import os, resource, sys, time
def burn(seconds):
    while sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < seconds: sum(range(2000))
"""


#: it outlives its parent, and is killed at the end
ORPHAN = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        burn(1.5)
        open("done", "w")
        time.sleep(60)
    os._exit(0)
while not os.path.exists("done"): time.sleep(0.02)
"""


@pytest.mark.parametrize(
    "load",
    ["burn(1.5)", "if os.fork() == 0: burn(1.5); os._exit(0)\nos.wait()", ORPHAN],
    ids=["its own", "a child's", "an orphan's"],
)
async def test_cpu_time(runtime, load):
    ended, _ = await run(runtime, python(BURN + load, limits=LIMITS))
    assert ended.code == 0
    assert 1.5 <= ended.usage.cpu_seconds <= 1.5 * 1.1 + 0.1  # and the start of an interpreter


async def test_peak_memory(runtime):
    code = "x = bytearray(300_000_000); del x; y = bytearray(1_000_000)"
    ended, _ = await run(runtime, python(code, limits=LIMITS))
    assert ended.code == 0
    assert 300_000_000 <= ended.usage.peak_memory_bytes <= 330_000_000


THREE = """
import os, signal
ready, done = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        x = bytearray(100_000_000)
        os.write(done, b"x")
        signal.pause()
for _ in range(3): os.read(ready, 1)
"""


async def test_peak_memory_of_processes_together(runtime):
    ended, _ = await run(runtime, python(THREE, limits=LIMITS))
    if "cgroup" not in runtime.isolation().get("memory", "cgroup"):
        pytest.skip("without a group the peak is that of the largest process")
    assert 300_000_000 <= ended.usage.peak_memory_bytes <= 330_000_000


async def test_bytes_logged(runtime):
    code = "import sys\nprint('x' * 999_999)\nprint('y' * 99_999, file=sys.stderr)"
    ended, _ = await run(runtime, python(code, limits=LIMITS))
    assert ended.usage.output_bytes == 1_100_000
