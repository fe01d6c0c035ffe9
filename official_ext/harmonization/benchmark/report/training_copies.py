# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Evaluated images that also occur in training records."""

from collections.abc import Mapping
from typing import Any

from official_ext.harmonization.benchmark import leakage
from official_ext.harmonization.benchmark.report import blocks


def warnings(settings: Mapping[str, Any]) -> list[str]:
  """Returns a clause if images were seen in training and are scored.

  Args:
    settings: of a protocol, with those of `leakage.Leakage` if known.
  """
  scored = settings.get('copies') and not settings.get('exclude')
  return [settings.get('training_copies', '')] if scored else []


def blocks_of(settings: Mapping[str, Any]) -> list[blocks.Block]:
  """Makes a table of the first copies.

  Args:
    settings: of a protocol, with those of `leakage.Leakage` if known.

  Returns:
    A list with the table, or an empty list if no image has a copy.
  """
  copies = [leakage.Copy(**copy) for copy in settings.get('copies') or ()]
  if not copies:
    return []
  return [
    blocks.Table(
      ['image', 'training record', 'differing bits', 'flipped'],
      [
        [
          f'{copy.file}, {copy.record}',
          f'{copy.training_file}, {copy.training_record}',
          copy.distance,
          'yes' if copy.is_flipped else 'no',
        ]
        for copy in copies
      ],
      'Evaluated images that also occur in training records: file and position '
      'from 0 of both, and the number of bits out of 256 in which their '
      f'perceptual hashes differ. {settings.get("training_copies", "")}.',
    )
  ]
