"""Names of psychophysics stimuli: what a file shows, how much of it, and where.

A stimulus is `{level}_{class}{digit}.png`, such as `40_bordercollie3.png`. The
level is 0, 10, ..., 100, a place in the table of percents, or `full`, the whole
image; human data write 200 for that. The digit numbers the images of a class.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re

import numpy as np

from official_ext.harmonization.data.maps import folders

ANIMAL, VEHICLE = TARGETS = ('animal', 'vehicle')
FULL = 200
# Level / 10 is the place in this table: 1, 1.58, ..., 63.1, 100.
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
  """One picture of the experiment.

  Attributes:
    file: its path below the folder of stimuli.
    level: 0, 10, ..., 100, or `FULL`.
    image: what it shows; the same at all levels, another one for each image.
    target: 'animal' or 'vehicle', the right answer.
  """

  file: str
  level: int
  image: str
  target: str


def percent(level: int) -> float:
  """Returns how many percent a level reveals; 100 for the full image."""
  return 100.0 if level == FULL else PERCENTS[level // 10]


def parse_level(text: str) -> int:
  """Reads a level as file names and human data write it.

  Args:
    text: '0', '10', ..., '100', 'full' or '200'.

  Returns:
    The level, `FULL` for the last two.

  Raises:
    ValueError: it is none.
  """
  text = text.strip().lower()
  # A table program turns 10 into 10.0.
  number = re.fullmatch(r'(\d+)(\.0*)?', text)
  level = FULL if text == 'full' else int(number[1]) if number else -1
  if level not in LEVELS:
    raise ValueError(
      f'{text!r} is no level: expected is one of 0, 10, ..., '
      f'100, or full (or {FULL}) for the whole image'
    )
  return level


def level_name(level: int) -> str:
  """Returns a level as file names have it."""
  return 'full' if level == FULL else str(level)


def file_name(level: int, image_class: str, digit: int) -> str:
  """Names a stimulus.

  Args:
    level: 0, 10, ..., 100 or `FULL`.
    image_class: letters, and nothing that ends in a digit.
    digit: number of the image in its class.

  Returns:
    The file's name.
  """
  return f'{level_name(level)}_{image_class}{digit}.png'


def letters(text: str) -> str:
  """Returns the letters of a text, small: '18, Border-collie', bordercollie."""
  return ''.join(c for c in text.lower() if c.isalpha())


def parse(name: str) -> tuple[int, str, str]:
  """Reads a stimulus's file name.

  Args:
    name: without its folder.

  Returns:
    Its level; its class; and its image, class and digit together.

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
  """Reads 'animal' or 'vehicle', also written as non-animal or object.

  Args:
    text: in any writing.

  Returns:
    One of `TARGETS`; '' where it is none.
  """
  word = letters(text)
  return word if word in TARGETS else _SAME.get(word, '')


def find(
  folder: str, classes: Mapping[str, str] | None = None
) -> list[Stimulus]:
  """Finds the stimuli in a folder and below.

  What is the right answer is said by `classes`, else by a folder of the path
  named animal or vehicle, else by the class's own name (animal, vehicle, or one
  of Clicktionary's ten).

  Args:
    folder: to look in.
    classes: 'animal' or 'vehicle' by class, as the file names have it.

  Returns:
    The stimuli, by image and level.

  Raises:
    ValueError: there are none, a name or its target cannot be told, or two
      files are the same stimulus.
  """
  given = {letters(name): target for name, target in (classes or {}).items()}
  found = {}
  for file, _ in folders.find(folder, ('.png',)):
    stimulus = _stimulus(folder, file, given)
    key = (stimulus.image, stimulus.level)
    if key in found:
      raise ValueError(
        f'{folder} holds {found[key].file} and {file}, which '
        'are the same stimulus: remove one of them.'
      )
    found[key] = stimulus
  if not found:
    raise ValueError(
      f'{folder} holds no stimuli, files named '
      '{level}_{class}{digit}.png: check the folder, or make '
      'them with data.make_psychophysics_stimuli.'
    )
  return [found[key] for key in sorted(found)]


def _stimulus(folder: str, file: str, given: Mapping[str, str]) -> Stimulus:
  """Reads what a path says."""
  *folders, name = file.split('/')
  try:
    level, image_class, image = parse(name)
  except ValueError as e:
    raise ValueError(
      f'{folder}/{file} is no stimulus: {e}. Keep other '
      'pictures out of this folder.'
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
      f'{folder}/{file}: whether class {image_class!r} is an animal or a '
      'vehicle is not known: put the files into folders named animal and '
      'vehicle, or give a table of classes.'
    )
  return Stimulus(file, level, image, target)


def _of_folders(folders: Sequence[str]) -> str:
  return next(filter(None, map(parse_target, reversed(folders))), '')
