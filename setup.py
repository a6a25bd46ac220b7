"""The compiled kernels, built where there is a C compiler. All else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))

from protocol.built import digest, sources

ROOT = Path(__file__).parent
FOLDERS = ("agent/kernel", "protocol/kernel")


class BuildBeside(build_ext):
    """Puts what was built beside its sources without writing into a file that a running program has mapped."""

    def copy_extensions_to_source(self):
        """Called by an editable install."""
        for old in [old for folder in FOLDERS for old in Path(folder).glob("_kernel*.so")]:
            old.unlink()
        super().copy_extensions_to_source()


def kernel(folder):
    """What is built of a folder's sources."""
    files = [path.relative_to(ROOT).as_posix() for path in sources(ROOT / folder)]
    return Extension(
        f"{folder.replace('/', '.')}._kernel",
        [name for name in files if name.endswith(".c")],
        depends=files,
        define_macros=[("NODETAP_SOURCE", f"{digest(ROOT / folder)}u")],
        extra_compile_args=["-std=c11", "-O3", "-fwrapv", "-fvisibility=hidden", "-pthread"],
        extra_link_args=["-pthread"],
        optional=True,
    )


setup(cmdclass={"build_ext": BuildBeside}, ext_modules=[kernel(folder) for folder in FOLDERS])
