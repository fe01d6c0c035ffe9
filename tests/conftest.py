"""What pytest does between test files. (Bazel gives each a process.)"""

import gc

import pytest
import tf_keras


@pytest.fixture(scope='module', autouse=True)
def forget_the_last_file():
  """Frees networks and traced functions: more of them make all slower."""
  yield
  tf_keras.backend.clear_session()
  gc.collect()
