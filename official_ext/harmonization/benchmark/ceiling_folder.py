# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Stores measured ceilings, and finds those that can be used again.

`measured_ceilings` reads the finished files for the benchmark.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import os
from typing import Any

import tensorflow as tf
import tqdm

from official_ext.harmonization import choices
from official_ext.harmonization import files
from official_ext.harmonization.benchmark import claims
from official_ext.harmonization.benchmark import earlier
from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import journal
from official_ext.harmonization.benchmark import measured_ceilings
from official_ext.harmonization.data.records import manifest
from official_ext.harmonization.evaluation import scores

# Results of the finished groups, until all groups are finished.
_PROGRESS = 'ceilings.partial.jsonl'
_CLAIM = 'ceilings.claim'


class CeilingFolder:
  """The results of a measurement, finished or not.

  with ceiling_folder.CeilingFolder('runs/ceiling').claimed() as folder:
    found = folder.stored(depends_on)
  """

  def __init__(self, path: str):
    """Initializes the folder.

    Args:
      path: of the folder.
    """
    self._path = path
    self._images = os.path.join(path, measured_ceilings.IMAGES)
    self._results = os.path.join(path, measured_ceilings.RESULTS)
    self._progress = os.path.join(path, _PROGRESS)

  @contextlib.contextmanager
  def claimed(self) -> Iterator['CeilingFolder']:
    """Makes the folder, and keeps other processes out of it.

    Yields:
      The folder.

    Raises:
      ValueError: another process uses it.
    """
    tf.io.gfile.makedirs(self._path)
    claim = claims.Claim(os.path.join(self._path, _CLAIM))
    try:
      with claim:
        yield self
    except claims.Taken as e:
      raise ValueError(
        f'--output_dir={self._path} is in use by {e}. Wait until it '
        'ends, or choose another folder.'
      ) from None

  def clicks_digest(self) -> str:
    """Returns the checksum of the clicks of the results, or ''."""
    try:
      return files.read_json(self._results)['identity']['data']['clicks']
    except (KeyError, TypeError, ValueError, tf.errors.NotFoundError):
      return ''

  def stored(self, depends_on: Mapping[str, Any]) -> dict[str, scores.Score]:
    """Returns the scores in the folder if they are those to be measured.

    Args:
      depends_on: the identity of the measurement, see `benchmark.identity`.

    Returns:
      Scores by name, and a note is printed; empty without stored results, or if
      they depend on anything else.
    """
    if not tf.io.gfile.exists(self._results):
      return {}
    reason, date = self._difference(depends_on)
    if reason:
      return {}
    found = files.read_json(self._results)['scores']
    # A process may have been killed between the result and this file's removal.
    if tf.io.gfile.exists(self._progress):
      tf.io.gfile.remove(self._progress)
    tqdm.tqdm.write(
      f'{self._results}: measured from the same clicks with the same settings '
      f'on {identity.date(date)}; nothing is measured again.'
    )
    return {
      name: scores.Score.from_json(content) for name, content in found.items()
    }

  def open_progress(self, depends_on: Mapping[str, Any]) -> journal.Journal:
    """Opens the groups of an earlier run, and reports whether they are used.

    Args:
      depends_on: the identity of the measurement.

    Returns:
      A journal of the results of `ceiling_groups.measure_group`.
    """
    progress = journal.Journal(self._progress, dict(depends_on))
    if progress.note:
      tqdm.tqdm.write(
        f'{self._progress}: {progress.note}; the measurement starts again.'
      )
    if progress.items:
      number = sum(len(item[1]) for item in progress.items)
      tqdm.tqdm.write(
        f'Kept {choices.plural(number, "image")} from a run that began on '
        f'{identity.date(progress.begun)}.'
      )
    return progress

  def write(
    self, rows: Sequence[Mapping[str, Any]], results: Mapping[str, Any]
  ):
    """Writes the table and the results; keeps earlier results that differ.

    Args:
      rows: a row per image.
      results: content of the JSON file, with the `identity`.
    """
    table = measured_ceilings.IMAGES
    if tf.io.gfile.exists(self._results):
      reason, date = self._difference(results['identity'])
      if reason:
        kept = earlier.move(
          self._path, [measured_ceilings.RESULTS, table], date
        )
        tqdm.tqdm.write(
          f'{self._results} was the result of another measurement: {reason}. '
          f'It is kept in {kept}.'
        )
    scores.write_rows(self._images, rows)
    content = {**results, 'contents': {table: manifest.sha256(self._images)}}
    scores.write_json(
      self._results,
      {**content, 'digest': identity.sha256(scores.json_safe(content))},
    )

  def _difference(self, depends_on: Mapping[str, Any]) -> tuple[str, str]:
    """Returns why the results in the folder differ, or '', and their date."""
    table = measured_ceilings.IMAGES
    try:
      found = files.read_json(self._results)
      digest, date = found.pop('digest'), found['created']
      if digest != identity.sha256(found):
        return 'it was edited', date
      if not tf.io.gfile.exists(self._images) or (
        manifest.sha256(self._images) != found['contents'][table]
      ):
        return f'{table} was edited or removed', date
      return identity.differences(found['identity'], depends_on), date
    except (AttributeError, KeyError, TypeError, ValueError):
      return ('it is damaged, or has no identity', 'unverified')
