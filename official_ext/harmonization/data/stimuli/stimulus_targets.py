# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Assigns classes of images to the two answers, animal and vehicle."""

from collections.abc import Sequence

from official_ext.harmonization.data.stimuli import stimulus_files


class Targets:
  """Which classes are animals, and which are vehicles."""

  def __init__(
    self,
    animals: Sequence[str],
    vehicles: Sequence[str],
    names: Sequence[str] = (),
  ):
    """Initializes the targets.

    Args:
      animals: names, numbers or ranges of classes.
      vehicles: names, numbers or ranges; empty for all other classes. If both
        are empty, classes must be named animal and vehicle.
      names: names of the classes by number; may be empty.

    Raises:
      ValueError: no class is an animal, a name is unknown, or a class is both.
    """
    self._names = list(names)
    if not animals and not vehicles:
      animals, vehicles = (
        [n for n in names if stimulus_files.parse_target(n) == target]
        for target in stimulus_files.TARGETS
      )
    self._animals = self._numbers('animal_classes', animals)
    self._vehicles = self._numbers('vehicle_classes', vehicles)
    if not self._animals:
      raise ValueError(
        '--animal_classes is missing, and no class is named animal. Give '
        "0-397 for ImageNet's labels 0..999, or the names of folders."
      )
    both = self._animals & self._vehicles
    if both:
      raise ValueError(
        f'The classes {sorted(both)} are in --animal_classes and in '
        '--vehicle_classes; expected each in one flag. Remove them from one.'
      )

  def _numbers(self, flag: str, classes: Sequence[str]) -> set[int]:
    """Returns the numbers of classes given by name, number or range."""
    numbers = set()
    for text in map(str.strip, classes):
      low, _, high = text.partition('-')
      if text in self._names:
        numbers.add(self._names.index(text))
      elif low.isdecimal() and (not high or high.isdecimal()):
        if high and int(high) < int(low):
          raise ValueError(
            f'--{flag} holds {text}, a range that ends before it begins; '
            f'expected the smaller number first. Give {high}-{low}.'
          )
        numbers.update(range(int(low), int(high or low) + 1))
      else:
        raise ValueError(
          f'--{flag} holds {text!r}; expected a number, a range (0-397) or one '
          f'of the names {self._names}.'
        )
    return numbers

  def of(self, label: int) -> str:
    """Returns 'animal', 'vehicle', or '' for neither."""
    if label in self._animals:
      return stimulus_files.ANIMAL
    if label in self._vehicles or not self._vehicles:
      return stimulus_files.VEHICLE
    return ''

  def image_class(self, label: int) -> str:
    """Returns the letters of a class's name, or of its target without one."""
    name = self._names[label] if label < len(self._names) else ''
    return stimulus_files.letters(name) or self.of(label)
