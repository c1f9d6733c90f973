# SPDX-License-Identifier: MIT
"""Make the virtual environment that the other commands use: `python3
tools/install.py .venv`.

Runs before anything is installed, with whatever Python there is, so it uses the
standard library alone.
"""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
import venv

NEEDED = (3, 11)
TORCH_CPU = "https://download.pytorch.org/whl/cpu"


def reachable(url):
    """Whether a package index answers within a few seconds; a machine behind a
    closed network must not hang.
    """
    try:
        with urllib.request.urlopen(url + "/torch/", timeout=5):
            return True
    except (OSError, ValueError):
        return False


def main():
    if sys.version_info < NEEDED:
        sys.exit(
            "The book's tools need Python {}.{} or newer; this is {}.{}."
            " Install a newer one and name it: make book PYTHON=python3.12\n"
            "(The package alone runs on 3.10: pip install .)".format(
                *NEEDED, *sys.version_info[:2]
            )
        )
    folder = sys.argv[1]
    start = time.time()
    print(f"Installing into {folder} ...", flush=True)
    builder = venv.EnvBuilder(with_pip=True, clear=os.path.isdir(folder))
    try:
        builder.create(folder)
    except subprocess.CalledProcessError:
        sys.exit(
            "Python cannot make a virtual environment here; on Debian and"
            " Ubuntu: apt install python3-venv"
        )
    python = os.path.join(folder, "bin", "python")
    pip = [python, "-m", "pip", "install", "--quiet"]
    pip += ["--disable-pip-version-check"]
    options = []
    # Linux without an NVIDIA GPU: the CPU build of torch is hundreds of
    # megabytes, the default one gigabytes
    if sys.platform == "linux" and not shutil.which("nvidia-smi"):
        if reachable(TORCH_CPU):
            options = ["--extra-index-url", TORCH_CPU]
        else:
            print(
                "PyTorch's own index cannot be reached: torch comes from the"
                " package index, which may take gigabytes."
            )
    subprocess.check_call([*pip, *options, "-r", "requirements.txt"])
    subprocess.check_call([*pip, "--no-deps", "--editable", "."])
    with open(os.path.join(folder, ".ready"), "w"):
        pass
    print(f"Installed in {time.time() - start:.0f} s.", flush=True)


if __name__ == "__main__":
    main()
