# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Draws a network's weights anew: the untrained twin of a trained network.

Architecture, preprocessing, input size and outputs stay the same. Statistics of
batch normalization return to mean 0 and variance 1, as in a network before
training. Draws depend only on the seed, and leave global seeds as they are.

A weight whose layer does not reveal its initializer is set by one rule: arrays
of two or more dimensions are drawn from a normal distribution of standard
deviation 0.02, as usual in transformers; vectors and numbers become 1 if their
name ends with weight, gamma, scale or variance, and 0 otherwise.
"""

from collections.abc import Iterator
import re
from typing import Any

from absl import logging
import numpy as np
import tensorflow as tf

from official_ext.harmonization import choices

_STDDEV = 0.02
_ONES = re.compile('(weight|gamma|scale|variance)$')
# Initializers without chance. Others are used if their configuration has a
# seed, which then determines the draw.
_CONSTANT = ('Zeros', 'Ones', 'Constant', 'Identity', 'IdentityInitializer')
# Layers whose weights are statistics of the pixels: part of the preprocessing.
_STATISTICS = ('Normalization',)
# Methods by which PyTorch's modules draw their own parameters.
_RESETS = ('reset_parameters', '_reset_parameters')


# The last layer with weights, the last half of these layers, and all of them.
PARTS = ('head', 'half', 'all')


class Unavailable(ValueError):
  """Weights cannot be drawn anew; the message says why, in one sentence."""


def kept_layers(part: str, layers: int) -> int:
  """Returns how many layers, from the first on, keep their weights.

  Args:
    part: which are drawn anew, one of `PARTS`.
    layers: number of layers with weights.

  Raises:
    ValueError: the part is unknown.
  """
  choices.require('part', part, PARTS)
  return {'head': layers - 1, 'half': layers // 2, 'all': 0}[part]


def _by_rule(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
  """Returns float32 values for a weight without an initializer."""
  if len(shape) > 1:
    return _STDDEV * np.random.default_rng(seed).standard_normal(
      shape, np.float32
    )
  return np.full(shape, float(bool(_ONES.search(name))), np.float32)


def _log(spec: str, names: list[str]):
  if names:
    logging.info(
      '%s: %d weights without an initializer were set by a rule: %s',
      spec,
      len(names),
      ', '.join(names),
    )


def _attribute(layer: Any, variable: Any) -> str | None:
  """Returns the name of a layer's attribute that holds a variable."""
  for name, value in vars(layer).items():
    if value is variable:
      return name.lstrip('_')
  return None


def _initializer(layer: Any, variable: Any) -> Any | None:
  """Returns a layer's initializer of a variable, if known."""
  attribute = _attribute(layer, variable)
  if attribute is None:
    return None
  # depthwise_kernel has depthwise_initializer, as in separable convolutions.
  names = [attribute, attribute.removesuffix('_kernel')]
  for name in names:
    for candidate in (f'{name}_initializer', f'_{name}_initializer'):
      found = getattr(layer, candidate, None)
      if callable(found) and hasattr(found, 'get_config'):
        return found
  return None


def _seeded(initializer: Any, seed: int) -> Any | None:
  """Returns a copy of an initializer with a seed; None if it ignores seeds."""
  config = initializer.get_config()
  if 'seed' in config:
    return type(initializer).from_config({**config, 'seed': seed})
  if type(initializer).__name__ in _CONSTANT:
    return initializer
  return None


def _layers(model: Any) -> Iterator[Any]:
  """Yields a Keras model and all layers in it, each once."""
  seen = set()
  for module in (model, *model._flatten_layers(include_self=False)):
    if id(module) not in seen:
      seen.add(id(module))
      yield module


def keras_layers(model: Any) -> list[dict[int, np.ndarray]]:
  """Copies the weights of a model of Keras, layer by layer.

  Args:
    model: of tf_keras or Keras 3.

  Returns:
    For each layer with weights, in the order in which the model lists them,
    copies by the weight's index in `model.weights`.
  """
  owners = _owners(model)
  found: dict[int, dict[int, np.ndarray]] = {}
  for index, variable in enumerate(model.weights):
    # A weight without a known layer counts as a layer.
    layer = owners.get(id(variable), variable)
    copy = np.array(variable.numpy())
    found.setdefault(id(layer), {})[index] = copy
  return list(found.values())


def _owners(model: Any) -> dict[int, Any]:
  """Returns the layer of each weight, by the weight's id."""
  return {
    id(variable): layer
    for layer in _layers(model)
    for variable in vars(layer).values()
    if isinstance(variable, tf.Variable) or hasattr(variable, 'assign')
  }


def redraw_keras(spec: str, model: Any, seed: int):
  """Draws the weights of a model of tf_keras or Keras 3 anew, in place.

  Args:
    spec: the SPEC, for messages.
    model: whose weights change.
    seed: each weight has its own seed, derived from this one.

  Raises:
    Unavailable: the model is not one of Keras, or has no weights.
  """
  if not hasattr(model, '_flatten_layers') or not model.weights:
    raise Unavailable(
      f'{spec}: the layers that drew its weights are unknown; expected a model '
      'of Keras with weights.'
    )
  owners = _owners(model)
  kept = {
    id(variable)
    for layer in _layers(model)
    if type(layer).__name__ in _STATISTICS
    for variable in layer.weights
  }
  by_rule = []
  for index, variable in enumerate(model.weights):
    if id(variable) in kept or not tf.as_dtype(variable.dtype).is_floating:
      continue
    drawn = int(np.random.SeedSequence((seed, index)).generate_state(1)[0] >> 1)
    layer = owners.get(id(variable))
    initializer = layer and _initializer(layer, variable)
    initializer = initializer and _seeded(initializer, drawn)
    shape = tuple(variable.shape)
    name = getattr(variable, 'path', variable.name).partition(':')[0]
    if initializer:
      values = np.asarray(initializer(shape, dtype='float32'))
    else:
      by_rule.append(name)
      values = _by_rule(name, shape, drawn)
    variable.assign(tf.cast(values, variable.dtype))
  _log(spec, by_rule)


def torch_layers(module: Any) -> list[dict[str, Any]]:
  """Copies parameters and buffers of a PyTorch module, layer by layer.

  Args:
    module: the network.

  Returns:
    For each submodule that has parameters or buffers itself, in the order in
    which the module lists them, copies by name.
  """
  found = []
  tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
  for prefix, _ in module.named_modules():
    own = {
      name: tensor.detach().clone()
      for name, tensor in tensors.items()
      if name.rpartition('.')[0] == prefix
    }
    if own:
      found.append(own)
  return found


def redraw_torch(spec: str, torch: Any, module: Any, seed: int):
  """Draws the parameters of a PyTorch module anew, in place.

  Each submodule with `reset_parameters` draws its own, which are PyTorch's
  defaults; a network's own initialization, such as that of its constructor, is
  not repeated. Buffers change only where `reset_parameters` resets them.

  Args:
    spec: the SPEC, for messages.
    torch: the package.
    module: whose parameters change; it is drawn on the CPU, so that draws do
      not depend on the device.
    seed: of all draws.

  Raises:
    Unavailable: no submodule can reset its parameters, as in TorchScript and
      exported programs.
  """
  reset = {
    name: child
    for name, child in module.named_modules()
    if not isinstance(child, torch.jit.ScriptModule)
    and any(callable(getattr(child, r, None)) for r in _RESETS)
  }
  if isinstance(module, torch.jit.ScriptModule) or not reset:
    raise Unavailable(
      f'{spec}: its modules do not have reset_parameters, as in TorchScript '
      'and exported programs; expected the original torch.nn.Module.'
    )
  device = next((p.device for p in module.parameters()), torch.device('cpu'))
  module.cpu()
  versions = {n: p._version for n, p in module.named_parameters()}
  with torch.random.fork_rng(devices=[]), torch.no_grad():
    torch.random.default_generator.manual_seed(seed)
    for child in reset.values():
      for method in _RESETS:
        if callable(getattr(child, method, None)):
          getattr(child, method)()
          break
    by_rule = []
    for index, (name, parameter) in enumerate(module.named_parameters()):
      # In-place operations count up a tensor's version.
      if parameter._version != versions[name]:
        continue
      by_rule.append(name)
      drawn = np.random.SeedSequence((seed, index)).generate_state(1)[0]
      values = _by_rule(name, tuple(parameter.shape), int(drawn))
      parameter.copy_(torch.from_numpy(np.asarray(values)))
  for parameter in module.parameters():
    parameter.requires_grad_(False)
  module.to(device)
  _log(spec, by_rule)
