# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Pairs of image and human map from ClickMe, which this project may not ship.

Tests use them when CLICKME_SAMPLES names a folder with files
<name>_image.png and <name>_map.png.
"""

from collections.abc import Iterator
import os
import unittest


def folder() -> str:
  """Returns the folder of the pairs.

  Raises:
    unittest.SkipTest: CLICKME_SAMPLES is not set.
  """
  path = os.environ.get('CLICKME_SAMPLES')
  if not path:
    raise unittest.SkipTest(
      'CLICKME_SAMPLES is not set. Set it to a folder of pairs '
      '<name>_image.png and <name>_map.png.'
    )
  return path


def pairs() -> Iterator[tuple[str, bytes, bytes]]:
  """Yields (name, image, map), where image and map are encoded PNGs.

  Raises:
    unittest.SkipTest: CLICKME_SAMPLES is not set.
  """
  for file in sorted(os.listdir(folder())):
    if file.endswith('_image.png'):
      name = file[: -len('_image.png')]
      contents = []
      for kind in ('image', 'map'):
        with open(os.path.join(folder(), f'{name}_{kind}.png'), 'rb') as f:
          contents.append(f.read())
      yield name, *contents
