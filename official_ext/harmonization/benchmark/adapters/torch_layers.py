# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Observes the modules of a PyTorch network while it computes."""

from collections.abc import Callable
import contextlib
from typing import Any

from official_ext.harmonization.benchmark.adapters import layers


@contextlib.contextmanager
def observed(modules: dict[str, Any], on_output: Callable[[str, Any], Any]):
  """Observes modules for the duration of a `with` statement.

  Args:
    modules: by name.
    on_output: called with the name and the output of each module, as soon as it
      is computed. What it returns replaces the output, unless it is None.
  """
  hooks = []
  try:
    for name, module in modules.items():
      hooks.append(
        module.register_forward_hook(
          lambda unused_module, unused_inputs, output, name=name: on_output(
            name, output
          )
        )
      )
    yield
  finally:
    for hook in hooks:
      hook.remove()


def named(torch: Any, network: Any) -> dict[str, Any]:
  """Returns the submodules of a network by name.

  Args:
    torch: the package.
    network: a `torch.nn.Module`.

  Raises:
    layers.Unsuitable: the network is compiled, so that its modules cannot be
      observed.
  """
  found = {n: m for n, m in network.named_modules() if n}
  if isinstance(network, torch.jit.ScriptModule) or not found:
    raise layers.inaccessible()
  return found


class Outputs:
  """Collects descriptions of the outputs of modules, in order."""

  def __init__(self, torch: Any, modules: dict[str, Any], size):
    """Initializes it.

    Args:
      torch: the package.
      modules: by name.
      size: height and width of the images.
    """
    self._torch, self._modules, self._size = torch, modules, size
    self._pooled: Any = None
    self.found: list[layers.Output] = []

  def observe(self, name: str, output: Any):
    """Describes an output; for `observed`."""
    if not isinstance(output, self._torch.Tensor):
      return
    # A container of modules returns the tensor of its last one.
    is_pooled = output is self._pooled or (
      'pool' in type(self._modules[name]).__name__.lower()
    )
    if is_pooled:
      self._pooled = output
    self.found.append(
      layers.output(
        name,
        tuple(output.shape),
        self._size,
        channels_first=True,
        is_pooled=is_pooled,
      )
    )


def attention_mode(torch: Any, weights: list[Any]) -> Any:
  """Returns a context in which attention weights are collected.

  Args:
    torch: the package.
    weights: to which those of each attention are added, (B, T, T), averaged
      over heads. An attention with a mask adds None.
  """
  functional = torch.nn.functional
  softmaxes = (torch.softmax, torch.Tensor.softmax, functional.softmax)

  class Mode(torch.overrides.TorchFunctionMode):
    """Calls functions, and keeps what attention computes."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
      del types
      kwargs = dict(kwargs or {})
      if func is functional.multi_head_attention_forward:
        kwargs.update(need_weights=True, average_attn_weights=True)
        result = func(*args, **kwargs)
        weights.append(result[1])
        return result
      result = func(*args, **kwargs)
      if func is functional.scaled_dot_product_attention:
        weights.append(_weights(*args, **kwargs))
      elif func in softmaxes and result.dim() == 4:
        if result.shape[-1] == result.shape[-2]:
          weights.append(result.mean(1))
      return result

  return Mode()


def _weights(
  query,
  key,
  value,
  attn_mask=None,
  dropout_p=0.0,
  is_causal=False,
  scale=None,
  enable_gqa=False,
):
  """Returns the weights of an attention, (B, T, T); None if it is masked."""
  del value, dropout_p
  if attn_mask is not None or is_causal or enable_gqa or query.dim() != 4:
    return None
  scale = query.shape[-1] ** -0.5 if scale is None else scale
  return (query @ key.transpose(-2, -1) * scale).float().softmax(-1).mean(1)
