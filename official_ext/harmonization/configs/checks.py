# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""What a check of a configuration is, and how it is run.

The tables of checks are in `task_checks` and `experiment_checks`.
"""

from collections.abc import Callable, Iterable
import dataclasses
import string
import types
from typing import Any, NamedTuple

from official.core import config_definitions as cfg
from official.modeling import hyperparams


class Condition(NamedTuple):
  """When a check applies.

  Attributes:
    text: completes "if", for the page of checks; Markdown.
    holds: from the section that holds the field, and the whole configuration.
  """

  text: str
  holds: Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Check:
  """One row of the table of checks.

  Attributes:
    path: dotted name of the field, such as 'task.harmonization.weight'.
    valid: whether a value is valid, from the value, the section that holds the
      field, and the whole configuration, whose parts are `task` and, for
      checks of an experiment, `trainer` and `runtime`.
    expected: continues "<path> is <value>; expected". '{task.losses.one_hot}'
      stands for the name and value of another field.
    found: from the same arguments as `valid`, a fact that explains the error.
    check_none: whether None is passed to `valid`; otherwise it is valid.
    when: when the check applies; None for always.
  """

  path: str
  valid: Callable[[Any, Any, Any], Any]
  expected: str
  found: Callable[[Any, Any, Any], str | None] | None = None
  check_none: bool = False
  when: Condition | None = None


class _NamesAndValues(string.Formatter):
  """Formats '{task.losses.one_hot}' as 'task.losses.one_hot (False)'."""

  def get_field(self, field_name, args, kwargs):
    value, first = super().get_field(field_name, args, kwargs)
    return f'{field_name} ({value})', first


def _shown(value: Any) -> Any:
  return value.as_dict() if isinstance(value, hyperparams.Config) else value


def refuse(path: str, value: Any, expected: str):
  """Raises a ValueError that names a field, its value and what is expected."""
  raise ValueError(f'{path} is {_shown(value)!r}; expected {expected}.')


def _get(config: Any, path: str) -> Any:
  """The field at a dotted name; None if it is in a section that is None."""
  for name in path.split('.'):
    config = getattr(config, name) if config is not None else None
  return config


def run(checks: Iterable[Check], **sections: hyperparams.Config):
  """Checks a configuration.

  Args:
    checks: rows of a table.
    **sections: the configuration's top-level sections by name.

  Raises:
    ValueError: a value is invalid; the message names the field and the value.
  """
  config = types.SimpleNamespace(**sections)
  for check in checks:
    section = _get(config, check.path.rpartition('.')[0])
    value = _get(config, check.path)
    if section is None or (value is None and not check.check_none):
      continue
    if check.when and not check.when.holds(section, config):
      continue
    if not check.valid(value, section, config):
      expected = _NamesAndValues().format(check.expected, **sections)
      if check.found:
        expected += f' ({check.found(value, section, config)})'
      refuse(check.path, value, expected)


def choice(path: str, choices: Iterable[Any], check_none=True) -> Check:
  """A field that takes one of several values."""
  return Check(
    path,
    lambda v, *_: v in choices,
    f'one of {sorted(c for c in choices if c)}',
    check_none=check_none,
  )


def at_least(path: str, least: float) -> Check:
  """A number with a lower bound."""
  return Check(path, lambda v, *_: v >= least, f'{least} or more')


def fraction(path: str) -> Check:
  """A number from 0 to 1."""
  return Check(path, lambda v, *_: 0 <= v <= 1, 'a number from 0 to 1')


def positive(path: str) -> Check:
  """A number above 0."""
  return Check(path, lambda v, *_: v > 0, 'a number above 0')


def has_source(data: cfg.DataConfig) -> bool:
  """Whether a dataset's configuration names any data."""
  return bool(data.input_path or data.tfds_name)


def require_source(data: cfg.DataConfig, name: str):
  """Checks that a dataset names its data.

  Args:
    data: the dataset's configuration.
    name: dotted name of `data` in the experiment.

  Raises:
    ValueError: it names neither files nor a TFDS dataset.
  """
  if not has_source(data):
    refuse(
      f'{name}.input_path',
      data.input_path,
      'the files to train on. task.harmonization.mapped_fraction sets which '
      'part of a batch comes from task.mapped_data; the rest comes from '
      'task.train_data',
    )


def per_replica_batch_size(
  data: cfg.DataConfig, name: str, replicas: int
) -> int:
  """Divides a global batch among replicas.

  Args:
    data: the dataset that sets the global batch size.
    name: dotted name of `data` in the experiment.
    replicas: number of replicas that share the batch.

  Returns:
    The number of images per replica.

  Raises:
    ValueError: the batch cannot be divided evenly, or is empty.
  """
  size = data.global_batch_size
  if size < 1 or size % replicas:
    refuse(
      f'{name}.global_batch_size',
      size,
      f'a positive multiple of the {replicas} replicas',
    )
  return size // replicas


def check_batch_sizes(task):
  """Checks that the batches of all datasets that are read hold images.

  Some stock experiments leave the batch size to the user.

  Args:
    task: a `HarmonizedImageClassificationTask` configuration.

  Raises:
    ValueError: a batch would be empty.
  """
  for with_map, without_map in (
    ('mapped_data', 'train_data'),
    ('mapped_validation_data', 'validation_data'),
  ):
    size = getattr(task, without_map).global_batch_size
    if size < 1 and any(
      has_source(getattr(task, n)) for n in (with_map, without_map)
    ):
      refuse(f'task.{without_map}.global_batch_size', size, '1 or more')
