# Copyright The official-ext-harmonization authors.
# SPDX-License-Identifier: Apache-2.0

"""Record formats of images with human maps, by name."""

from collections.abc import Callable
from typing import Any

from etils import epy

from official_ext.harmonization import choices

with epy.lazy_imports():
  from official_ext.harmonization.dataloaders import canonical_decoder
  from official_ext.harmonization.dataloaders import clickme_decoder
  from official_ext.harmonization.dataloaders import raw_decoder

# Functions, because the names of the formats must not import the decoders.
_DECODERS: dict[str, Callable[..., Any]] = {
  'canonical': lambda: canonical_decoder.Decoder(),
  'clickme': lambda: clickme_decoder.Decoder(),
}

# Formats of raw pixels, which do not record the value of white.
_RAW_DECODERS: dict[str, Callable[..., Any]] = {
  'clickme_2018': lambda image_max: raw_decoder.Decoder(
    side=256, image_max=image_max
  ),
  'clickme_per_category': lambda image_max: raw_decoder.Decoder(
    side=224, image_max=image_max
  ),
}


def names() -> list[str]:
  """Returns the names of the known formats."""
  return sorted({**_DECODERS, **_RAW_DECODERS})


def is_raw(name: str) -> bool:
  """Whether a format's pixels are raw, so that the user sets their maximum."""
  return name in _RAW_DECODERS


def map_resize(name: str, chosen: str | None = None) -> str:
  """Returns how maps of a format are resized.

  Args:
    name: name of the format.
    chosen: one of `ops.blur.RESIZES`, or None for the format's default.

  Returns:
    `chosen`, if it is set. The defaults are 'antialias' for canonical records
    and 'released' for the release's formats, whose published scores depend on
    it.
  """
  return chosen or ('antialias' if name == 'canonical' else 'released')


def get_decoder(name: str, raw_image_max: float = 255.0) -> Any:
  """Returns the decoder of a format.

  Args:
    name: one of `names()`.
    raw_image_max: the value of white, if `is_raw(name)`.

  Returns:
    A decoder with the interface of `clickme_decoder.Decoder`.

  Raises:
    ValueError: the format is unknown.
  """
  if is_raw(name):
    return _RAW_DECODERS[name](image_max=raw_image_max)
  choices.require('map_decoder', name, names())
  return _DECODERS[name]()
