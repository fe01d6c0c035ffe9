# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Measures the agreement of people in groups of images, in several processes.

Images are measured in groups because an image is compared with the others of
its group (`ceilings.plan`). A group's result is a list that JSON can hold: the
number of the group, the rows of its images, and, if participants are excluded
in turn, the sums of `user_jackknife.measure`.
"""

from collections.abc import Callable, Mapping, Sequence
import itertools
from typing import Any

import tqdm

from official_ext.harmonization.benchmark import ceilings
from official_ext.harmonization.benchmark import journal
from official_ext.harmonization.benchmark import user_jackknife
from official_ext.harmonization.data.maps import participant_maps
from official_ext.harmonization.data.records import workers


def measure_group(
  number: int,
  reader: user_jackknife.UserMapReader,
  group: Sequence[str],
  settings: ceilings.Settings,
  users: Mapping[str, str],
) -> list[Any]:
  """Measures a group of images; runs in any process.

  Args:
    number: of the group.
    reader: of the participants' maps.
    group: names of the images.
    settings: how agreement is measured.
    users: the group of each participant for a jackknife; may be empty.

  Returns:
    The result of the group, as the docstring of the module describes it.
  """
  found = [number, ceilings.measure(reader, group, settings)]
  if users:
    found.append(user_jackknife.measure(reader, group, settings, users))
  return found


def _job(number, reader, group, settings, users, progress):
  """As `measure_group`, with the arguments of `workers.run`."""
  del progress  # A group is too short to report its progress.
  return measure_group(number, reader, group, settings, users)


def measure(
  maps: participant_maps.ParticipantMaps,
  progress: journal.Journal,
  settings: ceilings.Settings,
  users: Mapping[str, str],
  processes: int,
  with_beam: Callable[[Mapping[int, Sequence[str]]], list[list[Any]]] | None,
) -> list[dict[str, Any]]:
  """Measures the groups that are not finished.

  Args:
    maps: of the participants.
    progress: results of the finished groups, to which those of the others are
      added.
    settings: how agreement is measured.
    users: the group of each participant for a jackknife; may be empty.
    processes: number of processes.
    with_beam: measures all groups, given by their numbers, instead of these
      processes, and returns their results; or None.

  Returns:
    The rows of all images, sorted by the images' names.
  """
  groups, rows = ceilings.plan(maps, settings)
  if with_beam:
    progress.restart()
    progress.add(with_beam(dict(enumerate(groups))))
  done = {item[0] for item in progress.items}
  todo = {i: g for i, g in enumerate(groups) if i not in done}
  total = sum(map(len, groups))
  bar = tqdm.tqdm(
    total=total,
    initial=total - sum(map(len, todo.values())),
    desc='agreement',
    unit=' images',
    disable=None,
  )
  with bar:
    for item in workers.run(
      _job,
      [(i, maps, group, settings, users) for i, group in todo.items()],
      processes,
      lambda images: None,
    ):
      progress.add([item])
      bar.update(len(item[1]))
  rows += itertools.chain.from_iterable(item[1] for item in progress.items)
  return sorted(rows, key=lambda row: row['image'])


def jackknife(
  items: Sequence[list[Any]], images_by_user: Mapping[str, int]
) -> dict[str, Any]:
  """Summarizes the measurements without some participants.

  Args:
    items: results of all groups, with the sums of `user_jackknife.measure`.
    images_by_user: the number of images that each participant saw.

  Returns:
    The scores without each group of participants, and their numbers, as JSON.
  """
  # In the order of the groups, so that sums do not depend on the processes.
  ordered = sorted(items, key=lambda item: item[0])
  replicates = user_jackknife.Replicates.of([item[2] for item in ordered])
  return {
    'participants': len(images_by_user),
    'images_per_participant': sum(images_by_user.values())
    / len(images_by_user),
    'groups': len(replicates.without),
    **replicates.to_json(),
  }
