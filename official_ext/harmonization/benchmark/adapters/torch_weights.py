"""Files of PyTorch weights, as training scripts write them."""

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

# Counted by batch normalization, used by nothing in evaluation mode, and
# missing in old files.
_COUNTER = 'num_batches_tracked'
# What wrappers of a module put before the names of its weights.
_WRAPPERS = ('module.', '_orig_mod.')
# How deep in a file weights are looked for, and how many names errors show.
_DEPTH, _SHOWN = 2, 3


class _Inert:
  """Takes the place of an object in a file that is not a tensor: of settings.

  So nothing that a file names is imported or called.
  """

  def __init__(self, *unused_args, **unused_kwargs):
    pass

  def __setstate__(self, state):
    pass


class _InertMapping(_Inert):
  """As `_Inert`, of a class that may be a mapping: PyTorch fills no others."""

  def __new__(cls, *unused_args, **unused_kwargs):
    return collections.OrderedDict()


class _View(NamedTuple):
  """Weights in a file, as a module would have them.

  Attributes:
    where: keys to them, and what precedes their names, with dots between.
    state: names, without what precedes them, to tensors.
    missing: the module's names that are not among them.
    unknown: names among them that the module does not have.
  """

  where: str
  state: dict[str, Any]
  missing: list[str]
  unknown: list[str]


def _read(spec: str, path: str) -> Any:
  """Reads a file of weights; of what else it holds, nothing is run."""
  if path.endswith('.safetensors'):
    return packages.require(spec, 'safetensors.torch').load_file(path)
  torch = packages.require(spec, 'torch')
  serialization = torch.serialization
  try:
    names = serialization.get_unsafe_globals_in_checkpoint(path)
  except Exception:  # PyTorch or file is older
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
    except Exception as e:  # of many kinds
      error = e
  else:
    raise base.Unscorable(
      f'{spec}: {path} holds no weights of this network that can be read: '
      f'{_reason(error)}. Save them with torch.save(module.state_dict(), '
      'FILE).'
    ) from error
  if hasattr(content, '_modules'):
    raise base.Unscorable(
      f'{spec}: {path} holds no weights of this network, but a whole module, '
      'whose code is not run. Save its weights: '
      'torch.save(module.state_dict(), FILE).'
    )
  return content


def _reason(error: Exception | None) -> str:
  """Says why PyTorch could not read a file, without its advice to run it."""
  text = str(error).rpartition('WeightsUnpickler error:')[2].strip()
  first = re.split(r'[.]\s|\n', f'{text} ', maxsplit=1)[0].strip()
  return f'{type(error).__name__}: {first or "it is empty"}'


def _dictionaries(
  content: Any, torch: Any, keys: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict]]:
  """Yields the dictionaries of tensors in a file, and the keys to them."""
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
  """Yields the ways to find a module's names at the ends of others."""
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
  """Says why no view of a file fits a module."""
  if not views:
    return (
      f'none of its {len(expected)} names is in it, such as '
      f'{next(iter(expected), "any")}'
    )
  closest = min(views, key=lambda v: len(v.missing) + len(v.unknown))
  parts = []
  if closest.missing:
    parts.append(f'{_some(closest.missing)} of its {len(expected)} are missing')
  if closest.unknown:
    parts.append(f'{_some(closest.unknown)} are of another')
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

  Weights are found under keys such as 'state_dict' or 'model', and behind
  prefixes of their names such as 'module.', if there is one way to.

  Args:
    spec: as the user wrote it, for errors.
    module: the network.
    path: of what `torch.save` wrote, or of safetensors; nothing in it is run.
    key: which of several weights is meant: the key to them and the prefix of
      their names, with a dot between.

  Raises:
    FileNotFoundError: there is no such file.
    ImportError: a package that reads it is not installed.
    ValueError: it does not hold the network's weights, or holds several.
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
      f'{spec}: {path} holds no weights of this network'
      f'{f" under {key!r}" if key else ""}: {_problem(views, expected)}. '
      'Write the file of this network, or name the network of this file.'
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
      f'{spec}: {path} holds {len(fitting)} weights of this network: '
      f'{", ".join(names)}; expected one. Choose with weights_key='
      f'{fitting[-1].where}.'
    )
  if first.where:
    logging.info(
      '%s: the weights are those under %s in %s.', spec, first.where, path
    )
  found = {wrapper + n: v for n, v in first.state.items() if n in expected}
  module.load_state_dict({**own, **found})
