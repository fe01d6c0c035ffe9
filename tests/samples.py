"""Real pairs of image and human map, which are not part of this project."""

from collections.abc import Iterator
import os
import unittest

FOLDER = os.environ.get(
  'CLICKME_SAMPLES',
  os.path.join(
    os.path.dirname(os.path.dirname(os.path.realpath(__file__))),
    '..',
    'shared',
    'clickme_samples',
  ),
)


def pairs() -> Iterator[tuple[str, bytes, bytes]]:
  """Yields (name, image, map) as PNGs, or skips where they are not there."""
  if not os.path.isdir(FOLDER):
    raise unittest.SkipTest(
      f'{FOLDER} is not there: it holds pairs that are not ours to license. '
      'CLICKME_SAMPLES says where else.'
    )
  for file in sorted(os.listdir(FOLDER)):
    if file.endswith('_image.png'):
      name = file[: -len('_image.png')]
      contents = []
      for kind in ('image', 'map'):
        with open(os.path.join(FOLDER, f'{name}_{kind}.png'), 'rb') as f:
          contents.append(f.read())
      yield name, *contents
