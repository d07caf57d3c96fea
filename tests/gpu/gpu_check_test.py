#!/usr/bin/env python3
"""Tests of the logic of gpu_check and of the GPU benchmarks, with programs that only pretend: what runs out of memory,
hangs or breaks must not take the table with it. Needs no GPU and no torch."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import bench_steps  # noqa: E402  (puts tests/bench on the path)
import machine  # noqa: E402
import report  # noqa: E402
import sanitizer_steps  # noqa: E402
from runner import FAILED, LEFT, NOT_POSSIBLE, OK, TIMED_OUT, Outcome, Runner, Step, run_google_tests  # noqa: E402

import gpu_compare  # noqa: E402
import gpu_models  # noqa: E402
import gpu_tables  # noqa: E402

FAKE = str(HERE / "fake_worker.py")


def quietly(body):
    with contextlib.redirect_stderr(io.StringIO()):
        return body()


class Compare(unittest.TestCase):
    def run_case(self, trireme="", torch="", arguments=(), model="qwen2.5-1.5b"):
        os.environ["FAKE_TRIREME"], os.environ["FAKE_TORCH"] = trireme, torch
        options = gpu_compare.parse_options(["--trireme", FAKE, "--python", FAKE, "--device", "cpu", "--seconds", "2",
                                             *arguments])
        case = quietly(lambda: gpu_compare.run_case(options, model, "default"))
        return case, {lane["label"]: lane for lane in case["lanes"]}

    def test_two_programs_take_turns(self):
        case, lanes = self.run_case("seconds=0.01", "seconds=0.02")
        self.assertEqual(case["errors"], {})
        self.assertEqual({len(lane["turns"]) for lane in lanes.values()}, {3})
        self.assertGreaterEqual(lanes["trireme"]["steps"], gpu_compare.MIN_STEPS)
        self.assertEqual(gpu_tables.ratio(case, lanes["torch"]), "2.00 [2.00 … 2.00]")
        self.assertAlmostEqual(lanes["trireme"]["tokens_per_second"], 1e5)
        self.assertEqual(gpu_tables.mfu(case, lanes["trireme"]), "60.0 %")
        self.assertIn("optimizer", lanes["trireme"]["phases"])

    def test_a_slow_program_gets_fewer_steps(self):
        _, lanes = self.run_case("seconds=0.3", "seconds=0.3")
        self.assertEqual(lanes["trireme"]["steps"], 3)

    def test_out_of_memory_halves_the_microbatch(self):
        case, lanes = self.run_case("fits=4")
        self.assertEqual(lanes["trireme"]["micro"], 4)
        self.assertEqual(lanes["torch"]["micro"], 4)
        self.assertEqual(lanes["trireme"]["notes"], [f"a microbatch of {n} ran out of memory" for n in (16, 8)])
        self.assertEqual(case["errors"], {})

    def test_programs_that_do_not_fit_together_come_one_after_the_other(self):
        with tempfile.TemporaryDirectory() as folder:
            case, lanes = self.run_case(f"holds={folder}/alive", f"alone={folder}/alive")
        self.assertEqual(case["errors"], {})
        self.assertEqual(lanes["torch"]["micro"], lanes["trireme"]["micro"])
        self.assertGreater(len(lanes["trireme"]["turns"]), len(lanes["torch"]["turns"]))

    def test_a_program_that_breaks_leaves_the_other(self):
        case, lanes = self.run_case("", "crashes")
        self.assertIn("something broke", case["errors"]["torch"])
        self.assertEqual(list(lanes), ["trireme"])
        case, lanes = self.run_case("crashes", "")
        self.assertIn("something broke", case["errors"]["trireme"])
        self.assertEqual(list(lanes), ["torch"])

    def test_a_program_that_hangs_is_ended(self):
        case, lanes = self.run_case("", "hangs", ["--start-seconds", "1"])
        self.assertIn("was ended", case["errors"]["torch"])
        self.assertEqual(list(lanes), ["trireme"])

    def test_nothing_fits(self):
        case, lanes = self.run_case("fits=0")
        self.assertIn("out of memory", case["errors"]["trireme"])
        case, _ = self.run_case(model="qwen2.5-7b")
        self.assertIn("don't fit", case["errors"]["memory"])

    def test_what_was_timed_is_written_before_the_end(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "cases.json"
            self.run_case(arguments=["--json", str(out)])
            self.assertEqual(len(json.loads(out.read_text())[0]["lanes"]), 2)


class Models(unittest.TestCase):
    def test_flops_are_those_of_the_paper(self):
        self.assertAlmostEqual(gpu_models.MODELS["qwen2.5-0.5b"].flops_per_token() * 1e-9, 3.096, places=3)
        self.assertEqual(set(gpu_models.MICRO), {(m, c) for m in gpu_models.MODELS for c in gpu_models.CONTRACTS})

    def test_larger_memory_allows_larger_microbatches(self):
        for model, contract in gpu_models.MICRO:
            small = gpu_models.first_micro(model, contract, 80e9)
            large = gpu_models.first_micro(model, contract, 150e9)
            self.assertLessEqual(small or 0, large or 0)
            for micro in filter(None, (small, large)):
                self.assertEqual(gpu_models.TOKENS_PER_STEP % (micro * gpu_models.SEQUENCE), 0)


class Tables(unittest.TestCase):
    def case(self):
        ops = [dict(device="x", peak_flops=0, dtype="bf16", microbatches=4),
               dict(op="copy", kind="memory", ceiling=True, seconds=1.0, bytes=1e9, flops=0),
               dict(op="product", kind="gemm", ceiling=True, seconds=1.0, bytes=1, flops=1e12),
               dict(op="add", kind="memory", shape="", calls=3, seconds=2e-3, bytes=1e6, flops=0),
               dict(op="up", kind="gemm", shape="", calls=1, seconds=4e-3, bytes=1, flops=2e9),
               dict(op="big", kind="memory", shape="", calls=1, error="out of memory", flops=0)]
        lane = dict(label="trireme", phases={"optimizer": 0.002}, parameters=1000, seconds=0.1, turns=[0.1], micro=2,
                    steps=3, tokens_per_second=5.0, flops_per_token=1, peak_flops=0, peak_memory_bytes=None, notes=[])
        return dict(model="qwen2.5-0.5b", contract="default", tokens_per_step=8, sequence=1, errors={}, lanes=[lane],
                    ops=ops)

    def test_lost_time_is_beyond_the_ceilings(self):
        rows = {row["name"]: row for row in gpu_tables.op_rows(self.case())}
        self.assertAlmostEqual(rows["add"]["ms"], 24)  # 12 calls of 2 ms
        self.assertAlmostEqual(rows["add"]["lost"], 12)  # 1 ms of them at 1 GB/s
        self.assertAlmostEqual(rows["up"]["lost"], 8)  # 4 calls of 4 ms, 2 ms at 1 TFLOP/s
        self.assertAlmostEqual(rows["optimizer (from the phases)"]["roof"], 0.034)
        text = "\n".join(gpu_tables.case_tables([self.case()]))
        self.assertIn("out of memory", text)
        self.assertIn("the whole step, measured", text)

    def test_a_case_without_figures_still_has_a_row(self):
        case = dict(model="m", contract="c", tokens_per_step=1, sequence=1, errors={"memory": "too large"}, lanes=[])
        self.assertIn("too large", "\n".join(gpu_tables.case_tables([case])))


class Steps(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.out = pathlib.Path(self.folder.name)

    def tearDown(self):
        self.folder.cleanup()

    def runner(self, seconds=60, commit="c", redo=False):
        runner = quietly(lambda: Runner(self.out, None, dict(os.environ), seconds, commit, redo))
        self.addCleanup(runner.log.close)
        return runner

    def run_steps(self, steps, **options):
        runner = self.runner(**options)
        quietly(lambda: runner.run(steps))
        return {name: result["status"] for name, result in runner.results.items()}

    def step(self, name, body, timeout=10, least=0):
        return Step(name, "tests", timeout, least, body)

    def test_a_hanging_step_does_not_stop_the_others(self):
        calls = []

        def good(runner, timeout):
            calls.append(1)
            return "fine", {}
        steps = [self.step("hangs", lambda runner, t: runner.command(["sleep", "60"], t), timeout=1),
                 self.step("breaks", lambda runner, t: 1 / 0), self.step("good", good)]
        begin = time.time()
        self.assertEqual(self.run_steps(steps), {"hangs": TIMED_OUT, "breaks": FAILED, "good": OK})
        self.assertLess(time.time() - begin, 20)
        # A second call does again what failed, not what passed; another commit does everything again.
        self.run_steps(steps[1:])
        self.assertEqual(len(calls), 1)
        self.run_steps(steps[2:], commit="d")
        self.assertEqual(len(calls), 2)

    def test_what_has_no_time_is_left(self):
        steps = [self.step("long", lambda runner, t: ("", {}), least=1000)]
        self.assertEqual(self.run_steps(steps), {"long": LEFT})
        self.assertIn(LEFT, report.markdown({}, "c", "today", json.loads((self.out / "results.json").read_text())["steps"]))

    def google_test(self, script):
        program = self.out / "program"
        program.write_text("#!/bin/sh\nfor a in \"$@\"; do case $a in --gtest_output=json:*) out=${a#*json:};; esac; done\n"
                           + script)
        program.chmod(0o755)
        return quietly(lambda: run_google_tests(self.runner(), [str(program)], 10))

    def google_json(self, *tests):
        return "cat >$out <<'END'\n" + json.dumps({"testsuites": [{"name": "S", "testsuite": list(tests)}]}) + "\nEND\n"

    def test_results_of_google_tests(self):
        good = dict(name="a", result="COMPLETED")
        bad = dict(name="b", result="COMPLETED", failures=[{}])
        self.assertEqual(self.google_test(self.google_json(good))[0], "1 tests passed")
        for script, words in ((self.google_json(good, bad) + "exit 1", "S.b"), (self.google_json(), "no test ran"),
                              ("echo '[ RUN      ] S.c'; exit 139", "S.c"),
                              (self.google_json(good) + "exit 66", "exit status 66")):
            with self.assertRaises(Outcome) as caught:
                self.google_test(script)
            self.assertEqual(caught.exception.status, FAILED)
            self.assertIn(words, caught.exception.detail)


MEMCHECK = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at {kernel}(float*, int)+0x70
=========     by thread (0,0,0) in block (0,0,0)
=========     Access at 0x7f is out of bounds
=========
========= ERROR SUMMARY: 1 error
"""
RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at {kernel}(float*)+0x1f0
=========     and Read access at {kernel}(float*)+0x250 [16 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""


class Sanitizer(unittest.TestCase):
    def test_reports_of_our_kernels_are_told_from_others(self):
        for text in (MEMCHECK, RACE):
            errors, ours, reports = sanitizer_steps.judge("x", 86, text.format(kernel="void trireme::cuda::norm<float>"))
            self.assertEqual((errors, len(ours), len(reports)), (1, 1, 1))
            errors, ours, reports = sanitizer_steps.judge("x", 86, text.format(kernel="void cublasLt::splitK<float>"))
            self.assertEqual((errors, len(ours), len(reports)), (1, 0, 1))

    def test_clean_and_refused(self):
        self.assertEqual(sanitizer_steps.judge("x", 0, "========= ERROR SUMMARY: 0 errors\n"), (0, [], []))
        self.assertEqual(sanitizer_steps.judge(
            "x", 0, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"), (0, [], []))
        for text, status in (("========= Error: Device not supported. Please refer\n", NOT_POSSIBLE),
                             ("Segmentation fault\n", FAILED)):
            with self.assertRaises(Outcome) as caught:
                sanitizer_steps.judge("x", 1, text)
            self.assertEqual(caught.exception.status, status)


class Machine(unittest.TestCase):
    def test_an_older_glibc_is_named(self):
        self.assertEqual(machine.glibc_problem(""), "")
        self.assertEqual(machine.glibc_problem("2.5"), "")
        self.assertIn("need glibc 9.99", machine.glibc_problem("9.99"))

    def test_help_and_list_need_no_gpu(self):
        self.assertEqual(subprocess.run([sys.executable, HERE / "gpu_check.py", "--help"], capture_output=True).returncode, 0)


if __name__ == "__main__":
    unittest.main()
