# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Loads PyTorch weights from the files that training scripts write."""

import collections
from collections.abc import Iterator, Mapping
import contextlib
import os
import re
from typing import Any, NamedTuple

from absl import logging

from official_ext.harmonization import resources
from official_ext.harmonization.benchmark.adapters import base
from official_ext.harmonization.benchmark.adapters import packages

# A counter of batch normalization, which evaluation mode does not use and old
# files do not contain.
_COUNTER = 'num_batches_tracked'
# Prefixes that wrappers of a module add to the names of its weights.
_WRAPPERS = ('module.', '_orig_mod.')
# Depth to which dictionaries are searched, and number of names in messages.
_DEPTH, _SHOWN = 2, 3


class _Inert:
  """Replaces all objects of a file that are not tensors, such as settings.

  This ensures that no class or function named in a file is imported or called.
  """

  def __init__(self, *unused_args, **unused_kwargs):
    pass

  def __setstate__(self, state):
    pass


class _InertMapping(_Inert):
  """As `_Inert`, for classes that may be mappings, which PyTorch fills."""

  def __new__(cls, *unused_args, **unused_kwargs):
    return collections.OrderedDict()


class _View(NamedTuple):
  """Weights in a file that may belong to a module.

  Attributes:
    where: the keys of the dictionaries that lead to the weights and the prefix
      of their names, joined by dots.
    state: tensors by name, without the prefix.
    missing: names of the module's weights that are not in `state`.
    unknown: names in `state` that the module does not have.
  """

  where: str
  state: dict[str, Any]
  missing: list[str]
  unknown: list[str]


def _read(spec: str, path: str) -> Any:
  """Reads a file without running code from it."""
  if path.endswith('.safetensors'):
    return packages.require(spec, 'safetensors.torch').load_file(path)
  torch = packages.require(spec, 'torch')
  serialization = torch.serialization
  try:
    names = serialization.get_unsafe_globals_in_checkpoint(path)
  except Exception:  # Older versions of PyTorch or of the file.
    names = []
  error = None
  for other in (_InertMapping, _Inert):
    inert = [
      (type('Inert', (_Inert if n.startswith('numpy') else other,), {}), n)
      for n in names
    ]
    try:
      with (
        serialization.safe_globals(inert) if inert else contextlib.nullcontext()
      ):
        content = torch.load(path, map_location='cpu', weights_only=True)
      break
    except Exception as e:  # PyTorch raises errors of many types here.
      error = e
  else:
    raise base.Unscorable(
      f'{spec}: {path} cannot be read ({_reason(error)}); expected weights of '
      'this network. Save them with torch.save(module.state_dict(), FILE).'
    ) from error
  if hasattr(content, '_modules'):
    raise base.Unscorable(
      f'{spec}: {path} contains a complete module, which would run code; '
      'expected weights of this network. Save them with '
      'torch.save(module.state_dict(), FILE).'
    )
  return content


def _reason(error: Exception | None) -> str:
  """Returns PyTorch's reason, without its advice to allow running code."""
  text = str(error).rpartition('WeightsUnpickler error:')[2].strip()
  first = re.split(r'[.]\s|\n', f'{text} ', maxsplit=1)[0].strip()
  return f'{type(error).__name__}: {first or "it is empty"}'


def _dictionaries(
  content: Any, torch: Any, keys: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict]]:
  """Yields (keys joined by dots, dictionary of tensors) in a file."""
  if not isinstance(content, Mapping):
    return
  tensors = {
    k: v
    for k, v in content.items()
    if isinstance(k, str) and isinstance(v, torch.Tensor)
  }
  if tensors:
    yield '.'.join(keys), tensors
  if len(keys) < _DEPTH:
    for key, value in content.items():
      yield from _dictionaries(value, torch, (*keys, str(key)))


def _views(
  where: str, tensors: Mapping[str, Any], expected: Mapping[str, Any]
) -> Iterator[_View]:
  """Yields a view for each prefix before a module's names in a dictionary."""
  prefixes = collections.Counter()
  for key in tensors:
    parts = key.split('.')
    for i in range(len(parts)):
      if '.'.join(parts[i:]) in expected:
        prefixes['.'.join(parts[:i])] += 1
  for prefix in prefixes:
    start = f'{prefix}.' if prefix else ''
    state = {
      k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)
    }
    yield _View(
      '.'.join(filter(None, (where, prefix))),
      state,
      [n for n in expected if n not in state and not n.endswith(_COUNTER)],
      [n for n in state if n not in expected and not n.endswith(_COUNTER)],
    )


def _some(names: list[str]) -> str:
  more = ', ...' * (len(names) > _SHOWN)
  return f'{len(names)} ({", ".join(names[:_SHOWN])}{more})'


def _problem(views: list[_View], expected: Mapping[str, Any]) -> str:
  """Describes why no view of a file fits a module."""
  if not views:
    return (
      f"none of the network's {len(expected)} names is in it, such as "
      f'{next(iter(expected), "any")}'
    )
  closest = min(views, key=lambda v: len(v.missing) + len(v.unknown))
  parts = []
  if closest.missing:
    parts.append(f'missing: {_some(closest.missing)} of {len(expected)}')
  if closest.unknown:
    parts.append(f'unknown: {_some(closest.unknown)}')
  for name, tensor in closest.state.items():
    if name in expected and tensor.shape != expected[name].shape:
      parts.append(
        f'{name} has shape {tuple(tensor.shape)}; expected '
        f'{tuple(expected[name].shape)}'
      )
      break
  where = f'under {closest.where!r}, ' if closest.where else ''
  return where + ', '.join(parts)


def load(spec: str, module: Any, path: str, key: str = ''):
  """Loads a file of weights into a module.

  The weights may be under a key such as 'state_dict' or 'model', and their
  names may have a prefix such as 'module.', as long as the choice is unique.

  Args:
    spec: the SPEC, for error messages.
    module: the network, a `torch.nn.Module`.
    path: a file written by `torch.save` or a .safetensors file. No code in it
      is run.
    key: selects one of several sets of weights by its key and prefix, joined by
      a dot.

  Raises:
    FileNotFoundError: the file does not exist.
    ImportError: a package that is needed to read the file is not installed.
    ValueError: the file does not contain the network's weights, or contains
      several sets of them.
  """
  path = resources.working_path(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{spec}: {path} does not exist.')
  torch = packages.require(spec, 'torch')
  own = module.state_dict()
  wrapper = next(
    (w for w in _WRAPPERS if own and all(name.startswith(w) for name in own)),
    '',
  )
  expected = {n[len(wrapper) :]: v for n, v in own.items()}
  views = [
    view
    for where, tensors in _dictionaries(_read(spec, path), torch)
    for view in _views(where, tensors, expected)
    if not key or view.where == key.rstrip('.')
  ]
  fitting = [
    v
    for v in views
    if not v.missing
    and not v.unknown
    and all(
      v.state[n].shape == t.shape for n, t in expected.items() if n in v.state
    )
  ]
  if not fitting:
    raise base.Unscorable(
      f'{spec}: {path} does not contain weights of this network'
      f'{f" under {key!r}" if key else ""}: {_problem(views, expected)}. '
      'Name the file of this network, or the network of this file.'
    )
  first = fitting[0]
  if any(
    not torch.equal(tensor, other.state[name])
    for other in fitting[1:]
    for name, tensor in first.state.items()
    if not name.endswith(_COUNTER)
  ):
    names = [v.where or 'the file itself' for v in fitting]
    raise base.Unscorable(
      f'{spec}: {path} contains {len(fitting)} sets of weights of this '
      f'network: {", ".join(names)}; expected one. Choose one with '
      f'weights_key={fitting[-1].where}.'
    )
  if first.where:
    logging.info(
      '%s: loaded the weights under %s in %s.', spec, first.where, path
    )
  found = {wrapper + n: v for n, v in first.state.items() if n in expected}
  module.load_state_dict({**own, **found})
