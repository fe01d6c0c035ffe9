"""`harmonized:NAME`: the seven harmonized networks that were released.

Three files hold whole models; four hold weights alone, for networks of
vit_keras and keras_cv_attention_models (`harmonization` 0.0.9, `models/`). All
take 224x224 pixels and ImageNet's mean and deviation, and give 1000 logits.
"""

from collections.abc import Iterator
import contextlib
import importlib
import os
import sys
import threading
from typing import Any, NamedTuple

import h5py
import tensorflow as tf
import tf_keras
import tqdm

from official_ext.harmonization import choices
from official_ext.harmonization import resources
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import keras_file
from official_ext.harmonization.benchmark.adapters import keras_models
from official_ext.harmonization.benchmark.adapters import preprocessing as pre
from official_ext.harmonization.data.records import http_shard

BASE_URL = 'https://storage.googleapis.com/serrelab/prj_harmonization/models'

_PREPROCESSING = 'torch'
_RETRIES, _TIMEOUT = 5, 60.0
# EfficientNetB0 was built with a dropout whose noise shape may be open, as
# that of Keras may be today.
_CUSTOM_OBJECTS = {'FixedDropout': tf_keras.layers.Dropout}
_LEGACY = 'TF_USE_LEGACY_KERAS'


@contextlib.contextmanager
def _tensorflow_keras_2() -> Iterator[None]:
  """While it lasts, `tensorflow.keras` is tf_keras and not Keras 3."""
  prefix, keras3, legacy = 'tensorflow.keras', tf.keras, os.environ.get(_LEGACY)
  others = {k: v for k, v in sys.modules.items() if k.startswith(prefix)}
  tf.keras = sys.modules[prefix] = tf_keras
  os.environ[_LEGACY] = '1'
  try:
    yield
  finally:
    for name in [k for k in sys.modules if k.startswith(prefix)]:
      del sys.modules[name]
    sys.modules.update(others)
    tf.keras = keras3
    del os.environ[_LEGACY]
    if legacy is not None:
      os.environ[_LEGACY] = legacy


class Builder(NamedTuple):
  """What builds the network that a file of weights is for.

  Attributes:
    package: as pip knows it.
    module: that holds the function.
    function: its name.
    options: of the function.
  """

  package: str
  module: str
  function: str
  options: dict[str, Any]

  def __call__(self, spec: str) -> Any:
    """Builds the network, with random weights.

    Args:
      spec: as the user wrote it, for errors.

    Returns:
      A model of tf_keras, or of Keras 3 where the package is written for that.

    Raises:
      ImportError: the package is not installed.
    """
    try:
      with _tensorflow_keras_2():
        module = importlib.import_module(self.module)
        return getattr(module, self.function)(**self.options)
    except ImportError as e:
      raise ImportError(
        f'{spec}: its file holds weights alone, and {self.package} builds '
        f"the network: pip install '{self.package}' ({e})."
      ) from e


def _kecam(module: str, function: str, **options) -> Builder:
  return Builder(
    'keras-cv-attention-models',
    f'keras_cv_attention_models.{module}',
    function,
    dict(options, classifier_activation=None, pretrained=None),
  )


# Names to builders; None where the file holds a whole model.
NETWORKS = {
  'vgg16': None,
  'resnet50v2': None,
  'efficientnetB0': None,
  'vit-b16': Builder(
    'vit-keras>=0.2',
    'vit_keras.vit',
    'vit_b16',
    dict(
      image_size=224,
      activation='linear',
      pretrained=False,
      include_top=True,
      pretrained_top=False,
    ),
  ),
  'convnext_tiny': _kecam('convnext', 'ConvNeXtTiny'),
  'maxvit_tiny': _kecam('maxvit', 'MaxViT_Tiny'),
  'levit_small': _kecam('levit', 'LeViT128', use_distillation=False),
}


def _read_hdf5(path: str) -> tuple[int, str]:
  """Says whether a file is whole HDF5, as `http_shard.Shard` asks."""
  try:
    with h5py.File(path, 'r'):
      return 1, ''
  except OSError as e:  # HDF5 knows how long it should be.
    return 0, f'no whole HDF5 file: {e}'


def cache_dir() -> str:
  """Returns the folder that weights are downloaded to."""
  home = os.path.join(os.path.expanduser('~'), '.cache')
  return os.path.join(
    os.environ.get('XDG_CACHE_HOME') or home, 'harmonization', 'models'
  )


def fetch(name: str) -> str:
  """Downloads released weights, unless they are there.

  Args:
    name: of the network.

  Returns:
    The path of the file, which is whole: a download is checked, goes on where
    it was, and stands under its name only at its end.

  Raises:
    http_shard.DownloadError: they cannot be had.
  """
  file = f'{name}_harmonized.h5'
  path = os.path.join(cache_dir(), file)
  if os.path.exists(path):
    return path
  os.makedirs(cache_dir(), exist_ok=True)
  with tqdm.tqdm(
    desc=file, total=0, unit='B', unit_scale=True, disable=None
  ) as bar:

    def progress(size, total):
      bar.total += total
      bar.update(size)

    http_shard.Shard(
      f'{BASE_URL}/{file}',
      path,
      _TIMEOUT,
      progress,
      threading.Event(),
      _read_hdf5,
    ).fetch(None, _RETRIES)
  return path


def _fetched(spec: str, name: str) -> str:
  """Fetches weights for a SPEC."""
  try:
    return fetch(name)
  except http_shard.DownloadError as e:
    raise ConnectionError(
      f'{spec}: {e}. Where the file is here already, write ?weights=FILE.'
    ) from e


def build(
  spec: str,
  target: str,
  *,
  name: str | None = None,
  weights: str = '',
  preprocessing: pre.Choice | None = None,
) -> base.Adapter:
  """Builds the adapter.

  Args:
    spec: as the user wrote it.
    target: the network's name, one of `NETWORKS`.
    name: for tables; the network's, and that it is harmonized, by default.
    weights: the file, where it is not to be downloaded.
    preprocessing: its name, or itself. By default that of their training,
      'torch'.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: the file is not there.
    ConnectionError: it cannot be downloaded.
    ImportError: the package that builds the network is not installed.
    ValueError: there is no such network, or the file is not of it.
  """
  choices.require(f'{spec}: the harmonized network', target, NETWORKS)
  builder = NETWORKS[target]
  # A package that is missing is told before the download.
  model = builder and builder(spec)
  path = resources.working_path(weights) if weights else _fetched(spec, target)
  if not os.path.exists(path):
    raise FileNotFoundError(f'{spec}: {path} does not exist.')
  if not builder:
    model = keras_models.load(path, _CUSTOM_OBJECTS)
  else:
    try:
      model.load_weights(path)
    except (OSError, ValueError) as e:
      raise ValueError(
        f'{spec}: {path} holds no weights of this network: {e}'
      ) from e
  return keras_file.wrap(
    spec,
    model,
    name or f'{target} (harmonized)',
    preprocessing or _PREPROCESSING,
    None,
  )
