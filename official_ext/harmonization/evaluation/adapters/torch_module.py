"""`torch:PACKAGE.FUNCTION`: a PyTorch module, gradients by autograd."""

import importlib
import os
import sys
from typing import Any, Iterator, Optional, Tuple

import numpy as np

from official_ext.harmonization import resources
from official_ext.harmonization.evaluation.adapters import base
from official_ext.harmonization.evaluation.adapters import preprocessing as pre

_SIZE = (224, 224)


def require(spec: str, package: str) -> Any:
  """Imports an optional package.

  Args:
    spec: as the user wrote it, for errors.
    package: its name.

  Returns:
    The package.

  Raises:
    ImportError: it is not installed, or broken.
  """
  try:
    return importlib.import_module(package)
  except (ImportError, RuntimeError) as e:  # torchvision beside another torch
    raise ImportError(f'{spec} needs the package {package}, which cannot be '
                      f'imported ({e}): pip install {package}.') from e


class TorchAdapter(base.Adapter):
  """A `torch.nn.Module` of images (B, 3, h, w) to logits (B, C).

  It is switched to evaluation mode, and runs on the first CUDA device where
  there is one.
  """

  def __init__(self, spec: str, name: str, input_size: Tuple[int, int],
               prepare: pre.Preprocessing, module: Any, *,
               assumed: bool = False):
    """Initializes the adapter.

    Args:
      spec: as for `base.Adapter`, as the next three and the last.
      name: see there.
      input_size: see there.
      prepare: see there.
      module: the network; an output with a field `logits` is unwrapped.
      assumed: see there.

    Raises:
      ValueError: the output is no matrix of logits.
    """
    super().__init__(spec, name, input_size, prepare, assumed=assumed)
    self._torch = require(spec, 'torch')
    self._device = 'cuda' if self._torch.cuda.is_available() else 'cpu'
    # Gradients of weights would double the memory for nothing.
    self._module = module.to(self._device).eval().requires_grad_(False)
    self._probe()

  def parameters(self) -> Iterator[np.ndarray]:
    """See `base.Adapter`; as bytes, since NumPy lacks bfloat16."""
    module = self._module
    for _, tensor in (*module.named_parameters(), *module.named_buffers()):
      flat = tensor.detach().cpu().contiguous().reshape(-1)
      yield flat.view(self._torch.uint8).numpy()

  def _run(self, inputs: np.ndarray, differentiate: bool):
    """Returns the images as PyTorch has them, and their logits."""
    channels_first = np.ascontiguousarray(np.moveaxis(inputs, -1, 1))
    images = self._torch.from_numpy(channels_first).to(self._device)
    images.requires_grad_(differentiate)
    with self._torch.set_grad_enabled(differentiate):
      output = self._module(images)
    logits = getattr(output, 'logits', output)
    if not isinstance(logits, self._torch.Tensor):
      raise ValueError(f'{self.spec}: its output is a '
                       f'{type(output).__name__}, where a tensor of logits is '
                       'needed.')
    return images, logits.float()

  def _logits(self, inputs: np.ndarray) -> np.ndarray:
    return self._run(inputs, False)[1].cpu().numpy()

  def _logits_and_gradients(
      self, inputs: np.ndarray,
      labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    images, logits = self._run(inputs, True)
    one_hot = self._torch.from_numpy(labels).to(self._device)
    gradient, = self._torch.autograd.grad((logits * one_hot).sum(), images)
    return (logits.detach().cpu().numpy(),
            np.moveaxis(gradient.cpu().numpy(), 1, -1))


def load_weights(spec: str, module: Any, path: str):
  """Loads a file of weights into a module.

  Args:
    spec: as the user wrote it, for errors.
    module: the network.
    path: of a `state_dict`, saved by `torch.save`; nothing else in it is run.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds no weights, or others.
  """
  path = resources.working_path(path)
  if not os.path.exists(path):
    raise FileNotFoundError(f'{spec}: {path} does not exist.')
  try:
    state = require(spec, 'torch').load(
        path, map_location='cpu', weights_only=True)
    module.load_state_dict(state)
  except Exception as e:  # pylint: disable=broad-except  # of many kinds
    raise ValueError(f'{spec}: {path} holds no weights of this network: {e}'
                    ) from e


def _factory(spec: str, target: str):
  """Imports the function that a SPEC names."""
  require(spec, 'torch')
  module, dot, function = target.rpartition('.')
  if not dot:
    raise ValueError(f'{spec}: write torch:PACKAGE.FUNCTION, such as '
                     'torch:my_models.resnet.')
  if '' not in sys.path and os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())  # A console command does not look there.
  try:
    return getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError) as e:
    raise ImportError(f'{spec}: {e}. It must be importable: set PYTHONPATH to '
                      'the folder that its package is in.') from e


def build(spec: str,
          target: str,
          *,
          name: Optional[str] = None,
          weights: str = '',
          preprocessing: Optional[str] = None,
          input_size: Optional[Tuple[int, int]] = None) -> base.Adapter:
  """Builds the adapter.

  Args:
    spec: as the user wrote it.
    target: import path of a function without arguments that returns a module.
      It is run: name only what you trust.
    name: for tables; the function's by default.
    weights: a file of weights; by default those that the function gives.
    preprocessing: its name. By default 'torch', with a warning.
    input_size: height and width; 224 by default.

  Returns:
    The adapter.

  Raises:
    FileNotFoundError: the file of weights is not there.
    ImportError: PyTorch or the function cannot be imported.
    ValueError: it is no classifier that can be scored.
  """
  module = _factory(spec, target)()
  if weights:
    load_weights(spec, module, weights)
  return TorchAdapter(
      spec, name or target.rpartition('.')[2], input_size or _SIZE,
      pre.get(preprocessing or pre.DEFAULT), module,
      assumed=not preprocessing)
