# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Agreement between people measured again without some of the participants.

Participants who saw several images make these images dependent. A jackknife
shows the uncertainty that comes from the choice of participants: all means are
computed again without each participant, or, for more than a given number of
participants, without each of as many random groups of them.

  groups = user_jackknife.assign(images_by_user, 50)
  sums = user_jackknife.measure(reader, images, settings, groups)
  user_jackknife.Replicates.of([sums])
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, Protocol
import zlib

import numpy as np

from official_ext.harmonization.benchmark import ceilings
from official_ext.harmonization.benchmark import participant_agreement

# Splits of an image's participants. They are the same with and without a group,
# so that few are enough for the difference.
_SPLITS = 10
# Key of the sums over all participants.
_ALL = ''

# Sum over images and number of images, by group of participants and measure.
Sums = dict[str, dict[str, tuple[float, int]]]


class UserMapReader(ceilings.MapReader, Protocol):
  """Reads the raw maps of each image, and whose they are."""

  def users(self, name: str) -> Sequence[str]:
    """Returns the participants, in the order of an image's maps."""
    ...


def assign(images_by_user: Mapping[str, int], most: int) -> dict[str, str]:
  """Divides participants into groups that are excluded together.

  Args:
    images_by_user: number of images that each participant saw.
    most: largest number of groups.

  Returns:
    The group of each participant, each their own where there are at most
    `most`; empty if nobody saw more than one image.
  """
  if max(images_by_user.values(), default=0) < 2:
    return {}
  # The order depends on the names only, and not on their alphabetical order.
  users = sorted(images_by_user, key=lambda u: (zlib.crc32(u.encode()), u))
  return {user: str(i % most) for i, user in enumerate(users)}


def measure(
  reader: UserMapReader,
  images: Sequence[str],
  settings: ceilings.Settings,
  groups: Mapping[str, str],
) -> Sums:
  """Measures agreement on images without each group of participants.

  Args:
    reader: of the maps.
    images: from `ceilings.plan`; the other images for the floors.
    settings: how agreement is measured.
    groups: from `assign`.

  Returns:
    Sums over the images, by group of those that saw one of the images, and with
    the key '' of all participants.
  """
  agreements = []
  for name in images:
    users = [groups.get(user, _ALL) for user in reader.users(name)]
    keep = {_ALL: np.ones(len(users), bool)}
    for group in sorted(set(users) - {_ALL}):
      keep[group] = np.array([user != group for user in users])
    made = participant_agreement.agreements(
      reader.maps(name),
      iterations=min(_SPLITS, settings.iterations),
      resample=settings.resample,
      seed=ceilings.seed_of(name, settings),
      keep=list(keep.values()),
    )
    agreements.append(dict(zip(keep, made)))
  found: Sums = {}
  for group in sorted(set().union(*agreements)):
    rows = ceilings.rows_of(
      [(name, 0) for name in images],
      [a.get(group, a[_ALL]) for a in agreements],
    )
    found[group] = {
      measured: _sum([row[measured] for row in rows])
      for measured in ceilings.MEASURES
    }
  return found


def _sum(values: Sequence[float]) -> tuple[float, int]:
  defined = [v for v in values if not math.isnan(v)]
  return math.fsum(defined), len(defined)


@dataclasses.dataclass(frozen=True)
class Replicates:
  """Means over images without each group of participants.

  Attributes:
    everyone: the means with all participants, by measure; from as few splits as
      the others.
    without: the means, by group and measure.
  """

  everyone: dict[str, float]
  without: dict[str, dict[str, float]]

  @classmethod
  def of(cls, parts: Sequence[Sums]) -> 'Replicates':
    """Combines the sums over parts of the images."""

    def means(group: str) -> dict[str, float]:
      # Nothing changes where nobody of the group saw an image.
      chosen = [part.get(group, part[_ALL]) for part in parts]
      found = {}
      for measured in ceilings.MEASURES:
        total, count = map(sum, zip(*(sums[measured] for sums in chosen)))
        found[measured] = total / count if count else math.nan
      return found

    groups = sorted(set().union(*parts) - {_ALL}, key=int)
    return cls(means(_ALL), {group: means(group) for group in groups})

  def to_json(self) -> dict[str, Any]:
    """Returns the values in JSON's types."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, content: Mapping[str, Any]) -> 'Replicates':
    """Returns what `to_json` wrote; null becomes NaN."""

    def numbers(means):
      return {k: math.nan if v is None else float(v) for k, v in means.items()}

    return cls(
      numbers(content['everyone']),
      {group: numbers(m) for group, m in content['without'].items()},
    )
