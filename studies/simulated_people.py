# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Draws clicks of simulated participants from a network's map.

A participant clicks on a pixel with a probability that is proportional to the
positive part of the map, so that the participants see as the network does. The
clicks become a human map by the tools that read the clicks of people.

  maps = simulated_people.human_maps(importance, (2, 10), clicks=30, seed=0)
  maps[10]  # float64 (256, 256): the map of ten participants
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from official_ext.harmonization.data.maps import clicks as clicks_lib
from official_ext.harmonization.data.maps import map_options

# Height and width of the frame in which people click, as in ClickMe 2.0.
FRAME = 256


def human_maps(
  importance: np.ndarray,
  participants: Sequence[int],
  *,
  clicks: float,
  seed: Any,
) -> dict[int, np.ndarray] | None:
  """Draws the clicks on one image and makes maps of them.

  Args:
    importance: (h, w), the map of the network that the participants see as.
    participants: numbers of participants; a larger group contains the smaller
      ones.
    clicks: mean number of clicks of a participant, with Poisson's distribution,
      and at least one.
    seed: of the clicks.

  Returns:
    By number of participants, the map, float64 (FRAME, FRAME); None if no pixel
    of `importance` is positive, or a pixel is not finite.
  """
  height, width = importance.shape
  weights = np.maximum(np.asarray(importance, np.float64), 0).ravel()
  total = weights.sum()
  if not (np.isfinite(total) and total > 0):
    return None
  rng = np.random.default_rng(seed)
  rows = []
  for user in range(max(participants)):
    number = max(1, rng.poisson(clicks))
    y, x = np.divmod(rng.choice(len(weights), number, p=weights / total), width)
    # Somewhere in the pixel, which covers several of the frame.
    x = (x + rng.random(number)) * FRAME / width
    y = (y + rng.random(number)) * FRAME / height
    rows.append(clicks_lib.ParticipantClicks(str(user), (x, y)))
  every = map_options.ClickFilter(min_participants=1)
  found = {}
  for number in participants:
    made = clicks_lib.click_map(rows[:number], FRAME, FRAME, every)
    assert made.values is not None
    found[number] = made.values
  return found
