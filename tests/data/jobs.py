# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Work for `workers_test`, in a module that starts fast: no TensorFlow."""

import os
import pathlib
import sys
import time

from official_ext.harmonization.data.records import workers


def square(number, progress):
  progress(number)
  return number**2


def fail(number, progress):
  if number == 2:
    raise ValueError(f'job {number} failed')
  return square(number, progress)


def die(number, progress):
  if number == 2:
    os._exit(9)
  return square(number, progress)


def wait(folder, seconds, progress):
  """Leaves its process's id in a folder, and waits for another process."""
  pathlib.Path(folder, str(os.getpid())).touch()
  while len(os.listdir(folder)) < 2:
    time.sleep(0.01)
  time.sleep(seconds)


def main():
  """Waits in two workers, one of which is soon idle."""
  for _ in workers.run(
    wait, [(sys.argv[1], 0.0), (sys.argv[1], 60.0)], 2, print
  ):
    pass


if __name__ == '__main__':
  main()
