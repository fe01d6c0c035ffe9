"""HOW people decide, as an experiment of the benchmark."""

from collections.abc import Callable
import os
from typing import Any

import tensorflow as tf

from official_ext.harmonization.benchmark import identity
from official_ext.harmonization.benchmark import journal as journal_lib
from official_ext.harmonization.benchmark import labelled_images
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark.psychophysics import (
  scoring as psychophysics,
)
from official_ext.harmonization.data.stimuli import stimulus_files


class PsychophysicsProtocol(protocol.Experiment):
  """The psychophysics protocol of `benchmark.psychophysics.scoring`."""

  name = 'psychophysics'
  title = 'Psychophysics: how people decide'

  def __init__(self, folder: str, *, batch_size: int, **options: Any):
    """Initializes the experiment.

    Args:
      folder: of the stimuli.
      batch_size: on which no score depends.
      **options: of `psychophysics.evaluate`.
    """
    self._folder = folder
    self._batch_size = batch_size
    self._options = options

  def settings(self) -> dict[str, Any]:
    """What the scores depend on, but for the model.

    Returns:
      The settings.

    Raises:
      labelled_images.BadDataError: the folder holds no stimuli.
    """
    try:
      stimuli = stimulus_files.find(self._folder)
    except ValueError as e:
      raise labelled_images.BadDataError(str(e)) from None
    return {
      'input_path': self._folder,
      'stimuli': len(stimuli),
      **self._options,
    }

  def identity(self, digests: identity.Digests) -> dict[str, Any]:
    """See `results.Experiment`; a stimulus's name says what it shows."""
    options = {**self._options}
    human = options.pop('human', None)
    names = [s.file for s in stimulus_files.find(self._folder)]
    try:
      return {
        'protocol': f'{self.name} {self.version}',
        'data': {
          'stimuli': digests.of(
            [os.path.join(self._folder, n) for n in names], names
          ),
          'human_trials': digests.of([human]) if human else None,
        },
        'options': options,
      }
    except (OSError, tf.errors.OpError) as e:
      raise labelled_images.BadDataError(
        f'{self._folder}: a stimulus or the table of answers cannot be read '
        f'({e}).'
      ) from None

  def run(
    self,
    adapter,
    progress: Callable[[int], Any],
    journal: journal_lib.Journal | None = None,
  ) -> protocol.Result:
    """Scores a model; `psychophysics.evaluate` shows its own progress.

    Args:
      adapter: of the model, an `adapters.base.Adapter`.
      progress: is told at the end.
      journal: see `results.Experiment`; its items are those of
        `psychophysics.decide`.

    Returns:
      The scores, a row per trial, and the curves of model and people.
    """
    found = psychophysics.evaluate(
      adapter,
      self._folder,
      batch_size=self._batch_size,
      journal=journal,
      **self._options,
    )
    progress(len(found.trials))
    return protocol.Result(
      scores=found.scores,
      rows=found.trials,
      curves={name: c.to_json() for name, c in found.curves.items()},
    )
