"""`timm:NAME` and `torchvision:NAME`: networks of two collections."""

from typing import Any

from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import packages
from official_ext.harmonization.benchmark.adapters import preprocessing as pre
from official_ext.harmonization.benchmark.adapters import torch_module
from official_ext.harmonization.benchmark.adapters import torch_weights

# Values of `weights` that are no file.
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
  """Makes an adapter of a collection's module, which knows what it wants."""
  if weights not in (_RELEASED, _RANDOM):
    torch_weights.load(spec, module, weights, weights_key)
  return torch_module.TorchAdapter(
    spec,
    name,
    size,
    pre.get(preprocessing) if preprocessing else pre.recognize(prepare),
    module,
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
    spec: as the user wrote it.
    target: the network's name.
    name: for tables; the network's by default.
    weights: 'pretrained' (which timm downloads), 'none' for random ones, or a
      file of weights.
    preprocessing: its name, or itself. By default the mean and deviation that
      timm keeps with the network.
    input_size: height and width; by default those of timm.
    weights_key: which of several weights in the file, see `torch_weights.load`.

  Returns:
    The adapter.

  Raises:
    ImportError: timm is not installed.
    ValueError: there is no such network, or it cannot be scored.
  """
  timm = packages.require(spec, 'timm')
  data = packages.require(spec, 'timm.data')
  try:
    module = timm.create_model(target, pretrained=weights == _RELEASED)
  except Exception as e:  # downloads too
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
    spec: as the user wrote it.
    target: the network's name.
    name: for tables; the network's by default.
    weights: 'pretrained' (its default ones, which torchvision downloads),
      'none' for random ones, or a file of weights.
    preprocessing: its name, or itself. By default the mean and deviation that
      torchvision keeps with the default weights.
    input_size: height and width; by default those of the default weights.
    weights_key: which of several weights in the file, see `torch_weights.load`.

  Returns:
    The adapter.

  Raises:
    ImportError: torchvision is not installed.
    ValueError: there is no such network, or it cannot be scored.
  """
  models = packages.require(spec, 'torchvision.models')
  try:
    default = models.get_model_weights(target).DEFAULT
    module = models.get_model(
      target, weights=default if weights == _RELEASED else None
    )
  except Exception as e:  # downloads too
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
