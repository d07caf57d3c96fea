"""What the machine of a GPU check has: GPU, driver, NVIDIA's libraries and where they lie, and whether carried programs
can start on it."""

import ctypes
import glob
import json
import os
import platform
import shutil
import subprocess
import sys

# What Trireme loads when it first needs it.
LIBRARIES = {"cuBLASLt": "libcublasLt.so.13", "NCCL": "libnccl.so.2", "cuDNN": "libcudnn.so.9",
             "CUDA runtime": "libcudart.so.13"}  # the last one for cuDNN's frontend

FIND_NVIDIA_PACKAGES = """
import glob, os, nvidia
print(os.pathsep.join(sorted(d for p in nvidia.__path__ for d in glob.glob(os.path.join(p, "*", "lib")))))
"""

# Run as a process of its own, for the search path of libraries is read when a process starts.
TELL_VERSIONS = """
import ctypes, json, sys
def version(name, function, by_pointer, form):
    try:
        call = getattr(ctypes.CDLL(name), function)
        if by_pointer:
            number = ctypes.c_int()
            call(ctypes.byref(number))
            return form(number.value)
        call.restype = ctypes.c_size_t
        return form(call())
    except (OSError, AttributeError):
        return None
two = lambda n: f"{n // 10000}.{n % 10000 // 100}.{n % 100}"
print(json.dumps({
    "cuBLASLt": version("libcublasLt.so.13", "cublasLtGetVersion", False, two),
    "NCCL": version("libnccl.so.2", "ncclGetVersion", True, two),
    "cuDNN": version("libcudnn.so.9", "cudnnGetVersion", False, two),
    "CUDA of the driver": version("libcuda.so.1", "cuDriverGetVersion", True, lambda n: f"{n // 1000}.{n % 1000 // 10}"),
}))
"""


def run_text(command, timeout=60, environment=None):
    """Standard output of a command, empty when it can't be run or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def loads(library):
    try:
        ctypes.CDLL(library)
        return True
    except OSError:
        return False


def library_path(pythons):
    """LD_LIBRARY_PATH for Trireme's programs: with the folders of Python's `nvidia` packages where the system lacks one
    of the libraries, else as it is."""
    present = os.environ.get("LD_LIBRARY_PATH", "")
    if all(loads(name) for name in LIBRARIES.values()):
        return present
    for python in dict.fromkeys(pythons):
        folders = run_text([python, "-c", FIND_NVIDIA_PACKAGES]) if python else ""
        if folders:
            return os.pathsep.join(filter(None, (present, folders)))
    for folder in ("/usr/local/cuda/lib64", *glob.glob("/usr/local/cuda-*/lib64")):
        if glob.glob(os.path.join(folder, "libcublasLt.so.*")):
            return os.pathsep.join(filter(None, (present, folder)))
    return present


def has_torch(python):
    """Whether that interpreter's torch sees a GPU."""
    return bool(python) and run_text([python, "-c", "import torch; print(torch.cuda.is_available())"], 120) == "True"


def find_python_with_torch():
    """The first interpreter whose torch sees a GPU, or ''."""
    for python in dict.fromkeys((sys.executable, shutil.which("python3"), shutil.which("python"))):
        if has_torch(python):
            return python
    return ""


def find_tool(name):
    """A program of the CUDA toolkit, or ''."""
    return shutil.which(name) or next(iter(sorted(glob.glob(f"/usr/local/cuda*/bin/{name}"))), "")


def describe(environment):
    """The rows of the table's head."""
    fields = "name,memory.total,driver_version,compute_cap,power.limit"
    text = run_text(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"])
    gpus = [dict(zip(fields.split(","), map(str.strip, line.split(",")))) for line in text.splitlines() if line]
    facts = {"GPUs": len(gpus)}
    if gpus:
        facts |= {"GPU": f"{gpus[0]['name']}, {gpus[0]['memory.total']}, compute capability {gpus[0]['compute_cap']}, "
                         f"power limit {gpus[0]['power.limit']}",
                  "driver": gpus[0]["driver_version"]}
    try:
        facts |= json.loads(run_text([sys.executable, "-c", TELL_VERSIONS], environment=environment) or "{}")
    except json.JSONDecodeError:
        pass
    facts["machine"] = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, glibc {platform.libc_ver()[1]}"
    return {name: value for name, value in facts.items() if value is not None}


def compute_capability():
    """Of the first GPU, as CMake writes it ("90"), or ''."""
    text = run_text(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
    return text.splitlines()[0].strip().replace(".", "") if text else ""


def version_tuple(text):
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def glibc_problem(needed):
    """Why programs that need this version of glibc can't start here, or ''."""
    here = platform.libc_ver()[1]
    if not needed or not here or version_tuple(here) >= version_tuple(needed):
        return ""
    nvcc = find_tool("nvcc")
    way = (f"build here instead, nvcc is at {nvcc}: scripts/gpu_check --build" if nvcc else
           "build the package on a system as old as this one")
    return f"the carried programs need glibc {needed}, and this machine has {here}; {way}"
