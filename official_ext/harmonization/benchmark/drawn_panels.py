# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Tracks the panels in a folder, so that only outdated ones are drawn again.

`settings.json` contains the settings of the command and, for every panel, its
identity, its date and digests of its files. A panel whose identity has changed,
or that was edited, is moved to `earlier` and drawn again.
"""

from collections.abc import Callable, Mapping, Sequence
import os
from typing import Any

import tensorflow as tf
import tqdm

from official_ext.harmonization import files
from official_ext.harmonization.benchmark import claims
from official_ext.harmonization.benchmark import earlier
from official_ext.harmonization.benchmark import identity as identity_lib

SETTINGS = 'settings.json'
_PANELS = 'panels'


class Folder:
  """A folder of panels.

  Attributes:
    used: dates of the existing panels that are current; 'unverified' for
      panels that were drawn before panels had identities.
  """

  def __init__(
    self,
    output_dir: str,
    settings: Mapping[str, Any],
    command: Callable[[dict[str, Any]], dict[str, Any]],
  ):
    """Opens or creates a folder.

    Args:
      output_dir: the folder.
      settings: of the command; must survive a round trip through JSON.
      command: returns the part of settings that must be equal for all panels of
        a folder.

    Raises:
      ValueError: the folder was made with other settings.
    """
    self._folder = output_dir
    self._path = os.path.join(output_dir, SETTINGS)
    self.used: list[str] = []
    tf.io.gfile.makedirs(output_dir)
    with claims.locked(output_dir):
      before = self._read()
      if before:
        files.require_equal(
          self._path,
          command(before),
          command(dict(settings)),
          'Choose another --output_dir, or remove this one.',
          expected='the settings of the panels in this folder',
          describe=lambda found: _in_words(found, before, settings),
        )
      self._is_old = bool(before) and _PANELS not in before
      if not before:
        files.write_json(self._path, {**settings, _PANELS: {}})

  def _read(self) -> dict[str, Any]:
    """Returns the stored settings; {} if they cannot be read."""
    if not tf.io.gfile.exists(self._path):
      return {}
    try:
      found = files.read_json(self._path)
      if isinstance(found, dict) and isinstance(found.get(_PANELS, {}), dict):
        return found
    except ValueError:
      pass
    kept = earlier.move(self._folder, [SETTINGS], 'damaged')
    tqdm.tqdm.write(
      f'{self._path}: the file is damaged; expected settings of panels. It was '
      f'moved to {kept}, and the panels are drawn again.'
    )
    return {}

  def is_current(self, panel: str, identity: Mapping[str, Any]) -> bool:
    """Checks whether a panel is up to date; moves it to `earlier` if not.

    Args:
      panel: name of the panel's file.
      identity: of the panel if it were drawn now.

    Returns:
      Whether the panel exists, is unmodified and has this identity.
    """
    exists = tf.io.gfile.exists(os.path.join(self._folder, panel))
    if self._is_old and exists:
      self.used.append('unverified')
      return True
    drawn = self._read().get(_PANELS, {}).get(panel)
    if not drawn and not exists:
      return False
    try:
      reason = identity_lib.differences(drawn['identity'], identity)
      changed = [
        name
        for name, digest in drawn['files'].items()
        if self._digest(name) != digest
      ]
      names, date = [panel, *drawn['files']], str(drawn['created'])
    except (AttributeError, KeyError, TypeError):
      reason, changed = f'{SETTINGS} does not describe it', []
      names, date = [panel], 'unknown'
    if not reason and changed:
      reason = f'{changed[0]} was edited or removed'
    if not reason:
      self.used.append(identity_lib.date(date))
      return True
    kept = earlier.move(self._folder, names, date)
    tqdm.tqdm.write(
      f'{panel} is drawn again: {reason}. The earlier files are in {kept}.'
    )
    return False

  def add(
    self,
    panel: str,
    identity: Mapping[str, Any],
    names: Sequence[str],
    **facts: Any,
  ):
    """Records a panel that was drawn.

    Args:
      panel: name of the panel's file.
      identity: of the panel.
      names: paths below the folder of all files that belong to the panel.
      **facts: stored with the panel.
    """
    with claims.locked(self._folder):
      settings = self._read()
      settings.setdefault(_PANELS, {})[panel] = {
        'identity': identity,
        'created': identity_lib.now(),
        'files': {name: self._digest(name) for name in names},
        **facts,
      }
      files.write_json(self._path, settings)

  def _digest(self, name: str) -> str:
    try:
      with tf.io.gfile.GFile(os.path.join(self._folder, name), 'rb') as f:
        return identity_lib.sha256(f.read())
    except tf.errors.NotFoundError:
      return ''


def _in_words(
  different: Mapping[str, tuple],
  before: Mapping[str, Any],
  settings: Mapping[str, Any],
) -> str:
  """Describes the differences, including which images were added or removed."""
  different = dict(different)
  count = different.pop('images_found', None)
  parts = []
  if different.pop('names_sha256', None) or count:
    old, new = (
      dict.fromkeys(s.get('names') or (), True) for s in (before, settings)
    )
    changes = files.differences(old, new)
    # Settings written before they held the names have none to compare.
    known = changes if before.get('names') else {}
    parts = [
      'the images have changed ('
      + (
        files.changed_names(known)
        if known
        else f'{count[0]} before, {count[1]} now'
        if count
        else 'equally many, with other names'
      )
      + ')'
    ]
  return '; '.join(parts + [files.in_words(different)] * bool(different))


def origin(used: Sequence[str]) -> str:
  """Describes the panels that were not drawn by this run.

  Args:
    used: the attribute of a `Folder`.

  Returns:
    One or two sentences, or ''.
  """
  dates = sorted({*used} - {'unverified'})
  parts = []
  if dates:
    span = dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'
    number = len(used) - used.count('unverified')
    parts.append(
      f'{number} of the panels {"is" if number == 1 else "are"} '
      f'from an earlier run of {span}.'
    )
  if 'unverified' in used:
    parts.append(
      f'{used.count("unverified")} of the panels are from an earlier version '
      'and unverified, because their identities were not recorded. Remove the '
      'folder, or choose another one, to draw them again.'
    )
  return ' '.join(parts)
