# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests stress/long_run.py on a small run."""

# Bazel: tags = ["training"]

import collections
import gc
import json
import os

import tensorflow as tf

from stress import long_run
from tests import tiny_run


class LongRunTest(tf.test.TestCase):
  def test_nothing_is_traced_again_and_the_disk_is_bounded(self):
    model_dir = os.path.join(self.get_temp_dir(), 'run')
    output = os.path.join(self.get_temp_dir(), 'lines.jsonl')
    meter = long_run.Meter(model_dir, output)
    tensors = []

    def count_tensors(_):
      gc.collect()
      counts = collections.Counter(map(type, gc.get_objects()))
      kinds = (tf.Tensor, tf.Variable)
      tensors.append(sum(n for t, n in counts.items() if issubclass(t, kinds)))

    run = tiny_run.make_runner(
      model_dir,
      {'train_steps': 80, 'validation_interval': 8, 'max_to_keep': 2},
      mode='train_and_eval',
      train_actions=[meter, count_tensors],
    )
    meter.watch(run.trainer)
    # Only objects that the run makes are looked at, twenty times.
    gc.collect()
    gc.freeze()
    self.addCleanup(gc.unfreeze)
    run.run()
    with open(output) as f:
      found = long_run.summary([json.loads(line) for line in f])
    self.assertEqual(found['steps'], 80)
    self.assertEqual(found['traces_at_the_end'], found['traces_at_a_fifth'])
    self.assertGreater(min(found['traces_at_the_end'].values()), 0)
    self.assertEqual(found['checkpoints_at_most'], 2)
    self.assertGreater(found['checkpoint_megabytes_at_most'], 0.0)
    # A leak of one tensor per loop would show in this count. The memory of the
    # process, which also depends on the allocator, only bounds larger leaks.
    warm = len(tensors) // 5
    self.assertLen(tensors, 20)
    self.assertEqual(tensors[warm:], [tensors[warm]] * (len(tensors) - warm))
    self.assertLess(
      found['megabytes_at_most'] - found['megabytes_at_a_fifth'], 50.0
    )


if __name__ == '__main__':
  tf.test.main()
