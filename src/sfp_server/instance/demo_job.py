"""The demo's job, run inside the sandbox with the system's Python: compile the repository, run its unit tests.

Self-contained: its text is given to `python3 -c`. Writes progress and the result where the worker expects
them, and a JUnit report that is kept. It also prints its credential, to prove that the log does not show it.
"""

import compileall
import io
import json
import os
import platform
import subprocess
import sys
import time
import unittest
from pathlib import Path
from xml.etree import ElementTree as ET

TESTS = Path("tests/unit/worker_stdlib")


def main() -> int:
    say(1, f"Python {platform.python_version()} at commit {commit()[:12]}")
    print("the declared credential is", os.environ.get("DEMO_TOKEN", "missing"), flush=True)
    sources = sorted(Path("src").rglob("*.py"))
    broken = [str(path) for number, path in enumerate(sources) if not compiled(number, len(sources), path)]
    result = tested()
    write_report(result, broken)
    summary = {
        "commit": commit(),
        "files": len(sources),
        "broken": broken,
        "tests": result.testsRun,
        "failures": len(result.failures) + len(result.errors),
    }
    Path(os.environ["SFP_RESULT"]).write_text(json.dumps(summary))
    say(100, f"{len(sources)} files compiled, {result.testsRun} tests, {summary['failures']} failures")
    return 1 if broken or summary["failures"] or not sources else 0


def say(percent: int, text: str) -> None:
    with Path(os.environ["SFP_PROGRESS"]).open("a") as progress:
        progress.write(f"{percent} {text}\n")
    print(text, flush=True)


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def compiled(number: int, count: int, path: Path) -> bool:
    if number % 10 == 0:
        say(5 + 55 * number // count, f"compiling {path}")
    return bool(compileall.compile_file(str(path), quiet=1))


class Told(unittest.TextTestResult):
    """Tells each test as it ends, with the share that is done."""

    total = 1

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802 (unittest's name)
        super().stopTest(test)
        say(60 + 35 * self.testsRun // self.total, f"test {test.id()}")


def tested() -> unittest.TestResult:
    sys.path.insert(0, "src")
    suite = unittest.defaultTestLoader.discover(str(TESTS)) if TESTS.is_dir() else unittest.TestSuite()
    Told.total = max(1, suite.countTestCases())
    stream = io.StringIO()
    runner = unittest.TextTestRunner(
        stream=stream,
        verbosity=0,
        resultclass=Told,  # pyright: ignore[reportArgumentType] (typeshed: the stream is never wrapped twice)
    )
    result = runner.run(suite)
    print(stream.getvalue(), end="", flush=True)
    return result


def write_report(result: unittest.TestResult, broken: list[str]) -> None:
    failed = [*result.failures, *result.errors]
    suite = ET.Element("testsuite", name="demo", tests=str(result.testsRun), failures=str(len(failed) + len(broken)))
    suite.set("timestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    for test, trace in failed:
        ET.SubElement(ET.SubElement(suite, "testcase", name=test.id()), "failure").text = trace
    for path in broken:
        ET.SubElement(ET.SubElement(suite, "testcase", name=path), "failure").text = "does not compile"
    ET.ElementTree(suite).write("report.xml", encoding="utf-8", xml_declaration=True)


if __name__ == "__main__":
    sys.exit(main())
