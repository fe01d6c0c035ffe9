"""HOW people and networks decide: accuracy as more of an image is revealed.

The protocol of the paper's rapid animal / vehicle categorization, as
docs/psychophysics.md has it: a network answers for every stimulus of a folder,
and its accuracy curve is compared with people's.
"""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np
from PIL import Image
import tqdm

from official_ext.harmonization import choices
from official_ext.harmonization.benchmark import journal as journal_lib
from official_ext.harmonization.benchmark.psychophysics import accuracy_curves
from official_ext.harmonization.benchmark.psychophysics import decisions
from official_ext.harmonization.benchmark.psychophysics import human_trials
from official_ext.harmonization.benchmark.psychophysics import psychometrics
from official_ext.harmonization.data.maps import image_codec
from official_ext.harmonization.data.maps import map_files
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.evaluation import scores

FRAMINGS = ('resize', 'center_crop')

_ALIGNMENTS = {
  'psychophysics_l2': psychometrics.l2,
  'psychophysics_negative_log_mse': psychometrics.negative_log_mse,
}


@dataclasses.dataclass(frozen=True)
class Result:
  """What a network did in the experiment.

  Attributes:
    curves: of the network ('model') and, where they are given, of people
      ('human').
    scores: `psychophysics_accuracy`, the mean of the network's curve, and with
      people's answers `psychophysics_l2` (smaller is better) and
      `psychophysics_negative_log_mse` (greater is better).
    trials: rows of model-vs-human's columns, for `scores.write_rows`.
    settings: how the answers were taken.
  """

  curves: Mapping[str, accuracy_curves.Curve]
  scores: Sequence[scores.Score]
  trials: Sequence[Mapping[str, Any]]
  settings: Mapping[str, Any]

  def to_json(self) -> dict[str, Any]:
    """Returns all but the trials, as strict JSON can hold it."""
    return scores.json_safe(
      {
        'curves': {name: c.to_json() for name, c in self.curves.items()},
        'scores': [score.to_json() for score in self.scores],
        'settings': self.settings,
      }
    )


def read_image(
  folder: str, file: str, size: Sequence[int], framing: str = 'resize'
) -> np.ndarray:
  """Reads a stimulus at a network's input size.

  Args:
    folder: of the stimuli.
    file: its path below.
    size: height and width in pixels.
    framing: 'resize' (bilinear, antialiased), or 'center_crop', the middle of
      the stimulus as it is.

  Returns:
    float32 (height, width, 3), RGB, 0..255.

  Raises:
    ValueError: it is no picture, or too small to be cropped.
  """
  height, width = size
  try:
    picture = Image.fromarray(
      image_codec.decode_image(map_files.read_file(folder, file))
    )
  except ValueError as e:
    raise ValueError(f'{folder}/{file}: {e}. Make or fetch it again.') from None
  if framing == 'resize':
    picture = picture.resize((width, height), Image.BILINEAR)
  else:
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    if left < 0 or top < 0:
      raise ValueError(
        f'{folder}/{file} is {picture.height} x '
        f"{picture.width}, less than the network's {height} x "
        f'{width}: take the framing resize.'
      )
    picture = picture.crop((left, top, left + width, top + height))
  return np.asarray(picture, np.float32)


def _logits(adapter, folder, stimuli, batch_size, framing):
  """Yields a batch of stimuli and its logits after the other."""
  bar = tqdm.tqdm(
    total=len(stimuli),
    desc=f'{adapter.name}: psychophysics',
    unit=' stimuli',
    disable=None,
  )
  with bar:
    for start in range(0, len(stimuli), batch_size):
      batch = stimuli[start : start + batch_size]
      images = np.stack(
        [read_image(folder, s.file, adapter.input_size, framing) for s in batch]
      )
      logits = np.asarray(adapter.logits(adapter.preprocess(images)))
      bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
      if bad.size:
        raise ValueError(
          f'{adapter.name} has a logit for {folder}/{batch[bad[0]].file} '
          'that is not finite, so that it has no answer: check its weights '
          'and preprocessing.'
        )
      yield logits
      bar.update(len(batch))


def decide(
  adapter,
  folder: str,
  stimuli: Sequence[stimulus_files.Stimulus],
  *,
  rule: str = 'split_398',
  animal_classes: Sequence[int] | None = None,
  batch_size: int = 32,
  framing: str = 'resize',
  seed: int = 0,
  journal: journal_lib.Journal | None = None,
) -> np.ndarray:
  """Lets a network answer.

  Args:
    adapter: the network, see `adapters.base.Adapter`.
    folder: of the stimuli.
    stimuli: in it.
    rule: one of `decisions.RULES`.
    animal_classes: which of its classes are animals; None for ImageNet's.
    batch_size: stimuli held at a time.
    framing: as in `read_image`.
    seed: decides the folds of a read-out.
    journal: of what is known of the first stimuli; None to keep nothing. Its
      items are answers, of a read-out the logits.

  Returns:
    bool (n,), True where it answers animal.

  Raises:
    ValueError: rule or classes do not fit the network, or a stimulus cannot be
      read or answered.
  """
  is_readout = rule == 'readout'
  if is_readout and animal_classes is not None:
    raise ValueError(
      'animal_classes has no use with the rule readout, which '
      'learns what speaks for animals: leave it out.'
    )
  answer = decisions.split if rule == 'split_398' else decisions.mean_logit
  items = journal_lib.kept(journal)
  for logits in _logits(
    adapter, folder, stimuli[len(items) :], batch_size, framing
  ):
    if is_readout:
      found = [_as_text(row) for row in logits]
    else:
      mask = decisions.animal_mask(logits.shape[1], animal_classes)
      found = answer(logits, mask).tolist()
    items += found
    if journal:
      journal.add(found)
  if not is_readout:
    return np.array(items, bool)
  images, animals, whole = (
    np.array(values)
    for values in zip(
      *(
        (
          s.image,
          s.target == stimulus_files.ANIMAL,
          s.level == stimulus_files.FULL,
        )
        for s in stimuli
      )
    )
  )
  return decisions.readout(
    np.stack([_of_text(item) for item in items]), images, animals, whole, seed
  )


def _as_text(logits: np.ndarray) -> str:
  """Writes one stimulus's logits without loss."""
  return base64.b64encode(np.asarray(logits, '<f4').tobytes()).decode()


def _of_text(text: str) -> np.ndarray:
  """Reads what `_as_text` wrote."""
  return np.frombuffer(base64.b64decode(text), '<f4')


def common_levels(
  shown: Sequence[int],
  answered: Sequence[int] | None,
  levels: Sequence[int] | None,
) -> list[int]:
  """Says which levels are compared; none is left out in silence.

  Args:
    shown: levels of the stimuli.
    answered: levels of people's data; None without people.
    levels: those to be compared; None for all.

  Returns:
    The levels, in order.

  Raises:
    ValueError: a level is missing on one side.
  """
  sides = {'the stimuli': {*shown}}
  if answered is not None:
    sides['the human data'] = {*answered}
  wanted = set.union(*sides.values()) if levels is None else {*levels}
  if not wanted:
    raise ValueError('levels is empty: name some, or leave it out for all.')
  for side, there in sides.items():
    missing = sorted(wanted - there)
    if missing:
      names = ', '.join(map(stimulus_files.level_name, missing))
      raise ValueError(
        f'Levels {names} are missing in {side}: add them, or '
        'name by levels those that both have.'
      )
  return sorted(wanted)


def _check_targets(stimuli, levels):
  """Refuses levels at which only one answer can be right."""
  for level in levels:
    targets = {s.target for s in stimuli if s.level == level}
    if len(targets) < 2:
      raise ValueError(
        f'All stimuli of level {stimulus_files.level_name(level)} show '
        f'{targets.pop()}s: accuracy says nothing without the other target.'
      )


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
) -> Result:
  """Scores a network against people.

  Args:
    adapter: the network, see `adapters.base.Adapter`.
    folder: of stimuli, see `data.stimuli.stimulus_files`.
    human: CSV file of people's trials or accuracies, see `human_trials`; None
      for the network's curve alone.
    rule: 'split_398', 'mean_logit' or 'readout', see `decisions`.
    animal_classes: which of the network's classes are animals; None for
      ImageNet's first 398.
    classes: 'animal' or 'vehicle' by the stimuli's class, where neither folders
      nor names say it.
    levels: which are compared; None for all.
    framing: how a stimulus comes to the network's input size.
    batch_size: stimuli held at a time.
    confidence: of the intervals.
    resamples: of the bootstrap.
    seed: of bootstrap and read-out.
    journal: as in `decide`.

  Returns:
    Curves, scores and trials.

  Raises:
    ValueError: stimuli, people's data, rule and network do not fit; what and
      where is said.
  """
  choices.require('rule', rule, decisions.RULES)
  choices.require('framing', framing, FRAMINGS)
  stimuli = stimulus_files.find(folder, classes)
  people = human_trials.read(human) if human else None
  levels = common_levels([s.level for s in stimuli], _levels(people), levels)
  _check_targets(stimuli, levels)
  images = accuracy_curves.Images(
    [(s.image, s.target) for s in stimuli]
    + [(t.image, t.target) for t in getattr(people, 'trials', ())]
  )
  if rule != 'readout':  # Which learns from full images, asked for or not.
    stimuli = [s for s in stimuli if s.level in levels]
  animal = decide(
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
  model = accuracy_curves.Answers(
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
  curves, made = _compare(
    model,
    _answers(people, images, levels),
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
  return Result(curves, made, rows, settings)


def _levels(people) -> Sequence[int] | None:
  """Levels of people's data, or None."""
  if isinstance(people, human_trials.Trials):
    return [t.level for t in people.trials]
  return people and list(people.accuracy)


def _answers(people, images, levels):
  """People's answers at some levels, in the form that is resampled, or None."""
  if isinstance(people, human_trials.Trials):
    return accuracy_curves.Answers(
      [t for t in people.trials if t.level in levels], images, levels
    )
  return people and accuracy_curves.Known(people, levels)


def _counts(answered, people) -> dict[str, Any]:
  """What a score says of the data behind it."""
  if people is None:
    return {'bootstrap': 'images'}
  if isinstance(people, human_trials.Accuracies):
    known = ~np.isnan([*people.standard_error.values()])
    return {
      'bootstrap': "images; people's accuracies "
      + (
        'by their standard errors'
        if known.all()
        else 'by their standard errors, where these are known'
        if known.any()
        else 'fixed, for their standard errors are not known'
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


def _compare(model, people, images, resamples, seed, details, facts):
  """Makes the curves and scores of a network and, where given, of people."""
  rng = np.random.default_rng(seed)
  weights = images.draw(resamples, rng)
  sides = {'model': model, **({'human': people} if people else {})}
  curves, drawn = {}, {}
  for name, answers in sides.items():
    curves[name] = answers.curve(weights, facts['confidence'])
    drawn[name] = answers.resample(weights, rng)

  def score(name, value, values, **more):
    low, high, undefined = accuracy_curves.interval(values, facts['confidence'])
    return scores.Score(
      name,
      float(value),
      low=low,
      high=high,
      details={**details, 'n_undefined_resamples': undefined, **more},
      **facts,
    )

  # A network is a single participant: only images are drawn.
  made = [
    score(
      'psychophysics_accuracy',
      curves['model'].accuracy.mean(),
      drawn['model'].mean(axis=1),
      bootstrap='images',
    )
  ]
  if people:
    for name, measure in _ALIGNMENTS.items():
      made.append(
        score(
          name,
          measure(curves['human'].accuracy, curves['model'].accuracy),
          measure(drawn['human'], drawn['model']),
          people_split_half=people.split_half(measure, seed),
        )
      )
  return curves, made
