# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""`torch:PACKAGE.FUNCTION`: a PyTorch module, gradients by autograd."""

from collections.abc import Iterator
import contextlib
import inspect
from typing import Any

import numpy as np

from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import fresh_weights
from official_ext.harmonization.benchmark.adapters import layers
from official_ext.harmonization.benchmark.adapters import outputs
from official_ext.harmonization.benchmark.adapters import packages
from official_ext.harmonization.benchmark.adapters import preprocessing as pre
from official_ext.harmonization.benchmark.adapters import torch_layers
from official_ext.harmonization.benchmark.adapters import torch_weights

_SIZE = (224, 224)

# Nodes of autograd's graph that only pass on, cast or rearrange numbers.
_TRANSPARENT = (
  'ToCopyBackward0',
  'ViewBackward0',
  'ReshapeAliasBackward0',
  'UnsafeViewBackward0',
  'SqueezeBackward0',
  'SqueezeBackward1',
  'UnsqueezeBackward0',
  'CloneBackward0',
  'AliasBackward0',
)
# Nodes between a softmax and its logarithm, which keep the argument above 0.
_BEFORE_LOGARITHM = ('AddBackward0', 'ClampBackward1', 'ClampMinBackward0')
# Nodes that squash logits.
_SQUASHING = {
  'SoftmaxBackward0': 'softmax',
  'SigmoidBackward0': 'sigmoid',
  'LogSoftmaxBackward0': 'log_softmax',
  'LogSigmoidBackward0': 'log_sigmoid',
  'HardsigmoidBackward0': 'hardsigmoid',
}


class _Reached(Exception):
  """Ends a forward pass at the first module with weights."""


class TorchAdapter(base.Adapter):
  """A `torch.nn.Module` from images (B, 3, h, w) to logits (B, C).

  The module is switched to evaluation mode, computes in the dtype of its
  weights, and runs on the first CUDA device if one exists.
  """

  def __init__(
    self,
    spec: str,
    name: str,
    input_size: tuple[int, int],
    prepare: pre.Preprocessing | None,
    module: Any,
    *,
    output: str = '',
  ):
    """Initializes the adapter.

    Args:
      spec: the SPEC, for error messages.
      name: for tables.
      input_size: height and width.
      prepare: the preprocessing; None to recognize it from the operations
        before the first weights, or else to assume 'torch'.
      module: the network.
      output: name or index of the output; by default the only one, or 'logits'.

    Raises:
      ValueError: the network cannot be scored, see `base.Adapter._probe`.
    """
    self._torch = packages.require(spec, 'torch')
    self._device = 'cuda' if self._torch.cuda.is_available() else 'cpu'
    self._module = module.to(self._device)
    # Frozen TorchScript has no attribute `training`; exported programs raise
    # NotImplementedError.
    if hasattr(module, 'training'):
      with contextlib.suppress(NotImplementedError):
        self._module.eval()
    # Only gradients with respect to images are needed.
    for parameter in self._module.parameters():
      parameter.requires_grad_(False)
    self._output = output
    self._dtype = self._output_dtype = self._dtype_of_weights()
    assumed = False
    if not prepare:
      found = pre.before_weights(self._first_inputs, input_size)
      assumed, prepare = not found, pre.get(found or pre.DEFAULT)
    super().__init__(spec, name, input_size, prepare, assumed=assumed)
    self._probe()

  def parameters(self) -> Iterator[np.ndarray]:
    """Yields weights and buffers, as bytes because NumPy lacks bfloat16."""
    module = self._module
    for _, tensor in (*module.named_parameters(), *module.named_buffers()):
      flat = tensor.detach().cpu().contiguous().reshape(-1)
      yield flat.view(self._torch.uint8).numpy()

  def randomize(self, seed: int):
    """See `base.Adapter`; unavailable for TorchScript."""
    fresh_weights.redraw_torch(self.spec, self._torch, self._module, seed)

  def _weights_by_layer(self):
    return fresh_weights.torch_layers(self._module)

  def _assign(self, layers):
    module = self._module
    tensors = {
      **dict(module.named_parameters()),
      **dict(module.named_buffers()),
    }
    with self._torch.no_grad():
      for layer in layers:
        for name, values in layer.items():
          tensors[name].copy_(values)

  def _dtype_of_weights(self):
    """Returns the dtype of the first weights that are not integers."""
    for tensor in (*self._module.parameters(), *self._module.buffers()):
      if tensor.is_floating_point():
        return tensor.dtype
    return self._torch.float32

  def _run(self, inputs: np.ndarray, differentiate: bool):
    """Returns the images as a tensor (B, 3, h, w), and their logits."""
    channels_first = np.ascontiguousarray(np.moveaxis(inputs, -1, 1))
    images = self._torch.from_numpy(channels_first).to(self._device)
    images.requires_grad_(differentiate)
    with self._torch.set_grad_enabled(differentiate):
      # A copy, because a network may modify its input in place.
      output = self._module(images.clone().to(self._dtype))
    found = outputs.named(output, lambda x: isinstance(x, self._torch.Tensor))
    if not found:
      raise base.Unscorable(
        f'{self.spec}: the output is a {type(output).__name__} without '
        'tensors; expected logits.'
      )
    logits = found[outputs.choose(self.spec, found, self._output)]
    # Autocast may compute in another dtype than that of the weights.
    self._output_dtype = logits.dtype
    return images, logits.float()

  def _logits(self, inputs: np.ndarray) -> np.ndarray:
    return self._run(inputs, False)[1].cpu().numpy()

  def _logits_and_gradients(
    self, inputs: np.ndarray, labels: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    images, logits = self._run(inputs, True)
    one_hot = self._torch.from_numpy(labels).to(self._device)
    gradient = None
    if logits.requires_grad:
      (gradient,) = self._torch.autograd.grad(
        (logits * one_hot).sum(), images, allow_unused=True
      )
    if gradient is None:
      raise base.no_gradient(self.spec)
    return (
      logits.detach().cpu().numpy(),
      np.moveaxis(gradient.cpu().numpy(), 1, -1),
    )

  def _layer_outputs(self, inputs: np.ndarray) -> list[layers.Output]:
    modules = torch_layers.named(self._torch, self._module)
    outputs = torch_layers.Outputs(self._torch, modules, self.input_size)
    with torch_layers.observed(modules, outputs.observe):
      self._run(inputs, False)
    return outputs.found

  def _activations(
    self, inputs: np.ndarray, labels: np.ndarray, layer: str
  ) -> tuple[np.ndarray, np.ndarray]:
    modules = torch_layers.named(self._torch, self._module)
    layers.require_name(layer, modules)
    kept: list[Any] = []

    def observe(unused_name, output):
      kept[:] = [output]
      # A copy goes on, because the next module may modify it in place.
      return output.clone() if hasattr(output, 'clone') else None

    with torch_layers.observed({layer: modules[layer]}, observe):
      _, logits = self._run(inputs, True)
    axis = layers.spatial_axis(
      tuple(getattr(kept[0], 'shape', ())) if kept else (),
      self.input_size,
      True,
    )
    if not axis:
      raise layers.not_spatial(layer)
    one_hot = self._torch.from_numpy(labels).to(self._device)
    gradient = None
    if logits.requires_grad and kept[0].requires_grad:
      (gradient,) = self._torch.autograd.grad(
        (logits * one_hot).sum(), kept[0], allow_unused=True
      )
    if gradient is None:
      raise layers.without_effect(layer)
    found, gradients = (
      np.moveaxis(t.detach().float().cpu().numpy(), 3 if axis == 1 else 1, -1)
      for t in (kept[0], gradient)
    )
    return found, gradients

  def _attention(
    self, inputs: np.ndarray
  ) -> tuple[list[np.ndarray], np.ndarray | None]:
    weights: list[Any] = []
    tokens: list[Any] = []

    def observe(unused_name, output):
      if isinstance(output, self._torch.Tensor) and output.dim() == 3:
        tokens[:] = [output]

    modules = torch_layers.named(self._torch, self._module)
    with (
      torch_layers.observed(modules, observe),
      torch_layers.attention_mode(self._torch, weights),
    ):
      _, logits = self._run(inputs, True)
    if not tokens or any(w is None or len(w) != len(inputs) for w in weights):
      return [], None
    (gradient,) = self._torch.autograd.grad(
      logits.sum(), tokens[0], allow_unused=True
    )
    return (
      [w.detach().float().cpu().numpy() for w in weights],
      None if gradient is None else gradient.float().norm(dim=-1).cpu().numpy(),
    )

  def _epsilon(self) -> float:
    names = {str(t.dtype).rpartition('.')[2] for t in self._module.parameters()}
    names.add(str(self._output_dtype).rpartition('.')[2])
    if self._device == 'cuda':
      names.add('tensor_float_32')
    return max(base.ROUNDING.get(n, base.ROUNDING['float32']) for n in names)

  def _last_operation(self) -> str:
    """See `base.Adapter`; TorchScript may not have autograd's graph."""
    inputs = np.zeros((2, *self.input_size, 3), np.float32)
    try:
      node = self._run(inputs, True)[1].grad_fn
    except Exception:  # Reported when the network is used.
      return ''
    allowed, logarithm = _TRANSPARENT, ''
    while node is not None:
      if node.name() in _SQUASHING:
        return logarithm + _SQUASHING[node.name()]
      if node.name() == 'LogBackward0' and not logarithm:
        allowed, logarithm = _TRANSPARENT + _BEFORE_LOGARITHM, 'log of '
      elif node.name() not in allowed:
        return ''
      node = next((n for n, _ in node.next_functions if n is not None), None)
    return ''

  def _first_inputs(self, images: np.ndarray) -> np.ndarray | None:
    """Returns the input of the first module with weights, (B, ...)."""
    reached = []

    def record(unused_module, inputs):
      reached.append(inputs[0].float().cpu().numpy())
      raise _Reached

    hooks = []
    try:
      hooks = [
        m.register_forward_pre_hook(record)
        for m in self._module.modules()
        if any(p.dim() > 1 for p in m.parameters(recurse=False))
      ]
      self._run(images, False)
    except Exception:  # _Reached, or an error that `_probe` will report.
      pass
    finally:
      for hook in hooks:
        hook.remove()
    return reached[0] if reached else None


def lookup(spec: str, target: str) -> Any:
  """Imports the object that a SPEC names.

  Args:
    spec: the SPEC, for error messages.
    target: import path of the object.

  Raises:
    ImportError: PyTorch, the package or the object cannot be imported.
    ValueError: the target is not an import path.
  """
  packages.require(spec, 'torch')
  if '.' not in target:
    raise ValueError(
      f'{spec} does not name a function; expected torch:PACKAGE.FUNCTION, '
      'such as torch:my_models.resnet.'
    )
  return packages.lookup(spec, target)


def _module(spec: str, target: str) -> Any:
  """Returns the module that a SPEC names, or that the named function makes."""
  made = lookup(spec, target)
  torch = packages.require(spec, 'torch')
  # Twice, because a function may return a class of modules.
  for attempt in range(2):
    if isinstance(made, torch.nn.Module):
      return made
    if not callable(made) or (attempt and not inspect.isclass(made)):
      break
    try:
      needed = [
        p.name
        for p in inspect.signature(made).parameters.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
      ]
    except (TypeError, ValueError):  # Functions in C have no signature.
      needed = []
    name = getattr(made, '__name__', target)
    if needed:
      raise base.Unscorable(
        f'{spec}: {name} needs the arguments {", ".join(needed)}; expected a '
        'function without arguments. Write a function that passes them.'
      )
    try:
      made = made()
    except Exception as e:  # The user's code may raise anything.
      raise base.Unscorable(
        f'{spec}: {name}() fails: {packages.brief(e)}.'
      ) from e
  if isinstance(made, torch.nn.Module):
    return made
  raise base.Unscorable(
    f'{spec}: {target} is a {type(made).__name__}; expected a '
    'torch.nn.Module, or a function that returns one.'
  )


def build(
  spec: str,
  target: str,
  *,
  name: str | None = None,
  weights: str = '',
  preprocessing: pre.Choice | None = None,
  input_size: tuple[int, int] | None = None,
  output: str = '',
  weights_key: str = '',
) -> base.Adapter:
  """Builds the adapter.

  Args:
    spec: the SPEC, for error messages.
    target: import path of a module, a class of modules, or a function without
      arguments that returns either. It is run, so name only code you trust.
    name: for tables; the function's name by default.
    weights: a file of weights; by default the module keeps its own.
    preprocessing: a name or a `Preprocessing`. By default it is recognized from
      the operations before the first weights, or else 'torch' is assumed, with
      a warning.
    input_size: height and width; 224 x 224 by default.
    output: name or index of the output; by default the only one, or 'logits'.
    weights_key: selects one of several sets of weights, see
      `torch_weights.load`.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: the file of weights does not exist.
    ImportError: PyTorch or the function cannot be imported.
    ValueError: the module is not a classifier, or cannot be scored.
  """
  module = _module(spec, target)
  if weights:
    torch_weights.load(spec, module, weights, weights_key)
  return TorchAdapter(
    spec,
    name or target.rpartition('.')[2],
    input_size or _SIZE,
    pre.get(preprocessing) if preprocessing else None,
    module,
    output=output,
  )
