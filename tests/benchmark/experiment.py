# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Makes psychophysics experiments and networks with given responses."""

import pathlib

import numpy as np
from PIL import Image

from official_ext.harmonization.benchmark.psychophysics import human_trials
from official_ext.harmonization.data.stimuli import stimulus_files
from official_ext.harmonization.evaluation import scores

ANIMAL_CLASS, OTHER_CLASS = 5, 700


def write_stimuli(folder, images=4, levels=stimulus_files.LEVELS):
  """Writes images of one colour, which encodes their number."""
  folder = pathlib.Path(folder)
  names = [
    (target, digit, level)
    for target in stimulus_files.TARGETS
    for digit in range(images)
    for level in levels
  ]
  for number, (target, digit, level) in enumerate(names):
    path = folder / target / stimulus_files.file_name(level, target, digit)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (9, 7), (number // 256, number % 256, 0)).save(path)
  return [
    stimulus_files.Stimulus(
      f'{target}/{stimulus_files.file_name(level, target, digit)}',
      level,
      f'{target}{digit}',
      target,
    )
    for target, digit, level in names
  ]


class FakeAdapter:
  """Has the interface of adapters, and a response for each stimulus."""

  spec = name = 'fake'
  input_size = (6, 5)
  preprocessing = 'none'

  def __init__(
    self,
    stimuli,
    is_right,
    name='fake',
    classes=1000,
    animal_class=ANIMAL_CLASS,
    other_class=OTHER_CLASS,
  ):
    """`is_right` says for each stimulus whether the response is right."""
    self.name = name
    self.num_classes = classes
    self.batches = []
    animal = [
      (s.target == stimulus_files.ANIMAL) == bool(right)
      for s, right in zip(stimuli, is_right)
    ]
    self._classes = np.where(animal, animal_class, other_class)

  def preprocess(self, images):
    assert images.shape[1:] == (*self.input_size, 3), images.shape
    assert images.dtype == np.float32
    return images

  def logits(self, inputs):
    self.batches.append(len(inputs))
    colours = inputs[:, 3, 2].astype(int)
    numbers = colours[:, 0] * 256 + colours[:, 1]
    return np.eye(self.num_classes, dtype=np.float32)[self._classes[numbers]]


def draws(stimuli, probability, rng):
  """Samples right responses; `probability` is a function of the level."""
  return [rng.random() < probability(s.level) for s in stimuli]


def write_people(path, stimuli, probability, participants, rng):
  """Writes trials in which each participant sees each stimulus once."""
  other = dict(zip(stimulus_files.TARGETS, reversed(stimulus_files.TARGETS)))
  rows = []
  for p in range(participants):
    for i, (s, right) in enumerate(
      zip(stimuli, draws(stimuli, probability, rng)), 1
    ):
      answer = s.target if right else other[s.target]
      rows.append(
        human_trials.row(f'p{p}', i, s.file, s.target, answer, str(s.level))
      )
  scores.write_rows(str(path), rows)
  return str(path)
