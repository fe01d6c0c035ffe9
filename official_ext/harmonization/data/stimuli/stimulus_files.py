# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Names and finds the files of psychophysics stimuli.

A stimulus is `{level}_{class}{digit}.png`, such as `40_bordercollie3.png`. The
level is 0, 10, ..., 100, ten times an index of the table of percents, or `full`
for the whole image, which human data call 200. The digit numbers the images of
a class.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re

import numpy as np

from official_ext.harmonization.data.maps import folders

ANIMAL, VEHICLE = TARGETS = ('animal', 'vehicle')
FULL = 200
# Level / 10 is the index in this table: 1, 1.58, ..., 63.1, 100.
PERCENTS = tuple(np.logspace(0, 2, 11).tolist())
LEVELS = (*range(0, 101, 10), FULL)

_NAME = re.compile(r'(?P<level>\d+|full)_(?P<class>.*\D)(?P<digit>\d+)\.png')
_SAME = {'nonanimal': VEHICLE, 'object': VEHICLE, 'vehicule': VEHICLE}
# The ten classes of Clicktionary's first experiment, see docs/psychophysics.md.
_KNOWN = {
  **{
    name: ANIMAL
    for name in (
      'baldeagle',
      'bordercollie',
      'greatwhiteshark',
      'panther',
      'sorrel',
    )
  },
  **{
    name: VEHICLE
    for name in (
      'airliner',
      'schoolbus',
      'speedboat',
      'sportscar',
      'trailertruck',
    )
  },
}


@dataclasses.dataclass(frozen=True)
class Stimulus:
  """One stimulus.

  Attributes:
    file: its path below the folder of stimuli.
    level: 0, 10, ..., 100, or `FULL`.
    image: class and digit of the image that it shows, at any level.
    target: the correct answer, 'animal' or 'vehicle'.
  """

  file: str
  level: int
  image: str
  target: str


def percent(level: int) -> float:
  """Returns the percentage that a level reveals; 100 for the full image."""
  return 100.0 if level == FULL else PERCENTS[level // 10]


def parse_level(text: str) -> int:
  """Parses a level in a file name or in human data.

  Args:
    text: '0', '10', ..., '100', 'full' or '200'.

  Returns:
    The level; `FULL` for the last two.

  Raises:
    ValueError: the text is another.
  """
  text = text.strip().lower()
  # Spreadsheets turn 10 into 10.0.
  number = re.fullmatch(r'(\d+)(\.0*)?', text)
  level = FULL if text == 'full' else int(number[1]) if number else -1
  if level not in LEVELS:
    raise ValueError(
      f'{text!r} is not a level; expected one of 0, 10, ..., 100, or full '
      f'(or {FULL}) for the whole image'
    )
  return level


def level_name(level: int) -> str:
  """Returns a level as it is written in file names."""
  return 'full' if level == FULL else str(level)


def file_name(level: int, image_class: str, digit: int) -> str:
  """Returns the file name of a stimulus.

  Args:
    level: 0, 10, ..., 100 or `FULL`.
    image_class: name of the class, which does not end in a digit.
    digit: number of the image in its class.
  """
  return f'{level_name(level)}_{image_class}{digit}.png'


def letters(text: str) -> str:
  """Returns the letters in lower case: bordercollie for 18, Border-collie."""
  return ''.join(c for c in text.lower() if c.isalpha())


def parse(name: str) -> tuple[int, str, str]:
  """Parses the file name of a stimulus.

  Args:
    name: without folder.

  Returns:
    The level, the class, and the class with the digit.

  Raises:
    ValueError: it is not the name of a stimulus.
  """
  match = _NAME.fullmatch(name)
  if not match:
    raise ValueError('its name is not {level}_{class}{digit}.png')
  return (
    parse_level(match['level']),
    match['class'],
    match['class'] + match['digit'],
  )


def parse_target(text: str) -> str:
  """Parses a target: animal; or vehicle, non-animal or object.

  Args:
    text: in any spelling.

  Returns:
    One of `TARGETS`, or '' for any other text.
  """
  word = letters(text)
  return word if word in TARGETS else _SAME.get(word, '')


def find(
  folder: str, classes: Mapping[str, str] | None = None
) -> list[Stimulus]:
  """Finds the stimuli in a folder and below.

  The correct answer is taken from `classes`; otherwise from a folder named
  animal or vehicle in the path; otherwise from the name of the class (animal,
  vehicle, or one of Clicktionary's ten).

  Args:
    folder: to search.
    classes: 'animal' or 'vehicle' by class, spelled as in the file names.

  Returns:
    The stimuli, sorted by image and level.

  Raises:
    ValueError: the folder has no stimuli, a name or its target is unknown, or
      two files are the same stimulus.
  """
  given = {letters(name): target for name, target in (classes or {}).items()}
  found = {}
  for file, _ in folders.find(folder, ('.png',)):
    stimulus = _stimulus(folder, file, given)
    key = (stimulus.image, stimulus.level)
    if key in found:
      raise ValueError(
        f'{folder} holds {found[key].file} and {file}, which are the same '
        'stimulus; expected one file. Remove one of them.'
      )
    found[key] = stimulus
  if not found:
    raise ValueError(
      f'{folder} holds no stimuli; expected files named '
      '{level}_{class}{digit}.png. Check the folder, or make them with '
      'data.make_psychophysics_stimuli.'
    )
  return [found[key] for key in sorted(found)]


def _stimulus(folder: str, file: str, given: Mapping[str, str]) -> Stimulus:
  """Parses the path of a stimulus."""
  *folders, name = file.split('/')
  try:
    level, image_class, image = parse(name)
  except ValueError as e:
    raise ValueError(
      f'{folder}/{file} is not a stimulus: {e}. Move other images to another '
      'folder.'
    ) from None
  word = letters(image_class)
  target = (
    given.get(word)
    or _of_folders(folders)
    or parse_target(image_class)
    or _KNOWN.get(word)
  )
  if not target:
    raise ValueError(
      f'{folder}/{file}: the class {image_class!r} is unknown; expected an '
      'animal or a vehicle. Put the files into folders named animal and '
      'vehicle, or give a table of classes.'
    )
  return Stimulus(file, level, image, target)


def _of_folders(folders: Sequence[str]) -> str:
  return next(filter(None, map(parse_target, reversed(folders))), '')
