"""Checks of a whole experiment: task, trainer and runtime together, and gin."""

from collections.abc import Iterable
import re

from official.core import config_definitions as cfg

import gin
from official_ext.harmonization.configs import checks
from official_ext.harmonization.configs import field_types

_PRECISIONS = (None, '', 'float32', 'float16', 'bfloat16')
_COMPARISONS = ('higher', 'lower')
# What Model Garden can start, and which sums over replicas each can take.
_ONE_DEVICE = ('off', 'one_device')
_ALL_REDUCE = {
  'mirrored': (None, '', 'nccl', 'hierarchical_copy'),
  'multi_worker_mirrored': (None, '', 'nccl', 'ring'),
}
_STRATEGIES = (*_ONE_DEVICE, *_ALL_REDUCE, 'parameter_server', 'tpu')
# Of a schedule's fields that are None by default, those that may stay so.
_MAY_LACK = ('staircase',)
# Fields of the trainer and the least that they may be.
_LEAST = {
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
  _check_runtime(params.runtime)
  _check_trainer(params.trainer)
  _check_schedules(params.trainer.optimizer_config)
  _check_best_checkpoint(params.trainer)
  if params.task.harmonization.enabled:
    _check_harmonized(params)


def _check_runtime(runtime):
  """Checks the names of what a run needs, not whether it is there."""
  precision, strategy = (
    runtime.mixed_precision_dtype,
    (runtime.distribution_strategy or '').lower(),
  )
  if precision not in _PRECISIONS:
    checks.refuse(
      'runtime.mixed_precision_dtype',
      precision,
      f'choose one of {[p for p in _PRECISIONS if p]}',
    )
  if strategy not in _STRATEGIES:
    checks.refuse(
      'runtime.distribution_strategy',
      runtime.distribution_strategy,
      f'choose one of {list(_STRATEGIES)}',
    )
  if runtime.num_gpus < 0:
    checks.refuse('runtime.num_gpus', runtime.num_gpus, 'it must be 0 or more')
  if runtime.num_gpus > 1 and strategy in _ONE_DEVICE:
    checks.refuse(
      'runtime.num_gpus',
      runtime.num_gpus,
      f'the strategy {strategy} (runtime.distribution_strategy) '
      'has one device, set it to 0 or 1 or choose mirrored',
    )
  if runtime.all_reduce_alg not in _ALL_REDUCE.get(
    strategy, (runtime.all_reduce_alg,)
  ):
    checks.refuse(
      'runtime.all_reduce_alg',
      runtime.all_reduce_alg,
      f'with {strategy} choose one of '
      f'{[a for a in _ALL_REDUCE[strategy] if a]}',
    )
  scale = runtime.loss_scale
  if scale not in (None, '', 'dynamic') and (
    isinstance(scale, str) or scale <= 0
  ):
    checks.refuse(
      'runtime.loss_scale',
      scale,
      "give 'dynamic' or a number that is more than 0",
    )


def _check_trainer(trainer):
  """Checks how long and how often."""
  for name, least in _LEAST.items():
    if getattr(trainer, name) < least:
      checks.refuse(
        f'trainer.{name}', getattr(trainer, name), f'it must be {least} or more'
      )
  if trainer.validation_steps != -1 and trainer.validation_steps < 1:
    checks.refuse(
      'trainer.validation_steps',
      trainer.validation_steps,
      'it must be 1 or more, or -1 for all images',
    )
  if trainer.summary_interval % trainer.steps_per_loop:
    checks.refuse(
      'trainer.summary_interval',
      trainer.summary_interval,
      'it must be a multiple of trainer.steps_per_loop '
      f'({trainer.steps_per_loop})',
    )


def _check_schedules(optimizer_config):
  """Checks that the schedules that were chosen have what they need."""
  ema = optimizer_config.ema
  if ema is not None and not 0 <= ema.average_decay <= 1:
    checks.refuse(
      'trainer.optimizer_config.ema.average_decay',
      ema.average_decay,
      'it must be from 0 to 1',
    )
  for section in ('learning_rate', 'warmup'):
    schedule = getattr(optimizer_config, section)
    if schedule is None or not schedule.type:
      continue
    for field, value in schedule.get().as_dict().items():
      name = f'trainer.optimizer_config.{section}.{schedule.type}.{field}'
      if value is None and field not in _MAY_LACK:
        checks.refuse(name, value, f'the {section} {schedule.type} needs it')
      if field.endswith('decay_steps') and value < 1:
        checks.refuse(name, value, 'it must be 1 or more')
      if field == 'warmup_steps' and value < 0:
        checks.refuse(name, value, 'it must be 0 or more')


def _check_best_checkpoint(trainer):
  """The host exports nothing unless both fields are there, without a word."""
  folder = trainer.best_checkpoint_export_subdir
  metric = trainer.best_checkpoint_eval_metric
  for name, value, other in (
    ('best_checkpoint_export_subdir', folder, metric),
    ('best_checkpoint_eval_metric', metric, folder),
  ):
    if other and not value:
      checks.refuse(
        f'trainer.{name}',
        value,
        'the best checkpoint needs both a '
        'best_checkpoint_export_subdir and a best_checkpoint_eval_metric',
      )
  if trainer.best_checkpoint_metric_comp not in _COMPARISONS:
    checks.refuse(
      'trainer.best_checkpoint_metric_comp',
      trainer.best_checkpoint_metric_comp,
      f'choose one of {list(_COMPARISONS)}',
    )


def _check_harmonized(params):
  """Checks what harmonization asks of the trainer and the runtime."""
  trainer = params.trainer
  if trainer.validation_steps != -1:
    checks.refuse(
      'trainer.validation_steps',
      trainer.validation_steps,
      'set it to -1, the two validation sources come after each other and '
      'every image counts once',
    )
  warmup = params.task.harmonization.warmup_steps
  if warmup > trainer.train_steps > 0:
    checks.refuse(
      'task.harmonization.warmup_steps',
      warmup,
      f'training ends after {trainer.train_steps} steps '
      '(trainer.train_steps), before the weight is reached',
    )
  ema = trainer.optimizer_config.ema
  if params.runtime.mixed_precision_dtype == 'float16' and ema is not None:
    checks.refuse(
      'trainer.optimizer_config.ema',
      ema.as_dict(),
      'the host leaves the moving average out where '
      'runtime.mixed_precision_dtype is float16: use bfloat16 or '
      'float32, or set ema to null',
    )


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
    checks.refuse(
      'trainer.best_checkpoint_eval_metric',
      metric,
      'evaluation with these sources does not log it, choose one of '
      f'{sorted(names)}',
    )


def check_gin():
  """Checks that no binding of `harmonize` is one that nothing reads.

  gin takes bindings in scopes that are never entered, and macros that nobody
  refers to.

  Raises:
    ValueError: there is one.
  """
  text = gin.config_str(max_line_length=10**6)
  for scope, parameter in re.findall(
    r'^([\w./]+/)?harmonize\.(\w+) =', text, re.MULTILINE
  ):
    if scope or parameter == 'config':
      raise ValueError(
        f'gin binds {scope}harmonize.{parameter}, which nothing reads: '
        'write harmonize.<field> without a scope, the fields are those of '
        'configs.harmonized_image_classification.harmonize.'
      )
  macros = text.partition('# Macros:')[2].partition('# Parameters for')[0]
  for name in re.findall(r'^([\w./]+) =', macros, re.MULTILINE):
    if not re.search(rf'%{re.escape(name)}\b', text):
      raise ValueError(
        f'gin binds {name}, which nothing refers to (as %{name}): write '
        f'harmonize.{name} if that was meant, or remove it.'
      )
