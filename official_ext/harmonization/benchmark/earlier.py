# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Moves results that are replaced to a folder, so that none is lost."""

from collections.abc import Sequence
import os
import re

import tensorflow as tf

FOLDER = 'earlier'


def move(folder: str, names: Sequence[str], date: str) -> str:
  """Moves files to a new folder below `earlier`.

  Args:
    folder: that contains the files.
    names: of the files, relative to the folder; missing ones are skipped.
    date: when the files were written, or another word, for the name of the new
      folder.

  Returns:
    The new folder.
  """
  stem = os.path.join(folder, FOLDER, re.sub(r'\D', '', date)[:14] or date)
  target, number = stem, 1
  while tf.io.gfile.exists(target):
    number += 1
    target = f'{stem}-{number}'
  for name in dict.fromkeys(names):
    source = os.path.join(folder, name)
    if tf.io.gfile.exists(source):
      tf.io.gfile.makedirs(os.path.dirname(os.path.join(target, name)))
      tf.io.gfile.rename(source, os.path.join(target, name))
  return target
