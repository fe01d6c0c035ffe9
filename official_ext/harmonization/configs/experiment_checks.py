"""Checks of a whole experiment: task, trainer and runtime together, and gin."""

import re
from typing import Iterable

import gin

from official.core import config_definitions as cfg
from official_ext.harmonization.configs import checks
from official_ext.harmonization.configs import field_types

_PRECISIONS = (None, '', 'float32', 'float16', 'bfloat16')
_COMPARISONS = ('higher', 'lower')


def check(params: cfg.ExperimentConfig):
  """Checks that an experiment can be trained and evaluated.

  Args:
    params: the final experiment.

  Raises:
    ValueError: a field, or a combination of fields, cannot work. The message
      names the field, what was found and what to do.
  """
  field_types.check(params, 'experiment')
  checks.check(params.task)
  precision = params.runtime.mixed_precision_dtype
  if precision not in _PRECISIONS:
    checks.refuse('runtime.mixed_precision_dtype', precision,
                  f'choose one of {[p for p in _PRECISIONS if p]}')
  _check_best_checkpoint(params.trainer)
  if params.task.harmonization.enabled:
    _check_harmonized(params)


def _check_best_checkpoint(trainer):
  """The host exports nothing unless both fields are there, without a word."""
  folder = trainer.best_checkpoint_export_subdir
  metric = trainer.best_checkpoint_eval_metric
  for name, value, other in (
      ('best_checkpoint_export_subdir', folder, metric),
      ('best_checkpoint_eval_metric', metric, folder)):
    if other and not value:
      checks.refuse(
          f'trainer.{name}', value, 'the best checkpoint needs both a '
          'best_checkpoint_export_subdir and a best_checkpoint_eval_metric')
  if trainer.best_checkpoint_metric_comp not in _COMPARISONS:
    checks.refuse('trainer.best_checkpoint_metric_comp',
                  trainer.best_checkpoint_metric_comp,
                  f'choose one of {list(_COMPARISONS)}')


def _check_harmonized(params):
  """Checks what harmonization asks of the trainer and the runtime."""
  trainer = params.trainer
  if trainer.validation_steps != -1:
    checks.refuse('trainer.validation_steps', trainer.validation_steps,
            'set it to -1, the two validation sources come after each other '
                  'and every image counts once')
  warmup = params.task.harmonization.warmup_steps
  if warmup > trainer.train_steps > 0:
    checks.refuse('task.harmonization.warmup_steps', warmup,
                  f'training ends after {trainer.train_steps} steps '
                  '(trainer.train_steps), before the weight is reached')
  ema = trainer.optimizer_config.ema
  if params.runtime.mixed_precision_dtype == 'float16' and ema is not None:
    checks.refuse('trainer.optimizer_config.ema', ema.as_dict(),
                  'the host leaves the moving average out where '
                  'runtime.mixed_precision_dtype is float16: use bfloat16 or '
                  'float32, or set ema to null')


def check_best_metric(trainer: cfg.TrainerConfig, names: Iterable[str]):
  """Checks that the best checkpoint's metric is one that is logged.

  The host would keep the first checkpoint as the best, and stop at the second
  evaluation.

  Args:
    trainer: of the experiment.
    names: of what an evaluation logs.

  Raises:
    ValueError: it is none of them.
  """
  metric = trainer.best_checkpoint_eval_metric
  if metric and metric not in names:
    checks.refuse('trainer.best_checkpoint_eval_metric', metric,
            'evaluation with these sources does not log it, choose one of '
                  f'{sorted(names)}')


def check_gin():
  """Checks that no binding of `harmonize` is one that nothing reads.

  gin takes bindings in scopes that are never entered, and macros that nobody
  refers to.

  Raises:
    ValueError: there is one.
  """
  text = gin.config_str(max_line_length=10**6)
  for scope, parameter in re.findall(r'^([\w./]+/)?harmonize\.(\w+) =', text,
                                     re.MULTILINE):
    if scope or parameter == 'config':
      raise ValueError(
          f'gin binds {scope}harmonize.{parameter}, which nothing reads: '
          'write harmonize.<field> without a scope, the fields are those of '
          'configs.harmonized_image_classification.harmonize.')
  macros = text.partition('# Macros:')[2].partition('# Parameters for')[0]
  for name in re.findall(r'^([\w./]+) =', macros, re.MULTILINE):
    if not re.search(rf'%{re.escape(name)}\b', text):
      raise ValueError(
          f'gin binds {name}, which nothing refers to (as %{name}): write '
          f'harmonize.{name} if that was meant, or remove it.')
