"""Where the programs of a GPU check come from: a package of scripts/gpu_package, a build tree, or a build made here."""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

import machine

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ARCHIVE = ROOT / "programs.tar.xz"  # in a package
TREE = ROOT / "build-cuda"

PROGRAMS = ("trireme", "trireme_step_bench", "trireme_op_bench", "tests/unit_tests", "tests/oracle_tests",
            "tests/parallel_tests", "tests/comm_mpi_test", "tests/oracle_mpi_test", "tests/expert_speed",
            "tests/checkpoint_speed")


class Unusable(Exception):
    """The programs can't be had or can't start; the message says what to do."""


class Programs:
    def __init__(self, folder, commit):
        self.folder, self.commit = pathlib.Path(folder), commit

    def path(self, name):
        """Of a program by its last name; Unusable when it isn't there."""
        for program in PROGRAMS:
            if program.rpartition("/")[2] == name and (self.folder / program).exists():
                return str(self.folder / program)
        raise Unusable(f"{self.folder} has no program {name}")

    def mpirun(self):
        """(mpirun, variables for it): the carried one, which fits the programs, else the system's; None without one."""
        variables = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        prefix = self.folder / "mpi"
        if (prefix / "bin" / "mpirun").exists():
            # Open MPI was built for another place; these say where it lies now.
            variables |= {"OPAL_PREFIX": str(prefix), "OPAL_LIBDIR": str(prefix / "lib"),
                          "OPAL_PKGLIBDIR": str(prefix / "lib" / "openmpi3"),
                          "OPAL_PKGDATADIR": str(prefix / "share" / "openmpi"),
                          "PMIX_INSTALL_PREFIX": str(prefix / "pmix"), "PMIX_PREFIX": str(prefix / "pmix")}
            return str(prefix / "bin" / "mpirun"), variables
        return shutil.which("mpirun"), variables

    def check_start(self, environment):
        """Unusable when the program doesn't start here."""
        done = subprocess.run([self.path("trireme"), "--help"], capture_output=True, text=True, env=environment,
                              timeout=120)
        if done.returncode != 0:
            raise Unusable(f"{self.path('trireme')} doesn't start on this machine (exit status {done.returncode}): "
                           f"{done.stderr.strip()[-500:]}")

    def check_gpu(self, environment):
        """Unusable when the program can use no GPU."""
        text = subprocess.run([self.path("trireme"), "doctor"], capture_output=True, text=True, env=environment,
                              timeout=120).stdout
        if not re.search(r"cuda:\d+ ", text):
            reason = re.search(r"devices +(.*)", text)
            raise Unusable(f"no GPU: {reason.group(1).partition(';')[0] if reason else text.strip()[-300:]}")


def git_commit():
    """Of the tree, with a mark when files differ from it; '' outside of git."""
    commit = machine.run_text(["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"])
    if not commit:
        return ""
    changed = machine.run_text(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return commit + (" with changes" if changed else "")


def unpack(archive):
    """The archive's contents, in a folder that later calls find again."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:16]
    folder = pathlib.Path(tempfile.gettempdir()) / f"trireme-gpu-{digest}"
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive, "r:xz") as tar:
            tar.extractall(folder, **({"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}))
        (folder / "complete").touch()
    return folder


def build():
    """Builds the CUDA programs for this machine's GPU."""
    nvcc = machine.find_tool("nvcc")
    if not nvcc:
        raise Unusable("nvcc was not found: apt-get install cuda-toolkit (NVIDIA's repository), or run a package that "
                       "scripts/gpu_package made on another machine")
    environment = dict(os.environ, PATH=os.path.dirname(nvcc) + os.pathsep + os.environ["PATH"],
                       CCACHE_NOHASHDIR="1")
    architecture = machine.compute_capability() or "90"
    targets = [program.rpartition("/")[2] for program in PROGRAMS]
    for command in ([str(ROOT / "scripts" / "setup")],
                    ["cmake", "--preset", "cuda", f"-DCMAKE_CUDA_ARCHITECTURES={architecture}"],
                    ["cmake", "--build", "--preset", "cuda", "-j", str(os.cpu_count()), "--target", *targets]):
        print("+ " + " ".join(command), file=sys.stderr, flush=True)
        if subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr).returncode != 0:
            raise Unusable(f"{command[0]} failed (see above)")


def find(options):
    """The programs to check, by the options of gpu_check."""
    if options.programs:
        return Programs(options.programs, options.commit or git_commit())
    if ARCHIVE.exists() and not options.build:
        manifest = json.loads((ROOT / "MANIFEST.json").read_text())
        problem = machine.glibc_problem(manifest.get("glibc", ""))
        if problem:
            raise Unusable(problem)
        return Programs(unpack(ARCHIVE), options.commit or manifest.get("commit", ""))
    if options.build or not all((TREE / program).exists() for program in PROGRAMS):
        build()
    return Programs(TREE, options.commit or git_commit())
