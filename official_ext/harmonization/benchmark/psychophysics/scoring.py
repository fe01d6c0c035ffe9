# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Scores a network in the rapid animal / vehicle categorization experiment.

The protocol of the paper, described in docs/psychophysics.md: a network
responds to every stimulus of a folder, and its accuracy as more of each image
is revealed is compared with people's.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from official_ext.harmonization import choices
from official_ext.harmonization import option_values
from official_ext.harmonization.benchmark import accuracy
from official_ext.harmonization.benchmark import journal as journal_lib
from official_ext.harmonization.benchmark import statistics
from official_ext.harmonization.benchmark.psychophysics import accuracy_curves
from official_ext.harmonization.benchmark.psychophysics import decisions
from official_ext.harmonization.benchmark.psychophysics import human_trials
from official_ext.harmonization.benchmark.psychophysics import human_values
from official_ext.harmonization.benchmark.psychophysics import model_responses
from official_ext.harmonization.benchmark.psychophysics import people_comparison
from official_ext.harmonization.benchmark.psychophysics import psychometrics
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.evaluation import scores

FRAMINGS = option_values.STIMULUS_FRAMINGS

# The level with 100 % revealed, which is used if the full image is not shown.
_ALL_REVEALED = 100


@dataclasses.dataclass(frozen=True)
class PsychophysicsResult:
  """The scores of a network in the experiment.

  Attributes:
    curves: of the network ('model') and, if given, of people ('human').
    scores: `psychophysics_accuracy`, the mean of the network's curve, and
      `psychophysics_full_accuracy`, at the full image; with people's data
      `psychophysics_l2` (smaller is better), `psychophysics_negative_log_mse`
      (larger is better) and `psychophysics_log_threshold_ratio` (0 is equal);
      with their trials also the measures of `consistency`. `details['people']`
      is the same number for people, and `details['difference']` the network's
      minus people's, with its test.
    trials: rows with the columns of model-vs-human, for `scores.write_rows`.
    settings: the arguments of `evaluate` on which the scores depend.
    warnings: sentences that a reader of the scores must know.
  """

  curves: Mapping[str, accuracy_curves.Curve]
  scores: Sequence[scores.Score]
  trials: Sequence[Mapping[str, Any]]
  settings: Mapping[str, Any]
  warnings: Sequence[str] = ()

  def to_json(self) -> dict[str, Any]:
    """Returns everything except trials and warnings, for strict JSON."""
    return scores.json_safe(
      {
        'curves': {name: c.to_json() for name, c in self.curves.items()},
        'scores': [score.to_json() for score in self.scores],
        'settings': self.settings,
      }
    )


def common_levels(
  shown: Sequence[int],
  answered: Sequence[int] | None,
  levels: Sequence[int] | None,
) -> list[int]:
  """Returns the levels that are compared; no level is skipped silently.

  Args:
    shown: levels of the stimuli.
    answered: levels of people's data; None without people.
    levels: the levels to compare; None for all.

  Returns:
    The levels in increasing order.

  Raises:
    ValueError: a level is missing in the stimuli or in people's data.
  """
  sides = {'the stimuli': {*shown}}
  if answered is not None:
    sides['the human data'] = {*answered}
  wanted = set.union(*sides.values()) if levels is None else {*levels}
  if not wanted:
    raise ValueError('levels is empty; expected levels, or None for all.')
  for side, there in sides.items():
    missing = sorted(wanted - there)
    if missing:
      names = ', '.join(map(stimulus_files.level_name, missing))
      raise ValueError(
        f'Levels {names} are missing in {side}; expected them in the stimuli '
        'and in the human data. Add them, or list the common ones in levels.'
      )
  return sorted(wanted)


def _check_targets(stimuli, levels):
  """Refuses levels whose stimuli all have the same target."""
  for level in levels:
    targets = {s.target for s in stimuli if s.level == level}
    if len(targets) < 2:
      raise ValueError(
        f'All stimuli of level {stimulus_files.level_name(level)} show '
        f'{targets.pop()}s; expected animals and vehicles. Add the other '
        'target, or exclude the level.'
      )


class Experiment(NamedTuple):
  """Stimuli and what people answered.

  Attributes:
    stimuli: in order.
    people: as from `human_trials.read`, or None.
    levels: that are compared, in increasing order.
    images: of stimuli and trials.
  """

  stimuli: Sequence[stimulus_files.Stimulus]
  people: human_trials.Trials | human_trials.Accuracies | None
  levels: Sequence[int]
  images: accuracy_curves.ExperimentImages


def read(
  folder: str,
  human: str | None = None,
  classes: Mapping[str, str] | None = None,
  levels: Sequence[int] | None = None,
) -> Experiment:
  """Reads stimuli and people's data, and checks that they fit together.

  Args:
    folder: as in `evaluate`, like the others.
    human: likewise.
    classes: likewise.
    levels: likewise.

  Returns:
    The experiment.

  Raises:
    ValueError: the stimuli and people's data do not fit together.
  """
  stimuli = stimulus_files.find(folder, classes)
  people = human_trials.read(human) if human else None
  levels = common_levels([s.level for s in stimuli], _levels(people), levels)
  _check_targets(stimuli, levels)
  images = accuracy_curves.ExperimentImages(
    [(s.image, s.target) for s in stimuli]
    + [(t.image, t.target) for t in getattr(people, 'trials', ())]
  )
  return Experiment(stimuli, people, levels, images)


def evaluate(
  adapter,
  folder: str,
  *,
  human: str | None = None,
  rule: str = 'split_398',
  animal_classes: Sequence[int] | None = None,
  classes: Mapping[str, str] | None = None,
  levels: Sequence[int] | None = None,
  framing: str = 'resize',
  batch_size: int = 32,
  confidence: float = 0.95,
  resamples: int = 1000,
  seed: int = 0,
  journal: journal_lib.Journal | None = None,
) -> PsychophysicsResult:
  """Scores a network, and compares it with people.

    result = scoring.evaluate(spec.build('keras_app:VGG16'), 'stimuli',
                              human='trials.csv')

  Args:
    adapter: the network, an `adapters.base.Adapter`.
    folder: of stimuli, see `data.stimuli.stimulus_files`.
    human: CSV file of people's trials or accuracies, see `human_trials`; None
      to score only the network.
    rule: 'split_398', 'mean_logit' or 'readout', see `decisions`.
    animal_classes: indices of the network's animal classes; None for ImageNet's
      first 398 classes.
    classes: 'animal' or 'vehicle' by the class of a stimulus, if neither the
      folders nor the file names contain the target.
    levels: the levels to compare; None for all.
    framing: resize mode, as in `model_responses.read_image`.
    batch_size: stimuli in memory at a time.
    confidence: of the intervals.
    resamples: number of bootstrap resamples.
    seed: of the bootstrap and of the linear probe.
    journal: as in `model_responses.decide`.

  Returns:
    Curves, scores and trials.

  Raises:
    ValueError: the stimuli, people's data, rule or network do not fit together.
  """
  choices.require('rule', rule, decisions.RULES)
  choices.require('framing', framing, FRAMINGS)
  stimuli, people, levels, images = read(folder, human, classes, levels)
  # The linear probe learns from full images, whether their level is compared or
  # not.
  if rule != 'readout':
    stimuli = [s for s in stimuli if s.level in levels]
  animal = model_responses.decide(
    adapter,
    folder,
    stimuli,
    rule=rule,
    animal_classes=animal_classes,
    batch_size=batch_size,
    framing=framing,
    seed=seed,
    journal=journal,
  )
  answered = [
    (s, stimulus_files.ANIMAL if a else stimulus_files.VEHICLE)
    for s, a in zip(stimuli, animal)
    if s.level in levels
  ]
  model = accuracy_curves.ResponseCounts(
    [
      human_trials.Trial(adapter.name, s.level, s.image, s.target, answer)
      for s, answer in answered
    ],
    images,
    levels,
  )
  preprocessing = f'{adapter.preprocessing}; stimuli by {framing}'
  settings = {
    'stimuli': folder,
    'human': human,
    'rule': rule,
    'animal_classes': None if animal_classes is None else [*animal_classes],
    'levels': levels,
    'preprocessing': preprocessing,
    'resamples': resamples,
    'seed': seed,
  }
  curves, made = people_comparison.compare(
    model,
    _responses(people, images, levels),
    images,
    resamples,
    seed,
    {'rule': rule, **_counts(answered, people)},
    dict(
      n=len({s.image for s, _ in answered}),
      n_undefined=0,
      ceiling=None,
      confidence=confidence,
      preprocessing=preprocessing,
    ),
  )
  full, warnings = _full_accuracy(answered, confidence, preprocessing, people)
  made += full
  rows = [
    human_trials.row(
      adapter.name,
      i,
      s.file,
      s.target,
      answer,
      stimulus_files.level_name(s.level),
    )
    for i, (s, answer) in enumerate(answered, 1)
  ]
  return PsychophysicsResult(curves, made, rows, settings, warnings)


def _full_accuracy(answered, confidence, preprocessing, people):
  """Scores the full image, and tests whether the network is above chance.

  Little of an image may show too little for anyone. A network that does not
  exceed chance even at the full image does not take part in the task.

  Args:
    answered: (stimulus, response) pairs of the network.
    confidence: of the interval.
    preprocessing: of the images, in one line.
    people: as from `human_trials.read`.

  Returns:
    A list of at most one score, and a list of at most one warning; both are
    empty if neither the full image nor 100 % is shown.
  """
  levels = {s.level for s, _ in answered}
  level = next(
    (x for x in (stimulus_files.FULL, _ALL_REVEALED) if x in levels), None
  )
  if level is None:
    return [], []
  pairs = [
    (answer == stimulus_files.ANIMAL, s.target == stimulus_files.ANIMAL)
    for s, answer in answered
    if s.level == level
  ]
  answers, targets = np.array(pairs, int).T
  test = accuracy.chance(answers, targets)
  score = accuracy.proportion(
    'psychophysics_full_accuracy',
    answers == targets,
    preprocessing=preprocessing,
    confidence=confidence,
    details={
      'level': level,
      'chance': test.rate,
      'chance_p_value': test.p_value,
      'people': _people_at(level, people, confidence),
    },
  )
  if not test.is_at_chance:
    return [score], []
  return [score], [
    f'At the full image, accuracy is {score.value:.3f} on '
    f'{choices.plural(score.n or 0, "image")}, '
    f'not significantly above guessing ({test.rate:.3f}; one-sided binomial '
    f'test, p = {test.p_value:.2g}, not below {accuracy.SIGNIFICANCE}). '
    'The curve does not show how the network '
    'recognizes images. The usual cause is a wrong rule, class order or '
    'preprocessing.'
  ]


def _people_at(level, people, confidence) -> dict[str, Any] | None:
  """Returns people's accuracy at a level, with a test against chance.

  Args:
    level: one that is scored.
    people: as from `human_trials.read`.
    confidence: of the interval, Student's t over participants, cut at 1.

  Returns:
    `value`, `low`, `high`, and `p`, one-sided against chance, ½; None without
    people or with accuracies only.
  """
  if not isinstance(people, human_trials.Trials):
    return None
  correct: dict[str, list[bool]] = {}
  for t in people.trials:
    if t.level == level:
      correct.setdefault(t.participant, []).append(t.response == t.target)
  above = statistics.mean(
    [np.mean(c) - psychometrics.GUESS for c in correct.values()],
    confidence=confidence,
  )
  low, value, high = (
    float(np.clip(x + psychometrics.GUESS, 0.0, 1.0))
    for x in (above.low, above.value, above.high)
  )
  return human_values.Value(
    value,
    low,
    high,
    "Student's t over participants",
    above.p / 2 if above.value > 0 else 1 - above.p / 2,
  ).to_json()


def _levels(people) -> Sequence[int] | None:
  """Returns the levels of people's data; None without people."""
  if isinstance(people, human_trials.Trials):
    return [t.level for t in people.trials]
  return people and list(people.accuracy)


def _responses(people, images, levels):
  """Returns people's data at some levels, ready for resampling, or None."""
  if isinstance(people, human_trials.Trials):
    return accuracy_curves.ResponseCounts(
      [t for t in people.trials if t.level in levels], images, levels
    )
  return people and accuracy_curves.TabulatedAccuracy(people, levels)


def _counts(answered, people) -> dict[str, Any]:
  """Returns the details of a score about the data it was computed from."""
  if people is None:
    return {'bootstrap': 'images'}
  if isinstance(people, human_trials.Accuracies):
    known = ~np.isnan([*people.standard_error.values()])
    return {
      'bootstrap': "images; people's accuracies "
      + (
        'by their standard errors'
        if known.all()
        else 'by their standard errors, where known'
        if known.any()
        else 'fixed, because their standard errors are unknown'
      )
    }
  model, human = (
    {s.image for s, _ in answered},
    {t.image for t in people.trials},
  )
  return {
    'bootstrap': 'images and participants',
    'n_participants': len({t.participant for t in people.trials}),
    'n_images_human': len(human),
    'n_images_of_both': len(model & human),
    'n_no_answer': people.n_no_answer,
  }
