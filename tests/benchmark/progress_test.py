# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tests of the progress of a measurement."""

import contextlib
import io
from unittest import mock

from absl.testing import absltest

from official_ext.harmonization.benchmark import progress


class ProgressTest(absltest.TestCase):
  def _lines(self, total, times):
    """Returns what 10 images after each number of seconds print to a file."""
    written = io.StringIO()
    with mock.patch.object(progress.time, 'monotonic') as clock:
      clock.return_value = 0.0
      with contextlib.redirect_stderr(written):
        with progress.Progress('net', ' images', total, initial=20) as shown:
          for seconds in times:
            clock.return_value = seconds
            shown.update(10)
    return written.getvalue().splitlines()

  def test_a_line_a_minute_with_the_time_that_remains(self):
    # 30 images took 90 s, so that 50 take 150 s.
    self.assertEqual(
      self._lines(100, [10.0, 50.0, 90.0, 100.0]),
      ['net: 50 of 100 images, 0:02:30 remaining'],
    )

  def test_without_a_total(self):
    self.assertEqual(
      self._lines(None, [61.0, 62.0, 130.0]),
      ['net: 30 images in 0:01:01', 'net: 50 images in 0:02:10'],
    )


if __name__ == '__main__':
  absltest.main()
