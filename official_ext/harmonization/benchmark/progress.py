# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Progress with the time that remains: a bar, or a line a minute in a file."""

import datetime
import sys
import time

import tqdm

# Seconds between lines, if standard error is not a terminal.
_INTERVAL = 60.0


class Progress:
  """Counts finished items, in a with statement.

  with progress.Progress('net: clickme', ' images', total=500) as shown:
    shown.update(32)
  """

  def __init__(
    self, name: str, unit: str, total: int | None = None, initial: int = 0
  ):
    """Starts at the finished items.

    Args:
      name: of what is computed.
      unit: of the items, such as ' images'.
      total: the number of items; None if it is unknown.
      initial: the number of items that were finished before.
    """
    self._name, self._unit = name, unit.strip()
    self._total, self._initial, self._done = total, initial, initial
    self._start = self._shown = time.monotonic()
    self._bar = None
    if sys.stderr.isatty():
      self._bar = tqdm.tqdm(
        desc=name, unit=unit, total=total, initial=initial, leave=False
      )

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_):
    if self._bar:
      self._bar.close()

  def update(self, count: int):
    """Adds finished items."""
    self._done += count
    if self._bar:
      self._bar.update(count)
    elif time.monotonic() - self._shown >= _INTERVAL:
      self._shown = time.monotonic()
      print(self._line(), file=sys.stderr, flush=True)

  def _line(self) -> str:
    seconds = time.monotonic() - self._start
    text = f'{self._name}: {self._done}'
    if self._total is None:
      return f'{text} {self._unit} in {in_words(seconds)}'
    computed = self._done - self._initial
    remaining = (self._total - self._done) * seconds / max(computed, 1)
    return (
      f'{text} of {self._total} {self._unit}, {in_words(remaining)} remaining'
    )


def in_words(seconds: float) -> str:
  """Formats a time as hours, minutes and seconds, such as 0:02:05."""
  return str(datetime.timedelta(seconds=round(seconds)))
