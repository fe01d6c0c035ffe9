# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The authors' released package, for tests that compare with it.

`harmonization` 0.0.9 requires packages that are no longer maintained, so its
modules are loaded one by one, without any __init__, from a folder that is not
on the path.
"""

import importlib
import os
import sys
import types
from unittest import mock

import tensorflow as tf
import tf_keras

from testing import optional


def load(name: str) -> types.ModuleType:
  """Imports `harmonization.<name>`.

  Raises:
    unittest.SkipTest: the package is not installed.
  """
  folder = optional.folder('harmonization')
  # The package was written for Keras 2, which is now called tf_keras.
  with mock.patch.dict(sys.modules), mock.patch.object(tf, 'keras', tf_keras):
    for parent in ('harmonization', f'harmonization.{name.split(".")[0]}'):
      sys.modules[parent] = types.ModuleType(parent)
      sys.modules[parent].__path__ = [
        os.path.join(folder, parent.replace('.', os.sep))
      ]
    return importlib.import_module(f'harmonization.{name}')
