"""The size that images are given to a network in."""

from collections.abc import Sequence


def parse(value: str) -> tuple[int, int]:
  """Parses the option `input_size`.

  Args:
    value: '224' or '224x320', height first.

  Returns:
    Height and width.

  Raises:
    ValueError: it is neither.
  """
  parts = value.split('x')
  if len(parts) > 2 or not all(p.isdigit() and int(p) > 0 for p in parts):
    raise ValueError(
      f'{value!r} is no size: write 224, or 224x320, height first'
    )
  return int(parts[0]), int(parts[-1])


def choose(
  spec: str, own: Sequence[int | None], chosen: tuple[int, int] | None
) -> tuple[int, int]:
  """Says at which size a network is evaluated.

  Args:
    spec: as the user wrote it, for errors.
    own: height and width that the network takes, None where it takes any.
    chosen: what the user asked for, if anything.

  Returns:
    Height and width.

  Raises:
    ValueError: the network does not take images of that size, or takes any and
      none was chosen.
  """
  size = tuple(chosen or own)
  if None in size:
    raise ValueError(
      f'{spec}: it takes images of any size: write '
      '?input_size=224, or what it was trained with.'
    )
  if any(o not in (None, s) for o, s in zip(own, size)):
    raise ValueError(
      f'{spec}: input_size={size[0]}x{size[1]}, but it takes '
      f'images of {own[0]}x{own[1]} pixels alone.'
    )
  return size
