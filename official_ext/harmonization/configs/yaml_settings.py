# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reads settings as YAML: files, and the text of --params_override.

Stricter than YAML, which takes the last of two equal keys and turns unquoted
text into dates. Both are errors here.
"""

from collections.abc import Hashable, Mapping
from typing import Any

from official.modeling.hyperparams import params_dict
import tensorflow as tf
import yaml

from official_ext.harmonization import text_files

_PLAIN = (str, bool, int, float, type(None))


# Model Garden teaches FullLoader that 1e-3 is a number.
class _Loader(yaml.FullLoader):
  """Refuses duplicate keys."""

  def construct_mapping(self, node, deep=False):
    seen = set()
    for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else []:
      # A merge (<<) gives defaults, which other keys may override.
      if key_node.tag == 'tag:yaml.org,2002:merge':
        continue
      key = self.construct_object(key_node, deep=True)
      if not isinstance(key, Hashable) or key in seen:
        problem = 'given twice' if isinstance(key, Hashable) else 'not a name'
        raise yaml.constructor.ConstructorError(
          None, None, f'{key!r} is {problem}', key_node.start_mark
        )
      seen.add(key)
    return super().construct_mapping(node, deep)


def _check(value: Any, name: str):
  """Checks that a value and all below it can be settings."""
  if isinstance(value, Mapping):
    for key, inner in value.items():
      if not isinstance(key, str):
        raise ValueError(
          f'{name or "it"} has the field {key!r}; expected a '
          'name. Put names in quotes'
        )
      _check(inner, f'{name}.{key}' if name else key)
  elif isinstance(value, (list, tuple)):
    for inner in value:
      _check(inner, name)
  elif not isinstance(value, _PLAIN):
    raise ValueError(
      f'{name} is a {type(value).__name__} ({value}); expected text, a '
      'number, true, false, null, or a list of these. Put text in quotes'
    )


def _load(text: str) -> Any:
  """Reads YAML that holds only settings."""
  found = yaml.load(text, Loader=_Loader)  # It builds only plain objects.
  _check(found, '')
  return found


def _sentence(error: Exception) -> str:
  """Formats an error's message on one line."""
  if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
    mark = error.problem_mark
    parts = [error.context, error.problem]
    message = ', '.join(part for part in parts if part)
    return f'line {mark.line + 1}, column {mark.column + 1}: {message}'
  return ' '.join(str(error).split())


def read(path: str) -> dict[str, Any]:
  """Reads a YAML or JSON file of settings.

  Args:
    path: local or remote (gs://).

  Returns:
    The settings.

  Raises:
    ValueError: the file does not exist, is not text or does not hold settings;
      the message names the file, line and column.
    tf.errors.OpError: the file cannot be read.
  """
  try:
    text = text_files.read(path)
  except tf.errors.NotFoundError:
    raise ValueError(
      f'{path}: the file does not exist; expected a YAML or JSON file of '
      'settings. Check the path.'
    ) from None
  try:
    found = _load(text)
  except (ValueError, yaml.YAMLError) as e:
    raise ValueError(
      f'{path}: {_sentence(e)}; expected YAML. Correct the file.'
    ) from None
  if not isinstance(found, dict):
    what = 'empty' if found is None else f'{found!r:.60}'
    raise ValueError(
      f'{path}: the content is {what}; expected settings such as "task: '
      '{harmonization: {weight: 1}}". Correct the file.'
    )
  return found


def parse(text: str) -> dict[str, Any]:
  """Reads the text of --params_override.

    parse('task.harmonization.weight=2,trainer.train_steps=10')

  Args:
    text: settings in Model Garden's notation, or YAML.

  Returns:
    The settings.

  Raises:
    ValueError: the text cannot be parsed.
  """
  malformed = ''
  try:
    try:
      # Model Garden's notation; text that does not match it is YAML.
      notation = params_dict.nested_csv_str_to_json_str(text)
    except ValueError as e:
      malformed = str(e).rpartition('CSV string: ')[-1]
      notation = text
    found = _load(notation)
  except (ValueError, yaml.YAMLError) as e:
    raise ValueError(
      f'--params_override={text}: {_sentence(e)}; expected '
      'FIELD=VALUE,FIELD=VALUE or YAML.'
    ) from None
  if not isinstance(found, dict):
    raise ValueError(
      f'--params_override={text}: cannot be parsed from {malformed!r} on; '
      'expected FIELD=VALUE,FIELD=VALUE, such as trainer.train_steps=10, or '
      'the path of a YAML file.'
    )
  return found
