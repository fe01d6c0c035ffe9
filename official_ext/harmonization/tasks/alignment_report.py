# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Reports human alignment per image: intervals, a table and pictures.

The scores of each image reach the CPU through Model Garden's hooks
`aggregate_logs` and `reduce_aggregated_logs`, since confidence intervals,
tables and pictures cannot be made in a compiled step.
"""

from collections.abc import Mapping, Sequence
import os
from typing import Any

import numpy as np
import tensorflow as tf

from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.dataloaders import images_with_maps
from official_ext.harmonization.evaluation import metrics as alignment_metrics
from official_ext.harmonization.evaluation import panels
from official_ext.harmonization.evaluation import scores as scores_lib
from official_ext.harmonization.tasks import human_ceiling

_SCORES = alignment_metrics.ImageScores._fields
_PANELS = 'alignment_panels'


def gather_rows(
  rows: Mapping[str, tf.Tensor], batch_size: int
) -> dict[str, tf.Tensor]:
  """Gives each replica the rows of all replicas; called in a replica.

  A worker's process sees only its own replicas, and all processes must get the
  same results. The rows are exchanged by a sum to which each replica
  contributes its own rows, since `all_gather` fails if a worker has one device
  (TensorFlow 2.20). A worker that has no more data contributes no rows.

  Args:
    rows: tensors (n, ...) of this replica, by name; n <= `batch_size`.
    batch_size: number of rows that are reserved for each replica.

  Returns:
    Tensors (replicas * batch_size, ...) of the same types, in the order of the
    replicas. Reserved rows without a value are zero.
  """
  context = tf.distribute.get_replica_context()
  number = tf.range(context.num_replicas_in_sync)

  def place(x):
    missing = batch_size - tf.shape(x)[0]
    x = tf.pad(x, [[0, missing]] + [[0, 0]] * (x.shape.rank - 1))
    own = number == context.replica_id_in_sync_group
    own = tf.reshape(own, [-1] + [1] * x.shape.rank)
    # float64 holds int32 exactly, which not all devices can sum.
    return tf.where(own, tf.cast(x, tf.float64)[tf.newaxis], 0.0)

  placed = {k: place(x) for k, x in rows.items()}
  summed = context.all_reduce(tf.distribute.ReduceOp.SUM, placed)
  return {
    k: tf.reshape(tf.cast(summed[k], x.dtype), [-1] + x.shape[1:].as_list())
    for k, x in rows.items()
  }


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Concatenates the rows of tables with the same columns."""
  return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def _rows_with_map(outputs: Mapping[str, Sequence[tf.Tensor]]):
  """Returns the rows of valid images with maps, in the order of replicas."""
  table = {
    k: np.concatenate([x.numpy() for x in v]) for k, v in outputs.items()
  }
  with_map = table.pop('with_map') > 0
  return {k: v[with_map] for k, v in table.items()}


class Report:
  """Collects the scores of every image and reports on them.

  Attributes:
    ceiling: the human score that `alignment` is divided by.
  """

  def __init__(
    self, config: exp_cfg.HarmonizedImageClassificationTask, folder: str | None
  ):
    """Initializes the report.

    Args:
      config: the task's configuration, which names validation data with maps.
      folder: folder for the report's files; '' or None to write none.
    """
    self._options = config.alignment_report
    self._explainer = config.harmonization.evaluation_explainer
    self.ceiling = human_ceiling.of(config)
    self._data = config.mapped_validation_data
    self._batch_size = config.validation_data.global_batch_size
    self._folder = folder or ''
    self._shown = config.allow_image_summary

  # AutoGraph would take longer to convert it than it takes to trace.
  @tf.autograph.experimental.do_not_convert
  def step_logs(
    self, scores, images, saliency, logits, batch, with_map
  ) -> dict[str, Any]:
    """Collects on the device what one step contributes to the report.

    Args:
      scores: from `alignment_evaluation.measure`, as all arguments without
        another description.
      images: (B, H, W, 3).
      saliency: see `scores`.
      logits: see `scores`.
      batch: as `dataloaders.joint_batches` describes it.
      with_map: see `scores`.

    Returns:
      `rows`, tensors with one row per image, and `pictures`, the first images
      of the batch, as many as there are panels.
    """
    rows = {
      'with_map': with_map,
      'records': batch['records'],
      'label': batch['labels'],
      'predicted': tf.argmax(logits, axis=-1, output_type=tf.int32),
      **scores._asdict(),
    }
    logs = {'rows': rows}
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
      size = self._batch_size // strategy.num_replicas_in_sync
      logs = {'all_rows': gather_rows(rows, size)}
    if self._options.panels:
      shown = slice(0, self._options.panels)
      logs['pictures'] = {
        'with_map': with_map[shown],
        'image': images[shown],
        'human map': batch['heatmaps'][shown],
        'model map': saliency[shown],
        'rho': scores.spearman[shown],
      }
    return logs

  def aggregate(
    self, state: dict[str, list[Any]] | None, step_outputs: Mapping[str, Any]
  ) -> dict[str, list[Any]]:
    """Collects the results of `step_logs`; called by `task.aggregate_logs`.

    Args:
      state: the result of the previous call, None in the first.
      step_outputs: the logs, each tensor a tuple with one per replica.

    Returns:
      The state, for the next call and for `reduce`.
    """
    state = state or {'rows': [], 'pictures': []}
    if 'all_rows' in step_outputs:
      rows = {k: v[:1] for k, v in step_outputs['all_rows'].items()}
    else:
      rows = step_outputs['rows']
    state['rows'].append(_rows_with_map(rows))
    drawn = sum(len(part['rho']) for part in state['pictures'])
    if drawn < self._options.panels:
      state['pictures'].append(_rows_with_map(step_outputs['pictures']))
    return state

  def reduce(
    self, state: Mapping[str, list[Any]], step: tf.Tensor
  ) -> dict[str, Any]:
    """Makes logs and files; called by `task.reduce_aggregated_logs`.

    Args:
      state: the result of `aggregate`.
      step: the global step.

    Returns:
      Logs: `<score>_low` and `<score>_high`, the ends of the score's interval;
      `<score>_n`, the number of images for which it is defined (that of
      Spearman's correlation is the metric `alignment_n`);
      `image/alignment_panels`, uint8 (1, height, width, 3), if Model Garden
      shows images.
    """
    rows = _joined(state['rows'])
    # Sorted, since a bootstrap samples positions, and the order of replicas
    # varies.
    by_record = np.lexsort(rows['records'].T[::-1])
    rows = {k: v[by_record] for k, v in rows.items()}
    logs: dict[str, Any] = self._intervals(rows)
    for name in _SCORES[1:]:
      logs[f'alignment_{name}_n'] = float(np.sum(~np.isnan(rows[name])))
    pictures = _joined(state['pictures']) if state['pictures'] else {}
    picture = None
    if pictures and len(pictures['rho']):
      picture = self._draw(pictures)
    if picture is not None and self._shown:
      logs[f'image/{_PANELS}'] = picture[np.newaxis]
    if (
      self._folder and tf.distribute.get_strategy().extended.should_save_summary
    ):
      self._write(rows, picture, int(step.numpy()))
    return logs

  def log_names(self) -> set[str]:
    """Returns the names of the numbers that `reduce` logs."""
    names = {f'alignment_{name}_n' for name in _SCORES[1:]}
    if self._options.resamples:
      for end in ('low', 'high'):
        names.add(f'alignment_{end}')
        names |= {f'alignment_{name}_{end}' for name in _SCORES}
    return names

  def _intervals(self, rows) -> dict[str, float]:
    if not self._options.resamples:
      return {}
    logs = {}
    for name in _SCORES:
      ends = scores_lib.bootstrap_interval(
        rows[name],
        confidence=self._options.confidence,
        resamples=self._options.resamples,
      )
      for end, value in zip(('low', 'high'), ends):
        logs[f'alignment_{name}_{end}'] = value
        if name == 'spearman':
          logs[f'alignment_{end}'] = value / self.ceiling
    return logs

  def _draw(self, pictures) -> np.ndarray:
    shown = {k: v[: self._options.panels] for k, v in pictures.items()}
    images = panels.to_display(shown.pop('image').astype(np.float32))
    captions = [f'rho {rho:.2f}' for rho in shown.pop('rho')]
    if self._explainer != 'gradient':
      shown[self._explainer] = shown.pop('model map')
    return panels.render(images, shown, captions)

  def _write(self, rows, picture, step):
    tf.io.gfile.makedirs(self._folder)
    if picture is not None:
      panels.write_png(os.path.join(self._folder, f'{_PANELS}.png'), picture)
    if self._options.per_image:
      names = images_with_maps.files(self._data)
      columns = ('label', 'predicted', *_SCORES)
      scores_lib.write_rows(
        os.path.join(self._folder, self._options.per_image),
        [
          {
            'step': step,
            'file': names[file],
            'record': record,
            'explainer': self._explainer,
            **{name: rows[name][i] for name in columns},
          }
          for i, (file, record) in enumerate(rows['records'].tolist())
        ],
      )
