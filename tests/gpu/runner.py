"""Runs the steps of a GPU check one by one, each with its own time limit, and keeps what came out after each, so that
nothing is lost when one hangs and a later call goes on where this one ended."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import typing

OK, FAILED, TIMED_OUT, NOT_POSSIBLE, LEFT = "ok", "FAILED", "timed out", "not possible here", "left for the next call"


class Outcome(Exception):
    """Ends a step: how, and one line for the table."""

    def __init__(self, status, detail, **data):
        super().__init__(detail)
        self.status, self.detail, self.data = status, detail, data


@dataclasses.dataclass
class Step:
    name: str
    part: str  # tests, training, sanitizer, bench
    timeout: float  # seconds, at most
    least: float  # seconds below which it isn't begun
    body: typing.Callable  # body(runner, timeout) returns (detail, data) or raises Outcome


def tail(text, lines=12):
    return "\n".join(text.strip().splitlines()[-lines:])


def shorten(text, limit=200_000):
    """The beginning and the end of what is too long for the log."""
    if len(text) <= limit:
        return text
    return f"{text[:limit // 4]}\n[… {len(text) - limit} characters …]\n{text[-limit * 3 // 4:]}"


class Runner:
    def __init__(self, folder, programs, environment, seconds, commit, redo):
        self.folder, self.programs, self.environment = folder, programs, environment
        self.end = time.time() + seconds
        self.step_end = self.end
        self.file = folder / "results.json"
        self.log = open(folder / "log.txt", "a")
        self.results = {}
        if self.file.exists() and not redo:
            kept = json.loads(self.file.read_text())
            if kept.get("commit") == commit:
                self.results = kept.get("steps", {})
            else:
                self.say(f"{self.file} is of commit {kept.get('commit')!r}, this is {commit!r}: starting afresh")
        self.commit = commit

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    def save(self):
        self.file.write_text(json.dumps(dict(commit=self.commit, date=time.strftime("%Y-%m-%d"),
                                             steps=self.results), indent=1) + "\n")

    def command(self, command, timeout, variables=None, with_libraries=True):
        """Runs a command for at most `timeout` seconds, or what the step has left; returns (exit status, output of both
        streams). TIMED_OUT ends the step, and everything that the command started."""
        timeout = min(timeout, self.step_end - time.time())
        environment = dict(self.environment if with_libraries else os.environ) | (variables or {})
        self.log.write(f"\n$ {' '.join(map(str, command))}\n")
        self.log.flush()
        with tempfile.TemporaryFile("w+", errors="replace") as out:
            process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=subprocess.STDOUT,
                                       stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
            late = False
            try:
                process.wait(timeout=max(1.0, timeout))
            except subprocess.TimeoutExpired:
                late = True
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.wait()
            out.seek(0)
            text = out.read()
        self.log.write(shorten(text))
        self.log.flush()
        if late:
            raise Outcome(TIMED_OUT, f"{command[0]} ran longer than {timeout:.0f} s: {tail(text, 1)}")
        return process.returncode, text

    def run(self, steps):
        for step in steps:
            before = self.results.get(step.name, {})
            if before.get("status") == OK:
                self.say(f"-- {step.name}: done before")
                continue
            remaining = self.end - time.time()
            if remaining < step.least:
                if not before:
                    self.results[step.name] = dict(part=step.part, status=LEFT, seconds=0, detail="", data={})
                self.say(f"-- {step.name}: left for the next call")
                continue
            self.say(f"-- {step.name} …")
            self.run_one(step, min(step.timeout, remaining))
            self.save()
        self.save()

    def run_one(self, step, timeout):
        begin = time.time()
        self.step_end = begin + timeout  # of all its commands together
        try:
            detail, data = step.body(self, timeout)
            status = OK
        except Outcome as outcome:
            status, detail, data = outcome.status, outcome.detail, outcome.data
        except Exception as error:  # a step that breaks must not take the table with it
            status, detail, data = FAILED, f"{type(error).__name__}: {error}", {}
            self.log.write(f"\n{type(error).__name__}: {error}\n")
        seconds = time.time() - begin
        self.results[step.name] = dict(part=step.part, status=status, seconds=round(seconds, 1), detail=detail, data=data)
        self.say(f"   {status} in {seconds:.0f} s{': ' + detail if detail else ''}")


def run_google_tests(runner, command, timeout, variables=None):
    """Runs a program of GoogleTest; returns (detail, data). FAILED when a test failed or none ran."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        status, text = runner.command([*command, f"--gtest_output=json:{report.name}"], timeout, variables)
        try:
            suites = json.loads(report.read() or "{}")
        except json.JSONDecodeError:
            suites = {}
    failed, skipped, count = [], 0, 0
    for suite in suites.get("testsuites", []):
        for test in suite.get("testsuite", []):
            count += test.get("result") == "COMPLETED"
            skipped += test.get("result") == "SKIPPED"
            if test.get("failures"):
                failed.append(f"{suite['name']}.{test['name']}")
    data = dict(passed=count - len(failed), failed=failed, skipped=skipped)
    if failed:
        raise Outcome(FAILED, f"{len(failed)} of {count} tests failed: {', '.join(failed[:4])}"
                      + (" …" if len(failed) > 4 else ""), **data)
    if status != 0:
        last = re.findall(r"^\[ RUN      \] (.*)", text, re.M)
        raise Outcome(FAILED, f"exit status {status}{' in ' + last[-1] if last else ''}: {tail(text, 2)}", **data)
    if count == 0:
        raise Outcome(FAILED, "no test ran on the GPU", **data)
    return f"{count} tests passed" + (f", {skipped} skipped" if skipped else ""), data
