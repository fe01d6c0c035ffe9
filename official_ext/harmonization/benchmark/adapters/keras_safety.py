# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Refuses Keras files whose configuration would run code.

Keras's safe mode refuses code that is stored in a .keras archive. But a
configuration may also name a module, which tf_keras imports, or a function,
which is called; older versions of Keras 3 have further holes, and most versions
have no safe mode for HDF5. This module therefore also refuses layers that run
code or open files, and classes and functions from outside Keras. Keras's
deserializer checks everything else.

This is not a sandbox: it checks which objects Keras is asked to build, not how
Keras and TensorFlow build them.
"""

import builtins
from collections.abc import Collection, Iterator
import re
from typing import Any

# A module of tf_keras or Keras 3; the group is its part, such as layers.
_MODULE = re.compile(r'(?:tf_)?keras(?:\.src)?(?:\.(\w+)(?:\.\w+)*)?')
# Parts whose classes do not build networks; some read or write files.
_NOT_FOR_NETWORKS = (
  'backend',
  'callbacks',
  'config',
  'datasets',
  'distribute',
  'distribution',
  'dtensor',
  'estimator',
  'export',
  'feature_column',
  'preprocessing',
  'saving',
  'testing',
  'testing_infra',
  'utils',
  'visualization',
  'wrappers',
)
# Parts whose functions only compute: they do not load, download or unlock.
_FUNCTION_PARTS = (
  'activations',
  'constraints',
  'initializers',
  'losses',
  'metrics',
  'ops',
  'random',
  'regularizers',
)
# Layers that run code from the file, or open other files.
_REFUSED = (
  'Lambda',
  '__lambda__',
  'ClassMethod',
  'FlaxLayer',
  'IntegerLookup',
  'JaxLayer',
  'ReloadedLayer',
  'StringLookup',
  'TFSMLayer',
  'TextVectorization',
  'TorchModuleWrapper',
)
# A class, or one of Keras's notations for data, such as __keras_tensor__.
_CLASS = re.compile(r'(?:[\w.]+>)?[A-Z]\w*|__\w+__')
# Types of tensors, which tf_keras stores with an input, and initializers of
# TensorFlow, which tf_keras's EfficientNetV2 uses.
_TENSOR_TYPE = re.compile(r'tensorflow\.python\.(?:framework|ops\.ragged)\.\w+')
_INITIALIZERS = re.compile(r'tensorflow\.python\.ops\.init_ops(?:_v2)?')
# TensorFlow functions that may be layers of tf_keras: arithmetic, not files.
_TF_FUNCTION = re.compile(
  r'(?:compat\.v1\.)?(?:(?:math|nn|linalg|image|signal|random|bitwise|'
  r'__operators__)\.[\w.]+|argsort|(?:batch_to_|space_to_)\w+|boolean_mask|'
  r'broadcast_to|cast|clip_by_\w+|concat|convert_to_tensor|cumsum|einsum|'
  r'ensure_shape|expand_dims|eye|fill|gather\w*|identity|(?:ones|zeros)'
  r'(?:_like)?|meshgrid|norm|one_hot|pad|range|rank|repeat|reshape|'
  r'reverse\w*|roll|scatter_nd|sequence_mask|shape|size|slice|sort|split|'
  r'squeeze|stack|stop_gradient|strided_slice|tensordot|tile|transpose|'
  r'unstack|where)'
)


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
  """Yields all dictionaries inside a configuration."""
  if isinstance(value, dict):
    yield value
    value = list(value.values())
  if isinstance(value, (list, tuple)):
    for item in value:
      yield from _dicts(item)


def _part(module: Any) -> str:
  """Returns the part of Keras that a module is in; '?' for other modules."""
  if module is None:
    return ''
  found = _MODULE.fullmatch(str(module))
  return (found[1] or '') if found else '?'


def _function_problem(item: dict[str, Any]) -> str:
  """As `_problem`, for a function."""
  function, module = item.get('config'), item.get('module')
  if module == 'builtins' and not hasattr(builtins, str(function)):
    return ''  # Not a builtin, so Keras looks the name up in itself.
  if _part(module) in _FUNCTION_PARTS:
    return ''
  return f'it names the function {function!r} of {module!r}, which'


def _problem(item: dict[str, Any], known: Collection[str]) -> str:
  """Names the code that a part of a configuration would run; '' if none."""
  name, module = item['class_name'], item.get('module')
  registered = item.get('registered_name')
  for text in (name, registered):
    if text in _REFUSED:
      inner = item.get('config')
      layer = inner.get('name') if isinstance(inner, dict) else None
      return f'the layer {layer!r} is a {text}, which'
  # Keras first looks this name up in the custom objects. If it is not there,
  # Keras imports the module.
  key = (
    item.get('config')
    if name == 'function'
    else item.get('registered_name', name)
  )
  if isinstance(key, str) and key in known:
    return ''
  if name == 'function':
    return _function_problem(item)
  if not all(
    isinstance(text, str) and _CLASS.fullmatch(text)
    for text in (name, registered or name)
  ):
    return f'it names {name!r} ({registered!r}), which'
  own = _TENSOR_TYPE if name == '__typespec__' else _INITIALIZERS
  if own.fullmatch(str(module)):
    return ''
  if _part(module) in ('?', *_NOT_FOR_NETWORKS):
    return f'it names {name} of the module {module!r}, which'
  if name == 'TFOpLambda':
    function = (item.get('config') or {}).get('function')
    if not _TF_FUNCTION.fullmatch(str(function)):
      return f'a layer calls the TensorFlow function {function!r}, which'
  return ''


def refuse_code(config: Any, path: str, known: Collection[str] = ()):
  """Refuses a configuration that would run code.

  Args:
    config: of a model, as decoded from the file.
    path: of the file, for messages.
    known: names of the custom objects that the caller gives to Keras.

  Raises:
    ValueError: the configuration names a layer, class or function that may run
      code or open other files.
  """
  # The model is loaded without compiling, so compile_config is not used.
  for item in _dicts({**config, 'compile_config': None}):
    if 'class_name' not in item:
      continue
    problem = _problem(item, known)
    if problem:
      raise ValueError(
        f'{path}: {problem} may run code; expected only layers of Keras, '
        'because a file must not control this machine. Save the model without '
        'it, or export it as a SavedModel with a float input.'
      )
