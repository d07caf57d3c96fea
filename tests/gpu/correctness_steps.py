"""Steps of part `tests`: the test programs on the GPU."""

import re

from runner import NOT_POSSIBLE, FAILED, Outcome, Step, run_google_tests, tail


def doctor(runner, timeout):
    """The program starts and sees a GPU."""
    status, text = runner.command([runner.programs.path("trireme"), "doctor"], timeout)
    gpus = re.findall(r"cuda:\d+ +(.*)", text)
    if not gpus:
        reason = re.search(r"devices +(.*)", text)
        raise Outcome(FAILED, f"no GPU: {reason.group(1) if reason else tail(text, 2)}")
    if status != 0:
        raise Outcome(FAILED, tail(text, 3))
    return f"{len(gpus)} × {gpus[0]}", dict(gpus=len(gpus))


def tests_of(program, test_filter):
    def body(runner, timeout):
        return run_google_tests(runner, [runner.programs.path(program), f"--gtest_filter={test_filter}"], timeout)
    return body


def mpi_command(runner, ranks, command):
    """(the command on so many ranks of this machine, variables for it)."""
    mpirun, variables = runner.programs.mpirun()
    if not mpirun:
        raise Outcome(NOT_POSSIBLE, "mpirun was not found (openmpi-bin)")
    return [mpirun, "--oversubscribe", "--bind-to", "none", "-np", ranks, *command], variables


def under_mpi(program, ranks, arguments):
    """The program on `ranks` processes; rank 0's GoogleTest lines are what is counted."""
    def body(runner, timeout):
        command, variables = mpi_command(runner, ranks, [runner.programs.path(program), *arguments])
        status, text = runner.command(command, timeout, variables)
        passed = re.search(r"PASSED.*?(\d+) test", text)
        if status != 0 or not passed or int(passed.group(1)) == 0:
            raise Outcome(FAILED, f"exit status {status}: {tail(text, 3)}")
        return f"{passed.group(1)} tests passed", dict(passed=int(passed.group(1)))
    return body


def steps():
    return [
        Step("the program sees the GPU", "tests", 120, 5, doctor),
        Step("op tests", "tests", 300, 20, tests_of("unit_tests", "*Cuda*")),
        Step("golden cases against PyTorch in fp64", "tests", 240, 20, tests_of("oracle_tests", "*_cuda")),
        Step("training: resume, repeats, recomputation, precisions", "tests", 240, 20,
             tests_of("parallel_tests", "*Training*:*Resume*:*Precisions*")),
        Step("NCCL conformance, a rank for each GPU", "tests", 180, 20, tests_of("parallel_tests", "*NcclOnGpus*")),
        Step("MPI conformance, two ranks with GPU tensors", "tests", 120, 20,
             under_mpi("comm_mpi_test", 2, ["--gpu", "--gtest_filter=-MpiLarge.*:*MpiEngine*"])),
        Step("golden cases, two ranks on GPUs through MPI", "tests", 120, 20,
             under_mpi("oracle_mpi_test", 2, ["--gpu"])),
    ]
