"""The compiled kernel, built where there is a C compiler. All else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).parent))

from agent.kernel import digest, sources

files = [path.relative_to(Path(__file__).parent).as_posix() for path in sources()]
setup(
    ext_modules=[
        Extension(
            "agent.kernel._kernel",
            [name for name in files if name.endswith(".c")],
            depends=files,
            define_macros=[("NODETAP_SOURCE", f"{digest()}u")],
            extra_compile_args=["-std=c11", "-O3", "-fwrapv", "-fvisibility=hidden"],
            optional=True,
        )
    ]
)
