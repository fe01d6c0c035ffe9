"""Refuses Keras files whose configuration would run code.

Keras's safe mode knows the Lambda layer of .keras archives alone. A
configuration may also name any module, which is imported, and any function in
it, which is called; HDF5 has no safe mode at all.
"""

import builtins
import re
from typing import Any, Collection, Iterator

# Parts of Keras whose classes are layers and what belongs to them, in tf_keras
# and Keras 3; not those that load, save, download or unlock.
_PARTS = ('activations', 'constraints', 'dtype_policies', 'engine',
          'initializers', 'layers', 'losses', 'metrics', 'mixed_precision',
          'models', 'ops', 'optimizers', 'quantizers', 'regularizers')
_FUNCTION_PARTS = ('activations', 'constraints', 'initializers', 'losses',
                   'metrics', 'regularizers')
_MODULE = re.compile(r'(?:tf_)?keras(?:\.src)?(?:\.(\w+)(?:\.\w+)*)?')
# Keras's own notation of values.
_VALUES = ('__tensor__', '__numpy__', '__bytes__', '__tuple__', '__ellipsis__')
# Layers that run code of the file, or open other files.
_REFUSED = ('Lambda', '__lambda__', '__typespec__', 'ClassMethod', 'FlaxLayer',
            'IntegerLookup', 'JaxLayer', 'StringLookup', 'TFSMLayer',
            'TextVectorization', 'TorchModuleWrapper')
_CLASS = re.compile(r'(?:[\w.]+>)?[A-Z]\w*')
# What TensorFlow's functions, as layers, may be: arithmetic, and no files.
_TF_FUNCTION = re.compile(
    r'(?:math|nn|linalg|image|signal|__operators__)\.[\w.]+|(?:cast|clip_by_'
    r'value|concat|convert_to_tensor|expand_dims|gather|identity|ones_like|pad|'
    r'repeat|reshape|reverse|roll|shape|slice|split|squeeze|stack|'
    r'stop_gradient|tile|transpose|unstack|where|zeros_like)')


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
  """Yields all dictionaries inside a configuration."""
  if isinstance(value, dict):
    yield value
    value = list(value.values())
  if isinstance(value, (list, tuple)):
    for item in value:
      yield from _dicts(item)


def _part(module: Any) -> str:
  """The part of Keras that a module is in; '?' for other modules."""
  if module is None:
    return ''
  found = _MODULE.fullmatch(str(module))
  return (found[1] or '') if found else '?'


def _problem(item: dict[str, Any], known: Collection[str]) -> str:
  """Says what one part of a configuration would run, or nothing."""
  name, module = item['class_name'], item.get('module')
  registered = item.get('registered_name')
  for text in (name, registered):
    if text in _REFUSED:
      inner = item.get('config')
      layer = inner.get('name') if isinstance(inner, dict) else None
      return f'the layer {layer!r} is a {text}, which'
  if name in _VALUES or name in known or registered in known:
    return ''
  if name == 'function':
    function = item.get('config')
    if module == 'builtins' and not hasattr(builtins, str(function)):
      return ''  # Keras's own, by their names.
    if _part(module) not in _FUNCTION_PARTS:
      return f'it names the function {function!r} of {module!r}, which'
    return ''
  if not all(isinstance(text, str) and _CLASS.fullmatch(text)
             for text in (name, registered or name)):
    return f'it names {name!r} ({registered!r}), which'
  if _part(module) not in ('', *_PARTS):
    return f'it names {name} of the module {module!r}, which'
  if name == 'TFOpLambda':
    function = (item.get('config') or {}).get('function')
    if not _TF_FUNCTION.fullmatch(str(function)):
      return f'a layer calls the TensorFlow function {function!r}, which'
  return ''


def refuse_code(config: Any, path: str, known: Collection[str] = ()):
  """Refuses a configuration that would run code.

  Args:
    config: of a model, as it stands in the file.
    path: of the file, for messages.
    known: names of classes and functions that the caller gives to Keras.

  Raises:
    ValueError: it names a layer, class or function that may run code, or open
      other files.
  """
  # How the whole model was compiled is not read.
  for item in _dicts({**config, 'compile_config': None}):
    if 'class_name' not in item:
      continue
    problem = _problem(item, known)
    if problem:
      raise ValueError(
          f'{path}: {problem} may run code, and opening it would be trusting '
          'the file with this machine. Save the model without it, or export it '
          'as a SavedModel with a float input.')
