# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Clicktionary: ClickMe's protocol on Clicktionary's records."""

from collections.abc import Container, Iterator, Sequence

import typing_extensions

from official_ext.harmonization.benchmark import protocol
from official_ext.harmonization.benchmark.protocols import clickme


class ClicktionaryProtocol(clickme.ClickMeProtocol):
  """ClickMe's protocol on Clicktionary's records."""

  name = 'clicktionary'
  label = 'Clicktionary'
  title = 'Clicktionary: where people look'
  headlines = ('specific', 'shuffled', 'spearman')
  pictures = ('clicktionary_ceilings.png',)

  @classmethod
  @typing_extensions.override
  def all_from_options(
    cls, options: clickme.ClickMeOptions, run: protocol.RunOptions
  ) -> list[clickme.ClickMeProtocol]:
    offset = options.clicktionary_label_offset
    return cls._make(
      options,
      run,
      options.clicktionary,
      map_decoder=options.clicktionary_map_decoder or options.map_decoder,
      label_offset=options.label_offset if offset is None else offset,
      ceiling=options.clicktionary_ceiling,
      ceilings=options.clicktionary_ceilings,
    )

  @classmethod
  @typing_extensions.override
  def flags_without_effect(
    cls, options: clickme.ClickMeOptions, measured: Container[str]
  ) -> Iterator[tuple[str, Sequence[str]]]:
    if cls.name not in measured:
      yield (
        'without --clicktionary',
        (
          'clicktionary_map_decoder',
          'clicktionary_label_offset',
          'clicktionary_ceiling',
          'clicktionary_ceilings',
        ),
      )
