# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""A Python runtime whose path is a flag, since .venv has no fixed place."""

def _venv_runtime_impl(ctx):
    return [PyRuntimeInfo(
        interpreter_path = ctx.build_setting_value,
        python_version = "PY3",
        stub_shebang = "#!/usr/bin/env python3",
    )]

venv_runtime = rule(
    implementation = _venv_runtime_impl,
    build_setting = config.string(flag = True),
)
