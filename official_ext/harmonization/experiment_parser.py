# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Resolves an experiment: code, gin, --config_file, --params_override.

A later layer overrides an earlier one. Overridden bindings are reported, and
unknown fields are refused.
"""

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import functools
import os
from typing import Any

from absl import logging
from official.core import config_definitions as cfg
from official.core import exp_factory
from official.core import task_factory
from official.core import train_utils
from official.modeling import hyperparams
from official.vision.configs import image_classification as stock
import tensorflow as tf

import gin
from official_ext.harmonization import choices
from official_ext.harmonization import registry_imports
from official_ext.harmonization import resources
from official_ext.harmonization import text_files
from official_ext.harmonization.configs import experiment_checks
from official_ext.harmonization.configs import experiments
from official_ext.harmonization.configs import field_types
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.configs import yaml_settings

_HARMONIZABLE = (
  stock.ImageClassificationTask,
  exp_cfg.HarmonizedImageClassificationTask,
)


def experiment_names() -> list[str]:
  """Returns the names of the experiments that can be harmonized."""
  found = []
  for name in exp_factory._REGISTERED_CONFIGS:
    task = exp_factory.get_exp_config(name).task
    if type(task) in _HARMONIZABLE:
      found.append(name)
  return sorted(found)


def get_experiment(name: str) -> cfg.ExperimentConfig:
  """Looks up an experiment.

  Args:
    name: as in --experiment.

  Returns:
    The experiment as its code defines it. A `harmonized_*` experiment also has
    gin's settings.

  Raises:
    ValueError: the name is not registered; the message lists the known names.
  """
  if name not in exp_factory._REGISTERED_CONFIGS:
    known = experiment_names()
    raise ValueError(
      f'--experiment={name} is not registered; expected one of '
      f'{", ".join(known)}.' + choices.did_you_mean(name, known)
    )
  return exp_factory.get_exp_config(name)


def harmonizable_experiment(name: str) -> cfg.ExperimentConfig:
  """Looks up an experiment, with harmonization settings and gin applied.

  Args:
    name: as in --experiment.

  Returns:
    The experiment before files and flags override it.

  Raises:
    ValueError: the experiment is unknown or cannot be harmonized.
  """
  experiment = get_experiment(name)
  if name in experiments.HARMONIZED:
    return experiment  # gin's settings have been applied.
  return exp_cfg.harmonize(experiment)


def find_files(flags_obj):
  """Replaces names of gin and YAML files in the flags with their paths.

  Args:
    flags_obj: changed in place: `config_file` and `params_override`. gin finds
      its files when they are parsed.
  """
  text_files.teach_gin()
  for root in resources.search_path():
    for folder in (root, os.path.join(root, 'gin')):
      gin.add_config_file_search_path(folder)
  flags_obj.config_file = [
    resources.find(name, 'experiments') for name in flags_obj.config_file or []
  ]
  override = flags_obj.params_override
  if override and override.endswith(('.yaml', '.yml', '.json')):
    flags_obj.params_override = resources.find(override, 'experiments')


def check_fields(
  config: hyperparams.Config,
  settings: Mapping[str, Any],
  where: str,
  section: str = '',
):
  """Checks that all settings are fields of a configuration.

  Args:
    config: the configuration to set.
    settings: maps fields to values, and sections to mappings of the same kind.
    where: file or flag of the settings, for messages.
    section: dotted name of `config` in the experiment.

  Raises:
    ValueError: a field is unknown; the message suggests the nearest one.
  """
  known = [f.name for f in dataclasses.fields(config)]
  if not known:  # The user chooses the names, as for a mixture of datasets.
    return
  for key, value in settings.items():
    path = f'{section}.{key}' if section else key
    if key not in known:
      near = choices.nearest(key, known)
      hint = f'Did you mean {near}?' if near else 'Correct or remove it.'
      raise ValueError(
        f'{where}: {path} is not a field; expected one of '
        f'{", ".join(known)}{f" of {section}" if section else ""}. {hint}'
      )
    if not isinstance(value, Mapping):
      continue
    inner = getattr(config, key)
    if inner is None:
      inner = config._get_subconfig_type(key)()
    if isinstance(inner, hyperparams.Config):
      check_fields(inner, value, where, path)


def override(
  config: hyperparams.Config, settings: Mapping[str, Any], where: str
):
  """Sets the fields of a configuration.

  Args:
    config: changed in place.
    settings: as for `check_fields`.
    where: file or flag of the settings, for messages.

  Raises:
    ValueError: a field is unknown or cannot hold its value.
  """
  check_fields(config, settings, where)
  try:
    config.override(dict(settings), is_strict=True)
  except (AttributeError, KeyError, TypeError, ValueError) as e:
    raise ValueError(
      f'{where}: a value has the wrong type ({" ".join(str(e).split())}); '
      'expected a number, text, or a list whose elements have one type.'
    ) from None


def _get(config: cfg.ExperimentConfig, path: str) -> Any:
  return functools.reduce(getattr, path.split('.'), config)


class ExperimentParser(train_utils.ExperimentParser):
  """Resolves an experiment that can be harmonized.

  Attributes:
    code: the experiment before files and flags change it.
  """

  def __init__(self, flags_obj):
    """Initializes the parser.

    Args:
      flags_obj: flags as Model Garden's `ExperimentParser` reads them. gin must
        have been parsed.
    """
    super().__init__(flags_obj)
    self.code: cfg.ExperimentConfig | None = None
    self._bound: dict[str, Any] = {}
    self._replaced: dict[str, str] = {}
    self._layers: list[tuple[str, Mapping[str, Any]]] = []

  def base_experiment(self) -> cfg.ExperimentConfig:
    """Returns the experiment with gin's bindings applied."""
    params = harmonizable_experiment(self._flags_obj.experiment)
    self.code = params.replace()
    self._bound = {
      path: _get(params, path)
      for name in exp_cfg.bindings()
      for path in exp_cfg.SETTINGS[name]
    }
    return params

  def _apply(self, params, settings, where):
    before = {path: _get(params, path) for path in self._bound}
    override(params, settings, where)
    self._layers.append((where, settings))
    self._replaced.update(
      {
        path: where
        for path, value in before.items()
        if _reaches(params, path) and _get(params, path) != value
      }
    )

  def parse_config_file(self, params):
    """Applies the files of --config_file in order."""
    for path in self._flags_obj.config_file or []:
      self._apply(params, yaml_settings.read(path), path)
    return params

  def parse_runtime(self, params):
    """Applies --tpu if it is given; otherwise keeps the files' address."""
    return super().parse_runtime(params) if self._flags_obj.tpu else params

  def parse_params_override(self, params):
    """Applies --params_override, which holds settings or names their file."""
    text = self._flags_obj.params_override
    if text and (
      text.endswith(('.yaml', '.yml', '.json'))
      or (tf.io.gfile.exists(text) and not tf.io.gfile.isdir(text))
    ):
      self._apply(params, yaml_settings.read(text), text)
    elif text:
      self._apply(params, yaml_settings.parse(text), '--params_override')
    return params

  @contextlib.contextmanager
  def naming_origins(self) -> Iterator[None]:
    """A context in which errors about a field name the file that set it.

    Raises:
      ValueError: as raised inside; begins with the file or flag if the message
        begins with a field that one of them sets.
    """
    try:
      yield
    except ValueError as e:
      path = str(e).partition(' is ')[0]
      for where, settings in reversed(self._layers):
        if _sets(settings, path):
          raise ValueError(f'{where}: {e}') from None
      raise

  def report_replaced(self, params: cfg.ExperimentConfig):
    """Logs the bindings of `harmonize` that do not have their bound value.

    Args:
      params: the final experiment.
    """
    for name, bound in exp_cfg.bindings().items():
      if bound is None:
        logging.warning(
          'gin binds harmonize.%s to None, which has no effect: it keeps the '
          "experiment's value %r.",
          name,
          _get(params, exp_cfg.SETTINGS[name][0]),
        )
      for path in exp_cfg.SETTINGS[name]:
        found = _get(params, path)
        if bound is not None and found != self._bound[path]:
          logging.warning(
            'gin binds harmonize.%s to %r, but %s is %r: %s replaces it. '
            'Later layers override earlier ones: code, gin, --config_file, '
            '--params_override.',
            name,
            self._bound[path],
            path,
            found,
            self._replaced.get(path, 'the code'),
          )


def _sets(settings: Mapping[str, Any], path: str) -> bool:
  """Whether settings contain a field, or replace a section that holds it."""
  found: Any = settings
  for name in path.split('.'):
    if not isinstance(found, Mapping):
      return True
    if name not in found:
      return False
    found = found[name]
  return True


def _reaches(config: cfg.ExperimentConfig, path: str) -> bool:
  """Whether a field still exists: a file may replace a whole section."""
  for name in path.split('.'):
    if not isinstance(config, hyperparams.Config) or name not in config:
      return False
    config = getattr(config, name)
  return True


def parse_configuration(flags_obj) -> cfg.ExperimentConfig:
  """Resolves and checks the experiment of a training.

  Bindings of gin that a file or flag replaces are logged.

  Args:
    flags_obj: flags as Model Garden's `ExperimentParser` reads them. gin must
      have been parsed.

  Returns:
    The locked experiment.

  Raises:
    ValueError: the experiment is unknown or cannot be harmonized or trained,
      an override names an unknown field, or a binding of gin has no effect.
  """
  parser = ExperimentParser(flags_obj)
  params = parser.parse()
  experiment_checks.check_gin()
  with parser.naming_origins():
    experiment_checks.check(params)
  idle = exp_cfg.idle_bindings(params)
  if idle:
    raise ValueError(
      f'gin binds {", ".join(idle)}, but the experiment '
      f'{flags_obj.experiment} is not harmonized. Add '
      'harmonize.enabled = True or remove the bindings.'
    )
  if params.trainer.best_checkpoint_eval_metric:
    experiment_checks.check_best_metric(
      params.trainer, task_factory.get_task(params.task).evaluation_logs()
    )
  params.validate()
  params.lock()
  parser.report_replaced(params)
  return params


class _LenientParser(ExperimentParser):
  """Leaves experiments that cannot be harmonized unchanged."""

  def base_experiment(self):
    experiment = get_experiment(self._flags_obj.experiment)
    if type(experiment.task) in _HARMONIZABLE:
      return super().base_experiment()
    self.code = experiment.replace()
    return experiment


def resolve(flags_obj) -> tuple[ExperimentParser, cfg.ExperimentConfig]:
  """Resolves the experiment of a command that does not train.

  Args:
    flags_obj: has `experiment`, `config_file` and `params_override`.

  Returns:
    The parser and the locked experiment, whose task may be any of Model
    Garden's.

  Raises:
    ValueError: the experiment, a file or a field is unknown.
  """
  parser = _LenientParser(
    train_utils.ParseConfigOptions(
      flags_obj.experiment,
      [
        resources.find(name, 'experiments')
        for name in flags_obj.config_file or []
      ],
      params_override=flags_obj.params_override,
    )
  )
  params = parser.parse()
  with parser.naming_origins():
    field_types.check(params, '')
  params.lock()
  return parser, params
