# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""A build of small records, in a module that worker processes load fast."""

import time

from official_ext.harmonization.data.records import output_folder
from official_ext.harmonization.data.records import shard_builder


class Numbers:
  """Makes records of numbers, slowly."""

  def __init__(self, seconds):
    self._seconds = seconds

  def __call__(self, numbers):
    for i in numbers:
      time.sleep(self._seconds)
      yield shard_builder.RecordOutcome(
        str(i), record=bytes(1000) + b'%d' % i, label=i % 3
      )


def build(directory, seconds, processes):
  """Builds six shards, in processes that note who they are."""
  jobs = {
    name: range(20 * i, 20 * i + 20)
    for i, name in enumerate(shard_builder.names('train', 6))
  }
  with output_folder.alone(directory):
    output_folder.claim(directory, jobs, {'seed': 0})
    shard_builder.build(
      directory, jobs, Numbers(seconds), processes, {name: 20 for name in jobs}
    )
    return shard_builder.finish(directory, list(jobs), 'a test')
