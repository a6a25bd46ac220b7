"""The compiled kernel, built where there is a C compiler. All else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))

from agent.kernel import digest, sources


class BuildBeside(build_ext):
    """Puts what was built beside its sources without writing into a file that a running agent has mapped."""

    def copy_extensions_to_source(self):
        """Called by an editable install."""
        for old in Path("agent/kernel").glob("_kernel*.so"):
            old.unlink()
        super().copy_extensions_to_source()


files = [path.relative_to(Path(__file__).parent).as_posix() for path in sources()]
setup(
    cmdclass={"build_ext": BuildBeside},
    ext_modules=[
        Extension(
            "agent.kernel._kernel",
            [name for name in files if name.endswith(".c")],
            depends=files,
            define_macros=[("NODETAP_SOURCE", f"{digest()}u")],
            extra_compile_args=["-std=c11", "-O3", "-fwrapv", "-fvisibility=hidden"],
            optional=True,
        )
    ],
)
