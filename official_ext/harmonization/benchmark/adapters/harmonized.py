# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""`harmonized:NAME`: the seven released harmonized networks.

Three of the released files contain complete models. Four contain only weights,
for networks of vit_keras and keras_cv_attention_models (`harmonization` 0.0.9,
`models/`). All take 224x224 pixels, standardized by ImageNet's mean and
deviation, and return 1000 logits.
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
from official_ext.harmonization.data.records import shard_download

BASE_URL = 'https://storage.googleapis.com/serrelab/prj_harmonization/models'

_PREPROCESSING = 'torch'
_RETRIES, _TIMEOUT = 5, 60.0
# EfficientNetB0 was saved with a dropout layer that accepts an open noise
# shape, which Keras's layer does by now.
_CUSTOM_OBJECTS = {'FixedDropout': tf_keras.layers.Dropout}
_LEGACY = 'TF_USE_LEGACY_KERAS'


@contextlib.contextmanager
def tensorflow_keras_2() -> Iterator[None]:
  """Replaces `tensorflow.keras` by tf_keras for the packages imported inside.

  vit_keras is written for Keras 2, but imports `tensorflow.keras`, which is
  Keras 3 in current TensorFlow.
  """
  prefix, legacy = 'tensorflow.keras', os.environ.get(_LEGACY)
  attributes: Any = vars(tf)
  keras3 = attributes['keras']
  others = {k: v for k, v in sys.modules.items() if k.startswith(prefix)}
  attributes['keras'] = sys.modules[prefix] = tf_keras
  os.environ[_LEGACY] = '1'
  try:
    yield
  finally:
    for name in [k for k in sys.modules if k.startswith(prefix)]:
      del sys.modules[name]
    sys.modules.update(others)
    attributes['keras'] = keras3
    del os.environ[_LEGACY]
    if legacy is not None:
      os.environ[_LEGACY] = legacy


class Builder(NamedTuple):
  """A function of another package that builds a network.

  Attributes:
    package: requirement for pip.
    module: name of the module that defines the function.
    function: name of the function.
    options: its keyword arguments.
  """

  package: str
  module: str
  function: str
  options: dict[str, Any]

  def __call__(self, spec: str) -> Any:
    """Builds the network, with random weights.

    Args:
      spec: the SPEC, for error messages.

    Returns:
      A model of tf_keras, or of Keras 3 if the package is written for that.

    Raises:
      ImportError: the package is not installed.
    """
    try:
      with tensorflow_keras_2():
        module = importlib.import_module(self.module)
        return getattr(module, self.function)(**self.options)
    except ImportError as e:
      raise ImportError(
        f'{spec}: the released file contains only weights; expected the '
        f'package {self.package} to build the network ({e}). Run '
        f"pip install '{self.package}'."
      ) from e


def _kecam(module: str, function: str, **options) -> Builder:
  return Builder(
    'keras-cv-attention-models',
    f'keras_cv_attention_models.{module}',
    function,
    dict(options, classifier_activation=None, pretrained=None),
  )


# Builders by name; None if the released file is a complete model.
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
  """Checks a file for `ShardDownload`: (records, problem or '')."""
  try:
    with h5py.File(path, 'r'):
      return 1, ''
  except OSError as e:  # HDF5 stores its own length.
    return 0, f'not a complete HDF5 file: {e}'


def cache_dir() -> str:
  """Returns the folder for downloaded weights."""
  home = os.path.join(os.path.expanduser('~'), '.cache')
  return os.path.join(
    os.environ.get('XDG_CACHE_HOME') or home, 'harmonization', 'models'
  )


def fetch(name: str) -> str:
  """Downloads released weights, unless they have been downloaded before.

  Args:
    name: a key of `NETWORKS`.

  Returns:
    The path of the complete file. An interrupted download resumes, and the file
    is renamed into place after it has been checked.

  Raises:
    shard_download.DownloadError: the download failed.
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

    shard_download.ShardDownload(
      f'{BASE_URL}/{file}',
      path,
      _TIMEOUT,
      progress,
      threading.Event(),
      _read_hdf5,
    ).fetch(None, _RETRIES)
  return path


def _fetched(spec: str, name: str) -> str:
  """As `fetch`, with an error that names the SPEC."""
  try:
    return fetch(name)
  except shard_download.DownloadError as e:
    raise ConnectionError(
      f'{spec}: {e}. If you have the file, name it with ?weights=FILE.'
    ) from e


def lookup(spec: str, target: str) -> Builder | None:
  """Returns what builds a network; None if its file is a complete model.

  Args:
    spec: the SPEC, for error messages.
    target: a key of `NETWORKS`.

  Raises:
    ValueError: the network is unknown.
  """
  choices.require(f'{spec}: the harmonized network', target, NETWORKS)
  return NETWORKS[target]


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
    spec: the SPEC, for error messages.
    target: a key of `NETWORKS`.
    name: for tables; '<target> (harmonized)' by default.
    weights: path of the file; downloaded by default.
    preprocessing: a name or a `Preprocessing`; 'torch' by default, with which
      the networks were trained.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: the file does not exist.
    ConnectionError: the file cannot be downloaded.
    ImportError: the package that builds the network is not installed.
    ValueError: the network is unknown, or the file does not fit it.
  """
  builder = lookup(spec, target)
  # Before the download, so that a missing package is reported first.
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
        f'{spec}: {path} does not contain weights of this network: {e}'
      ) from e
  return keras_file.wrap(
    spec,
    model,
    name or f'{target} (harmonized)',
    preprocessing or _PREPROCESSING,
    None,
  )
