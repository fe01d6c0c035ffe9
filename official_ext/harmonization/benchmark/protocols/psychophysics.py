# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Psychophysics: do models decide as people do?

The scores come from `benchmark.psychophysics.scoring`. The curves of models and
people add thresholds and d' to the tables, and a row for people.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
import dataclasses
import math
import os
import statistics
from typing import Any

from etils import epy
import typing_extensions

from official_ext.harmonization import cli
from official_ext.harmonization import files
from official_ext.harmonization import option_values
from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark.report import blocks

with epy.lazy_imports():
  import tensorflow as tf

  from official_ext.harmonization.benchmark import data_cards
  from official_ext.harmonization.benchmark import results
  from official_ext.harmonization.benchmark.psychophysics import human_values
  from official_ext.harmonization.benchmark.psychophysics import scoring
  from official_ext.harmonization.benchmark.report import curves
  from official_ext.harmonization.benchmark.report import figures
  from official_ext.harmonization.benchmark.report import people as people_lib
  from official_ext.harmonization.data.stimuli import stimulus_files
  from official_ext.harmonization.evaluation import scores

_ACCURACY = 'psychophysics_accuracy'
_THRESHOLD = 'psychophysics_threshold'
_D_PRIME = 'psychophysics_d_prime'
_RATIO = 'psychophysics_log_threshold_ratio'
_FULL_LEVEL = 200
_FACTS = {
  'input_path': 'data',
  'stimuli': 'stimuli',
  'human': 'responses of people',
  'rule': 'decision rule',
  'framing': 'resize mode of stimuli',
}


@dataclasses.dataclass(frozen=True)
class PsychophysicsOptions:
  """Flags of the protocol."""

  psychophysics: str = cli.flag(
    '', 'Folder of stimuli, see docs/psychophysics.md.', path=True
  )
  human_trials: str = cli.flag(
    '',
    'CSV file with the responses of people to the stimuli of --psychophysics, '
    'or with their accuracy per level.',
    path=True,
  )
  rule: str = cli.flag(
    'split_398',
    'How logits become a response.',
    choices=option_values.DECISION_RULES,
  )
  framing: str = cli.flag(
    'resize',
    "How a stimulus is brought to a model's input size.",
    choices=option_values.STIMULUS_FRAMINGS,
  )
  animal_classes: tuple[str, ...] = cli.flag(
    (), "Numbers of the classes that are animals, if not ImageNet's."
  )


class PsychophysicsProtocol(protocol.Protocol):
  """Rapid animal categorization, see `benchmark.psychophysics.scoring`."""

  name = 'psychophysics'
  label = 'Psychophysics'
  title = 'Psychophysics: how people decide'
  version = 2
  Options = PsychophysicsOptions
  score_words = {
    'accuracy': 'accuracy',
    'full_accuracy': 'accuracy at the full image',
    'threshold': 'threshold (% revealed)',
    'd_prime': "d' (mean of levels)",
    'l2': 'L2 (small is good)',
    'negative_log_mse': '-log MSE',
    'log_threshold_ratio': 'threshold ratio (log10, 0 is good)',
    'error_consistency': 'error consistency (κ)',
    'observed_consistency': 'observed consistency',
    'accuracy_difference': 'squared accuracy difference',
  }
  headlines = (
    _ACCURACY,
    'psychophysics_l2',
    'psychophysics_error_consistency',
  )
  people_label = 'people (split halves; each against others)'
  pictures = ('curves.png',)

  def __init__(self, folder: str, *, batch_size: int, **options: Any):
    """Initializes the protocol.

    Args:
      folder: of the stimuli.
      batch_size: no score depends on it.
      **options: of `scoring.evaluate`.
    """
    self._folder = folder
    self._batch_size = batch_size
    self._options = options

  @classmethod
  @typing_extensions.override
  def from_options(
    cls, options: PsychophysicsOptions, run: protocol.RunOptions
  ) -> 'PsychophysicsProtocol':
    try:
      animals = [int(number) for number in options.animal_classes]
    except ValueError:
      raise protocol.SettingsError(
        f'--animal_classes={",".join(options.animal_classes)}; expected '
        'numbers of classes with commas between them, such as 0,1,2.'
      ) from None
    try:
      files.refuse_output_in(
        run.output_dir, {'psychophysics': options.psychophysics}, below=True
      )
      # Otherwise a wrong file would be found with the first network.
      scoring.read(options.psychophysics, options.human_trials or None)
    except ValueError as e:
      raise protocol.SettingsError(str(e)) from None
    return cls(
      options.psychophysics,
      batch_size=run.batch_size,
      human=options.human_trials or None,
      rule=options.rule,
      framing=options.framing,
      animal_classes=animals or None,
    )

  @classmethod
  @typing_extensions.override
  def flags_without_effect(
    cls, options: PsychophysicsOptions, measured: Container[str]
  ) -> Iterator[tuple[str, Sequence[str]]]:
    if cls.name not in measured:
      yield (
        'without --psychophysics',
        ('human_trials', 'rule', 'framing', 'animal_classes'),
      )

  def _stimuli(self):
    try:
      return stimulus_files.find(self._folder)
    except ValueError as e:
      raise protocol.BadDataError(str(e)) from None

  @typing_extensions.override
  def settings(self) -> dict[str, Any]:
    return {
      'input_path': self._folder,
      'stimuli': len(self._stimuli()),
      **self._options,
    }

  @typing_extensions.override
  def origin(self, digests) -> 'data_cards.Origin':
    try:
      found = scoring.read(self._folder, self._options['human'])
    except ValueError as e:
      raise protocol.BadDataError(str(e)) from None
    trials = getattr(found.people, 'trials', ())
    return data_cards.of_stimuli(self._folder, found.stimuli, trials)

  @typing_extensions.override
  def identity(self, digests) -> dict[str, Any]:
    options = {**self._options}
    human = options.pop('human', None)
    # Names count, because the name of a stimulus says what it shows.
    names = [s.file for s in self._stimuli()]
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
      raise protocol.BadDataError(
        f'{self._folder}: a stimulus or the table of responses cannot be read '
        f'({e}).'
      ) from None

  @typing_extensions.override
  def run(self, adapter, progress, journal=None) -> 'results.Measurement':
    found = scoring.evaluate(
      adapter,
      self._folder,
      batch_size=self._batch_size,
      journal=journal,
      **self._options,
    )
    progress(len(found.trials))
    return results.Measurement(
      scores=found.scores,
      rows=found.trials,
      warnings=found.warnings,
      curves={
        observer: results.Curve.from_json(curve.to_json())
        for observer, curve in found.curves.items()
      },
    )

  @classmethod
  @typing_extensions.override
  def describe(cls, settings: Mapping[str, Any]) -> str:
    return (
      'Each model responds animal or not animal to images of which a growing '
      'part, the most important to people, is revealed. Its accuracy curve is '
      'compared with that of people. The threshold is the percent revealed at '
      'which a fitted curve is halfway from chance to its upper end; '
      "d' is the sensitivity to animals. Error consistency is Cohen's κ of "
      'right and wrong responses, within each level.'
    )

  @classmethod
  @typing_extensions.override
  def facts(cls, settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return protocol.facts_of(settings, _FACTS)

  @classmethod
  @typing_extensions.override
  def scores_of(cls, result):
    curve = _curve(result)
    accuracy = result.scores.get(_ACCURACY)
    confidence = accuracy.confidence if accuracy else 0.95
    return {
      **result.scores,
      **(_scores_of_curve(curve, confidence) if curve else {}),
    }

  @classmethod
  @typing_extensions.override
  def people(cls, found):
    curve = _curve_of_people(found)
    if curve is None:
      return {}
    made = _scores_of_curve(curve)
    # Version 1 resampled images only.
    if _THRESHOLD in made and any(_RATIO in r.scores for r in found):
      threshold = made[_THRESHOLD]
      made[_THRESHOLD] = dataclasses.replace(
        threshold,
        details={**threshold.details, 'bootstrap': 'images and participants'},
      )
    made[_ACCURACY] = _score(_ACCURACY, statistics.fmean(curve.accuracy))
    for result in found:
      for name, score in result.scores.items():
        human = human_values.HumanValues.of(score).people
        if not math.isnan(human.value):
          made.setdefault(
            name,
            _score(
              name,
              human.value,
              low=human.low,
              high=human.high,
              confidence=score.confidence,
              details={'interval': human.interval},
            ),
          )
        # Version 1: the distance between random halves of the participants.
        halves = score.details.get('people_split_half')
        if halves is not None:
          made.setdefault(name, _score(name, halves))
    return made

  @classmethod
  @typing_extensions.override
  def sections(cls, found, twins) -> list[blocks.Block]:
    by_observer = {name: _curve(result) for name, result in found.items()}
    models = {name: curve for name, curve in by_observer.items() if curve}
    people = _curve_of_people(list(found.values()))
    observers = [*models.items(), *([('people', people)] if people else [])]
    parts: list[blocks.Block] = []
    problems = [
      f'{name}: no threshold, because {curve.problem}.'
      for name, curve in observers
      if curve.problem
    ]
    if problems:
      parts.append(blocks.Sentences(problems))
    if models:
      band = _band(people, list(found.values()))
      parts.append(
        figures.themed_picture(
          lambda theme: curves.draw(models, people, twins, theme),
          'Accuracy of people and models as more of the image is revealed.',
          'Accuracy by the percent of the image that is revealed. Solid lines '
          'are people and harmonized twins, dashed lines other models'
          + (f'; the band around people is {band}' if band else '')
          + '. The dotted line is chance.',
          cls.pictures[0],
        )
      )
    table = _sensitivities(observers)
    parts += [table] if table.rows else []
    return parts + people_lib.tables(found)


def _curve(result, observer: str = 'model') -> 'results.Curve | None':
  return (result.curves or {}).get(observer)


def _curve_of_people(found) -> 'results.Curve | None':
  """Returns the curve of people, which is the same for all models."""
  return next(filter(None, (_curve(r, 'human') for r in found)), None)


def _score(name: str, value: float, **fields) -> 'scores.Score':
  """Makes a score that is not a mean over images."""
  return scores.Score(
    **{
      'name': name,
      'value': value,
      'n': None,
      'n_undefined': None,
      'low': math.nan,
      'high': math.nan,
      'confidence': 0.95,
      'ceiling': None,
      'preprocessing': '',
      'details': {},
      **fields,
    }
  )


def _scores_of_curve(
  curve: 'results.Curve', confidence: float = 0.95
) -> 'dict[str, scores.Score]':
  """Returns threshold and mean d', if the curve has them."""
  made = {}
  if curve.threshold is not None:
    low, high = curve.threshold_interval or (math.nan, math.nan)
    made[_THRESHOLD] = _score(
      _THRESHOLD, curve.threshold, low=low, high=high, confidence=confidence
    )
  values = curve.d_prime or ()
  if not all(map(math.isnan, values)):
    made[_D_PRIME] = _score(_D_PRIME, statistics.fmean(values))
  return made


def _sensitivities(observers) -> blocks.Table:
  """Returns d' at each level; without rows if no curve has it."""
  shown = [
    (name, curve)
    for name, curve in observers
    if not all(map(math.isnan, curve.d_prime or ()))
  ]
  percents = {
    level: percent
    for _, curve in shown
    for level, percent in zip(curve.levels, curve.percents)
  }
  levels = sorted(percents)
  rows = []
  for name, curve in shown:
    by_level = dict(zip(curve.levels, curve.d_prime))
    values = [by_level.get(level, math.nan) for level in levels]
    rows.append([name, *('-' if math.isnan(v) else f'{v:.2f}' for v in values)])
  titles = [
    'full' if level == _FULL_LEVEL else f'{percents[level]:.3g} %'
    for level in levels
  ]
  return blocks.Table(
    ['model', *titles],
    rows,
    "Sensitivity d' by the part of the image that is revealed, over all "
    'responses.',
    is_numeric=True,
  )


def _band(people, found) -> str:
  """Says what the band around people's curve is; '' if it is not drawn."""
  if people is None or all(map(math.isnan, people.standard_error)):
    return ''
  participants = next(
    (
      score.details['n_participants']
      for result in found
      for score in result.scores.values()
      if 'n_participants' in score.details
    ),
    None,
  )
  if participants is None:
    return 'one standard error, as given with the accuracies of people'
  if participants == 1:
    return 'one standard error over the images of the only participant'
  return f'one standard error over the {participants} participants'
