# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""`timm:NAME` and `torchvision:NAME`: networks of these collections."""

from typing import Any

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import packages
from official_ext.harmonization.benchmark.adapters import preprocessing as pre
from official_ext.harmonization.benchmark.adapters import torch_module
from official_ext.harmonization.benchmark.adapters import torch_weights

# Values of the option `weights` that do not name a file.
_RELEASED, _RANDOM = 'pretrained', 'none'


def _wrap(
  spec: str,
  module: Any,
  name: str,
  weights: str,
  weights_key: str,
  prepare: pre.Preprocessing,
  preprocessing: pre.Choice | None,
  size: tuple[int, int],
) -> base.Adapter:
  """Makes an adapter whose default preprocessing is the collection's."""
  if weights not in (_RELEASED, _RANDOM):
    torch_weights.load(spec, module, weights, weights_key)
  return torch_module.TorchAdapter(
    spec,
    name,
    size,
    pre.get(preprocessing) if preprocessing else pre.recognize(prepare),
    module,
  )


def lookup_timm(spec: str, target: str):
  """Checks the name of a network of timm.

  Args:
    spec: the SPEC, for error messages.
    target: name of the network, or hf-hub:NAME for one that timm downloads.

  Raises:
    ImportError: timm is not installed.
    ValueError: the network is unknown.
  """
  timm = packages.require(spec, 'timm')
  if ':' not in target and not timm.is_model(target):
    choices.require(
      f'{spec}: the network',
      target,
      timm.list_models(),
      'the names that timm.list_models() returns',
    )


def lookup_torchvision(spec: str, target: str):
  """Checks the name of a network of torchvision.

  Args:
    spec: the SPEC, for error messages.
    target: name of the network.

  Raises:
    ImportError: torchvision is not installed.
    ValueError: the network is unknown.
  """
  models = packages.require(spec, 'torchvision.models')
  # get_model of torchvision accepts any case.
  choices.require(
    f'{spec}: the network',
    target.lower(),
    models.list_models(),
    'the names that torchvision.models.list_models() returns',
  )


def build_timm(
  spec: str,
  target: str,
  *,
  name: str | None = None,
  weights: str = _RELEASED,
  preprocessing: pre.Choice | None = None,
  input_size: tuple[int, int] | None = None,
  weights_key: str = '',
) -> base.Adapter:
  """Builds the adapter of a network of timm.

  Args:
    spec: the SPEC, for error messages.
    target: name of the network.
    name: for tables; the network's name by default.
    weights: 'pretrained' (downloaded by timm), 'none' for random weights, or a
      file of weights.
    preprocessing: a name or a `Preprocessing`. By default the mean and
      deviation in timm's configuration of the network.
    input_size: height and width; those in timm's configuration by default.
    weights_key: selects one of several sets of weights, see
      `torch_weights.load`.

  Returns:
    The adapter.

  Raises:
    ImportError: timm is not installed.
    ValueError: the network is unknown, or cannot be scored.
  """
  lookup_timm(spec, target)
  timm = packages.require(spec, 'timm')
  data = packages.require(spec, 'timm.data')
  try:
    module = timm.create_model(target, pretrained=weights == _RELEASED)
  except Exception as e:  # Unknown weights, or a failed download.
    raise base.Unscorable(f'{spec}: {e}.') from e
  config = data.resolve_model_data_config(module)
  return _wrap(
    spec,
    module,
    name or target,
    weights,
    weights_key,
    pre.scaled('timm', config['mean'], config['std']),
    preprocessing,
    input_size or config['input_size'][1:],
  )


def build_torchvision(
  spec: str,
  target: str,
  *,
  name: str | None = None,
  weights: str = _RELEASED,
  preprocessing: pre.Choice | None = None,
  input_size: tuple[int, int] | None = None,
  weights_key: str = '',
) -> base.Adapter:
  """Builds the adapter of a network of torchvision.

  Args:
    spec: the SPEC, for error messages.
    target: name of the network.
    name: for tables; the network's name by default.
    weights: 'pretrained' (the network's default weights, downloaded by
      torchvision), 'none' for random weights, or a file of weights.
    preprocessing: a name or a `Preprocessing`. By default the mean and
      deviation of the default weights.
    input_size: height and width; those of the default weights by default.
    weights_key: selects one of several sets of weights, see
      `torch_weights.load`.

  Returns:
    The adapter.

  Raises:
    ImportError: torchvision is not installed.
    ValueError: the network is unknown, or cannot be scored.
  """
  lookup_torchvision(spec, target)
  models = packages.require(spec, 'torchvision.models')
  try:
    default = models.get_model_weights(target).DEFAULT
    module = models.get_model(
      target, weights=default if weights == _RELEASED else None
    )
  except Exception as e:  # Unknown weights, or a failed download.
    raise base.Unscorable(f'{spec}: {e}.') from e
  transforms = default.transforms()
  crop = transforms.crop_size
  return _wrap(
    spec,
    module,
    name or target,
    weights,
    weights_key,
    pre.scaled('torchvision', transforms.mean, transforms.std),
    preprocessing,
    input_size or (crop[0], crop[-1]),
  )
