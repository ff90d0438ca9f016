"""Builds the extension where there is a C compiler; without one `pack` holds nothing and QPY carries all."""

import qiskit.capi
from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "qonduit_circuit_codec._native",
            ["src/qonduit_circuit_codec/_native.c"],
            include_dirs=[qiskit.capi.get_include()],
            extra_compile_args=["-O2", "-std=c11", "-Wall", "-Wextra", "-Wno-unused-variable"],
            optional=True,
        )
    ]
)
