# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Runs damaged records through the input pipelines and judges the outcomes.

Outcomes, best first: `unchanged` and `as it reads now` (the values of the
undamaged record, or of an independent reading of the damaged bytes), `named`
(an error that names file and record) and `skipped` (and counted). Two outcomes
are failures: `silent` (other values, or a record that is missing without an
error) and `unnamed` (an error that does not name the record).
"""

from collections.abc import Callable, Sequence
import os
import re
from typing import Any

import numpy as np
from official.vision.configs import image_classification as stock
from official.vision.ops import preprocess_ops
import tensorflow as tf

from official_ext.harmonization.configs import (
  harmonized_image_classification as exp_cfg,
)
from official_ext.harmonization.data.records import verification
from official_ext.harmonization.dataloaders import images_with_maps
from official_ext.harmonization.dataloaders import registry
from stress.mutations import readings
from stress.mutations import records as mutations

UNCHANGED, CHANGED = 'unchanged', 'as it reads now'
NAMED, SKIPPED, SILENT, UNNAMED = 'named', 'skipped', 'silent', 'unnamed'
GOOD = (UNCHANGED, CHANGED, NAMED, SKIPPED)

PIPELINES = (
  'training, fail',
  'training, skip',
  'evaluation, fail',
  'evaluation, skip',
  'verify_records',
)

_SIZE = 16
_INDEX = re.compile(r', record (\d+) \(counted from 0\)')
# Mean over pixels: JPEG decoders differ by a few levels of 255.
_TOLERANCE = 6.0
_RAW_TOLERANCE = 1e-3


class Unclear(Exception):
  """Events cannot be attributed to records. Arguments: outcome, detail."""


def _pipeline(
  path: str, record_format: str, is_training: bool, on_bad_record: str
) -> tf.data.Dataset:
  """Returns a dataset of batches of one record. The file may change later."""
  fields = (
    {} if is_training else {'aug_crop': False, 'blur': 'none', 'min_max': False}
  )
  params = exp_cfg.MappedDataConfig(
    input_path=path,
    map_decoder=record_format,
    is_training=is_training,
    global_batch_size=1,
    drop_remainder=is_training,
    label_offset=0,
    shuffle_buffer_size=1,
    deterministic=True,
    seed=1,
    on_bad_record=on_bad_record,
    max_bad_records=1000,
    **fields,
  )
  model = stock.ImageClassificationModel(
    num_classes=mutations.CLASSES, input_size=[_SIZE, _SIZE, 3]
  )
  return images_with_maps.read(params, model, soft_labels=False)


def _pixels(images: np.ndarray) -> np.ndarray:
  """Undoes the normalization: values 0..255."""
  return images * preprocess_ops.STDDEV_RGB + preprocess_ops.MEAN_RGB


def _resized(pixels: np.ndarray, antialias: bool) -> np.ndarray:
  pixels = np.atleast_3d(np.asarray(pixels, np.float32))
  return tf.image.resize(pixels, [_SIZE, _SIZE], antialias=antialias).numpy()


class Trials:
  """The pipelines of a format, and their results on records."""

  def __init__(
    self,
    folder: str,
    record_format: str,
    tell: Callable[[str], None] = lambda pipeline: None,
  ):
    """Builds the pipelines.

    Args:
      folder: folder for a file.
      record_format: one of `mutations.FORMATS`.
      tell: function that receives the name of each pipeline before it runs.
    """
    self._path = os.path.join(folder, f'{record_format}.tfrecords')
    self._format, self._tell = record_format, tell
    self._raw = registry.is_raw(record_format)
    self._good = mutations.serialize(mutations.valid(record_format, 0))
    self._datasets = {
      f'{split}, {mode}': _pipeline(
        self._path, record_format, split == 'training', mode
      )
      for split in ('training', 'evaluation')
      for mode in ('fail', 'skip')
    }
    self._check = verification.decoder_check(record_format, mutations.CLASSES)
    self._originals = {}

  # ---- Records ----

  def run(self, records: Sequence[bytes]) -> list[dict[str, tuple[str, str]]]:
    """Runs records, as one file, through all pipelines.

    Args:
      records: serialized records.

    Returns:
      For each record, a mapping from pipeline to outcome and detail.

    Raises:
      Unclear: events cannot be attributed to records. Run fewer at a time.
    """
    results = [{} for _ in records]
    evaluated = self.evaluate('evaluation, fail', records)
    trained = self._train('training, fail', records)
    for name, events in (
      ('evaluation, fail', evaluated),
      ('training, fail', trained),
    ):
      for result, event, record in zip(results, events, records):
        result[name] = self._judge(event, record)
    # A label outside the range also stops a run that skips records. These
    # records come first, so that they do not end the count of skipped ones.
    order = sorted(
      range(len(records)),
      key=lambda i: (
        not (isinstance(trained[i], str) and 'its label' in trained[i])
      ),
    )
    reordered = [records[i] for i in order]
    for name, run, base in (
      ('evaluation, skip', self.evaluate, evaluated),
      ('training, skip', self._train, trained),
    ):
      for i, event in zip(order, run(name, reordered)):
        results[i][name] = self._judge(event, records[i])
        if isinstance(base[i], str) != isinstance(event, (str, type(None))):
          results[i][name] = SILENT, f'{event!r}, but with fail {base[i]!r}'
    self._tell('verify_records')
    for result, event, record in zip(results, evaluated, records):
      result['verify_records'] = self._verified(event, record)
    return results

  def _write(self, records):
    with open(self._path, 'wb') as f:
      f.write(mutations.frame([*records, self._good]))

  def _events(self, name, records):
    """Yields batches and errors of a pipeline. The last record is valid."""
    self._tell(name)
    self._write(records)
    iterator = iter(self._datasets[name])
    while True:
      try:
        images, batch = next(iterator)
      except StopIteration:
        return
      except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as e:
        yield e
      else:
        yield {
          'images': images.numpy(),
          **{k: v.numpy() for k, v in batch.items()},
        }

  def _place(self, error) -> int:
    found = _INDEX.search(error.message)
    if not found or self._path not in error.message:
      raise Unclear(UNNAMED, error.message)
    return int(found[1])

  def evaluate(self, name: str, records: Sequence[bytes]) -> list[Any]:
    """Runs records through a pipeline of evaluation.

    Args:
      name: one of `PIPELINES`.
      records: serialized records.

    Returns:
      A batch, an error message, or None if skipped, per record.

    Raises:
      Unclear: events cannot be attributed to records.
    """
    found = {}
    for event in self._events(name, records):
      if isinstance(event, dict):
        place = int(event['records'][0, 1])
        if event.get('valid', [1.0])[0] == 0.0:
          if event['bad_records'][0] != 1.0:
            raise Unclear(SILENT, 'a blank row that is not counted')
          event = None
      else:
        place, event = self._place(event), event.message
      if place in found:
        raise Unclear(SILENT, f'record {place} occurred twice')
      found[place] = event
    if sorted(found) != list(range(len(records) + 1)):
      raise Unclear(SILENT, f'{len(records)} and 1 gave {sorted(found)}')
    return [found[i] for i in range(len(records))]

  def _train(self, name, records):
    """Like `evaluate`, but batches of training do not name their records."""
    found, rows, seen = {}, [], 0
    for event in self._events(name, records):
      if isinstance(event, dict):
        count = int(event.get('bad_records', [0])[0])
        rows += [None] * count + [event]
      else:
        found[self._place(event)] = event.message
      seen = len(rows) + len(found)
      if seen > len(records):  # Training repeats its data without end.
        break
    if seen != len(records) + 1:
      raise Unclear(SILENT, f'{len(records)} and 1 gave {seen} events')
    places = (i for i in range(len(records) + 1) if i not in found)
    found.update(zip(places, rows))
    return [found[i] for i in range(len(records))]

  # ---- Judgement ----

  def _judge(self, event, record) -> tuple[str, str]:
    if event is None:
      return SKIPPED, ''
    if isinstance(event, str):
      return NAMED, event
    try:
      reading = readings.read(self._format, record)
    except readings.Unreadable as e:
      return SILENT, f'values of an unreadable record: {e}'
    problem = self.differences(event, reading)
    if problem:
      return SILENT, problem
    return (UNCHANGED if self._is_original(reading) else CHANGED), ''

  def differences(self, event, reading) -> str:
    """Describes how a batch differs from an independent reading.

    Args:
      event: a batch of one record, NumPy arrays by name.
      reading: the `readings.Reading` of the record.

    Returns:
      The first difference; empty if the batch equals the reading.
    """
    has_map = bool(reading.heatmaps)
    if not 0 <= reading.label < mutations.CLASSES:
      return f'values of label {reading.label}'
    if int(event['labels'][0]) != reading.label:
      return f'label {event["labels"][0]}, not {reading.label}'
    if float(event['heatmap_weights'][0]) != has_map:
      return f'weight {event["heatmap_weights"][0]}, map: {has_map}'
    if not np.isfinite(event['images']).all():
      return 'an image that is not finite'
    if 'records' not in event:  # Training crops and flips.
      heatmap = event['heatmaps']
      return '' if heatmap.min() >= 0 and heatmap.max() <= 1 else 'a map > 1'
    for what, found, expected in (
      ('image', _pixels(event['images'][0]), reading.images),
      ('map', event['heatmaps'][0][..., np.newaxis], reading.heatmaps),
    ):
      tolerance = _TOLERANCE
      if self._raw:
        tolerance = _RAW_TOLERANCE * max(1.0, np.abs(expected[0]).max())
      antialias = what == 'map' and self._format == 'canonical'
      gap = min(np.abs(found - _resized(e, antialias)).mean() for e in expected)
      if not gap <= tolerance:
        return f'{what} that differs by {gap} from the expected one'
    return ''

  def _is_original(self, reading) -> bool:
    """Returns whether a reading equals one of the undamaged records."""
    for seed in range(mutations.ORIGINALS):
      if seed not in self._originals:
        self._originals[seed] = readings.read(
          self._format, mutations.serialize(mutations.valid(self._format, seed))
        )
      original = self._originals[seed]
      if reading.label == original.label and all(
        bool(a) == bool(b) and (not a or np.array_equal(a[0], b[0]))
        for a, b in (
          (reading.images, original.images),
          (reading.heatmaps, original.heatmaps),
        )
      ):
        return True
    return False

  def _verified(self, event, record) -> tuple[str, str]:
    problem = self._check(record)
    if problem:
      return NAMED, problem
    # Only evaluation needs a map.
    if isinstance(event, str) and 'no human map' not in event:
      return (
        SILENT,
        f'valid for verify_records, but not for evaluation: {event}',
      )
    return (
      (CHANGED, '') if isinstance(event, str) else (self._judge(event, record))
    )

  # ---- Files ----

  def run_file(self, data: bytes, damaged: int) -> dict[str, tuple[str, str]]:
    """Runs a damaged file through all pipelines.

    Args:
      data: bytes of the file.
      damaged: position of the bad record.

    Returns:
      A mapping from pipeline to outcome and detail.
    """
    with open(self._path, 'wb') as f:
      f.write(data)
    results = {name: self._read_file(name, damaged) for name in self._datasets}
    self._tell('verify_records')
    problems = verification.verify_file(self._path, self._check).problems
    results['verify_records'] = self._located(problems[:1], damaged)
    return results

  def _read_file(self, name, damaged):
    self._tell(name)
    try:
      for _, _ in zip(range(10), self._datasets[name]):
        pass
    except tf.errors.DataLossError as e:
      # As train.py does.
      return self._located([verification.locate([self._path], e)], damaged)
    except tf.errors.OpError as e:
      return UNNAMED, e.message
    return SILENT, 'no error for a damaged file'

  def _located(self, problems: list[Any], damaged) -> tuple[str, str]:
    if problems and problems[0] and problems[0].record == damaged:
      return NAMED, str(problems[0])
    return SILENT, f'{problems} instead of record {damaged}'
