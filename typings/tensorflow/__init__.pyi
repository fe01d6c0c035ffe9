# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0
# TensorFlow has no type information. Pyright bundles stubs that others wrote;
# they cover a part of it, with types too narrow for code that runs.
from typing import Any

def __getattr__(name: str) -> Any: ...
