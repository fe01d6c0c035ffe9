"""HOW people decide, as an experiment of the benchmark."""

from typing import Any, Callable, Dict

from official_ext.harmonization.data import stimulus_files
from official_ext.harmonization.evaluation import labelled_images
from official_ext.harmonization.evaluation import psychophysics
from official_ext.harmonization.evaluation import results


class How:
  """The psychophysics protocol of `evaluation.psychophysics`."""

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

  def settings(self) -> Dict[str, Any]:
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
    return {'input_path': self._folder, 'stimuli': len(stimuli),
            **self._options}

  def run(self, adapter, progress: Callable[[int], Any]) -> results.Result:
    """Scores a model; `psychophysics.evaluate` shows its own progress.

    Args:
      adapter: of the model, an `adapters.base.Adapter`.
      progress: is told at the end.

    Returns:
      The scores, a row per trial, and the curves of model and people.
    """
    found = psychophysics.evaluate(
        adapter, self._folder, batch_size=self._batch_size, **self._options)
    progress(len(found.trials))
    return results.Result(
        scores=found.scores, rows=found.trials,
        curves={name: c.to_json() for name, c in found.curves.items()})
