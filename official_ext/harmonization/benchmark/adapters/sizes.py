# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""The height and width of the images that a network is given."""

from collections.abc import Sequence


class Unavailable(ValueError):
  """A network does not accept an input size; the message says why."""


def parse(value: str) -> tuple[int, int]:
  """Parses the option `input_size`.

  Args:
    value: such as '224' or '224x320', height first.

  Returns:
    Height and width in pixels.

  Raises:
    ValueError: the value has another form.
  """
  parts = value.split('x')
  if len(parts) > 2 or not all(p.isdigit() and int(p) > 0 for p in parts):
    raise ValueError(
      f'{value!r} is not a size; expected 224, or 224x320, height first'
    )
  return int(parts[0]), int(parts[-1])


def text(size: Sequence[int]) -> str:
  """Returns the shortest text that `parse` reads as a size."""
  height, width = size
  return str(height) if height == width else f'{height}x{width}'


def choose(
  spec: str, own: Sequence[int | None], chosen: tuple[int, int] | None
) -> tuple[int, int]:
  """Returns the size at which a network is evaluated.

  Args:
    spec: for error messages.
    own: height and width that the network accepts; None if it accepts any.
    chosen: the option input_size, or None.

  Returns:
    Height and width in pixels.

  Raises:
    ValueError: the network does not accept the chosen size, or it accepts any
      and none was chosen.
  """
  height, width = chosen or own
  if height is None or width is None:
    raise ValueError(
      f'{spec}: the network accepts images of any size; expected '
      '?input_size=224, or the size it was trained with.'
    )
  if own[0] not in (None, height) or own[1] not in (None, width):
    raise ValueError(
      f'{spec}: input_size is {height}x{width}, but the network accepts '
      f'only images of {own[0]}x{own[1]} pixels.'
    )
  return height, width
