# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Checks of a whole experiment: task, trainer, runtime and gin.

`python -m official_ext.harmonization.configs.experiment_checks` prints the
tables of checks as Markdown, for docs/checks.md.
"""

from collections.abc import Iterable
import re

from official.core import config_definitions as cfg

from gin import config as gin_config
from official_ext.harmonization.configs import checks
from official_ext.harmonization.configs import field_types
from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.configs import task_checks

_PRECISIONS = (None, '', 'float32', 'float16', 'bfloat16')
_COMPARISONS = ('higher', 'lower')
# The strategies that Model Garden can start, and the all-reduce algorithms that
# each of them accepts.
_ONE_DEVICE = ('off', 'one_device')
_ALL_REDUCE = {
  'mirrored': (None, '', 'nccl', 'hierarchical_copy'),
  'multi_worker_mirrored': (None, '', 'nccl', 'ring'),
}
_STRATEGIES = (*_ONE_DEVICE, *_ALL_REDUCE, 'parameter_server', 'tpu')
# Fields of schedules whose default is None and that may keep it.
_OPTIONAL = ('staircase',)
_LEAST_OF_TRAINER = {
  'checkpoint_interval': 1,
  'continuous_eval_timeout': 0,
  'loss_upper_bound': 0,
  'max_to_keep': 1,
  'recovery_begin_steps': 0,
  'steps_per_loop': 1,
  'summary_interval': 1,
  'train_steps': 0,
  'validation_interval': 0,
}


def _strategy(config) -> str:
  return (config.runtime.distribution_strategy or '').lower()


_RUNTIME = (
  checks.choice('runtime.mixed_precision_dtype', _PRECISIONS),
  checks.Check(
    'runtime.distribution_strategy',
    lambda v, _, c: _strategy(c) in _STRATEGIES,
    f'one of {list(_STRATEGIES)}',
    check_none=True,
  ),
  checks.at_least('runtime.num_gpus', 0),
  checks.Check(
    'runtime.num_gpus',
    lambda v, *_: v <= 1,
    '0 or 1, since {runtime.distribution_strategy} uses one device. Choose '
    'mirrored for several',
    when=checks.Condition(
      f'`runtime.distribution_strategy` is {" or ".join(_ONE_DEVICE)}',
      lambda _, c: _strategy(c) in _ONE_DEVICE,
    ),
  ),
  *(
    checks.Check(
      'runtime.all_reduce_alg',
      lambda v, *_, choices=choices: v in choices,
      f'one of {[a for a in choices if a]} with the strategy {strategy}',
      when=checks.Condition(
        f'`runtime.distribution_strategy` is {strategy}',
        lambda _, c, strategy=strategy: _strategy(c) == strategy,
      ),
    )
    for strategy, choices in _ALL_REDUCE.items()
  ),
  checks.Check(
    'runtime.loss_scale',
    lambda v, *_: v in ('', 'dynamic') or (not isinstance(v, str) and v > 0),
    "'dynamic' or a number above 0",
  ),
)

_TRAINER = (
  *(
    checks.at_least(f'trainer.{name}', least)
    for name, least in _LEAST_OF_TRAINER.items()
  ),
  checks.Check(
    'trainer.validation_steps',
    lambda v, *_: v == -1 or v >= 1,
    '1 or more, or -1 for all images',
  ),
  checks.Check(
    'trainer.summary_interval',
    lambda v, trainer, _: not v % trainer.steps_per_loop,
    'a multiple of {trainer.steps_per_loop}',
  ),
  checks.fraction('trainer.optimizer_config.ema.average_decay'),
)

_BEST_CHECKPOINT = (
  # Model Garden silently exports nothing if one of the two is missing.
  checks.Check(
    'trainer.best_checkpoint_export_subdir',
    lambda v, *_: v,
    'a folder, since a best checkpoint needs both a folder and '
    '{trainer.best_checkpoint_eval_metric}',
    check_none=True,
    when=checks.Condition(
      '`trainer.best_checkpoint_eval_metric` is set',
      lambda trainer, _: trainer.best_checkpoint_eval_metric,
    ),
  ),
  checks.Check(
    'trainer.best_checkpoint_eval_metric',
    lambda v, *_: v,
    'a metric, since a best checkpoint needs both a metric and '
    '{trainer.best_checkpoint_export_subdir}',
    check_none=True,
    when=checks.Condition(
      '`trainer.best_checkpoint_export_subdir` is set',
      lambda trainer, _: trainer.best_checkpoint_export_subdir,
    ),
  ),
  checks.choice('trainer.best_checkpoint_metric_comp', _COMPARISONS),
)

EXPERIMENT = _RUNTIME + _TRAINER + _BEST_CHECKPOINT

HARMONIZED_EXPERIMENT = (
  checks.Check(
    'trainer.validation_steps',
    lambda v, *_: v == -1,
    '-1, since the two validation datasets follow each other and every image '
    'counts once',
  ),
  checks.Check(
    'task.harmonization.warmup_steps',
    lambda v, _, c: v <= c.trainer.train_steps,
    'at most {trainer.train_steps}, or the weight is never reached',
    when=checks.Condition(
      '`trainer.train_steps` is above 0',
      lambda _, c: c.trainer.train_steps > 0,
    ),
  ),
  checks.Check(
    'trainer.optimizer_config.ema',
    lambda v, *_: v is None,
    'null, since Model Garden skips the moving average in float16. Set ema to '
    'null, or use bfloat16 or float32',
    when=checks.Condition(
      '`runtime.mixed_precision_dtype` is float16',
      lambda _, c: c.runtime.mixed_precision_dtype == 'float16',
    ),
  ),
)


def check(params: cfg.ExperimentConfig):
  """Checks that an experiment can be trained and evaluated.

  Args:
    params: the final experiment.

  Raises:
    ValueError: a field, or a combination of fields, is invalid. The message
      names the field, its value and what is expected.
  """
  field_types.check(params, '')
  task_checks.check(params.task)
  sections = dict(
    task=params.task, trainer=params.trainer, runtime=params.runtime
  )
  checks.run(EXPERIMENT, **sections)
  _check_schedules(params.trainer.optimizer_config)
  if params.task.harmonization.enabled:
    checks.run(HARMONIZED_EXPERIMENT, **sections)


# Not in the table, because the fields depend on the chosen schedules.
def _check_schedules(optimizer_config):
  """Checks that the chosen schedules have the values that they need."""
  for section in ('learning_rate', 'warmup'):
    schedule = getattr(optimizer_config, section)
    if schedule is None or not schedule.type:
      continue
    for field, value in schedule.get().as_dict().items():
      name = f'trainer.optimizer_config.{section}.{schedule.type}.{field}'
      if value is None:
        if field not in _OPTIONAL:
          checks.refuse(
            name,
            value,
            f'a value, since the {section} {schedule.type} needs it',
          )
        continue
      if field.endswith('decay_steps') and value < 1:
        checks.refuse(name, value, '1 or more')
      if field == 'warmup_steps' and value < 0:
        checks.refuse(name, value, '0 or more')


def check_best_metric(trainer: cfg.TrainerConfig, names: Iterable[str]):
  """Checks that the evaluation logs the metric of the best checkpoint.

  If it does not, Model Garden keeps the first checkpoint as the best and stops
  at the second evaluation.

  Args:
    trainer: trainer configuration.
    names: names of all metrics that an evaluation logs.

  Raises:
    ValueError: the metric is not among `names`.
  """
  metric = trainer.best_checkpoint_eval_metric
  if metric and metric not in names:
    checks.refuse(
      'trainer.best_checkpoint_eval_metric',
      metric,
      f'a metric that evaluation logs with these datasets: {sorted(names)}',
    )


def check_gin():
  """Checks that every binding of gin is read.

  gin accepts bindings in scopes that are never entered, and macros that are
  never referred to.

  Raises:
    ValueError: a binding or macro would have no effect.
  """
  # gin has no public function that lists scopes and macros.
  config = gin_config._CONFIG
  referenced = {r.config_key for r in gin_config.iterate_references(config)}
  harmonize = f'{exp_cfg.__name__}.{exp_cfg.harmonize.__name__}'
  for key, parameters in config.items():
    scope, selector = key
    if selector == harmonize and (scope or 'config' in parameters):
      name = next(iter(parameters)) if scope else 'config'
      raise ValueError(
        f'gin binds {scope}{"/" * bool(scope)}harmonize.{name}, which nothing '
        'reads; expected harmonize.FIELD without a scope, where FIELD is one '
        f'of {", ".join(exp_cfg.SETTINGS)}.'
      )
    if selector == 'gin.macro' and key not in referenced:
      raise ValueError(
        f'gin binds {scope}, to which nothing refers; expected a reference as '
        f'%{scope}. Write harmonize.{scope} if that was meant, or remove it.'
      )


def as_markdown() -> str:
  """Returns the tables of checks as a Markdown page."""
  lines = [
    '# Checks of an experiment',
    '',
    '*Who needs this page: anyone who reads or changes a configuration.* It '
    'lists what `train.py` checks before it builds anything. A value that is '
    'not as expected stops the command with one sentence that names the field, '
    'the value and what is expected. Types are checked as well (see '
    '`configs/field_types.py`).',
    '',
    'This page is printed by `python -m '
    'official_ext.harmonization.configs.experiment_checks`.',
  ]
  for title, table in (
    ('Every experiment', task_checks.TASK + EXPERIMENT),
    (
      'With `task.harmonization.enabled`',
      task_checks.HARMONIZED_TASK + HARMONIZED_EXPERIMENT,
    ),
  ):
    rows: dict[tuple[str, str, str], list[str]] = {}
    for row in table:
      # A field of several datasets takes one line.
      condition = row.when.text if row.when else ''
      key = row.path.rpartition('.')[2], row.expected, condition
      rows.setdefault(key, []).append(row.path)
    lines += ['', f'## {title}', '']
    lines += ['| field | expected | only if |', '| --- | --- | --- |']
    for (_, expected, condition), paths in rows.items():
      fields = '<br>'.join(f'`{path}`' for path in paths)
      text = re.sub(r'{([^}]*)}', r'`\1`', expected).replace('|', '\\|')
      lines.append(f'| {fields} | {text} | {condition} |')
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  print(as_markdown(), end='')
